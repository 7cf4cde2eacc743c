"""A damaged database: what is found, what is kept, what is put aside, and what becomes of a salvage that is cut off."""

from __future__ import annotations

import logging
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import diskcache
import pytest
from diskcache.core import DBNAME

import localfirst
from localfirst import ConfigurationError, SessionEvent, Store, StoreCorrupt, StoreMoved, salvage
from localfirst.change import Change, encode_change
from localfirst.damage import Note, note_file, read_note, write_note
from localfirst.holes import mark_holes
from localfirst.lives import end_life
from localfirst.log import Log
from localfirst.records import CHANGE, HEAD, PAGE, Head, session_key
from localfirst.rows import Rows
from localfirst.salvage import open_rows
from localfirst.schema import checksum
from sync import worker
from tests.polling import eventually

ITEMS: Final = [f"item {number}" for number in range(20)]


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process has it open, for which one would have to wait."""
    monkeypatch.setattr(salvage, "PLACE_SECONDS", 0.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A store with two sessions, closed."""
    with opened(tmp_path / "a") as store:
        for item in ITEMS:
            store.session("s").add_message("user", item)
            store.session("good").add_message("user", item)
    return tmp_path / "a"


def opened(path: Path) -> Store:
    return localfirst.open(path, remote="")


def contents(store: Store, session_id: str = "s") -> list[str]:
    return [message["content"] for message in store.session(session_id).get_messages()]


def row_key(session_id: str, slot: int) -> bytes:
    return CHANGE + session_key("default", session_id) + slot.to_bytes(8, "big")


def spoil(path: Path, *keys: bytes) -> None:
    """Alter the values of rows, as a disk may."""
    with closing(sqlite3.connect(path / "data" / DBNAME)) as connection, connection:
        for key in keys:
            done = connection.execute("UPDATE Cache SET value = CAST(value || 'x' AS BLOB) WHERE key = ?", (key,))
            assert done.rowcount == 1


def delete(path: Path, *keys: bytes) -> None:
    """Take rows away, as a damaged index may."""
    with closing(sqlite3.connect(path / "data" / DBNAME)) as connection, connection:
        for key in keys:
            assert connection.execute("DELETE FROM Cache WHERE key = ?", (key,)).rowcount == 1


def meet(path: Path, session_id: str = "s") -> None:
    """Somebody looks, and finds the damage."""
    with opened(path) as store, pytest.raises(StoreCorrupt, match="open the store again"):
        contents(store, session_id)


def broken(path: Path) -> list[Path]:
    return sorted(path.glob("data.broken-*"))


