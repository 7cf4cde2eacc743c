"""What all sessions have in common that open their own store."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from traceback import TracebackException
from typing import Any

import pytest

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.face import Face, place
from tests.polling import eventually

ITEM = {"role": "user", "content": "Hello"}


class Note(Face):
    """A session of some framework."""


def note(path: Path, session_id: str = "s", **options: Any) -> Note:
    """One of them."""
    return Note(session_id, place(path, "", "default"), **options)


def test_sessions_of_one_place_share_a_store(tmp_path: Path) -> None:
    one, same, other = note(tmp_path / "a"), note(tmp_path / "a", "t"), note(tmp_path / "b")
    assert one.store is same.store
    assert one.store is not other.store
    one.close()
    one.close()
    same.add_message("user", "Hello")  # Its store is open as long as it is used.
    same.close()
    other.close()
    with note(tmp_path / "a", "t") as again:
        assert again.store is not same.store
        assert again.get_messages() == [ITEM]


async def test_whatever_is_called_after_closing_names_the_class(tmp_path: Path) -> None:
    session = note(tmp_path)
    session.add_message("user", "Hello")
    session.close()
    with pytest.raises(RuntimeError, match="Note is closed"):
        await session.add_items([])
    for call in session.get_items, session.pop_item, session.clear_session, session.aflush:
        with pytest.raises(RuntimeError, match="Note is closed"):
            await call()
    for plain in session.clear, session.metadata, session.flush, session.__len__, session.branches, session.turn:
        with pytest.raises(localfirst.StoreClosed, match="Note is closed"):
            plain()
    assert "Note" in repr(session) or "'s'" in repr(session)
    session.__exit__(None, None, None)
    await session.__aexit__(None, None, None)


def test_a_session_that_is_dropped_leaves_its_store_open_for_the_next(tmp_path: Path) -> None:
    store = note(tmp_path).store
    gc.collect()
    again = note(tmp_path)
    assert again.store is store
    again.close()
    assert not stores._opened


def test_whoever_collects_a_dropped_session_waits_for_nobody(tmp_path: Path) -> None:
    session = note(tmp_path)
    dropping = threading.Thread(target=session._finalizer)
    with stores._lock:  # As while a store is opened, whose worker's thread may be the one that collects.
        dropping.start()
        dropping.join(10)
        assert not dropping.is_alive()
    note(tmp_path).close()
    assert not stores._opened


def test_a_temporary_store_is_gone_with_its_session() -> None:
    session = Note("s", stores.temporary())
    directory = session.store.path
    session.add_message("user", "Hello")
    session.close()
    assert not directory.exists()
    dropped = Note("s", stores.temporary()).store.path
    gc.collect()
    Note("s", stores.temporary()).close()
    assert not dropped.exists()


def test_a_temporary_store_outlives_processes_that_were_forked_from_its_own() -> None:
    program = """
import os, sys
from localfirst.integrations.face import Face
from localfirst.integrations.stores import temporary
session = Face("s", temporary())
session.add_message("user", "Hello")
child = os.fork()
if not child:
    session.close()
    sys.exit()
assert os.waitpid(child, 0)[1] == 0
assert session.store.path.is_dir()
session.add_message("user", "Hello")
print(session.store.path)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
    assert not Path(done.stdout.decode().strip()).exists()


def test_many_threads_may_drop_temporary_stores() -> None:
    done = list[Path]()
    with ThreadPoolExecutor(8) as threads:
        for _ in range(40):
            threads.submit(lambda: done.append(Note("s", stores.temporary()).store.path))
    gc.collect()
    Note("s", stores.temporary()).close()
    assert len(done) == 40
    assert not any(path.exists() for path in done)


def test_a_store_that_somebody_closed_is_opened_anew(tmp_path: Path) -> None:
    closed, other = note(tmp_path), note(tmp_path, "t")
    closed.add_message("user", "Hello")
    closed.store.close()
    again = note(tmp_path)
    assert again.get_messages() == [ITEM]
    closed.close()
    other.close()
    assert again.get_messages() == [ITEM]  # What they gave back is not its store.
    assert note(tmp_path).store is again.store
    again.close()


