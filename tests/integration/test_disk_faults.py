"""Disks that are full, read-only or failing: the error says so, nothing of the call is stored, everything before it is
there, and the same store goes on when the disk does.

Invariants 1, 4 and 7. Only the faults that need a file system of their own need privileges.
"""

from __future__ import annotations

import multiprocessing
import sqlite3
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import ConfigurationError, SessionEvent, Store, StoreFull, StoreMoved, StoreUnwritable
from localfirst.rows import Rows
from tests.faults.disk import failing_beyond, full, read_only, small_disk
from tests.polling import eventually


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk") as place:
        yield place


def contents(store: Store, session_id: str = "s") -> list[str]:
    return [message["content"] for message in store.session(session_id, hydrate_timeout=0.0).get_messages()]


def fill(store: Store, session_id: str = "s") -> list[str]:
    """Add until that fails; returns what was told to be stored."""
    stored: list[str] = []
    try:
        while True:
            text = f"{len(stored)} {'x' * 500}"
            store.session(session_id).add_message("user", text)
            stored.append(text)
    except (StoreFull, StoreUnwritable):
        return stored


WRITES: list[Callable[[Store], Any]] = [
    lambda store: store.session("s").add_message("user", "lost"),
    lambda store: store.session("new").add_message("user", "lost"),
    lambda store: store.session("s").increment("k"),
]


def test_a_full_disk_stores_nothing_of_a_call_and_the_store_goes_on(disk: Path, tmp_path: Path) -> None:
    with localfirst.open(disk / "a", remote=(tmp_path / "central").as_uri(), poll_interval=0.1) as store:
        store.session("s").add_message("user", "before")
        store.flush(30)
        with full(disk):
            stored = fill(store)
            for write in WRITES:
                with pytest.raises(StoreFull, match="nothing of this call was stored"):
                    write(store)
            with pytest.raises(StoreFull), store.session("turn").turn():
                store.session("turn").add_message("user", "lost")
            assert contents(store) == ["before", *stored]
            assert contents(store, "new") == contents(store, "turn") == []
        with store.session("turn").turn():
            store.session("turn").add_message("user", "in a turn")
        store.session("s").add_message("user", "after")
        store.flush(30)
        assert store.status().pending_changes == 0
    with localfirst.open(tmp_path / "b", remote=(tmp_path / "central").as_uri(), worker="none") as other:
        other.refresh(30)
        assert contents(other) == ["before", *stored, "after"]
        assert contents(other, "turn") == ["in a turn"]


def test_what_others_write_comes_when_there_is_space_again(disk: Path, tmp_path: Path) -> None:
    """The worker lives through it."""
    remote = (tmp_path / "central").as_uri()
    with (
        localfirst.open(disk / "a", remote=remote, poll_interval=0.1) as store,
        localfirst.open(tmp_path / "b", remote=remote, worker="none") as other,
    ):
        store.session("s").add_message("user", "mine")
        store.flush(30)
        with full(disk):
            fill(store)
            other.session("s", hydrate_timeout=0.0).add_message("user", "theirs " + "x" * 50_000)
            other.flush(30)
            eventually(lambda: store.status().state == "blocked", 30)
            assert "no space" in str(store.status().last_error)
        store.refresh(30)
        assert any(text.startswith("theirs") for text in contents(store))
        eventually(lambda: store.status().state == "online", 30)


def test_a_store_is_opened_on_a_full_disk(disk: Path) -> None:
    """One that is there can be read; a new one says what is wrong, and is made when there is space."""
    with full(disk), pytest.raises(StoreFull):
        localfirst.open(disk / "new", remote="")
    with localfirst.open(disk / "new", remote="") as store:
        store.session("s").add_message("user", "before")
    with full(disk):
        try:
            with localfirst.open(disk / "new", remote="") as store:
                assert contents(store) == ["before"]
        except StoreFull:
            pass  # SQLite needs a page for its index.
    with localfirst.open(disk / "new", remote="") as store:
        assert contents(store) == ["before"]
        assert store.status().recovered is None


def test_the_end_of_a_turn_that_could_not_be_written_comes_with_the_next_write(disk: Path, tmp_path: Path) -> None:
    remote = (tmp_path / "central").as_uri()
    with localfirst.open(disk / "a", remote=remote, worker="none") as store:
        filled = full(disk)
        with pytest.raises(StoreFull), store.session("s").turn():  # noqa: PT012 - its end is what fails
            store.session("s").add_message("user", "in a turn")
            filled.__enter__()
            fill(store, "other")
        filled.__exit__(None, None, None)
        store.session("other").add_message("user", "after")
        store.flush(30)
        assert store.status().pending_changes == 0


def test_a_directory_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "a", remote="") as store:
        store.session("s").add_message("user", "before")
    with (
        read_only(tmp_path / "a", tmp_path / "seen"),
        pytest.raises((ConfigurationError, StoreUnwritable), match=r"Read-only|readonly|permissions|can't be used"),
    ):
        localfirst.open(tmp_path / "seen", remote="")
    with localfirst.open(tmp_path / "a", remote="") as store:
        assert contents(store) == ["before"]


