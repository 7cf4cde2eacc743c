"""The central store as everything else sees it: a dumb log that puts changes in order and never looks into them.

A backend is one class with these methods. All of them are coroutines of one event loop, safe to run at once, and take
batches over sessions, because a round trip costs more than anything that is done in it. They raise
`RemoteUnavailable` (try again), `ConfigurationError` (credentials, TLS, privileges: somebody must act),
`RemoteVersionError`, or `RemoteRejected` for what will never be taken or can't be read; the caller then takes the batch
apart. Nothing of the libraries underneath gets out. `localfirst.testing.conformance` checks a backend.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final, Literal, NamedTuple, Protocol

from localfirst.change import hash_changes

FORMAT_VERSION = 3
"""Of what a central store holds. A store with a greater number is left alone; 1 and 2 were never released."""


Ended = Literal["expired", "deleted"]
"""How a life of a session ended."""

KEEP_ENDED: Final = 30 * 86_400_000
"""Milliseconds for which a store remembers how a life ended."""


class Identity(NamedTuple):
    """Which store this is."""

    store_id: str
    """Random, made with the store: another server, or an emptied one, has another."""
    format: int
    now: int
    """The store's clock, Unix milliseconds."""


@dataclass(frozen=True)
class Run:
    """Consecutive changes of one origin to one session, admitted as one unit."""

    session_id: str
    generation: str
    fresh: bool
    """True: the sender has no cursor. A missing session is created with `generation`; one that exists takes the run,
    whatever its generation. False: the session must exist with `generation`."""
    origin: str
    first: int
    """Counter of the first change."""
    changes: Sequence[bytes]
    """Wire encoding; not empty."""
    ttl: int | None = None
    """Milliseconds after which the session expires from now on, if nothing is admitted meanwhile; 0: never; None: as it
    was."""

    @cached_property
    def hashes(self) -> bytes:
        """What the changes add to the digest, as `localfirst.change.hash_changes` gives it. Computed once: it costs
        more than anything else that is done with a change here."""
        return hash_changes(self.changes)


class PushStatus(Enum):
    OK = "ok"
    """All of the run is in the log, now or since an earlier push."""
    OVERLAP = "overlap"
    """The log has the first changes of the run, not the last. Nothing was admitted: the sender pulls, to see whether
    what is there is its own (a copied directory has a twin with the same origin), and pushes the rest."""
    GAP = "gap"
    """`first` is greater than acked + 1: changes before it are missing. Nothing was admitted."""
    GENERATION = "generation"
    """The session has another generation. Nothing was admitted."""
    MISSING = "missing"
    """There is no such session. Nothing was admitted."""


class Pushed(NamedTuple):
    """What became of a run. The numbers describe the session after it; zero and empty when it is missing."""

    status: PushStatus
    generation: str
    acked: int
    """The highest counter of the run's origin in the log."""
    admitted: int
    """How many changes this very push added, at the end of the log: all of the run, or none."""
    head: int
    digest: int
    admitted_at: int
    """The store's clock, Unix milliseconds."""
    expires_at: int = 0
    """When the session expires, by the store's clock, Unix milliseconds; 0: never."""
    ended: Ended | None = None
    """What became of the life that the run was for, if it is not the session's (`GENERATION`, `MISSING`), and the store
    knows."""


class Head(NamedTuple):
    """The end of a session's log."""

    generation: str
    seq: int
    digest: int
    """Of the whole log up to `seq`, as `sync.central.digests.digest_after` makes it of its entries."""


class Want(NamedTuple):
    """What a puller has: everything up to `after` of `generation`. None: nothing."""

    session_id: str
    generation: str | None
    after: int
    digest: int
    """Of everything up to `after`. So a log that was restored, and has grown beyond there with other changes, is known
    at once, and not only at its end."""


class LogEntry(NamedTuple):
    """A change in the log; wire encoding, unchecked."""

    seq: int
    admitted_at: int
    data: bytes


