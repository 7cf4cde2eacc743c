"""Many who write at once: sessions on one event loop, where each commit waits for the disk; processes to one session.

`python -m benchmarks.together [--quick]` measures this alone.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from time import perf_counter, perf_counter_ns
from typing import Any, Final, NamedTuple

from benchmarks.checks import check_together
from benchmarks.local import rotated
from benchmarks.messages import messages
from benchmarks.peers import FULL, NORMAL, SDK, Conversation, conversation, opened
from benchmarks.processes import answer, started
from benchmarks.timing import Series

SYSTEMS: Final = {system.name: system for system in (NORMAL, FULL, SDK)}

_supply: Final = messages(997, seed=3)


class Crowd(NamedTuple):
    """How many write, how often."""

    rounds: int
    sessions: int
    """On one loop, each in a task of its own."""
    calls: int
    """Of each of them."""
    processes: int
    adds: int
    """Of each of them."""


MANY: Final = Crowd(5, 64, 20, 8, 100)
FEW: Final = Crowd(2, 16, 5, 2, 20)


class Together(NamedTuple):
    """What was measured."""

    crowd: Crowd
    speed: dict[str, list[float]]
    """Adds per second of each round, with all sessions on one loop, by system."""
    shared: dict[str, Series]
    """Adds of all processes to one session, by system."""

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        times = {name: series.summary() for name, series in self.shared.items()}
        speed = {name: [round(each) for each in found] for name, found in self.speed.items()}
        return {"crowd": self.crowd._asdict(), "adds_per_second": speed, "one_session": times}


async def measure_together(directory: Path, crowd: Crowd) -> Together:
    """Both, by turns."""
    speed = await _measure_sessions(directory / "sessions", crowd)
    return Together(crowd, speed, _measure_processes(directory / "processes", crowd))


async def _measure_sessions(directory: Path, crowd: Crowd) -> dict[str, list[float]]:
    speed: dict[str, list[float]] = {FULL.name: [], SDK.name: []}
    async with AsyncExitStack() as stack:
        all_sessions = {}
        for name in speed:
            place = directory / name
            place.mkdir(parents=True)
            database = await stack.enter_async_context(opened(SYSTEMS[name], place))
            all_sessions[name] = [
                await stack.enter_async_context(conversation(database, f"s{number}"))
                for number in range(crowd.sessions)
            ]
            await _add_at_once(all_sessions[name], crowd.calls)
        for number in range(crowd.rounds):
            for name, sessions in rotated(list(all_sessions.items()), number):
                speed[name].append(await _add_at_once(sessions, crowd.calls))
    return speed


async def _add_at_once(sessions: Sequence[Conversation], calls: int) -> float:
    async def add(session: Conversation) -> None:
        for place in range(calls):
            await session.add_items([_supply[place]])

    start = perf_counter()
    await asyncio.gather(*map(add, sessions))
    return len(sessions) * calls / (perf_counter() - start)


def _measure_processes(directory: Path, crowd: Crowd) -> dict[str, Series]:
    found = {NORMAL.name: Series(), SDK.name: Series()}
    with ExitStack() as stack:
        pipes: dict[str, list[Connection]] = {}
        for name in found:
            place = directory / name
            place.mkdir(parents=True)
            pipes[name] = [
                stack.enter_context(started(_add_in_process, name, place, crowd.adds)) for _ in range(crowd.processes)
            ]
        for pipe in [pipe for each in pipes.values() for pipe in each]:
            answer(pipe)
        for number in range(crowd.rounds):
            for name, theirs in rotated(list(pipes.items()), number):
                for pipe in theirs:
                    pipe.send("go")
                found[name].rounds.append([time for pipe in theirs for time in answer(pipe)])
    return found


def _add_in_process(name: str, directory: Path, adds: int, pipe: Connection) -> None:
    async def main() -> None:
        async with opened(SYSTEMS[name], directory) as database, conversation(database, "shared") as session:
            await session.add_items([_supply[0]])
            pipe.send("ready")
            while pipe.recv():
                times = []
                for place in range(adds):
                    start = perf_counter_ns()
                    await session.add_items([_supply[place]])
                    times.append(perf_counter_ns() - start)
                pipe.send(times)

    asyncio.run(main())


def main() -> int:
    """Measure this alone, and print the figures."""
    with tempfile.TemporaryDirectory(prefix="localfirst-benchmark-") as directory:
        measured = asyncio.run(measure_together(Path(directory), FEW if "--quick" in sys.argv[1:] else MANY))
    for check in check_together(measured):
        print(check.line())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
