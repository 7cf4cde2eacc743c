"""Calls that are cancelled while another process holds the directory: what they began is done before they end."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import SessionEvent
from localfirst.rows import Rows

_spawn = multiprocessing.get_context("spawn")

Call = Callable[[localfirst.Session], Awaitable[Any]]


def hold(path: Path, wanted: Event, held: Event, free: Event, ended: Event) -> None:
    """Lock the directory whenever that is wanted, until it is to be free."""
    rows = Rows(path / "data")
    while wanted.wait(60) and not ended.is_set():
        wanted.clear()
        with rows.transaction():
            held.set()
            free.wait(60)
            free.clear()
    rows.close()


class Holder:
    """Another process, which can lock the directory."""

    def __init__(self, path: Path) -> None:
        self._wanted, self._held, self._free, self._ended = (_spawn.Event() for _ in range(4))
        events = self._wanted, self._held, self._free, self._ended
        self._process = _spawn.Process(target=hold, args=(path, *events))
        self._process.start()

    @contextmanager
    def holding(self) -> Iterator[None]:
        self._wanted.set()
        assert self._held.wait(60)
        self._held.clear()
        try:
            yield
        finally:
            self._free.set()

    def end(self) -> None:
        self._ended.set()
        self._wanted.set()
        self._process.join(30)
        assert self._process.exitcode == 0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path) as opened:
        yield opened


@pytest.fixture
def holder(store: localfirst.Store) -> Iterator[Holder]:
    found = Holder(store.path)
    yield found
    found.end()


async def cancelled(holder: Holder, call: Awaitable[Any], times: int) -> None:
    """Begin a call while the directory is locked, cancel it so often, and let it end."""

    async def run() -> Any:
        return await call

    with holder.holding():
        task = asyncio.create_task(run())
        for _ in range(3):
            await asyncio.sleep(0)  # It has begun, and waits.
        for _ in range(times):
            task.cancel()
            for _ in range(3):
                await asyncio.sleep(0)
            assert not task.done()
    await asyncio.wait([task], timeout=30)
    assert task.cancelled()


@pytest.mark.parametrize("times", [1, 2, 5])
async def test_what_a_cancelled_call_began_is_done_when_it_ends(
    times: int, store: localfirst.Store, holder: Holder
) -> None:
    session, told = store.session("s"), list[Any]()
    for event in (SessionEvent.MESSAGE_ADDED, SessionEvent.MESSAGE_REMOVED, SessionEvent.SESSION_CLEARED):
        session.on(event, lambda *item, event=event: told.append((event, *item)))
    for number in range(20):
        await cancelled(holder, session.add_items([number, "last"]), times)
        assert list(session) == [number, "last"]
        await cancelled(holder, session.pop_item(), times)
        assert list(session) == [number]
        await cancelled(holder, session.clear_session(), times)
        assert list(session) == []
        added = [(SessionEvent.MESSAGE_ADDED, number), (SessionEvent.MESSAGE_ADDED, "last")]
        assert told == [*added, (SessionEvent.MESSAGE_REMOVED, "last"), (SessionEvent.SESSION_CLEARED,)]
        told.clear()


async def test_calls_behind_a_cancelled_one_keep_their_order(store: localfirst.Store, holder: Holder) -> None:
    session = store.session("s")
    await session.add_items(["before"])
    with holder.holding():
        tasks = [asyncio.create_task(session.add_items([number])) for number in range(6)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
    await asyncio.wait(tasks, timeout=30)
    assert [task.cancelled() for task in tasks] == [True, False] * 3
    assert await session.get_items() == ["before", *range(6)]


async def test_a_call_that_is_cancelled_before_it_began_does_nothing(store: localfirst.Store) -> None:
    session = store.session("s")
    task = asyncio.ensure_future(session.add_items(["never"]))
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
    assert list(session) == []


async def test_why_a_cancelled_write_failed_is_its_cause(store: localfirst.Store, holder: Holder) -> None:
    session = store.session("s")

    def refuse(_: Any) -> Any:
        raise localfirst.StoreFull("no space")

    with holder.holding():
        first = asyncio.create_task(session.add_items([1]))
        refused = asyncio.create_task(session._access.write_soon(refuse, fresh=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        refused.cancel()
    with pytest.raises(asyncio.CancelledError) as told:
        await refused
    await first
    assert isinstance(told.value.__cause__, localfirst.StoreFull)
    assert list(session) == [1]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_turn_ends_though_its_end_is_cancelled(times: int, store: localfirst.Store, holder: Holder) -> None:
    session = store.session("s")
    turn = session.turn()
    async with turn:
        await session.add_items(["in the turn"])
        assert store._local.turns.is_open(turn._key, turn._number)
        # What follows is what leaving the block does, in a task of its own so that it can be cancelled.
        await cancelled(holder, turn.__aexit__(None, None, None), times)
        assert not store._local.turns.is_open(turn._key, turn._number)


async def test_the_first_call_in_a_directory_stops_no_event_loop_while_that_is_locked(
    store: localfirst.Store, holder: Holder
) -> None:
    with holder.holding():
        adding = asyncio.create_task(store.session("s").add_items(["first"]))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not adding.done()
    await asyncio.wait_for(adding, 30)
    assert list(store.session("s")) == ["first"]
