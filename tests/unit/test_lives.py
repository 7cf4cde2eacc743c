"""The end of a session's life, step by step: with clocks that are set, rounds by hand, and every order of events."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import SessionEvent, jsonvalue
from localfirst.change import APPEND, TOUCH
from localfirst.clock import ASK_AGAIN, CentralTime, Reckoning, pack
from localfirst.errors import RemoteUnavailable
from localfirst.lifetime import Lifetime, Wish, encode_touch
from localfirst.lives import end_life
from localfirst.plans import always
from localfirst.records import ANY_LIFE, Aside, session_key
from localfirst.testing.memory import MemoryServer
from sync import replicate
from sync.central.base import KEEP_ENDED
from sync.lives import send_deletions
from sync.replicate import Replicator
from sync.resync import resync
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
        replica.time.reckoning = Reckoning(-lie if known else 0)
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


# Renewal and expiry.


@pytest.mark.parametrize("order", [*permutations(("push", "pull", "time"))])
async def test_who_reaches_the_central_store_first_decides_for_all(world: World, order: tuple[str, ...]) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "old", ttl=HOUR)
    await a.sync("s")
    await b.sync("s")
    world.pass_by(HOUR - SECOND)
    add(b, "late")
    for step in order:
        if step == "push":
            await b.sync("s")
        elif step == "pull":
            await a.sync("s")
        else:
            world.pass_by(2 * SECOND)
    for replica in (a, b, a, b):
        await replica.sync("s")
    renewed = order.index("push") < order.index("time")
    assert a.items("s") == b.items("s") == (["old", "late"] if renewed else ["late"])
    assert [*a.over, *b.over] == ([] if renewed else ["expired", "expired"])
    assert a.head("s").expires_at == b.head("s").expires_at > world.now
    world.pass_by(HOUR + SECOND)
    assert a.items("s") == b.items("s") == []


async def test_what_was_in_a_life_that_ended_is_not_sent_into_another(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "old", ttl=HOUR)
    await a.sync("s")
    head = a.head("s")
    world.pass_by(HOUR + SECOND)
    with pytest.raises(RemoteUnavailable):  # It begins when the session is there, and expires meanwhile.
        await resync(a.site, KEY, head)
    assert await a.central.heads(["s"]) == [None]
    add(b, "new")
    await b.sync("s")
    with pytest.raises(RemoteUnavailable):
        await resync(a.site, KEY, head)
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ["new"]


async def test_what_is_set_and_pending_stands_on_top_of_what_others_set(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "one")
    await a.sync("s")
    await b.sync("s")
    a.view("s").write(always((TOUCH, encode_touch(Wish(ttl=HOUR, own=True)))), fresh=True)
    b.view("s").write(always((TOUCH, encode_touch(Wish(ttl=DAY, item_ttl=DAY, own=True)))), fresh=True)
    await b.sync("s")
    await a.replicator.round((), [KEY])
    assert a.pending("s") == 1
    assert a.head("s").lifetime == Lifetime(HOUR, DAY, True) == a.view("s").refresh().lifetime
    world.server.wipe()
    settled, _ = await resync(a.site, KEY, a.head("s"))
    assert settled.lifetime == Lifetime(HOUR, DAY, True)
    await a.sync("s")
    await b.sync("s")
    assert a.head("s").lifetime == b.head("s").lifetime == Lifetime(HOUR, DAY, True)


# Clocks.


@pytest.mark.parametrize("lie", [HOUR + 1, -HOUR - 1, DAY, -DAY])
@pytest.mark.parametrize("known", [True, False])
async def test_a_wrong_clock_does_not_expire_what_is_pending(world: World, lie: int, known: bool) -> None:
    """Known or not until the first contact: what was just written goes up, and shows."""
    a = world.replica("a", lie, known=known)
    add(a, "new", ttl=HOUR)
    world.pass_by(SECOND)
    assert a.items("s") == ["new"]
    a.time.measured(world.now, (world.now + lie) / 1000)
    assert a.items("s") == ["new"]
    await a.sync("s")
    assert a.items("s") == ["new"]
    assert a.over == []
    assert a.head("s").expires_at == world.now + HOUR
    world.pass_by(HOUR - 1)
    assert a.items("s") == ["new"]
    world.pass_by(1)
    assert a.items("s") == [], "also offline: nobody was asked"
    add(a, "next")
    assert a.items("s") == ["next"]


@pytest.mark.parametrize("lie", [DAY, -DAY])
async def test_what_is_known_of_a_clock_outlives_the_process(world: World, lie: int) -> None:
    a = world.replica("a", lie, known=False)
    add(a, "new", ttl=HOUR)
    a.time.measured(world.now, (world.now + lie) / 1000)
    a.identity.note_reckoning("default", a.time.reckoning)
    again = world.replica("a", lie)
    again.time.reckoning = again.identity.reckoning("default")
    assert again.time.now() == world.now
    assert again.items("s") == ["new"]


def test_other_processes_learn_of_the_clock() -> None:
    wall, known = [pack(0)], [Reckoning()]
    time = CentralTime(lambda: wall[0], lambda: known[0])
    known[0] = Reckoning(DAY)
    assert time.now() == 0
    wall[0] = pack(ASK_AGAIN)
    assert time.now() == ASK_AGAIN + DAY
    known[0], wall[0] = Reckoning(), pack(1)
    assert time.now() == 1, "it was set"


# What expired leaves the disk.


async def test_expired_items_leave_the_disk_and_the_central_store(world: World, tmp_path: Path) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "secret-1846", item_ttl=HOUR)
    await a.sync("s")
    await b.sync("s")
    world.pass_by(2 * HOUR)
    add(b, "stays")
    await b.sync("s")
    await a.sync("s")
    assert a.items("s") == b.items("s") == ["stays"]
    for replica in (b, a):
        outcome = await replica.replicator.expire([(KEY, replica.head("s"))])
        assert not outcome.refused
        await replica.sync("s")
        assert replica.items("s") == ["stays"]
    assert on_disk(tmp_path, "secret-1846") == []
    checkpoint = await a.central.checkpoint("s")
    assert checkpoint is not None
    assert b"secret" not in checkpoint.data
    c = world.replica("c")
    await c.sync("s")
    assert c.items("s") == ["stays"]
    assert on_disk(tmp_path, "secret-1846") == []
    before = a.head("s")
    await a.replicator.expire([(KEY, before)])
    assert a.head("s") == before, "nothing else has expired"
    world.pass_by(2 * HOUR)
    await a.replicator.expire([(KEY, a.head("s"))])
    await a.sync("s")
    assert a.items("s") == []
    assert a.head("s").floor == a.head("s").seq
    add(a, "goes on")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ["goes on"]


async def test_the_last_row_of_a_session_keeps_nothing_that_expired(world: World, tmp_path: Path) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "secret-5502", item_ttl=HOUR)
    await a.sync("s")
    world.pass_by(2 * HOUR)
    await a.replicator.expire([(KEY, a.head("s"))])
    await a.sync("s")
    assert on_disk(tmp_path, "secret-5502") == []
    view = a.view("s")
    assert not view.refresh().items
    add(a, "next")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ["next"]


async def test_what_expired_is_dropped_while_the_central_store_cannot_be_reached(world: World, tmp_path: Path) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "secret-9921", ttl=HOUR)
    await a.sync("s")
    await b.sync("s")
    world.pass_by(HOUR - SECOND)
    add(b, "renewed")
    await b.sync("s")
    world.pass_by(2 * SECOND)
    await a.replicator.expire([(KEY, a.head("s"))])
    assert a.head("s").generation, "the central store is there to say"
    await a.replicator.expire([(KEY, a.head("s"))], alone=True)
    await a.replicator.tidy()
    assert a.head("s").generation is None
    assert on_disk(tmp_path / "a", "secret-9921") == []
    assert a.over == ["expired"]
    await a.sync("s")
    assert a.items("s") == ["secret-9921", "renewed"], "others had renewed it"
    world.pass_by(HOUR)
    add(a, "pending")
    await a.replicator.expire([(KEY, a.head("s"))], alone=True)
    assert a.head("s").generation, "what is pending is the central store's to judge"


# Deletion.


async def test_who_comes_back_after_a_deletion_drops_what_is_pending(world: World, tmp_path: Path) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "secret-3310")
    await a.sync("s")
    await b.sync("s")
    add(b, "secret-3310, too")
    delete(a)
    await a.sync("s")
    world.pass_by(KEEP_ENDED - SECOND)
    await b.sync("s")
    assert b.over == ["deleted"]
    assert b.items("s") == []
    assert b.pending("s") == 0
    assert on_disk(tmp_path, "secret-3310") == []
    assert await a.central.heads(["s"]) == [None]


async def test_a_deletion_is_remembered_for_so_long(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "old")
    await a.sync("s")
    await b.sync("s")
    delete(a)
    await a.sync("s")
    world.pass_by(KEEP_ENDED + SECOND)
    await a.central.sweep(10)
    assert not world.server.namespace("default").ends
    await b.sync("s")
    assert b.items("s") == ["old"], "as after a loss: it is sent again"


@pytest.mark.parametrize("first", ["push", "delete"])
async def test_a_deletion_races_a_push(world: World, first: str) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "old")
    await a.sync("s")
    await b.sync("s")
    add(b, "new")
    delete(a)
    for replica in (b, a) if first == "push" else (a, b):
        await replica.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == []
    add(b, "anew")
    await b.sync("s")
    await a.sync("s")
    assert a.items("s") == b.items("s") == ["anew"]


async def test_deleting_twice_spares_what_came_between(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a, "old")
    await a.sync("s")
    await b.sync("s")
    delete(a)
    delete(b)
    await a.sync("s")
    add(a, "anew")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ["anew"]


async def test_a_view_that_knows_nothing_of_a_deletion_goes_on_in_the_next_life(world: World) -> None:
    a = world.replica("a")
    add(a, "old")
    await a.sync("s")
    other = a.view("s")
    other.refresh()
    delete(a)
    other.write(always((APPEND, b'["new"]')), fresh=False)
    assert a.items("s") == ["new"]
    await a.sync("s")
    assert (a.items("s"), a.pending("s")) == (["new"], 0)


def test_a_deletion_reaches_the_disk_when_nobody_reads_any_more(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="") as store, localfirst.open(tmp_path, remote="") as other:
        store.session("s").add_message("user", "secret-6275")
        with other._local.log.rows.snapshot():
            other._local.log.rows.last_row()
            store._local.delete(KEY, "s", everywhere=False, patience=0.05)
            assert on_disk(tmp_path, "secret-6275")
        assert on_disk(tmp_path, "secret-6275")
        localfirst.open(tmp_path, remote="").close()
        assert not on_disk(tmp_path, "secret-6275")


def test_a_directory_that_once_followed_a_central_store_deletes_there_too(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    with localfirst.open(tmp_path / "a", remote=central, worker="none") as a:
        a.session("s").add_message("user", "x")
        a.flush(10)
    with localfirst.open(tmp_path / "b", remote=central, worker="none") as b:
        b.session("other").add_message("user", "x")
        b.flush(10)
    with localfirst.open(tmp_path / "b", remote="") as offline:
        offline.delete("s")
    with localfirst.open(tmp_path / "b", remote=central, worker="none") as b:
        b.flush(10)
        b.refresh(10)
        assert [info.session_id for info in b.sessions()] == ["other"]


def test_a_store_that_never_had_a_central_store_deletes_only_here(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="") as store:
        store.delete("s")
        head = store._local.log.head(KEY)
        assert head is not None
        assert head.ending == ""


def test_what_expired_here_is_dropped_when_sessions_are_listed(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="", ttl=60) as store:
        told: list[str] = []
        store.on(SessionEvent.SESSION_EXPIRED, told.append)
        store.session("s").add_message("user", "secret-4417")
        store._local.time.reckoning = Reckoning(61 * SECOND)
        assert list(store.sessions()) == []
        assert told == ["s"]
        assert list(store.sessions()) == []
        assert told == ["s"]
    localfirst.open(tmp_path, remote="").close()
    assert not on_disk(tmp_path, "secret-4417")


@pytest.mark.parametrize("known", [True, False], ids=["known", "never there"])
async def test_a_deletion_goes_up_before_what_was_written_since_also_in_the_middle_of_a_round(
    world: World, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    a = world.replica("a")
    add(a, "gone")
    if known:
        await a.sync("s")
        add(a, "gone, too")

    async def send_and_delete(*arguments: Any) -> None:
        monkeypatch.undo()
        await send_deletions(*arguments)
        delete(a)  # An agent, just then.
        add(a, "anew")

    monkeypatch.setattr(replicate, "send_deletions", send_and_delete)
    await a.sync("s")
    assert a.items("s") == ["anew"]
    assert a.head("s").ending == ""
    b = world.replica("b")
    await b.sync("s")
    assert b.items("s") == ["anew"]
