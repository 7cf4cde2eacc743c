"""Whose sessions are, and lists of them by owner and metadata."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import SessionEvent


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path) as opened:
        yield opened


def ids(store: localfirst.Store, **wanted: Any) -> list[str]:
    return [info.session_id for info in store.sessions(**wanted)]


def test_the_owner_is_set_with_the_first_write_and_not_before(store: localfirst.Store) -> None:
    session = store.session("s", owner="alice")
    assert session.owner is None
    assert ids(store) == []
    session.add_message("user", "Hello")
    assert session.owner == "alice"
    assert session.metadata() == {"owner": "alice"}
    assert session.pending == 2


@pytest.mark.parametrize(
    "write",
    [
        lambda session: asyncio.run(session.add_items(["Hello"])),
        lambda session: session.set("stars", 1),
        lambda session: session.increment("turns"),
        lambda session: session.branch("draft"),
        lambda session: session.touch(),
        lambda session: session.import_data(session.export() | {"items": ["Hello"]}),
    ],
)
def test_every_write_sets_it(write: Callable[[localfirst.Session], Any], store: localfirst.Store) -> None:
    write(store.session("s", owner="alice"))
    assert store.session("s").owner == "alice"


def test_a_call_that_writes_nothing_sets_no_owner(store: localfirst.Store) -> None:
    session = store.session("s", owner="alice")
    session.clear()
    assert session.pop_message() is None
    assert ids(store) == []


def test_it_is_not_written_again_where_it_is_set(store: localfirst.Store) -> None:
    for _ in range(3):
        session = store.session("s", owner="alice")
        for _ in range(2):
            session.add_message("user", "Hello")
    assert session.pending == 7


def test_another_object_can_take_it_over_and_what_is_set_afterwards_stays(store: localfirst.Store) -> None:
    alice, bob = store.session("s", owner="alice"), store.session("s", owner="bob")
    alice.add_message("user", "Hello")
    bob.add_message("user", "Hello")
    assert alice.owner == "bob"
    alice.add_message("user", "Hello")
    assert alice.owner == "bob"
    alice.owner = "carol"
    bob.add_message("user", "Hello")
    assert bob.owner == "carol"


def test_a_session_that_begins_anew_has_its_owner_again(store: localfirst.Store) -> None:
    session = store.session("s", owner="alice")
    session.add_message("user", "Hello")
    store.delete("s")
    assert session.owner is None
    session.add_message("user", "Hello")
    assert session.owner == "alice"
    session.owner = "bob"
    store.delete("s")
    session.add_message("user", "Hello")
    assert session.owner == "bob"


@pytest.mark.parametrize("owner", [1, b"alice", ["alice"], {"name": "alice"}])
def test_an_owner_that_is_no_string_is_refused(owner: Any, store: localfirst.Store) -> None:
    session = store.session("s")
    with pytest.raises(localfirst.ConfigurationError, match="an owner is a string"):
        store.session("s", owner=owner)
    with pytest.raises(localfirst.ConfigurationError, match="an owner is a string"):
        session.owner = owner
    with pytest.raises(localfirst.ConfigurationError, match="an owner is a string"):
        store.sessions(owner=owner)
    assert ids(store) == []


def test_a_key_that_holds_something_else_is_no_owner(store: localfirst.Store) -> None:
    session = store.session("s")
    session.set("owner", {"name": "alice"})
    assert session.owner is None
    assert [info.owner for info in store.sessions()] == [None]


def test_it_is_told_as_any_other_key(store: localfirst.Store) -> None:
    told = list[Any]()
    store.on(SessionEvent.METADATA_CHANGED, lambda *change: told.append(change))
    session = store.session("s", owner="alice")
    session.add_message("user", "Hello")
    asyncio.run(session.add_items(["Hello"]))
    session.owner = "bob"
    assert told == [("s", "owner", "alice"), ("s", "owner", "bob")]


def test_a_rule_for_the_key_counts(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, resolvers={"owner": "first"}) as store:
        store.session("s", owner="alice").add_message("user", "Hello")
        store.session("s", owner="bob").add_message("user", "Hello")
        assert store.session("s").owner == "alice"


def test_it_replicates(tmp_path: Path) -> None:
    remote = (tmp_path / "central").as_uri()
    with (
        localfirst.open(tmp_path / "a", remote=remote, worker="none") as a,
        localfirst.open(tmp_path / "b", remote=remote, worker="none") as b,
    ):
        a.session("s", owner="alice").add_message("user", "Hello")
        a.flush(10)
        b.refresh(10)
        assert ids(b, owner="alice") == ["s"]
        b.session("s", owner="alice").add_message("user", "Hello")
        assert b.session("s").pending == 1


def test_lists_by_owner_and_metadata(store: localfirst.Store) -> None:
    for session_id, owner, stars in (("a1", "alice", 1), ("a2", "alice", 2), ("b1", "bob", 1)):
        session = store.session(session_id, owner=owner)
        session.set("stars", stars)
        session.set("place", {"city": "Bern", "tags": ["x"]})
    store.session("nobody's").add_message("user", "Hello")
    assert ids(store, owner="alice") == ["a1", "a2"]
    assert ids(store, owner="alice", prefix="a2") == ["a2"]
    assert ids(store, owner="carol") == []
    assert ids(store, where={"stars": 1}) == ["a1", "b1"]
    assert ids(store, where={"stars": 1, "owner": "bob"}) == ["b1"]
    assert ids(store, where={"stars": 1}, owner="alice", idle_for=0) == ["a1"]
    assert ids(store, where={"place": {"tags": ("x",), "city": "Bern"}}) == ["a1", "a2", "b1"]
    assert ids(store, where={}) == ["a1", "a2", "b1", "nobody's"]


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1]])
def test_values_are_compared_as_json(value: Any, store: localfirst.Store) -> None:
    store.session("s").set("stars", 1)
    store.session("other").set("stars", value)
    assert ids(store, where={"stars": 1}) == ["s"]
    assert ids(store, where={"stars": value}) == ["other"]
    assert ids(store, where={"missing": value}) == []


@pytest.mark.parametrize("where", [["stars"], "stars", {1: 2}])
def test_where_that_can_be_nowhere_is_refused(where: Any, store: localfirst.Store) -> None:
    with pytest.raises(localfirst.ConfigurationError, match="where is a dict"):
        store.sessions(where=where)


def test_what_is_told_of_a_session_is_the_askers_own(store: localfirst.Store) -> None:
    session = store.session("s", owner="alice")
    session.set("tags", ["a"])
    (info,) = store.sessions()
    assert (info.owner, info.metadata) == ("alice", {"owner": "alice", "tags": ["a"]})
    info.metadata["tags"].append("b")
    assert session.get("tags") == ["a"]
    assert hash(info)
    assert dataclasses.asdict(info)["owner"] == "alice"


def test_nothing_is_known_of_a_session_whose_key_is_not_here(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, encryption_key=localfirst.KeyRing.generate()) as sealed:
        sealed.session("s", owner="alice").add_message("user", "Hello")
        assert ids(sealed, owner="alice") == ["s"]
    with localfirst.open(tmp_path) as store:
        assert [(info.state, info.owner, info.metadata) for info in store.sessions()] == [("sealed", None, {})]
        assert ids(store, owner="alice") == []