def test_a_row_that_was_altered_is_not_shown_and_the_rest_is_saved(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil(path, row_key("s", 5))
    meet(path)
    with caplog.at_level(logging.WARNING, "localfirst"), opened(path) as store:
        assert contents(store) == ITEMS[:4] + ITEMS[5:]
        assert contents(store, "good") == ITEMS
        found = store.status().recovered
        assert found is not None
        assert (found.lost_changes, found.damaged_rows, found.incomplete_sessions) == (1, 1, 1)
        assert found.path == str(broken(path)[0])
        assert found.path in caplog.text
        store.session("s").add_message("user", "more")
        assert contents(store)[-1] == "more"
    with opened(path) as store:
        assert contents(store) == [*ITEMS[:4], *ITEMS[5:], "more"]
        assert len(broken(path)) == 1


def test_the_broken_directory_is_kept_as_it_was(path: Path) -> None:
    spoil(path, row_key("s", 5))
    meet(path)
    before = (path / "data" / DBNAME).read_bytes()
    with opened(path):
        pass
    (aside,) = broken(path)
    assert (aside / DBNAME).read_bytes() == before
    assert stat.S_IMODE(aside.stat().st_mode) == 0o700
    shutil.rmtree(aside)
    with opened(path) as store:
        assert store.status().recovered is None


def test_a_running_store_tells_of_it_once_and_its_other_sessions_go_on(path: Path) -> None:
    spoil(path, row_key("s", 5))
    heard: list[str] = []
    told = threading.Event()
    with opened(path) as store:

        def hear(reason: str) -> None:
            heard.append(reason)
            told.set()

        store.on(SessionEvent.STORE_CORRUPT, hear)
        for _ in range(3):
            with pytest.raises(StoreCorrupt):
                contents(store)
        assert told.wait(10)
        assert contents(store, "good") == ITEMS
        store.session("good").add_message("user", "more")
        with pytest.raises(ConfigurationError, match=r"store\.on"):
            store.session("s").on(SessionEvent.STORE_CORRUPT, heard.append)
    assert len(heard) == 1
    assert str(path) in heard[0]


@pytest.mark.parametrize("slots", [[1], [2, 3], [1, 20], [20], list(range(1, 21))], ids=str)
def test_rows_that_are_missing(path: Path, slots: list[int]) -> None:
    """Of what is missing behind the last that is there, nothing tells but the loss of whole pages."""
    spoil(path, *[row_key("s", slot) for slot in slots])
    meet(path)
    with opened(path) as store:
        assert contents(store) == [item for slot, item in enumerate(ITEMS, start=1) if slot not in slots]
        assert store.status().recovered is not None
        store.session("s").add_message("user", "more")
        assert contents(store)[-1] == "more"


def test_a_row_that_an_index_hides_is_found_when_the_store_is_opened(path: Path) -> None:
    """No read would meet it: it is the last of its session, and nothing says that it was ever there."""
    data = (path / "data" / DBNAME).read_bytes()
    key = row_key("s", 20)
    places = [place for place in range(len(data)) if data.startswith(key, place)]
    assert len(places) == 2  # In the table, and in the index.
    for number, place in enumerate(places):
        damaged = shutil.copytree(path, path.parent / str(number))
        changed = bytearray(data)
        changed[place + 1] ^= 0xFF
        (damaged / "data" / DBNAME).write_bytes(changed)
        with opened(damaged) as store:
            assert store.status().recovered is not None
            assert contents(store, "good") == ITEMS
            assert contents(store) in (ITEMS, ITEMS[:-1])


def test_a_head_that_is_lost_comes_back_with_the_name(path: Path) -> None:
    spoil(path, HEAD + session_key("default", "s"))
    meet(path)
    with opened(path) as store:
        found = store.status().recovered
        assert found is not None
        assert found.nameless_sessions == 1
        assert [info.session_id for info in store.sessions()] == ["good"]
        assert contents(store) == ITEMS
        store.session("s").add_message("user", "more")
        assert [info.session_id for info in store.sessions()] == ["good", "s"]
    with opened(path) as store:
        assert contents(store) == [*ITEMS, "more"]


def test_a_head_that_is_lost_comes_back_with_the_next_write_too(path: Path) -> None:
    spoil(path, HEAD + session_key("default", "s"))
    meet(path)
    with opened(path) as store:
        store.session("s").add_message("user", "more")
        assert contents(store) == [*ITEMS, "more"]


def test_what_was_deleted_does_not_come_back_when_its_head_is_lost(path: Path) -> None:
    """Not even if it was all still on the disk."""
    key = session_key("default", "s")
    with opened(path) as store:
        log = store._local.log
        head = log.head(key)
        assert head is not None
        assert end_life(log, key, head) is not None
        assert log.run(key, 0, 100)[:1] != [b""]
    spoil(path, HEAD + key)
    meet(path)
    with opened(path) as store:
        assert contents(store) == []
        store.session("s").add_message("user", "more")
    with opened(path) as store:
        assert contents(store) == ["more"]


def test_a_deletion_that_was_not_sent_and_a_time_to_live_outlast_damage(tmp_path: Path) -> None:
    path, remote, key = tmp_path / "a", (tmp_path / "central").as_uri(), session_key("default", "s")
    with localfirst.open(path, remote=remote, worker="none") as store:
        store.session("s", ttl=3600).add_message("user", "of the life before")
        store.flush(30)
    with opened(path) as store:
        store.delete("s")
        for item in ITEMS[:3]:
            store.session("s", ttl=7200).add_message("user", item)
        last = store._local.log.last_slot(key)
        before = store._local.log.head(key)
    spoil(path, row_key("s", last - 1))
    meet(path)
    with localfirst.open(path, remote=remote, worker="none") as store:
        assert contents(store) == [ITEMS[0], ITEMS[2]]
        head = store._local.log.head(key)
        assert before is not None
        assert head is not None
        assert (head.ending, head.lifetime) == (before.ending, before.lifetime)
        assert (head.ending != "", head.ttl) == (True, 7_200_000)
        store.flush(30)
    with localfirst.open(tmp_path / "b", remote=remote, worker="none") as other:
        other.refresh(30)
        assert contents(other) == [ITEMS[0], ITEMS[2]]
        assert other.session("s").expires_at is not None


def test_a_log_from_which_deleted_rows_were_taken_is_no_damage(path: Path) -> None:
    """Nor one of a process that was killed behind that."""
    script = f"""
import os, localfirst
store = localfirst.open({str(path)!r}, remote="")
store.delete("s")
if {{more}}: store.session("good").add_message("user", "more")
os._exit(0)
"""
    for more in (False, True):
        subprocess.run([sys.executable, "-c", script.format(more=more)], check=True, timeout=60)
        with opened(path) as store:
            assert store.status().recovered is None
            assert contents(store) == []
            assert contents(store, "good") == ITEMS + ["more"] * more


def test_an_identity_that_is_lost_is_made_anew(path: Path) -> None:
    with opened(path) as store:
        before = store.replica_id
    spoil(path, b"s:replica")
    with opened(path) as store:
        assert store.replica_id != before
        assert contents(store) == ITEMS
        assert store.status().recovered is not None


def test_an_identity_that_can_be_read_is_kept(path: Path) -> None:
    with opened(path) as store:
        before = store.replica_id
    spoil(path, row_key("s", 5))
    meet(path)
    with opened(path) as store:
        assert store.replica_id == before


def test_a_turn_whose_end_is_lost_is_ended(tmp_path: Path) -> None:
    path, remote = tmp_path / "a", (tmp_path / "central").as_uri()
    with opened(path) as store:
        with store.session("s").turn():
            store.session("s").add_message("user", "in a turn")
        store.session("s").add_message("user", "after")
    spoil(path, row_key("s", 2))
    meet(path)
    with localfirst.open(path, remote=remote, worker="none") as store:
        assert contents(store) == ["in a turn", "after"]
        store.flush(30)
        assert store.status().pending_changes == 0


# A page of the table that can't be read.


def leaves(file: Path) -> list[int]:
    """The pages that hold rows, by their places in the file."""
    data = file.read_bytes()
    return [place for place in range(4096, len(data), 4096) if data[place] == 13]


def spoil_page(file: Path, place: int) -> None:
    data = bytearray(file.read_bytes())
    data[place + 100 : place + 800] = random.Random(place).randbytes(700)
    file.write_bytes(data)


@pytest.mark.parametrize("gap", [1, 3_000_000], ids=["dense", "gaps"])
def test_a_damaged_page_takes_only_its_own_rows_and_they_are_counted(path: Path, gap: int) -> None:
    """Whatever numbers the rest of it gives: the rows behind it are saved. Numbers may have gaps, of rows that were
    deleted."""
    sessions = ["s", "good", *(f"s{number}" for number in range(8))]
    with opened(path) as store:
        for item in ITEMS:
            for name in sessions[2:]:
                store.session(name).add_message("user", item * 20)
    with closing(sqlite3.connect(path / "data" / DBNAME)) as connection, connection:
        connection.execute("UPDATE Cache SET rowid = -rowid * ?", (gap,))
        connection.execute("UPDATE Cache SET rowid = -rowid")
    places = [place for place in leaves(path / "data" / DBNAME) if place > 5 * 4096]
    assert len(places) > 10
    for place in places:
        damaged = shutil.copytree(path, path.parent / str(place))
        spoil_page(damaged / "data" / DBNAME, place)
        with opened(damaged) as store:
            found = [contents(store, name) for name in sessions]
            recovered = store.status().recovered
        lost = len(sessions) * len(ITEMS) - sum(map(len, found))
        assert lost < 20, f"page {place // 4096 + 1}"
        if recovered is None:  # Nothing was in that part of the page.
            assert lost == 0
        else:
            assert recovered.lost_changes == lost, f"page {place // 4096 + 1}"
            assert recovered.damaged_rows >= lost


def test_a_damaged_page_of_many_rows_is_read_around_in_seconds(tmp_path: Path) -> None:
    """Also where nothing is behind it that could be read, and numbers have gaps."""
    with closing(open_rows(tmp_path / "data")) as rows, rows.transaction(), rows._using() as execute:
        for number in range(20_000):
            key, value = b"x%08d" % (number * 7919 % 20_000), bytes(100)
            execute(
                "INSERT INTO Cache (rowid, key, raw, store_time, mode, tag, value) VALUES (?, ?, 1, 1.0, 1, ?, ?)",
                (10 + number * 3_000_000, key, checksum(key, value), value),
            )
    file = tmp_path / "data" / DBNAME
    places = leaves(file)
    for place in (places[len(places) // 2], places[-1]):
        spoil_page(file, place)
    write_note(tmp_path / "data", Note("somebody met it"))
    began = time.monotonic()
    with closing(open_rows(tmp_path / "data")) as rows:
        assert time.monotonic() - began < 20
        kept = len(rows.keys(b"x", b"y"))
        found = salvage.recovered(rows)
    assert kept > 20_000 - 100
    assert found is not None
    assert found.damaged_rows >= 20_000 - kept


# Rows that an index hides, in a store that is not checked when it is opened.


@pytest.mark.parametrize("slots", [[1], [7], [1, 2], [19]], ids=str)
def test_a_session_of_which_changes_are_hidden_is_not_shown(
    path: Path, monkeypatch: pytest.MonkeyPatch, slots: list[int]
) -> None:
    monkeypatch.setattr(salvage, "CHECKED_BYTES", 0)
    delete(path, *[row_key("s", slot) for slot in slots])
    meet(path)
    with opened(path) as store:
        assert contents(store) == [item for slot, item in enumerate(ITEMS, start=1) if slot not in slots]
        assert store.status().recovered is not None


@pytest.mark.parametrize("kind", [CHANGE, PAGE, HEAD], ids=["all changes", "pages", "head"])
def test_a_session_that_was_sent_and_is_hidden_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    path, remote, key = tmp_path / "a", (tmp_path / "central").as_uri(), session_key("default", "s")
    with localfirst.open(path, remote=remote, worker="none") as store:
        for item in ITEMS:
            store.session("s", hydrate_timeout=0.0).add_message("user", item)
        store.flush(30)
    monkeypatch.setattr(salvage, "CHECKED_BYTES", 0)
    with closing(Rows(path / "data")) as rows:
        keys = rows.keys(kind + key, kind + key + b"\xff" * 17)
    if kind == HEAD:
        hide(path, keys[0], 1)
    else:
        delete(path, *keys)
    meet(path)
    with localfirst.open(path, remote=remote, worker="none") as store:
        store.refresh(30)
        assert contents(store) == ITEMS


def hide(path: Path, key: bytes, place: int) -> None:
    """Alter a byte of a key in the index, as in its order it would be the last."""
    file = path / "data" / DBNAME
    data = bytearray(file.read_bytes())
    found = [at for at in range(len(data)) if data.startswith(key, at) and data[at // 4096 * 4096] in (2, 10)]
    assert len(found) == 1
    data[found[0] + place] = 0xFF
    file.write_bytes(data)


@pytest.mark.parametrize("place", [1, 17], ids=["its session", "its slot"])
def test_the_last_changes_of_a_session_are_not_hidden_by_a_wrong_key(
    path: Path, monkeypatch: pytest.MonkeyPatch, place: int
) -> None:
    """No number tells of them: what stands behind them in the index is held against its row."""
    monkeypatch.setattr(salvage, "CHECKED_BYTES", 0)
    hide(path, row_key("s", 20), place)
    meet(path)
    with opened(path) as store:
        assert contents(store) == ITEMS


# Files that are no database of ours.


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "a" / "data").mkdir(parents=True)
    with closing(sqlite3.connect(tmp_path / "a" / "data" / DBNAME)) as connection, connection:
        connection.execute("CREATE TABLE theirs (anything)")
        connection.execute("INSERT INTO theirs VALUES (1)")
    before = (tmp_path / "a" / "data" / DBNAME).read_bytes()
    with pytest.raises(ConfigurationError, match="did not make"):
        opened(tmp_path / "a")
    assert (tmp_path / "a" / "data" / DBNAME).read_bytes() == before


def test_a_cache_of_diskcache_is_left_alone(tmp_path: Path) -> None:
    with diskcache.Cache(str(tmp_path / "a" / "data")) as cache:
        cache["theirs"] = 1
    with pytest.raises(ConfigurationError, match="did not make"):
        opened(tmp_path / "a")
    with diskcache.Cache(str(tmp_path / "a" / "data")) as cache:
        assert cache["theirs"] == 1


def test_a_directory_in_place_of_the_database_is_left_alone(path: Path) -> None:
    (path / "data" / DBNAME).unlink()
    (path / "data" / DBNAME).mkdir()
    with pytest.raises(ConfigurationError, match="is a directory"):
        opened(path)
    assert (path / "data" / DBNAME).is_dir()


def test_what_is_no_database_is_put_aside(path: Path) -> None:
    (path / "data" / DBNAME).write_bytes(b"this is not a database" * 1000)
    with opened(path) as store:
        assert store.status().recovered is not None
        assert contents(store) == []
    assert (broken(path)[0] / DBNAME).read_bytes() == b"this is not a database" * 1000


@pytest.mark.parametrize("what", ["emptied", "removed", "removed with its directory"])
def test_a_database_that_is_gone_is_not_taken_for_a_new_one(path: Path, what: str) -> None:
    if what == "emptied":
        (path / "data" / DBNAME).write_bytes(b"")
    elif what == "removed":
        (path / "data" / DBNAME).unlink()
    else:
        shutil.rmtree(path / "data")
    with opened(path) as store:
        found = store.status().recovered
        assert found is not None
        assert "is empty" in found.reason or "is gone" in found.reason
        store.session("s").add_message("user", "new")
        assert contents(store) == ["new"]


def test_an_empty_file_that_nobody_wrote_to_is_a_new_store(tmp_path: Path) -> None:
    """As a process leaves it that was killed while it made the store."""
    (tmp_path / "a" / "data").mkdir(parents=True)
    (tmp_path / "a" / "data" / DBNAME).touch()
    with opened(tmp_path / "a") as store:
        assert store.status().recovered is None


def test_settings_that_are_lost_are_not_taken_for_another_programs(path: Path) -> None:
    with closing(sqlite3.connect(path / "data" / DBNAME)) as connection, connection:
        connection.execute("DELETE FROM Settings WHERE key = 'localfirst_format'")
    with opened(path) as store:
        assert store.status().recovered is not None
        assert contents(store) == ITEMS


def test_a_forged_pickle_is_put_aside_with_the_rest(path: Path) -> None:
    with closing(sqlite3.connect(path / "data" / DBNAME)) as connection, connection:
        connection.execute("UPDATE Cache SET mode = 4 WHERE key = ?", (row_key("s", 5),))
    meet(path)
    with opened(path) as store:
        assert contents(store) == ITEMS[:4] + ITEMS[5:]


# The place.


@pytest.mark.parametrize("what", ["moved", "deleted", "replaced"])
def test_a_store_whose_files_are_not_in_their_place_writes_nothing(path: Path, tmp_path: Path, what: str) -> None:
    store = opened(path)
    other = shutil.copytree(path, tmp_path / "copy")
    contents(store)
    (path / "data").rename(tmp_path / "elsewhere")
    if what == "deleted":
        shutil.rmtree(tmp_path / "elsewhere")
    if what == "replaced":
        (other / "data").rename(path / "data")
    store._local.log.rows._connections._checked_at = 0.0
    with pytest.raises(StoreMoved, match="open the store again"):
        store.session("good").add_message("user", "lost")
    with pytest.raises(StoreMoved):
        contents(store)
    store.close()


# Salvages that are cut off.


class Cut(BaseException):
    """As if the process was killed."""


STEPS: Final = ["write_note", "_put_aside", "_build", "_copy", "_mend"]


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("step", STEPS)
def test_a_salvage_that_is_cut_off_is_done_by_the_next(
    path: Path, monkeypatch: pytest.MonkeyPatch, step: str, after: bool
) -> None:
    spoil(path, row_key("s", 5))
    meet(path)
    whole: Callable[..., Any] = getattr(salvage, step)

    def cut(*arguments: Any, **options: Any) -> Any:
        if after:
            whole(*arguments, **options)
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(salvage, step, cut)
        with pytest.raises(Cut):
            opened(path)
    with opened(path) as store:
        assert contents(store) == ITEMS[:4] + ITEMS[5:]
        assert contents(store, "good") == ITEMS
        assert store.status().recovered is not None
    assert len(broken(path)) == 1
    assert read_note(path / "data") is None
    assert sorted(each.name for each in path.iterdir() if each.is_dir()) == ["data", broken(path)[0].name]


def test_a_salvage_that_is_cut_off_at_its_very_end_is_not_done_again(path: Path) -> None:
    spoil(path, row_key("s", 5))
    meet(path)
    note = read_note(path / "data")
    assert note is not None
    with opened(path):
        pass
    write_note(path / "data", Note(note.reason, broken(path)[0].name))
    with opened(path) as store:
        assert contents(store) == ITEMS[:4] + ITEMS[5:]
    assert len(broken(path)) == 1


def test_an_empty_database_in_place_of_one_that_was_put_aside_is_not_taken_for_the_saved_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that opened it in that very moment has made it; then all were killed."""
    spoil(path, row_key("s", 5))
    meet(path)

    def cut(*_: Any) -> None:
        raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(salvage, "_build", cut)
        with pytest.raises(Cut):
            opened(path)
    Rows(path / "data").close()
    with opened(path) as store:
        assert contents(store) == ITEMS[:4] + ITEMS[5:]
    assert len(broken(path)) == 2


def test_a_session_without_a_name_is_no_new_damage(path: Path) -> None:
    spoil(path, HEAD + session_key("default", "s"))
    meet(path)
    with opened(path):
        pass
    write_note(path / "data", Note("somebody thought so"))
    with opened(path) as store:
        assert contents(store) == ITEMS
    assert len(broken(path)) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such locks")
def test_a_second_store_of_a_process_does_not_let_go_of_the_lock_by_which_others_see_the_first(path: Path) -> None:
    """Else they would begin the index of the log anew, under it."""
    index = path / "data" / f"{DBNAME}-shm"
    look = f"import fcntl; fcntl.lockf(open({str(index)!r}, 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 128)"
    with opened(path) as store:
        store.session("s").add_message("user", "more")
        with opened(path):
            pass
        done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=False, timeout=60)
        assert "BlockingIOError" in done.stderr


def test_a_database_in_which_nothing_is_wrong_stays(path: Path) -> None:
    write_note(path / "data", Note("somebody thought so"))
    with opened(path) as store:
        assert contents(store) == ITEMS
        assert store.status().recovered is None
    assert not broken(path)
    assert not note_file(path / "data").exists()


def test_a_full_disk_leaves_all_as_it_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(path, row_key("s", 5))
    meet(path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(salvage, "write_note", full)
        with pytest.raises(localfirst.StoreFull):
            opened(path)
    assert not broken(path)
    with opened(path) as store:
        assert contents(store) == ITEMS[:4] + ITEMS[5:]


# The checksum.


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    found = open_rows(tmp_path / "data")
    yield found
    found.close()


def test_a_value_under_another_key_is_refused(rows: Rows) -> None:
    rows.insert(b"k1", b"v1")
    rows.insert(b"k2", b"v2")
    with closing(sqlite3.connect(rows.file)) as connection, connection:
        connection.execute("UPDATE Cache SET key = CAST('k3' AS BLOB) WHERE key = CAST('k1' AS BLOB)")
    with pytest.raises(StoreCorrupt):
        rows.get(b"k3")
    with pytest.raises(StoreCorrupt):
        rows.range(b"k", b"l")
    assert rows.get(b"k2") == b"v2"
    assert checksum(b"k1", b"v1") != checksum(b"k3", b"v1")


def test_every_way_of_writing_keeps_the_checksum(rows: Rows) -> None:
    rows.insert(b"k1", b"v")
    rows.insert_last(b"k2", b"v", b"l")
    rows.put(b"k3", b"v")
    rows.put(b"k3", b"w")
    rows.restore([(b"k4", b"v", 1.0)], once=b"c")
    with rows.transaction():
        rows.delete_range(b"k1", b"k2")
    assert [key for key, _ in rows.range(b"", b"\xff")] == [b"\x00", b"k2", b"k3", b"k4"]


def test_the_worker_checks_a_larger_database_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What no read would meet: the last change of a session, which the index hides."""
    monkeypatch.setattr(salvage, "CHECKED_BYTES", 0)
    monkeypatch.setattr(worker, "CHECK_BYTES", (0, 1 << 30))
    file, key = path / "data" / DBNAME, row_key("s", 20)
    data = bytearray(file.read_bytes())
    data[data.rindex(key) + 1] ^= 0xFF
    file.write_bytes(data)
    with localfirst.open(path, remote=(path.parent / "central").as_uri()):
        eventually(note_file(path / "data").exists, 30)
    with opened(path) as store:
        assert store.status().recovered is not None
        assert contents(store) in (ITEMS, ITEMS[:-1])


def test_a_slot_that_is_far_beyond_all_others_is_not_filled_up_to(path: Path) -> None:
    """Rows for all that would be missing before it would take the whole disk."""
    with closing(Rows(path / "data")) as rows:
        log, key = Log(rows), session_key("default", "new")
        log.create(key, Head("default", "new", "r1"))
        for slot in (1, 2, 4, 1 << 62):
            change = Change("r1", slot, 1 << 16, 0, "main", "append", b'["x"]')
            rows.insert(b"c" + key + slot.to_bytes(8, "big"), encode_change(change))
        with rows.transaction():
            assert mark_holes(rows, key, 0) == 1
        assert log.last_slot(key) == 4
