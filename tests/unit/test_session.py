"""A session on local disk: every call, without a central store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import agents.memory
import pytest
from agents.memory import SessionSettings

import localfirst
from localfirst import InvalidItem, SessionEvent, plans
from localfirst.change import MAIN_BRANCH, PUT, Change, decode_change, encode_change
from localfirst.clock import pack, wall_ms
from localfirst.fold import Fold
from localfirst.metadata import OWN, encode_put
from localfirst.records import Foreign, Head, Page
from localfirst.session import Session


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def session(store: localfirst.Store) -> Session:
    return store.session("user-123")


async def test_items_come_back_in_order_and_fresh(session: Session) -> None:
    items = [{"role": "user", "content": "Hello"}, {"type": "function_call", "arguments": "{}"}, "text", None, [1]]
    await session.add_items(items[:2])
    await session.add_items(items[2:])
    first, second = await session.get_items(), await session.get_items()
    assert first == second == items
    first[0]["content"] = "changed"
    assert (await session.get_items())[0]["content"] == "Hello"


@pytest.mark.parametrize(
    ("limit", "expected"), [(None, [0, 1, 2]), (2, [1, 2]), (3, [0, 1, 2]), (9, [0, 1, 2]), (0, []), (-1, [0, 1, 2])]
)
async def test_limits(session: Session, limit: int | None, expected: list[int]) -> None:
    await session.add_items([0, 1, 2])
    assert await session.get_items(limit) == expected


@pytest.mark.parametrize("settings", [SessionSettings(limit=2), {"limit": 2}])
async def test_settings_give_the_limit_unless_one_is_said(store: localfirst.Store, settings: Any) -> None:
    session = store.session("s", session_settings=settings)
    await session.add_items([0, 1, 2])
    assert await session.get_items() == [1, 2]
    assert await session.get_items(limit=1) == [2]
    session.session_settings = None
    assert await session.get_items() == [0, 1, 2]


def test_it_is_a_session_of_the_agents_sdk(session: Session) -> None:
    assert isinstance(session, agents.memory.Session)
    assert session.session_settings is None


async def test_pop_takes_the_last_item_and_none_when_there_is_none(session: Session) -> None:
    await session.add_items(["a", "b"])
    await session.add_items(["c"])
    assert [await session.pop_item() for _ in range(4)] == ["c", "b", "a", None]
    await session.add_items(["d"])
    assert await session.get_items() == ["d"]


def test_records_of_integrations_are_kept_apart_from_the_metadata_of_users(
    store: localfirst.Store, session: Session, tmp_path: Path
) -> None:
    own = f"{OWN}record"
    for call in partial(session.set, own, 1), partial(session.delete, own), partial(session.increment, own):
        with pytest.raises(InvalidItem, match="taken"):
            call()
    with pytest.raises(InvalidItem, match="taken"):
        session.import_data({**session.export(), "metadata": {own: 1}})
    session.set("name", "Ada")
    session._access.write(plans.always((PUT, encode_put(own, "last", b"1"))))
    assert session.get(own) == 1
    assert session.metadata() == session.export()["metadata"] == {"name": "Ada"}


def test_nothing_is_told_of_records_of_integrations(tmp_path: Path) -> None:
    remote = (tmp_path / "central").as_uri()
    with (
        localfirst.open(tmp_path / "a", remote=remote, worker="none") as a,
        localfirst.open(tmp_path / "b", remote=remote, worker="none") as b,
    ):
        here, there = a.session("s"), b.session("s")
        heard: list[Any] = []
        for event in SessionEvent.METADATA_CHANGED, SessionEvent.CONFLICT_RESOLVED:
            there.on(event, lambda *arguments: heard.append(arguments[0]))
        for session, value in (here, b"1"), (there, b"2"):
            session._access.write(plans.always((PUT, encode_put(f"{OWN}record", "last", value))))
        here.set("name", "Ada")
        for store in a, b, a:
            store.flush(10)
            store.refresh(10)
        assert heard == ["name"]
        assert here.conflicts() == there.conflicts() == []
        assert here.get(f"{OWN}record") == there.get(f"{OWN}record") == 2


async def test_clear_takes_items_and_leaves_metadata(session: Session) -> None:
    await session.add_items(["a", "b"])
    session.set("name", "Alice")
    await session.clear_session()
    assert await session.get_items() == []
    assert session.get("name") == "Alice"
    await session.add_items(["c"])
    session.clear()
    session.clear()
    assert len(session) == 0


async def test_one_bad_item_refuses_the_call_whole(session: Session) -> None:
    await session.add_items(["before"])
    with pytest.raises(InvalidItem, match=r"item 1 of 3: set .* nothing was stored"):
        await session.add_items(["good", {"bad": {1}}, "good"])
    with pytest.raises(TypeError):
        await session.add_items("not a list")
    assert await session.get_items() == ["before"]
    assert session.pending == 1


async def test_nothing_to_add_is_fine(session: Session) -> None:
    await session.add_items([])
    assert session.pending == 0


def test_messages_are_the_items_with_role_and_content(session: Session) -> None:
    assert session.add_message("user", "Hello", name="Bob") == {"role": "user", "content": "Hello", "name": "Bob"}
    asyncio.run(session.add_items([{"type": "function_call"}]))
    session.add_message("assistant", "Hi")
    asyncio.run(session.add_items([{"type": "function_call_output"}]))
    assert [message["content"] for message in session.get_messages()] == ["Hello", "Hi"]
    assert [message["content"] for message in session.get_messages(1)] == ["Hi"]
    assert session.get_messages(0) == []
    assert session.pop_message() == {"role": "assistant", "content": "Hi"}
    assert len(session) == 3
    session.pop_message()
    assert session.pop_message() is None
    assert len(session) == 2


def test_metadata(session: Session) -> None:
    session.set("preferences", {"theme": "dark"})
    session.set("", None)
    assert session.get("preferences") == {"theme": "dark"}
    assert session.get("", "default") is None
    assert session.get("nothing", "default") == "default"
    session.get("preferences")["theme"] = "changed"
    assert session.metadata() == {"": None, "preferences": {"theme": "dark"}}
    session.delete("preferences")
    session.delete("nothing")
    assert session.metadata() == {"": None}
    assert session.pending == 3


def test_increment(session: Session) -> None:
    assert session.increment("n") == 1
    assert session.increment("n", 2.5) == 3.5
    session.set("null", None)
    assert session.increment("null") == 1
    session.set("text", "x")
    for key, by in (("text", 1), ("n", True)):
        with pytest.raises(InvalidItem, match="number"):
            session.increment(key, by)
    assert session.get("n") == 3.5


def test_merge_rules_by_call(session: Session) -> None:
    session.set("d", {"x": 1, "y": 1}, merge="merge")
    session.set("d", {"x": 1, "z": 2}, merge="merge")
    session.set("u", [1], merge="union")
    session.set("u", [2, 1], merge="union")
    session.set("m", 5, merge="max")
    session.set("m", 3, merge="max")
    session.set("f", "one", merge="first")
    session.set("f", "two", merge="first")
    assert session.metadata() == {"d": {"x": 1, "z": 2}, "u": [1, 2], "m": 5, "f": "one"}


@pytest.mark.parametrize(
    ("key", "value", "merge"),
    [(1, "v", None), ("k", {1, 2}, None), ("k", 1, "merge"), ("k", {}, "union"), ("k", 1, "never")],
)
def test_metadata_that_cannot_be_stored_is_refused(session: Session, key: Any, value: Any, merge: Any) -> None:
    with pytest.raises(InvalidItem):
        session.set(key, value, merge)
    assert session.metadata() == {}
    assert session.pending == 0


def test_export_and_import(store: localfirst.Store, session: Session) -> None:
    session.add_message("user", "Hello")
    session.set("name", "Alice")
    session.set("gone", 1)
    session.delete("gone")
    data = json.loads(json.dumps(session.export()))
    copy = store.session("copy")
    copy.add_message("user", "already here")
    copy.import_data(data)
    assert [message["content"] for message in copy.get_messages()] == ["already here", "Hello"]
    assert copy.metadata() == {"name": "Alice"}


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: None,
        lambda data: [data],
        lambda data: {**data, "format": "other"},
        lambda data: {**data, "version": 99},
        lambda data: {**data, "items": {}},
        lambda data: {key: value for key, value in data.items() if key != "items"},
        lambda data: {**data, "items": ["good", {"bad": {1, 2}}]},
        lambda data: {**data, "metadata": []},
        lambda data: {**data, "metadata": {"good": 1, "bad": {1, 2}}},
        lambda data: {**data, "metadata": {1: 1}},
    ],
)
def test_a_damaged_export_is_refused_whole(store: localfirst.Store, session: Session, damage: Any) -> None:
    session.add_message("user", "Hello")
    session.set("name", "Alice")
    copy = store.session("copy")
    with pytest.raises(InvalidItem):
        copy.import_data(damage(session.export()))
    assert copy.export()["items"] == []
    assert copy.metadata() == {}


async def test_events_of_local_calls(store: localfirst.Store, session: Session) -> None:
    heard: list[Any] = []
    stops = [
        session.on(SessionEvent.MESSAGE_ADDED, lambda item: heard.append(("added", item))),
        session.on(SessionEvent.MESSAGE_REMOVED, lambda item: heard.append(("removed", item))),
        session.on(SessionEvent.SESSION_CLEARED, lambda: heard.append("cleared")),
        session.on(SessionEvent.METADATA_CHANGED, lambda key, value: heard.append((key, value))),
    ]
    everywhere: list[Any] = []
    store.on(SessionEvent.MESSAGE_ADDED, lambda session_id, item: everywhere.append((session_id, item)))
    await session.add_items(["a", "b"])
    await session.pop_item()
    session.clear()
    session.set("k", [1])
    session.increment("n", 2)
    session.delete("k")
    for stop in stops:
        stop()
        stop()
    session.add_message("user", "unheard")
    store.session("other").add_message("user", "x")
    assert heard == [
        ("added", "a"),
        ("added", "b"),
        ("removed", "b"),
        "cleared",
        ("k", [1]),
        ("n", 2),
        ("k", None),
    ]
    assert [session_id for session_id, _ in everywhere] == ["user-123", "user-123", "user-123", "other"]


def test_a_callback_that_raises_is_logged_and_stops_nothing(session: Session, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[Any] = []
    session.on(SessionEvent.MESSAGE_ADDED, lambda item: 1 / 0)
    session.on(SessionEvent.MESSAGE_ADDED, heard.append)
    session.add_message("user", "Hello")
    assert len(heard) == 1
    assert "MESSAGE_ADDED" in caplog.text
    assert "ZeroDivisionError" in caplog.text


def test_pythons_own_protocols(session: Session) -> None:
    assert bool(session)
    assert len(session) == 0
    session.add_message("user", "Hello")
    assert [item["content"] for item in session] == ["Hello"]
    assert "user-123" in repr(session)
    with session as same:
        assert same is session


async def test_calls_gathered_on_one_loop_keep_their_order(session: Session) -> None:
    await asyncio.gather(*(session.add_items([number]) for number in range(50)))
    assert await session.get_items() == list(range(50))


async def test_a_megabyte_and_odd_values_come_back(session: Session) -> None:
    items = ["x" * 2**20, "\ud800", float("inf"), 10**40, {"": ""}]
    await session.add_items(items)
    assert await session.get_items() == items


async def test_everything_is_there_after_reopening(tmp_path: Path) -> None:
    """Invariant 1."""
    with localfirst.open(tmp_path) as store:
        session = store.session("s")
        await session.add_items(["a", "b", "c"])
        await session.pop_item()
        session.set("k", 1)
    with localfirst.open(tmp_path, durability="full") as store:
        session = store.session("s")
        assert await session.get_items() == ["a", "b"]
        assert session.metadata() == {"k": 1}
        await session.add_items(["d"])
        assert await session.get_items() == ["a", "b", "d"]


def test_two_objects_of_one_session_and_two_stores_of_one_directory_agree(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as one, localfirst.open(tmp_path) as two:
        first, same, other = one.session("s"), one.session("s"), two.session("s")
        first.add_message("user", "1")
        other.add_message("user", "2")
        same.add_message("user", "3")
        assert len(first) == len(same) == len(other) == 3
        assert [item["content"] for item in other] == ["1", "2", "3"]


def test_sessions_are_listed(store: localfirst.Store) -> None:
    for name in ("b", "a1", "a2", "é"):
        store.session(name).add_message("user", name)
    store.session("never used")
    assert [info.session_id for info in store.sessions()] == ["a1", "a2", "b", "é"]
    infos = list(store.sessions("a"))
    assert [info.session_id for info in infos] == ["a1", "a2"]
    assert infos[0].items == 1
    assert infos[0].bytes == len(b'{"role":"user","content":"a1"}')
    assert infos[0].updated_at is not None
    assert infos[0].state == "local"


def test_sessions_are_listed_by_how_long_they_were_idle(store: localfirst.Store) -> None:
    store.session("s").add_message("user", "x")
    assert [info.session_id for info in store.sessions(idle_for=0)] == ["s"]
    assert list(store.sessions(idle_for=timedelta(hours=1))) == []
    assert list(store.sessions(idle_for=3600.0)) == []


def test_namespaces_never_meet(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, namespace="a") as a, localfirst.open(tmp_path, namespace="b") as b:
        a.session("s").add_message("user", "secret")
        assert len(b.session("s")) == 0
        assert list(b.sessions()) == []


def test_views_are_bounded_in_memory_and_come_back(store: localfirst.Store) -> None:
    store._local._views._limit = 50_000
    for number in range(300):
        store.session(f"s{number}").add_message("user", "x" * 1000)
    assert len(store._local._views._views) < 100
    assert [len(store.session(f"s{number}")) for number in range(300)] == [1] * 300


def test_a_closed_store_says_so(tmp_path: Path) -> None:
    store = localfirst.open(tmp_path)
    session = store.session("s")
    store.close()
    store.close()
    calls: list[Any] = [
        lambda: session.add_message("user", "x"),
        lambda: session.get("k"),
        lambda: session.set("k", 1),
        lambda: len(session),
        lambda: asyncio.run(session.add_items([])),
        lambda: asyncio.run(session.get_items()),
        lambda: store.session("t"),
        lambda: list(store.sessions()),
        store.status,
        store.flush,
        store.refresh,
    ]
    for call in calls:
        with pytest.raises(localfirst.StoreClosed, match="open it again"):
            call()


def test_local_only_status(store: localfirst.Store) -> None:
    store.session("s").add_message("user", "x")
    status = store.status()
    assert (status.state, status.remote, status.last_error, status.leader) == ("local", None, None, False)
    assert status.pending_changes == 1
    assert status.pending_bytes > 0
    assert status.oldest_pending_seconds is not None
    store.flush()
    store.refresh()


def test_a_call_that_was_interrupted_after_its_commit_does_not_stop_the_next(
    session: Session, store: localfirst.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C between the commit and what follows it: the row is there, and nobody was told."""
    session.add_message("user", "before")
    append = store._local.log.append

    def append_and_interrupt(*arguments: Any) -> bool:
        append(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(store._local.log, "append", append_and_interrupt)
        with pytest.raises(KeyboardInterrupt):
            session.add_message("user", "interrupted")
    session.add_message("user", "after")
    assert [message["content"] for message in session.get_messages()] == ["before", "interrupted", "after"]


@pytest.mark.parametrize(
    ("first", "by"), [(10**400, 0.5), (10**4299 * 9, 10**4299 * 9)], ids=["too great for a float", "too many digits"]
)
def test_an_increment_that_has_no_result_is_refused_and_harms_nothing(session: Session, first: int, by: float) -> None:
    session.set("n", first)
    with pytest.raises(InvalidItem):
        session.increment("n", by)
    session.add_message("user", "Hello")
    assert session.get("n") == first
    assert session.pending == 2


def test_a_union_that_would_be_too_deep_keeps_what_was_there(session: Session) -> None:
    deep: Any = "core"
    for _ in range(512):
        deep = [deep]
    session.set("k", {"x": deep[0]})
    session.set("k", [1], merge="union")
    assert session.metadata()["k"] is not None
    session.add_message("user", "Hello")
    assert len(session) == 1


def test_what_cannot_be_folded_is_not_stored(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    session.add_message("user", "before")
    with monkeypatch.context() as patched:
        patched.setattr(Fold, "pend", lambda *_: (_ for _ in ()).throw(localfirst.MalformedChange("no")))
        with pytest.raises(localfirst.MalformedChange):
            session.add_message("user", "refused")
    session.add_message("user", "after")
    assert [message["content"] for message in session.get_messages()] == ["before", "after"]


def test_a_write_after_a_change_of_a_fast_clock_is_the_later_one(store: localfirst.Store, session: Session) -> None:
    log, key, soon = store._local.log, session._key, wall_ms() + 3_600_000
    head = Head("default", "user-123")
    theirs = Change("other", 1, pack(soon), 0, MAIN_BRANCH, PUT, encode_put("k", "last", b'"theirs"'))
    log.create(key, head)
    page = Page([], [Foreign(1, soon, encode_change(theirs))])
    assert log.settle(key, head, Head("default", "user-123", origin="me", generation="generation", seq=1), [page])
    assert session.get("k") == "theirs"
    session.set("other key", "mine")
    (mine,) = log.run(key, 0, 10)
    assert decode_change(mine).time > theirs.time