def test_a_disk_that_fails_stores_nothing_of_a_call_and_the_store_goes_on(tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "a", remote="") as store:
        store.session("s").add_message("user", "before")
        size = (tmp_path / "a" / "data" / "cache.db-wal").stat().st_size
        with failing_beyond(size + 50_000):
            stored = fill(store)
            with pytest.raises(StoreUnwritable, match="disk I/O error"):
                store.session("s").add_message("user", "lost" * 10_000)
        assert stored
        assert contents(store) == ["before", *stored]
        store.session("s").add_message("user", "after")
    with localfirst.open(tmp_path / "a", remote="") as store:
        assert contents(store) == ["before", *stored, "after"]
        assert store.status().recovered is None


def test_a_checkpoint_that_fails_is_not_the_trouble_of_the_call_that_began_it(tmp_path: Path) -> None:
    """The row is stored, and so the call returns; what could not be moved into the database stays in the log."""
    rows = Rows(tmp_path / "data")
    rows._connections._con.execute("PRAGMA wal_autocheckpoint = 1")
    blocker = sqlite3.connect(rows.file, isolation_level=None)
    blocker.execute("BEGIN")
    blocker.execute("SELECT count(*) FROM Cache").fetchone()  # The log grows, and nothing is moved yet.
    for number in range(20):
        rows.insert(b"a%02d" % number, bytes(3000))
    blocker.execute("COMMIT")
    blocker.close()
    moved = rows.file.stat().st_size
    log = Path(f"{rows.file}-wal").stat().st_size
    assert log > moved
    with failing_beyond(moved):  # The log is written from its beginning again, or not at all.
        outcome = []
        for number in range(3):
            try:
                rows.insert(b"b%02d" % number, b"v")
                outcome.append(number)
            except StoreUnwritable:
                pass
    assert rows.file.stat().st_size == moved
    assert [key for key, _ in rows.range(b"b", b"c")] == [b"b%02d" % number for number in outcome]
    rows.insert(b"c", b"v")
    assert len(rows.range(b"a", b"d")) == 21 + len(outcome)
    rows.close()


def use_until_told(directory: Path, pipe: Connection) -> None:
    """Write whenever it is told to, and tell how that went."""
    with localfirst.open(directory, remote="") as store:
        heard: list[str] = []
        store.on(SessionEvent.STORE_CORRUPT, heard.append)
        pipe.send("open")
        while (text := pipe.recv()) is not None:
            try:
                store.session("s").add_message("user", text)
                pipe.send("stored")
            except (localfirst.StoreCorrupt, StoreMoved) as error:
                pipe.send(type(error).__name__)


def test_a_process_that_has_the_broken_database_open_does_not_write_to_it(tmp_path: Path) -> None:
    """It is told to open the store again, and another that meets the damage saves what can be read."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    child = context.Process(target=use_until_told, args=(tmp_path / "a", theirs))
    child.start()
    try:
        assert ours.recv() == "open"
        ours.send("first")
        assert ours.recv() == "stored"
        spoil_row(tmp_path / "a" / "data" / "cache.db")
        with localfirst.open(tmp_path / "a", remote="") as store, pytest.raises(localfirst.StoreCorrupt):
            contents(store)
        with localfirst.open(tmp_path / "a", remote="") as store:
            ours.send("second")
            assert ours.recv() == StoreMoved.__name__
            assert store.status().recovered is not None
            store.session("s").add_message("user", "third")
            assert contents(store) == ["third"]
        ours.send(None)
        child.join(30)
        assert child.exitcode == 0
        with localfirst.open(tmp_path / "a", remote="") as store:
            assert contents(store) == ["third"]
    finally:
        child.kill()
        child.join()


def spoil_row(database: Path) -> None:
    """Alter what is in the newest row, as a disk may."""
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(
            "UPDATE Cache SET value = CAST(value || 'x' AS BLOB) WHERE substr(key, 1, 1) = CAST('c' AS BLOB)"
        )
    connection.close()


def test_one_of_many_processes_saves_what_can_be_read(tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "a", remote="") as store:
        for number in range(50):
            store.session("s").add_message("user", str(number))
        store.session("t").add_message("user", "whole")
    data = bytearray((tmp_path / "a" / "data" / "cache.db").read_bytes())
    place = data.index(b'"content":"25"')
    data[place + 12] ^= 1
    (tmp_path / "a" / "data" / "cache.db").write_bytes(data)
    with localfirst.open(tmp_path / "a", remote="") as store, pytest.raises(localfirst.StoreCorrupt):
        contents(store)
    context = multiprocessing.get_context("spawn")
    with context.Pool(4) as pool:
        found = pool.map(look, [tmp_path / "a"] * 4)
    assert found == [([str(number) for number in range(50) if number != 25], ["whole"])] * 4
    assert len(list((tmp_path / "a").glob("data.broken-*"))) == 1


def look(directory: Path) -> tuple[list[str], list[str]]:
    with localfirst.open(directory, remote="") as store:
        return contents(store), contents(store, "t")
