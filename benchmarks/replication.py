"""What replication behind its back costs an agent: adds while there is nothing else to send, and while there is much.

    alone   no central store, so no worker
    idle    the worker runs; the adds themselves are all there is to send
    busy    the worker runs at full speed: many other sessions, written before it began, go out meanwhile

Adds come `PACE` seconds apart, more often than an agent can have them: so the worker gets its turns in between, and
`idle` is not a full speed of another kind.

`python -m benchmarks.replication [--quick]` measures replication itself, for each kind of server, in three minutes:

    latency   from `add_items` in one process to the event in another, beside a bare message by way of the same server
    idle      processor time and round trips of a store that knows many sessions and has nothing to do
    bulk      bytes on the wire, both ways, for each byte of items that were written offline
"""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import asyncpg
import msgspec
from redis.asyncio import Redis

import localfirst
from benchmarks.local import Effort
from benchmarks.messages import messages
from benchmarks.timing import Series
from localfirst import SessionEvent
from localfirst.session import Session
from localfirst.store import Store
from localfirst.testing.servers import BinaryNotFoundError, PostgresServer, RedisServer, ServerProcess
from sync.worker import LOOK_INTERVAL
from tests.faults.proxy import Proxy

if TYPE_CHECKING:
    from benchmarks.checks import Check

PACE: Final = 0.001
CHANGES: Final = 100
"""In each session of the backlog."""
_ADDS: Final = 1000
"""In a round, alone and idle; busy ones go on for as long as there is a backlog."""
_WARM_UP: Final = 20

_supply: Final = messages(997, seed=2)


class Replication(NamedTuple):
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


async def measure_replication(directory: Path, effort: Effort) -> Replication:
    """Adds alone, busy and idle, by turns, in one store."""
    series = {name: Series() for name in ("alone", "idle", "busy")}
    sent, seconds = 0, 0.0
    with _remote(directory / "central") as (kind, url):
        for number in range(effort.replication_rounds):
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
    return Replication(kind, series, sent / seconds)


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


# Replication itself.

SERVERS: Final[dict[str, Callable[[], ServerProcess]]] = {
    "Redis": RedisServer,
    "Postgres": lambda: PostgresServer(fsync=True),
}
REST: Final = (0.025, 0.045)
"""Seconds between two adds: longer than `sync_interval`, within which a write waits for others."""
KNOWN: Final = 1000
"""Sessions of the idle store."""
POLL_INTERVAL: Final = 5.0
_SLOW_LINE: Final = 0.02
"""Seconds each way, so that the proxy can tell round trips apart."""
_POLLS_PER_INTERVAL: Final = 1.12
"""One each, and they come 0.9 to 1.0 intervals apart. What keeps the connection for hints alive counts too."""
_BARE_LOOPS: Final = 3
_CHANNEL: Final = "benchmark"
_ANSWER_SECONDS: Final = 60.0


class Amount(NamedTuple):
    """How much is measured."""

    rounds: int
    adds: int
    """In a round."""
    idle_polls: int
    """In a round."""
    bulk: int
    """Items in a round."""


MUCH: Final = Amount(rounds=5, adds=100, idle_polls=2, bulk=5000)
LITTLE: Final = Amount(rounds=2, adds=20, idle_polls=1, bulk=500)


class Link(NamedTuple):
    """What was measured with one kind of server. The lists have a number for each round."""

    remote: str
    latency: Series
    """From the call in one process to the event in another."""
    message: Series
    """Of a bare message."""
    idle_cpu: list[float]
    """Percent of a core."""
    looks_cpu: list[float]
    """As much of a loop that does nothing but wake as often."""
    requests: list[float]
    """Round trips per poll interval."""
    wire: list[float]
    """Bytes on the wire per byte of items."""

    def checks(self) -> list[Check]:
        """The figures that were set."""
        from benchmarks.checks import Check

        medians, p99s = _milliseconds(self.latency.medians), _milliseconds(self.latency.p99s)
        bare = _milliseconds(self.message.medians)
        found: list[tuple[str, float | None, list[float]]] = [
            ("add to visible elsewhere, ms, median", 10.0, medians),
            ("add to visible elsewhere, ms, p99", 50.0, p99s),
            ("bare message, ms, median", None, bare),
            ("add to visible / bare message", None, [one / other for one, other in zip(medians, bare, strict=True)]),
            (f"idle, {KNOWN:,} sessions, % of a core", 0.5, self.idle_cpu),
            ("a bare loop that wakes as often, % of a core", None, self.looks_cpu),
            ("idle, round trips per poll interval", _POLLS_PER_INTERVAL, self.requests),
            ("bulk upload, bytes on the wire / bytes of items", 1.3, self.wire),
        ]
        return [Check(f"{self.remote}: {name}", True, bound, ratios) for name, bound, ratios in found]


