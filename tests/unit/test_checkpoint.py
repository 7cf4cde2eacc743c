"""Folded logs as bytes, by properties: nothing is lost by folding, and hostile bytes do no harm."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.branches import encode_fork
from localfirst.change import (
    APPEND,
    CLEAR,
    FORK,
    INCREMENT,
    MAIN_BRANCH,
    PUT,
    REMOVE,
    Admitted,
    Change,
    encode_change,
)
from localfirst.checkpoint import MARKED, Mark, State, decode_state, encode_state, hash_of, merge_states
from localfirst.errors import MalformedChange
from localfirst.fold import VOID, Fold
from localfirst.history import Item, ItemId, encode_clear, encode_removal
from localfirst.metadata import encode_increment, encode_put
from tests.unit.universe import BRANCHING, Universe, lines, rebuilt, universes


def folded(log: list[Admitted]) -> State:
    state = State()
    state.admit(log)
    return state


def seen(fold: Fold) -> tuple[Any, ...]:
    """Everything that could be told apart, now or later."""
    return (
        fold.seq,
        fold.time,
        list(fold.items),
        dict(fold.metadata),
        list(fold.conflicts),
        fold.counters,
        fold.history.removed_early,
        dict(fold.history.cleared),
        lines(fold),
    )


def numbered(log: list[Admitted]) -> list[Admitted]:
    """The entries as a log of their own."""
    return [entry._replace(seq=seq) for seq, entry in enumerate(log, start=1)]


# There and back.


@settings(max_examples=200, deadline=None)
@given(universes(), st.integers(0, 60))
def test_folding_on_from_a_checkpoint_is_folding_everything(universe: Universe, place: int) -> None:
    before, after = universe.log[:place], universe.log[place:]
    state = decode_state(encode_state(folded(before)))
    assert seen(state.fold) == seen(folded(before).fold)
    state.admit(after)
    whole = folded(universe.log)
    assert seen(state.fold) == seen(whole.fold)
    assert state.marks == whole.marks
    assert encode_state(state) == encode_state(whole)  # All replicas make the same one of the same log.


@st.composite
def filled_again(draw: st.DrawFn) -> list[Admitted]:
    """A log that was lost and sent again by each replica in turn: what was taken away may come after what took it."""
    runs: dict[str, list[Change]] = {"a": [], "b": []}
    for origin, other in (("a", "b"), ("b", "a")):
        for counter in range(1, draw(st.integers(1, 6)) + 1):
            kind, target = draw(st.sampled_from([APPEND, APPEND, REMOVE, CLEAR])), draw(st.integers(1, 4))
            named = Item(other, target, draw(st.integers(0, 1)), 0, 0, b"")
            bodies = {
                APPEND: jsonvalue.join([jsonvalue.encode(f"{origin}{counter}.{place}") for place in range(2)]),
                REMOVE: encode_removal(named),
                CLEAR: encode_clear({other: target}),
            }
            runs[origin].append(Change(origin, counter, counter, 0, MAIN_BRANCH, kind, bodies[kind]))
    log: list[Admitted] = []
    while runs["a"] or runs["b"]:
        run = runs[draw(st.sampled_from([origin for origin, run in runs.items() if run]))]
        log.append(Admitted(len(log) + 1, 10**6, run.pop(0)))
    return log


@settings(max_examples=150, deadline=None)
@given(filled_again(), st.integers(0, 12))
def test_of_a_log_that_was_filled_again_too(log: list[Admitted], place: int) -> None:
    state = decode_state(encode_state(folded(log[:place])))
    assert seen(state.fold) == seen(folded(log[:place]).fold)
    state.admit(log[place:])
    assert seen(state.fold) == seen(folded(log).fold)


@settings(max_examples=200, deadline=None)
@given(universes(kinds=BRANCHING, max_steps=40), st.integers(0, 60), st.data())
def test_of_a_log_with_branches_that_was_filled_again_too(universe: Universe, place: int, data: st.DataObject) -> None:
    """There, what is on a branch may wait for its fork."""
    log = data.draw(rebuilt(universe.log))
    state = decode_state(encode_state(folded(log[:place])))
    assert seen(state.fold) == seen(folded(log[:place]).fold)
    state.admit(log[place:])
    assert seen(state.fold) == seen(folded(log).fold)
    assert encode_state(state) == encode_state(folded(log))


@settings(max_examples=100, deadline=None)
@given(universes(), st.integers(0, 60))
def test_what_is_pending_stands_on_a_checkpoint_as_on_the_log(universe: Universe, place: int) -> None:
    for replica in universe.replicas:
        state = decode_state(encode_state(folded(replica.known))).fold
        plain = folded(replica.known).fold
        for each in (state, plain):
            for change in replica.pending:
                each.pend(change)
            each.admit(universe.log[len(replica.known) :][:place])
        assert seen(state) == seen(plain)
        assert state.pending == plain.pending


@settings(max_examples=200, deadline=None)
@given(universes())
def test_writing_what_was_read_gives_the_same_bytes(universe: Universe) -> None:
    data = encode_state(folded(universe.log))
    assert encode_state(decode_state(data)) == data


def test_values_that_are_no_pure_json_come_through() -> None:
    odd = [float("nan"), float("inf"), -0.0, "\ud800", 1 << 80, {"\udfff": None}]
    body = jsonvalue.join([jsonvalue.encode(value) for value in odd])
    put = encode_put("\ud800 key", "last", jsonvalue.encode(odd))
    changes = [
        Change("r1", 1, 1, 0, MAIN_BRANCH, APPEND, body),
        Change("r1", 2, 2, 0, MAIN_BRANCH, PUT, put),
        Change("r2", 1, 3, 0, MAIN_BRANCH, PUT, encode_put("\ud800 key", "last", b"NaN")),
    ]
    state = folded([Admitted(seq, 10, change) for seq, change in enumerate(changes, start=1)])
    assert len(state.fold.conflicts) == 1
    restored = decode_state(encode_state(state))
    assert repr(seen(restored.fold)) == repr(seen(state.fold))  # NaN is not equal to itself.
    json.loads(encode_state(state))  # The central store's own tools can read it.


def test_an_item_of_many_branches_is_there_once() -> None:
    body = jsonvalue.join([jsonvalue.encode("x" * 1000)] * 100)
    changes = [Change("r1", 1, 1, 0, MAIN_BRANCH, APPEND, body)]
    changes += [Change("r1", 2 + n, 1, 0, MAIN_BRANCH, FORK, encode_fork(f"b{n}", {}, {})) for n in range(20)]
    plain, branching = (
        folded([Admitted(seq, 10, each) for seq, each in enumerate(changes[:count], start=1)]) for count in (1, 21)
    )
    assert len(encode_state(branching)) < len(encode_state(plain)) + 20 * 300
    fold = decode_state(encode_state(branching)).fold
    for line in fold.branches.shown():
        assert all(one is other for one, other in zip(fold.items, line.history.items, strict=True))


def test_a_change_that_was_given_up_leaves_no_mark() -> None:
    state = folded([Admitted(1, 10, VOID), Admitted(2, 10, Change("r1", 1, 1, 0, MAIN_BRANCH, APPEND, b'["a"]'))])
    assert set(state.marks) == {"r1"}
    assert decode_state(encode_state(state)).fold.seq == 2


def test_whose_part_of_a_value_was_not_seen_is_not_forgotten() -> None:
    """Else a conflict would be noted by those who have the log, and not by those who have the checkpoint."""
    log = [
        Admitted(seq, 10**9, Change(origin, counter, seq << 16, 0, MAIN_BRANCH, kind, body))
        for seq, (origin, counter, kind, body) in enumerate(
            [
                ("b", 1, INCREMENT, encode_increment("k", 5)),
                ("a", 1, INCREMENT, encode_increment("k", 1)),
                ("a", 2, PUT, encode_put("k", "last", b"0")),
            ],
            start=1,
        )
    ]
    state = decode_state(encode_state(folded(log[:2])))
    state.admit(log[2:])
    assert seen(state.fold) == seen(folded(log).fold)
    assert len(state.fold.conflicts) == 1


# Marks.


@settings(max_examples=100, deadline=None)
@given(universes(max_steps=40), st.integers(0, 60))
def test_marks_tell_the_last_changes_of_each_origin(universe: Universe, place: int) -> None:
    state = decode_state(encode_state(folded(universe.log[:place])))
    state.admit(universe.log[place:])
    last = {entry.change.origin: entry.change for entry in universe.log}
    assert {origin: mark.counter for origin, mark in state.marks.items()} == {
        origin: change.counter for origin, change in last.items()
    }
    for entry in universe.log:
        change = entry.change
        assert state.marks[change.origin].hash_at(change.counter) in (None, hash_of(encode_change(change)))
        if change.counter > last[change.origin].counter - MARKED:
            assert state.marks[change.origin].hash_at(change.counter) is not None


def test_a_mark_knows_so_many_changes_and_no_others() -> None:
    mark: Mark | None = None
    changes = [Change("r1", counter, counter, 0, MAIN_BRANCH, APPEND, b"[]") for counter in range(1, MARKED + 10)]
    for change in changes:
        mark = Mark.after(mark, change)
    assert mark is not None
    known = [change.counter for change in changes if mark.hash_at(change.counter) is not None]
    assert known == list(range(10, MARKED + 10))
    assert all(mark.hash_at(counter) is None for counter in (-1, 0, 9, MARKED + 10, 10**9))
    assert mark.hash_at(MARKED + 9) == hash_of(encode_change(changes[-1]))


def test_after_a_gap_a_mark_begins_anew() -> None:
    first = Mark.after(None, Change("r1", 1, 1, 0, MAIN_BRANCH, APPEND, b"[]"))
    later = Mark.after(first, Change("r1", 5, 1, 0, MAIN_BRANCH, APPEND, b"[]"))
    assert (later.hash_at(1), later.hash_at(4)) == (None, None)
    assert later.hash_at(5) is not None


# Hostile bytes.

_ODD = st.sampled_from(
    [None, True, -1, 0, 1, 1 << 63, 1 << 70, -(1 << 70), 0.5, "", "r0", "\x00", "[", "NaN", "null", "last", "🎂"]
) | st.sampled_from([[], {}, [[]], {"": ""}, ["r0", 1, 0], [[["r0"]]], {"r0": [1, ""]}])


def places_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to everything in a JSON value."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(found for key, each in inside for found in places_in(each, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    value = copy.deepcopy(value)
    target = value
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = new
    return value


def use(data: bytes, then: list[Admitted]) -> None:
    """Take it as a replica does: it is refused, or can be folded on, looked at and written again."""
    try:
        state = decode_state(data)
        for item in state.fold.each_item().values():
            jsonvalue.decode(item.data)
        for register in state.fold.metadata.values():
            assert register.value is None or jsonvalue.decode(register.value) is not NotImplemented
        encode_state(state)
        state.admit(entry._replace(seq=state.fold.seq + 1) for entry in then)
        merge_states(state, folded(then))
    except MalformedChange:
        pass


@settings(max_examples=150, deadline=None)
@given(universes(), st.data())
def test_a_checkpoint_with_something_else_in_some_place(universe: Universe, data: st.DataObject) -> None:
    place = len(universe.log) // 2
    found = json.loads(encode_state(folded(universe.log[:place])))
    path = data.draw(st.sampled_from(places_in(found)))
    use(json.dumps(replaced(found, path, data.draw(_ODD))).encode(), universe.log[place:])


@settings(max_examples=150, deadline=None)
@given(universes(max_steps=10), st.integers(0, 1 << 30), st.integers(0, 255), st.booleans())
def test_a_checkpoint_with_bytes_that_are_wrong(universe: Universe, place: int, byte: int, cut: bool) -> None:
    data = bytearray(encode_state(folded(universe.log)))
    data[place % len(data)] = byte
    use(bytes(data[: place % len(data)] if cut else data), [])


@settings(deadline=None)
@given(st.binary(max_size=200))
@example(b"")
@example(b"null")
@example(b"{}")
@example(b"[" * 100_000)
@example(b'{"format":1}')
@example('{"format":1,"seq":0,"time":0,"seen":{"\ud800":1},"items":[],"metadata":[]}'.encode("utf-8", "surrogatepass"))
def test_anything(data: bytes) -> None:
    with pytest.raises(MalformedChange):
        decode_state(data)


def test_a_later_format_is_named() -> None:
    data = encode_state(State()).replace(b'"format":1', b'"format":2')
    with pytest.raises(MalformedChange, match="upgrade"):
        decode_state(data)


def test_values_that_are_too_deep() -> None:
    """Each alone is a text in a string, so the whole is flat; what is in it still has to be bounded."""
    deep = "[" * 5000 + "]" * 5000
    found = json.loads(encode_state(folded([Admitted(1, 10, Change("r1", 1, 1, 0, MAIN_BRANCH, APPEND, b'["a"]'))])))
    found["items"][0][-1] = deep
    with pytest.raises(MalformedChange):
        decode_state(json.dumps(found).encode())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "main"),
        ("id", "r1:03"),
        ("id", "r1:4"),
        ("name", "main"),
        ("name", "other"),
        ("name", ""),
        ("deleted", True),
        ("forked", False),
        ("parent", "r1:3"),
        ("parent", "r1:4"),
        ("items", [[0, 2]]),
        ("items", [[0, 0]]),
        ("items", [[1, 1]]),
        ("items", [[0, 1], [0, 1]]),
        ("items", [[0, 1 << 62]]),
        ("items", [[1 << 62, 1]]),
        ("seen", {"r1": -1}),
        ("upto", {"r1": [1]}),
        ("removed", [["r1", 1, -1]]),
    ],
)
def test_a_branch_that_can_not_have_been(field: str, value: Any) -> None:
    """`r1:4` was forked from `r1:3`, which is the one that is changed."""
    forks = [(MAIN_BRANCH, "draft"), ("r1:3", "other")]
    changes = [Change("r1", 2, 1, 0, MAIN_BRANCH, APPEND, b'["x"]')]
    changes += [Change("r1", 3 + n, 1, 0, on, FORK, encode_fork(name, {}, {})) for n, (on, name) in enumerate(forks)]
    data = encode_state(folded([Admitted(seq, 10, change) for seq, change in enumerate(changes, start=1)]))
    found = json.loads(data)
    decode_state(json.dumps(found).encode())  # As it is, it can be read.
    found["branches"][0][field] = value
    with pytest.raises(MalformedChange):
        decode_state(json.dumps(found).encode())


# Two sides.


@st.composite
def two_sides(draw: st.DrawFn) -> tuple[list[Admitted], list[Admitted], list[Admitted]]:
    """What two replicas have folded that had one log up to some place, and a log with all of it."""
    histories = universes() | universes(kinds=BRANCHING, max_steps=40)
    log = draw(histories.map(lambda universe: universe.log) | filled_again())
    place = draw(st.integers(0, len(log)))
    common, later = log[:place], log[place:]
    mine = draw(st.sets(st.sampled_from(["r0", "r1", "r2", "a", "b"])))
    ours = [entry for entry in later if entry.change.origin in mine]
    theirs = [entry for entry in later if entry.change.origin not in mine]
    return numbered(common + ours), numbered(common + theirs), numbered(common + ours + theirs)


@settings(max_examples=250, deadline=None)
@given(two_sides())
def test_the_items_of_two_sides_are_those_of_all_their_changes(
    sides: tuple[list[Admitted], list[Admitted], list[Admitted]],
) -> None:
    ours, theirs, union = sides
    merged = merge_states(folded(ours), folded(theirs)).fold
    whole = folded(union).fold
    assert {item.id: item.data for item in merged.items} == {item.id: item.data for item in whole.items}
    assert len(merged.items) == len(whole.items)
    assert merged.counters == whole.counters
    assert set(merged.metadata) == set(whole.metadata)


@settings(max_examples=250, deadline=None)
@given(two_sides())
def test_the_branches_of_two_sides_are_those_of_all_their_changes(
    sides: tuple[list[Admitted], list[Admitted], list[Admitted]],
) -> None:
    """Of what the sides removed from a branch and forked from it, a fork has at least what it has in any order."""
    ours, theirs, union = sides
    common = [one for one, other in zip(ours, theirs, strict=False) if one == other]
    orders = union, numbered(common + theirs[len(common) :] + ours[len(common) :])
    merged = merge_states(folded(ours), folded(theirs)).fold
    either, other = (folded(order).fold for order in orders)
    assert {line.id for line in merged.branches.shown()} == {line.id for line in either.branches.shown()}
    for line in merged.branches.shown():
        one, two = ({item.id for item in fold.on(line.id)} for fold in (either, other))
        assert one & two <= {item.id for item in line.history.items} <= one | two
        assert len(line.history.items) == len({item.id for item in line.history.items})


def test_a_fork_that_one_side_has_and_what_was_written_on_it_that_the_other_has() -> None:
    def change(origin: str, counter: int, kind: str, body: bytes, branch: str = MAIN_BRANCH) -> Change:
        return Change(origin, counter, counter, 0, branch, kind, body)

    common = [change("a", 1, APPEND, b'["one","two"]'), change("c", 1, APPEND, b'["late"]')]
    mine = [change("a", 2, FORK, encode_fork("draft", {"c": 1}, {})), change("a", 3, APPEND, b'["mine"]', "a:2")]
    removal = encode_removal(Item("a", 1, 0, 0, 0, b""))
    theirs = [change("b", 1, APPEND, b'["theirs"]', "a:2"), change("b", 2, REMOVE, removal, "a:2")]
    for known_here, known_there in ((common, common), (common[:1], common)):
        ours = folded([Admitted(seq, 10, each) for seq, each in enumerate(known_here + mine, start=1)])
        others = folded([Admitted(seq, 10, each) for seq, each in enumerate(known_there + theirs, start=1)])
        for merged in (merge_states(ours, others), merge_states(others, ours)):
            shown = [jsonvalue.decode(item.data) for item in merged.fold.on("a:2")]
            assert shown[:2] == ["two", "late"]
            assert set(shown[2:]) == {"mine", "theirs"}


def test_two_branches_of_one_name_that_meet() -> None:
    one, other = (Change(origin, 1, 1, 0, MAIN_BRANCH, FORK, encode_fork("draft", {}, {})) for origin in ("a", "b"))
    ours, theirs = folded([Admitted(1, 10, one)]), folded([Admitted(1, 10, other)])
    for merged in (merge_states(ours, theirs), merge_states(theirs, ours)):
        for again in (merged, merge_states(merged, theirs), merge_states(theirs, merged)):
            assert [line.name for line in again.fold.branches.shown()] == ["main", "draft", "draft@b"]


def test_what_one_side_removed_and_the_other_shows_is_gone() -> None:
    """One side had the removal before the item, and the other the item without the removal."""
    item = Change("a", 1, 1, 0, MAIN_BRANCH, APPEND, b'["x","y"]')
    removal = Change("b", 1, 2, 0, MAIN_BRANCH, REMOVE, encode_removal(Item("a", 1, 0, 0, 0, b"")))
    ours, theirs = folded([Admitted(1, 10, removal)]), folded([Admitted(1, 10, item)])
    for merged in (merge_states(ours, theirs), merge_states(theirs, ours)):
        assert [item.data for item in merged.fold.items] == [b'"y"']


@settings(max_examples=100, deadline=None)
@given(two_sides())
def test_the_items_of_one_run_stay_together_and_in_order(
    sides: tuple[list[Admitted], list[Admitted], list[Admitted]],
) -> None:
    ours, theirs, _ = sides
    merged = merge_states(folded(ours), folded(theirs)).fold
    for side in (ours, theirs):
        order = {item.id: place for place, item in enumerate(folded(side).fold.items)}
        places = [order[item.id] for item in merged.items if item.id in order]
        assert places == sorted(places)


@settings(max_examples=100, deadline=None)
@given(two_sides())
def test_it_makes_no_difference_whose_side_is_named_first(
    sides: tuple[list[Admitted], list[Admitted], list[Admitted]],
) -> None:
    ours, theirs = folded(sides[0]), folded(sides[1])
    one, other = merge_states(ours, theirs), merge_states(theirs, ours)
    assert {item.id for item in one.fold.items} == {item.id for item in other.fold.items}
    assert one.fold.metadata == other.fold.metadata
    assert one.fold.counters == other.fold.counters
    assert (one.fold.seq, one.fold.time) == (other.fold.seq, other.fold.time)
    assert one.fold.history.removed_early == other.fold.history.removed_early
    assert one.fold.history.cleared == other.fold.history.cleared
    assert [(line.id, line.name) for line in one.fold.branches.shown()] == [
        (line.id, line.name) for line in other.fold.branches.shown()
    ]
    for line in one.fold.branches.shown():
        assert {item.id for item in line.history.items} == {item.id for item in other.fold.on(line.id)}
    assert one.marks == other.marks


@settings(max_examples=100, deadline=None)
@given(two_sides())
def test_merging_again_changes_nothing(sides: tuple[list[Admitted], list[Admitted], list[Admitted]]) -> None:
    ours, theirs = folded(sides[0]), folded(sides[1])
    merged = merge_states(ours, theirs)
    for again in (merge_states(merged, ours), merge_states(merged, theirs), merge_states(merged, merged)):
        for line in merged.fold.branches.shown():
            assert [item.id for item in again.fold.on(line.id)] == [item.id for item in line.history.items]
        assert again.fold.metadata == merged.fold.metadata
        assert again.fold.counters == merged.fold.counters
        assert again.marks == merged.marks
    alone = merge_states(ours, State())
    assert [item.id for item in alone.fold.items] == [item.id for item in ours.fold.items]
    assert alone.fold.metadata == ours.fold.metadata


@settings(max_examples=100, deadline=None)
@given(two_sides())
def test_what_was_merged_can_be_sent_and_folded_on(
    sides: tuple[list[Admitted], list[Admitted], list[Admitted]],
) -> None:
    merged = decode_state(encode_state(merge_states(folded(sides[0]), folded(sides[1]))))
    before = [item.id for item in merged.fold.items]
    merged.admit([Admitted(merged.fold.seq + 1, 10, Change("new", 1, 1, 0, MAIN_BRANCH, APPEND, b'["x"]'))])
    assert [item.id for item in merged.fold.items] == [*before, ItemId("new", 1, 0)]


@settings(max_examples=100, deadline=None)
@given(two_sides())
def test_no_conflict_is_told_twice(sides: tuple[list[Admitted], list[Admitted], list[Admitted]]) -> None:
    """Those from before the two sides parted are known to both."""
    ours, theirs = folded(sides[0]), folded(sides[1])
    found = [repr(each) for each in merge_states(ours, theirs).fold.conflicts]
    assert len(found) == len(set(found))
