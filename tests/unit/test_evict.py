"""Sessions that are evicted, and come back: by hand, against a central store in memory."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from localfirst import jsonvalue, volumes
from localfirst.change import APPEND, CLEAR, PUT
from localfirst.clock import Reckoning
from localfirst.lifetime import Wish
from localfirst.metadata import encode_put
from localfirst.records import session_key
from localfirst.room import Evicted
from localfirst.testing.memory import MemoryServer
from localfirst.view import Plan
from sync.evict import Evictor
from sync.site import Limits, Settled
from sync.verify import Verifier
from tests.unit.replica import Replica

Make = Callable[..., Replica]


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def make(tmp_path: Path, server: MemoryServer) -> Make:
    return lambda name, **options: Replica(tmp_path / name, server, **options)


def evict(replica: Replica, name: str = "s") -> bool:
    key, head = session_key("default", name), replica.head(name)
    done = replica.log.evict(key, head, volumes.newest(replica.log, key, head))
    while volumes.sweep(replica.log):
        pass
    return done


def here(replica: Replica, name: str = "s") -> list[object]:
    """What is on this disk, whether it is all of it or not."""
    return jsonvalue.decode_each([item.data for item in replica.view(name).refresh().items])


def rows(replica: Replica) -> dict[bytes, int]:
    """How many rows of each kind there are."""
    return {kind: len(replica.rows.keys(kind, bytes([kind[0] + 1]))) for kind in (b"c", b"p", b"k", b"g")}


def add(replica: Replica, item: object, name: str = "s") -> None:
    """As an agent does that looks at nothing."""
    body = jsonvalue.join([jsonvalue.encode(item)])
    replica.view(name).write(lambda _: [(APPEND, body)], fresh=False)


def _puts(number: int) -> Plan:
    return lambda _: [(PUT, encode_put("k", "last", jsonvalue.encode(number)))]


def lose(server: MemoryServer) -> None:
    server.namespace("default").sessions.clear()


def backup_of(server: MemoryServer) -> dict[str, Any]:
    return copy.deepcopy(server.namespace("default").sessions)


def restore(server: MemoryServer, backup: dict[str, Any]) -> None:
    server.namespace("default").sessions = backup


async def test_a_stub_keeps_where_it_stands_and_no_content(make: Make) -> None:
    a = make("a")
    for number in range(5):
        a.add("s", f"secret-{number}")
    await a.sync("s")
    before = a.head("s")
    assert evict(a)
    after = a.head("s")
    assert rows(a) == {b"c": 1, b"p": 0, b"k": 0, b"g": 0}
    assert a.log.change(session_key("default", "s"), after.acked) is None, "the row that is left says nothing"
    assert (after.generation, after.seq, after.digest) == (before.generation, before.seq, before.digest)
    assert after.stub
    assert after.time >> 16 > 0
    with pytest.raises(Evicted):
        a.view("s").write(lambda _: [(CLEAR, b"{}")], fresh=True)


async def test_it_comes_back_as_it_was(make: Make) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one", "two")
    await a.sync("s")
    b.add("s", "three")
    await b.sync("s")
    await a.sync("s")
    digest = a.head("s").digest
    assert evict(a)
    await a.sync("s")
    assert a.items("s") == ["one", "two", "three"] == b.items("s")
    assert not a.head("s").stub
    assert a.head("s").digest == digest
    a.add("s", "four")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ["one", "two", "three", "four"]
    assert a.origin == a.head("s").origin, "under its old name"


async def test_what_is_added_to_a_stub_goes_up_once(make: Make) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one")
    await a.sync("s")
    for number in range(3):
        assert evict(a)
        add(a, number)
        assert a.pending("s") == 1
        assert not evict(a), "what is pending stays"
        await a.replicator.round([session_key("default", "s")], [])
        assert a.head("s").stub, "nobody asked for the rest"
        assert here(a) == [number]
    await b.sync("s")
    await a.sync("s")
    assert a.items("s") == b.items("s") == ["one", 0, 1, 2]


async def test_what_others_added_meanwhile_is_below_it(make: Make) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one")
    await a.sync("s")
    await b.sync("s")
    assert evict(a)
    b.add("s", "two")
    await b.sync("s")
    add(a, "three")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ["one", "two", "three"]


async def test_a_poll_leaves_stubs_alone(make: Make) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one")
    await a.sync("s")
    await b.sync("s")
    assert evict(a)
    b.add("s", "two")
    await b.sync("s")
    assert await a.replicator.moved([(session_key("default", "s"), a.head("s"))]) == set()


async def test_what_is_deleted_elsewhere_is_gone(make: Make, server: MemoryServer) -> None:
    a = make("a")
    a.add("s", "one")
    await a.sync("s")
    assert evict(a)
    lose(server)
    assert await a.replicator.moved([(session_key("default", "s"), a.head("s"))]) == {session_key("default", "s")}


async def test_a_session_that_the_central_store_lost_stays_a_stub(make: Make, server: MemoryServer) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one")
    await a.sync("s")
    await b.sync("s")
    assert evict(a)
    lose(server)
    await a.sync("s")
    assert a.head("s").stub, "an empty session is never shown instead"
    assert a.lost == []
    await b.sync("s")
    await a.sync("s")
    assert a.items("s") == ["one"], "another replica had it"


async def test_what_is_pending_above_a_stub_goes_up_after_a_loss(make: Make, server: MemoryServer) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one")
    await a.sync("s")
    await b.sync("s")
    assert evict(a)
    add(a, "two")
    lose(server)
    assert (await a.sync("s")).refused == {}
    assert a.items("s") == ["two"]
    assert a.pending("s") == 0
    assert len(a.lost) == 1
    await b.sync("s")  # It knows what was lost, under our old name.
    await a.sync("s")
    await b.sync("s")
    assert sorted(a.items("s")) == sorted(b.items("s")) == ["one", "two"]
    a.add("s", "three")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s")
    assert a.items("s")[-1] == "three"


@pytest.mark.parametrize("acked", [0, 2])
async def test_a_gap_below_a_stub_is_not_waited_for(make: Make, server: MemoryServer, acked: int) -> None:
    """The central store was restored from a backup that has fewer of our changes, or none."""
    a, b = make("a"), make("b")
    b.add("s", "zero")
    await b.sync("s")
    await a.sync("s")
    for number in range(acked):
        a.add("s", number)
        await a.sync("s")
    backup = backup_of(server)
    a.add("s", "lost")
    await a.sync("s")
    assert evict(a)
    add(a, "pending")
    restore(server, backup)
    assert (await a.sync("s")).refused == {}
    assert a.items("s") == ["zero", *range(acked), "pending"]
    assert a.pending("s") == 0
    await b.sync("s")
    assert b.items("s") == a.items("s")


async def test_what_went_up_above_a_stub_is_sent_again_where_it_fits(make: Make, server: MemoryServer) -> None:
    a = make("a")
    a.add("s", "one")
    await a.sync("s")
    backup = backup_of(server)
    assert evict(a)
    add(a, "two")
    await a.replicator.round([session_key("default", "s")], [])
    assert a.pending("s") == 0
    restore(server, backup)
    await a.sync("s")
    assert a.items("s") == ["one", "two"]


async def test_a_folded_session_comes_back(make: Make) -> None:
    limits = Limits(compact_after=8, compact_bytes=1, keep=2)
    a, b = make("a", limits=limits), make("b", limits=limits)
    for number in range(20):
        a.add("s", "x" * 100, number)
        await a.sync("s")
    assert evict(a)
    add(a, "more")
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s")
    assert len(a.items("s")) == 41
    assert any(isinstance(notice, Settled) and notice.before.stub for notice in a.told)


async def test_a_verify_finds_nothing_wrong_with_a_stub(make: Make) -> None:
    a, b = make("a"), make("b")
    a.add("s", "one")
    await a.sync("s")
    await b.sync("s")
    assert evict(a)
    for _ in range(2):
        verifier = Verifier(a.site, "", {}, full=True)
        found = [each async for each in verifier.differences([(session_key("default", "s"), a.head("s"))])]
        assert [each.problem for each in found] == [""]
        assert a.head("s").stub
        b.add("s", "two")
        await b.sync("s")


async def test_the_least_recently_used_go_first_and_only_what_the_central_store_has(
    make: Make, server: MemoryServer
) -> None:
    a = make("a")
    names = [f"s{number}" for number in range(30)]
    for name in names:
        a.add(name, "x" * 50_000)
        await a.sync(name)
    a.log.use(session_key("default", "s0"))
    a.add("s1", "pending")
    del server.namespace("default").sessions["s2"]
    evictor = Evictor(a.site, 1_000_000)
    while not (a.rows.disk_bytes() < 800_000):
        await evictor.run()
        assert evictor.makes_room
    stubs = [name for name in names if a.head(name).stub]
    assert "s3" in stubs
    assert {"s0", "s1", "s2", "s29"}.isdisjoint(stubs)
    for name in stubs:
        await a.sync(name)
        assert a.items(name) == ["x" * 50_000]


async def test_nothing_that_is_pending_is_evicted(make: Make) -> None:
    a = make("a")
    for number in range(30):
        a.add(f"s{number}", "x" * 50_000)
    evictor = Evictor(a.site, 1_000_000)
    await evictor.run()
    assert not evictor.makes_room
    assert not any(a.head(f"s{number}").stub for number in range(30))


async def test_what_went_up_above_a_stub_is_not_waited_for_where_it_does_not_fit(
    make: Make, server: MemoryServer
) -> None:
    a = make("a")
    a.add("s", "one")
    await a.sync("s")
    backup = backup_of(server)
    a.add("s", "evicted")
    await a.sync("s")
    assert evict(a)
    add(a, "behind that")
    await a.replicator.round([session_key("default", "s")], [])
    restore(server, backup)
    add(a, "pending")
    assert (await a.sync("s")).refused == {}
    assert a.items("s") == ["one", "pending"]
    assert a.pending("s") == 0


async def test_a_stub_is_never_folded(make: Make) -> None:
    limits = Limits(compact_after=8, compact_bytes=-(1 << 20), keep=2)
    a, b = make("a", limits=limits), make("b")
    a.add("s", "one")
    await a.sync("s")
    assert evict(a)
    for number in range(20):
        a.view("s").write(_puts(number), fresh=False)
        assert (await a.replicator.round([session_key("default", "s")], [])).refused == {}
    assert a.head("s").stub
    await b.sync("s")
    assert b.items("s") == ["one"], "a checkpoint would stand for what it does not have"


async def test_a_stub_is_not_folded_when_its_items_expire(make: Make) -> None:
    a = make("a")
    body = jsonvalue.join([jsonvalue.encode("one")])
    a.view("s").write(lambda _: [(APPEND, body)], fresh=False, wish=Wish(item_ttl=1))
    await a.sync("s")
    assert evict(a)
    add(a, "two")
    await a.replicator.round([session_key("default", "s")], ())
    assert a.pending("s") == 0
    a.time.reckoning = Reckoning(offset=3_600_000)
    outcome = await a.replicator.expire([(session_key("default", "s"), a.head("s"))])
    assert not outcome.refused
    assert a.head("s").stub
