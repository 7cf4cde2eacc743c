"""Quarantine on disk, and what giving up drops: exactly what is refused, and nothing when nothing was."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest

from localfirst.aside import Quarantine
from localfirst.checkpoint import hash_of
from localfirst.errors import ConfigurationError, RemoteRejected, StoreCorrupt
from localfirst.giving_up import give_up
from localfirst.records import ASIDE, Aside, Direction, SessionKey, session_key
from localfirst.rows import Rows
from localfirst.testing.memory import MemoryServer
from localfirst.version import VERSION
from sync.central.base import Pushed, Run
from sync.round import Round
from tests.unit.replica import Replica

KEY = session_key("default", "s")


def aside(direction: Direction = "pull", **more: object) -> Aside:
    made = Aside("default", "s", direction, "it is bad", 1.5, VERSION, place=7, mark="0123")
    return msgspec.structs.replace(made, **more)


@pytest.fixture
def rows(tmp_path: Path) -> Iterator[Rows]:
    opened = Rows(tmp_path / "data")
    yield opened
    opened.close()


@pytest.fixture
def quarantine(rows: Rows) -> Quarantine:
    return Quarantine(rows)


# Rows.


def test_what_is_put_is_there_for_every_process(quarantine: Quarantine, rows: Rows) -> None:
    assert quarantine.get(KEY, "pull") is None
    quarantine.put(KEY, aside())
    assert Quarantine(rows).get(KEY, "pull") == aside()
    assert quarantine.get(KEY, "push") is None
    quarantine.put(KEY, aside(reason="it is worse"))
    assert quarantine.all("default") == {(KEY, "pull"): aside(reason="it is worse")}


def test_each_namespace_has_its_own(quarantine: Quarantine) -> None:
    quarantine.put(KEY, aside())
    other = session_key("other", "s")
    quarantine.put(other, aside("push", namespace="other"))
    assert set(quarantine.all("default")) == {(KEY, "pull")}
    assert set(quarantine.all("other")) == {(other, "push")}
    assert quarantine.all("none") == {}


def test_directions_are_let_go_one_by_one(quarantine: Quarantine) -> None:
    for direction in ("push", "pull"):
        quarantine.put(KEY, aside(direction))
    quarantine.release(KEY, "push")
    assert set(quarantine.all("default")) == {(KEY, "pull")}
    quarantine.release(KEY, "push")
    assert quarantine.retry(KEY)
    assert quarantine.all("default") == {}
    assert not quarantine.retry(KEY)


def test_consent_is_kept_until_it_is_used(quarantine: Quarantine) -> None:
    quarantine.put(KEY, aside("push", lost=True))
    quarantine.put(KEY, aside("pull", lost=True))
    assert quarantine.retry(KEY)
    assert {each.consent for each in quarantine.all("default").values()} == {True}
    assert not quarantine.retry(KEY)  # It is on its way.
    quarantine.heal(KEY)
    assert quarantine.all("default") == {}


def test_a_log_that_was_read_anew_heals_what_was_wrong_with_it_and_nothing_else(quarantine: Quarantine) -> None:
    quarantine.put(KEY, aside("pull"))
    quarantine.put(KEY, aside("push"))
    quarantine.heal(KEY)
    assert set(quarantine.all("default")) == {(KEY, "push")}  # A change that is refused still is.


def test_what_is_passed_over_is_known_by_its_bytes(quarantine: Quarantine) -> None:
    quarantine.put(KEY, aside(mark=hash_of(b"one")))
    quarantine.skip(KEY, aside(mark=hash_of(b"one")))
    quarantine.skip(KEY, aside(mark=hash_of(b"other")))
    assert quarantine.skipped(KEY) == {hash_of(b"one"), hash_of(b"other")}
    assert quarantine.skipped(session_key("default", "other")) == frozenset()
    assert quarantine.all("default") == {}


def test_a_log_that_is_damaged_as_a_whole_can_not_be_passed_over(quarantine: Quarantine) -> None:
    quarantine.put(KEY, aside(mark=""))
    with pytest.raises(ConfigurationError, match=r"only repaired.*delete the session there"):
        quarantine.skip(KEY, aside(mark=""))
    assert set(quarantine.all("default")) == {(KEY, "pull")}


def test_a_note_that_can_not_be_read_is_told(quarantine: Quarantine, rows: Rows) -> None:
    rows.put(ASIDE + KEY + b"pull", b"\xc1")
    with pytest.raises(StoreCorrupt, match="note"):
        quarantine.all("default")


# Giving up.


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def replica(tmp_path: Path, server: MemoryServer) -> Iterator[Replica]:
    made = Replica(tmp_path / "a", server)
    yield made
    made.rows.close()


@pytest.fixture
def other(tmp_path: Path, server: MemoryServer) -> Iterator[Replica]:
    made = Replica(tmp_path / "b", server)
    yield made
    made.rows.close()


class Picky:
    """A central store that takes no change with a certain word in it."""

    def __init__(self, replica: Replica) -> None:
        self.pushes = 0
        self.on = True
        self._push = replica.central.push
        replica.central.push = self.push  # type: ignore[method-assign]

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        self.pushes += 1
        if self.on and any(b"forbidden" in change for run in runs for change in run.changes):
            raise RemoteRejected("that word is not taken here")
        return await self._push(runs)


def put_aside(replica: Replica, outcome: Round) -> set[tuple[SessionKey, Direction]]:
    """As the worker does."""
    for (key, direction), refusal in outcome.refused.items():
        told = str(refusal.error)
        made = Aside("default", "s", direction, told, 1.5, VERSION, refusal.place, refusal.changes, refusal.mark)
        replica.quarantine.put(key, msgspec.structs.replace(made, lost=refusal.lost))
    return set(outcome.refused)


def discard(replica: Replica) -> bool:
    return give_up(replica.log, replica.identity, replica.quarantine, KEY)


async def test_exactly_the_refused_change_is_found_and_dropped(replica: Replica, other: Replica) -> None:
    picky = Picky(replica)
    for number in range(300):
        replica.add("s", "forbidden" if number == 200 else number)
    outcome = await replica.sync("s")
    assert put_aside(replica, outcome) == {(KEY, "push")}
    refusal = outcome.refused[KEY, "push"]
    assert (refusal.place, refusal.changes) == (201, 1)
    assert picky.pushes < 25  # Halves, not one by one.
    assert replica.pending("s") == 100
    assert discard(replica)
    assert (await replica.sync("s")).refused == {}
    await other.sync("s")
    assert other.items("s") == replica.items("s") == [number for number in range(300) if number != 200]
    assert not discard(replica)


async def test_each_of_several_is_dropped_only_after_it_was_told(replica: Replica) -> None:
    Picky(replica)
    for word in ("1", "forbidden", "2", "forbidden too", "3"):
        replica.add("s", word)
    put_aside(replica, await replica.sync("s"))
    assert discard(replica)
    assert replica.items("s") == ["1", "2", "forbidden too", "3"]
    assert put_aside(replica, await replica.sync("s")) == {(KEY, "push")}
    assert discard(replica)
    assert (await replica.sync("s")).refused == {}
    assert replica.items("s") == ["1", "2", "3"]


async def test_what_was_admitted_meanwhile_is_not_dropped(replica: Replica) -> None:
    """Somebody gives up what he was told of some time ago."""
    picky = Picky(replica)
    for word in ("1", "forbidden", "2"):
        replica.add("s", word)
    put_aside(replica, await replica.sync("s"))
    picky.on = False
    assert (await replica.sync("s")).refused == {}
    assert discard(replica)
    assert replica.items("s") == ["1", "forbidden", "2"]
    assert replica.pending("s") == 0


async def test_a_turn_is_refused_as_a_whole(replica: Replica) -> None:
    Picky(replica)
    replica.add("s", "1")
    for word in ("call", "forbidden", "output"):
        replica.add("s", word, turn=5)
    replica.write("s", lambda _: [("end", b"{}")], turn=5)
    replica.add("s", "2")
    outcome = await replica.sync("s")
    assert (outcome.refused[KEY, "push"].place, outcome.refused[KEY, "push"].changes) == (2, 4)
    put_aside(replica, outcome)
    assert discard(replica)
    await replica.sync("s")
    assert replica.items("s") == ["1", "2"]


async def test_giving_up_a_log_that_can_not_be_read_drops_nothing_of_what_is_pending(
    replica: Replica, other: Replica, server: MemoryServer
) -> None:
    """A push that finds a gap reads the log anew and meets what it can't read: nobody refused what is pending. The
    places are chosen so that the seq of what can't be read is a slot of what is pending."""
    for number in range(3):
        replica.add("s", number)
    await replica.sync("s")
    session = server.namespace("default").sessions["s"]
    kept = session.log[0]
    session.log, session.acked = [kept], {replica.origin: 1}
    session.digest = session.digests[0]
    for number in range(2):
        other.add("s", f"from the other {number}")
    await other.sync("s")
    await replica.central.push([Run("s", session.generation, True, "stranger", 1, [b"\xc1"])])
    replica.add("s", "in the slot with the number of what can't be read")
    replica.add("s", "behind it")
    before = replica.items("s")
    stopped = put_aside(replica, await replica.sync("s"))
    assert stopped == {(KEY, "push"), (KEY, "pull")}
    assert discard(replica)
    assert replica.items("s") == before
    assert (await replica.sync("s")).refused == {}
    await replica.sync("s")
    await other.sync("s", stopped=[])
    assert set(replica.items("s")) == {*before, "from the other 0", "from the other 1"}
    assert replica.pending("s") == 0


