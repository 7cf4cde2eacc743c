"""Keeping a directory below its limit of disk space: sessions that the central store has, and that nobody used lately,
give up their content here, until somebody asks for them.

A stub is left, see `localfirst.log.Log.evict`. What is pending never goes, and nothing goes of which the central store
has not just confirmed that it has it. All in small steps.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Final

from localfirst import volumes
from localfirst.errors import LocalFirstError, RemoteRejected
from localfirst.records import Head, SessionKey
from localfirst.room import AT_EASE, FILLING, LOG
from sync.central.base import Head as RemoteHead
from sync.compact import load_state
from sync.retry import patiently
from sync.site import Site

_BATCH: Final = 20
"""Sessions that the central store is asked for at once."""
_STEP_SECONDS: Final = 0.05
"""After which others have their turn."""
_SCAN_SECONDS: Final = 0.25
"""Between two looks for what could go."""
_SPARED_SECONDS: Final = 0.3
"""Whoever had a session fetched reads it first."""
_HURRY: Final = 3
"""Beyond the limit, so many times shorter is what takes its time."""

_logger: Final = logging.getLogger("localfirst.sync")


class Evictor:
    """Makes room in one directory, of sessions of one namespace."""

    def __init__(self, site: Site, limit: int | None) -> None:
        self.makes_room = False
        """There is room, or there are sessions that can be evicted; as of the last look."""
        self.again_at = math.inf
        """When there is more to do, by the monotonic clock."""
        self.limit = limit
        self._site = site
        self._queue: deque[SessionKey] = deque()
        self._confirmed: deque[tuple[SessionKey, Head]] = deque()
        self._scanned_at = -math.inf
        self._spared: dict[SessionKey, float] = {}
        self._patience = 1.0

    @contextmanager
    def sparing(self, key: SessionKey) -> Iterator[None]:
        """Around the fetch of a session for which somebody waits: it does not go meanwhile, nor for a moment after."""
        if self.limit is None:
            yield
            return
        self._spared[key] = math.inf
        try:
            yield
        finally:
            self._spared[key] = time.monotonic()

    async def run(self) -> None:
        """Evict what is used least until there is room, for some milliseconds. To be called when the central store can
        be reached; raises `RemoteUnavailable` and the like if it can't."""
        if self.limit is None:
            return
        self.again_at = math.inf
        if await self._size() <= FILLING * self.limit:
            self.makes_room = True
            return
        await self._move_log()
        self._patience = 1.0 if await self._size() <= self.limit else 1 / _HURRY
        self.makes_room = await self._make_room(AT_EASE * self.limit)
        self._queue.extendleft(key for key, _ in reversed(self._confirmed))
        self._confirmed.clear()

    async def _make_room(self, enough: float) -> bool:
        deadline = time.monotonic() + _STEP_SECONDS
        while time.monotonic() < deadline:
            if await patiently(partial(volumes.sweep, self._site.log)):
                continue
            await self._move_log()
            if await self._size() <= enough:
                return True
            if not self._confirmed:
                self._confirmed = await self._confirm()
            if not self._confirmed:
                return await self._is_enough()
            await self._evict(*self._confirmed.popleft())
        self.again_at = time.monotonic()
        return True

    async def _is_enough(self) -> bool:
        """Nothing can go now. Is there room nevertheless, or will there be?"""
        assert self.limit is not None
        waiting = bool(self._spared)
        again_at = max(self._scanned_at + _SCAN_SECONDS * self._patience, time.monotonic())
        self.again_at = again_at if waiting else math.inf
        return waiting or await self._size() <= FILLING * self.limit

    async def _size(self) -> int:
        return await patiently(self._site.log.rows.disk_bytes)

    async def _move_log(self) -> None:
        assert self.limit is not None
        if self._site.log.rows.wal_bytes() > LOG * self.limit:
            await asyncio.to_thread(self._site.log.rows.shrink)

    async def _confirm(self) -> deque[tuple[SessionKey, Head]]:
        """The next that can go, as the central store has just said; none: there are none now."""
        while True:
            if not self._queue and time.monotonic() >= self._scanned_at + _SCAN_SECONDS * self._patience:
                await self._scan()
            if not (batch := await self._next()):
                return deque()
            try:
                remotes = await self._site.central.heads([head.session_id for _, head in batch])
            except RemoteRejected as error:
                _logger.warning("%d sessions can't be evicted now: %s", len(batch), error)
                continue
            confirmed = deque(each for each, remote in zip(batch, remotes, strict=True) if _has(remote, each[1]))
            if confirmed:
                return confirmed

    async def _evict(self, key: SessionKey, head: Head) -> None:
        try:
            newest = await patiently(partial(volumes.newest, self._site.log, key, head))
            if not newest and not head.stub:
                newest = (await load_state(self._site, key, head)).fold.time
            await patiently(partial(self._site.log.evict, key, head, max(newest, head.time)))
        except LocalFirstError as error:  # It is damaged; whoever reads it will be told.
            _logger.warning("session %r can't be evicted: %s", head.session_id, error)

    async def _next(self) -> list[tuple[SessionKey, Head]]:
        """The next that can go."""
        batch: list[tuple[SessionKey, Head]] = []
        since = time.monotonic() - _SPARED_SECONDS * self._patience
        self._spared = {key: fetched for key, fetched in self._spared.items() if fetched > since}
        while self._queue and len(batch) < _BATCH:
            key = self._queue.popleft()
            head = await self._site.head(key)
            if head is None or key in self._spared or not _can_go(head):
                continue
            if await patiently(partial(self._site.log.last_slot, key)) <= head.acked:
                batch.append((key, head))
        return batch

    async def _scan(self) -> None:
        """Find what could go, the least recently used first."""
        log, namespace = self._site.log, self._site.namespace
        stopped = {key for key, _ in await patiently(partial(self._site.quarantine.all, namespace))}
        used = await patiently(log.used)
        found: list[tuple[float, SessionKey]] = []
        after: SessionKey | None = b""
        while after is not None:
            page, after = await patiently(partial(log.ages, namespace, after))
            found += [
                (max(moved, used.get(key, 0.0)), key)
                for moved, key, head in page
                if key not in stopped and _can_go(head)
            ]
            await asyncio.sleep(0)  # The loop may be an application's.
        self._queue = deque(key for _, key in sorted(found))
        self._scanned_at = time.monotonic()


def _can_go(head: Head) -> bool:
    """Whether there is something to evict of a session, and it might be in the central store."""
    here = head.seq > (head.floor if head.stub else 0)
    return here and head.generation is not None and not head.ending


def _has(remote: RemoteHead | None, head: Head) -> bool:
    """Whether the central store has what is to be evicted."""
    if remote is None or remote.generation != head.generation or remote.seq < head.seq:
        return False
    return remote.seq > head.seq or remote.digest == head.digest
