"""Many processes, threads and event loops on one directory: invariant 12."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst.identity import Identity
from localfirst.rows import Rows, patiently
from localfirst.view import View

_spawn = multiprocessing.get_context("spawn")
_fork = multiprocessing.get_context("fork")


def in_processes(context: Any, count: int, target: Callable[..., None], *arguments: Any) -> None:
    """Run target(number, *arguments) in processes, and fail if one of them does."""
    processes = [context.Process(target=target, args=(number, *arguments)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0] * count


def add_hundred(number: int, path: Path) -> None:
    with localfirst.open(path) as store:
        session = store.session("shared")

        async def add() -> None:
            for place in range(100):
                await session.add_items([[number, place]])

        asyncio.run(add())


def assert_complete(path: Path, writers: int) -> None:
    with localfirst.open(path) as store:
        items = list(store.session("shared"))
    assert sorted(items) == [[number, place] for number in range(writers) for place in range(100)]
    for number in range(writers):
        assert [place for writer, place in items if writer == number] == list(range(100))


def test_eight_processes_lose_and_double_nothing(tmp_path: Path) -> None:
    in_processes(_spawn, 8, add_hundred, tmp_path)
    assert_complete(tmp_path, 8)


def test_eight_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        session = store.session("shared")
        failed: list[BaseException] = []

        def add(number: int) -> None:
            try:
                for place in range(100):
                    asyncio.run(session.add_items([[number, place]]))
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=add, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert not failed
    assert_complete(tmp_path, 8)


def pop_all(number: int, path: Path) -> None:
    with localfirst.open(path) as store:
        session = store.session("shared")
        popped = []
        while (item := asyncio.run(session.pop_item())) is not None:
            popped.append(item)
        (path / f"popped-{number}").write_text("\n".join(popped))


def test_concurrent_pops_never_return_one_item_twice(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        asyncio.run(store.session("shared").add_items([str(number) for number in range(400)]))
    in_processes(_spawn, 4, pop_all, tmp_path)
    popped = [line for number in range(4) for line in (tmp_path / f"popped-{number}").read_text().split()]
    assert sorted(popped, key=int) == [str(number) for number in range(400)]


def test_concurrent_pops_of_threads_and_tasks_never_return_one_item_twice(tmp_path: Path) -> None:
    popped: list[str] = []

    async def pop_some(session: localfirst.Session) -> None:
        while (item := await session.pop_item()) is not None:
            popped.append(item)
            await asyncio.sleep(0)

    async def pop_in_tasks() -> None:
        await asyncio.gather(*[pop_some(store.session("shared")) for _ in range(4)])

    with localfirst.open(tmp_path) as store:
        asyncio.run(store.session("shared").add_items([str(number) for number in range(400)]))
        threads = [threading.Thread(target=asyncio.run, args=(pop_in_tasks(),)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(popped, key=int) == [str(number) for number in range(400)]


def open_once(number: int, path: Path, ready: Any) -> None:
    ready.wait(30)
    rows = Rows(path / "data")
    (path / f"id-{number}").write_text(patiently(Identity(rows).replica_id))
    patiently(lambda: rows.insert(b"n%d" % number, b"v"))


def test_sixteen_processes_open_a_new_directory_at_once(tmp_path: Path) -> None:
    ready = _spawn.Barrier(16)
    in_processes(_spawn, 16, open_once, tmp_path, ready)
    assert len({(tmp_path / f"id-{number}").read_text() for number in range(16)}) == 1
    assert len(Rows(tmp_path / "data").range(b"n", b"o")) == 16


def answer(number: int, path: Path, asked: Any, answered: Any) -> None:
    with localfirst.open(path) as store:
        session = store.session("shared")
        for _ in range(20):
            assert asked.acquire(timeout=30)
            last = list(session)[-1]
            session.add_message("assistant", last["content"] + 1)
            answered.release()


def test_two_processes_see_each_others_items_at_the_next_read(tmp_path: Path) -> None:
    asked, answered = _spawn.Semaphore(0), _spawn.Semaphore(0)
    other = _spawn.Process(target=answer, args=(0, tmp_path, asked, answered))
    other.start()
    with localfirst.open(tmp_path) as store:
        session = store.session("shared")
        for number in range(0, 40, 2):
            session.add_message("user", number)
            asked.release()
            assert answered.acquire(timeout=30)
            assert session.get_messages(1)[0]["content"] == number + 1
    other.join(30)
    assert other.exitcode == 0


def write_in_child(number: int, store: localfirst.Store) -> None:
    """The store came through the fork; its connections must not be used here."""
    session = store.session("shared")
    for place in range(100):
        session.add_message("user", [number, place])
    assert store.status().pending_changes >= 100
    os._exit(0)


def test_children_of_a_fork_go_on_with_the_store(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        store.session("shared").add_message("user", "parent before")
        in_processes(_fork, 4, write_in_child, store)
        session = store.session("shared")
        session.add_message("user", "parent after")
        contents = [message["content"] for message in session.get_messages()]
    assert contents[0] == "parent before"
    assert contents[-1] == "parent after"
    assert sorted(contents[1:-1]) == [[number, place] for number in range(4) for place in range(100)]


def test_a_busy_directory_does_not_stop_the_event_loop(tmp_path: Path) -> None:
    """A lock that somebody else holds is waited for off the loop, and calls stay in order."""

    async def main(store: localfirst.Store) -> None:
        session = store.session("s")
        await session.add_items([0])
        blocker = Rows(tmp_path / "data")
        ticks = 0
        with blocker.transaction():
            adding = [asyncio.create_task(session.add_items([number])) for number in range(1, 21)]
            while ticks < 50:
                await asyncio.sleep(0.001)
                ticks += 1
            assert not any(task.done() for task in adding)
        await asyncio.gather(*adding)
        assert await session.get_items() == list(range(21))

    with localfirst.open(tmp_path) as store:
        asyncio.run(main(store))


def test_a_cancelled_write_is_finished_first(tmp_path: Path) -> None:
    async def main(store: localfirst.Store) -> None:
        session = store.session("s")
        await session.add_items(["before"])
        blocker = Rows(tmp_path / "data")
        with blocker.transaction():
            adding = asyncio.create_task(session.add_items(["cancelled"]))
            await asyncio.sleep(0.01)
            adding.cancel()
            await asyncio.sleep(0.01)
            assert not adding.done()
        await asyncio.wait([adding])
        assert adding.cancelled()
        assert await session.get_items() == ["before", "cancelled"]

    with localfirst.open(tmp_path) as store:
        asyncio.run(main(store))


def fork_and_close(path: Path, wrote: Any, closed: Any) -> None:
    """A parent that uses the store, forks, and closes it while its child goes on."""
    store = localfirst.open(path)
    session = store.session("shared")
    session.add_message("user", "parent")
    child = os.fork()
    if child == 0:
        session.add_message("user", "child before")
        wrote.set()
        closed.wait(30)
        for number in range(10):
            session.add_message("user", f"child {number}")
        os._exit(0)
    assert wrote.wait(30)
    store.close()
    closed.set()
    assert os.waitpid(child, 0)[1] == 0


def test_a_child_loses_nothing_when_its_parent_closes_the_store(tmp_path: Path) -> None:
    """SQLite's locks belong to the process: a child must not believe that it has those of its parent."""
    wrote, closed = _spawn.Event(), _spawn.Event()
    parent = _spawn.Process(target=fork_and_close, args=(tmp_path, wrote, closed))
    parent.start()
    parent.join(60)
    assert parent.exitcode == 0
    with localfirst.open(tmp_path) as store:
        contents = [message["content"] for message in store.session("shared").get_messages()]
    assert contents == ["parent", "child before", *(f"child {number}" for number in range(10))]


