"""Branches through real central stores: forks share what they took over, go on apart, and all replicas agree."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import ConfigurationError, SessionEvent
from tests.polling import eventually

Open = Callable[..., localfirst.Store]


@pytest.fixture
def opened(tmp_path: Path, remote_url: str) -> Iterator[Open]:
    """Open stores by the name of their directory; closed after the test. They sync only when they are asked to."""
    namespace = f"test-{uuid.uuid4()}"
    with ExitStack() as stack:

        def open_store(name: str, **options: Any) -> localfirst.Store:
            options = {"worker": "none", **options}
            return stack.enter_context(
                localfirst.open(tmp_path / name, remote=remote_url, namespace=namespace, **options)
            )

        yield open_store


def say(session: localfirst.Session, *words: str) -> None:
    for word in words:
        session.add_message("user", word)


def contents(session: localfirst.Session) -> list[str]:
    return [item["content"] for item in session]


def everything(store: localfirst.Store) -> dict[str, list[str]]:
    """The branches of the session, and what is on them."""
    names = [branch.name for branch in store.session("s", branch="main").branches()]
    return {name: contents(store.session("s", branch=name)) for name in names}


def settle(*stores: localfirst.Store) -> dict[str, list[str]]:
    """Let all of them get everything; they show the same."""
    for _ in range(2):
        for store in stores:
            store.flush(30)
            store.refresh(30)
    found = [everything(store) for store in stores]
    assert all(each == found[0] for each in found)
    assert all(store.verify(30).ok for store in stores)
    return found[0]


def test_a_branch_goes_from_one_device_to_another_and_back(opened: Open) -> None:
    a, b = opened("a"), opened("b")
    here, there = a.session("s"), b.session("s")
    say(here, "one", "two")
    here.branch("draft", at_turn=2)
    here.switch("draft")
    say(here, "three")
    a.flush(30)
    b.refresh(30)
    assert contents(there) == ["one", "two"]
    there.switch("draft")
    assert contents(there) == ["one", "three"]
    say(there, "four")
    there.pop_message()
    say(there, "five")
    there.switch("main")
    say(there, "on main")
    there.set("name", "Ada")
    assert settle(a, b) == {"main": ["one", "two", "on main"], "draft": ["one", "three", "five"]}
    assert here.get("name") == "Ada"
    assert contents(here) == ["one", "three", "five"]


def test_two_replicas_that_fork_the_same_name_at_once(opened: Open) -> None:
    stores = opened("a"), opened("b")
    a, b = (store.session("s") for store in stores)
    say(a, "one")
    settle(*stores)
    for session, word in ((a, "of a"), (b, "of b")):
        session.branch("draft")
        session.switch("draft")
        say(session, word)
        assert contents(session) == ["one", word]
    stores[1].flush(30)  # The first that comes keeps the name.
    later = f"draft@{stores[0].replica_id[:6]}"
    assert settle(*stores) == {"main": ["one"], "draft": ["one", "of b"], later: ["one", "of a"]}
    assert [branch.name for branch in a.branches() if branch.current] == [later]
    for session, other, word in ((a, "draft", "by a"), (b, later, "by b")):
        say(session, f"{word}, on its own")
        session.switch(other)
        say(session, f"{word}, on the other's")
    found = settle(*stores)
    assert set(found["draft"]) == {"one", "of b", "by b, on its own", "by a, on the other's"}
    assert set(found[later]) == {"one", "of a", "by a, on its own", "by b, on the other's"}
    third = opened("c")
    assert settle(third, *stores) == found


def test_a_deleted_branch_is_gone_with_what_was_written_on_it_meanwhile(opened: Open) -> None:
    a, b = opened("a"), opened("b")
    here, there = a.session("s"), b.session("s")
    say(here, "one")
    here.branch("draft")
    settle(a, b)
    there.switch("draft")
    say(there, "not known to be deleted")
    there.branch("child")
    here.delete_branch("draft")
    a.flush(30)
    assert settle(a, b) == {"main": ["one"], "child": ["one"]}
    with pytest.raises(ConfigurationError, match="deleted"):
        say(there, "more")
    assert contents(b.session("s")) == ["one"]


def test_what_others_write_on_a_branch_is_told(opened: Open) -> None:
    a, b = opened("a", worker="thread", poll_interval=0.2), opened("b", worker="thread", poll_interval=0.2)
    here, there = a.session("s"), b.session("s")
    heard: list[Any] = []
    there.on(SessionEvent.REMOTE_CHANGED, lambda items: heard.extend(item["content"] for item in items))
    say(here, "one")
    here.branch("draft")
    here.switch("draft")
    say(here, "two")
    eventually(lambda: heard == ["one", "two"])
    assert contents(there) == ["one"]
    there.switch("draft")
    assert contents(there) == ["one", "two"]


def test_an_object_that_begins_on_a_branch_waits_for_it(opened: Open) -> None:
    a, b = opened("a"), opened("b", worker="thread")
    here = a.session("s")
    say(here, "one")
    here.branch("draft")
    a.flush(30)
    there = b.session("s", branch="draft", hydrate_timeout=30)
    say(there, "two")
    assert contents(there) == ["one", "two"]


def test_a_fork_of_a_long_session_is_one_small_change(opened: Open) -> None:
    a, b = opened("a"), opened("b")
    here = a.session("s")
    here.import_data({**here.export(), "items": [{"n": n} for n in range(10_000)]})
    a.flush(60)
    here.branch("draft")
    status = a.status()
    assert (status.pending_changes, status.pending_bytes < 300) == (1, True)
    b.refresh(60)
    assert [branch.items for branch in b.session("s").branches()] == [10_000]
    a.flush(30)
    b.refresh(30)
    assert [branch.items for branch in b.session("s").branches()] == [10_000, 10_000]


def test_branches_are_in_a_checkpoint(opened: Open) -> None:
    """A replica that joins late, or was away for long, gets them from there."""
    a, b = opened("a"), opened("b")
    here = a.session("s")
    say(here, "one", "two")
    here.branch("draft")
    settle(a, b)
    there = b.session("s")
    there.switch("draft")
    say(there, "written while the log is folded")
    here.pop_message()
    for number in range(600):  # Each makes the one before it needless.
        here.set("key", {"value": "x" * 300, "number": number})
    a.flush(60)
    head = a._local.log.head(here._key)
    assert head is not None
    assert head.floor
    expected = {"main": ["one"], "draft": ["one", "two", "written while the log is folded"]}
    assert settle(b, a) == expected
    assert settle(opened("c"), b) == expected