async def test_what_was_pushed_without_reading_waits_on_until_it_is_read_whatever_is_dropped_behind_it(
    replica: Replica, other: Replica, server: MemoryServer
) -> None:
    """The central store may have lost it since, or have had it from a twin."""
    Picky(replica)
    replica.add("s", "known")
    await replica.sync("s")
    await replica.central.push([Run("s", "", True, "stranger", 1, [b"\xc1"])])
    stopped = put_aside(replica, await replica.sync("s"))
    replica.add("s", "taken")
    replica.write("s", lambda fold: [("clear", b'{"seen":{}}')])
    for word in ("taken too", "forbidden", "behind it"):
        replica.add("s", word)
    assert put_aside(replica, await replica.sync("s", stopped=stopped)) == {(KEY, "push")}
    assert (replica.head("s").acked, replica.head("s").sent) == (1, 4)
    taken = replica.log.run(KEY, 1, 3)
    assert discard(replica)
    assert replica.items("s") == ["taken too", "behind it"]
    head = replica.head("s")
    assert replica.log.run(KEY, head.acked, 3) == taken
    server.wipe()
    assert (await replica.sync("s")).refused == {}
    await other.sync("s")
    assert other.items("s") == replica.items("s") == ["taken too", "behind it"]


async def test_a_log_that_can_not_be_given_up_stays_as_it_is_with_all_that_is_pending(
    replica: Replica, server: MemoryServer
) -> None:
    """There is a refused change too: but giving up does all of it, or nothing."""
    Picky(replica)
    replica.add("s", "1")
    replica.add("s", "forbidden")
    put_aside(replica, await replica.sync("s"))
    replica.quarantine.put(KEY, aside("pull", mark=""))
    with pytest.raises(ConfigurationError):
        discard(replica)
    assert replica.items("s") == ["1", "forbidden"]
    assert set(replica.quarantine.all("default")) == {(KEY, "push"), (KEY, "pull")}


