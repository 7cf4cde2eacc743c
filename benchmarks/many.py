"""Stores of few sessions and of very many: how soon they open, what an add takes, and what they take of memory and
disk.

`python -m benchmarks.many [--quick]` measures this alone.
"""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
import tempfile
from contextlib import closing
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

import msgspec

import localfirst
from benchmarks.checks import check_many
from benchmarks.messages import messages
from benchmarks.timing import Series, measure
from localfirst.change import APPEND, MAIN_BRANCH, Change, encode_change
from localfirst.clock import wall_time
from localfirst.identity import Identity
from localfirst.log import Log
from localfirst.records import Head, session_key
from localfirst.rows import Rows
from localfirst.store import Store

_BATCH: Final = 500
_supply: Final = messages(997, seed=4)


class Counts(NamedTuple):
    """How many sessions there are, of one item each."""

    few: int
    many: int
    rounds: int
    read: int
    """Sessions that are read one after the other, to see what of them stays in memory."""
    items: int
    """Of one session, to see what they take on disk."""


THOROUGH: Final = Counts(1_000, 100_000, 5, 20_000, 20_000)
QUICK: Final = Counts(100, 1_000, 2, 1_000, 500)


class Many(NamedTuple):
    """What was measured."""

    counts: Counts
    opening: dict[str, Series]
    """Of the store with `few` sessions, and that with `many`."""
    adding: dict[str, Series]
    memory: int
    """Bytes that the process took more, when many sessions had been read."""
    disk: float
    """Bytes of the database per byte of items, when the write-ahead log was moved into it."""

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        series = {"open": self.opening, "add_1": self.adding}
        times = {name: {size: each.summary() for size, each in both.items()} for name, both in series.items()}
        return {**times, "counts": self.counts._asdict(), "memory_bytes": self.memory, "disk": round(self.disk, 3)}


async def measure_many(directory: Path, counts: Counts) -> Many:
    """All of it, by turns."""
    places = {"few": directory / "few", "many": directory / "many"}
    for name, place in places.items():
        _fill(place, {f"user-{number}": 1 for number in range(getattr(counts, name))})
    opening, adding = {name: Series() for name in places}, {name: Series() for name in places}
    for _ in range(counts.rounds):
        for name, place in places.items():
            opening[name].rounds.append([_time_of_opening(place) for _ in range(3)])
            async with _open(place) as store:
                adding[name].rounds.append(await _adds(store))
    memory = _memory_of_reader(places["many"], counts.read)
    return Many(counts, opening, adding, memory, _disk(directory / "items", counts.items))


def _open(place: Path) -> Store:
    return localfirst.open(place, remote="")


def _fill(place: Path, sizes: dict[str, int]) -> int:
    """Make sessions of so many items, many in a transaction; returns the bytes of the items."""
    _open(place).close()
    written = 0
    with closing(Rows(place / "data")) as rows:
        log, origin, session_ids = Log(rows), Identity(rows).replica_id(), list(sizes)
        for start in range(0, len(session_ids), _BATCH):
            with rows.transaction():
                for session_id in session_ids[start : start + _BATCH]:
                    key = session_key("default", session_id)
                    log.create(key, Head("default", session_id, origin=origin))
                    for slot in range(1, sizes[session_id] + 1):
                        item = msgspec.json.encode(_supply[slot % len(_supply)])
                        change = Change(origin, slot, wall_time(), 0, MAIN_BRANCH, APPEND, b"[%b]" % item)
                        log.append(key, slot, [encode_change(change)])
                        written += len(item)
        rows.shrink()
    return written


def _time_of_opening(place: Path) -> int:
    start = perf_counter_ns()
    store = _open(place)
    time = perf_counter_ns() - start
    store.close()
    return time


async def _adds(store: Store) -> list[int]:
    session, item = store.session("user-7"), _supply[:1]
    return await measure(lambda: session.add_items(item), 200, 1.0)


def _disk(place: Path, items: int) -> float:
    written = _fill(place, {"one": items})
    return (place / "data" / "cache.db").stat().st_size / written


def _memory_of_reader(place: Path, read: int) -> int:
    """By how many bytes a process grows that reads so many sessions: one of its own, for this one has memory to spare
    from what it measured before."""
    command = [sys.executable, "-m", "benchmarks.many", "--read", str(place), str(read)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _read(place: Path, read: int) -> int:
    with _open(place) as store:
        len(store.session("user-0"))
        before = _resident()
        for number in range(read):
            len(store.session(f"user-{number}"))
        return _resident() - before


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize()


def main() -> int:
    """Measure this alone, and print the figures."""
    if sys.argv[1:2] == ["--read"]:
        print(_read(Path(sys.argv[2]), int(sys.argv[3])))
        return 0
    with tempfile.TemporaryDirectory(prefix="localfirst-benchmark-") as directory:
        measured = asyncio.run(measure_many(Path(directory), QUICK if "--quick" in sys.argv[1:] else THOROUGH))
    for check in check_many(measured):
        print(check.line())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
