"""Many sessions at once: a backlog that goes up, and a new device that fetches it all.

Beside each stands the bare way in which the same bytes go into the same place and come out of it: COPY for Postgres;
for Redis an RPUSH for each change and an LRANGE for each session, pipelined; and, to know what is the utmost, one RPUSH
with all changes of a session. Beside those, what sessions do that write there directly, call by call as an agent does;
they get fewer items, for they take long.

`python -m benchmarks.bulk [--full]` measures this alone.
"""

from __future__ import annotations

import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
import msgspec
from redis.asyncio import Redis

import localfirst
from benchmarks.checks import check_bulk
from benchmarks.messages import messages
from benchmarks.processes import ANSWER_SECONDS
from benchmarks.timing import measure
from localfirst.change import APPEND, MAIN_BRANCH, Change, encode_change
from localfirst.identity import Identity
from localfirst.log import Log
from localfirst.records import Head, session_key
from localfirst.rows import Rows
from localfirst.store import Store
from localfirst.testing.servers import PostgresServer, RedisServer, ServerProcess
from tests.faults.proxy import Proxy

EACH: Final = 100
"""Changes of one item each, in a session."""
DELAY: Final = 0.05
"""Seconds each way, of the slow line."""
_PATIENCE: Final = 300.0
_ADDS: Final = 1000
_RATES: Final = ("push", "bare_push", "best_push", "hydrate", "bare_hydrate", "peer", "near", "far")
_PIPELINE: Final = 30
"""Sessions in one pipeline of bare commands: about 1 MB."""
_TABLE: Final = "benchmark_bare"

_COLUMNS: Final = (
    "select column_name::text from information_schema.columns where table_name = $1 order by ordinal_position"
)

_supply: Final = messages(997, seed=2)


class Size(NamedTuple):
    """How much is moved."""

    sessions: int
    rounds: int
    far: int
    """Sessions that go over the slow line, in a round."""
    peer_items: int
    """Items that the sessions beside write, in a round."""


MANY: Final = Size(1000, 3, 1000, 200)
SOME: Final = Size(100, 3, 100, 100)
FEW: Final = Size(10, 2, 10, 5)


class Bulk(NamedTuple):
    """What was measured with one kind of server: items per second, of each round."""

    remote: str
    items: int
    """In a round, of what is not slow nor a peer."""
    push: list[float]
    bare_push: list[float]
    best_push: list[float]
    """Empty if that is the same."""
    hydrate: list[float]
    bare_hydrate: list[float]
    peer: list[float]
    """Of the session that writes there directly, one item after the other."""
    near: list[float]
    """Another push, from when the central store was reached."""
    far: list[float]
    """The same over a line with `DELAY` each way."""
    adds: list[float]
    """How many times longer a call takes there."""
    trips: list[float]
    """Round trips until the last items of a session are there that was never here."""

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        rates = {name: [round(rate) for rate in rates] for name, rates in self._asdict().items() if name in _RATES}
        return {"items": self.items, **rates, "trips": self.trips}


def fill(directory: Path, namespace: str, sessions: int, each: int = EACH) -> list[bytes]:
    """Write so many sessions into a store that nobody has open, as an agent's calls would; returns all changes."""
    rows = Rows(directory / "data")
    log, origin = Log(rows), Identity(rows).replica_id()
    changes = []
    for number in range(sessions):
        name = f"session-{number:06}"
        key = session_key(namespace, name)
        log.create(key, Head(namespace, name, origin))
        now = time.time_ns() // 1_000_000 << 16
        run = [
            encode_change(
                Change(origin, n + 1, now + n, 0, MAIN_BRANCH, APPEND, msgspec.json.encode([_item(number, n)]))
            )
            for n in range(each)
        ]
        log.append(key, 1, run)
        changes += run
    rows.close()
    return changes


def _item(session: int, place: int) -> dict[str, Any]:
    return _supply[(session * EACH + place) % len(_supply)]


