"""Coroutines that write at the same time with `durability="full"`: they share commits, and nothing else."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

import localfirst
from localfirst import limits
from localfirst.connections import DATABASE
from localfirst.errors import ItemTooLarge, StoreBusy, StoreUnwritable
from localfirst.session import Session
from localfirst.store import Store
from tests.faults.disk import failing_beyond
from tests.faults.nursery import Life, Nursery, nursery
from tests.polling import eventually

SESSIONS: Final = 16
CALLS: Final = 10


def opened(path: Path, **options: Any) -> Store:
    return localfirst.open(path, **{"remote": "", "durability": "full", **options})


def sessions(store: Store) -> list[Session]:
    return [store.session(f"s{place}") for place in range(SESSIONS)]


async def add_each(session: Session, numbers: Iterable[int] = range(CALLS)) -> None:
    for number in numbers:
        await session.add_items([number])


async def add_all(store: Store, numbers: Iterable[int] = range(CALLS)) -> None:
    await asyncio.gather(*[add_each(session, numbers) for session in sessions(store)])


def contents(store: Store) -> list[list[Any]]:
    return [list(session) for session in sessions(store)]


def shared(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many calls there were in each commit that was shared."""
    rows, sizes = store._local.log.rows, list[int]()

    def together(calls: list[Callable[[], None]]) -> None:
        original(calls)
        sizes.append(len(calls))

    original = rows.together
    monkeypatch.setattr(store._local._writer, "_together", together)
    return sizes


def test_calls_share_commits_and_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:
        sizes = shared(store, monkeypatch)
        asyncio.run(add_all(store))
        assert max(sizes) > SESSIONS / 2
        assert contents(store) == [list(range(CALLS))] * SESSIONS
    with opened(tmp_path) as store:
        assert contents(store) == [list(range(CALLS))] * SESSIONS


def test_calls_on_one_session_share_commits(tmp_path: Path) -> None:
    """Also pops: no two of them take one item."""

    async def use(store: Store) -> list[Any]:
        session = store.session("s")
        await asyncio.gather(*[session.add_items([number]) for number in range(30)])
        popped = await asyncio.gather(*[session.pop_item() for _ in range(20)])
        assert sorted([*popped, *await session.get_items()]) == list(range(30))
        return await session.get_items()

    with opened(tmp_path) as store:
        left = asyncio.run(use(store))
        assert left == list(range(10))
    with opened(tmp_path) as store:
        assert list(store.session("s")) == left


def test_what_is_wrong_with_one_call_is_the_error_of_its_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_BYTES", 1000)

    async def use(store: Store) -> list[BaseException | None]:
        await add_all(store, [0])
        calls = [
            session.add_items(["x" * 2000] if place == 3 else [1]) for place, session in enumerate(sessions(store))
        ]
        return await asyncio.gather(*calls, return_exceptions=True)

    with opened(tmp_path) as store:
        outcomes = asyncio.run(use(store))
        assert [type(outcome) for outcome in outcomes] == [
            ItemTooLarge if place == 3 else type(None) for place in range(SESSIONS)
        ]
        assert contents(store) == [[0] if place == 3 else [0, 1] for place in range(SESSIONS)]


def test_a_disk_that_fails_fails_only_those_for_whom_it_does(tmp_path: Path) -> None:
    """A commit that fails leaves nothing of any call, neither on disk nor in memory. Each is then made by itself."""
    log = tmp_path / "data" / "cache.db-wal"

    async def use(store: Store) -> list[BaseException | None]:
        await add_all(store, [0])
        with failing_beyond(log.stat().st_size + 400_000):
            calls = [
                session.add_items(["lost" * 200_000] if place == 3 else [1])
                for place, session in enumerate(sessions(store))
            ]
            return await asyncio.gather(*calls, return_exceptions=True)

    expected = [[0] if place == 3 else [0, 1] for place in range(SESSIONS)]
    with opened(tmp_path) as store:
        outcomes = asyncio.run(use(store))
        assert [type(outcome) for outcome in outcomes] == [
            StoreUnwritable if place == 3 else type(None) for place in range(SESSIONS)
        ]
        assert contents(store) == expected
        asyncio.run(add_all(store, [2]))
        assert contents(store) == [[*items, 2] for items in expected]
    with opened(tmp_path) as store:
        assert contents(store) == [[*items, 2] for items in expected]


