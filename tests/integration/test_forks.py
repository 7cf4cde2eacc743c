"""Stores that come through a fork, and each kind of worker beside others on one directory."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import ConfigurationError, LocalFirstError, SyncTimeout
from tests.polling import eventually

_spawn = multiprocessing.get_context("spawn")
_fork = multiprocessing.get_context("fork")


def contents(store: localfirst.Store) -> list[Any]:
    return [item["content"] for item in store.session("s")]


def sockets() -> set[str]:
    """The inodes of the sockets that this process has open."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208 - names only
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(f"/proc/self/fd/{entry}"))  # noqa: PTH115 - it is no path
    return {each for each in found if each.startswith("socket:")}


# A server that forks its workers when the store is open and in use.


def fork_with_os(target: Callable[..., None], *arguments: Any) -> None:
    if os.fork() == 0:
        try:
            target(*arguments)
        finally:
            os._exit(0)


def fork_with_multiprocessing(target: Callable[..., None], *arguments: Any) -> None:
    _fork.Process(target=target, args=arguments).start()


def serve(number: int, store: localfirst.Store, told: Any, leads: Any, done: Any) -> None:
    """A worker process: uses the store of its parent."""
    signal.alarm(60)
    gc.collect()  # What is left of the parent's worker must not be ended here.
    store.session("s").add_message("user", f"child {number}")
    store.flush(20)
    assert "parent" in contents(store)
    told.send((sockets(), store.status().leader))
    while not done.wait(0.02):
        if store.status().leader:
            leads.set()
    store.close()


def preload(fork: Any, path: Path, remote: str, namespace: str, told: Any, heard: Any, leads: Any, done: Any) -> None:
    """The parent process. It hears of what others write by hints alone."""
    signal.alarm(60)
    store = localfirst.open(path, remote=remote, namespace=namespace, poll_interval=3600)
    store.session("s").add_message("user", "parent")
    store.flush(20)
    eventually(lambda: store.status().leader)
    with localfirst.open(path.with_name("c"), remote=remote, namespace=namespace, worker="none") as other:
        other.session("s").add_message("user", "a hint")
        other.flush(20)
    if remote.startswith("file:"):
        store.refresh(20)
    eventually(lambda: "a hint" in contents(store))  # All connections are made.
    for number in range(2):
        fork(serve, number, store, told, leads, done)
    assert heard.wait(30)  # The children have written.
    store.session("s").add_message("user", "parent again")
    eventually(lambda: store.session("s").pending == 0)
    told.send((sockets(), store.status().leader))
    if not remote.startswith("file:"):
        eventually(lambda: "from elsewhere" in contents(store))
        told.send("hint")
    signal.pause()


@pytest.mark.parametrize("fork", [fork_with_os, fork_with_multiprocessing], ids=lambda fork: fork.__name__)
def test_parent_and_children_all_sync_and_share_no_socket(
    fork: Any, remote_url: str, tmp_path: Path, namespace: str
) -> None:
    receiver, sender = _spawn.Pipe(duplex=False)
    heard, leads, done = _spawn.Event(), _spawn.Event(), _spawn.Event()
    arguments = (fork, tmp_path / "a", remote_url, namespace, sender, heard, leads, done)
    parent = _spawn.Process(target=preload, args=arguments)
    parent.start()

    def told() -> Any:
        assert receiver.poll(30)
        return receiver.recv()

    try:
        children = [told(), told()]
        heard.set()
        own = told()
        assert [leader for _, leader in (*children, own)] == [False, False, True]
        everything = [found for found, _ in (*children, own)]
        assert all(everything)
        assert sum(map(len, everything)) == len(set.union(*everything)), "a socket is shared"
        with localfirst.open(tmp_path / "b", remote=remote_url, namespace=namespace) as other:
            other.refresh(10)
            assert sorted(contents(other)) == ["a hint", "child 0", "child 1", "parent", "parent again"]
            other.session("s").add_message("user", "from elsewhere")
            other.flush(10)
        if not remote_url.startswith("file:"):
            assert told() == "hint"
        assert not leads.is_set()
        parent.kill()
        assert leads.wait(10), "no child took over"
    finally:
        done.set()
        parent.kill()
        parent.join(10)


def in_child(call: Callable[[], None]) -> None:
    """Run in a forked child, and fail as it fails, or when it takes too long."""
    child = os.fork()
    if child == 0:
        signal.alarm(30)
        try:
            call()
        except BaseException as error:
            os.write(2, f"{error!r}\n".encode())
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"redis://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["thread", "none"])
def test_a_child_does_not_wait_for_what_its_parent_was_at(kind: Any, silent: str, tmp_path: Path) -> None:
    store = localfirst.open(tmp_path, remote=silent, worker=kind)
    store.session("s").add_message("user", "x")

    def flush() -> None:
        with contextlib.suppress(LocalFirstError):
            store.flush()

    waiting = threading.Thread(target=flush)
    waiting.start()
    link: Any = store._link
    host = link.host
    eventually(lambda: list(host._requests))

    def use() -> None:
        store.session("s").add_message("user", "child")
        with pytest.raises(SyncTimeout):
            store.flush(0.2)
        store.close(0.1)

    with host._submitting:  # As a thread of the parent may hold it.
        in_child(use)
    assert waiting.is_alive()
    store.close(0)
    waiting.join(10)
    assert not waiting.is_alive()


