"""Replication itself, for each kind of server: how soon, how fast, at what cost when idle, and what room costs.

`python -m benchmarks.replication [--quick | --full]` measures this alone. The idle stores rest while the others are
measured: they need a minute, in which they hardly take any time from anybody.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchmarks import bulk, crowd
from benchmarks.checks import check_replication
from benchmarks.idle import LONG, SHORT, Idle, Rest, idler
from benchmarks.latency import Latency, measure_latency
from benchmarks.lives import Room, Sweep, measure_room, measure_sweep
from benchmarks.wire import measure_wire
from localfirst.testing.servers import BinaryNotFoundError, PostgresServer, RedisServer, ServerProcess

SERVERS: Final[dict[str, Callable[[], ServerProcess]]] = {
    "Redis": RedisServer,
    "Postgres": lambda: PostgresServer(fsync=True),
}


class Amount(NamedTuple):
    """How much is measured."""

    rounds: int
    """Of adds, and of uploads."""
    adds: int
    """In a round."""
    rest: Rest
    items: int
    """In an upload."""
    evictions: int
    """In a round, of a session of `evicted` items."""
    evicted: int
    expired: int
    """Sessions that are swept."""
    bulk: bulk.Size
    crowd: crowd.Size


MUCH: Final = Amount(3, 100, LONG, 5000, 10, 1000, 100_000, bulk.SOME, crowd.SOME)
ALL: Final = MUCH._replace(bulk=bulk.MANY, crowd=crowd.MANY)
LITTLE: Final = Amount(2, 10, SHORT, 500, 2, 1000, 500, bulk.FEW, crowd.FEW)


class Replication(NamedTuple):
    """What was measured with one kind of server."""

    remote: str
    latency: Latency
    idle: Idle
    wire: list[float]
    """Bytes on the wire per byte of items, of each upload."""
    room: Room
    sweep: Sweep | None
    """None: the server forgets by itself what expired."""
    bulk: bulk.Bulk
    crowd: crowd.Crowd

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        times = {name: series.summary() for name, series in self.latency._asdict().items()}
        sweep = self.sweep and self.sweep.summary()
        rest = {"bulk": self.bulk.summary(), "crowd": self.crowd.summary()}
        return {
            **times,
            "idle": self.idle._asdict(),
            "wire": self.wire,
            "room": self.room.summary(),
            "sweep": sweep,
            **rest,
        }


class Replications(NamedTuple):
    """What was measured with all of them."""

    found: list[Replication]
    missing: dict[str, str]
    """Why a kind of server was not measured."""


async def measure_replication(directory: Path, amount: Amount) -> Replications:
    """All kinds of servers that can be started here."""
    with ExitStack() as stack:
        servers, missing = _started(stack)
        idlers = [stack.enter_context(idler(directory / name, servers[name], amount.rest)) for name in servers]
        for each in idlers:
            each.wait()
        resting = asyncio.gather(*[asyncio.to_thread(each.measure) for each in idlers])
        times = [
            await measure_latency(directory / name, server.url, amount.rounds, amount.adds)
            for name, server in servers.items()
        ]
        wires = [await _wires(directory / name, server, amount) for name, server in servers.items()]
        rooms = [
            await measure_room(directory / f"room-{name}", server.url, amount.rounds, amount.evictions, amount.evicted)
            for name, server in servers.items()
        ]
        sweeps = [await _sweep(server, amount) for server in servers.values()]
        idle = await resting
        bulks = [
            await bulk.measure_bulk(directory / f"bulk-{name}", name, server, amount.bulk)
            for name, server in servers.items()
        ]
        crowds = [await crowd.measure_crowd(name, server, amount.crowd) for name, server in servers.items()]
    found = zip(servers, times, idle, wires, rooms, sweeps, bulks, crowds, strict=True)
    return Replications([Replication(*each) for each in found], missing)


async def _wires(directory: Path, server: ServerProcess, amount: Amount) -> list[float]:
    return [await measure_wire(directory / f"wire-{number}", server, amount.items) for number in range(amount.rounds)]


async def _sweep(server: ServerProcess, amount: Amount) -> Sweep | None:
    return (
        await measure_sweep(server.url, amount.expired, amount.rounds) if isinstance(server, PostgresServer) else None
    )


def _started(stack: ExitStack) -> tuple[dict[str, ServerProcess], dict[str, str]]:
    servers, missing = {}, {}
    for name, make in SERVERS.items():
        try:
            servers[name] = stack.enter_context(make())
        except BinaryNotFoundError as error:
            missing[name] = str(error)
    return servers, missing


def main() -> int:
    """Measure replication itself, and print the figures."""
    amount = {"--quick": LITTLE, "--full": ALL}.get(sys.argv[-1], MUCH)
    with tempfile.TemporaryDirectory(prefix="localfirst-benchmark-") as directory:
        measured = asyncio.run(measure_replication(Path(directory), amount))
    for name, reason in measured.missing.items():
        print(f"not measured: {name} ({reason})")
    for check in [check for each in measured.found for check in check_replication(each)]:
        print(check.line())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
