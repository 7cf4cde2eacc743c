"""Merge rules and exact conflicts: invariant 3 for metadata, by example; tests/unit/test_fold.py has the properties."""

from __future__ import annotations

from typing import Any

import pytest

from localfirst import jsonvalue
from localfirst.change import DELETE, INCREMENT, MAIN_BRANCH, PUT, Admitted, Change
from localfirst.clock import pack
from localfirst.fold import Fold, fold
from localfirst.metadata import (
    RULES,
    Conflict,
    Register,
    Rule,
    Stamp,
    encode_delete,
    encode_increment,
    encode_put,
    merge_registers,
)


class History:
    """Writes to key "k" in the order of their admission."""

    def __init__(self) -> None:
        self.log: list[Admitted] = []

    def put(
        self, origin: str, value: Any, rule: Rule = "last", *, base: int = 0, ms: int = 0, gone: Any = None
    ) -> None:
        self._add(origin, PUT, encode_put("k", rule, jsonvalue.encode(value), gone), base, ms)

    def delete(self, origin: str, *, base: int = 0, ms: int = 0) -> None:
        self._add(origin, DELETE, encode_delete("k"), base, ms)

    def increment(self, origin: str, by: float, *, base: int = 0) -> None:
        self._add(origin, INCREMENT, encode_increment("k", by), base, 0)

    def _add(self, origin: str, kind: str, body: bytes, base: int, ms: int) -> None:
        counter = 1 + sum(entry.change.origin == origin for entry in self.log)
        seq = len(self.log) + 1
        change = Change(origin, counter, pack(ms or seq * 1000), base, MAIN_BRANCH, kind, body)
        self.log.append(Admitted(seq, 10_000, change))

    @property
    def state(self) -> Fold:
        return fold(self.log)

    @property
    def value(self) -> Any:
        register = self.state.metadata["k"]
        return None if register.value is None else jsonvalue.decode(register.value)


@pytest.fixture
def history() -> History:
    return History()


def test_last_the_greatest_time_wins_whatever_the_order_of_admission(history: History) -> None:
    history.put("a", "late", ms=5000)
    history.put("b", "early", ms=4000)
    assert history.value == "late"
    (conflict,) = history.state.conflicts
    assert conflict == Conflict("k", "last", "late", "early", "late", ("a", "b"), 2)


def test_last_equal_times_are_decided_by_origin(history: History) -> None:
    history.put("b", "b", ms=5000)
    history.put("a", "a", ms=5000)
    assert history.value == "b"


def test_a_write_that_saw_the_current_value_follows_it_whatever_the_clocks_say(history: History) -> None:
    history.put("a", "first", ms=9000)
    history.put("b", "second", ms=1, base=1)
    assert history.value == "second"
    assert not history.state.conflicts


def test_a_fast_clock_does_not_win_for_ever(history: History) -> None:
    """A change is never newer than its admission."""
    history.put("fast", "from the future", ms=10**12)
    history.log.append(
        Admitted(2, 20_000, Change("b", 1, pack(15_000), 0, MAIN_BRANCH, PUT, encode_put("k", "last", b'"now"')))
    )
    assert history.value == "now"


def test_a_delete_is_a_write_like_others(history: History) -> None:
    history.put("a", 1, ms=1000)
    history.delete("b", ms=2000)
    history.put("c", 2, ms=1500)
    assert history.value is None
    assert len(history.state.conflicts) == 2


def test_first_sets_only_what_is_not_set(history: History) -> None:
    history.put("a", "one", "first")
    history.put("b", "two", "first")
    history.put("a", "three", "first", base=2)
    assert history.value == "one"
    history.delete("a", base=3)
    history.put("b", "four", "first", base=4)
    assert history.value == "four"


def test_merge_keeps_both_sides_fields(history: History) -> None:
    history.put("a", {"x": 1, "y": 1, "z": 1}, "merge")
    history.put("a", {"x": 2}, "merge", base=1)
    history.put("b", {"y": 2}, "merge", base=1, gone=["z"])
    assert history.value == {"x": 2, "y": 2}


def test_merge_decides_each_field_by_time(history: History) -> None:
    history.put("a", {"x": "a", "y": "a"}, "merge", ms=5000)
    history.put("b", {"x": "b"}, "merge", ms=4000)
    history.put("c", {"y": "c"}, "merge", ms=6000)
    assert history.value == {"x": "a", "y": "c"}