def test_a_child_does_not_show_what_a_request_of_its_parent_found(tmp_path: Path) -> None:
    store = localfirst.open(tmp_path, remote="redis://127.0.0.1:1", worker="none")
    store.session("s").add_message("user", "x")

    def flush() -> None:
        with contextlib.suppress(LocalFirstError):
            store.flush()

    waiting = threading.Thread(target=flush)
    waiting.start()
    eventually(lambda: store.status().state == "offline")

    def look() -> None:
        assert store.status().state == "stopped"

    in_child(look)
    store.close(0)
    waiting.join(10)


def test_a_child_that_never_synced_says_so(redis_url: str, tmp_path: Path, namespace: str) -> None:
    store = localfirst.open(tmp_path, remote=redis_url, namespace=namespace)
    store.session("s").add_message("user", "x")
    store.flush(10)
    forked, closed = _fork.Event(), _fork.Event()

    def look() -> None:
        seen = [store.status().state]
        forked.set()
        assert closed.wait(20)
        seen.append(store.status().state)
        os._exit(0 if seen == ["online", "stopped"] else 1)  # What the parent tells; then nobody leads.

    child = _fork.Process(target=look)
    child.start()
    assert forked.wait(20)
    store.close()
    closed.set()
    child.join(20)
    assert child.exitcode == 0


def test_a_task_stays_with_the_loop_of_the_parent(redis_url: str, tmp_path: Path, namespace: str) -> None:
    async def main() -> None:
        async with localfirst.open(tmp_path, remote=redis_url, namespace=namespace, worker="task") as store:

            def use() -> None:
                store.session("s").add_message("user", "child")
                with pytest.raises(ConfigurationError, match="open it again"):
                    store.flush(5)

            in_child(use)
            await store.aflush(10)
            assert store.status().pending_changes == 0

    asyncio.run(main())


# Kinds of workers.


@pytest.mark.parametrize("kind", ["thread", "task", "none"])
def test_every_kind_sends_and_fetches(kind: Any, remote_url: str, tmp_path: Path, namespace: str) -> None:
    async def main() -> None:
        options: Any = {"remote": remote_url, "namespace": namespace, "worker": kind}
        async with localfirst.open(tmp_path / "a", **options) as a, localfirst.open(tmp_path / "b", **options) as b:
            await a.session("s").add_items([{"content": "to b"}])
            await a.aflush(10)
            await b.arefresh(10)
            await b.session("s").add_items([{"content": "to a"}])
            await b.aflush(10)
            await a.arefresh(10)
            for store in (a, b):
                assert [item["content"] for item in await store.session("s").get_items()] == ["to b", "to a"]

    asyncio.run(main())


@pytest.fixture
def sidecar(remote_url: str, tmp_path: Path, namespace: str) -> Iterator[subprocess.Popen[str]]:
    """`localfirst sync`, once it leads."""
    command = [sys.executable, "-m", "localfirst", "sync", "--json"]
    options = ["--store", str(tmp_path / "a"), "--remote", remote_url, "--namespace", namespace]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any('"online"' in line for line in process.stdout)
        yield process
        process.kill()


@pytest.mark.parametrize("kind", ["thread", "none"])
def test_an_application_beside_a_process_that_syncs(
    kind: Any, sidecar: subprocess.Popen[str], remote_url: str, tmp_path: Path, namespace: str
) -> None:
    options: Any = {"remote": remote_url, "namespace": namespace}
    with (
        localfirst.open(tmp_path / "a", **options, worker=kind) as store,
        localfirst.open(tmp_path / "b", **options, worker="none") as other,
    ):
        session = store.session("s")
        session.add_message("user", "by the other process")
        eventually(lambda: session.pending == 0)
        status = store.status()
        assert (status.state, status.leader) == ("online", False)
        sidecar.kill()
        sidecar.wait(10)
        killed_at = time.monotonic()
        session.add_message("user", "after it was killed")
        if kind == "thread":
            eventually(lambda: store.status().leader, timeout=1.0)
            eventually(lambda: session.pending == 0)
        else:
            assert store.status().state == "stopped"
            assert session.pending == 1
            store.flush(10)
        assert time.monotonic() - killed_at < 10
        other.refresh(10)
        assert contents(other) == ["by the other process", "after it was killed"]
