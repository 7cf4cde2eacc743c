"""Checkpoints of a log that goes on: what they stand for is dropped, and nothing else changes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from localfirst.change import EMPTY_DIGEST
from localfirst.testing.conformance.harness import (
    GENERATION,
    PAGE,
    Bench,
    Case,
    admitted,
    bodies,
    changes,
    digest_of,
    end_of,
    following,
    grow,
    having,
    nothing_of,
    run,
    whole_log,
)
from sync.central.base import CentralStore, Checkpoint, Head, LogEntry, Pulled, PushStatus
from sync.central.digests import digest_after


def upto(log: Sequence[LogEntry], *, data: bytes = b"folded") -> Checkpoint:
    """A checkpoint of a log up to its last entry."""
    return Checkpoint(GENERATION, len(log), digest_of(log), data)


async def _filled(bench: Bench, count: int) -> tuple[CentralStore, Head, list[LogEntry]]:
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, count))
    return store, await end_of(store, "s"), log


async def no_checkpoint_at_first(bench: Bench) -> None:
    """Neither a missing session has one, nor one with all of its changes."""
    store, _, _ = await _filled(bench, 3)
    assert await store.checkpoint("s") is None
    assert await store.checkpoint("missing") is None


async def checkpoint_comes_back(bench: Bench) -> None:
    """What was put comes back to the bit, and stands in nobody else's place. The head is as it was."""
    store, head, log = await _filled(bench, 10)
    await store.push([run("other", "r1", 1, 10)])
    data = bytes(range(256)) + b"\r\n{}'\xff\0"
    assert await store.put_checkpoint("s", head, upto(log[:4], data=data), {}) is True
    assert await store.checkpoint("s") == upto(log[:4], data=data)
    assert await store.checkpoint("other") is None
    assert await store.heads(["s"]) == [head]
    assert bodies(await whole_log(store, "other")) == changes("r1", 1, 10)


async def empty_checkpoint_comes_back(bench: Bench) -> None:
    """No data are data too."""
    store, head, log = await _filled(bench, 2)
    assert await store.put_checkpoint("s", head, upto(log[:1], data=b""), {})
    assert await store.checkpoint("s") == upto(log[:1], data=b"")
    assert bodies((await store.pull([having("s", log[:1])], PAGE))[0].entries) == changes("r1", 2, 1)


async def pull_goes_on_from_the_floor(bench: Bench) -> None:
    """From the floor on a page is what it was; below it, and for who has nothing, there is only the checkpoint."""
    store, head, log = await _filled(bench, 10)
    assert await store.put_checkpoint("s", head, upto(log[:4]), {})
    for after in range(4, 11):
        assert await store.pull([having("s", log[:after])], PAGE) == [Pulled(head, False, log[after:])]
    again = [having("s", known) for known in (log[:0], log[:1], log[:3], [*log, log[-1]])]
    again += [nothing_of("s"), having("s", log[:5], generation="other")]
    assert await store.pull(again, PAGE) == [Pulled(head, True, [])] * len(again)
    [tiny] = await store.pull([having("s", log[:4])], 1)
    assert [entry.seq for entry in tiny.entries] == [5]


async def whole_log_can_be_compacted(bench: Bench) -> None:
    """A checkpoint may stand for all there is; the log then goes on from it."""
    store, head, log = await _filled(bench, 5)
    assert await store.put_checkpoint("s", head, upto(log), {})
    assert await store.pull([having("s", log)], PAGE) == [Pulled(head, False, [])]
    assert await store.pull([nothing_of("s")], PAGE) == [Pulled(head, True, [])]
    assert await store.sessions("", 10) == ["s"]
    [pushed] = await store.push([following("s", "r1", 6, 2)])
    assert (pushed.status, pushed.acked, pushed.admitted, pushed.head) == (PushStatus.OK, 7, 2, 7)
    [page] = await store.pull([having("s", log)], PAGE)
    assert [(entry.seq, entry.data) for entry in page.entries] == list(enumerate(changes("r1", 6, 2), 6))


async def push_goes_on_after_a_checkpoint(bench: Bench) -> None:
    """Counters, digest and generation are as before: what is folded is known, what overlaps or leaves a gap refused."""
    store, _, log = await _filled(bench, 4)
    log += await grow(store, run("s", "r2", 1, 4))
    head = await end_of(store, "s")
    assert await store.put_checkpoint("s", head, upto(log[:6]), {"r1": 99, "r9": 9})
    answers = await store.push(
        [
            run("s", "r1", 1, 4),
            following("s", "r2", 1, 2),
            following("s", "r1", 3, 4),
            run("s", "r1", 6, 1),
            run("s", "r9", 10, 1),
            following("s", "r1", 5, 1, generation="generation-2"),
        ]
    )
    expected = [("OK", 4), ("OK", 4), ("OVERLAP", 4), ("GAP", 4), ("GAP", 0), ("GENERATION", 4)]
    assert [(each.status.name, each.acked) for each in answers] == expected
    assert {(each.admitted, each.generation, each.head, each.digest) for each in answers} == {(0, *head)}
    added = [following("s", "r1", 5, 2), run("s", "r3", 1, 2)]
    one, other = await store.push(added)
    assert (one.status, one.acked, one.head) == (PushStatus.OK, 6, 10)
    assert (other.status, other.acked, other.head) == (PushStatus.OK, 2, 12)
    more = [*admitted(added[0], one), *admitted(added[1], other)]
    assert other.digest == digest_after(head.digest, more)
    [page] = await store.pull([having("s", log[:6])], PAGE)
    assert page == Pulled(Head(GENERATION, 12, other.digest), False, log[6:] + more)


