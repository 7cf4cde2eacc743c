"""What a push does: once, as one unit, without gaps."""

from __future__ import annotations

from localfirst.change import EMPTY_DIGEST, extend_digest
from localfirst.testing.conformance.harness import GENERATION, Bench, Case, bodies, changes, following, run, whole_log
from sync.central.base import Head, Pushed, PushStatus, Run


async def first_push_makes_the_session(bench: Bench) -> None:
    """Fresh on a missing session: it is there afterwards, with the sender's generation."""
    store = await bench.open()
    [pushed] = await store.push([run("s", "r1", 1, 3)])
    digest = extend_digest(EMPTY_DIGEST, pushed.admitted_at, changes("r1", 1, 3))
    assert pushed[:6] == (PushStatus.OK, GENERATION, 3, 3, 3, digest)
    assert await store.heads(["s"]) == [Head(GENERATION, 3, digest)]
    log = await whole_log(store, "s")
    assert bodies(log) == changes("r1", 1, 3)
    assert {entry.admitted_at for entry in log} == {pushed.admitted_at}


async def fresh_push_joins_what_is_there(bench: Bench) -> None:
    """Fresh on an existing session: taken, and the session keeps its generation."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 1)])
    [pushed] = await store.push([run("s", "r2", 1, 2, generation="generation-2")])
    assert (pushed.status, pushed.generation, pushed.acked, pushed.head) == (PushStatus.OK, GENERATION, 2, 3)
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 1) + changes("r2", 1, 2)


async def following_push_goes_on(bench: Bench) -> None:
    """With the right generation a push goes on where the log ended."""
    store = await bench.open()
    [first] = await store.push([run("s", "r1", 1, 2)])
    [pushed] = await store.push([following("s", "r1", 3, 2)])
    assert (pushed.status, pushed.acked, pushed.admitted, pushed.head) == (PushStatus.OK, 4, 2, 4)
    assert pushed.digest == extend_digest(first.digest, pushed.admitted_at, changes("r1", 3, 2))


async def duplicate_push_admits_nothing(bench: Bench) -> None:
    """A push whose answer was lost is sent again: nothing is admitted twice, and the answer tells what is there."""
    store = await bench.open()
    [first] = await store.push([run("s", "r1", 1, 3)])
    for again in (run("s", "r1", 1, 3), run("s", "r1", 2, 1), following("s", "r1", 1, 2)):
        [pushed] = await store.push([again])
        assert (pushed.status, pushed.acked, pushed.admitted) == (PushStatus.OK, 3, 0)
        assert (pushed.generation, pushed.head, pushed.digest) == (first.generation, first.head, first.digest)
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 3)


async def overlapping_push_is_refused(bench: Bench) -> None:
    """A run that is there in part is refused whole: who sent it first is not known here. The answer tells what is
    there, and the rest is taken when it comes by itself."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 3)])
    [head] = await store.heads(["s"])
    for overlap in (following("s", "r1", 2, 4), run("s", "r1", 3, 2), run("s", "r1", 1, 4)):
        [pushed] = await store.push([overlap])
        assert (pushed.status, pushed.acked, pushed.admitted) == (PushStatus.OVERLAP, 3, 0)
        assert Head(pushed.generation, pushed.head, pushed.digest) == head
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 3)
    [pushed] = await store.push([following("s", "r1", 4, 2)])
    assert (pushed.status, pushed.acked, pushed.admitted, pushed.head) == (PushStatus.OK, 5, 2, 5)
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 5)


async def refusals_have_an_order(bench: Bench) -> None:
    """A sender from another life of the session hears that, and not how its counters compare to this life's."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 3)])
    for first, count in ((1, 3), (2, 4), (9, 1)):
        [pushed] = await store.push([following("s", "r1", first, count, generation="generation-2")])
        assert (pushed.status, pushed.acked, pushed.admitted) == (PushStatus.GENERATION, 3, 0)


async def gap_is_refused(bench: Bench) -> None:
    """A run that begins after acked + 1 is refused whole; the answer tells what is there."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 2)])
    [head] = await store.heads(["s"])
    for gap in (run("s", "r1", 4, 2), following("s", "r1", 4, 2), run("s", "r2", 2, 1)):
        [pushed] = await store.push([gap])
        acked = 2 if gap.origin == "r1" else 0
        assert (pushed.status, pushed.acked, pushed.admitted) == (PushStatus.GAP, acked, 0)
        assert Head(pushed.generation, pushed.head, pushed.digest) == head
    assert await store.heads(["s"]) == [head]
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 2)


