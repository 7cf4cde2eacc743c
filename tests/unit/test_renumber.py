"""Pending changes under new names show the same session, whatever they say of each other."""

from __future__ import annotations

from functools import partial

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.branches import decode_drop, encode_drop, encode_fork
from localfirst.change import APPEND, CLEAR, DROP, END, FORK, MAIN_BRANCH, REMOVE, Admitted, Change, encode_change
from localfirst.fold import Fold, fold
from localfirst.history import Item, decode_removal, encode_clear, encode_removal
from localfirst.renumber import renumber
from tests.unit.universe import BRANCHING, Replica, universes

NEW = "new"


def change(counter: int, kind: str, body: bytes, turn: int = 0) -> Change:
    return Change("a", counter, counter, 0, MAIN_BRANCH, kind, body, turn)


def removal(counter: int, place: int = 0, origin: str = "a") -> bytes:
    return encode_removal(Item(origin, counter, place, 1, 1, b""))


def shown(state: Fold) -> tuple[list[list[bytes]], dict[str, bytes | None]]:
    """What an agent sees. Branches have other ids, and if they share their names, others of these."""
    items = [[item.data for item in line.history.items] for line in state.branches.shown()]
    return items, {key: register.value for key, register in state.metadata.items()}


def writers() -> st.SearchStrategy[Replica]:
    """Replicas with changes that wait."""
    return (universes(max_steps=40) | universes(max_steps=40, kinds=BRANCHING)).flatmap(
        lambda universe: st.sampled_from([each for each in universe.replicas if each.pending] or universe.replicas)
    )


@settings(max_examples=200, deadline=None)
@given(writers(), st.integers(1, 100))
def test_the_session_looks_the_same(replica: Replica, first: int) -> None:
    kept = replica.counter - len(replica.pending)
    renamed = renumber(replica.pending, NEW, first, kept)
    assert shown(fold(replica.known, renamed)) == shown(fold(replica.known, replica.pending))
    assert [each.origin for each in renamed] == [NEW] * len(replica.pending)
    assert [each.counter for each in renamed] == list(range(first, first + len(replica.pending)))
    for before, after in zip(replica.pending, renamed, strict=True):
        assert (before.kind, before.time, before.base) == (after.kind, after.time, after.base)


@settings(max_examples=200, deadline=None)
@given(writers(), st.data())
def test_it_looks_as_if_what_was_given_up_had_never_been(replica: Replica, data: st.DataObject) -> None:
    kept = replica.counter - len(replica.pending)
    stays = [each for each in replica.pending if data.draw(st.booleans(), label=f"{each.counter} stays")]
    renamed = renumber(stays, NEW, 1, kept)
    assert shown(fold(replica.known, renamed)) == shown(fold(replica.known, stays))


@settings(max_examples=100, deadline=None)
@given(writers(), st.integers(0, 20))
def test_it_looks_the_same_when_a_part_was_admitted_before(replica: Replica, count: int) -> None:
    """The first ones keep their names, and the others speak of them by those."""
    pending, known = replica.pending, list(replica.known)
    known += [Admitted(len(known) + place, 10**6, each) for place, each in enumerate(pending[:count], start=1)]
    kept = replica.counter - len(pending) + min(count, len(pending))
    renamed = renumber(pending[count:], NEW, 1, kept)
    assert shown(fold(known, renamed)) == shown(fold(known, pending[count:]))


@settings(max_examples=100, deadline=None)
@given(writers())
def test_twice_is_as_good_as_once(replica: Replica) -> None:
    kept = replica.counter - len(replica.pending)
    once = renumber(replica.pending, NEW, 7, kept)
    twice = renumber(once, "newer", 1, 6)
    assert shown(fold(replica.known, twice)) == shown(fold(replica.known, replica.pending))


def test_a_removal_names_what_it_removes_by_its_new_name() -> None:
    changes = [change(5, APPEND, b'["x"]'), change(6, APPEND, b'["y","z"]'), change(7, REMOVE, removal(6, 1))]
    _, _, removed = renumber(changes, NEW, 1, kept=4)
    target = decode_removal(removed.body)
    assert (target.origin, target.counter, target.place) == (NEW, 2, 1)


def test_a_removal_of_what_was_admitted_before_is_left_alone() -> None:
    for body in (removal(4), removal(2, 3), removal(9, 0, "other")):
        (removed,) = renumber([change(5, REMOVE, body)], NEW, 1, kept=4)
        assert (removed.kind, removed.body) == (REMOVE, body)


def test_a_removal_of_what_was_given_up_does_nothing_and_leaves_no_gap() -> None:
    changes = [change(6, REMOVE, removal(5), turn=3), change(7, APPEND, b'["x"]')]
    removed, added = renumber(changes, NEW, 1, kept=4)
    assert (removed.kind, removed.body, removed.turn, removed.counter) == (END, b"{}", 0, 1)
    assert added.counter == 2
    assert shown(fold([], [removed, added])) == ([[b'"x"']], {})