def test_a_session_whose_first_commit_failed_is_begun_again(tmp_path: Path) -> None:
    log = tmp_path / "data" / "cache.db-wal"

    async def use(store: Store) -> list[BaseException | None]:
        store.session("other").add_message("user", "Hello")
        with failing_beyond(log.stat().st_size):
            return await asyncio.gather(
                *[session.add_items(["lost"]) for session in sessions(store)], return_exceptions=True
            )

    with opened(tmp_path) as store:
        assert {type(outcome) for outcome in asyncio.run(use(store))} == {StoreUnwritable}
        assert contents(store) == [[]] * SESSIONS
        asyncio.run(add_all(store))
    with opened(tmp_path) as store:
        assert len(list(store.sessions())) == SESSIONS + 1
        assert contents(store) == [list(range(CALLS))] * SESSIONS


def test_nobody_builds_on_what_is_not_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the commit fails, what others wrote meanwhile has no gap before it."""
    attempted, blocked = threading.Event(), threading.Event()

    async def use(store: Store) -> None:
        rows, patience = store._local.log.rows, 0.5

        def together(calls: list[Callable[[], None]]) -> None:
            with rows.transaction():
                for call in calls:
                    call()
                attempted.set()
                blocked.wait(patience)  # Whoever waits for the transaction can't tell that it does.
                raise StoreUnwritable("the commit failed")

        def add_meanwhile() -> None:
            assert attempted.wait(10)
            store.session("s").add_message("user", "meanwhile")
            blocked.set()

        await store.session("s").add_items(["before"])
        other = asyncio.get_running_loop().run_in_executor(None, add_meanwhile)
        monkeypatch.setattr(store._local._writer, "_together", together)
        await asyncio.gather(*[store.session("s").add_items([number]) for number in range(5)])
        await other

    with opened(tmp_path) as store:
        asyncio.run(use(store))
        items = list(store.session("s"))
    with opened(tmp_path) as store:
        assert list(store.session("s")) == items
    assert items[0] == "before"
    assert len(items) == 7


def test_threads_and_coroutines_wait_for_each_other(tmp_path: Path) -> None:
    def add_in_thread(store: Store) -> None:
        for number in range(CALLS):
            for session in sessions(store):
                session.set(f"key-{number}", number)
                list(session)

    async def use(store: Store) -> None:
        threads = [asyncio.to_thread(add_in_thread, store) for _ in range(3)]
        await asyncio.wait_for(asyncio.gather(add_all(store), add_all(store), *threads), 60)

    with opened(tmp_path) as store:
        asyncio.run(use(store))
    with opened(tmp_path) as store:
        assert [sorted(items) for items in contents(store)] == [sorted([*range(CALLS), *range(CALLS)])] * SESSIONS
        assert all(len(session.metadata()) == CALLS for session in sessions(store))


def test_whoever_is_cancelled_waits_for_the_commit(tmp_path: Path) -> None:
    async def use(store: Store) -> None:
        adding = [asyncio.create_task(add_each(session, [1])) for session in sessions(store)]
        for _ in range(3):
            await asyncio.sleep(0)
        for task in adding[1::2]:
            task.cancel()
        await asyncio.wait(adding)
        added = contents(store)
        for task, items in zip(adding, added, strict=True):
            assert items == [1] or task.cancelled()  # Some had not begun.
        assert added[::2] == [[1]] * (SESSIONS // 2)
        await add_all(store, [2])
        assert contents(store) == [[*items, 2] for items in added]

    with opened(tmp_path) as store:
        asyncio.run(use(store))


def test_turns_are_whole(tmp_path: Path) -> None:
    async def use(session: Session) -> None:
        async with session.turn():
            await add_each(session)

    async def use_all(store: Store) -> None:
        await asyncio.gather(*map(use, sessions(store)))

    remote = (tmp_path / "central").as_uri()
    with opened(tmp_path / "a", remote=remote) as store:
        asyncio.run(use_all(store))
        store.flush(timeout=30)
    with opened(tmp_path / "b", remote=remote) as store:
        store.refresh(timeout=30)
        assert contents(store) == [list(range(CALLS))] * SESSIONS


def test_the_worker_hears_of_what_is_committed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(tmp_path) as store:
        store.session("s").add_message("user", "Hello")
        seen: list[int] = []

        def look() -> None:
            with closing(sqlite3.connect(tmp_path / "data" / DATABASE)) as other:
                seen.append(other.execute("SELECT count(*) FROM Cache WHERE substr(key, 1, 1) = x'63'").fetchone()[0])

        monkeypatch.setattr(store._local, "wrote", look)
        asyncio.run(add_all(store))
    assert len(seen) == SESSIONS * CALLS
    assert all(changes > calls for calls, changes in enumerate(seen, start=1))


# Killed at any moment.


@pytest.fixture
def processes() -> Iterator[Nursery]:
    with nursery() as found:
        yield found


def write(directory: Path, told: Path) -> None:
    """Add numbers to each session, and tell of each call that returned."""
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    async def add_for_ever(session: Session, numbers: Iterable[int]) -> None:
        for number in numbers:
            await session.add_items([number])
            os.write(out, f"{session.session_id} {number}\n".encode())

    async def all_of_them(store: Store) -> None:
        begun = [range(len(session), 1_000_000) for session in sessions(store)]
        await asyncio.gather(*map(add_for_ever, sessions(store), begun))

    asyncio.run(all_of_them(opened(directory)))


def test_what_was_told_survives_the_process(tmp_path: Path, processes: Nursery) -> None:
    told = tmp_path / "told"
    for life in range(8):
        processes.kill_all([Life(write, (tmp_path / "a", told), 0.05 + 0.03 * life)])
        lines = [line.split() for line in told.read_text().splitlines()] if told.exists() else []
        with opened(tmp_path / "a") as store:
            for session in sessions(store):
                items = list(session)
                assert items == list(range(len(items)))
                assert {int(number) for session_id, number in lines if session_id == session.session_id} <= set(items)
    assert told.exists()


ENDING: Final = """
import asyncio, atexit, sys, threading
import localfirst

