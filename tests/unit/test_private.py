"""What a store has on disk is its owner's alone: made so whatever the umask, and refused where others had a hand in."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from diskcache.core import DBNAME

import localfirst
from localfirst.damage import Note, write_note
from localfirst.errors import ConfigurationError, StoreCorrupt
from localfirst.rows import Rows
from localfirst.salvage import open_rows
from tests.polling import eventually

ANOTHER_USER = 65534


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(*places: Path) -> dict[str, int]:
    """Modes of all directories and files in some places, and of these."""
    found = [path for place in places for path in (place, *place.rglob("*"))]
    return {str(path): stat.S_IMODE(path.lstat().st_mode) for path in found if path.exists()}


def check_modes(*places: Path) -> set[str]:
    """All are for the owner alone; returns the names of the files."""
    found = modes(*places)
    assert found
    for path, mode in found.items():
        assert mode == (0o700 if Path(path).is_dir() else 0o600), (path, oct(mode))
    return {Path(path).name for path in found if not Path(path).is_dir()}


def test_all_that_a_store_makes_is_for_its_owner_alone(tmp_path: Path, umask: int) -> None:
    above, central = tmp_path / "made", tmp_path / "central" / "deep"
    path = above / "also made" / "store"
    with localfirst.open(path, remote=central.as_uri(), namespace="n", poll_interval=0.05) as store:
        session = store.session("s")
        with session.turn():
            session.add_message("user", "Hello")
            assert any(name.startswith("turns-") for name in check_modes(above))
        store.flush(20)
        eventually(lambda: list(path.glob("sync-*.json")))
        names = check_modes(above, central.parent)
    assert {DBNAME, f"{DBNAME}-wal", f"{DBNAME}-shm"} <= names
    assert {"data.lock", "data.made"} <= names
    assert {name.rpartition(".")[2] for name in names if name.startswith("sync-")} >= {"lock", "json"}


def test_what_is_salvaged_and_what_is_put_aside_is_for_the_owner_alone(
    tmp_path: Path, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    with localfirst.open(path, remote="") as store:
        for number in range(50):
            store.session("s").add_message("user", number)
    with (path / "data" / DBNAME).open("r+b") as file:
        file.write(b"x" * 4096)
    write_note(path / "data", Note("it is broken"))
    check_modes(path)
    seen: set[str] = set()

    def look(*arguments: object) -> None:
        seen.update(check_modes(path))

    monkeypatch.setattr("localfirst.salvage._mend", look)  # While the copies are there.
    with closing(open_rows(path / "data")):
        names = check_modes(path)
    assert any(".broken-" in name for name in modes(path))
    assert "data.salvage.lock" in names
    assert DBNAME in seen


def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store", remote="") as store:
        store.session("s").add_message("user", "Hello")
    file = tmp_path / "store" / "data" / DBNAME
    file.chmod(0o644)
    with localfirst.open(tmp_path / "store", remote="") as store:
        assert len(store.session("s")) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def link(path: Path) -> str:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))
    return "is a symbolic link"


def hang(path: Path) -> str:
    """A link to where nothing is yet."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("nowhere"))
    return "is a symbolic link"


def give_away(path: Path) -> str:
    if os.getuid():
        pytest.skip("only root can give a file away")
    os.chown(path, ANOTHER_USER, ANOTHER_USER)
    return f"belongs to user {ANOTHER_USER}.*run it as the owner"


def open_to_the_group(path: Path) -> str:
    path.chmod(0o770)
    return r"others can write to .*mode 0770.*chmod go-w"


def open_to_all(path: Path) -> str:
    path.chmod(0o1777)
    return r"others can write to .*mode 1777"


@pytest.mark.parametrize("place", [".", "data"])
@pytest.mark.parametrize("spoil", [link, hang, give_away, open_to_the_group, open_to_all])
def test_a_directory_in_which_others_have_a_hand_is_refused(
    tmp_path: Path, place: str, spoil: Callable[[Path], str]
) -> None:
    store = tmp_path / "store"
    with localfirst.open(store, remote="") as opened:
        opened.session("s").add_message("user", "Hello")
    told = spoil(store / place if place != "." else store)
    before = modes(tmp_path)
    with pytest.raises(ConfigurationError, match=told):
        localfirst.open(store, remote="")
    assert modes(tmp_path) == before, "nothing was made or changed"


