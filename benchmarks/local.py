"""Local calls: every system does the same work in turn, many times over, so that a noisy machine is noisy for all."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, closing, nullcontext
from itertools import cycle
from pathlib import Path
from typing import Final, NamedTuple, TypeVar

import msgspec

from benchmarks.messages import messages
from benchmarks.peers import (
    NORMAL,
    BareInserts,
    Conversation,
    Database,
    Item,
    System,
    bare_decode,
    conversation,
    opened,
)
from benchmarks.timing import Call, Series, measure

Results = dict[tuple[str, str], Series]
"""By name of a system or limit, and name of the work."""


T = TypeVar("T")
Contender = tuple[str, AbstractAsyncContextManager[Call]]


class Effort(NamedTuple):
    """How much is measured."""

    rounds: int
    calls: float
    """Of those that each work asks for in a round."""
    seconds: float
    """After which a system does no more calls of one work in one round."""
    batch: int
    """Items per call while sessions are filled."""
    aged: int
    """Pages that are written before anything is measured: a write-ahead log is slower to sync while it still grows,
    which most do to 1,000. A bare insert writes one, an item of a system three or so."""
    large: int
    """Items in the largest session."""
    backlog: int
    """Sessions that wait for the central store while calls are measured."""
    beside_rounds: int
    """Of calls beside replication."""


THOROUGH: Final = Effort(10, 1.0, 0.1, 4, 1200, 100_000, 500, 5)
QUICK: Final = Effort(2, 0.2, 0.02, 50, 60, 20_000, 40, 2)


class Place(NamedTuple):
    """Where a system has its sessions."""

    system: System
    database: Database
    directory: Path


class Work(NamedTuple):
    """Something agents do again and again."""

    name: str
    title: str
    prepare: Callable[[Place, int], AbstractAsyncContextManager[Call]]
    """Of a place and a round: the call to measure. What comes before and after it is not."""
    calls: int
    """In a round."""


class _Supply:
    """Messages without end."""

    def __init__(self) -> None:
        self._messages: Iterator[Item] = cycle(messages(997, seed=1))

    def next(self, count: int) -> list[Item]:
        return [next(self._messages) for _ in range(count)]


_supply: Final = _Supply()


def _add(count: int) -> Callable[[Place, int], AbstractAsyncContextManager[Call]]:
    @asynccontextmanager
    async def prepare(place: Place, number: int) -> AsyncIterator[Call]:
        async with conversation(place.database, f"add-{count}-{number}") as session:
            await session.add_items(messages(10))
            yield lambda: session.add_items(_supply.next(count))

    return prepare


def _get(size: int, limit: int | None = None) -> Callable[[Place, int], AbstractAsyncContextManager[Call]]:
    @asynccontextmanager
    async def prepare(place: Place, _: int) -> AsyncIterator[Call]:
        async with conversation(place.database, f"read-{size}") as session:
            yield lambda: session.get_items(limit=limit)

    return prepare


@asynccontextmanager
async def _pop(place: Place, _: int) -> AsyncIterator[Call]:
    async with conversation(place.database, "pop-1000") as session:
        lacking = 1000 - len(await session.get_items())
        if lacking:
            await session.add_items(messages(lacking))
        yield session.pop_item


@asynccontextmanager
async def _turn(place: Place, number: int) -> AsyncIterator[Call]:
    async with conversation(place.database, f"turn-{number}") as session:
        await session.add_items(messages(100))

        async def turn() -> None:
            await session.get_items(limit=100)
            await session.add_items(_supply.next(1))
            await session.add_items(_supply.next(3))

        yield turn


@asynccontextmanager
async def _open(place: Place, _: int) -> AsyncIterator[Call]:
    async def call() -> None:
        again = place.directory / "again"
        async with opened(place.system, again) as database, conversation(database, "read-100") as session:
            await session.get_items()

    yield call


WORK: Final = (
    Work("add_1", "add 1", _add(1), 100),
    Work("add_10", "add 10", _add(10), 50),
    Work("get_100", "get 100", _get(100), 50),
    Work("get_1000", "get 1000", _get(1000), 20),
    Work("last_20", "last 20 of 1000", _get(1000, 20), 50),
    Work("pop", "pop", _pop, 50),
    Work("turn", "turn", _turn, 25),
    Work("open", "open and get 100", _open, 10),
)
"""`turn`: read 100, add 1, add 3. `open`: on what an earlier process left, and closed again."""

LIMITS: Final = {
    "bare-normal": "bare SQLite insert, synchronous=NORMAL",
    "bare-full": "bare SQLite insert, synchronous=FULL",
    "bare-decode": "bare msgspec decoding of one array",
}


async def measure_local(directory: Path, effort: Effort, systems: Sequence[System]) -> Results:
    """Systems and all limits on all work, round by round, each round in another order."""
    results: Results = {}
    async with AsyncExitStack() as stack:
        places = [await _filled(stack, system, directory / system.name, effort) for system in systems]
        limits = await _limits(stack, directory, effort.aged)
        for number in range(effort.rounds):
            for work in WORK:
                contenders = _contenders(work, number, places) + limits.get(work.name, [])
                for name, prepared in rotated(contenders, number):
                    async with prepared as call:
                        times = await measure(call, max(3, round(work.calls * effort.calls)), effort.seconds)
                    results.setdefault((name, work.name), Series()).rounds.append(times)
    return results


def rotated(sequence: Sequence[T], by: int) -> list[T]:
    """The same in another order, so that nobody always comes after the same neighbour.

    >>> rotated("abc", 4)
    ['b', 'c', 'a']
    """
    start = by % len(sequence)
    return [*sequence[start:], *sequence[:start]]


def _contenders(work: Work, number: int, places: Sequence[Place]) -> list[Contender]:
    return [(place.system.name, work.prepare(place, number)) for place in places]


async def measure_size(directory: Path, effort: Effort) -> Results:
    """One more item in a session of very many, and in one of ten; by turns."""
    results: Results = {("small", "add_1"): Series(), ("large", "add_1"): Series()}
    async with opened(NORMAL, directory) as database, conversation(database, "large") as large:
        await _fill(large, effort.large, max(effort.batch, 10))
        await large.get_items(limit=1)
        for number in range(2 * effort.rounds):
            small = database.session(f"small-{number}")
            await small.add_items(messages(10))
            for name, session in rotated([("small", small), ("large", large)], number):
                results[name, "add_1"].rounds.append(await _measure_adds(session, effort))
    return results


async def _measure_adds(session: Conversation, effort: Effort) -> list[int]:
    return await measure(lambda: session.add_items(_supply.next(1)), round(100 * effort.calls), effort.seconds)


async def _filled(stack: AsyncExitStack, system: System, directory: Path, effort: Effort) -> Place:
    (directory / "again").mkdir(parents=True)
    async with opened(system, directory / "again") as database:
        await _fill_session(database, "read-100", 100, effort.batch)
    database = await stack.enter_async_context(opened(system, directory))
    await _fill_session(database, "read-100", 100, effort.batch)
    await _fill_session(database, "read-1000", 1000, effort.batch)
    await _fill_session(database, "aged", effort.aged // 3, 1)
    return Place(system, database, directory)


async def _fill_session(database: Database, session_id: str, count: int, batch: int) -> None:
    async with conversation(database, session_id) as session:
        await _fill(session, count, batch)
        last = await session.get_items(limit=20)
        if last != messages(count)[-20:]:
            raise AssertionError(f"{type(session).__name__} does not give back what it was given")


async def _fill(session: Conversation, count: int, batch: int) -> None:
    items = messages(count)
    for start in range(0, count, batch):
        await session.add_items(items[start : start + batch])


async def _limits(stack: AsyncExitStack, directory: Path, aged: int) -> dict[str, list[Contender]]:
    """The calls that show what the machine can do, by work."""
    blobs = cycle([msgspec.json.encode(message) for message in messages(997, seed=1)])

    async def inserts(synchronous: str) -> AbstractAsyncContextManager[Call]:
        bare = stack.enter_context(closing(BareInserts(directory / f"{synchronous}.db", synchronous)))
        for _ in range(aged):
            await bare.insert(next(blobs))
        return nullcontext(lambda: bare.insert(next(blobs)))

    return {
        "add_1": [("bare-normal", await inserts("NORMAL")), ("bare-full", await inserts("FULL"))],
        "get_100": [("bare-decode", nullcontext(bare_decode(messages(100))))],
        "get_1000": [("bare-decode", nullcontext(bare_decode(messages(1000))))],
    }