store = localfirst.open(sys.argv[1], remote="", durability="full")

async def use():
    for _ in range(3):
        sessions = [store.session(str(number % 4)) for number in range(12)]
        await asyncio.gather(*[session.add_items([1]) for session in sessions])
        await asyncio.sleep(0.05)
    await store.aclose()

"""


@pytest.mark.parametrize(
    "last",
    ["atexit.register(lambda: asyncio.run(use()))", "threading.Thread(target=lambda: asyncio.run(use())).start()"],
)
def test_calls_are_carried_out_while_the_interpreter_ends(tmp_path: Path, last: str) -> None:
    subprocess.run([sys.executable, "-c", ENDING + last, str(tmp_path)], check=True, timeout=60)
    with opened(tmp_path) as store:
        assert [len(store.session(str(number))) for number in range(4)] == [9, 9, 9, 9]


async def test_what_is_called_first_comes_first(tmp_path: Path) -> None:
    """Also if it lets others have their turn, and one of them has had its own just before."""
    with opened(tmp_path) as store:
        session, other, writes = store.session("s"), store.session("t"), list[Any]()
        await asyncio.gather(session.add_items([0]), other.add_items([0]))

        def call(each: Session, number: int) -> None:
            writes.append(asyncio.ensure_future(each.add_items([number])))

        store._local._writer._yielded_at = 0.0
        call(other, 1)
        asyncio.get_running_loop().call_soon(call, session, 2)  # Begins when the other two have.
        call(session, 1)
        await asyncio.sleep(0)
        await asyncio.gather(*writes)
        assert len(writes) == 3
        assert await session.get_items() == [0, 1, 2]


async def test_the_first_call_of_an_object_comes_first(tmp_path: Path) -> None:
    """It has to ask where the object stands, which must not take it longer than those that follow it."""
    with opened(tmp_path) as store:
        writer, going = store._local._writer, threading.Event()
        busy = asyncio.ensure_future(writer.run_aside(going.wait))
        await asyncio.sleep(0)
        session = store.session("s")
        first = asyncio.ensure_future(session.add_items([0]))
        await asyncio.sleep(0)
        going.set()
        assert eventually(lambda: writer.is_free)  # The loop has heard of nothing yet.
        await asyncio.gather(session.add_items([1]), first, busy)
        assert await session.get_items() == [0, 1]


async def test_what_waits_for_somebody_is_not_overtaken(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        session, other = store.session("s"), store.session("t")
        await asyncio.gather(session.add_items(["a"]), other.add_items(["a"]))
        view, original = session._access.view, session._access.view.write
        refused = list[bool]()

        def write(*arguments: Any, shared: bool = False, **options: Any) -> Any:
            if shared and not refused:
                refused.append(True)
                raise StoreBusy("somebody holds the view")
            return original(*arguments, shared=shared, **options)

        view.write = write  # type: ignore[method-assign]
        writes = [each.add_items([number]) for number in range(5) for each in (session, other)]
        await asyncio.gather(*writes)
        assert refused
        assert list(session) == list(other) == ["a", 0, 1, 2, 3, 4]
