"""Which conflicts a function is asked about, and what it is told: log by log, without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localfirst import jsonvalue, plans
from localfirst.change import DELETE, INCREMENT, MAIN_BRANCH, PUT, Admitted, Change
from localfirst.clock import pack
from localfirst.fold import Fold
from localfirst.metadata import asks, encode_delete, encode_increment, encode_put
from localfirst.records import Head, Rename, session_key
from localfirst.testing.memory import MemoryServer
from localfirst.unresolved import Conflicts, Unresolved
from localfirst.view import View
from tests.unit.replica import Replica


class Device:
    """Replica "me", which has a function for all its keys. What others write is given to it as it comes."""

    def __init__(self) -> None:
        self.fold = Fold()
        self.fold.awaiting = {}
        self.conflicts = Conflicts()
        self.waiting: list[Change] = []
        self.log: list[Admitted] = []
        self._counters: dict[str, int] = {}

    def _change(self, origin: str, kind: str, body: bytes, base: int, ms: int) -> Change:
        self._counters[origin] = self._counters.get(origin, 0) + 1
        return Change(origin, self._counters[origin], pack(ms), base, MAIN_BRANCH, kind, body)

    def set(self, value: Any, *, ms: int, ask: bool = True, key: str = "k") -> None:
        body = encode_put(key, "last", jsonvalue.encode(value), ask=ask)
        self.write(PUT, body, ms)

    def write(self, kind: str, body: bytes, ms: int) -> None:
        change = self._change("me", kind, body, self.fold.seq, ms)
        self.fold.pend(change)
        self.waiting.append(change)

    def other(self, value: Any, *, ms: int, base: int = 0, origin: str = "other", rule: Any = "last") -> None:
        """Another replica's write is admitted."""
        body = encode_put("k", rule, jsonvalue.encode(value))
        self.log.append(Admitted(len(self.log) + 1, 10**9, self._change(origin, PUT, body, base, ms)))

    def admit(self, count: int = 1) -> None:
        """Writes of ours are admitted."""
        for change in self.waiting[:count]:
            self.log.append(Admitted(len(self.log) + 1, 10**9, change))
        del self.waiting[:count]

    def pull(self) -> None:
        self.conflicts.follow(self.fold.admit(self.log[self.fold.seq :]), "me")

    def take(self) -> list[tuple[Any, Any, Any]]:
        """Mine, theirs and base of each."""
        return [tuple(map(value_of, (each.mine, each.theirs, each.base))) for each in self.taken()]

    def taken(self) -> list[Unresolved]:
        return self.conflicts.take(self.fold)


def value_of(data: bytes | None) -> Any:
    return "nothing" if data is None else jsonvalue.decode(data)


@pytest.fixture
def device() -> Device:
    return Device()


@pytest.mark.parametrize("later", ["ours", "theirs"])
def test_a_conflict_is_told_once_with_what_was_there_before_both(device: Device, later: str) -> None:
    device.set("base", ms=1)
    device.admit()
    device.pull()
    device.set("mine", ms=5)
    device.other("theirs", ms=4 if later == "ours" else 6, base=1)
    device.admit()
    device.pull()
    assert device.take() == [("mine", "theirs", "base")]
    assert device.take() == []


def test_what_was_pulled_before_our_write_was_pushed_is_not_its_base(device: Device) -> None:
    device.set("base", ms=1)
    device.admit()
    device.pull()
    device.set("mine", ms=5)
    for number in range(20):
        device.other(number, ms=10 + number, base=1)
        device.pull()
    assert device.take() == []
    device.admit()
    device.pull()
    assert device.take() == [("mine", 19, "base")]


def test_nothing_was_there_before(device: Device) -> None:
    device.set("mine", ms=5)
    device.other("theirs", ms=4)
    device.admit()
    device.pull()
    assert device.take() == [("mine", "theirs", "nothing")]


@pytest.mark.parametrize("their_time", [1, 6, 9], ids=["before both", "between", "after both"])
@pytest.mark.parametrize("at_once", [True, False])
def test_several_writes_of_ours_that_knew_nothing_are_one(device: Device, their_time: int, at_once: bool) -> None:
    """The function is told the last of them, and what was there before the first: so nothing of them gets lost."""
    device.set("base", ms=0)
    device.admit()
    device.pull()
    device.set("mine 1", ms=5)
    device.set("mine 2", ms=7)
    device.other("theirs", ms=their_time, base=1)
    device.admit(2 if at_once else 1)
    device.pull()
    if not at_once:
        assert device.take() == []  # The other one is on its way.
        device.admit()
        device.pull()
    assert device.take() == [("mine 2", "theirs", "base")]
    assert len(device.fold.conflicts) == (2 if their_time > 5 else 1)


def test_a_write_of_ours_that_others_had_seen_is_the_base_of_the_next(device: Device) -> None:
    device.set("mine 1", ms=5)
    device.set("mine 2", ms=7)
    device.admit()
    device.other("theirs", ms=6, base=1)
    device.admit()
    device.pull()
    assert device.take() == [("mine 2", "theirs", "mine 1")]


def test_deletions_are_nothing(device: Device) -> None:
    device.set("base", ms=1)
    device.admit()
    device.pull()
    device.write(DELETE, encode_delete("k", ask=True), 5)
    device.other("theirs", ms=4, base=1)
    device.admit()
    device.pull()
    assert device.take() == [("nothing", "theirs", "base")]


