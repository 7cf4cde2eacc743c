"""Several replicas at once: what one pushed stays together and in order."""

from __future__ import annotations

import asyncio
from itertools import groupby

from localfirst.change import decode_change
from localfirst.testing.conformance.harness import Bench, Case, bodies, following, run, whole_log
from sync.central.base import CentralStore, LogEntry, Pushed, PushStatus

ROUNDS = 15
RUN_LENGTH = 7


async def two_replicas_race(bench: Bench) -> None:
    """Two replicas push to one session: both orders are kept, and no seq is given twice or left out."""
    await _race(bench, 2)


async def eight_replicas_race(bench: Bench) -> None:
    """Eight do, and no run is torn apart."""
    await _race(bench, 8)


async def one_replica_races_itself(bench: Bench) -> None:
    """A replica whose answer was slow pushes again on another connection: the run is in the log once."""
    stores = [await bench.open() for _ in range(8)]
    answers = await asyncio.gather(*(store.push([run("s", "r1", 1, 20)]) for store in stores))
    pushed = [each for [each] in answers]
    assert sorted(each.admitted for each in pushed) == [0] * 7 + [20]
    assert {(each.status, each.acked, each.head) for each in pushed} == {(PushStatus.OK, 20, 20)}
    assert bodies(await whole_log(stores[0], "s")) == run("s", "r1", 1, 20).changes


async def eight_make_one_session(bench: Bench) -> None:
    """Of eight that make a session at once one gives it its generation, and all are in it."""
    stores = [await bench.open() for _ in range(8)]
    runs = [run("s", f"r{i}", 1, 2, generation=f"generation-{i}") for i in range(8)]
    answers = await asyncio.gather(*(store.push([each]) for store, each in zip(stores, runs, strict=True)))
    assert len({pushed.generation for [pushed] in answers}) == 1
    assert {pushed.status for [pushed] in answers} == {PushStatus.OK}
    _check_runs(await whole_log(stores[0], "s"), 2)


async def reader_sees_whole_runs(bench: Bench) -> None:
    """Whoever pulls while others push sees whole runs, and a head that fits them."""
    writer, reader = await bench.open(), await bench.open()
    writing = asyncio.create_task(_push_all(writer, "r1"))
    while not writing.done():
        _check_runs(await whole_log(reader, "s"), RUN_LENGTH)
        [head] = await reader.heads(["s"])
        assert head is None or head.seq % RUN_LENGTH == 0
        await asyncio.sleep(0)  # a store that never waits would keep the writer out
    await writing


async def _race(bench: Bench, replicas: int) -> None:
    stores = [await bench.open() for _ in range(replicas)]
    answers = await asyncio.gather(*(_push_all(store, f"r{i}") for i, store in enumerate(stores)))
    log = await whole_log(stores[0], "s")
    assert len(log) == replicas * ROUNDS * RUN_LENGTH
    _check_runs(log, RUN_LENGTH)
    ends = sorted(pushed.head for pushes in answers for pushed in pushes)
    assert ends == list(range(RUN_LENGTH, len(log) + 1, RUN_LENGTH)), "every push has an end of the log of its own"


async def _push_all(store: CentralStore, origin: str) -> list[Pushed]:
    firsts = range(1, ROUNDS * RUN_LENGTH, RUN_LENGTH)
    [pushed] = await store.push([run("s", origin, 1, RUN_LENGTH)])
    answers = [pushed]
    for first in firsts[1:]:
        answers += await store.push([following("s", origin, first, RUN_LENGTH, generation=pushed.generation)])
    assert {(each.status, each.admitted) for each in answers} == {(PushStatus.OK, RUN_LENGTH)}
    return answers


def _check_runs(log: list[LogEntry], length: int) -> None:
    made = [decode_change(entry.data) for entry in log]
    for origin in {change.origin for change in made}:
        counters = [change.counter for change in made if change.origin == origin]
        assert counters == list(range(1, len(counters) + 1)), f"{origin} is out of order"
    runs = groupby(made, key=lambda change: (change.origin, (change.counter - 1) // length))
    assert {len(list(group)) for _, group in runs} <= {length}, "a run was torn apart"


CASES: tuple[Case, ...] = (
    two_replicas_race,
    eight_replicas_race,
    one_replica_races_itself,
    eight_make_one_session,
    reader_sees_whole_runs,
)
