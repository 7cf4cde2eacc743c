"""Whether what a puller has is the beginning of the log: told by its digest, wherever in the log it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate

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
    run,
)
from sync.central.base import CentralStore, Checkpoint, Head, LogEntry, Pulled, PushStatus, Want
from sync.central.digests import digest_after

START = Head(GENERATION, 0, EMPTY_DIGEST)


async def _is_compared(
    store: CentralStore, log: Sequence[LogEntry], start: Head = START, *, session_id: str = "s", step: int = 1
) -> None:
    """The log is what begins at `start` and goes on with these entries: at every place (of those after a floor) the
    right digest brings what comes next, and another brings none."""
    digests = list(accumulate(log, lambda digest, entry: digest_after(digest, [entry]), initial=start.digest))
    head = Head(start.generation, start.seq + len(log), digests[-1])
    places = sorted({*range(0, len(log) + 1, step), len(log)})
    right = [Want(session_id, start.generation, start.seq + place, digests[place]) for place in places]
    for want, place, page in zip(right, places, await store.pull(right, 1), strict=True):
        assert page == Pulled(head, False, list(log[place : place + 1])), (
            f"resync, or another entry, at {want} of {head}"
        )
    wrong = [want._replace(digest=digest) for want in right for digest in _others(want.digest)]
    wrong += [want._replace(digest=digests[place - 1]) for want, place in zip(right, places, strict=True) if place]
    for want, page in zip(wrong, await store.pull(wrong, PAGE), strict=True):
        assert page == Pulled(head, True, []), f"no resync at {want} of {head}"


def _others(digest: int) -> Iterable[int]:
    """Each differs in one lane."""
    return digest ^ 1, digest ^ 1 << 32


async def digest_tells_at_every_place(bench: Bench) -> None:
    """At 0, in the middle and at the head, of a log of several runs of several origins."""
    store = await bench.open()
    log: list[LogEntry] = []
    for origin, first, count in (("r1", 1, 3), ("r2", 1, 1), ("r1", 4, 2), ("r3", 1, 4)):
        log += await grow(store, run("s", origin, first, count))
        await _is_compared(store, log)
    await store.push([run("s", "r1", 4, 2), run("s", "r3", 6, 1), run("s", "r3", 4, 2)])  # Nothing of it is admitted.
    await _is_compared(store, log)


async def newcomer_is_not_compared(bench: Bench) -> None:
    """Who has nothing gets the log from its beginning, whatever it says of a place."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 3)])
    for want in (Want("s", None, 0, 1), Want("s", None, 2, 1), Want("s", None, 3, 0), Want("s", None, 9, 9)):
        [page] = await store.pull([want], PAGE)
        assert (page.resync, bodies(page.entries)) == (False, changes("r1", 1, 3))


async def digest_tells_in_a_long_log(bench: Bench) -> None:
    """Thousands of changes of one push, and more after them."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 2_500))
    log += await grow(store, following("s", "r1", 2_501, 700))
    await _is_compared(store, log, step=100)
    for seq in (999, 1_001, 1_999, 2_001, 2_501):
        [page] = await store.pull([having("s", log[:seq])], 1)
        assert page.entries == log[seq : seq + 1]


async def digest_tells_in_each_session_of_a_push(bench: Bench) -> None:
    """Runs to many sessions at once, some of which are refused or known: each has digests of its own."""
    store = await bench.open()
    lengths = {f"s{number}": 1 + number % 5 for number in range(20)}
    first = [run(session_id, "r1", 1, length) for session_id, length in lengths.items()]
    runs = [
        *(following(session_id, "r1", 1 + length, 2) for session_id, length in lengths.items()),
        *(run(session_id, "r2", 1, 3) for session_id in lengths),
    ]
    runs[3::10] = [replace(each, first=each.first + 7) for each in runs[3::10]]
    runs[5::10] = [run(each.session_id, "r1", 1, 1) for each in runs[5::10]]
    expected: dict[str, list[LogEntry]] = {session_id: [] for session_id in lengths}
    for pushes in (first, runs):
        for each, pushed in zip(pushes, await store.push(pushes), strict=True):
            assert pushed.status in (PushStatus.OK, PushStatus.GAP)
            expected[each.session_id] += admitted(each, pushed)
    for session_id, log in expected.items():
        await _is_compared(store, log, session_id=session_id)


async def digest_tells_after_compaction(bench: Bench) -> None:
    """At the floor too, when it rises, and when the log goes on."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 6), run("s", "r2", 1, 6))
    for floor in (1, 4, 7):
        folded = _folded(log[:floor])
        assert await store.put_checkpoint("s", await end_of(store, "s"), folded, {})
        await _is_compared(store, log[floor:], Head(*folded[:3]))
        more = await grow(store, following("s", "r1", len(log) - 5, 2))
        assert len(more) == 2
        log += more
        await _is_compared(store, log[floor:], Head(*folded[:3]))