async def measure_bulk(directory: Path, name: str, server: ServerProcess, size: Size) -> Bulk:
    """Rounds of everything, by turns."""
    namespace, template, small = f"bulk-{size.sessions}", directory / "template", directory / "small"
    changes = fill(template, namespace, size.sessions)
    fill(small, namespace, size.far)
    found = Bulk(name, len(changes), [], [], [], [], [], [], [], [], [], [])
    await _warm_up(directory / "warm", server.url)
    with Proxy(server.port) as near, Proxy(server.port) as far:
        far.delay(DELAY)
        async with _SIDES[name](server.url, namespace, changes) as side:
            for number in range(size.rounds):
                await side.clear()
                pushing = push(template, directory / f"a-{number}", server.url, namespace)
                found.push.append(len(changes) / await pushing)
                await side.get()  # Once before, so that both find it in memory.
                found.bare_hydrate.append(await _rate(len(changes), side.get()))
                hydrating = hydrate(directory / f"b-{number}", server.url, namespace)
                found.hydrate.append(await _rate(len(changes), hydrating))
                found.trips.append(await first_trips(directory / f"c-{number}", far, server, namespace))
                for put, rates in zip(side.puts, (found.bare_push, found.best_push), strict=False):
                    rates.append(await _rate(len(changes), put()))
                items = [_item(number, place) for place in range(size.peer_items)]
                found.peer.append(await _rate(len(items), side.peer(f"peer-{number}", items)))
                adds: list[float] = []
                for line, rates in ((near, found.near), (far, found.far)):
                    await side.clear()
                    copy = directory / f"d-{number}-{len(adds)}"
                    shutil.copytree(small, copy)
                    async with localfirst.open(copy, remote=line.url(server.url), namespace=namespace) as store:
                        rates.append(size.far * EACH / await _flush(store))
                    adds.append(await _add(directory / "added", line.url(server.url)))
                found.adds.append(adds[1] / adds[0])
    return found


async def _warm_up(directory: Path, url: str) -> None:
    """The first to come makes the tables."""
    async with localfirst.open(directory, remote=url, namespace="warm-up") as store:
        await store.session("s").add_items([_item(0, 0)])
        await store.aflush(ANSWER_SECONDS)


async def _rate(items: int, call: Awaitable[Any]) -> float:
    start = time.perf_counter()
    await call
    return items / (time.perf_counter() - start)


async def push(template: Path, directory: Path, url: str, namespace: str) -> float:
    """Seconds until all that a store has is in the central store."""
    shutil.copytree(template, directory)
    start = time.perf_counter()
    async with localfirst.open(directory, remote=url, namespace=namespace) as store:
        await store.aflush(_PATIENCE)
        return time.perf_counter() - start


async def _flush(store: Store) -> float:
    """Seconds until it has sent all, from when it has reached the central store."""
    while store.status().state != "online":  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.001)
    start = time.perf_counter()
    await store.aflush(_PATIENCE)
    return time.perf_counter() - start


async def _add(directory: Path, url: str) -> float:
    """Nanoseconds of a call, the median of some."""
    async with localfirst.open(directory, remote=url, namespace="added") as store:
        session = store.session("added", hydrate_timeout=0.0)
        await session.add_items([_item(0, 0)])
        await store.aflush(_PATIENCE)  # There is nothing else to do then.
        return statistics.median(await measure(lambda: session.add_items([_item(0, 0)]), _ADDS, _PATIENCE))


async def hydrate(directory: Path, url: str, namespace: str) -> None:
    """Until all that the central store has is here."""
    async with localfirst.open(directory, remote=url, namespace=namespace) as store:
        await store.arefresh(_PATIENCE)


async def first_trips(directory: Path, proxy: Proxy, server: ServerProcess, namespace: str) -> int:
    """Round trips until the last 20 items of a session are there that was never here."""
    async with localfirst.open(
        directory, remote=proxy.url(server.url), namespace=namespace, poll_interval=600
    ) as store:
        await store.arefresh(_PATIENCE, session_id="session-000001")  # The connection is there.
        before = proxy.traffic.requests
        if len(await store.session("session-000000", hydrate_timeout=_PATIENCE).get_items(20)) != 20:
            raise AssertionError("not all of it came")
        return proxy.traffic.requests - before