async def test_a_lost_session_that_is_given_up_is_gone_here(tmp_path: Path, server: MemoryServer) -> None:
    replica = Replica(tmp_path, server, ask=True)
    replica.replicator.store_id = (await replica.central.identify()).store_id
    replica.add("s", "1", "2")
    await replica.sync("s")
    replica.add("s", "pending")
    del server.namespace("default").sessions["s"]
    assert put_aside(replica, await replica.sync("s")) == {(KEY, "push"), (KEY, "pull")}
    before = replica.origin
    assert discard(replica)
    assert replica.items("s") == []
    assert replica.pending("s") == 0
    assert replica.origin != before  # What it wrote before may still come from elsewhere.
    assert replica.quarantine.all("default") == {}
    assert (await replica.sync("s")).refused == {}
    assert server.namespace("default").sessions == {}
    replica.add("s", "anew")
    await replica.sync("s")
    assert replica.items("s") == ["anew"]
    assert replica.pending("s") == 0
    replica.rows.close()


async def test_consent_sends_a_lost_session_again(tmp_path: Path, server: MemoryServer) -> None:
    replica = Replica(tmp_path, server, ask=True)
    replica.replicator.store_id = (await replica.central.identify()).store_id
    replica.add("s", "1")
    await replica.sync("s")
    del server.namespace("default").sessions["s"]
    put_aside(replica, await replica.sync("s"))
    assert replica.quarantine.retry(KEY)
    assert (await replica.sync("s")).refused == {}
    assert len(replica.lost) == 1
    assert len(server.namespace("default").sessions["s"].log) == 1
    assert replica.quarantine.all("default") == {}
    replica.rows.close()


@pytest.mark.parametrize("ask", [True, False])
async def test_a_session_that_could_not_be_read_and_is_lost_then_is_a_lost_one(
    tmp_path: Path, server: MemoryServer, ask: bool
) -> None:
    replica = Replica(tmp_path, server, ask=ask)
    replica.replicator.store_id = (await replica.central.identify()).store_id
    replica.add("s", "1")
    await replica.sync("s")
    await replica.central.push([Run("s", "", True, "stranger", 1, [b"\xc1"])])
    stopped = put_aside(replica, await replica.sync("s"))
    del server.namespace("default").sessions["s"]
    replica.add("s", "2")
    outcome = await replica.sync("s", stopped=stopped)
    if ask:
        assert [refusal.lost for refusal in outcome.refused.values()] == [True, True]
        assert server.namespace("default").sessions == {}
        put_aside(replica, outcome)
        assert replica.quarantine.retry(KEY)
        assert (await replica.sync("s")).refused == {}
    assert len(replica.lost) == 1
    assert len(server.namespace("default").sessions["s"].log) == 2
    assert replica.quarantine.all("default") == {}
    replica.rows.close()