async def digest_tells_when_all_was_compacted(bench: Bench) -> None:
    """Where the floor is the head, and where the log goes on from there."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 5))
    folded = _folded(log)
    assert await store.put_checkpoint("s", await end_of(store, "s"), folded, {})
    await _is_compared(store, [], Head(*folded[:3]))
    more = await grow(store, run("s", "r2", 1, 2), following("s", "r1", 6, 1))
    await _is_compared(store, more, Head(*folded[:3]))


async def digest_tells_in_a_session_that_was_made(bench: Bench) -> None:
    """It begins with the digest of the checkpoint; also in the place of a session with the same generation once."""
    store = await bench.open()
    made = Checkpoint("made", 9, 7 << 32 | 8, b"folded")
    once = await grow(store, run("s", "r1", 1, 12))
    assert await store.put_checkpoint("s", await end_of(store, "s"), made, {"r1": 1})
    await _is_compared(store, [], Head(*made[:3]))
    await _is_compared(store, await grow(store, following("s", "r1", 2, 4, generation="made")), Head(*made[:3]))
    again = Checkpoint(GENERATION, 11, 3 << 32 | 5, b"again")
    assert await store.put_checkpoint("s", await end_of(store, "s"), again, {})
    await _is_compared(store, await grow(store, run("s", "r1", 1, 1)), Head(*again[:3]))
    head = await end_of(store, "s")
    strangers = [having("s", once[:11]), having("s", once)]
    assert await store.pull(strangers, PAGE) == [Pulled(head, True, [])] * 2


async def rebuilt_log_is_another(bench: Bench) -> None:
    """Restored and grown again with other changes, to the same length or beyond: told from where they part, and only
    from there."""
    lost = changes("r1", 4, 3)
    for suffix, rest in (("-same", changes("r2", 1, 3)), ("-beyond", changes("r2", 1, 9)), ("-order", lost[::-1])):
        restored = await bench.open(suffix)
        log = await grow(restored, run("s", "r1", 1, 3))
        log += await grow(restored, replace(run("s", "r2", 1, 1), changes=rest))
        whole = log[:3] + [entry._replace(data=data) for entry, data in zip(log[3:6], lost, strict=True)]
        head = await end_of(restored, "s")
        for after in range(7):
            [page] = await restored.pull([having("s", whole[:after])], PAGE)
            expected = [] if after > 3 else log[after:]
            assert page == Pulled(head, after > 3, expected), (suffix, after)
        await _is_compared(restored, log)


async def same_changes_at_another_time_are_another_log(bench: Bench) -> None:
    """Lost and sent again: replicas decide by the time of admission too, so each follows the log that it has read."""
    store = await bench.open()
    early = await grow(store, run("early", "r1", 1, 3))
    for number in range(10_000):
        session_id = f"late-{number}"
        late = await grow(store, run(session_id, "r1", 1, 3))
        if late[0].admitted_at != early[0].admitted_at:
            break
    else:
        return  # A clock that stands still: nobody could tell.
    assert bodies(late) == bodies(early)
    assert digest_of(late) != digest_of(early)
    for name, log, other in (("early", early, late), (session_id, late, early)):
        await _is_compared(store, log, session_id=name)
        strangers = [having(name, other[:after]) for after in (1, 2, 3)]
        assert await store.pull(strangers, PAGE) == [Pulled(await end_of(store, name), True, [])] * 3


def _folded(log: Sequence[LogEntry]) -> Checkpoint:
    return Checkpoint(GENERATION, len(log), digest_of(log), b"folded")


CASES: tuple[Case, ...] = (
    digest_tells_at_every_place,
    newcomer_is_not_compared,
    digest_tells_in_a_long_log,
    digest_tells_in_each_session_of_a_push,
    digest_tells_after_compaction,
    digest_tells_when_all_was_compacted,
    digest_tells_in_a_session_that_was_made,
    rebuilt_log_is_another,
    same_changes_at_another_time_are_another_log,
)
