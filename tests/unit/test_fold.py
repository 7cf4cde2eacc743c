"""The fold, by properties: invariants 2 to 6 of docs/design.md, for any history that could have happened."""

from __future__ import annotations

from itertools import groupby, pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.change import APPEND, CLEAR, MAIN_BRANCH, REMOVE, Admitted, Change
from localfirst.errors import MalformedChange
from localfirst.fold import MAX_CONFLICTS, Fold, check, fold
from localfirst.history import encode_clear, encode_removal
from localfirst.metadata import encode_put
from tests.unit.universe import Universe, lines, universes


def seen(state: Fold) -> tuple[Any, ...]:
    """Everything that could be told apart."""
    return (
        state.seq,
        state.pending,
        list(state.items),
        dict(state.metadata),
        list(state.conflicts),
        state.counters,
        lines(state),
    )


def cuts(log: list[Admitted], places: list[int]) -> list[list[Admitted]]:
    bounds = [0, *sorted(min(place, len(log)) for place in places), len(log)]
    return [log[start:end] for start, end in pairwise(bounds)]


@settings(max_examples=400, deadline=None)
@given(universes(), st.lists(st.integers(0, 60), max_size=5))
def test_any_split_into_increments_gives_the_same_state(universe: Universe, places: list[int]) -> None:
    """fold(a + b) == fold(b, start=fold(a))."""
    state = Fold()
    for part in cuts(universe.log, places):
        state = fold(part, start=state)
    assert seen(state) == seen(fold(universe.log))


@settings(max_examples=400, deadline=None)
@given(universes(), st.lists(st.integers(0, 60), max_size=5))
def test_any_interleaving_of_admitted_and_pending_gives_the_same_state(universe: Universe, places: list[int]) -> None:
    """Invariant 3: what came first, the pending changes or the news, makes no difference."""
    for replica in universe.replicas:
        state = Fold()
        waiting = list(replica.pending)
        for part in cuts(universe.log[len(replica.known) :], places):
            state = state if state.seq else fold(replica.known, start=state)
            if waiting:
                state.pend(waiting.pop(0))
            state.admit(part)
        for change in waiting:
            state.pend(change)
        assert seen(state) == seen(fold(universe.log, replica.pending))


@settings(max_examples=400, deadline=None)
@given(universes())
def test_acknowledging_own_changes_gives_the_same_state_as_reading_them(universe: Universe) -> None:
    """The quick way for a replica that writes alone must not differ from the slow way."""
    for replica in universe.replicas:
        run = [
            Admitted(len(universe.log) + place, 10**9, change) for place, change in enumerate(replica.pending, start=1)
        ]
        for count in range(len(run) + 1):
            state = fold(universe.log, replica.pending)
            state.admit(run[:count])
            state.admit(run[count:])
            assert seen(state) == seen(fold(universe.log + run))


@settings(max_examples=200, deadline=None)
@given(universes())
def test_no_change_is_folded_twice(universe: Universe) -> None:
    """Invariant 2: entries that were folded before, under later seqs, do nothing."""
    once = fold(universe.log)
    again = fold(universe.log)
    last = len(universe.log)
    again.admit([Admitted(last + place, 0, entry.change) for place, entry in enumerate(universe.log, start=1)])
    assert again.items == once.items
    assert again.metadata == once.metadata
    assert lines(again) == lines(once)


@settings(max_examples=300, deadline=None)
@given(universes())
def test_what_one_call_appended_stays_together_and_in_order(universe: Universe) -> None:
    """Invariant 4."""
    for line in fold(universe.log).branches.shown():
        items = line.history.items
        calls = [key for key, _ in groupby(items, key=lambda item: (item.origin, item.counter))]
        assert len(calls) == len(set(calls))
        for _, group in groupby(items, key=lambda item: (item.origin, item.counter)):
            places = [item.place for item in group]
            assert places == sorted(places)


@settings(max_examples=300, deadline=None)
@given(universes(), st.integers(0, 60))
def test_an_admitted_prefix_is_never_reordered(universe: Universe, cut: int) -> None:
    """Invariant 5: later changes take items away or add behind, and do nothing else."""
    earlier, later = fold(universe.log[:cut]), fold(universe.log)
    for line in earlier.branches.shown():
        before = [item.id for item in line.history.items]
        after = [item.id for item in later.on(line.id)]
        kept = [identity for identity in before if identity in set(after)]
        assert after[: len(kept)] == kept


@settings(max_examples=300, deadline=None)
@given(universes())
def test_nothing_removed_comes_back(universe: Universe) -> None:
    """Invariant 6."""
    gone: set[Any] = set()
    state = Fold()
    before: set[Any] = set()
    for entry in universe.log:
        state.admit([entry])
        now = {(line.id, item.id) for line in state.branches.shown() for item in line.history.items}
        assert not gone & now
        gone |= before - now
        before = now


def append(origin: str, counter: int, *items: Any, base: int = 0) -> Change:
    body = jsonvalue.join([jsonvalue.encode(item) for item in items])
    return Change(origin, counter, counter << 16, base, MAIN_BRANCH, APPEND, body)


def change(origin: str, counter: int, kind: str, body: bytes, base: int = 0) -> Change:
    return Change(origin, counter, counter << 16, base, MAIN_BRANCH, kind, body)


