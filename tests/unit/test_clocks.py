"""Clocks that lie: rounds with a central store whose clock is right, of replicas whose clocks are not."""

from __future__ import annotations

from datetime import datetime, timezone
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from localfirst import jsonvalue, plans
from localfirst.change import DELETE, PUT
from localfirst.clock import HybridClock, pack, unpack_ms, wall_ms
from localfirst.metadata import Conflict, Rule, encode_delete, encode_put
from localfirst.testing.memory import MemoryServer
from tests.unit.bench import Bench, eventually
from tests.unit.replica import Replica

SECOND = 1000
HOUR = 3600 * SECOND
DAY = 24 * HOUR
YEARS = 3650 * DAY
LIES = [0, HOUR, -HOUR, DAY + HOUR, -DAY - HOUR, YEARS, -YEARS]


class World:
    """The true time, a central store that has it, and replicas that have it in their way."""

    def __init__(self, path: Path) -> None:
        self.now = 1_700_000_000 * SECOND
        self._path = path
        self._server = MemoryServer(now=lambda: self.now)

    def replica(self, name: str, lie: int = 0) -> Replica:
        """One whose clock is so much ahead; again by the same name: the same directory, in another process."""
        return Replica(self._path / name, self._server, wall=lambda: pack(self.now + lie))

    def replicas(self, *lies: int) -> list[Replica]:
        return [self.replica(str(number), lie) for number, lie in enumerate(lies)]

    def set(self, replica: Replica, value: Any, rule: Rule = "last") -> None:
        """A write to key "k", a second after all that was before."""
        self.now += SECOND
        if rule == "merge":
            replica.write("s", plans.merge("k", value))
        else:
            replica.write("s", plans.always((PUT, encode_put("k", rule, jsonvalue.encode(value)))))

    async def sync(self, *replicas: Replica) -> None:
        for replica in replicas:
            self.now += SECOND
            await replica.sync("s")


def value(replica: Replica) -> Any:
    register = replica.view("s").refresh().metadata.get("k")
    return None if register is None or register.value is None else jsonvalue.decode(register.value)


def conflicts(replica: Replica) -> list[Conflict]:
    return list(replica.view("s").refresh().conflicts)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest.mark.parametrize("rule", ["last", "merge"])
@pytest.mark.parametrize(("one", "other"), list(product(LIES, LIES)))
async def test_writes_that_saw_each_other_follow_each_other(world: World, one: int, other: int, rule: Rule) -> None:
    """What counts is what their authors had seen: no clock, and no conflict."""
    a, b = world.replicas(one, other)
    written: Any = None
    for number in range(3):
        for replica, peer in ((a, b), (b, a)):
            written = {"x": number, "by": "ab"[replica is b]}
            world.set(replica, written, rule)
            assert value(replica) == written
            await world.sync(replica, peer)
            assert value(replica) == value(peer) == written
    world.now += SECOND
    a.write("s", plans.always((DELETE, encode_delete("k"))))
    await world.sync(a, b)
    assert value(a) is value(b) is None
    assert conflicts(a) == conflicts(b) == []


@pytest.mark.parametrize(("one", "other"), list(product(LIES, LIES)))
async def test_writes_that_knew_nothing_of_each_other_are_a_conflict(world: World, one: int, other: int) -> None:
    a, b = world.replicas(one, other)
    world.set(a, "a")
    world.set(b, "b")
    await world.sync(a, b, a)
    assert value(a) == value(b)
    (found,) = conflicts(a)
    assert conflicts(b) == [found]
    assert found == Conflict("k", "last", "a", "b", value(a), (a.origin, b.origin), 2)
    # And what comes next is none again.
    world.set(a, "settled")
    await world.sync(a, b)
    assert value(a) == value(b) == "settled"
    assert len(conflicts(a)) == len(conflicts(b)) == 1