@pytest.mark.parametrize("spoil", [link, hang, give_away])
def test_a_database_that_is_another_s_is_refused(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    Rows(tmp_path / "data").close()
    told = spoil(tmp_path / "data" / DBNAME)
    with pytest.raises(ConfigurationError, match=told):
        Rows(tmp_path / "data")
    assert not (tmp_path / "data" / "nowhere").exists()


@pytest.mark.parametrize("spoil", [link, give_away, open_to_all])
def test_a_central_store_in_a_directory_of_others_is_refused(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    central = tmp_path / "central"
    central.mkdir(mode=0o700)
    told = spoil(central)
    with (
        localfirst.open(tmp_path / "store", remote=central.as_uri(), worker="none") as store,
        pytest.raises(ConfigurationError, match=told),
    ):
        store.refresh(5)


def test_directories_above_may_be_links_and_open_to_all(tmp_path: Path) -> None:
    """As /tmp is, and /var on some systems."""
    (tmp_path / "real").mkdir()
    (tmp_path / "real").chmod(0o1777)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with localfirst.open(tmp_path / "link" / "store", remote="") as store:
        store.session("s").add_message("user", "Hello")
    check_modes(tmp_path / "real" / "store")


def test_a_directory_that_others_can_only_look_into_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine"
    path.mkdir(mode=0o755)
    path.chmod(0o755)
    with localfirst.open(path, remote=""):
        pass
    assert stat.S_IMODE(path.stat().st_mode) == 0o755
    check_modes(path / "data")


def test_sqlite_makes_no_file_elsewhere(tmp_path: Path) -> None:
    with closing(Rows(tmp_path / "data")) as rows:
        assert rows._connections._con.execute("PRAGMA temp_store").fetchone() == (2,)
        assert rows._connections._con.execute("PRAGMA trusted_schema").fetchone() == (0,)


def test_a_note_that_names_a_place_elsewhere_is_not_followed(tmp_path: Path) -> None:
    """What is put aside is beside the database, whatever the note says."""
    elsewhere = tmp_path / "elsewhere"
    with closing(Rows(elsewhere)) as rows:
        rows.insert(b"c" + bytes(24), b"stolen")
    with closing(open_rows(tmp_path / "store" / "data")) as rows:
        rows.insert(b"k", b"v")
    (tmp_path / "store" / "data" / DBNAME).write_bytes(b"broken")
    write_note(tmp_path / "store" / "data", Note("it is broken", "../elsewhere"))
    with closing(open_rows(tmp_path / "store" / "data")) as rows:
        assert rows.get(b"c" + bytes(24)) is None
    assert (elsewhere / DBNAME).exists()


def test_a_forged_settings_table_is_not_obeyed(tmp_path: Path) -> None:
    """diskcache takes its options from there: names of attributes to be set, and SQL."""
    (tmp_path / "data").mkdir(mode=0o700)
    with closing(sqlite3.connect(tmp_path / "data" / DBNAME)) as connection, connection:
        connection.execute("CREATE TABLE Settings (key TEXT NOT NULL UNIQUE, value)")
        connection.execute("INSERT INTO Settings VALUES ('sqlite_journal_mode', 'wal; DROP TABLE Cache')")
        connection.execute("INSERT INTO Settings VALUES ('disk_min_file_size', 0)")
    with closing(Rows(tmp_path / "data")) as rows:
        rows.insert(b"k", b"v")
    with closing(sqlite3.connect(tmp_path / "data" / DBNAME)) as connection, connection:
        connection.execute("DELETE FROM Settings")
        connection.execute("DELETE FROM Cache")
        connection.execute("INSERT INTO Settings VALUES ('close', 'x')")
    with pytest.raises((ConfigurationError, StoreCorrupt), match="did not make"):
        Rows(tmp_path / "data")
