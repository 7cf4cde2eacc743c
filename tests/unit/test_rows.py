"""Rows on disk: nothing but bytes, nothing lost, nothing executed."""

from __future__ import annotations

import os
import pickle
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import diskcache
import pytest
from diskcache.core import DBNAME, MODE_PICKLE

from localfirst import connections
from localfirst.errors import ConfigurationError, StoreBusy, StoreCorrupt, StoreFull, StoreMoved, StoreUnwritable
from localfirst.rows import RowExists, Rows, patiently
from localfirst.salvage import open_rows
from localfirst.schema import FORMAT, NoPickleDisk


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    return Rows(tmp_path / "data")


class Bomb:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.trace),)


def forge(rows: Rows, key: object, raw: int, mode: int, value: object) -> None:
    with sqlite3.connect(rows.directory / DBNAME) as connection:
        connection.execute("INSERT INTO Cache (key, raw, mode, value) VALUES (?, ?, ?, ?)", (key, raw, mode, value))


def test_rows_come_back_in_the_order_of_keys(rows: Rows) -> None:
    for key in (b"b\x00", b"a", b"b", b"c", b"b\xff"):
        rows.insert(key, key * 2)
    assert rows.range(b"b", b"c") == [(b"b", b"bb"), (b"b\x00", b"b\x00b\x00"), (b"b\xff", b"b\xffb\xff")]
    assert rows.range(b"a", b"z", 1, reverse=True) == [(b"c", b"cc")]
    assert rows.get(b"a") == b"aa"
    assert rows.get(b"nothing") is None


def test_a_key_is_inserted_once(rows: Rows) -> None:
    rows.insert(b"k", b"1")
    with pytest.raises(RowExists):
        rows.insert(b"k", b"2")
    rows.put(b"k", b"3")
    assert rows.get(b"k") == b"3"


def test_a_transaction_is_all_or_nothing(rows: Rows) -> None:

    def write_and_fail() -> None:
        with rows.transaction():
            rows.insert(b"k", b"1")
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    assert rows.get(b"k") is None


@pytest.mark.parametrize("fsync", [False, True])
def test_rows_survive_reopening(tmp_path: Path, fsync: bool) -> None:
    first = Rows(tmp_path / "data", fsync=fsync)
    first.insert(b"k", b"v")
    first.close()
    assert Rows(tmp_path / "data", fsync=fsync).get(b"k") == b"v"


@pytest.mark.parametrize("place", ["value", "key"])
def test_a_forged_pickle_is_refused_and_not_run(rows: Rows, tmp_path: Path, place: str) -> None:
    """Invariant 10, and CVE-2025-69872."""
    trace = tmp_path / "executed"
    bomb = pickle.dumps(Bomb(trace))
    if place == "value":
        forge(rows, b"k", 1, MODE_PICKLE, bomb)
    else:
        forge(rows, bomb, 0, 1, b"v")
    with pytest.raises(StoreCorrupt, match="did not write"):
        rows.range(b"", b"\xff" * 9)
    if place == "value":
        with pytest.raises(StoreCorrupt):
            rows.get(b"k")
    assert not trace.exists()
    pickle.loads(bomb)
    assert trace.exists()  # The bomb was live.


@pytest.mark.parametrize(
    ("key", "raw", "mode", "value"),
    [
        ("text", 1, 1, b"v"),
        (b"k", 1, 1, "text"),
        (b"k", 1, 1, None),
        (b"k", 1, 1, 5),
        (b"k", 1, 2, None),
        (b"k", 0, 1, b"v"),
    ],
)
def test_rows_of_any_other_kind_are_refused(rows: Rows, key: object, raw: int, mode: int, value: object) -> None:
    forge(rows, key, raw, mode, value)
    with sqlite3.connect(rows.directory / DBNAME) as connection:
        assert connection.execute("SELECT count(*) FROM Cache").fetchone() == (1,)
    if isinstance(key, bytes):
        with pytest.raises(StoreCorrupt):
            rows.range(b"", b"\xff" * 9)


def test_diskcache_itself_is_refused_too(tmp_path: Path) -> None:
    """Nobody can reach the pickle by way of diskcache's own calls."""
    disk = NoPickleDisk(str(tmp_path))
    calls: list[Callable[[], Any]] = [
        lambda: disk.put({"a": 1}),
        lambda: disk.get(b"", False),
        lambda: disk.store({"a": 1}, False),
        lambda: disk.fetch(MODE_PICKLE, None, b"", False),
    ]
    for call in calls:
        with pytest.raises(StoreCorrupt):
            call()


