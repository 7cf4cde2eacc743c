"""How sync stands, as the process that leads knows it, and as it tells the others on the same directory."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import Literal

import msgspec

from localfirst.errors import LocalFirstError, RemoteUnavailable
from localfirst.private import open_private
from localfirst.status import State
from sync.leader import file_stem

WorkerState = Literal["standby", "turning", "idle", "backing off", "blocked", "ended"]
"""Of the machine in `docs/worker.md`."""


class SyncStatus(msgspec.Struct):
    """The part of `StoreStatus` that only a worker knows."""

    state: State
    last_error: str | None = None
    last_synced_at: float | None = None
    """Unix time."""
    clock_offset: float | None = None
    """Seconds."""
    quarantined: int = 0
    makes_room: bool = False
    """Whether sessions are evicted when the directory gets full: the central store can be reached, and has some."""

    def reached(self, now_ms: int, asked_at: float) -> None:
        """The central store answered, with the time on its clock; the answer was asked for at a Unix time."""
        answered_at = time.time()
        self.clock_offset = round(now_ms / 1000 - (asked_at + answered_at) / 2, 3)
        if self.last_error is None:
            self.went_well()  # Else it may answer this, and fail at what is asked next, again and again.

    def went_well(self) -> None:
        """The last contact with the central store was one."""
        self.state, self.last_error, self.last_synced_at = "online", None, time.time()

    def as_of(self, last_synced_at: float | None) -> SyncStatus:
        """The same, with the time of an earlier contact."""
        return msgspec.structs.replace(self, last_synced_at=last_synced_at)

    def stopped(self) -> SyncStatus:
        """The same, of a worker that does not run any more."""
        return msgspec.structs.replace(self, state="stopped", makes_room=False)

    def failed(self, error: BaseException) -> None:
        """The last contact failed, and it is tried again; or somebody must act, and it is tried again nevertheless."""
        self.state = "offline" if isinstance(error, RemoteUnavailable) else "blocked"
        self.makes_room = False
        self.last_error = str(error) if isinstance(error, LocalFirstError) else f"{type(error).__name__}: {error}"


def publish(directory: Path, namespace: str, status: SyncStatus) -> None:
    """Tell other processes on the directory. Best effort: on a full disk, sync goes on without it."""
    path = directory / f"{file_stem(namespace)}.json"
    temporary = path.with_suffix(f".{os.getpid()}")
    with contextlib.suppress(OSError):
        with os.fdopen(open_private(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), "wb") as file:
            file.write(msgspec.json.encode(status))
        temporary.replace(path)


def published(directory: Path, namespace: str) -> SyncStatus | None:
    """What the leader told last; None if there was none, or it can't be read."""
    with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return msgspec.json.decode((directory / f"{file_stem(namespace)}.json").read_bytes(), type=SyncStatus)
    return None