class Side(NamedTuple):
    """What there is beside localfirst, on one kind of server."""

    puts: Sequence[Callable[[], Awaitable[Any]]]
    """All changes, the bare way; and the fastest, if that is another."""
    get: Callable[[], Awaitable[Any]]
    """All that localfirst has put."""
    peer: Callable[[str, list[dict[str, Any]]], Awaitable[Any]]
    """Some items as another session writes them, one by one."""
    clear: Callable[[], Awaitable[Any]]
    """Empty the server, so that each round finds what the first one found."""


async def _in_pipelines(client: Redis, commands: Sequence[tuple[Any, ...]], at_once: int = _PIPELINE) -> None:
    for start in range(0, len(commands), at_once):
        pipeline = client.pipeline(transaction=False)
        for command in commands[start : start + at_once]:
            pipeline.execute_command(*command)
        await pipeline.execute()


@asynccontextmanager
async def _beside_redis(url: str, namespace: str, changes: list[bytes]) -> AsyncIterator[Side]:
    from agents.extensions.memory import RedisSession

    runs = [changes[start : start + EACH] for start in range(0, len(changes), EACH)]

    async with Redis.from_url(url) as client:

        async def put() -> None:
            keyed = [(f"bare:{number}", change) for number, run in enumerate(runs) for change in run]
            await _in_pipelines(client, [("RPUSH", *each) for each in keyed], _PIPELINE * EACH)

        async def put_best() -> None:
            await _in_pipelines(client, [("RPUSH", f"best:{number}", *run) for number, run in enumerate(runs)])

        async def get() -> None:
            keys = [f"localfirst:{namespace}:{{session-{number:06}}}:log" for number in range(len(runs))]
            await _in_pipelines(client, [("LRANGE", key, 0, -1) for key in keys])

        async def peer(name: str, items: list[dict[str, Any]]) -> None:
            session = RedisSession(name, redis_client=client)
            for item in items:
                await session.add_items([item])  # type: ignore[list-item]

        yield Side((put, put_best), get, peer, client.flushall)


@asynccontextmanager
async def _beside_postgres(url: str, namespace: str, _: list[bytes]) -> AsyncIterator[Side]:
    from agents.extensions.memory import SQLAlchemySession
    from sqlalchemy.ext.asyncio import create_async_engine

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://"))
    connection = await asyncpg.connect(url)
    await connection.execute(f"create table {_TABLE} (like localfirst.changes including all)")
    names = [name for (name,) in await connection.fetch(_COLUMNS, _TABLE)]
    rows: list[Any] = []

    async def put() -> None:
        await connection.copy_records_to_table(_TABLE, records=rows, columns=names)

    async def get() -> None:
        query = "select * from localfirst.changes where namespace = $1"
        rows[:] = rows or await connection.fetch(query, namespace)
        received: list[bytes] = []

        async def take(data: bytes) -> None:
            received.append(data)

        await connection.copy_from_query(query, namespace, output=take, format="binary")

    async def peer(name: str, items: list[dict[str, Any]]) -> None:
        session = SQLAlchemySession(name, engine=engine, create_tables=True)
        for item in items:
            await session.add_items([item])  # type: ignore[list-item]

    async def clear() -> None:
        await connection.execute(f"truncate localfirst.sessions, localfirst.changes, localfirst.origins, {_TABLE}")

    yield Side((put,), get, peer, clear)
    await connection.close()
    await engine.dispose()


_SIDES: Final = {"Redis": _beside_redis, "Postgres": _beside_postgres}
_SERVERS: Final[dict[str, Callable[[], ServerProcess]]] = {
    "Redis": RedisServer,
    "Postgres": lambda: PostgresServer(fsync=True),
}


async def _main(size: Size) -> None:
    for name, make in _SERVERS.items():
        with make() as server, tempfile.TemporaryDirectory(prefix="localfirst-benchmark-") as directory:
            for check in check_bulk(await measure_bulk(Path(directory), name, server, size)):
                print(check.line())


def main() -> int:
    """Measure and print."""
    asyncio.run(_main(MANY if "--full" in sys.argv[1:] else SOME))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