def test_a_check_that_fixes_removes_nothing_of_ours(rows: Rows) -> None:
    """`diskcache.Cache.check(fix=True)` deletes files that it does not know."""
    big = os.urandom(200_000)
    rows.insert(b"big", big)
    rows.insert(b"small", b"v")
    beside = rows.directory.parent / "replica"
    beside.write_text("ours")
    with diskcache.Cache(str(rows.directory)) as cache:
        cache.check(fix=True)
    assert rows.get(b"big") == big
    assert rows.get(b"small") == b"v"
    assert beside.read_text() == "ours"
    assert Rows(rows.directory).get(b"small") == b"v"


def test_nothing_is_evicted_or_culled(tmp_path: Path) -> None:
    rows = Rows(tmp_path / "data")
    for number in range(100):
        rows.insert(b"%d" % number, b"x" * 100_000)
    with diskcache.Cache(str(rows.directory)) as cache:
        assert cache.eviction_policy == "none"
        assert cache.cull_limit == 0
    assert len(rows.range(b"", b"\xff")) == 100
    assert sorted(path.name for path in rows.directory.iterdir() if path.suffix != ".db") == [
        f"{DBNAME}-shm",
        f"{DBNAME}-wal",
    ]


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o277])
def test_only_the_owner_can_read_it_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        rows = Rows(tmp_path / "made" / "data")
        rows.insert(b"k", b"v")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(rows.directory.stat().st_mode) & 0o077 == 0
    for path in rows.directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) & 0o177 == 0, path


@pytest.mark.parametrize("open_again", [Rows, open_rows])
def test_a_second_store_on_the_directory_does_not_let_go_of_the_locks_of_the_first(
    rows: Rows, open_again: Callable[[Path], Rows]
) -> None:
    """SQLite's locks end when the process closes any descriptor of the file; others then take its log for left over."""
    rows.insert(b"k1", b"v")
    with closing(open_again(rows.directory)):
        in_another_process(rows.directory)
        rows.insert(b"k2", b"v")
        assert in_another_process(rows.directory) == ["k1", "k2"]


