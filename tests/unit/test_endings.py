"""What happens at the moment a session's life ends: somebody else is just writing, and clocks are wrong."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from localfirst import jsonvalue
from localfirst.change import APPEND, decode_change, new_id
from localfirst.clock import ASK_AGAIN, CentralTime, HybridClock, Reckoning, pack, unpack_ms
from localfirst.lifetime import Wish
from localfirst.lives import end_life
from localfirst.plans import always
from localfirst.records import ANY_LIFE, SessionKey, session_key
from localfirst.testing.memory import MemoryServer
from localfirst.view import View
from sync.central.base import KEEP_ENDED, Ending, Pulled, Run, Want
from sync.round import Round
from sync.site import Limits
from tests.unit.replica import Replica

SECOND = 1000
HOUR = 3600 * SECOND
YEARS = 3650 * 24 * HOUR
KEY = session_key("default", "s")


class World:
    """The true time, a central store that has it, and replicas whose clocks may be wrong."""

    def __init__(self, path: Path) -> None:
        self.now = 1_700_000_000 * SECOND
        self.lie = 0
        """How much the clocks of replicas are ahead, whatever they know of it."""
        self.server = MemoryServer(now=lambda: self.now)
        self._path = path

    def replica(self, name: str, limits: Limits | None = None) -> Replica:
        replica = Replica(self._path / name, self.server, limits, wall=lambda: pack(self.now + self.lie))
        replica.clock = HybridClock(replica.time.timestamp)
        return replica

    def changes(self) -> list[str]:
        """The names of the changes in the central log."""
        log = self.server.namespace("default").sessions["s"].log
        return [decode_change(entry.data).origin for entry in log]


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def add(view: View, item: str, ttl: int | None = None, item_ttl: int | None = None) -> None:
    """As an agent does that looks at nothing."""
    body = jsonvalue.join([jsonvalue.encode(item)])
    wish = None if ttl is None and item_ttl is None else Wish(ttl, item_ttl)
    view.write(always((APPEND, body)), fresh=False, wish=wish)


def items(view: View) -> list[object]:
    return jsonvalue.decode_each([item.data for item in view.refresh().items])


def delete(replica: Replica) -> None:
    """As `Store.delete` does it."""
    head = replica.head("s")
    assert end_life(replica.log, KEY, head, ending=head.generation or ANY_LIFE) is not None


# Others are just writing.


def test_what_another_process_renewed_is_not_dropped(world: World) -> None:
    one, other = world.replica("a").view("s"), world.replica("a").view("s")
    add(one, "first", ttl=HOUR)
    items(other)
    world.now += HOUR - SECOND
    add(one, "renews")
    world.now += 2 * SECOND
    add(other, "second")
    assert items(one) == items(other) == ["first", "renews", "second"]
    assert not other.expired


async def test_what_was_renewed_elsewhere_is_not_hidden_by_the_next_write(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    view = a.view("s")
    add(view, "first", ttl=HOUR)
    await a.sync("s")
    await b.sync("s")
    items(view)
    world.now += HOUR - SECOND
    add(b.view("s"), "renews")
    await b.sync("s")
    await a.sync("s")
    world.now += 2 * SECOND
    add(view, "second", ttl=HOUR)
    assert items(view) == ["first", "renews", "second"]


async def test_what_was_written_after_a_session_expired_outlives_its_deletion(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a.view("s"), "old", ttl=HOUR)
    await a.sync("s")
    await b.sync("s")
    delete(b)
    add(a.view("s"), "old, too")
    world.now += HOUR + SECOND
    add(a.view("s"), "new")
    await b.sync("s")
    await a.sync("s")
    await b.sync("s")
    assert a.over == ["deleted"]
    assert items(a.view("s")) == items(b.view("s")) == ["new"]


async def test_what_was_written_after_a_deletion_does_not_go_before_it(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a.view("s"), "old")
    await a.sync("s")
    send, calls = a.replicator._send_deletions, list[int]()

    async def and_then(keys: Sequence[SessionKey]) -> None:
        await send(keys)
        if not calls:  # Another process deletes it just then.
            delete(a)
            add(a.view("s"), "new")
        calls.append(1)

    a.replicator._send_deletions = and_then  # type: ignore[method-assign]
    add(a.view("s"), "old, too")
    await a.sync("s")
    await b.sync("s")
    assert items(a.view("s")) == items(b.view("s")) == ["new"]


async def between_push_and_pull(
    replica: Replica, happens: Callable[[], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> Round:
    """A round of a replica that has heard nothing of a session, to which others have sent something."""
    pull, done = replica.central.pull, list[object]()

    async def and_before(wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        if not done:
            done.append(await happens())
        return await pull(wants, max_bytes)

    monkeypatch.setattr(replica.central, "pull", and_before)
    result = await replica.replicator.round([KEY], [])
    assert done, "it did not pull"
    return result


async def test_what_was_deleted_right_after_it_was_sent_is_not_left_waiting(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(b.view("s"), "there")
    await b.sync("s")
    add(a.view("s"), "sent")

    async def delete_it() -> None:
        await b.sync("s")
        delete(b)
        await b.sync("s")

    await between_push_and_pull(a, delete_it, monkeypatch)
    assert a.over == ["deleted"]
    assert a.pending("s") == 0
    assert items(a.view("s")) == items(b.view("s")) == []


async def test_what_was_lost_right_after_it_was_sent_is_sent_again(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(b.view("s"), "there")
    await b.sync("s")
    add(a.view("s"), "sent")

    async def lose_it() -> None:
        world.server.namespace("default").sessions.clear()

    result = await between_push_and_pull(a, lose_it, monkeypatch)
    assert result.push == {KEY}
    await a.sync("s")
    await b.sync("s")
    await a.sync("s")
    assert a.pending("s") == 0
    assert items(a.view("s")) == items(b.view("s")) == ["sent", "there"]


async def test_what_was_sent_before_a_deletion_is_not_taken_for_what_came_after_it(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    view = a.view("s")
    add(view, "old", ttl=HOUR)
    await a.sync("s")
    await b.sync("s")
    items(view)
    world.now += HOUR - SECOND
    add(b.view("s"), "renews")
    await b.sync("s")
    world.now += 2 * SECOND
    add(view, "begins anew, as far as is known there")
    await a.sync("s", stopped=[(KEY, "pull")])
    await b.sync("s")
    assert len(items(b.view("s"))) == 3
    delete(b)
    await b.sync("s")
    await a.sync("s")
    assert a.over == ["deleted"]
    assert items(a.view("s")) == []


async def test_a_deletion_that_comes_late_spares_the_next_life(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(b.view("s"), "old")
    await b.sync("s")
    await a.replicator.know("s")
    delete(a)  # Of which nothing is known here.
    delete_there, late = a.central.delete, list[Sequence[Ending]]()

    async def twice(endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        late.append(endings)
        await delete_there(endings, keep)

    monkeypatch.setattr(a.central, "delete", twice)
    await a.sync("s")
    await b.sync("s")
    assert items(b.view("s")) == []
    add(b.view("s"), "new")
    await b.sync("s")
    await delete_there(late[0])
    await b.sync("s")
    assert items(b.view("s")) == ["new"]


async def test_no_name_is_used_in_two_lives(world: World) -> None:
    a, names = world.replica("a"), list[str]()
    for life in range(4):
        add(a.view("s"), f"{life}")
        await a.sync("s")
        names += set(world.changes())
        delete(a)
        await a.sync("s")  # With nothing pending, a directory takes its own name again where it has another.
        assert a.head("s").is_by(a.origin)
    assert len(set(names)) == 4


async def test_what_renews_a_session_that_cannot_be_read_does_so_here_too(world: World) -> None:
    a, b = world.replica("a"), world.replica("b")
    add(a.view("s"), "first", ttl=HOUR)
    await a.sync("s")
    await b.central.push([Run("s", new_id(), True, "evil", 1, [b"unreadable"])])
    await a.sync("s")
    for item in ("second", "third"):
        world.now += HOUR - SECOND
        add(a.view("s"), item)
        await a.sync("s", stopped=[(KEY, "pull")])
    assert items(a.view("s")) == ["first", "second", "third"]
    world.now += HOUR
    assert items(a.view("s")) == []


# Clocks.


def test_what_is_written_before_another_process_tells_of_the_clock_is_not_taken_for_old() -> None:
    now, known = [1_700_000_000 * SECOND], [Reckoning()]
    one, other = (CentralTime(lambda: pack(now[0] - YEARS), lambda: known[0]) for _ in range(2))
    other.timestamp()
    one.measured(now[0], (now[0] - YEARS) / 1000)
    known[0] = one.reckoning
    now[0] += ASK_AGAIN - 1
    assert one.of(unpack_ms(other.timestamp())) == now[0]
    now[0] += 1
    assert unpack_ms(other.timestamp()) == now[0], "it asks, though it has nothing to do but to write"
    assert one.of(unpack_ms(other.timestamp())) == now[0]


async def test_items_that_a_wrong_clock_took_away_are_there_when_it_is_right(world: World) -> None:
    a = world.replica("a")
    view = a.view("s")
    add(view, "first", item_ttl=HOUR)
    world.lie = YEARS
    assert items(view) == []
    world.lie = 0
    assert items(view) == ["first"]
    add(view, "second", item_ttl=HOUR)
    assert items(view) == ["first", "second"]


async def test_a_wrong_clock_folds_nothing_away(world: World) -> None:
    a = world.replica("a", Limits(compact_after=4, compact_bytes=-10_000, keep=0))
    add(a.view("s"), "first", item_ttl=HOUR)
    await a.sync("s")
    world.lie = YEARS
    for ttl in range(6):
        add(a.view("s"), f"{ttl}", ttl=HOUR + ttl)
    await a.sync("s")
    assert a.head("s").floor
    world.lie = 0
    assert items(a.view("s"))[0] == "first"