def _milliseconds(microseconds: list[float]) -> list[float]:
    return [time / 1000 for time in microseconds]


async def measure_links(directory: Path, amount: Amount) -> list[Link]:
    """All of it. The idle stores wait side by side."""
    with ExitStack() as stack:
        servers = {name: stack.enter_context(make()) for name, make in SERVERS.items()}
        times = {name: await _latency(directory / name, server.url, amount) for name, server in servers.items()}
        waiting = [asyncio.to_thread(_idle, directory / name, server, amount) for name, server in servers.items()]
        idle = await asyncio.gather(*waiting)
        wires = [
            [await _bulk(directory / name / f"bulk-{number}", server, amount) for number in range(amount.rounds)]
            for name, server in servers.items()
        ]
    return [Link(name, *times[name], *found, wire) for name, found, wire in zip(servers, idle, wires, strict=True)]


@contextmanager
def _process(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A process with the other end of a pipe, which says when it is ready."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    try:
        _answer(ours)
        yield ours
    finally:
        process.kill()
        process.join()


def _answer(pipe: Connection) -> Any:
    if not pipe.poll(_ANSWER_SECONDS):
        raise TimeoutError("a process of the benchmark does not answer")
    return pipe.recv()


# Latency.


async def _latency(directory: Path, url: str, amount: Amount) -> tuple[Series, Series]:
    """Adds and bare messages by turns."""
    adds, bare = Series(), Series()
    with _process(_watch, directory / "b", url) as pipe, localfirst.open(directory / "a", remote=url) as store:
        session = store.session("watched")

        async def add(number: int) -> None:
            await session.add_items([{**_supply[number % len(_supply)], "number": number}])

        async with _sender(url) as send:
            for _ in range(amount.rounds):
                adds.rounds.append([await _until_heard(pipe, add, number) for number in range(amount.adds)])
                bare.rounds.append([await _until_heard(pipe, send, number) for number in range(amount.adds)])
    return adds, bare


async def _until_heard(pipe: Connection, send: Callable[[int], Awaitable[Any]], number: int) -> int:
    await asyncio.sleep(random.uniform(*REST))
    start = time.monotonic_ns()
    await send(number)
    heard, at = await asyncio.to_thread(_answer, pipe)
    if heard != number:
        raise AssertionError(f"{heard} was heard where {number} was sent")
    return int(at - start)


@asynccontextmanager
async def _sender(url: str) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    """Sends bare messages."""
    if url.startswith("redis"):
        async with Redis.from_url(url) as client:
            yield lambda number: client.publish(_CHANNEL, number)
    else:
        connection = await asyncpg.connect(url)
        yield lambda number: connection.execute("select pg_notify($1, $2)", _CHANNEL, str(number))
        await connection.close()


def _watch(directory: Path, url: str, pipe: Connection) -> None:
    """In a process: tell when a number was heard, in an item or a bare message. They come by turns."""
    with localfirst.open(directory, remote=url) as store:

        def hear(items: list[Any]) -> None:
            now = time.monotonic_ns()
            for item in items:
                pipe.send((item["number"], now))

        session = store.session("watched")
        session.on(SessionEvent.REMOTE_CHANGED, hear)
        session.refresh(_ANSWER_SECONDS)
        asyncio.run(_listen(url, pipe))


async def _listen(url: str, pipe: Connection) -> None:
    if url.startswith("redis"):
        async with Redis.from_url(url) as client, client.pubsub() as listener:
            await listener.subscribe(_CHANNEL)
            pipe.send("ready")
            async for message in listener.listen():
                if message["type"] == "message":
                    pipe.send((int(message["data"]), time.monotonic_ns()))
    else:
        connection = await asyncpg.connect(url)
        await connection.add_listener(_CHANNEL, lambda *heard: pipe.send((int(heard[-1]), time.monotonic_ns())))
        pipe.send("ready")
        await asyncio.Event().wait()


# What it costs to have nothing to do.


def _idle(directory: Path, server: ServerProcess, amount: Amount) -> tuple[list[float], list[float], list[float]]:
    cpu, requests = [], []
    with localfirst.open(directory / "author", remote=server.url, namespace="idle") as store:
        for number in range(KNOWN):
            store.session(f"s{number}").add_message("user", "hello")
        store.flush(_ANSWER_SECONDS)
    with Proxy(server.port) as proxy:
        proxy.delay(_SLOW_LINE)
        with _process(_rest, directory / "idle", proxy.url(server.url)) as pipe:
            looks = [_answer(pipe) for _ in range(_BARE_LOOPS)]
            for _ in range(amount.rounds):
                before = proxy.traffic.requests
                pipe.send(POLL_INTERVAL * amount.idle_polls)
                cpu.append(_answer(pipe))
                requests.append((proxy.traffic.requests - before) / amount.idle_polls)
    return cpu, looks, requests


def _rest(directory: Path, url: str, pipe: Connection) -> None:
    """In a process: know all sessions, do nothing, and tell how much of a core that took."""

    looks = [_share_of_a_core(_look_for_nothing, 1.0) for _ in range(_BARE_LOOPS)]
    with localfirst.open(directory, remote=url, namespace="idle", poll_interval=POLL_INTERVAL) as store:
        store.refresh(_ANSWER_SECONDS)
        time.sleep(POLL_INTERVAL)  # What begins with a store is over then.
        pipe.send("ready")
        for share in looks:
            pipe.send(share)
        while True:
            pipe.send(_share_of_a_core(time.sleep, pipe.recv()))


def _look_for_nothing(seconds: float) -> None:
    async def look() -> None:
        for _ in range(round(seconds / LOOK_INTERVAL)):
            await asyncio.sleep(LOOK_INTERVAL)

    asyncio.run(look())


def _share_of_a_core(rest: Callable[[float], None], seconds: float) -> float:
    """Percent that this process takes meanwhile."""
    start, used = time.monotonic(), time.process_time()
    rest(seconds)
    return 100 * (time.process_time() - used) / (time.monotonic() - start)


# What goes over the wire.


async def _bulk(directory: Path, server: ServerProcess, amount: Amount) -> float:
    """Bytes on the wire per byte of items, one call each, in ten sessions."""
    namespace = f"bulk-{directory.name}"
    items = [_supply[number % len(_supply)] for number in range(amount.bulk)]
    async with localfirst.open(directory, remote="", namespace=namespace) as store:
        for number, item in enumerate(items):
            await store.session(f"s{number % 10}").add_items([item])
    with Proxy(server.port) as proxy:
        async with localfirst.open(directory, remote=proxy.url(server.url), namespace=namespace) as store:
            await store.aflush(_ANSWER_SECONDS)
        moved = proxy.traffic.up + proxy.traffic.down
    return moved / sum(len(msgspec.json.encode(item)) for item in items)


def main() -> int:
    """Measure replication itself, and print the figures."""
    amount = LITTLE if "--quick" in sys.argv[1:] else MUCH
    with tempfile.TemporaryDirectory(prefix="localfirst-benchmark-") as directory:
        links = asyncio.run(measure_links(Path(directory), amount))
    for check in [check for link in links for check in link.checks()]:
        verdict = {True: "", False: "  missed", None: ""}[check.met]
        seen = f"{check.seen:.2f} ({min(check.ratios):.2f} - {max(check.ratios):.2f})"
        print(f"{check.name:60} {check.wanted:>7}  {seen}{verdict}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
