"""How much disk a store may take: whether there is room for another write, and what was read when.

Sessions are evicted by the worker (`sync.evict`). Here is what an agent's calls have to do with it: next to nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from localfirst.errors import LocalFirstError, RemoteUnavailable, StoreBusy, StoreFull
from localfirst.log import Log
from localfirst.records import SessionKey

FILLING: Final = 0.8
"""Of the limit: from here on sessions are evicted; if none can be, that is told."""
AT_EASE: Final = 0.75
"""Down to which they are."""
LOG: Final = 0.25
"""What the write-ahead log may take of it, where there is no more room."""
_LOOK_SECONDS: Final = 0.2
_LOOK_WRITES: Final = 100
_NOTE_SECONDS: Final = 600.0
_MOST_NOTED: Final = 10_000


class Evicted(RemoteUnavailable):
    """The session was evicted from this disk, and could not be fetched; nothing is lost."""


class Room:
    """What is left of a limit on the disk space of a directory."""

    def __init__(self, log: Log, limit: int, tell: Callable[[int, int], None]) -> None:
        self.limit = limit
        self.makes_room: Callable[[], bool] = lambda: False
        """Whether sessions can be evicted, as far as is known here."""
        self._log = log
        self._tell = tell
        self._look_at = 0.0
        self._size = self._writes = 0
        self._full = self._told = False
        self._noted: dict[SessionKey, float] = {}

    def check(self) -> None:
        """Raise `StoreFull` if no more may be written. Until then, looks at the disk now and then only."""
        now = time.monotonic()
        self._writes += 1
        if self._full or now >= self._look_at or self._writes >= _LOOK_WRITES:
            self._look_at, self._writes = now + _LOOK_SECONDS, 0
            with suppress(StoreBusy):
                self._look()
        if self._full:
            raise StoreFull(
                f"{self._log.rows.directory} takes {self._size} bytes, its size_limit is {self.limit}, and no session"
                " can be evicted now; nothing of this call was stored: let it sync, delete sessions, or raise the limit"
            )

    def _look(self) -> None:
        rows = self._log.rows
        self._size = rows.disk_bytes()
        tight = self._size > FILLING * self.limit and not self.makes_room()
        if tight and rows.wal_bytes() > LOG * self.limit:
            rows.shrink()
            self._size = rows.disk_bytes()
            tight = self._size > FILLING * self.limit
        self._full = tight and self._size > self.limit
        told, self._told = self._told, tight or (self._told and self._size > AT_EASE * self.limit)
        if tight and not told:
            self._tell(self._size, self.limit)

    def used(self, key: SessionKey) -> None:
        """A session was read: noted on disk once in ten minutes, for what is used least is evicted first."""
        now = time.monotonic()
        if now < self._noted.get(key, 0.0):
            return
        if len(self._noted) >= _MOST_NOTED:
            self._noted.clear()
        self._noted[key] = now + _NOTE_SECONDS
        with suppress(LocalFirstError):  # Whoever reads needs no disk that can be written.
            self._log.use(key)
