"""Branches as an agent sees them, on local disk."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import ConfigurationError, SessionEvent, StoreCorrupt, plans
from localfirst.branches import MAX_NAME
from localfirst.change import APPEND, MAIN_BRANCH, decode_change
from localfirst.records import CHANGE, HERE, Rename, session_key, span
from localfirst.session import Session

KEY = session_key("default", "s")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def session(store: localfirst.Store) -> Session:
    return store.session("s")


def say(session: Session, *words: str) -> None:
    for place, word in enumerate(words):
        session.add_message("assistant" if place % 2 else "user", word)


def contents(session: Session) -> list[Any]:
    return [item["content"] for item in session]


def names(session: Session) -> list[str]:
    return [branch.name for branch in session.branches()]


async def test_every_call_means_the_current_branch(session: Session) -> None:
    say(session, "one", "two")
    assert session.branch("draft") == "draft"
    assert contents(session) == ["one", "two"]
    session.switch("draft")
    say(session, "three")
    await session.add_items([{"role": "assistant", "content": "four"}, "no message"])
    assert [len(session), len(session.get_messages()), len(await session.get_items())] == [5, 4, 5]
    assert await session.get_items(limit=1) == ["no message"]
    assert await session.pop_item() == "no message"
    message = session.pop_message()
    assert message is not None
    assert message["content"] == "four"
    assert [item["content"] for item in session.export()["items"]] == contents(session) == ["one", "two", "three"]
    session.import_data({**session.export(), "items": ["imported"], "metadata": {"key": 1}})
    assert len(session) == 4
    session.switch("main")
    assert contents(session) == ["one", "two"]
    session.clear()
    session.switch("draft")
    assert len(session) == 4
    await session.clear_session()
    assert len(session) == 0
    session.switch("main")
    assert len(session) == 0
    assert session.get("key") == 1


def test_metadata_is_of_all_branches(session: Session) -> None:
    session.branch("draft")
    session.switch("draft")
    session.set("a", 1)
    session.increment("count", 2)
    session.set("gone", 1)
    session.delete("gone")
    session.switch("main")
    session.increment("count", 3)
    assert session.metadata() == {"a": 1, "count": 5}
    changes = map(decode_change, session._store._local.log.run(KEY, 0, 100))
    assert {change.branch for change in changes} == {"main"}


def test_what_branches_tell(session: Session) -> None:
    say(session, "one", "two")
    assert session.branches() == [localfirst.Branch("main", 2, None, current=True)]
    session.branch("draft")
    session.branch("empty", at_turn=1)
    session.switch("draft")
    say(session, "three")
    main, draft, empty = session.branches()
    assert [(each.name, each.items, each.current) for each in (main, draft, empty)] == [
        ("main", 2, False),
        ("draft", 3, True),
        ("empty", 0, False),
    ]
    assert main.created_at is None
    assert draft.created_at is not None
    assert empty.created_at is not None
    assert draft.created_at <= empty.created_at


async def test_turns_begin_with_messages_of_the_user(session: Session) -> None:
    await session.add_items(["before", {"role": "system", "content": "x"}])
    say(session, "first", "answer", "second", "answer")
    await session.add_items([{"role": "user"}, {"type": "function_call", "role": None}])
    for turn, expected in ((1, 2), (2, 4), (3, 6)):
        session.branch(f"before {turn}", at_turn=turn)
        assert session.branches()[-1].items == expected
    with pytest.raises(ConfigurationError, match="no turn 4"):
        session.branch("too far", at_turn=4)
    assert len(session.branches()) == 4


@pytest.mark.parametrize("turn", [0, -1, True, 1.0, "1"])
def test_what_is_no_turn(session: Session, turn: Any) -> None:
    say(session, "one")
    with pytest.raises(ConfigurationError, match="at_turn is the number of a turn"):
        session.branch("x", at_turn=turn)


def test_a_branch_of_a_branch(session: Session) -> None:
    say(session, "one")
    session.branch("a")
    session.switch("a")
    say(session, "two")
    session.branch("b", at_turn=2)
    session.branch("c")
    session.switch("c")
    say(session, "three")
    assert {branch.name: branch.items for branch in session.branches()} == {"main": 1, "a": 2, "b": 1, "c": 3}


@pytest.mark.parametrize("name", ["", None, 7, "x" * (MAX_NAME + 1), "\ud800"])
def test_what_is_no_name(session: Session, name: Any) -> None:
    with pytest.raises(ConfigurationError, match="the name of a branch"):
        session.branch(name)
    with pytest.raises(ConfigurationError, match="there is no branch"):
        session.switch(name)
    with pytest.raises(ConfigurationError, match="there is no branch"):
        session.delete_branch(name)


def test_names_are_any_text(session: Session) -> None:
    for name in ("ä 🎂\0\n", "user@example.org", "a:1", "x" * MAX_NAME):
        session.branch(name)
        session.switch(name)
        say(session, name)
        assert contents(session)[-1] == name


def test_a_name_is_taken_once(session: Session) -> None:
    session.branch("draft")
    for name in ("draft", "main"):
        with pytest.raises(ConfigurationError, match="already"):
            session.branch(name)
    session.delete_branch("draft")
    session.branch("draft")
    assert names(session) == ["main", "draft"]


# Where an object stands.


def test_the_next_object_begins_where_the_last_was_switched_to(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        one, other = store.session("s"), store.session("s")
        assert len(other) == 0
        one.branch("draft")
        one.switch("draft")
        say(one, "here")
        say(other, "on main")
        assert contents(one) == ["here"]
        assert contents(other) == ["on main"]
        assert contents(store.session("s")) == ["here"]
        assert contents(store.session("s", branch="main")) == ["on main"]
        assert contents(store.session("s")) == ["here"]
        assert len(store.session("another")) == 0
    with localfirst.open(tmp_path) as store:
        again = store.session("s")
        say(again, "too")
        assert contents(again) == ["here", "too"]
        again.switch("main")
        assert contents(store.session("s")) == ["on main"]


async def test_coroutines_remember_too(store: localfirst.Store, session: Session) -> None:
    session.branch("draft")
    session.switch("draft")
    await store.session("s").add_items(["x"])
    assert await store.session("s").get_items() == ["x"]
    assert await store.session("s").pop_item() == "x"
    await store.session("s").add_items(["y"])
    await store.session("s").clear_session()
    await store.session("s").add_items(["z"])
    assert await store.session("s").get_items() == ["z"]
    assert len(store.session("s", branch="main")) == 0
    assert await store.session("s", branch="draft").get_items() == ["z"]


async def test_an_object_can_begin_on_a_branch_by_name(store: localfirst.Store, session: Session) -> None:
    session.branch("draft")
    with pytest.raises(ConfigurationError, match="there is no branch 'none': there are 'main', 'draft'"):
        store.session("s", branch="none").add_message("user", "x")
    with pytest.raises(ConfigurationError, match="there is no branch 'none'"):
        await store.session("s", branch="none").add_items(["x"])
    later = store.session("s", branch="later")
    with pytest.raises(ConfigurationError):
        len(later)
    session.branch("later")
    say(later, "x")
    assert {branch.name: branch.items for branch in later.branches()} == {"main": 0, "draft": 0, "later": 1}
    assert len(session) == 0


def test_delete(session: Session) -> None:
    say(session, "one")
    session.branch("draft")
    session.switch("draft")
    say(session, "two")
    session.branch("child")
    for name, why in (("main", "can't be deleted"), ("draft", "in use"), ("none", "there is no branch")):
        with pytest.raises(ConfigurationError, match=why):
            session.delete_branch(name)
    session.switch("child")
    session.delete_branch("draft")
    assert names(session) == ["main", "child"]
    assert contents(session) == ["one", "two"]
    with pytest.raises(ConfigurationError, match="there is no branch"):
        session.delete_branch("draft")


def test_an_object_on_a_branch_that_was_deleted(store: localfirst.Store, session: Session) -> None:
    say(session, "one")
    session.branch("draft")
    session.switch("draft")
    store.session("s", branch="main").delete_branch("draft")
    changes = len(store._local.log.run(KEY, 0, 100))
    for call in (
        lambda: session.add_message("user", "x"),
        session.get_messages,
        session.pop_message,
        session.clear,
        session.branches,
        session.export,
        lambda: len(session),
        lambda: session.branch("other"),
    ):
        with pytest.raises(ConfigurationError, match="deleted: switch"):
            call()
    assert len(store._local.log.run(KEY, 0, 100)) == changes
    session.set("metadata", "works")
    assert contents(store.session("s")) == ["one"]  # A new one begins on main.
    session.switch("main")
    assert contents(session) == ["one"]


# Two processes.


def test_another_process_sees_what_is_on_a_branch(tmp_path: Path) -> None:
    with closing(localfirst.open(tmp_path)) as one, closing(localfirst.open(tmp_path)) as other:
        here, there = one.session("s"), other.session("s")
        say(here, "one")
        assert len(there) == 1
        here.branch("draft")
        here.switch("draft")
        assert names(there) == ["main", "draft"]
        there.switch("draft")
        for place in range(5):
            say(here, f"here {place}")
            say(there, f"there {place}")
            assert contents(here) == contents(there)
        assert len(here) == 11
        with pytest.raises(ConfigurationError, match="already"):
            there.branch("draft")


def test_nothing_is_written_to_a_branch_that_another_process_deleted(tmp_path: Path) -> None:
    """It would be on disk, and nowhere to be seen."""
    with closing(localfirst.open(tmp_path)) as one, closing(localfirst.open(tmp_path)) as other:
        here, there = one.session("s"), other.session("s")
        here.branch("draft")
        there.switch("draft")
        say(there, "loaded")
        here.delete_branch("draft")
        with pytest.raises(ConfigurationError, match="deleted"):
            say(there, "lost")


def test_a_real_process_begins_where_this_one_was(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        session = store.session("s")
        say(session, "one")
        session.branch("draft")
        session.switch("draft")
        child = os.fork()
        if not child:
            status = 1
            try:
                with localfirst.open(tmp_path) as again:
                    say(again.session("s"), "of the child")
                status = 0
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert contents(session) == ["one", "of the child"]
        session.switch("main")
        assert contents(session) == ["one"]


# What is renamed.


def rename(store: localfirst.Store, origin: str, drop: frozenset[int] = frozenset()) -> None:
    """As replication does when the directory turns out to have a twin, or something is given up."""
    log = store._local.log
    head = log.head(KEY)
    assert head is not None
    assert log.settle(KEY, head, head, rename=Rename(head.acked + 1, origin, 1, drop)) is not None


def test_an_object_stays_on_its_branch_when_the_fork_is_renamed(store: localfirst.Store, session: Session) -> None:
    say(session, "one")
    session.branch("draft")
    session.branch("other")
    session.switch("draft")
    say(session, "two")
    for origin in ("renamed", "again"):
        rename(store, origin)
        say(session, origin)
        assert session.branches()[1].current
        assert contents(session) == contents(store.session("s"))
    assert contents(session) == ["one", "two", "renamed", "again"]
    assert {branch.name: branch.items for branch in session.branches()} == {"main": 1, "draft": 4, "other": 1}


def test_an_object_on_a_branch_whose_fork_was_given_up(store: localfirst.Store, session: Session) -> None:
    say(session, "one")
    session.branch("draft")
    session.switch("draft")
    say(session, "two")
    rename(store, store.replica_id, drop=frozenset({2}))
    with pytest.raises(ConfigurationError, match="deleted"):
        len(session)
    assert contents(store.session("s")) == ["one"]


# On disk.


def test_a_fork_of_a_long_session_is_one_row(store: localfirst.Store, session: Session) -> None:
    for start in range(0, 10_000, 500):
        session.import_data({**session.export(), "items": [{"n": n} for n in range(start, start + 500)]})
    rows = store._local.log.rows
    everything = partial(rows.measure, b"", b"\xff" * 40)
    count, size, _ = everything()
    session.branch("draft")
    session.branch("half", at_turn=None)
    assert [branch.items for branch in session.branches()] == [10_000] * 3
    assert everything()[0] == count + 2
    assert everything()[1] < size + 2 * 250
    changes = rows.measure(*span(CHANGE + KEY))[0]
    session.switch("draft")
    assert rows.measure(*span(CHANGE + KEY))[0] == changes
    assert everything()[0] == count + 3


def test_a_row_that_was_not_written_by_us(store: localfirst.Store, session: Session) -> None:
    say(session, "one")
    store._local.log.rows.put(HERE + KEY, b"\xc1")
    with pytest.raises(StoreCorrupt, match="branch"):
        len(store.session("s"))


# The rest.


def test_events_are_told_of_all_branches(store: localfirst.Store, session: Session) -> None:
    heard: list[Any] = []
    session.on(SessionEvent.MESSAGE_ADDED, lambda item: heard.append(item["content"]))
    session.on(SessionEvent.SESSION_CLEARED, lambda: heard.append("cleared"))
    session.branch("draft")
    other = store.session("s", branch="draft")
    say(other, "there")
    other.clear()
    assert heard == ["there", "cleared"]


def test_a_fork_in_a_turn(session: Session) -> None:
    with session.turn():
        say(session, "one")
        session.branch("draft")
        session.switch("draft")
        say(session, "two")
    assert contents(session) == ["one", "two"]


def test_the_store_tells_of_main(store: localfirst.Store, session: Session) -> None:
    say(session, "one")
    session.branch("draft")
    session.switch("draft")
    say(session, "two")
    (info,) = store.sessions()
    assert info.items == 1


def test_a_closed_store(store: localfirst.Store, session: Session) -> None:
    store.close()
    for call in (session.branches, partial(session.branch, "x"), partial(session.switch, "main")):
        with pytest.raises(localfirst.StoreClosed):
            call()


async def test_a_call_means_the_branch_on_which_it_was_made(store: localfirst.Store, session: Session) -> None:
    """Also if it is carried out later, when the object has gone elsewhere."""
    say(session, "one")
    session.branch("draft")
    on_main = await session._access.branch_soon()
    session.switch("draft")
    on_draft = await session._access.branch_soon()
    session.switch("main")
    add = plans.always((APPEND, b'["late"]'))
    (change,) = session._access.write(add, branch=on_draft)
    assert change.branch != MAIN_BRANCH
    assert list(store.session("s", branch="draft"))[-1] == "late"
    session.switch("draft")
    (change,) = await session._access.write_soon(add, branch=on_main)
    assert change.branch == MAIN_BRANCH
    assert len(store.session("s", branch="main")) == 2


def test_an_object_that_begins_on_main_waits_for_nothing(tmp_path: Path) -> None:
    """Every session has that branch, here or not."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        store = localfirst.open(tmp_path, remote=f"redis://127.0.0.1:{mute.getsockname()[1]}")
        began = time.monotonic()
        say(store.session("s", branch="main", hydrate_timeout=10), "one")
        assert time.monotonic() - began < 5
        store.close(timeout=0)
