"""Sessions that are made of a checkpoint: where there was none, and in place of one that lost something."""

from __future__ import annotations

import asyncio

from localfirst.testing.conformance.harness import (
    GENERATION,
    PAGE,
    Bench,
    Case,
    admitted,
    bodies,
    changes,
    end_of,
    following,
    grow,
    having,
    nothing_of,
    run,
    whole_log,
)
from sync.central.base import Checkpoint, Head, Pulled, PushStatus, Want
from sync.central.digests import digest_after

MADE = Checkpoint("made", 9, 7 << 32 | 8, b"folded")
HEAD = Head(*MADE[:3])


async def missing_session_is_made(bench: Bench) -> None:
    """A session can begin with a checkpoint: it is there, listed, and its log goes on from it."""
    store = await bench.open()
    assert await store.put_checkpoint("s", None, MADE, {"r1": 4, "r2": 5}) is True
    assert await store.heads(["s"]) == [HEAD]
    assert await store.sessions("", 10) == ["s"]
    assert await store.checkpoint("s") == MADE
    assert await store.pull([Want("s", *HEAD)], PAGE) == [Pulled(HEAD, False, [])]
    assert await store.pull([nothing_of("s"), Want("s", "made", 8, 0)], PAGE) == [Pulled(HEAD, True, [])] * 2


async def push_goes_on_where_acked_ended(bench: Bench) -> None:
    """Of every origin the counters up to `acked` are known, the next is admitted, and what leaves a gap is not."""
    store = await bench.open()
    assert await store.put_checkpoint("s", None, MADE, {"r1": 4, "r2": 50})
    answers = await store.push(
        [
            run("s", "r1", 6, 1),
            run("s", "r2", 52, 1),
            run("s", "r3", 2, 1),
            run("s", "r1", 1, 4),
            run("s", "r2", 50, 2),
        ]
    )
    expected = [("GAP", 4), ("GAP", 50), ("GAP", 0), ("OK", 4), ("OVERLAP", 50)]
    assert [(each.status.name, each.acked) for each in answers] == expected
    assert {(each.admitted, each.generation, each.head, each.digest) for each in answers} == {(0, *HEAD)}
    runs = [
        following("s", "r1", 5, 2, generation="made"),
        following("s", "r2", 51, 1, generation="made"),
        run("s", "r3", 1, 1),
    ]
    answers = await store.push(runs)
    added = [entry for each, pushed in zip(runs, answers, strict=True) for entry in admitted(each, pushed)]
    assert [(each.status, each.acked, each.head) for each in answers] == [
        (PushStatus.OK, 6, 11),
        (PushStatus.OK, 51, 12),
        (PushStatus.OK, 1, 13),
    ]
    assert answers[-1].digest == digest_after(MADE.digest, added)
    [page] = await store.pull([Want("s", *HEAD)], PAGE)
    assert page.entries == added
    assert [entry.seq for entry in added] == [10, 11, 12, 13]


async def session_may_have_no_origins(bench: Bench) -> None:
    """With an empty `acked` every origin begins at 1."""
    store = await bench.open()
    assert await store.put_checkpoint("s", None, MADE, {})
    one, other = await store.push([run("s", "r1", 2, 1), run("s", "r1", 1, 1)])
    assert (one.status, one.acked) == (PushStatus.GAP, 0)
    assert (other.status, other.acked, other.head) == (PushStatus.OK, 1, 10)


async def many_origins_are_kept(bench: Bench) -> None:
    """However many origins a session has."""
    store = await bench.open()
    acked = {f"replica-{number}: {{é}}'": number + 1 for number in range(5_000)}
    assert await store.put_checkpoint("s", None, MADE, acked)
    asked = [(origin, counter) for origin, counter in acked.items() if counter % 97 == 1 or counter > 4_990]
    answers = await store.push([run("s", origin, counter, 1) for origin, counter in asked])
    assert {(each.status, each.admitted, each.head) for each in answers} == {(PushStatus.OK, 0, 9)}
    assert [each.acked for each in answers] == [counter for _, counter in asked]


async def existing_session_is_not_missing(bench: Bench) -> None:
    """Who expects nothing replaces nothing; and nothing can't be replaced."""
    store = await bench.open()
    assert await store.put_checkpoint("missing", HEAD, MADE, {}) is False
    assert await store.put_checkpoint("missing", Head("", 0, 0), MADE, {}) is False
    assert await store.put_checkpoint("missing", None, MADE._replace(seq=0), {}) is False
    assert await store.heads(["missing"]) == [None]
    assert await store.checkpoint("missing") is None
    assert await store.sessions("", 10) == []
    assert await store.put_checkpoint("s", None, MADE, {})
    assert await store.put_checkpoint("s", None, MADE._replace(generation="other", data=b"other"), {}) is False
    assert await store.put_checkpoint("s", None, MADE._replace(seq=10, data=b"more"), {}) is False
    assert await store.checkpoint("s") == MADE


