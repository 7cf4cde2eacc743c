"""Turns: what is written inside reaches other replicas together, whatever becomes of the one who writes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import ConfigurationError, StoreClosed, SyncTimeout
from tests.conftest import OwnRedis
from tests.integration.stores import Open, contents
from tests.polling import eventually


@contextmanager
def watched(session: localfirst.Session) -> Iterator[set[int]]:
    """How many items a session was seen with, by one who looks all the time while another refreshes all the time."""
    seen: set[int] = set()
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(0.0005):
            seen.add(len(session))

    def refresh() -> None:
        while not stop.is_set():
            session.refresh(30)

    watchers = [threading.Thread(target=look), threading.Thread(target=refresh)]
    for watcher in watchers:
        watcher.start()
    try:
        yield seen
    finally:
        stop.set()
        for watcher in watchers:
            watcher.join(30)
    assert seen, "nobody looked"


# What other replicas see.


def test_nothing_of_an_open_turn_reaches_another_replica(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    a.add_message("user", "before")
    a.flush(10)
    with watched(b) as seen:
        with a.turn():
            for number in range(20):
                a.add_message("assistant", number)
                time.sleep(0.01)  # So that a worker that wants to push can.
            a.set("looked", True)
            assert contents(a) == ["before", *range(20)]
            assert a.pending == 21
            eventually(lambda: 1 in seen)
        a.flush(10)
        eventually(lambda: 21 in seen)
    assert seen == {1, 21}
    assert b.get("looked") is True
    assert contents(b) == contents(a)


@pytest.mark.parametrize(("count", "size"), [(600, 10), (30, 100_000)], ids=["changes", "bytes"])
def test_a_turn_that_is_larger_than_a_push_and_a_pull_arrives_at_once(
    remote_url: str, opened: Open, count: int, size: int
) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    a.set("here", 1)
    a.flush(10)
    with watched(b) as seen:
        with a.turn():
            for number in range(count):
                a.add_message("assistant", f"{number} ".ljust(size, "x"))
        a.add_message("user", "behind it")
        a.flush(30)
        eventually(lambda: count + 1 in seen, 30)
    assert seen <= {0, count, count + 1}
    assert contents(b) == contents(a)
    assert opened("c", remote_url).session("s").export()["items"] == a.export()["items"]


class Writer(threading.Thread):
    """Writes turns, each a tool call and its output, and messages outside of turns, until it is told to stop."""

    def __init__(self, store: localfirst.Store, name: str) -> None:
        super().__init__(name=name)
        self.stop = threading.Event()
        self._store = store
        self.start()

    def run(self) -> None:
        session, number = self._store.session("s"), 0
        while not self.stop.is_set():
            number += 1
            call = f"{self.name}{number}"
            with session.turn():
                session.add_message("assistant", call)
                time.sleep(0.002)
                session.add_message("tool", call)
            session.add_message("user", "outside")

    def end(self) -> None:
        self.stop.set()
        self.join(30)
        self._store.flush(30)


def assert_none_is_apart(items: list[Any]) -> int:
    """Every call stands right before its output; how many there are."""
    calls = [place for place, item in enumerate(items) if item["role"] == "assistant"]
    outputs = [place for place, item in enumerate(items) if item["role"] == "tool"]
    assert outputs == [place + 1 for place in calls]
    assert all(items[place]["content"] == items[place + 1]["content"] for place in calls)
    return len(calls)


def test_a_tool_call_and_its_output_are_never_apart(remote_url: str, opened: Open) -> None:
    """Two devices write; somebody on a third looks all the time."""
    reader = opened("reader", remote_url).session("s")
    writers = [Writer(opened(name, remote_url), name) for name in "ab"]
    seen = set()
    deadline = time.monotonic() + 1.5
    try:
        while time.monotonic() < deadline:
            seen.add(assert_none_is_apart(list(reader)))
            time.sleep(0.001)
    finally:
        for writer in writers:
            writer.end()
    reader.refresh(30)
    assert assert_none_is_apart(list(reader)) >= max(seen)
    assert len(seen) > 5


def test_it_goes_to_the_central_store_as_one_unit_also_after_an_outage(opened: Open, own_redis: OwnRedis) -> None:
    server = own_redis()
    a, b = opened("a", server.url).session("s"), opened("b", server.url).session("s")
    a.add_message("user", "before")
    a.flush(10)
    b.refresh(10)
    with watched(b) as seen:
        with a.turn():
            a.add_message("assistant", "1")
            server.kill()
            a.add_message("assistant", "2")
            server.start()
            a.add_message("assistant", "3")
        a.flush(30)
        eventually(lambda: 4 in seen, 30)
    assert seen <= {1, 4}


# Who writes what.


def test_what_others_write_meanwhile_waits_for_its_end_and_is_not_lost(central: str, opened: Open) -> None:
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    with a.turn():
        a.add_message("assistant", "1")
        other = threading.Thread(target=lambda: a.add_message("user", "another thread"))
        other.start()
        other.join(10)
        a.add_message("assistant", "2")
        b.refresh(10)
        assert contents(b) == []
    a.flush(10)
    b.refresh(10)
    assert contents(a) == contents(b) == ["1", "another thread", "2"]


def test_other_sessions_do_not_wait(central: str, opened: Open) -> None:
    store, b = opened("a", central), opened("b", central)
    with store.session("s").turn():
        store.session("s").add_message("assistant", "1")
        store.session("other").add_message("user", "at once")
        eventually(lambda: contents(b.session("other")) == ["at once"])
        assert contents(b.session("s")) == []


def test_a_turn_in_a_turn_is_part_of_it(central: str, opened: Open) -> None:
    store, b = opened("a", central), opened("b", central).session("s")
    a = store.session("s")
    with a.turn():
        a.add_message("assistant", "1")
        with store.session("s").turn():
            a.add_message("assistant", "2")
        with suppress(KeyError), a.turn():
            raise KeyError
        b.refresh(10)
        assert contents(b) == []
        with pytest.raises(ConfigurationError):
            a.flush(1)
        a.add_message("assistant", "3")
    a.flush(10)
    b.refresh(10)
    assert contents(b) == ["1", "2", "3"]


async def test_the_async_form_threads_and_child_tasks(central: str, opened: Open) -> None:
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    async with a.turn():
        await a.add_items([{"role": "assistant", "content": "loop"}])
        await asyncio.to_thread(a.add_message, "assistant", "thread")
        await asyncio.create_task(a.add_items([{"role": "assistant", "content": "task"}]))
        await asyncio.gather(*(a.add_items([{"role": "assistant", "content": "gathered"}]) for _ in range(3)))
        async with a.turn():
            a.set("key", "value")
        with pytest.raises(ConfigurationError):
            await a.aflush(1)
        await b.arefresh(10)
        assert (len(b), b.metadata()) == (0, {})
    await a.aflush(10)
    await b.arefresh(10)
    assert contents(b) == contents(a) == ["loop", "thread", "task", *["gathered"] * 3]


async def test_tasks_have_turns_of_their_own(central: str, opened: Open) -> None:
    """Each goes when the last of those that overlap is over, and none of their writes is lost."""
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    halfway = [asyncio.Event(), asyncio.Event()]

    async def write(number: int) -> None:
        async with a.turn():
            await a.add_items([{"role": "assistant", "content": f"{number} call"}])
            halfway[number].set()
            await halfway[1 - number].wait()
            await a.add_items([{"role": "assistant", "content": f"{number} output"}])

    await asyncio.gather(write(0), write(1))
    await a.aflush(10)
    await b.arefresh(10)
    assert sorted(contents(b)) == ["0 call", "0 output", "1 call", "1 output"]


async def test_a_task_that_outlives_the_turn_it_was_started_in_keeps_nobody_waiting(central: str, opened: Open) -> None:
    """What is started inside inherits the turn; what it writes after the end of it is not part of anything."""
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    over = asyncio.Event()

    async def write_later() -> None:
        await over.wait()
        await a.add_items([{"role": "assistant", "content": "late"}])
        await a.aflush(5)

    async with a.turn():
        await a.add_items([{"role": "assistant", "content": "inside"}])
        later = asyncio.create_task(write_later())
    over.set()
    await later
    await a.aflush(5)
    await b.arefresh(10)
    assert contents(b) == ["inside", "late"]


# However it ends.


def test_a_block_that_raises_ends_its_turn_and_keeps_what_it_wrote(central: str, opened: Open) -> None:
    a, b = opened("a", central).session("s"), opened("b", central).session("s")

    def write() -> None:
        with a.turn():
            a.add_message("assistant", "1")
            raise KeyError

    with pytest.raises(KeyError):
        write()
    a.flush(10)
    b.refresh(10)
    assert contents(b) == ["1"]


@pytest.mark.parametrize("times", [1, 2])
async def test_a_block_that_is_cancelled_ends_its_turn_and_keeps_what_it_wrote(
    times: int, central: str, opened: Open
) -> None:
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    inside = asyncio.Event()

    async def write() -> None:
        async with a.turn():
            await a.add_items([{"role": "assistant", "content": "1"}])
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(write())
    await inside.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    await a.aflush(10)
    await b.arefresh(10)
    assert contents(b) == ["1"]


def test_waiting_for_the_central_store_inside_is_refused(central: str, opened: Open) -> None:
    store = opened("a", central)
    session = store.session("s")
    with session.turn():
        for flush in (session.flush, store.flush, store.session("other").flush):
            with pytest.raises(ConfigurationError, match="inside of turn"):
                flush(1)
        session.refresh(10)
        opened("b", central).flush(10)  # It is another store.
    session.flush(10)


def test_somebody_else_who_flushes_waits_for_the_end(central: str, opened: Open) -> None:
    store = opened("a", central)
    session = store.session("s")
    with session.turn():
        session.add_message("assistant", "1")
        outcome: list[Any] = []

        def flush() -> None:
            try:
                store.flush(0.2)
            except SyncTimeout as error:
                outcome.append(error)

        other = threading.Thread(target=flush)
        other.start()
        other.join(10)
        assert len(outcome) == 1
    store.flush(10)


def test_an_empty_turn_writes_nothing(central: str, opened: Open, tmp_path: Path) -> None:
    store = opened("a", central)
    with store.session("s").turn():
        assert contents(store.session("s")) == []
    assert store.session("s").pending == 0
    assert store.status().pending_changes == 0
    assert not list((tmp_path / "a").glob("turns-*"))


def test_a_store_that_is_closed_inside_sends_it_when_it_is_opened_again(central: str, opened: Open) -> None:
    a = opened("a", central)
    session = a.session("s")

    def write() -> None:
        with session.turn():
            session.add_message("assistant", "1")
            a.close(timeout=5)

    with pytest.raises(StoreClosed):
        write()
    again, b = opened("a", central).session("s"), opened("b", central).session("s")
    assert contents(again) == ["1"]
    eventually(lambda: contents(b) == ["1"])
    again.flush(10)


KILLED = """
import os, signal, sys
import localfirst
path, remote, namespace = sys.argv[1:]
store = localfirst.open(path, remote=remote, namespace=namespace, poll_interval=0.1)
session = store.session("s")
session.add_message("user", "before")
turn = session.turn()
turn.__enter__()
for number in range(3):
    session.add_message("assistant", number)