def test_merge_an_old_field_does_not_come_back_over_its_removal(history: History) -> None:
    history.put("a", {"x": 1}, "merge", ms=1000)
    history.put("a", {}, "merge", base=1, ms=5000, gone=["x"])
    history.put("b", {"x": 2}, "merge", ms=3000)
    assert history.value == {}


def test_union_keeps_first_seen_order(history: History) -> None:
    history.put("a", ["x", "y", "x"], "union")
    history.put("b", ["z", "y", 1, 1.0, True], "union")
    assert history.value == ["x", "y", "z", 1, 1.0, True]


@pytest.mark.parametrize(("rule", "winner"), [("max", 7), ("min", -1)])
def test_max_and_min(history: History, rule: Rule, winner: int) -> None:
    for origin, value in zip("abc", (3, 7, -1), strict=True):
        history.put(origin, value, rule)
    assert history.value == winner


def test_max_has_an_order_for_any_two_values(history: History) -> None:
    values = [None, True, float("nan"), 2, "a", [1], {"a": 1}]
    for place, value in enumerate(values):
        history.put(f"r{place}", value, "max")
    assert history.value == {"a": 1}


def test_increments_add_up_and_are_no_conflict(history: History) -> None:
    for place in range(5):
        history.increment(f"r{place}", place + 0.5)
    assert history.value == 12.5
    assert not history.state.conflicts


def test_an_increment_follows_a_put(history: History) -> None:
    history.put("a", 10)
    history.increment("b", 5)
    assert history.value == 15
    assert [conflict.winner for conflict in history.state.conflicts] == [15]


def test_an_increment_of_what_became_no_number_is_a_conflict_that_it_loses(history: History) -> None:
    history.put("a", "text")
    history.increment("b", 5)
    assert history.value == "text"
    assert len(history.state.conflicts) == 1


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_takes_the_first_value_as_it_is(history: History, rule: Rule) -> None:
    value = {"merge": {"a": 1}, "union": [2, 1]}.get(rule, 5)
    history.put("a", value, rule)
    assert history.value == value


def test_bodies_that_only_the_standard_library_can_read_count_alike(history: History) -> None:
    history.put("a", {"\ud800": 1}, "merge")
    history.put("b", {"x": float("inf")}, "merge")
    assert history.value == {"\ud800": 1, "x": float("inf")}
    history.increment("c", float("inf"), base=2)
    assert history.value == {"\ud800": 1, "x": float("inf")}


def test_merge_a_field_that_its_writer_had_seen_follows_it_whatever_else_changed(history: History) -> None:
    history.put("a", {"x": "a"}, "merge", ms=9000)
    history.put("b", {"y": "b"}, "merge", ms=9000)
    history.put("c", {"x": "c"}, "merge", ms=1000, base=1)  # Had seen x of a, not y of b.
    history.put("d", {"y": "d"}, "merge", ms=1000, base=1)  # Had not seen y of b, which is later.
    assert history.value == {"x": "c", "y": "b"}


@pytest.mark.parametrize("after", [None, b"0"])
def test_what_was_replaced_on_one_side_does_not_come_back_when_two_states_meet(after: bytes | None) -> None:
    added = Register(b"1", Stamp(pack(1), "a", 1), INCREMENT, {}, {"a": 1}, after)
    replaced = Register(after, Stamp(pack(2), "b", 2), DELETE, {})
    for one, other in ((added, replaced), (replaced, added)):
        assert merge_registers(one, other, lambda _: 1, lambda _: 1) == replaced


# Corners, as docs/metadata.md tells them.


def test_union_goes_by_whole_elements_whatever_the_order_of_their_keys(history: History) -> None:
    history.put("a", [{"name": "x", "at": [1, {"y": 1, "z": 2}]}], "union")
    history.put("b", [{"at": [1, {"z": 2, "y": 1}], "name": "x"}, {"name": "x"}, [1], [1.0]], "union")
    assert history.value == [{"name": "x", "at": [1, {"y": 1, "z": 2}]}, {"name": "x"}, [1], [1.0]]


def test_union_with_what_is_no_list_takes_it_as_an_element(history: History) -> None:
    history.put("a", "x")
    history.put("b", ["y"], "union")
    assert history.value == ["x", "y"]


def test_union_takes_nothing_away_also_where_the_list_was_seen(history: History) -> None:
    history.put("a", ["x", "y"], "union")
    history.put("a", ["y"], "union", base=1)
    assert history.value == ["x", "y"]
    history.put("a", ["y"], base=2)
    assert history.value == ["y"]


