"""Databases that are damaged at random, two hundred times: nothing is shown that was not written, and nothing is
missing without a word. What was sent comes back, what was not is sent if it can be read, and all agree in the end.

`LOCALFIRST_SOAK=1` makes it ten times as many. The case that failed is repeated by its number (`-k damaged-17`).

Invariants 1, 2, 4, 7 and 10.
"""

from __future__ import annotations

import random
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

import pytest
import redis
from diskcache.core import DBNAME

import localfirst
from localfirst import salvage
from localfirst.records import CHANGE, HEAD, PAGE, session_key
from tests.faults.central import changes_in
from tests.faults.chance import TIMES

SESSIONS: Final = ("synced", "shared", "partly", "pending", "quiet")
CASES: Final = 200


class Template(NamedTuple):
    """A directory as it was left, and what was written to it."""

    clean: Path
    """As a store leaves it that was closed."""
    killed: Path
    """As a process leaves it that was killed: most of it is in the write-ahead log."""
    written: dict[str, list[str]]
    """Items of each session, in order."""
    sent: dict[str, list[str]]
    """Those that the central store has."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    path = tmp_path_factory.mktemp("template")
    written: dict[str, list[str]] = {name: [] for name in SESSIONS}
    remote = (path / "central").as_uri()
    chance = random.Random(1)

    def write(store: localfirst.Store, who: str, sessions: tuple[str, ...], count: int) -> None:
        for number in range(count):
            for name in sessions:
                text = f"{who} {len(written[name])} {chance.randbytes(chance.randint(10, 300)).hex()}"
                store.session(name, hydrate_timeout=0.0).add_message("user", text)
                written[name].append(text)
                if number % 10 == 0:
                    store.session(name, hydrate_timeout=0.0).increment("count")

    with localfirst.open(path / "clean", remote=remote, worker="none") as store:
        write(store, "a", ("synced", "shared", "partly"), 30)
        store.flush(30)
        with localfirst.open(path / "other", remote=remote, worker="none") as other:
            other.refresh(30)
            write(other, "b", ("shared",), 30)
            other.flush(30)
        store.refresh(30)
        write(store, "a", ("shared", "partly"), 20)
        store.flush(30)
        sent = {name: list(items) for name, items in written.items()}
        write(store, "a", ("partly", "pending"), 40)
        write(store, "a", ("quiet",), 1)
        for number in range(3):
            store.session("pending").set(f"k{number}", number)
        shutil.copytree(path / "clean", path / "killed")  # While it is open: as if it was killed now.
        store.close(timeout=0.0)
    return Template(path / "clean", path / "killed", written, sent)


def flip(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    for _ in range(chance.randint(1, 8)):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    file.write_bytes(data)


def overwrite(file: Path, chance: random.Random) -> None:
    """A sector or a page, with zeros or noise."""
    data = bytearray(file.read_bytes())
    size = chance.choice([512, 4096, 8192])
    start = chance.randrange(max(1, len(data) // size)) * size
    data[start : start + size] = bytes(size) if chance.random() < 0.5 else chance.randbytes(size)
    file.write_bytes(data)


def spoil_beginning(file: Path, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    start = chance.randrange(0, 2048)
    data[start : start + 100] = chance.randbytes(100)
    file.write_bytes(data)


def cut(file: Path, chance: random.Random) -> None:
    with file.open("r+b") as opened:
        opened.truncate(chance.randrange(file.stat().st_size))


def empty(file: Path, chance: random.Random) -> None:
    file.write_bytes(b"")


def remove(file: Path, chance: random.Random) -> None:
    file.unlink()


DAMAGES: Final[list[Callable[[Path, random.Random], None]]] = [
    flip,
    flip,
    overwrite,
    spoil_beginning,
    cut,
    empty,
    remove,
]


def damage(template: Template, place: Path, chance: random.Random) -> str:
    """Copy the directory, and damage the copy. Returns how."""
    killed = chance.random() < 0.5
    shutil.copytree(template.killed if killed else template.clean, place / "a")
    shutil.copytree(template.clean.parent / "central", place / "central")
    suffix = chance.choice(["", "-wal", "-wal", "-shm"]) if killed else ""
    do = chance.choice(DAMAGES)
    do(place / "a" / "data" / f"{DBNAME}{suffix}", chance)
    return f"{do.__name__} {DBNAME}{suffix}"


def shown(store: localfirst.Store) -> dict[str, list[str]]:
    return {
        name: [message["content"] for message in store.session(name, hydrate_timeout=0.0).get_messages()]
        for name in SESSIONS
    }


def is_part(part: list[str], whole: list[str]) -> bool:
    """Whether it is the same in the same order, of which some may be missing."""
    remaining = iter(whole)
    return all(item in remaining for item in part)


def check_part(found: dict[str, list[str]], template: Template) -> None:
    for name in SESSIONS:
        assert len(found[name]) == len(set(found[name])), f"{name}: something is there twice"
        assert set(found[name]) <= set(template.written[name]), f"{name}: what is shown was never written"
        assert is_part(found[name], template.written[name]), f"{name}: order"


def open_and_look(place: Path) -> tuple[dict[str, list[str]], bool]:
    """What is shown, and whether it was said that something is wrong. A store that meets it is opened again."""
    for _ in range(3):
        with localfirst.open(place / "a", remote="") as store:
            try:
                return shown(store), store.status().recovered is not None
            except localfirst.StoreCorrupt:
                pass
    raise AssertionError("it stays damaged, however often it is opened")


@pytest.fixture(autouse=True)
def nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """No other process has it open, for which one would have to wait."""
    monkeypatch.setattr(salvage, "PLACE_SECONDS", 0.0)


@pytest.mark.parametrize("case", range(CASES * TIMES), ids=lambda case: f"damaged-{case}")
def test_a_damaged_database_shows_nothing_wrong_and_hides_no_loss(
    case: int, template: Template, tmp_path: Path
) -> None:
    chance = random.Random(case)
    print(damage(template, tmp_path, chance))  # For whoever looks at one that failed.
    before, told = open_and_look(tmp_path)
    check_part(before, template)
    if before != template.written:
        assert told, "something is missing, and nobody said so"
    remote = (tmp_path / "central").as_uri()
    with localfirst.open(tmp_path / "a", remote=remote, worker="none") as store:
        store.session("partly", hydrate_timeout=0.0).add_message("user", "new")
        store.flush(30)
        store.refresh(30)
        after = shown(store)
        status = store.status()
        assert (status.pending_changes, status.quarantined) == (0, 0), status
    with localfirst.open(tmp_path / "fresh", remote=remote, worker="none") as fresh:
        fresh.refresh(30)
        assert shown(fresh) == after, "replicas disagree"
    assert after["partly"].pop() == "new"
    check_part(after, template)
    for name in SESSIONS:
        assert set(after[name]) >= {*before[name], *template.sent[name]}, f"{name}: lost on the way"


# What is missing, and every central store.


class Device:
    """A store whose rows can be spoilt while it is closed."""

    def __init__(self, path: Path, remote: str, namespace: str) -> None:
        self.path, self.remote, self.namespace = path, remote, namespace

    def open(self, *, offline: bool = False, ask: bool = False) -> localfirst.Store:
        return localfirst.open(
            self.path,
            remote="" if offline else self.remote,
            namespace=self.namespace,
            worker="none",
            on_remote_loss="ask" if ask else "reseed",
        )

    def write(self, *texts: str, offline: bool = False) -> None:
        with self.open(offline=offline) as store:
            for text in texts:
                store.session("s", hydrate_timeout=0.0).add_message("user", text)

    def read(self) -> list[str]:
        with self.open() as store:
            store.flush(30)
            store.refresh(30)
            status = store.status()
            assert (status.pending_changes, status.quarantined) == (0, 0), status
            return contents(store)

    def spoil(self, kind: bytes, *slots: int) -> None:
        """Alter rows of the session; all of a kind, or the changes in some slots."""
        prefix = kind + session_key(self.namespace, "s")
        keys = [prefix + slot.to_bytes(8, "big") for slot in slots]
        with closing(sqlite3.connect(self.path / "data" / DBNAME)) as connection, connection:
            query = "UPDATE Cache SET value = CAST(value || 'x' AS BLOB) WHERE "
            for key in keys:
                assert connection.execute(query + "key = ?", (key,)).rowcount == 1
            if not keys:
                assert connection.execute(query + "substr(key, 1, ?) = ?", (len(prefix), prefix)).rowcount
        with self.open(offline=True) as store:
            if kind != HEAD:
                with pytest.raises(localfirst.StoreCorrupt):
                    contents(store)
            else:
                with pytest.raises(localfirst.StoreCorrupt):
                    list(store.sessions())


def contents(store: localfirst.Store) -> list[str]:
    return [message["content"] for message in store.session("s", hydrate_timeout=0.0).get_messages()]


@pytest.fixture
def a(remote_url: str, tmp_path: Path) -> Device:
    """Five items that were sent, then five of another, then five that wait."""
    namespace = f"test-{uuid.uuid4()}"
    a, b = (Device(tmp_path / name, remote_url, namespace) for name in ("a", "b"))
    a.write(*[f"sent {number}" for number in range(1, 6)])
    assert len(b.read()) == 5
    b.write(*[f"theirs {number}" for number in range(1, 6)])
    assert len(a.read()) == 10
    a.write(*[f"waits {number}" for number in range(6, 11)], offline=True)
    return a


@pytest.mark.parametrize(
    ("kind", "slots", "lost"),
    [
        (CHANGE, [3], []),
        (CHANGE, [7], ["waits 7"]),
        (CHANGE, [1, 6], ["waits 6"]),
        (CHANGE, [3, 8, 10], ["waits 8", "waits 10"]),
        (CHANGE, [1, 2, 3, 4, 5], []),
        (PAGE, [], []),
        (HEAD, [], []),
    ],
    ids=["sent", "waiting", "both", "many and the last", "all that was sent", "pages", "the head"],
)
def test_what_is_missing_comes_back_and_nothing_is_there_twice(
    a: Device, tmp_path: Path, kind: bytes, slots: list[int], lost: list[str]
) -> None:
    a.spoil(kind, *slots)
    with a.open(offline=True) as store:
        assert store.status().recovered is not None
        store.session("s", hydrate_timeout=0.0).add_message("user", "new")
        assert contents(store)[-1] == "new"
    whole = [f"sent {number}" for number in range(1, 6)] + [f"theirs {number}" for number in range(1, 6)]
    expected = [*whole, *[text for text in (f"waits {number}" for number in range(6, 11)) if text not in lost], "new"]
    assert a.read() == expected
    assert Device(tmp_path / "b", a.remote, a.namespace).read() == expected
    assert Device(tmp_path / "fresh", a.remote, a.namespace).read() == expected
    assert changes_in(a.remote, a.namespace, ["s"]) == {"s": len(expected)}
    a.write("more")
    assert a.read() == [*expected, "more"]


@pytest.mark.parametrize("remote_url", ["redis"], indirect=True)
def test_what_is_missing_here_and_was_lost_there_too(a: Device, redis_url: str) -> None:
    """What is left is sent; with "ask", when somebody agrees."""
    a.spoil(CHANGE, 3, 7)
    with redis.Redis.from_url(redis_url) as client:
        client.delete(f"localfirst:{a.namespace}:{{s}}:head", f"localfirst:{a.namespace}:{{s}}:log")
    with a.open(ask=True) as store:
        with pytest.raises(localfirst.RemoteRejected):
            store.flush(30)
        assert store.retry("s")
        store.flush(30)
        assert contents(store) == [f"sent {number}" for number in (1, 2, 4, 5)] + [
            f"waits {number}" for number in (6, 8, 9, 10)
        ]
    assert changes_in(a.remote, a.namespace, ["s"]) == {"s": 8}


def test_a_damaged_row_in_a_central_directory_stops_its_session_only(tmp_path: Path) -> None:
    central = tmp_path / "central"
    with localfirst.open(tmp_path / "a", remote=central.as_uri(), worker="none") as store:
        for session_id in ("bad", "good"):
            store.session(session_id, hydrate_timeout=0.0).add_message("user", f"in {session_id}")
        store.flush(30)
    data = (central / DBNAME).read_bytes()
    assert data.count(b"in bad") == 1
    (central / DBNAME).write_bytes(data.replace(b"in bad", b"in mad"))
    with localfirst.open(tmp_path / "b", remote=central.as_uri(), worker="none") as other:
        with pytest.raises(localfirst.RemoteRejected, match="did not write"):
            other.refresh(30)
        assert [message["content"] for message in other.session("good").get_messages()] == ["in good"]
        assert [each.session_id for each in other.quarantined()] == ["bad"]