@pytest.mark.parametrize("lie", [lie for lie in LIES if lie > 0])
async def test_a_fast_clock_wins_nothing_beyond_its_push(world: World, lie: int) -> None:
    liar, honest = world.replicas(lie, 0)
    world.set(liar, "from the future")
    await world.sync(liar)
    world.set(honest, "later")  # Without knowledge of it.
    await world.sync(honest, liar)
    assert value(liar) == value(honest) == "later"
    # Nor does it win later on, the other way round.
    world.set(honest, "sent first")
    world.now += SECOND
    world.set(liar, "written later")
    await world.sync(honest, liar, honest)
    assert value(liar) == value(honest) == "written later"


@pytest.mark.parametrize("lie", LIES)
async def test_nobody_follows_a_clock_that_lies(world: World, lie: int) -> None:
    liar, honest = world.replicas(lie, 0)
    for number in range(3):
        world.set(liar, number)
        await world.sync(liar, honest)
        value(honest)
        assert unpack_ms(honest.clock.now()) == world.now


async def test_a_slow_clock_follows_the_others_as_far_as_a_day(world: World) -> None:
    slow, slower, honest = world.replicas(-HOUR, -YEARS, 0)
    world.set(honest, "x")
    await world.sync(honest, slow, slower)
    for replica in (slow, slower):
        assert value(replica) == "x"
    admitted_at = unpack_ms(honest.view("s").refresh().time)
    assert unpack_ms(slow.clock.now()) == admitted_at
    assert unpack_ms(slower.clock.now()) == world.now - YEARS


@pytest.mark.parametrize("lie", [-YEARS, -DAY - HOUR, -HOUR])
async def test_a_slow_clock_loses_only_to_what_it_did_not_know(world: World, lie: int) -> None:
    slow, honest = world.replicas(lie, 0)
    world.set(honest, "first")
    world.set(slow, "concurrent")  # Truly later; its clock says otherwise.
    await world.sync(honest, slow, honest)
    assert value(slow) == value(honest) == "first"
    world.set(slow, "now it knows")
    await world.sync(slow, honest)
    assert value(slow) == value(honest) == "now it knows"
    assert len(conflicts(slow)) == 1


@pytest.mark.parametrize("lie", LIES)
async def test_a_clock_that_was_put_right_has_lied_for_the_last_time(world: World, lie: int) -> None:
    """Also if what it wrote by the wrong time is still pending when its process starts again."""
    liar, honest = world.replicas(lie, 0)
    world.set(liar, "lie")
    liar = world.replica("0")
    assert value(liar) == "lie"
    assert unpack_ms(liar.clock.now()) == world.now
    await world.sync(liar)
    world.set(liar, "true")
    pushed_late, world.now = world.now, world.now + 10 * SECOND
    world.set(honest, "later")  # Without knowledge of either.
    await world.sync(honest, liar, honest)
    assert pushed_late < world.now
    assert value(liar) == value(honest) == "later"


@pytest.mark.parametrize("lie", [HOUR, YEARS])
async def test_a_session_changed_no_later_than_it_reached_the_central_store(world: World, lie: int) -> None:
    (liar,) = world.replicas(lie)
    view = liar.view("s")
    liar.add("s", "x")
    view.refresh()
    assert view.updated_at == datetime.fromtimestamp((world.now + lie) / 1000, timezone.utc)
    for what in ("items only", "metadata too"):
        await world.sync(liar)
        view.refresh()
        assert view.updated_at == datetime.fromtimestamp(world.now / 1000, timezone.utc), what
        world.set(liar, "x")


@pytest.mark.parametrize("lie", LIES)
def test_a_clock_follows_what_it_observes_for_a_day(lie: int) -> None:
    clock = HybridClock(lambda: pack(YEARS * 2))
    clock.observe(pack(YEARS * 2 + lie))
    assert unpack_ms(clock.now()) == YEARS * 2 + (lie if 0 < lie <= DAY else 0)


@pytest.mark.parametrize("lie", LIES)
async def test_status_tells_how_far_the_clocks_are_apart(tmp_path: Path, lie: int) -> None:
    """Of this machine and the central store; within the time that the answer took."""
    bench = Bench(tmp_path, MemoryServer(now=lambda: wall_ms() + lie))
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "online")
        assert made.status.clock_offset == pytest.approx(lie / 1000, abs=1)
