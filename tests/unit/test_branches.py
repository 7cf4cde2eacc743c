"""Branches in the fold: what a fork takes over, in logs as they are and in logs that were rebuilt after a loss."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.branches import MAX_NAME, Branches, decode_fork, encode_drop, encode_fork
from localfirst.change import APPEND, CLEAR, DROP, FORK, MAIN_BRANCH, PUT, REMOVE, Admitted, Change, branch_id
from localfirst.checkpoint import State, decode_state, encode_state
from localfirst.errors import MalformedChange
from localfirst.fold import Fold, check, fold
from localfirst.history import ItemId, decode_removal, encode_clear
from localfirst.metadata import encode_put
from tests.unit.universe import BRANCHING, Universe, lines, rebuilt, universes


def change(origin: str, counter: int, kind: str, body: bytes, branch: str = MAIN_BRANCH) -> Change:
    return Change(origin, counter, counter << 16, 0, branch, kind, body)


def append(origin: str, counter: int, *items: Any, branch: str = MAIN_BRANCH) -> Change:
    return change(origin, counter, APPEND, jsonvalue.join([jsonvalue.encode(item) for item in items]), branch)


def remove(origin: str, counter: int, target: str, number: int, branch: str = MAIN_BRANCH) -> Change:
    body = b'{"origin":"%b","counter":%d,"index":0}' % (target.encode(), number)
    return change(origin, counter, REMOVE, body, branch)


def fork(origin: str, counter: int, name: str, branch: str = MAIN_BRANCH, upto: Any = None, **seen: int) -> Change:
    return change(origin, counter, FORK, encode_fork(name, seen, upto or {}), branch)


def drop(origin: str, counter: int, branch: str) -> Change:
    return change(origin, counter, DROP, encode_drop(branch))


def log(*changes: Change) -> list[Admitted]:
    return [Admitted(seq, 10**6, each) for seq, each in enumerate(changes, start=1)]


def texts(state: Fold, branch: str = MAIN_BRANCH) -> list[Any]:
    return jsonvalue.decode_each([item.data for item in state.on(branch)])


def names(state: Fold) -> dict[str, str]:
    return {line.id: line.name for line in state.branches.shown()}


# What a fork takes over.


def test_a_fork_has_what_its_author_saw_and_goes_on_by_itself() -> None:
    state = fold(
        log(
            append("a", 1, "one", "two"),
            append("b", 1, "not seen"),
            fork("a", 2, "draft"),
            append("a", 3, "here", branch="a:2"),
            append("b", 2, "there"),
            remove("a", 4, "a", 1),
            change("b", 3, CLEAR, encode_clear({"a": 2}), "a:2"),
            append("b", 4, "after", branch="a:2"),
        )
    )
    assert texts(state) == ["two", "not seen", "there"]
    assert texts(state, "a:2") == ["here", "after"]  # The author of the clear had not seen it.


def test_a_fork_shares_its_items_with_its_parent() -> None:
    state = fold(log(append("a", 1, *range(100)), fork("a", 2, "draft")))
    for here, there in zip(state.items, state.on("a:2"), strict=True):
        assert here is there


def test_a_fork_ends_where_it_says() -> None:
    upto = {"a": (2, 1), "b": (2, 0)}
    changes = [append("a", 1, "a1"), append("b", 1, "b1"), append("a", 2, "a2", "a2 again"), append("b", 2, "b2")]
    state = fold(log(*changes, fork("a", 3, "draft", b=2, upto=upto)))
    assert texts(state, "a:3") == ["a1", "b1", "a2"]


def test_a_fork_ends_where_it_says_although_the_item_there_is_gone() -> None:
    """Somebody else popped it, and was faster."""
    fork_ = fork("a", 4, "draft", upto={"a": (2, 0)})
    state = fold(log(append("a", 1, "1"), append("a", 2, "2"), append("a", 3, "3"), remove("b", 1, "a", 2), fork_))
    assert texts(state, "a:4") == ["1"]


def test_a_fork_of_a_fork() -> None:
    state = fold(
        log(
            append("a", 1, "one"),
            fork("a", 2, "draft"),
            append("a", 3, "two", branch="a:2"),
            fork("b", 1, "other", "a:2", a=3),
            append("a", 4, "three", branch="a:2"),
            append("b", 2, "four", branch="b:1"),
        )
    )
    assert [texts(state, branch) for branch in (MAIN_BRANCH, "a:2", "b:1")] == [
        ["one"],
        ["one", "two", "three"],
        ["one", "two", "four"],
    ]


def test_metadata_is_of_the_whole_session() -> None:
    put = change("a", 2, PUT, encode_put("key", "last", b"1"), "never:1")
    assert fold(log(fork("a", 1, "draft"), put)).metadata["key"].value == b"1"


# Names.


def test_the_first_of_two_with_a_name_keeps_it() -> None:
    state = fold(log(fork("replica-b", 1, "draft")), [fork("replica-a", 1, "draft")])
    assert names(state) == {"main": "main", "replica-b:1": "draft", "replica-a:1": "draft@replic"}


def test_a_pending_one_yields() -> None:
    state = fold([], [fork("aaaaaaaa", 1, "draft")])
    assert names(state)["aaaaaaaa:1"] == "draft"
    state.admit(log(fork("b", 1, "draft")))
    assert names(state) == {"main": "main", "b:1": "draft", "aaaaaaaa:1": "draft@aaaaaa"}


def test_no_name_is_shown_twice_whatever_they_are() -> None:
    taken = [fork("b", 1, "x"), fork("c", 1, "x@aaaaaa"), fork("c", 2, "x@aaaaaa1:1"), fork("c", 3, "x@aaaaaa1:1+")]
    state = fold(log(*taken, fork("aaaaaa1", 1, "x"), fork("aaaaaa1", 2, "main")))
    assert len(set(names(state).values())) == len(names(state)) == 7
    assert names(state)["aaaaaa1:2"] == "main@aaaaaa"


def test_the_name_of_a_deleted_branch_is_free() -> None:
    state = fold(log(fork("a", 1, "draft"), drop("a", 2, "a:1"), fork("b", 1, "draft"), fork("c", 1, "draft")))
    assert names(state) == {"main": "main", "b:1": "draft", "c:1": "draft@c"}


def test_a_name_stays_when_the_other_is_deleted() -> None:
    state = fold(log(fork("a", 1, "draft"), fork("b", 1, "draft"), drop("a", 2, "a:1")))
    assert names(state) == {"main": "main", "b:1": "draft@b"}


def test_main_comes_first_then_the_oldest() -> None:
    state = fold(log(fork("b", 9, "late"), fork("a", 3, "early")))
    assert [line.name for line in state.branches.shown()] == ["main", "early", "late"]


def test_a_branch_is_found_when_its_fork_got_another_name() -> None:
    """Directories that turn out to have a twin give their pending changes other names, and the same times."""
    branches = fold(log(fork("a", 3, "draft"), fork("b", 7, "other"))).branches
    for branch in ("a:3", "renamed:1"):
        found = branches.find(branch, 3 << 16)
        assert found is not None
        assert found.name == "draft"
    assert branches.find("a:3", 5 << 16) is None
    assert branches.find("gone:1", 5 << 16) is None
    assert branches.find(MAIN_BRANCH, 5 << 16) is branches.main


# Deleted branches.


def test_a_deleted_branch_shows_nothing_and_takes_nothing() -> None:
    start = log(append("a", 1, "one"), fork("a", 2, "draft"), drop("b", 1, "a:2"))
    state = fold(start)
    more = [append("a", 3, "x", branch="a:2"), remove("a", 4, "a", 1, "a:2"), drop("c", 1, "a:2")]
    effects = state.admit([Admitted(4 + place, 1, each) for place, each in enumerate(more)])
    assert names(state) == {"main": "main"}
    assert texts(state) == ["one"]
    assert not any(effect.added or effect.removed or effect.cleared for effect in effects)


def test_the_forks_of_a_deleted_branch_live_on() -> None:
    state = fold(
        log(
            append("a", 1, "one"),
            fork("a", 2, "draft"),
            append("a", 3, "two", branch="a:2"),
            fork("a", 4, "child", "a:2"),
            drop("a", 5, "a:2"),
            append("a", 6, "three", branch="a:4"),
        )
    )
    assert texts(state, "a:4") == ["one", "two", "three"]


def test_a_fork_of_a_branch_that_was_deleted_meanwhile_has_what_is_still_there() -> None:
    state = fold(
        log(
            append("a", 1, "one"),
            append("a", 2, "left out"),
            fork("a", 3, "draft", upto={"a": (2, 0)}),
            append("a", 4, "two", branch="a:3"),
            drop("b", 1, "a:3"),
            fork("a", 5, "child", "a:3"),
            append("a", 6, "three", branch="a:5"),
        )
    )
    assert texts(state, "a:5") == ["one", "three"]


def test_what_never_was_takes_nothing() -> None:
    """Nobody has the fork any more: what is written on its branch is nowhere, and stops nothing."""
    state = fold(log(append("a", 1, "one"), append("b", 1, "x", branch="a:1"), remove("b", 2, "a", 1, "a:1")))
    state.admit([Admitted(4, 1, change("b", 3, CLEAR, encode_clear({"a": 1}), "a:1"))])
    state.admit([Admitted(5, 1, drop("b", 4, "a:1")), Admitted(6, 1, fork("b", 5, "child", "a:1", a=1))])
    assert texts(state) == ["one"]
    assert texts(state, "b:5") == []
    assert list(state.branches.others(state.counters)) == ["b:5"]


def test_what_waits_for_a_fork_that_can_not_come_any_more_is_given_up() -> None:
    state = fold(log(append("b", 1, "x", branch="a:1")))
    assert list(state.branches.others(state.counters)) == ["a:1"]
    state.admit([Admitted(2, 1, append("a", 1, "no fork")), Admitted(3, 1, fork("b", 2, "child", "a:1", b=1))])
    assert texts(state, "b:2") == []
    assert list(state.branches.others(state.counters)) == ["b:2"]


# Logs that were rebuilt after a loss.


def in_any_order(*runs: Iterable[Change]) -> list[list[Admitted]]:
    """All logs with these runs, each in its order."""
    changes = [each for run in runs for each in run]
    orders = permutations([place for place, run in enumerate(runs) for _ in run])
    found = []
    for order in set(orders):
        left = {place: [each for each in changes if each in run] for place, run in enumerate(map(list, runs))}
        found.append(log(*(left[place].pop(0) for place in order)))
    return found


def test_an_append_that_comes_after_a_fork_that_had_seen_it() -> None:
    mine = [fork("b", 1, "draft", a=2), append("b", 2, "after", branch="b:1")]
    for entries in in_any_order([append("a", 1, "one"), append("a", 2, "two"), append("a", 3, "unseen")], mine):
        state = fold(entries)
        assert texts(state, "b:1") == ["one", "two", "after"]
        assert texts(state) == ["one", "two", "unseen"]


def test_what_was_popped_before_the_fork_stays_gone() -> None:
    theirs = [append("a", 1, "one"), append("a", 2, "popped"), remove("a", 3, "a", 2)]
    for entries in in_any_order(theirs, [fork("b", 1, "draft", a=3)]):
        assert texts(fold(entries), "b:1") == ["one"]


def test_what_was_cleared_before_the_fork_stays_gone() -> None:
    theirs = [append("a", 1, "cleared"), append("a", 2, "not seen by who cleared")]
    clears = [change("c", 1, CLEAR, encode_clear({"a": 1}))]
    mine = [fork("b", 1, "draft", a=2, c=1), append("b", 2, "own", branch="b:1")]
    for entries in in_any_order(theirs, clears, mine):
        state = fold(entries)
        assert sorted(texts(state, "b:1")) == ["not seen by who cleared", "own"]
        assert texts(state) == ["not seen by who cleared"]


def test_a_clear_of_the_parent_spares_what_is_written_on_a_fork() -> None:
    """Its author had seen more than the parent; only of the parent it says something."""
    clear = change("c", 1, CLEAR, encode_clear({"a": 1, "b": 2}))
    mine = [fork("b", 1, "draft"), append("b", 2, "own", branch="b:1")]
    for entries in in_any_order([append("a", 1, "one")], mine, [clear]):
        state = fold(entries)
        assert texts(state) == []
        assert texts(state, "b:1") == ["own"]


def test_a_change_that_comes_before_its_fork_waits_for_it() -> None:
    theirs = [
        append("c", 1, "early", branch="b:2"),
        remove("c", 2, "b", 1, "b:2"),
        fork("c", 3, "child", "b:2", b=2),
        append("c", 4, "of the child", branch="c:3"),
    ]
    mine = [append("b", 1, "popped on the fork"), fork("b", 2, "draft")]
    for entries in in_any_order(theirs, mine):
        state = fold(entries)
        assert texts(state) == ["popped on the fork"]
        assert texts(state, "b:2") == ["early"]
        assert texts(state, "c:3") == ["early", "of the child"]


def test_a_branch_that_is_deleted_before_its_fork_comes_is_deleted() -> None:
    theirs = [append("c", 1, "x", branch="b:2"), fork("c", 2, "child", "b:2", b=2), drop("c", 3, "b:2")]
    for entries in in_any_order(theirs, [append("b", 1, "one"), fork("b", 2, "draft")]):
        state = fold(entries)
        assert names(state) == {"main": "main", "c:2": "child"}
        assert "one" in texts(state, "c:2")


def test_a_deleted_branch_hands_down_what_comes_late_and_keeps_nothing() -> None:
    forks = [fork("b", 1, "draft", a=1), fork("b", 2, "child", "b:1", a=1), drop("b", 3, "b:1")]
    for entries in in_any_order([append("a", 1, "late")], forks):
        state = State()
        state.admit(entries)
        restored = decode_state(encode_state(state)).fold
        for each in (state.fold, restored):
            assert texts(each, "b:2") == ["late"]
            assert not each.branches.others(each.counters)["b:1"].history.items


def test_an_acknowledged_append_is_admitted_on_every_branch_that_has_it() -> None:
    """It was admitted, lost, and comes again, while somebody who had seen it sent a fork."""
    state = fold(log(fork("b", 1, "draft", a=1)), [append("a", 1, "one")])
    state.admit([Admitted(2, 1, append("a", 1, "one"))])
    assert [item.seq for item in (*state.items, *state.on("b:1"))] == [2, 2]


def test_branches_that_say_they_were_forked_from_each_other() -> None:
    """Nobody makes such, but somebody may send them."""
    round_trip = [fork("a", 1, "x", "b:1", b=9), fork("b", 1, "y", "a:1", a=9)]
    itself = fork("c", 1, "z", "c:1", c=9)
    later = [append(origin, 2, origin, branch=branch) for origin, branch in (("a", "b:1"), ("b", "a:1"), ("c", "c:1"))]
    state = fold(log(*round_trip, itself, *later))
    assert {line.id: texts(state, line.id) for line in state.branches.shown()} == {
        "main": [],
        "a:1": ["b"],
        "b:1": ["a"],
        "c:1": ["c"],
    }
    state.branches.from_main_on()


ONLY_GROWING = ["append"] * 3 + ["fork", "sync", "sync"]
NOT_CLEARED = [kind for kind in BRANCHING if kind not in ("clear", "drop")]


@settings(max_examples=300, deadline=None)
@given(universes(kinds=ONLY_GROWING), st.data())
def test_whatever_order_a_rebuilt_log_has_branches_hold_the_same_items(universe: Universe, data: st.DataObject) -> None:
    state, again = fold(universe.log), fold(data.draw(rebuilt(universe.log)))
    assert state.branches.shown() or not universe.log
    for line in state.branches.shown():
        assert {item.id for item in line.history.items} == {item.id for item in again.on(line.id)}
        assert len(line.history.items) == len(again.on(line.id))


@settings(max_examples=300, deadline=None)
@given(universes(kinds=NOT_CLEARED), st.data())
def test_in_a_rebuilt_log_nothing_is_missing_and_nothing_comes_back(universe: Universe, data: st.DataObject) -> None:
    """Invariant 6, and what a branch took over: only what somebody removed may be missing."""
    changes = [entry.change for entry in universe.log]
    state = fold(data.draw(rebuilt(universe.log)))
    for line in state.branches.shown():
        shown = {item.id for item in line.history.items}
        assert ever_on(changes, line.id, still=True) <= shown
        assert shown <= ever_on(changes, line.id, still=False) - removed_on(changes, line.id)


def ever_on(changes: list[Change], branch: str, *, still: bool) -> set[ItemId]:
    """What was ever on a branch; `still`: but for what was removed, there or on those above it."""
    found = {
        ItemId(each.origin, each.counter, place)
        for each in changes
        if each.kind == APPEND and each.branch == branch
        for place in range(len(jsonvalue.split(each.body)))
    }
    for each in changes:
        if each.kind == FORK and branch_id(each.origin, each.counter) == branch:
            body = decode_fork(each.body)
            seen = {**body.seen, each.origin: each.counter - 1}
            found |= {
                item
                for item in ever_on(changes, each.branch, still=still)
                if item.counter <= seen.get(item.origin, 0)
                and (item.origin not in body.upto or (item.counter, item.place) < body.upto[item.origin])
            }
    return found - removed_on(changes, branch) if still else found


def removed_on(changes: list[Change], branch: str) -> set[ItemId]:
    return {decode_removal(each.body) for each in changes if each.kind == REMOVE and each.branch == branch}


@settings(max_examples=300, deadline=None)
@given(universes(kinds=BRANCHING, max_steps=40), st.lists(st.integers(0, 60), max_size=4), st.data())
def test_a_rebuilt_log_can_be_folded_in_parts_and_undone(
    universe: Universe, places: list[int], data: st.DataObject
) -> None:
    """fold(a + b) == fold(b, start=fold(a)), and what was pending leaves no trace, also if it waits for a fork."""
    entries = data.draw(rebuilt(universe.log))
    state = Fold()
    for start, end in zip([0, *sorted(places)], [*sorted(places), len(entries)], strict=True):
        state = fold(entries[start:end], start=state)
        before = lines(state)
        waiting = [entry.change for entry in entries[end : end + 6]]
        for each in waiting:
            state.pend(each)
        state.retract(len(waiting))
        assert lines(state) == before
    assert lines(state) == lines(fold(entries))


@settings(max_examples=200, deadline=None)
@given(universes(kinds=BRANCHING, max_steps=40), st.data())
def test_news_go_below_what_is_pending_in_a_rebuilt_log_too(universe: Universe, data: st.DataObject) -> None:
    entries = data.draw(rebuilt(universe.log))
    for replica in universe.replicas:
        own = [entry.change for entry in entries if entry.change.origin == replica.origin]
        others = log(*(entry.change for entry in entries if entry.change.origin != replica.origin))
        cut = data.draw(st.integers(0, len(others)))
        state = fold(others[:cut], own)
        state.admit(others[cut:])
        assert lines(state) == lines(fold(others, own))
        assert state.items == fold(others, own).items
        admitted = [Admitted(len(others) + place, 10**6, each) for place, each in enumerate(own, start=1)]
        state.admit(admitted)
        assert lines(state) == lines(fold(others + admitted))
        assert state.items == fold(others + admitted).items


# What is refused.


@pytest.mark.parametrize(
    "malformed",
    [
        *(append("a", 1, "x", branch=branch) for branch in ("", "Main", "a", ":1", "a:", "a:0", "a:01", "a:-1", "a:²")),
        append("a", 1, "x", branch="a:" + "9" * 40),
        *(change("a", 1, FORK, body) for body in (b"", b"{}", b'{"name":"x"}', b'{"name":1,"seen":{}}')),
        *(change("a", 1, FORK, b'{"name":"x","seen":%b}' % seen) for seen in (b"[]", b'{"b":-1}', b'{"b":1e30}')),
        change("a", 1, FORK, b'{"name":"x","seen":{"b":%d}}' % (1 << 63)),
        change("a", 1, FORK, b'{"name":"x","seen":{},"upto":{"b":1}}'),
        change("a", 1, FORK, b'{"name":"x","seen":{},"upto":{"b":[1,-1]}}'),
        fork("a", 1, ""),
        fork("a", 1, "x" * (MAX_NAME + 1)),
        fork("a", 1, "x", "nowhere"),
        *(change("a", 1, DROP, body) for body in (b"", b"{}", b'{"branch":1}', b'{"branch":"main"}')),
        remove("a", 1, "a", 1, branch="nowhere"),
        change("a", 1, CLEAR, encode_clear({}), "nowhere"),
    ],
)
def test_what_cannot_be_folded_is_refused_beforehand(malformed: Change) -> None:
    """Invariant 10."""
    with pytest.raises(MalformedChange):
        check(malformed)


def test_what_is_too_deep_is_refused_on_branches_too() -> None:
    with pytest.raises(MalformedChange, match="deep"):
        check(change("a", 2, APPEND, b"[" * 600 + b"]" * 600, "a:1"))


def test_a_chain_of_forks_may_be_long() -> None:
    count = 3000
    forks = [fork("b", 1, "0", a=1)]
    forks += [fork("b", number, str(number), f"b:{number - 1}", a=1) for number in range(2, count)]
    state = fold(log(*forks, append("a", 1, "late")))
    assert texts(state, f"b:{count - 1}") == ["late"]
    assert isinstance(state.branches, Branches)
