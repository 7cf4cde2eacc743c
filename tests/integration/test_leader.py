"""Who syncs a directory that several processes use: killed leaders, forked children."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import localfirst
from sync.leader import Leadership, is_led
from tests.polling import eventually

_spawn = multiprocessing.get_context("spawn")
_fork = multiprocessing.get_context("fork")


def lead_until_killed(path: Path, remote: str, namespace: str, leads: Any) -> None:
    store = localfirst.open(path, remote=remote, namespace=namespace)
    eventually(lambda: store.status().leader)
    store.session("s").add_message("user", "from the leader")
    store.flush(10)
    leads.set()
    signal.pause()


@pytest.fixture
def killed_leader(tmp_path: Path, redis_url: str, namespace: str) -> Iterator[Any]:
    """A process that leads the directory `tmp_path / "a"`."""
    leads = _spawn.Event()
    process = _spawn.Process(target=lead_until_killed, args=(tmp_path / "a", redis_url, namespace, leads))
    process.start()
    assert leads.wait(30)
    yield process
    process.kill()
    process.join(10)


def test_a_killed_leader_is_replaced_within_a_second(
    killed_leader: Any, tmp_path: Path, redis_url: str, namespace: str
) -> None:
    with localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace) as store:
        session = store.session("s")
        assert not store.status().leader
        assert eventually(lambda: store.status().state) == "online"  # As the leader tells.
        session.add_message("user", "goes through the leader")
        eventually(lambda: session.pending == 0)
        os.kill(killed_leader.pid, signal.SIGKILL)
        killed_leader.join(10)
        session.add_message("user", "goes through its successor")
        eventually(lambda: store.status().leader, timeout=1.0)
        eventually(lambda: session.pending == 0)
    with localfirst.open(tmp_path / "b", remote=redis_url, namespace=namespace) as other:
        assert [item["content"] for item in other.session("s")] == [
            "from the leader",
            "goes through the leader",
            "goes through its successor",
        ]


def test_a_store_without_a_worker_shows_what_the_leader_tells(
    killed_leader: Any, tmp_path: Path, redis_url: str, namespace: str
) -> None:
    with localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace, worker="none") as store:
        assert store.status().state == "online"
        store.session("s").add_message("user", "sent by the leader")
        eventually(lambda: store.status().pending_changes == 0)
        os.kill(killed_leader.pid, signal.SIGKILL)
        killed_leader.join(10)
        assert store.status().state == "stopped"


def test_a_lock_goes_with_its_process_and_not_to_its_children(tmp_path: Path) -> None:
    leadership = Leadership(tmp_path, "n")
    assert leadership.take()
    assert leadership.take()
    assert is_led(tmp_path, "n")
    child = os.fork()
    if child == 0:
        os._exit(1 if leadership.held else 0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    leadership.release()
    assert not is_led(tmp_path, "n")


def in_child(call: Callable[[], None]) -> None:
    """Run in a forked child, and fail as it fails."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        try:
            call()
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_child_that_ends_leaves_its_parent_the_lock(tmp_path: Path) -> None:
    leadership = Leadership(tmp_path, "n")
    assert leadership.take()

    def forget() -> None:
        nonlocal leadership
        del leadership

    in_child(forget)
    assert is_led(tmp_path, "n")
    leadership.release()


def lead_and_fork(path: Path, pids: Any) -> None:
    leadership = Leadership(path, "n")
    assert leadership.take()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
    else:
        pids.send(child)
    signal.pause()


def test_a_child_does_not_keep_the_lock_of_a_killed_parent(tmp_path: Path) -> None:
    receiver, sender = _spawn.Pipe(duplex=False)
    leader = _spawn.Process(target=lead_and_fork, args=(tmp_path, sender))
    leader.start()
    assert receiver.poll(30)
    child = receiver.recv()
    try:
        assert is_led(tmp_path, "n")
        leader.kill()
        leader.join(10)
        eventually(lambda: not is_led(tmp_path, "n"))
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_starts_its_own_worker_when_it_writes(remote_url: str, tmp_path: Path, namespace: str) -> None:
    with localfirst.open(tmp_path / "a", remote=remote_url, namespace=namespace) as store:
        session = store.session("s")
        session.add_message("user", "parent")
        store.flush(10)

        def write_and_flush() -> None:
            session.add_message("user", "child")
            store.flush(20)
            assert not store.status().leader
            assert session.pending == 0

        in_child(write_and_flush)
        session.add_message("user", "parent again")
        store.flush(10)
        assert store.status().leader
        assert [item["content"] for item in session] == ["parent", "child", "parent again"]
    with localfirst.open(tmp_path / "b", remote=remote_url, namespace=namespace) as other:
        assert len(other.session("s")) == 3


def test_a_forked_child_leads_when_its_parent_is_gone(redis_url: str, tmp_path: Path, namespace: str) -> None:
    store = localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace)
    eventually(lambda: store.status().leader)
    receiver, sender = _fork.Pipe(duplex=False)

    def outlive_the_parents_store() -> None:
        store.session("s").add_message("user", "child")
        sender.send("wrote")
        eventually(lambda: store.status().leader, timeout=10.0)
        eventually(lambda: store.session("s").pending == 0)
        sender.send("leads")

    child = _fork.Process(target=outlive_the_parents_store)
    child.start()
    assert receiver.recv() == "wrote"
    store.close()
    assert receiver.poll(20)
    assert receiver.recv() == "leads"
    child.join(10)