def test_merge_takes_a_nested_dict_as_one_field(history: History) -> None:
    history.put("a", {"colours": {"text": 1, "ground": 1}, "size": 1}, "merge", ms=1000)
    history.put("a", {"colours": {"text": 2, "ground": 1}}, "merge", base=1, ms=2000)
    history.put("b", {"colours": {"text": 1, "ground": 2}}, "merge", base=1, ms=3000)
    assert history.value == {"colours": {"text": 1, "ground": 2}, "size": 1}


def test_merge_into_what_is_no_dict_replaces_it(history: History) -> None:
    history.put("a", "text", ms=9000)
    history.put("b", {"x": 1}, "merge", ms=1000)
    assert history.value == {"x": 1}


def test_merge_after_an_unseen_deletion_sets_what_its_author_changed(history: History) -> None:
    history.put("a", {"x": 1, "y": 1}, "merge", ms=1000)
    history.delete("a", base=1, ms=9000)
    history.put("b", {"x": 2}, "merge", base=1, ms=2000)
    assert history.value == {"x": 2}


def test_a_merge_that_won_no_field_leaves_the_key_to_whoever_wrote_it(history: History) -> None:
    history.put("a", {"x": "a"}, "merge", ms=5000)
    history.put("b", {"x": "b"}, "merge", ms=4000)
    history.put("c", {"x": "c"}, base=1, ms=1)  # Had seen the value, and not the merge that changed nothing.
    assert history.value == {"x": "c"}
    assert [conflict.seq for conflict in history.state.conflicts] == [2]


@pytest.mark.parametrize("rule", ["first", "max", "min", "union", "merge"])
def test_after_a_deletion_all_rules_but_last_set_anew(history: History, rule: Rule) -> None:
    values: dict[str, Any] = {"union": ([1], [2]), "merge": ({"x": 1}, {"y": 2})}
    before, after = values.get(rule, (5, 3))
    history.put("a", before, rule)
    history.delete("a", base=1, ms=9000)
    history.put("b", after, rule, base=1, ms=3000)
    assert history.value == after


def test_a_deletion_and_a_write_by_last_go_by_time(history: History) -> None:
    history.put("a", 1)
    history.delete("a", base=1, ms=9000)
    history.put("b", 2, base=1, ms=3000)
    assert history.value is None


def test_a_number_that_is_set_takes_the_increments_that_come_after_it(history: History) -> None:
    history.increment("a", 1)
    history.put("b", 10, ms=9000)  # Later, so it stands; what it did not know of is gone.
    history.increment("a", 1, base=1)
    assert history.value == 11
    history.put("b", 0, ms=1)  # Earlier than the last: it is not set.
    assert history.value == 11


def test_an_increment_of_nothing_and_of_null_begins_at_0(history: History) -> None:
    history.put("a", None)
    history.increment("a", 2, base=1)
    assert history.value == 2
    history.delete("a", base=2)
    history.increment("a", 3, base=3)
    assert history.value == 3


def test_increments_that_a_reset_did_not_know_of_are_a_conflict(history: History) -> None:
    """The value is the author's own and another's: to replace it is a conflict with the other."""
    history.increment("b", 5)
    history.increment("a", 1)
    assert not history.state.conflicts
    history.put("a", 0, ms=9000)
    assert history.value == 0
    (conflict,) = history.state.conflicts
    assert conflict == Conflict("k", "last", 6, 0, 0, ("b", "a"), 3)


@pytest.mark.parametrize("rule", ["union", "merge"])
def test_what_is_replaced_without_all_of_it_being_known_is_a_conflict(history: History, rule: Rule) -> None:
    one, other = (["x"], ["y"]) if rule == "union" else ({"x": 1}, {"y": 1})
    history.put("b", one, rule)
    history.put("a", other, rule)
    history.delete("a", ms=9000)
    assert history.value is None
    assert [(each.rule, each.origins, each.seq) for each in history.state.conflicts] == [
        (rule, ("b", "a"), 2),
        ("last", ("b", "a"), 3),
    ]


def test_what_was_replaced_with_all_of_it_known_is_none(history: History) -> None:
    history.increment("b", 5)
    history.increment("a", 1)
    history.increment("a", 1, base=1)  # By now it knows of all.
    history.put("a", 0, base=1)
    assert not history.state.conflicts


@pytest.mark.parametrize("rule", ["max", "min"])
def test_a_lesser_value_is_no_write_that_others_could_have_missed(history: History, rule: Rule) -> None:
    history.put("a", 5, rule)
    history.put("b", 3 if rule == "max" else 7, rule)
    history.put("c", 9, base=1)
    assert history.value == 9
    assert [conflict.seq for conflict in history.state.conflicts] == [2]