print("written", flush=True)
sys.stdin.read(1)
os.kill(os.getpid(), signal.SIGKILL)
"""


@contextmanager
def killed(*arguments: str) -> Iterator[None]:
    """A process that has written a part of a turn; it is killed at the end of the block."""
    command = [sys.executable, "-c", KILLED, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "written\n"
            yield
            process.stdin.write("x")
            process.stdin.close()
            assert process.wait(30) == -signal.SIGKILL
        finally:
            process.kill()


def test_what_a_killed_process_wrote_goes_up_when_the_store_is_opened_again(
    remote_url: str, namespace: str, opened: Open, tmp_path: Path
) -> None:
    with killed(str(tmp_path / "a"), remote_url, namespace):
        pass
    a, b = opened("a", remote_url), opened("b", remote_url)
    assert contents(a.session("s")) == ["before", 0, 1, 2]
    eventually(lambda: contents(b.session("s")) == ["before", 0, 1, 2])
    a.session("s").add_message("user", "after")
    a.flush(10)
    b.refresh(10)
    assert contents(b.session("s")) == contents(a.session("s")) == ["before", 0, 1, 2, "after"]
    assert not list((tmp_path / "a").glob("turns-*"))


def test_what_a_killed_process_wrote_goes_up_by_another_one_of_the_directory(
    central: str, namespace: str, opened: Open, tmp_path: Path
) -> None:
    a, b = opened("a", central), opened("b", central)
    with killed(str(tmp_path / "a"), central, namespace):
        eventually(lambda: len(a.session("s")) == 4)
        b.refresh(10)
        assert contents(b.session("s")) in ([], ["before"])
    eventually(lambda: contents(b.session("s")) == ["before", 0, 1, 2])
    a.flush(10)


def test_a_turn_that_nobody_ends_goes_up_when_nothing_was_written_for_long(
    central: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localfirst.turns.IDLE_SECONDS", 0.4)
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    with a.turn():
        began = time.monotonic()
        while time.monotonic() < began + 1:  # As long as something is written now and then, it is waited for.
            a.add_message("assistant", "busy")
            time.sleep(0.05)
            b.refresh(10)
            assert contents(b) == []
        written = len(a)
        eventually(lambda: len(b) == written)
        a.add_message("assistant", "after all")
        b.refresh(10)
    a.flush(10)
    b.refresh(10)
    assert contents(b) == contents(a) == [*["busy"] * written, "after all"]


def test_what_is_written_after_a_turn_was_given_up_goes_up_too(
    central: str, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process hung, was given up, went on, and was left again: nobody waits for ever."""
    monkeypatch.setattr("localfirst.turns.IDLE_SECONDS", 0.2)
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    turn = a.turn()
    turn.__enter__()
    try:
        a.add_message("assistant", "1")
        eventually(lambda: contents(b) == ["1"])
        a.add_message("assistant", "2")
        eventually(lambda: contents(b) == ["1", "2"], 5)
    finally:
        turn.__exit__(None, None, None)


def test_a_fork_inside(central: str, opened: Open) -> None:
    """What the child writes is kept, and the turn is the parent's to end."""
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    with a.turn():
        a.add_message("assistant", "1")
        child = os.fork()
        if child == 0:
            status = 1
            try:
                a.add_message("assistant", "by the child")
                status = 0
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        a.add_message("assistant", "2")
        b.refresh(10)
        assert contents(b) == []
    a.flush(10)
    b.refresh(10)
    assert contents(b) == contents(a) == ["1", "by the child", "2"]


def test_a_turn_of_a_child_process(central: str, opened: Open) -> None:
    """Its lock is not the parent's: when the child is killed, the turn is known to be left behind."""
    a, b = opened("a", central).session("s"), opened("b", central).session("s")
    with a.turn():  # The parent has a lock of its own.
        a.add_message("assistant", "parent")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            a.turn().__enter__()
            a.add_message("assistant", "child")
            os.write(write, b"x")
            time.sleep(60)
        finally:
            os._exit(1)
    os.read(read, 1)
    b.refresh(10)
    assert "child" not in contents(b)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    eventually(lambda: contents(b) == ["parent", "child"])
