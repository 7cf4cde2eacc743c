"""What the steps of replication share: where they work, within which limits, and whom they tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from localfirst import volumes
from localfirst.aside import Quarantine
from localfirst.clock import CentralTime
from localfirst.codec import Codec
from localfirst.identity import Identity
from localfirst.log import Log
from localfirst.records import Aside, Head, Kept, Page, SessionKey
from sync.central.base import CentralStore, Ended
from sync.retry import patiently


class Settled(NamedTuple):
    """A session's cursor has moved."""

    key: SessionKey
    before: Head
    after: Head


class Lost(NamedTuple):
    """The central store has no longer what it had of a session; it is sent again."""

    key: SessionKey
    session_id: str
    reason: str


class Stopped(NamedTuple):
    """A session can't be synced in one direction, until somebody acts."""

    key: SessionKey
    aside: Aside


class Over(NamedTuple):
    """The life of a session has ended, and what was here of it is dropped."""

    key: SessionKey
    session_id: str
    how: Ended


Notice = Settled | Lost | Stopped | Over


class Limits(NamedTuple):
    """How much at once."""

    run_changes: int = 500
    """Changes of one session in one push, unless a turn has more."""
    run_bytes: int = 1 << 20
    """Bytes of changes of one session in one push, unless one change or turn is larger."""
    push_bytes: int = 1 << 20
    """Bytes of changes in one push, roughly."""
    pull_bytes: int = 1 << 18
    """Bytes of changes of one session in one pull."""
    batch_sessions: int = 100
    """Sessions in one push or pull."""
    in_flight: int = 4
    """Pushes on their way at once, as long as they come through quickly; of pulls, no more than two."""
    tries: int = 5
    """How often a log is filled again in one round, if others change it meanwhile."""
    compact_after: int = 128
    """Entries that may have made others needless, before a log is folded to see."""
    compact_bytes: int = 16 << 10
    """What a checkpoint has to save."""
    keep: int = 64
    """Entries at the end of a log that are not folded, for replicas that are just behind."""


@dataclass(frozen=True)
class Site:
    """One namespace of one directory, and its central store."""

    log: Log
    central: CentralStore
    namespace: str
    tell: Callable[[Notice], bool | None]
    """True: more was written because of it, which can go up at once."""
    limits: Limits = field(default_factory=Limits)
    ask: bool = False
    """Whether to ask before what the central store has lost is sent again."""
    looks: bool = False
    """Whether nothing is sent at all: what is new there is taken, and what it has lost is only told."""
    time: CentralTime = field(default_factory=CentralTime)

    @property
    def identity(self) -> Identity:
        """The names in the directory."""
        return Identity(self.log.rows)

    @property
    def quarantine(self) -> Quarantine:
        """What of the directory is stopped."""
        return Quarantine(self.log.rows)

    def codec(self, head: Head) -> Codec:
        """How the changes of a session are written."""
        return self.log.codec(head.session_id)

    async def head(self, key: SessionKey) -> Head | None:
        """The head of a session."""
        return await patiently(partial(self.log.head, key))

    async def pages(self, key: SessionKey, volume: bytes) -> AsyncIterator[Page]:
        """The pages of a volume, read as they are gone through."""
        after = -1
        while pages := await patiently(partial(volumes.pages, self.log, key, volume, after)):
            for page in pages:
                yield page
                await asyncio.sleep(0)  # The loop may be an application's.
            after = pages[-1].first

    async def kept(self, key: SessionKey, volume: bytes) -> AsyncIterator[list[Kept]]:
        """The entries of a volume above its floor, page by page."""
        async for page in self.pages(key, volume):
            yield await patiently(partial(volumes.entries, self.log, key, page))
