"""Hints that sessions moved."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from localfirst.testing.conformance.harness import GENERATION, Bench, Case, run
from sync.central.base import CentralStore, Checkpoint, Ending, Head, Hint

DEADLINE = 10.0
"""Seconds after which a hint is held to be lost."""


async def push_gives_a_hint(bench: Bench) -> None:
    """Who watches hears of a push by somebody else: of this session, whatever its id."""
    writer, watcher = await bench.open(), await bench.open()
    hints = await _listening(watcher)
    for session_id in ("s", "é {*}: 😀", "x" * 1024):
        await writer.push([run(session_id, "r1", 1, 1)])
        await _heard(hints, {session_id})


async def hint_tells_how_far(bench: Bench) -> None:
    """A hint names the generation and the end of the log after the push."""
    store = await bench.open()
    hints = await _listening(store)
    await store.push([run("s", "r1", 1, 3)])
    assert await _next_hint(hints) == Hint("s", GENERATION, 3)
    await store.push([run("s", "r2", 1, 2, generation="generation-2")])
    hint = await _next_hint(hints)
    while hint == Hint("s", GENERATION, 3):  # hints may be doubled
        hint = await _next_hint(hints)
    assert hint == Hint("s", GENERATION, 5)


async def made_session_gives_a_hint(bench: Bench) -> None:
    """A session that is made of a checkpoint gives a hint: when it was missing, and when it replaces another."""
    writer, watcher = await bench.open(), await bench.open()
    hints = await _listening(watcher)
    assert await writer.put_checkpoint("s", None, Checkpoint("g1", 5, 50, b"data"), {})
    assert await _next_hint(hints) == Hint("s", "g1", 5)
    assert await writer.put_checkpoint("s", Head("g1", 5, 50), Checkpoint("g2", 3, 30, b"data"), {})
    hint = await _next_hint(hints)
    while hint == Hint("s", "g1", 5):  # hints may be doubled
        hint = await _next_hint(hints)
    assert hint == Hint("s", "g2", 3)


async def deletion_gives_a_hint(bench: Bench) -> None:
    """A deletion gives a hint that names another generation than the one that was deleted, so that it is news."""
    writer, watcher = await bench.open(), await bench.open()
    await writer.push([run("s", "r1", 1, 1)])
    hints = await _listening(watcher)
    await writer.delete([Ending("s", GENERATION)])
    hint = await _next_hint(hints)
    while hint == Hint("s", GENERATION, 1):  # hints may come late
        hint = await _next_hint(hints)
    assert hint.session_id == "s"
    assert hint.generation != GENERATION


async def batch_gives_hints_for_all(bench: Bench) -> None:
    """A batch over many sessions gives a hint for each."""
    writer, watcher = await bench.open(), await bench.open()
    hints = await _listening(watcher)
    names = {f"session-{number}" for number in range(100)}
    await writer.push([run(name, "r1", 1, 1) for name in names])
    await _heard(hints, set(names))


async def all_watchers_hear(bench: Bench) -> None:
    """Several watchers, of one store and of others, all hear."""
    store, other = await bench.open(), await bench.open()
    watching = [await _listening(each) for each in (store, store, other)]
    await store.push([run("s", "r1", 1, 1)])
    await asyncio.gather(*(_heard(hints, {"s"}) for hints in watching))


async def hints_stay_in_their_namespace(bench: Bench) -> None:
    """A push in another namespace gives no hint."""
    store, other = await bench.open(), await bench.open(":b")
    hints = await _listening(store)
    await other.push([run("theirs", "r1", 1, 1)])
    await store.push([run("ours", "r1", 1, 1)])
    assert await _next_hint(hints) == Hint("ours", GENERATION, 1)


async def watching_can_end(bench: Bench) -> None:
    """A watcher that goes away disturbs nobody, and can come back."""
    writer, watcher = await bench.open(), await bench.open()
    for counter in (1, 2, 3):
        hints = await _listening(watcher)
        await writer.push([run("s", "r1", counter, 1)])
        await _heard(hints, {"s"})
        if hasattr(hints, "aclose"):
            await hints.aclose()


async def _listening(store: CentralStore) -> AsyncIterator[Hint | None]:
    hints = store.watch()
    assert await _next(hints) is None, "a watcher is told first that it listens"
    return hints


async def _heard(hints: AsyncIterator[Hint | None], missing: set[str]) -> None:
    while missing:
        missing.discard((await _next_hint(hints)).session_id)


async def _next_hint(hints: AsyncIterator[Hint | None]) -> Hint:
    while True:
        hint = await _next(hints)
        if hint is not None:  # None: some may have been missed, which is no fault
            return hint


async def _next(hints: AsyncIterator[Hint | None]) -> Hint | None:
    return await asyncio.wait_for(anext(hints), DEADLINE)


CASES: tuple[Case, ...] = (
    push_gives_a_hint,
    hint_tells_how_far,
    made_session_gives_a_hint,
    deletion_gives_a_hint,
    batch_gives_hints_for_all,
    all_watchers_hear,
    hints_stay_in_their_namespace,
    watching_can_end,
)