def test_who_meets_the_conflict_is_the_author_of_the_second_write(device: Device) -> None:
    device.set("mine", ms=5)
    device.admit()
    device.other("theirs", ms=6)
    device.pull()
    assert device.fold.conflicts
    assert device.take() == []


def test_a_write_that_names_its_rule_asks_nobody(device: Device) -> None:
    device.other("theirs", ms=4)
    device.set("mine", ms=5, ask=False)
    device.admit()
    device.pull()
    assert device.fold.conflicts
    assert device.take() == []


def test_an_increment_asks_nobody(device: Device) -> None:
    device.other(5, ms=4)
    device.write(INCREMENT, encode_increment("k", 1), 5)
    device.admit()
    device.pull()
    assert device.fold.conflicts
    assert device.take() == []


@pytest.mark.parametrize("who", ["other", "me", "me, named"])
def test_a_write_that_knew_the_outcome_settles_it(device: Device, who: str) -> None:
    device.other("theirs", ms=4)
    device.set("mine", ms=5)
    device.admit()
    device.pull()
    if who == "other":
        device.other("settled", ms=1, base=2)
    else:
        device.set("settled", ms=9, ask=who == "me")
        assert device.take() == []
        device.admit()
    device.pull()
    assert device.take() == []


def test_a_write_that_changed_nothing_settles_nothing(device: Device) -> None:
    device.other("theirs", ms=4)
    device.set("mine", ms=5)
    device.admit()
    device.other("set only if nothing is", ms=9, rule="first")
    device.pull()
    assert device.take() == [("mine", "theirs", "nothing")]


def test_another_s_write_that_did_not_know_either_leaves_it_to_that_other(device: Device) -> None:
    device.other("theirs", ms=4)
    device.set("mine", ms=5)
    device.admit()
    device.other("a third", ms=9, origin="third")
    device.pull()
    assert device.take() == []


def test_all_that_it_needs_is_in_the_log(device: Device) -> None:
    """A process that was killed between: the next one reads the log, and finds the same."""
    device.set("base", ms=1)
    device.admit()
    device.other("seen", ms=2, base=1)
    device.pull()
    device.set("mine 1", ms=5)
    device.set("mine 2", ms=7)
    device.other("theirs", ms=6, base=2)
    device.admit(2)
    again = Device()
    again.log = device.log
    again.pull()
    assert again.take() == [("mine 2", "theirs", "seen")]


def test_what_a_function_said_settles_it_for_good(device: Device) -> None:
    device.other("theirs", ms=4)
    device.set("mine", ms=5)
    device.admit()
    device.pull()
    assert len(device.taken()) == 1
    device.set("said", ms=9)
    device.admit()
    again = Device()
    again.log = device.log
    for each in (device, again):
        each.pull()
        assert each.take() == []


def test_keys_are_apart(device: Device) -> None:
    device.other("theirs", ms=4)
    device.set("mine", ms=5)
    device.set("unrelated", ms=6, key="n")
    device.admit(2)
    device.pull()
    assert device.take() == [("mine", "theirs", "nothing")]


@pytest.mark.parametrize(
    ("kind", "body", "asked"),
    [
        (PUT, encode_put("k", "last", b"1", ask=True), True),
        (PUT, encode_put("k", "last", b"1"), False),
        (PUT, encode_put("\ud800", "last", b"NaN", ask=True), True),
        (PUT, encode_put("\ud800", "last", b"NaN"), False),
        (PUT, b'{"key":"k","rule":"last","value":1,"ask":7}', False),
        (DELETE, encode_delete("k", ask=True), True),
        (DELETE, encode_delete("k"), False),
        (DELETE, encode_delete("\ud800", ask=True), True),
        (INCREMENT, b'{"key":"k","by":1,"ask":true}', False),
    ],
)
def test_whether_a_write_asks(kind: str, body: bytes, asked: bool) -> None:
    assert asks(Change("r", 1, 0, 0, MAIN_BRANCH, kind, body)) is asked


def test_what_was_pulled_before_a_restart_is_not_the_base(device: Device) -> None:
    """It is not on disk what stood when the write was made: then nothing is told, rather than what the other wrote."""
    device.set("mine", ms=5)
    device.other("theirs", ms=4)
    again = Device()
    again.log, again.waiting = device.log, device.waiting
    again.pull()
    again.fold.pend(again.waiting[0])
    again.admit()
    again.pull()
    assert again.take() == [("mine", "theirs", "nothing")]


# As a view of a directory follows them.


async def test_a_write_that_was_given_up_is_not_waited_for(tmp_path: Path) -> None:
    server = MemoryServer()
    me, other = Replica(tmp_path / "me", server), Replica(tmp_path / "other", server)
    key = session_key("default", "s")
    view = View(me.log, me.clock, key, Head("default", "s", me.origin), lambda: False, conflicts=Conflicts())
    for value in (b'"given up"', b'"kept"'):
        view.write(plans.always((PUT, encode_put("k", "last", value, ask=True))), fresh=True)
    head = me.head("s")
    assert me.log.settle(key, head, head, rename=Rename(1, me.origin, 1, frozenset({1})))
    other.write("s", plans.always((PUT, encode_put("k", "last", b'"theirs"'))))
    await other.sync("s")
    view.write(plans.always((PUT, encode_put("k", "last", b'"mine"', ask=True))), fresh=True)
    await me.sync("s")
    view.refresh()
    assert view.conflicts is not None
    (found,) = view.conflicts.take(view.fold)
    assert (found.mine, found.theirs, found.base) == (b'"mine"', b'"theirs"', b'"given up"')
    assert view.fold.awaiting == {}