@pytest.fixture
def a_moment_later(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Time passes for those who look now and then."""
    return lambda: monkeypatch.setattr(connections, "PLACE_SECONDS", 0.0)


def test_a_directory_that_was_deleted_is_noticed(rows: Rows, a_moment_later: Callable[[], None]) -> None:
    rows.insert(b"k", b"v")
    shutil.rmtree(rows.directory)
    a_moment_later()
    calls: list[Callable[[], Any]] = [
        lambda: rows.insert_last(b"l", b"v", b"m"),
        lambda: rows.get(b"k"),
        rows.version,
    ]
    for call in calls * 2:
        with pytest.raises(StoreMoved, match=r"was moved away, replaced, deleted.*open the store again"):
            call()
    assert not rows.directory.exists()


def test_a_directory_that_was_replaced_is_noticed_by_every_thread(
    rows: Rows, a_moment_later: Callable[[], None]
) -> None:
    """A thread that comes later opens the file anew: it must not find another store than the rest."""
    rows.insert(b"k", b"v")
    shutil.rmtree(rows.directory)
    with closing(Rows(rows.directory)) as other:
        with ThreadPoolExecutor(1) as pool, pytest.raises(StoreMoved, match="replaced, deleted"):
            pool.submit(rows.insert, b"thread", b"v").result()
        a_moment_later()
        with pytest.raises(StoreMoved, match="replaced, deleted"):
            rows.insert(b"here", b"v")
        assert other.keys(b"", b"z") == []


def in_another_process(directory: Path) -> list[str]:
    """The keys that it finds. It closes the store at its end, as the last one if nobody has a lock."""
    look = f"from pathlib import Path; from localfirst.rows import Rows; rows = Rows(Path({str(directory)!r}))"
    command = [sys.executable, "-c", f"{look}; print(*(key.decode() for key in rows.keys(b'k', b'l'))); rows.close()"]
    return subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout.split()


def test_a_path_that_is_a_file_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(ConfigurationError, match="pass a"):
            Rows(path)
    assert (tmp_path / "file").read_text() == "mine"


def test_a_newer_format_is_left_alone(rows: Rows) -> None:
    with sqlite3.connect(rows.directory / DBNAME) as connection:
        connection.execute("UPDATE Settings SET value = ? WHERE key = 'localfirst_format'", (FORMAT + 1,))
    with pytest.raises(ConfigurationError, match="the version that made it"):
        Rows(rows.directory)


def test_a_busy_store_raises_at_once_and_patience_waits(rows: Rows) -> None:
    blocker = sqlite3.connect(rows.directory / DBNAME, isolation_level=None, check_same_thread=False)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreBusy):
        rows.insert(b"k", b"v")
    with pytest.raises(StoreBusy):
        patiently(lambda: rows.insert(b"k", b"v"), patience=0.01)
    tried = threading.Event()

    def insert() -> None:
        try:
            rows.insert(b"k", b"v")
        finally:
            tried.set()

    thread = threading.Thread(target=patiently, args=(insert,))
    thread.start()
    assert tried.wait(5)
    blocker.execute("COMMIT")
    thread.join(5)
    assert rows.get(b"k") == b"v"


def test_calls_that_lose_their_transaction_leave_nothing(rows: Rows) -> None:
    """SQLite ends one by itself for some faults of the disk."""
    calls: list[Callable[[], Any]] = [
        lambda: rows.insert(b"k1", b"v"),
        lambda: rows._connections._con.execute("ROLLBACK"),
        lambda: rows.insert(b"k2", b"v"),
    ]
    with pytest.raises(StoreUnwritable, match="nothing of this call was stored"):
        rows.together(calls)
    assert rows.range(b"k", b"l") == []
    rows.together([calls[0], calls[2]])
    assert [key for key, _ in rows.range(b"k", b"l")] == [b"k1", b"k2"]


def test_a_transaction_in_another_is_undone_without_it_and_with_it(rows: Rows) -> None:
    def insert(*keys: bytes) -> None:
        with rows.transaction():
            for key in keys:
                rows.insert(key, b"v")
                with rows.snapshot():
                    assert rows.get(key) == b"v"

    def insert_twice(*keys: bytes) -> None:
        with rows.transaction():
            insert(*keys)
            insert(*keys)

    with rows.transaction():
        insert(b"k1")
        with pytest.raises(RowExists):
            insert(b"k2", b"k1")
        insert(b"k3")
    with pytest.raises(RowExists):
        insert_twice(b"k4", b"k5")
    assert [key for key, _ in rows.range(b"k", b"l")] == [b"k1", b"k3"]


def test_a_full_disk_stores_nothing_and_goes_on_when_there_is_space(rows: Rows) -> None:
    rows.insert(b"before", b"v")
    pages = rows._connections._con.execute("PRAGMA page_count").fetchone()[0]
    rows._connections._con.execute(f"PRAGMA max_page_count = {pages + 1}")

    def fill() -> None:
        for number in range(1000):
            rows.insert(b"k%d" % number, b"x" * 4000)

    with pytest.raises(StoreFull, match="free some space"):
        fill()
    rows._connections._con.execute("PRAGMA max_page_count = 1000000")
    rows.insert(b"after", b"v")
    assert rows.get(b"before") == rows.get(b"after") == b"v"


def test_a_database_that_cannot_be_written_says_so(rows: Rows) -> None:
    rows._connections._con.execute("PRAGMA query_only = ON")
    with pytest.raises(StoreUnwritable, match="nothing of this call was stored"):
        rows.insert(b"k", b"v")


def test_a_file_that_is_no_database_says_so(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / DBNAME).write_bytes(b"this is not a database" * 1000)
    with pytest.raises(StoreCorrupt, match="damaged"):
        Rows(tmp_path / "data")


def test_a_rowid_is_given_once(rows: Rows) -> None:
    """What was added since a rowid is found even when what stood there was deleted."""
    for number in range(10):
        rows.insert(b"k%d" % number, b"v")
    _, last = rows.prefixes_since(0, b"k", b"l", 2)
    rows.delete_range(b"k5", b"k9\xff")
    rows.insert(b"knew", b"value")
    assert rows.prefixes_since(last, b"k", b"l", 2)[0] == {b"kn"}
    assert rows.measure(b"k", b"l")[:2] == (6, 10)


def test_every_commit_but_own_single_inserts_shows_in_the_version(rows: Rows) -> None:
    before = rows.version()
    rows.insert(b"own", b"v")
    assert rows.version() == before
    with rows.transaction():
        rows.put(b"own", b"w")
    assert rows.version() != before
    before = rows.version()
    other = Rows(rows.directory)
    other.insert(b"other", b"v")
    assert rows.version() != before
