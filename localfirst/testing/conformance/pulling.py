"""What a pull returns, and what heads tell."""

from __future__ import annotations

from dataclasses import replace

from localfirst.testing.conformance.harness import (
    GENERATION,
    PAGE,
    Bench,
    Case,
    bodies,
    changes,
    following,
    grow,
    having,
    nothing_of,
    run,
    whole_log,
)
from sync.central.base import Pulled, Want


async def pages_end_at_the_head(bench: Bench) -> None:
    """Pages of any size put together are the log, and the digest is that of the log."""
    store = await bench.open()
    data = changes("r1", 1, 500)
    await store.push([run("s", "r1", 1, 500)])
    for max_bytes in (1, len(data[0]), 10 * len(data[0]), sum(map(len, data)), PAGE):
        assert bodies(await whole_log(store, "s", max_bytes)) == data


async def page_is_bounded(bench: Bench) -> None:
    """A page has at least one change, and not many more bytes than were asked for."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 300))
    size = len(log[-1].data)
    [tiny] = await store.pull([having("s", [])], 1)
    assert len(tiny.entries) == 1
    [some] = await store.pull([having("s", log[:100])], 50 * size)
    assert [entry.seq for entry in some.entries] == list(range(101, 101 + len(some.entries)))
    assert 1 <= len(some.entries) <= 100


async def page_is_bounded_with_large_changes(bench: Bench) -> None:
    """One byte asked for still brings a large change, and only that."""
    store = await bench.open()
    body = bytes(300_000)
    large = replace(run("s", "r1", 1, 1), changes=changes("r1", 1, 20, body))
    await store.push([large])
    [page] = await store.pull([nothing_of("s")], 1)
    assert bodies(page.entries) == [large.changes[0]]
    [page] = await store.pull([nothing_of("s")], 1_000_000)
    assert 1 <= len(page.entries) <= 6


async def nothing_new_is_an_empty_page(bench: Bench) -> None:
    """A puller at the head gets the head and no changes."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 3))
    [head] = await store.heads(["s"])
    assert await store.pull([having("s", log)], PAGE) == [Pulled(head, False, [])]


async def other_generation_is_a_resync(bench: Bench) -> None:
    """A puller from another life of the session must begin again, wherever it was."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 3))
    [head] = await store.heads(["s"])
    for known in (log[:0], log[:2], log, log * 3):
        elsewhere = having("s", known, generation="generation-2")
        assert await store.pull([elsewhere], PAGE) == [Pulled(head, True, [])]


async def place_after_the_head_is_a_resync(bench: Bench) -> None:
    """A puller that has more than the log must begin again: the log lost something."""
    store = await bench.open()
    log = await grow(store, run("s", "r1", 1, 3))
    [head] = await store.heads(["s"])
    assert await store.pull([having("s", [*log, log[-1]])], PAGE) == [Pulled(head, True, [])]


async def missing_session_has_no_head(bench: Bench) -> None:
    """Neither a newcomer nor a puller with a cursor finds what isn't there, and none makes it."""
    store = await bench.open()
    wants = [nothing_of("s"), Want("s", GENERATION, 5, 5)]
    assert await store.pull(wants, PAGE) == [Pulled(None, False, []), Pulled(None, False, [])]
    assert await store.heads(["s"]) == [None]


async def pulls_are_answered_in_order(bench: Bench) -> None:
    """One answer per want, in order, for several wants of one session too."""
    store = await bench.open()
    log = await grow(store, run("a", "r1", 1, 3))
    await store.push([run("b", "r2", 1, 1)])
    some, other = having("a", log[:2]), having("a", log[:1], generation="x")
    wants = [nothing_of("b"), nothing_of("none"), some, nothing_of("a"), other]
    pulled = await store.pull(wants, PAGE)
    assert [page.head and page.head.seq for page in pulled] == [1, None, 3, 3, 3]
    assert [[entry.seq for entry in page.entries] for page in pulled] == [[1], [], [3], [1, 2, 3], []]
    assert [page.resync for page in pulled] == [False, False, False, False, True]
    assert await store.pull([], PAGE) == []


async def heads_of_a_thousand_sessions(bench: Bench) -> None:
    """One call for all; the missing ones among them are None, and the order is that of the question."""
    store = await bench.open()
    there = [f"session-{number}" for number in range(1_000)]
    pushed = await store.push([run(session_id, "r1", 1, 1 + i % 3) for i, session_id in enumerate(there)])
    asked = there.copy()
    for number in range(0, 1_000, 100):
        asked.insert(number, f"no-{number}")
    heads = dict(zip(asked, await store.heads(asked), strict=True))
    assert [name for name in asked if heads[name] is None] == [f"no-{i}" for i in range(0, 1_000, 100)]
    found = [head for name in there if (head := heads[name])]
    assert [(head.seq, head.digest) for head in found] == [(each.head, each.digest) for each in pushed]
    assert await store.heads([]) == []


async def head_moves_with_every_push(bench: Bench) -> None:
    """A head differs after a push that admitted something, and is the same after one that didn't."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 1)])
    [first] = await store.heads(["s"])
    await store.push([following("s", "r1", 1, 1)])
    assert await store.heads(["s"]) == [first]
    [pushed] = await store.push([following("s", "r1", 2, 1)])
    [second] = await store.heads(["s"])
    assert second == (GENERATION, 2, pushed.digest)
    assert second != first


CASES: tuple[Case, ...] = (
    pages_end_at_the_head,
    page_is_bounded,
    page_is_bounded_with_large_changes,
    nothing_new_is_an_empty_page,
    other_generation_is_a_resync,
    place_after_the_head_is_a_resync,
    missing_session_has_no_head,
    pulls_are_answered_in_order,
    heads_of_a_thousand_sessions,
    head_moves_with_every_push,
)
