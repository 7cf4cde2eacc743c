"""The end of a session's life, step by step: with clocks that are set, rounds by hand, and every order of events."""

from __future__ import annotations

from pathlib import Path

import pytest

import localfirst
from localfirst import jsonvalue
from localfirst.change import APPEND
from localfirst.clock import pack
from localfirst.lifetime import Wish
from localfirst.lives import end_life
from localfirst.plans import always
from localfirst.records import ANY_LIFE, Aside, session_key
from localfirst.testing.memory import MemoryServer
from tests.unit.replica import Replica

SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
KEY = session_key("default", "s")


class World:
    """The true time, a central store that has it, and replicas whose clocks may be wrong."""

    def __init__(self, path: Path) -> None:
        self.now = 1_700_000_000 * SECOND
        self.server = MemoryServer(now=lambda: self.now)
        self._path = path

    def replica(self, name: str, lie: int = 0, *, known: bool = True) -> Replica:
        """One whose clock is so much ahead; `known`: it knows by how much."""
        replica = Replica(self._path / name, self.server, wall=lambda: pack(self.now + lie))
        replica.time.offset = -lie if known else 0
        replica.clock = type(replica.clock)(replica.time.timestamp)
        return replica

    def pass_by(self, milliseconds: int) -> None:
        self.now += milliseconds


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def add(replica: Replica, item: str, ttl: int | None = None, item_ttl: int | None = None) -> None:
    body = jsonvalue.join([jsonvalue.encode(item)])
    wish = None if ttl is None and item_ttl is None else Wish(ttl, item_ttl)
    replica.view("s").write(always((APPEND, body)), fresh=True, wish=wish)


def delete(replica: Replica) -> None:
    """As `Store.delete` does it."""
    head = replica.head("s")
    assert end_life(replica.log, KEY, head, ending=head.generation or ANY_LIFE) is not None


def on_disk(directory: Path, secret: str) -> list[str]:
    return [path.name for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


# What is deleted here stays deleted.


async def test_a_deletion_goes_before_whatever_is_pulled(world: World) -> None:
    a = world.replica("a")
    add(a, "gone")
    await a.sync("s")
    delete(a)
    outcome = await a.replicator.round((), [KEY])  # A poll, a refresh, or the first read of a new process.
    assert not outcome.refused
    assert a.items("s") == []
    assert a.head("s").ending == ""
    assert await a.central.heads(["s"]) == [None]


async def test_who_only_looks_neither_sends_a_deletion_nor_takes_what_is_to_be_deleted(world: World) -> None:
    from dataclasses import replace

    from sync.replicate import Replicator

    a = world.replica("a")
    add(a, "gone")
    await a.sync("s")
    delete(a)
    await Replicator(replace(a.site, looks=True)).round((), [KEY])
    assert a.items("s") == []
    assert a.head("s").ending
    assert (await a.central.heads(["s"]))[0] is not None


# What goes with a life.


def test_what_was_set_for_a_store_is_set_for_the_next_life_too(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="", ttl=60) as store:
        session = store.session("s")
        session.add_message("user", "one")
        store.delete("s")
        assert session.expires_at is None
        session.add_message("user", "two")
        assert session.expires_at is not None


def test_a_session_that_begins_anew_begins_on_main(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="") as store:
        session = store.session("s")
        session.add_message("user", "one")
        session.branch("draft")
        session.switch("draft")
        session.add_message("user", "on it")
        store.delete("s")
        assert session.get_messages() == []
        session.add_message("user", "two")
        assert [item["content"] for item in store.session("s", branch="main")] == ["two"]
        assert [item["content"] for item in store.session("s")] == ["two"]


def test_a_turn_that_was_deleted_with_its_session_leaves_nothing(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="") as store:
        session = store.session("s")
        with session.turn():
            session.add_message("user", "one")
            store.delete("s")
        assert session.pending == 0
        assert list(store.sessions()) == []
        with session.turn():
            session.add_message("user", "two")
            store.delete("s")
            session.add_message("user", "three")
        assert [item["content"] for item in session] == ["three"]
        assert session.pending == 2, "the item, and the end of its turn"


def test_a_deletion_takes_the_quarantine_of_a_session_with_it(world: World) -> None:
    a = world.replica("a")
    add(a, "one")
    for direction in ("push", "pull"):
        aside = Aside("default", "s", direction, "secret-7310", 0.0, "0", place=1, mark="x", lost=direction == "pull")
        a.quarantine.put(KEY, aside)
    a.quarantine.skip(KEY, aside)
    delete(a)
    assert a.quarantine.all("default") == {}
    assert a.quarantine.skipped(KEY) == frozenset()