def log(*changes: Change) -> list[Admitted]:
    return [Admitted(seq, 10**6, change) for seq, change in enumerate(changes, start=1)]


def texts(state: Fold) -> list[Any]:
    return jsonvalue.decode_each([item.data for item in state.items])


def test_two_replicas_that_pop_the_same_item_remove_it_once() -> None:
    first = append("a", 1, "one", "two")
    last = fold(log(first)).items[-1]
    state = fold(log(first, change("a", 2, REMOVE, encode_removal(last)), change("b", 1, REMOVE, encode_removal(last))))
    assert texts(state) == ["one"]


def test_a_clear_removes_what_its_author_had_seen_and_nothing_else() -> None:
    state = fold(
        log(
            append("b", 1, "seen"),
            append("b", 2, "unseen"),
            append("a", 2, "own, pushed with the clear"),
            change("a", 3, CLEAR, encode_clear({"b": 1})),
            append("a", 4, "after"),
        )
    )
    assert texts(state) == ["unseen", "after"]


def test_a_clear_that_comes_before_what_it_clears_hides_it() -> None:
    """A log that was put together again after a loss may have them in this order."""
    clear = change("a", 1, CLEAR, encode_clear({"b": 1}))
    assert texts(fold(log(clear, append("b", 1, "seen"), append("b", 2, "unseen")))) == ["unseen"]


def test_a_second_clear_changes_nothing() -> None:
    first = log(append("a", 1, "x"), change("a", 2, CLEAR, encode_clear({})))
    assert texts(fold(first)) == texts(fold([*first, Admitted(3, 0, change("a", 3, CLEAR, encode_clear({})))])) == []


def test_a_remove_that_comes_before_its_append_hides_the_item() -> None:
    """A log that was put together again after a loss may have them in this order."""
    item = fold(log(append("a", 1, "x", "y"))).items[0]
    state = fold(log(change("b", 1, REMOVE, encode_removal(item)), append("a", 1, "x", "y")))
    assert texts(state) == ["y"]


def test_pending_changes_stay_at_the_end_while_others_are_admitted() -> None:
    state = fold(log(append("a", 1, "first")), [append("b", 1, "mine")])
    effects = state.admit([Admitted(2, 0, append("a", 2, "theirs"))])
    assert texts(state) == ["first", "theirs", "mine"]
    assert [item.data for effect in effects for item in effect.added] == [b'"theirs"']


def test_a_gap_in_the_log_is_an_error() -> None:
    with pytest.raises(MalformedChange, match="seq 0 to 2"):
        fold([Admitted(2, 0, append("a", 1, "x"))])
    state = fold([], [append("a", 1, "x")])
    with pytest.raises(MalformedChange, match="seq 0 to 2"):
        state.admit([Admitted(2, 0, append("a", 1, "x"))])


def test_conflicts_are_bounded() -> None:
    entries = [change(f"r{n}", 1, "put", encode_put("k", "last", b"%d" % n)) for n in range(MAX_CONFLICTS + 50)]
    state = fold(log(*entries))
    assert len(state.conflicts) == MAX_CONFLICTS
    assert state.conflicts[-1].seq == len(entries)


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("append", b"{}"),
        ("append", b"["),
        ("append", b'["\xff"]'),
        ("append", b"[1] 2"),
        ("append", b"[" * 600 + b"]" * 600),
        ("remove", b"{}"),
        ("clear", b"{}"),
        ("clear", b'{"seen":{"a":"x"}}'),
        ("clear", b'{"seen":{"a":-1}}'),
        ("clear", b'{"seen":{"a":99999999999999999999}}'),
        ("remove", b'{"origin":"a","counter":99999999999999999999,"index":0}'),
        ("remove", b'{"origin":1,"counter":"x","index":0}'),
        ("put", b"{}"),
        ("put", b'{"key":1,"rule":"last","value":1}'),
        ("put", b'{"key":"k","rule":"never","value":1}'),
        ("put", b'{"key":"k","rule":"merge","value":[]}'),
        ("put", b'{"key":"k","rule":"union","value":{}}'),
        ("put", b'{"key":"k","rule":"last"}'),
        ("delete", b"[]"),
        ("increment", b'{"key":"k","by":"1"}'),
        ("increment", b'{"key":"k","by":true}'),
        ("frobnicate", b""),
    ],
)
def test_what_cannot_be_folded_is_refused_beforehand(kind: str, body: bytes) -> None:
    """Invariant 10."""
    with pytest.raises(MalformedChange):
        check(change("a", 1, kind, body))


def test_an_entry_that_was_admitted_before_is_skipped_also_while_something_is_pending() -> None:
    """Invariant 2, when a log that was put together again repeats what it had."""
    first, second = append("a", 1, "one"), append("a", 2, "two")
    state = fold(log(first, second), [change("a", 3, CLEAR, encode_clear({}))])
    state.admit([Admitted(3, 0, first), Admitted(4, 0, second)])
    assert texts(state) == []
    assert state.counter("a") == 3


def test_what_is_missing_below_what_is_pending_can_still_come_from_the_log() -> None:
    """Invariant 2, on a damaged disk: only what was folded counts as folded."""
    state = Fold()
    state.pend(append("a", 3, "three"))
    state.admit(log(append("a", 1, "one"), append("a", 2, "two")))
    assert texts(state) == ["one", "two", "three"]
    state.retract(1)
    assert state.counter("a") == 2