class Pulled(NamedTuple):
    """One page of one session's log."""

    head: Head | None
    """None: there is no such session."""
    resync: bool
    """The want does not fit the log (another generation, `after` beyond its end or below its floor, another digest
    there): `entries` is empty, and the puller must begin again, from the checkpoint if there is one."""
    entries: list[LogEntry]
    """Consecutive from `after + 1`. The last has `seq == head.seq` unless the page was full."""
    expires_at: int = 0
    """When the session expires, by the store's clock, Unix milliseconds; 0: never."""
    ended: Ended | None = None
    """What became of the life that the puller has, if it is not the session's, and the store knows."""


class Checkpoint(NamedTuple):
    """A folded log, which stands for all changes up to `seq`, so that they need not be kept. Bytes to the store."""

    generation: str
    seq: int
    """The floor of the log: its first entry is the next."""
    digest: int
    """Of the whole log up to `seq`."""
    data: bytes


class Ending(NamedTuple):
    """A session that is to be deleted."""

    session_id: str
    generation: str | None
    """The life that ends; another one stays. None: whichever is there."""


class Hint(NamedTuple):
    """A session moved: its log of this generation reached at least `seq`."""

    session_id: str
    generation: str
    seq: int


class CentralStore(Protocol):
    """One namespace of one central store.

    A session whose time has come, by the store's clock, is missing: to every call, and whether or not it was swept. It
    is renewed by each push that admits something. What is written to it later begins another life, of another
    generation; how the one before ended is remembered for `KEEP_ENDED`, at least.
    """

    async def identify(self) -> Identity:
        """Connect, create what is missing, and tell which store this is. Called first, and again after errors.
        Raises `RemoteVersionError` if the store's format is newer than `FORMAT_VERSION`."""
        ...

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        """Admit runs, each in one atomic step: all of it, contiguously, or nothing. A run that the log already has
        (counter <= acked) is fine, one that it has in part, or that leaves a gap, is refused. Remember acked, advance
        head and digest, hint to watchers. Results in order."""
        ...

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        """A page of each session's log after what the puller has; at least one entry each if there is any, and not
        many more than `max_bytes` of changes for each. Results in order."""
        ...

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        """What stands for the changes below the floor of a log; None if all are there, or the session is missing."""
        ...

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        """Put a checkpoint by compare-and-set. False, and nothing is changed, if the end of the log is not `expected`
        (None: the session must be missing).

        Of the same generation: the changes up to `checkpoint.seq` are dropped; `acked` and `ttl` are not looked at, and
        the session is not renewed. False, too, if the log's floor is above that seq, or its end is below; one at the
        floor takes the place of that which is there (it may be sealed with another key). Of another, or of a session
        that was missing: the session is made anew of it in one step, with nothing else left of it: its head is the
        checkpoint's, its origins are those of `acked` (the highest counter of each), it expires after `ttl`
        milliseconds (0: never); watchers get a hint.
        """
        ...

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        """Delete sessions, if they are there in the life that is named, with all that belongs to them. A life that is
        named is remembered as deleted for `keep` milliseconds, also if it was not there, or had expired; so is the one
        that was there. Watchers get a hint. Deleting twice is fine."""
        ...

    async def sweep(self, limit: int) -> int:
        """Remove what is left of sessions that expired, up to `limit` of them, and of lives that need not be remembered
        any more. Returns how many sessions; less than `limit`: there are no more now. Locks are held for milliseconds.
        """
        ...

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        """Where each log ends; None for a session that is missing. One round trip. Results in order."""
        ...

    async def sessions(self, after: str, limit: int) -> list[str]:
        """Up to `limit` ids of sessions in this namespace that are greater than `after` by code point, ascending."""
        ...

    def watch(self) -> AsyncIterator[Hint | None]:
        """Which sessions moved: hints may be lost, doubled or late. Yields None when it has begun to listen, and
        whenever it may have missed some. Ends with `RemoteUnavailable` when the connection breaks, and at once in a
        store without hints."""
        ...

    async def close(self) -> None:
        """Close all connections. Closing twice is fine."""
        ...