async def floor_only_rises(bench: Bench) -> None:
    """A later checkpoint takes the place of an earlier one, also one of the same seq; one that stands for less is
    refused."""
    store, head, log = await _filled(bench, 10)
    assert await store.put_checkpoint("s", head, upto(log[:3]), {})
    assert await store.put_checkpoint("s", head, upto(log[:7], data=b"more"), {})
    assert await store.put_checkpoint("s", head, upto(log[:7], data=b"the same, sealed anew"), {})
    for seq in (6, 3, 0):
        assert await store.put_checkpoint("s", head, upto(log[:seq], data=b"less"), {}) is False
    assert await store.checkpoint("s") == upto(log[:7], data=b"the same, sealed anew")
    [page] = await store.pull([having("s", log[:7])], PAGE)
    assert page.entries == log[7:]


async def other_end_is_refused(bench: Bench) -> None:
    """A log that doesn't end where the author saw it end keeps all it has."""
    store, head, log = await _filled(bench, 5)
    wrong = (
        None,
        head._replace(generation="generation-2"),
        head._replace(seq=4),
        head._replace(seq=6),
        head._replace(digest=head.digest + 1),
        head._replace(digest=head.digest ^ 1 << 32),
        Head("", 0, EMPTY_DIGEST),
    )
    for expected in wrong:
        assert await store.put_checkpoint("s", expected, upto(log[:3]), {}) is False
        assert await store.put_checkpoint("s", expected, upto(log[:3])._replace(generation="new"), {"r1": 1}) is False
    await _is_untouched(store, head)
    await store.push([following("s", "r1", 6, 1)])
    assert await store.put_checkpoint("s", head, upto(log[:3]), {}) is False, "the log went on meanwhile"
    assert len(await whole_log(store, "s")) == 6


async def checkpoint_beyond_the_end_is_refused(bench: Bench) -> None:
    """Nobody can stand for what isn't there, nor for nothing."""
    store, head, log = await _filled(bench, 5)
    for seq in (6, 1_000, 0):
        assert await store.put_checkpoint("s", head, upto(log[:3])._replace(seq=seq), {}) is False
    await _is_untouched(store, head)


async def _is_untouched(store: CentralStore, head: Head) -> None:
    assert await store.checkpoint("s") is None
    assert await store.heads(["s"]) == [head]
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, head.seq)


async def the_greatest_of_eight_compactions_stands(bench: Bench) -> None:
    """Eight that fold the same log at once: each is whole or refused, and what stands is the greatest that was put."""
    stores = [await bench.open() for _ in range(8)]
    log = await grow(stores[0], run("s", "r1", 1, 40))
    head = await end_of(stores[0], "s")
    same = [upto(log[:20], data=b"from %d" % i) for i in range(8)]
    won = await asyncio.gather(*(a.put_checkpoint("s", head, b, {}) for a, b in zip(stores, same, strict=True)))
    assert all(won)
    assert await stores[0].checkpoint("s") in same
    rising = [upto(log[: 22 + i], data=b"%d" % i) for i in range(8)]
    won = await asyncio.gather(*(a.put_checkpoint("s", head, b, {}) for a, b in zip(stores, rising, strict=True)))
    stands = max(seq for seq, done in zip(range(22, 30), won, strict=True) if done)
    assert await stores[1].checkpoint("s") == upto(log[:stands], data=b"%d" % (stands - 22))
    [page] = await stores[2].pull([having("s", log[:stands])], PAGE)
    assert page.entries == log[stands:]


async def compaction_races_pushes(bench: Bench) -> None:
    """Replicas push while another folds what it has read: no change is lost, and none is there twice."""
    writers, folder = [await bench.open() for _ in range(2)], await bench.open()
    await folder.push([run("s", "r0", 1, 1)])
    pushing = asyncio.gather(*(_push_on(store, f"r{number}") for number, store in enumerate(writers, 1)))
    log: list[LogEntry] = []
    while not pushing.done() or len(log) < (await end_of(folder, "s")).seq:
        [page] = await folder.pull([having("s", log)], PAGE)
        assert not page.resync
        assert page.head is not None
        log += page.entries
        assert page.head == Head(GENERATION, len(log), digest_of(log))
        if page.entries:
            await folder.put_checkpoint("s", page.head, upto(log), {})
        await asyncio.sleep(0)  # a store that never waits would keep the writers out
    await pushing
    assert await folder.checkpoint("s") is not None
    data = bodies(log)
    assert sorted(data) == sorted(changes("r0", 1, 1) + changes("r1", 1, 60) + changes("r2", 1, 60))
    assert data.index(changes("r1", 1, 1)[0]) < data.index(changes("r1", 60, 1)[0])


async def _push_on(store: CentralStore, origin: str) -> None:
    for first in range(1, 60, 3):
        [pushed] = await store.push([run("s", origin, first, 3)])
        assert (pushed.status, pushed.acked, pushed.admitted) == (PushStatus.OK, first + 2, 3)


async def large_log_is_compacted(bench: Bench) -> None:
    """Dropping 20,000 changes is one step."""
    store, head, log = await _filled(bench, 1)
    log += await grow(store, run("s", "r1", 2, 20_000))
    head = await end_of(store, "s")
    assert await store.put_checkpoint("s", head, upto(log[:20_000]), {})
    assert await store.pull([having("s", log[:20_000])], PAGE) == [Pulled(head, False, log[20_000:])]


CASES: tuple[Case, ...] = (
    no_checkpoint_at_first,
    checkpoint_comes_back,
    empty_checkpoint_comes_back,
    pull_goes_on_from_the_floor,
    whole_log_can_be_compacted,
    push_goes_on_after_a_checkpoint,
    floor_only_rises,
    other_end_is_refused,
    checkpoint_beyond_the_end_is_refused,
    the_greatest_of_eight_compactions_stands,
    compaction_races_pushes,
    large_log_is_compacted,
)