async def gap_makes_no_session(bench: Bench) -> None:
    """A fresh run that doesn't begin at 1 finds nothing, and leaves nothing."""
    store = await bench.open()
    [pushed] = await store.push([run("s", "r1", 2, 1)])
    assert pushed[:6] == (PushStatus.GAP, "", 0, 0, 0, EMPTY_DIGEST)
    assert await store.heads(["s"]) == [None]
    assert await store.sessions("", 10) == []


async def other_generation_is_refused(bench: Bench) -> None:
    """A sender whose cursor is in another life of the session is refused, and told of this one."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 2)])
    [pushed] = await store.push([following("s", "r1", 3, 1, generation="generation-2")])
    assert (pushed.status, pushed.generation, pushed.acked) == (PushStatus.GENERATION, GENERATION, 2)
    assert (pushed.admitted, pushed.head) == (0, 2)
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 2)


async def missing_session_is_refused(bench: Bench) -> None:
    """A sender with a cursor doesn't make a session."""
    store = await bench.open()
    [pushed] = await store.push([following("s", "r1", 1, 1)])
    assert pushed[:6] == (PushStatus.MISSING, "", 0, 0, 0, EMPTY_DIGEST)
    assert pushed.admitted_at > 0, "the store's clock is told in any case"
    assert await store.heads(["s"]) == [None]
    assert await store.sessions("", 10) == []


async def pushes_are_answered_in_order(bench: Bench) -> None:
    """One answer per run, in order; a refused run stops no other; runs of one session keep their order."""
    store = await bench.open()
    pushed = await store.push(
        [
            run("a", "r1", 1, 2),
            following("missing", "r1", 1, 1),
            run("b", "r1", 1, 1),
            run("a", "r2", 1, 1),
            run("a", "r1", 9, 1),
            run("a", "r1", 2, 2),
            run("a", "r1", 3, 2),
        ]
    )
    assert [each.status.name for each in pushed] == ["OK", "MISSING", "OK", "OK", "GAP", "OVERLAP", "OK"]
    assert [each.head for each in pushed] == [2, 0, 1, 3, 3, 3, 5]
    assert bodies(await whole_log(store, "a")) == changes("r1", 1, 2) + changes("r2", 1, 1) + changes("r1", 3, 2)
    assert await store.push([]) == []


async def many_origins(bench: Bench) -> None:
    """Every origin has a counter of its own."""
    store = await bench.open()
    origins = [f"replica-{number}" for number in range(200)]
    await store.push([run("s", origin, 1, 1) for origin in origins])
    again: list[Pushed] = await store.push([run("s", origin, 2, 1) for origin in reversed(origins)])
    assert {(each.acked, each.admitted) for each in again} == {(2, 1)}
    assert len(await whole_log(store, "s")) == 400


async def bodies_of_all_sizes(bench: Bench) -> None:
    """Changes come back to the bit: empty, every byte, 5 MB, and 3,000 in one run."""
    store = await bench.open()
    bodies_in = [b"", bytes(range(256)), b"\r\n:{}*$", bytes(5_000_000), b"last"]
    data = [changes("r1", counter, 1, body)[0] for counter, body in enumerate(bodies_in, 1)]
    data += changes("r1", len(data) + 1, 3_000)
    [pushed] = await store.push([Run("s", GENERATION, True, "r1", 1, data)])
    assert (pushed.status, pushed.admitted, pushed.head) == (PushStatus.OK, 3_005, 3_005)
    assert bodies(await whole_log(store, "s")) == data


async def wire_bytes_are_opaque(bench: Bench) -> None:
    """A store doesn't look into changes: it takes bytes that nobody can decode."""
    store = await bench.open()
    data = [b"", b"\x00", b":", b"\xff" * 9, "é{*}".encode()]
    await store.push([Run("s", GENERATION, True, "r1", 1, data)])
    assert bodies(await whole_log(store, "s")) == data


async def time_never_goes_back(bench: Bench) -> None:
    """`admitted_at` never decreases along a log, and is that of the push."""
    store = await bench.open()
    pushed = [(await store.push([run("s", "r1", counter, 1)]))[0] for counter in range(1, 30)]
    times = [entry.admitted_at for entry in await whole_log(store, "s")]
    assert times == sorted(times)
    assert times == [each.admitted_at for each in pushed]


CASES: tuple[Case, ...] = (
    first_push_makes_the_session,
    fresh_push_joins_what_is_there,
    following_push_goes_on,
    duplicate_push_admits_nothing,
    overlapping_push_is_refused,
    refusals_have_an_order,
    gap_is_refused,
    gap_makes_no_session,
    other_generation_is_refused,
    missing_session_is_refused,
    pushes_are_answered_in_order,
    many_origins,
    bodies_of_all_sizes,
    wire_bytes_are_opaque,
    time_never_goes_back,
)