def test_a_clear_also_clears_what_was_admitted_under_the_old_name() -> None:
    log = [Admitted(1, 1, change(1, APPEND, b'["admitted"]'))]
    changes = [change(2, APPEND, b'["pending"]'), change(3, CLEAR, encode_clear({"b": 4}))]
    assert shown(fold(log, renumber(changes, NEW, 1, kept=1))) == ([[]], {})


def test_a_clear_spares_what_another_directory_added_under_the_old_name() -> None:
    """The twin took our counters: what it added there, the author of the clear never saw."""
    changes = [change(2, APPEND, b'["ours"]'), change(3, CLEAR, encode_clear({}))]
    twin = [Admitted(1, 1, change(1, APPEND, b'["both"]')), Admitted(2, 2, change(2, APPEND, b'["of the twin"]'))]
    assert shown(fold(twin, renumber(changes, NEW, 1, kept=1))) == ([[b'"of the twin"']], {})


def forked(
    counter: int, name: str, branch: str = MAIN_BRANCH, upto: dict[str, tuple[int, int]] | None = None
) -> Change:
    return msgspec.structs.replace(change(counter, FORK, encode_fork(name, {"b": 3}, upto or {})), branch=branch)


def test_a_branch_has_the_new_name_of_its_fork() -> None:
    on = partial(msgspec.structs.replace, branch="a:5")
    changes = [
        forked(5, "x"),
        on(change(6, APPEND, b'["y"]')),
        forked(7, "z", "a:5"),
        change(8, DROP, encode_drop("a:5")),
    ]
    _, added, child, dropped = renumber(changes, NEW, 1, kept=4)
    assert (added.branch, child.branch, decode_drop(dropped.body)) == ("new:1", "new:1", "new:1")


def test_a_branch_that_was_forked_before_keeps_its_name() -> None:
    for branch in ("a:4", "a:1", "b:9", "a:6"):
        changes = [
            msgspec.structs.replace(change(5, APPEND, b'["y"]'), branch=branch),
            change(7, DROP, encode_drop(branch)),
        ]
        added, dropped = renumber(changes, NEW, 1, kept=4, same={6})
        assert (added.branch, decode_drop(dropped.body)) == (branch, branch)


def test_what_was_written_on_a_branch_whose_fork_was_given_up_is_given_up() -> None:
    on = partial(msgspec.structs.replace, branch="a:5")
    changes = [
        on(change(6, APPEND, b'["x"]', turn=3)),
        on(change(7, CLEAR, encode_clear({}))),
        change(8, DROP, encode_drop("a:5")),
        on(forked(9, "child")),
        msgspec.structs.replace(change(10, APPEND, b'["y"]'), branch="a:9"),
    ]
    renamed = renumber(changes, NEW, 1, kept=4)
    assert [(each.kind, each.branch, each.turn) for each in renamed[:3]] == [(END, MAIN_BRANCH, 0)] * 3
    assert shown(fold([], renamed)) == ([[], [b'"y"']], {})


def test_a_fork_takes_over_what_it_took_over_under_both_names() -> None:
    log = [Admitted(1, 1, change(1, APPEND, b'["admitted"]')), Admitted(2, 1, change(2, APPEND, b'["later"]'))]
    pending = [change(3, APPEND, b'["pending"]'), change(4, APPEND, b'["left out"]')]
    for upto, expected in (
        ({}, ["admitted", "later", "pending", "left out"]),
        ({"a": (4, 0)}, ["admitted", "later", "pending"]),
        ({"a": (2, 0)}, ["admitted"]),
    ):
        for origin, first in ((NEW, 1), ("a", 3)):
            state = fold(log, renumber([*pending, forked(5, "x", upto=upto)], origin, first, kept=2))
            assert shown(state)[0][1] == [b'"%b"' % text.encode() for text in expected]


def test_a_fork_that_ends_at_what_was_given_up_ends_there() -> None:
    changes = [change(3, APPEND, b'["in"]'), change(5, APPEND, b'["out"]'), forked(6, "x", upto={"a": (4, 1)})]
    for origin, first in ((NEW, 1), ("a", 3)):
        assert shown(fold([], renumber(changes, origin, first, kept=2)))[0][1] == [b'"in"']


def test_turns_stay_turns() -> None:
    changes = [change(5, APPEND, b'["x"]', turn=9), change(6, END, b"{}", turn=9), change(7, APPEND, b'["y"]')]
    assert [each.turn for each in renumber(changes, NEW, 1, kept=4)] == [9, 9, 0]


def test_nothing_at_all() -> None:
    assert renumber([], NEW, 1, kept=0) == []


@settings(max_examples=50, deadline=None)
@given(writers())
def test_they_can_be_written(replica: Replica) -> None:
    for each in renumber(replica.pending, NEW, 1, replica.counter - len(replica.pending)):
        assert encode_change(each)
        if each.kind == APPEND:
            assert jsonvalue.split(each.body)
