"""Where a worker runs, when it can't, and how it ends."""

from __future__ import annotations

import asyncio
import errno
import threading
from asyncio import events
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst.errors import StoreClosed
from sync.host import RequestHost, TaskHost, ThreadHost
from sync.worker import Worker
from tests.unit.bench import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_a_thread_that_can_not_start_is_told_at_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remote = (tmp_path / "remote").as_uri()

    def fail() -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(events, "new_event_loop", fail)
        with pytest.raises(localfirst.ConfigurationError, match=r"can't be started: .*Too many open files"):
            localfirst.open(tmp_path / "a", remote=remote)
    with localfirst.open(tmp_path / "a", remote=remote) as store:
        store.session("s").add_message("user", "x")
        store.flush(10)
        assert store.status().pending_changes == 0


def test_an_error_at_the_end_of_the_thread_is_shown_and_closing_goes_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", shown.append)

    async def fail() -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(bench.central, "close", fail)
    host = ThreadHost(bench.make, 0.0)
    for _ in range(2):
        host.close()
    assert [each.exc_type for each in shown] == [ZeroDivisionError]
    assert not host.leads
    with pytest.raises(StoreClosed):
        host.submit(lambda worker: worker.flush())


def test_a_thread_that_nobody_may_wait_for_is_closed(bench: Bench) -> None:
    host = ThreadHost(bench.make, 0.0)
    host.drop()
    assert host.status.state == "stopped"
    with pytest.raises(StoreClosed):
        host.submit(lambda worker: worker.flush())


async def test_a_task_can_be_closed_by_another_thread(bench: Bench) -> None:
    host = TaskHost(bench.make)
    bench.add("s", "x")
    await asyncio.wrap_future(host.submit(lambda worker: worker.flush()))
    await asyncio.to_thread(host.close)
    assert host._life.done()
    assert not host.leads
    assert host.status.state == "stopped"


def test_a_task_whose_loop_has_ended_is_not_nudged(bench: Bench) -> None:
    async def leave() -> TaskHost:
        return TaskHost(bench.make)

    host = asyncio.run(leave())
    asked = len(bench.central.calls)
    host.nudge()
    host.close()
    assert len(bench.central.calls) == asked


def test_a_request_that_ended_before_a_fork_has_nothing_to_let_go(bench: Bench) -> None:
    host = RequestHost(bench.make)
    loops: list[asyncio.AbstractEventLoop] = []

    async def flush(worker: Worker) -> None:
        loops.append(asyncio.get_running_loop())
        await worker.flush()

    host.submit(flush).result(10)
    for thread in list(host._threads):
        thread.join()
    assert [loop.is_closed() for loop in loops] == [True]
    host.forked()  # As in a child process, which has no other connections of its parent's in this test.
    bench.add("s", "x")
    host.submit(flush).result(10)
    assert bench.acked("s") == 1
    host.close()
