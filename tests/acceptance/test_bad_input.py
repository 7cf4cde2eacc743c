"""What can be wrong with what users give: each a typed error, as early as it can be known, with nothing lost."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import ConfigurationError, InvalidItem
from localfirst.cli.stores import home

_fork = multiprocessing.get_context("fork")


@pytest.mark.parametrize(
    "url",
    ["mysql://user:secret@host/db", "http://host", "redis", "localhost:6379", "file://relative/path", "file://"],
)
def test_a_url_of_no_central_store(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as raised:
        localfirst.open(tmp_path / "store", remote=url)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("scheme", ["redis+cluster", "redis+sentinel"])
def test_servers_that_are_not_supported_yet_say_so(scheme: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not supported yet"):
        localfirst.open(tmp_path / "store", remote=f"{scheme}://host:6379")


@pytest.mark.parametrize("url", ["redis://127.0.0.1:99999", "redis://host:port/0", "postgresql://host:port/db"])
def test_a_url_that_cannot_be_right(url: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        localfirst.open(tmp_path / "store", remote=url)


@pytest.mark.parametrize(
    "url", ["redis://127.0.0.1:1", "redis://no-such-host.invalid", "postgresql://u:secret@127.0.0.1:1/db"]
)
def test_an_unreachable_server_is_no_error_at_open(url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with localfirst.open(tmp_path / "store", remote=url) as store:
        session = store.session("s")
        session.add_message("user", "Hello")
        assert len(session) == 1
        deadline = time.monotonic() + 10
        while (status := store.status()).state != "offline":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert status.pending_changes == 1
        assert "secret" not in f"{status} {store!r}"
    assert "the rest stays on this disk" in caplog.messages[-1]
    assert "secret" not in caplog.text


@pytest.mark.parametrize("session_id", ["", "a\0b", None, 5, b"bytes", "x" * 2000, "\ud800"])
def test_a_session_id_that_is_none(session_id: Any, tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store, pytest.raises(ConfigurationError, match="session id"):
        store.session(session_id)


@pytest.mark.parametrize(
    "options",
    [
        {"namespace": ""},
        {"namespace": "a\0b"},
        {"worker": "process"},
        {"durability": "maybe"},
        {"poll_interval": 0},
        {"poll_interval": "5"},
        {"remote": 5},
        {"namespace": 5},
        {"sync_interval": -1},
        {"poll_interval": float("nan")},
    ],
    ids=str,
)
def test_options_that_cannot_work(options: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        localfirst.open(tmp_path, **options)


def test_a_task_needs_a_running_loop(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="running event loop"):
        localfirst.open(tmp_path / "a", remote=(tmp_path / "b").as_uri(), worker="task")


def test_a_path_that_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    with pytest.raises(ConfigurationError, match=r"is a file.* --in-place"):
        localfirst.open(path)
    with pytest.raises(ConfigurationError, match="parent is a file"):
        localfirst.open(path / "store")
    assert path.read_text() == "mine"


def test_a_path_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with localfirst.open("~/agent-data") as store:
        assert store.path == tmp_path / "agent-data" == home(Path("~/agent-data"))


def in_child(call: Callable[[Path], None], path: Path) -> None:
    """Run in a forked child, and fail as it fails. What it does to itself ends with it."""
    receiver, sender = _fork.Pipe(duplex=False)

    def run() -> None:
        try:
            call(path)
            sender.send("")
        except BaseException:
            sender.send(traceback.format_exc())

    child = _fork.Process(target=run)
    child.start()
    assert receiver.poll(60), "the child did not answer"
    assert not (failure := receiver.recv()), failure
    child.join(10)


def become_nobody() -> None:
    """Permissions do not bind root."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(65534)
        os.setuid(65534)


@pytest.fixture
def public_directory() -> Iterator[Path]:
    """A directory that any user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_a_directory_that_cannot_be_written(public_directory: Path) -> None:
    public_directory.chmod(0o555)

    def open_it(path: Path) -> None:
        become_nobody()
        for place in (path, path / "below"):
            with pytest.raises(ConfigurationError, match=r"another path|permissions"):
                localfirst.open(place)

    in_child(open_it, public_directory)


def test_a_store_that_became_read_only(public_directory: Path) -> None:
    def write_then_lose_the_right(path: Path) -> None:
        with localfirst.open(path / "store") as store:
            store.session("s").add_message("user", "before")
        for place in [*(path / "store").rglob("*"), path / "store"]:
            place.chmod(0o555 if place.is_dir() else 0o444)
        become_nobody()
        with pytest.raises(localfirst.LocalFirstError, match=r"permissions|can't be used"):
            localfirst.open(path / "store").session("s").add_message("user", "after")

    in_child(write_then_lose_the_right, public_directory)
    for place in [public_directory / "store", *(public_directory / "store").rglob("*")]:
        place.chmod(0o700)
    with localfirst.open(public_directory / "store") as store:
        assert [item["content"] for item in store.session("s")] == ["before"]


def test_a_disk_without_space_stores_nothing_of_the_call_and_loses_nothing_before(tmp_path: Path) -> None:
    """Files of this process can't grow any more, as on a full disk; then they can again."""

    def fill(path: Path) -> None:
        store = localfirst.open(path)
        session = store.session("s")
        session.add_message("user", 0)
        _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, most))
        written = 1

        def write_on() -> None:
            nonlocal written
            while True:
                session.add_message("user", written, padding="x" * 1000)
                written += 1

        with pytest.raises((localfirst.StoreFull, localfirst.StoreUnwritable), match="nothing of this call was stored"):
            write_on()
        assert [item["content"] for item in session] == list(range(written))
        with pytest.raises((localfirst.StoreFull, localfirst.StoreUnwritable)):
            asyncio.run(session.add_items(["x" * 1000, "y" * 100_000]))
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        session.add_message("user", written)
        assert [item["content"] for item in session] == list(range(written + 1))
        store.close()
        with localfirst.open(path) as again:
            assert [item["content"] for item in again.session("s")] == list(range(written + 1))

    in_child(fill, tmp_path / "store")


def test_an_item_that_is_not_json_and_an_export_that_is_damaged(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        session = store.session("s")
        session.add_message("user", "before")
        for call in (
            lambda: asyncio.run(session.add_items(["good", object()])),
            lambda: session.add_message("user", {1, 2}),
            lambda: session.set("k", b"bytes"),
            lambda: session.import_data({"items": ["x"]}),
            lambda: session.import_data({**session.export(), "items": [b"bytes"]}),
        ):
            with pytest.raises(InvalidItem):
                call()
        assert session.export()["items"] == [{"role": "user", "content": "before"}]
        assert session.metadata() == {}
