"""What room costs: to evict a session and to fetch it again, and to remove what expired from Postgres."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

import localfirst
from benchmarks.messages import messages
from benchmarks.processes import ANSWER_SECONDS
from benchmarks.timing import Series
from localfirst import volumes
from localfirst.change import new_id
from localfirst.log import Log
from localfirst.records import SessionKey, session_key
from localfirst.rows import Rows
from localfirst.testing.conformance.harness import run
from sync.central.base import Run
from sync.central.postgres import PostgresStore
from sync.central.postgres.store import SWEEP_SESSIONS
from sync.retry import patiently

_NAMESPACE: Final = "lives"
_SESSION: Final = "evicted"
_AT_ONCE: Final = 500
"""Sessions in a push."""
_CHANGES: Final = 3
"""Of each session that expires."""


class Room(NamedTuple):
    """What was measured, in rounds."""

    items: int
    evict: Series
    """Until only a stub is left on this disk."""
    fetch: Series
    """The first `get_items` after that."""

    @property
    def both(self) -> list[float]:
        """Milliseconds, of each round."""
        return [sum(times) / 1000 for times in zip(self.evict.medians, self.fetch.medians, strict=True)]

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {"items": self.items, "evict": self.evict.summary(), "fetch": self.fetch.summary()}


class Sweep(NamedTuple):
    """What was measured."""

    sessions: int
    """That had expired."""
    statements: Series
    """Each is a transaction of its own: what it locks, it locks no longer."""

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        longest = [round(max(times) / 1000, 2) for times in self.statements.rounds]
        return {"sessions": self.sessions, **self.statements.summary(), "round_longest": longest}


async def measure_room(directory: Path, url: str, rounds: int, times: int, items: int) -> Room:
    """Evict one session again and again, and read it."""
    found = Room(items, Series(), Series())
    async with localfirst.open(directory, remote=url, namespace=_NAMESPACE) as store:
        session, key = store.session(_SESSION, hydrate_timeout=ANSWER_SECONDS), session_key(_NAMESPACE, _SESSION)
        for item in messages(items, seed=3):
            await session.add_items([item])
        await store.aflush(ANSWER_SECONDS)
        rows = Rows(directory / "data")
        for number in range(-1, rounds):
            evict, fetch = [], []
            for _ in range(times):
                start = await _evict(Log(rows), key)
                evicted = time.perf_counter_ns()
                if len(await session.get_items()) != items:
                    raise AssertionError("not all of it came back")
                fetch.append(time.perf_counter_ns() - evicted)
                evict.append(evicted - start)
            if number >= 0:  # The first is to warm up.
                found.evict.rounds.append(evict)
                found.fetch.rounds.append(fetch)
        rows.close()
    return found


async def _evict(log: Log, key: SessionKey) -> int:
    """Returns when it began; it can't as long as something of it is on its way."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while time.monotonic() < deadline:
        start = time.perf_counter_ns()
        head = await patiently(partial(log.head, key))
        if head is not None and await patiently(partial(log.evict, key, head, volumes.newest(log, key, head))):
            while await patiently(partial(volumes.sweep, log)):
                pass
            return start
    raise AssertionError("it can't be evicted")


async def measure_sweep(url: str, sessions: int, rounds: int) -> Sweep:
    """Let so many sessions expire, and sweep them, a round's part after the other, while somebody writes."""
    found = Sweep(sessions, Series())
    async with _opened(url) as store, _opened(url) as other:
        for first in range(0, sessions, _AT_ONCE):
            await store.push([_short_lived(number) for number in range(first, min(first + _AT_ONCE, sessions))])
        writing = asyncio.create_task(_write(other))
        for number in range(rounds):
            left = sessions * (number + 1) // rounds - sessions * number // rounds
            found.statements.rounds.append([held async for held in _sweep(store, left)])
        writing.cancel()
        await asyncio.gather(writing, return_exceptions=True)
    return found


async def _sweep(store: PostgresStore, left: int) -> AsyncIterator[int]:
    while left > 0:
        start = time.perf_counter_ns()
        swept = await store.sweep(min(left, SWEEP_SESSIONS))
        yield time.perf_counter_ns() - start
        if not swept:
            raise AssertionError("not all of them expired")
        left -= swept


async def _write(store: PostgresStore) -> None:
    counter = 0
    while True:
        counter += 1
        await store.push([replace(run("alive", "writer", counter, 1), fresh=counter == 1)])


def _short_lived(number: int) -> Run:
    return replace(run(f"expired-{number}", "author", 1, _CHANGES), generation=new_id(), ttl=1)


@asynccontextmanager
async def _opened(url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(url, _NAMESPACE)
    await store.identify()
    try:
        yield store
    finally:
        await store.close()
