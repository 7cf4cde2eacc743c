"""What the cases of the suite have in common."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from localfirst.change import APPEND, EMPTY_DIGEST, MAIN_BRANCH, Change, encode_change, new_id
from sync.central.base import CentralStore, Head, LogEntry, Pushed, Run, Want
from sync.central.digests import digest_after

Connect = Callable[[str], CentralStore]
"""Makes a store for a namespace; each is a connection, or a set of them, of its own."""

GENERATION = "generation-1"
PAGE = 1 << 20


class Bench:
    """Opens stores in a namespace that no other case has."""

    def __init__(self, connect: Connect, stack: AsyncExitStack) -> None:
        self._connect = connect
        self._stack = stack
        self._namespace = f"conformance-{new_id()}"

    async def open(self, suffix: str = "") -> CentralStore:
        """A store in the case's namespace, or in the one whose name goes on with `suffix`; closed after the case."""
        store = self._connect(self._namespace + suffix)
        self._stack.push_async_callback(store.close)
        await store.identify()
        return store


Case = Callable[[Bench], Awaitable[None]]
"""Raises AssertionError, or whatever the store raises, if its rule is broken."""


async def check(case: Case, connect: Connect) -> None:
    """Run one case."""
    async with AsyncExitStack() as stack:
        await case(Bench(connect, stack))


def changes(origin: str, first: int, count: int, body: bytes = b'[{"role":"user"}]') -> list[bytes]:
    """Wire bytes of consecutive changes."""
    return [
        encode_change(Change(origin, counter, counter << 16, 0, MAIN_BRANCH, APPEND, body))
        for counter in range(first, first + count)
    ]


def run(session_id: str, origin: str, first: int, count: int, *, generation: str = GENERATION) -> Run:
    """A run of a sender without a cursor."""
    return Run(session_id, generation, True, origin, first, changes(origin, first, count))


def following(session_id: str, origin: str, first: int, count: int, *, generation: str = GENERATION) -> Run:
    """A run of a sender with a cursor in `generation`."""
    return replace(run(session_id, origin, first, count, generation=generation), fresh=False)


def admitted(run: Run, pushed: Pushed) -> list[LogEntry]:
    """What a push has put into the log, as its answer tells."""
    data = run.changes if pushed.admitted else []
    return [LogEntry(pushed.head - len(data) + place, pushed.admitted_at, each) for place, each in enumerate(data, 1)]


async def grow(store: CentralStore, *runs: Run) -> list[LogEntry]:
    """Push runs; what that has put into the log, or the logs."""
    return [entry for run, pushed in zip(runs, await store.push(runs), strict=True) for entry in admitted(run, pushed)]


def digest_of(log: Iterable[LogEntry]) -> int:
    """The digest of a log with these entries."""
    return digest_after(EMPTY_DIGEST, log)


def having(session_id: str, log: Sequence[LogEntry], *, generation: str = GENERATION) -> Want:
    """What a puller asks for that has these entries."""
    return Want(session_id, generation, len(log), digest_of(log))


def nothing_of(session_id: str) -> Want:
    """What a puller asks for that has nothing."""
    return Want(session_id, None, 0, EMPTY_DIGEST)


async def end_of(store: CentralStore, session_id: str) -> Head:
    """Where the log of a session ends that is there."""
    [head] = await store.heads([session_id])
    assert head is not None, f"session {session_id!r} is missing"
    return head


async def whole_log(store: CentralStore, session_id: str, max_bytes: int = PAGE) -> list[LogEntry]:
    """All of a log, page by page; checks on the way that it is gapless and that its digest is right."""
    log: list[LogEntry] = []
    generation, digest = None, EMPTY_DIGEST
    while True:
        [page] = await store.pull([Want(session_id, generation, len(log), digest)], max_bytes)
        if page.head is None:
            assert not log, "a session vanished between two pages"
            return log
        assert not page.resync, f"resync after {len(log)} of {page.head}"
        generation = page.head.generation
        log += page.entries
        digest = digest_after(digest, page.entries)
        assert [entry.seq for entry in log] == list(range(1, len(log) + 1)), "seq has a gap"
        if len(log) >= page.head.seq:
            assert len(log) == page.head.seq
            assert page.head.digest == digest, "the digest is not that of the log"
            return log
        assert page.entries, f"an empty page after {len(log)} of {page.head.seq}"


def bodies(log: list[LogEntry]) -> list[bytes]:
    """The wire bytes in a log."""
    return [entry.data for entry in log]
