"""What replication behind its back costs an agent: adds while there is nothing else to send, and while there is much.

    alone   no central store, so no worker
    idle    the worker runs; the adds themselves are all there is to send
    busy    the worker runs at full speed: many other sessions, written before it began, go out meanwhile

Adds come `PACE` seconds apart, more often than an agent can have them: so the worker gets its turns in between, and
`idle` is not a full speed of another kind.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Final, NamedTuple

import localfirst
from benchmarks.local import Effort
from benchmarks.messages import messages
from benchmarks.timing import Series
from localfirst.session import Session
from localfirst.store import Store
from localfirst.testing.servers import BinaryNotFoundError, RedisServer

PACE: Final = 0.001
CHANGES: Final = 100
"""In each session of the backlog."""
_ADDS: Final = 1000
"""In a round, alone and idle; busy ones go on for as long as there is a backlog."""
_WARM_UP: Final = 20

_supply: Final = messages(997, seed=2)


class Beside(NamedTuple):
    """What was measured."""

    remote: str
    """The kind of central store."""
    series: dict[str, Series]
    """By `alone`, `idle` and `busy`."""
    speed: float
    """Changes per second that the backlog went out with while adds were measured."""

    def ratios(self, above: str, below: str) -> list[float]:
        """Of each round, how many times longer the slowest 1 % took."""
        both = zip(self.series[above].p99s, self.series[below].p99s, strict=True)
        return [one / other for one, other in both]

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        times = {name: series.summary() for name, series in self.series.items()}
        return {"remote": self.remote, "backlog_changes_per_second": round(self.speed), **times}


async def measure_beside(directory: Path, effort: Effort) -> Beside:
    """Adds alone, busy and idle, by turns, in one store."""
    series = {name: Series() for name in ("alone", "idle", "busy")}
    sent, seconds = 0, 0.0
    with _remote(directory / "central") as (kind, url):
        for number in range(effort.beside_rounds):
            async with _store(directory, None) as store:
                names = [f"backlog-{number}-{place}" for place in range(effort.backlog)]
                await _write(store, names)
                session = await _ready(store, f"measured-{number}")
                series["alone"].rounds.append(await _add_for(session, round(_ADDS * effort.calls)))
            async with _store(directory, url) as store:
                session = await _ready(store, f"measured-{number}")
                start = perf_counter()
                series["busy"].rounds.append(await _add_while(session, [store.session(name) for name in names]))
                seconds += perf_counter() - start
                sent += CHANGES * len(names)
                await store.aflush()
                series["idle"].rounds.append(await _add_for(session, round(_ADDS * effort.calls)))
    return Beside(kind, series, sent / seconds)


@contextmanager
def _remote(directory: Path) -> Iterator[tuple[str, str]]:
    """A Redis of our own; a directory where there is none."""
    try:
        server = RedisServer()
    except BinaryNotFoundError:
        yield "directory", directory.as_uri()
        return
    with server:
        yield "Redis", server.url


@asynccontextmanager
async def _store(directory: Path, remote: str | None) -> AsyncIterator[Store]:
    async with localfirst.open(directory / "store", remote=remote) as store:
        yield store


async def _write(store: Store, names: list[str]) -> None:
    for name in names:
        session = store.session(name)
        for place in range(CHANGES):
            await session.add_items([_supply[place]])


async def _ready(store: Store, name: str) -> Session:
    session = store.session(name, hydrate_timeout=0.0)
    for place in range(_WARM_UP):
        await session.add_items([_supply[place]])
    return session


async def _add_for(session: Session, count: int) -> list[int]:
    return [await _timed_add(session, place) for place in range(count)]


async def _add_while(session: Session, waiting: list[Session]) -> list[int]:
    """Adds until all that was waiting is in the central store."""
    times: list[int] = []
    while waiting:
        times.append(await _timed_add(session, len(times)))
        while waiting and waiting[-1].synced_at is not None:
            waiting.pop()
    return times


async def _timed_add(session: Session, place: int) -> int:
    items = [_supply[place % len(_supply)]]
    start = perf_counter_ns()
    await session.add_items(items)
    time = perf_counter_ns() - start
    await asyncio.sleep(PACE)
    return time