@pytest.mark.parametrize("left", [False, True])
def test_a_directory_that_was_removed_is_made_anew(tmp_path: Path, left: bool) -> None:
    first = note(tmp_path / "a")
    first.add_message("user", "Hello")
    before = None if left else first
    del first
    gc.collect()
    shutil.rmtree(tmp_path / "a")
    with note(tmp_path / "a") as again:
        assert again.get_messages() == []
        again.add_message("user", "Hello")
        if before is not None:
            before.close()
        assert again.get_messages() == [ITEM]
    assert not stores._opened


def test_a_program_that_drops_sessions_of_many_places_has_few_files_open(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    before = files()
    for number in range(60):
        note(tmp_path / str(number)).add_message("user", "Hello")
    gc.collect()
    note(tmp_path / "60").close()
    assert len(stores._opened) <= 16
    assert eventually(lambda: files() < before + 16 * 8)
    for number in range(60):
        with note(tmp_path / str(number)) as again:
            assert again.get_messages() == [ITEM]
    assert not stores._opened


def test_a_session_that_threads_close_at_once_is_closed_once(tmp_path: Path) -> None:
    other, closed = note(tmp_path), list[Any]()
    for _ in range(50):
        session = note(tmp_path)
        with ThreadPoolExecutor(4) as threads:
            closed += [threads.submit(session.close) for _ in range(4)]
    assert all(each.result() is None for each in closed)
    other.add_message("user", "Hello")
    assert next(iter(stores._opened.values())).users == 1
    other.close()


def test_a_session_that_could_not_be_made_can_be_shown(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store, pytest.raises(localfirst.ConfigurationError) as raised:
        store.session("")
    assert "not made" in "".join(TracebackException.from_exception(raised.value, capture_locals=True).format())


def test_a_store_that_is_lent_is_left_open(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        with Note("s", place(None, None, "", store)) as session:
            session.add_message("user", "Hello")
        assert len(store.session("s")) == 1


def test_a_file_is_not_taken_for_a_store(tmp_path: Path) -> None:
    (tmp_path / "old.db").write_bytes(b"SQLite format 3\0")
    with pytest.raises(localfirst.ConfigurationError, match=r"localfirst import --in-place .*old\.db"):
        note(tmp_path / "old.db")
    assert not stores._opened


def test_each_central_store_has_a_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LOCALFIRST_HOME", str(tmp_path))
    assert stores.home_of("redis://:secret@cache:6379/1?ssl=x") == tmp_path / "redis-cache-6379-1"
    assert stores.home_of("postgresql://me:secret@db/app") == tmp_path / "postgresql-db-app"
    others = [
        "unix:///run/redis?password=secret",
        "unix:///run/redis?db=1",
        "unix:///run/redis?db=2",
        "postgresql://db-a/b",
        "postgresql://db/a-b",
        "postgresql:///b?host=db/a",
        "postgresql:///b?host=db,a",
    ]
    homes = [stores.home_of(remote) for remote in others]
    assert len(set(homes)) == len(others)
    (tmp_path / "remote").write_text(others[1])
    assert stores.home_of(f"@{tmp_path}/remote") == homes[1]
    assert stores.home_of("") == tmp_path
    assert all(home.parent == tmp_path and "secret" not in home.name for home in homes)


def test_what_a_program_never_closed_is_sent_when_it_ends(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    program = f"""
from localfirst.integrations.face import Face, place
session = Face("s", place({str(tmp_path / "a")!r}, {central!r}, "default"))
for number in range(300):
    session.add_message("user", "Hello")
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True, capture_output=True, timeout=60)
    with localfirst.open(tmp_path / "b", remote=central) as other:
        other.refresh(10)
        assert len(other.session("s")) == 300


def test_names_of_servers_are_looked_up_to_the_very_end(tmp_path: Path) -> None:
    program = f"""
from localfirst.integrations.pyai import RedisSession
RedisSession("localhost", 1, path={str(tmp_path)!r}).add_message("user", "Hello")
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, timeout=60)
    assert b"localhost:1" in done.stderr
    assert b"shutdown" not in done.stderr


def test_it_is_sent_as_it_is_closed(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    with Face("s", place(tmp_path / "a", central, "default"), ttl=3600) as session:
        session.add_message("user", "Hello")
        assert session.expires_at is not None
    with localfirst.open(tmp_path / "b", remote=central) as other:
        assert eventually(lambda: other.session("s").get_messages()) == [ITEM]