def fork_while_others_write(number: int, path: Path) -> None:
    with localfirst.open(path) as store:
        writing = threading.Event()
        threads = [threading.Thread(target=write_until, args=(store, name, writing)) for name in "abc"]
        for thread in threads:
            thread.start()
        for place in range(20):
            child = os.fork()
            if child == 0:
                store.session("forked").add_message("user", place)
                os._exit(0)
            assert os.waitpid(child, 0)[1] == 0
        writing.set()
        for thread in threads:
            thread.join(10)


def write_until(store: localfirst.Store, name: str, done: threading.Event) -> None:
    while not done.is_set():
        store.session(name).add_message("user", "x")


def test_children_forked_while_threads_write_neither_hang_nor_lose(tmp_path: Path) -> None:
    in_processes(_spawn, 1, fork_while_others_write, tmp_path)
    with localfirst.open(tmp_path) as store:
        assert [message["content"] for message in store.session("forked").get_messages()] == list(range(20))


def test_threads_that_end_leave_no_files_open(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        session = store.session("s")

        def write() -> None:
            session.add_message("user", "x")

        def files() -> int:
            return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - names only

        for _ in range(5):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        before = files()
        for _ in range(50):
            thread = threading.Thread(target=write)
            thread.start()
            thread.join()
        assert files() <= before + 4


@pytest.mark.parametrize("call", ["get_items", "pop_item", "clear_session"])
def test_a_long_session_is_loaded_off_the_event_loop(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with localfirst.open(tmp_path) as store:
        session = store.session("s")
        for number in range(2000):
            session.add_message("user", number)
    loaded_in: list[str] = []
    refresh = View.refresh

    def note(view: View, **options: Any) -> Any:
        loaded_in.append(threading.current_thread().name)
        return refresh(view, **options)

    monkeypatch.setattr(View, "refresh", note)
    with localfirst.open(tmp_path) as store:
        asyncio.run(getattr(store.session("s"), call)())
    assert loaded_in[0].startswith("localfirst-write")


def test_a_write_that_waits_is_not_overtaken_when_the_directory_is_free(tmp_path: Path) -> None:
    async def main(store: localfirst.Store) -> None:
        session = store.session("s")
        await session.add_items([0])
        blocker = Rows(tmp_path / "data")
        with blocker.transaction():
            first = asyncio.create_task(session.add_items([1]))
            await asyncio.sleep(0.01)
        second = asyncio.create_task(session.add_items([2]))  # The directory is free: it could go at once.
        await asyncio.gather(first, second)
        assert await session.get_items() == [0, 1, 2]

    with localfirst.open(tmp_path) as store:
        asyncio.run(main(store))


def add_and_tell(path: Path, told: Any) -> None:
    session = localfirst.open(path).session("s")
    number = len(session)
    while True:
        asyncio.run(session.add_items([number, number + 1]))
        number += 2
        told.send(number)


def test_every_call_that_returned_is_there_after_the_process_was_killed(tmp_path: Path) -> None:
    """Invariants 1 and 4."""
    for round_ in range(6):
        receiver, sender = _spawn.Pipe(duplex=False)
        writer = _spawn.Process(target=add_and_tell, args=(tmp_path, sender))
        writer.start()
        told = 0
        for _ in range(random.Random(round_).randint(1, 200)):
            assert receiver.poll(30)
            told = receiver.recv()
        writer.kill()
        writer.join(10)
        while receiver.poll():  # What it told between the last look and its end.
            told = receiver.recv()
        with localfirst.open(tmp_path) as store:
            items = list(store.session("s"))
        assert items == list(range(len(items)))
        assert told <= len(items) <= told + 2
        assert len(items) % 2 == 0