async def session_is_replaced(bench: Bench) -> None:
    """A checkpoint of another generation takes the place of all there was: longer or shorter, and origins too."""
    store = await bench.open()
    for seq in (2, 500):
        session_id = f"s{seq}"
        log = await grow(store, run(session_id, "r1", 1, 5))
        await store.push([run(session_id, "r2", 1, 5), run("other", "r1", 1, 1)])
        head, made = await end_of(store, session_id), MADE._replace(seq=seq)
        assert await store.put_checkpoint(session_id, head, made, {"r1": 2}) is True
        assert await store.heads([session_id]) == [Head(*made[:3])]
        assert await store.checkpoint(session_id) == made
        wants = [having(session_id, log), having(session_id, [], generation="made")]
        wants.append(Want(session_id, *made[:3]))
        resyncs = [page.resync for page in await store.pull(wants, PAGE)]
        assert resyncs == [True, True, False]
        old, gone, known, rest = await store.push(
            [
                following(session_id, "r1", 6, 1),
                run(session_id, "r2", 6, 1),
                run(session_id, "r1", 2, 1),
                following(session_id, "r1", 3, 2, generation="made"),
            ]
        )
        assert [each.status.name for each in (old, gone, known, rest)] == ["GENERATION", "GAP", "OK", "OK"]
        assert (gone.acked, known.acked, rest.acked, rest.head) == (0, 2, 4, seq + 2)
        [page] = await store.pull([Want(session_id, *made[:3])], PAGE)
        assert bodies(page.entries) == changes("r1", 3, 2)
    assert bodies(await whole_log(store, "other")) == changes("r1", 1, 1)


async def compacted_session_is_replaced(bench: Bench) -> None:
    """Also one with a floor, to a seq below or above it, and then compacted again."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 20)])
    head = await end_of(store, "s")
    assert await store.put_checkpoint("s", head, Checkpoint(GENERATION, 15, 1, b"first"), {})
    assert await store.put_checkpoint("s", head, MADE, {"r1": 9})
    assert await store.checkpoint("s") == MADE
    above = MADE._replace(generation="again", seq=30, data=b"again")
    assert await store.put_checkpoint("s", HEAD, above, {"r1": 1})
    await store.push([following("s", "r1", 2, 3, generation="again")])
    head = await end_of(store, "s")
    assert head.seq == 33
    assert await store.put_checkpoint("s", head, Checkpoint("again", 32, 2, b"last"), {})
    assert await store.checkpoint("s") == Checkpoint("again", 32, 2, b"last")
    [page] = await store.pull([Want("s", "again", 32, 2)], PAGE)
    assert bodies(page.entries) == changes("r1", 4, 1)


async def one_of_eight_makes_the_session(bench: Bench) -> None:
    """Of eight that make or replace a session at once one does."""
    stores = [await bench.open() for _ in range(8)]
    before: Head | None = None
    for life in ("first", "second"):
        made = [Checkpoint(f"{life}-{i}", 5 + i, i, b"%d" % i) for i in range(8)]
        won = await asyncio.gather(
            *(
                store.put_checkpoint("s", before, each, {"r1": i + 1})
                for i, (store, each) in enumerate(zip(stores, made, strict=True))
            )
        )
        assert sorted(won) == [False] * 7 + [True]
        winner = won.index(True)
        before = Head(*made[winner][:3])
        assert await stores[0].heads(["s"]) == [before]
        assert await stores[0].checkpoint("s") == made[winner]
        [pushed] = await stores[0].push([run("s", "r1", winner + 1, 1)])
        assert (pushed.status, pushed.acked, pushed.admitted) == (PushStatus.OK, winner + 1, 0)


async def making_races_a_push(bench: Bench) -> None:
    """A push and a checkpoint that make the same session at once: one is first, and neither is torn."""
    pusher, maker = await bench.open(), await bench.open()
    for attempt in range(20):
        session_id = f"s{attempt}"
        made, [pushed] = await asyncio.gather(
            maker.put_checkpoint(session_id, None, MADE, {"r1": 4}), pusher.push([run(session_id, "r1", 1, 3)])
        )
        head = await end_of(pusher, session_id)
        assert head.generation == ("made" if made else GENERATION)
        if made:
            assert (pushed.status, pushed.acked, pushed.admitted, head) == (PushStatus.OK, 4, 0, HEAD)
        else:
            assert (pushed.status, pushed.acked, pushed.admitted, head.seq) == (PushStatus.OK, 3, 3, 3)
            assert await maker.checkpoint(session_id) is None


async def large_checkpoint_comes_back(bench: Bench) -> None:
    """20 MB, when it makes the session and when it takes the place of its log."""
    store = await bench.open()
    data = bytes(range(256)) * 78_125
    assert await store.put_checkpoint("s", None, MADE._replace(data=data), {"r1": 1})
    assert await store.checkpoint("s") == MADE._replace(data=data)
    await store.push([following("s", "r1", 2, 1, generation="made")])
    head = await end_of(store, "s")
    assert await store.put_checkpoint("s", head, Checkpoint("made", 10, head.digest, data[::-1]), {})
    assert await store.checkpoint("s") == Checkpoint("made", 10, head.digest, data[::-1])


CASES: tuple[Case, ...] = (
    missing_session_is_made,
    push_goes_on_where_acked_ended,
    session_may_have_no_origins,
    many_origins_are_kept,
    existing_session_is_not_missing,
    session_is_replaced,
    compacted_session_is_replaced,
    one_of_eight_makes_the_session,
    making_races_a_push,
    large_checkpoint_comes_back,
)
