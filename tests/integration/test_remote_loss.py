"""Central stores that are not the one they were: `on_remote_loss`, and what becomes of the sessions on either side."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import redis

import localfirst
from localfirst import ConfigurationError, RemoteLost, RemoteRejected, SessionEvent, StoreMoved, connections
from localfirst.testing.servers import RedisServer, Server, fresh_database
from sync.central import connect
from tests.conftest import OwnRedis
from tests.integration.stores import Open, contents, settle
from tests.polling import eventually

SESSIONS = ("s0", "s1", "s2")


@pytest.fixture
async def other_database(postgres_server: Server) -> AsyncIterator[str]:
    async with fresh_database(postgres_server.url) as url:
        yield url


@pytest.fixture(params=["directory", "redis", "postgres"])
def two_urls(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, str]:
    """Two empty central stores of each kind in turn."""
    if request.param == "directory":
        return (tmp_path / "one").as_uri(), (tmp_path / "other").as_uri()
    if request.param == "redis":
        own_redis = request.getfixturevalue("own_redis")
        return own_redis().url, own_redis().url
    return request.getfixturevalue("postgres_url"), request.getfixturevalue("other_database")


def fill(store: localfirst.Store, *words: str) -> None:
    """Write to all sessions, and have it in the central store."""
    for name in SESSIONS:
        for word in words:
            store.session(name).add_message("user", word)
        store.session(name).set(words[0], True)
    store.flush(10)


def held_by(url: str, namespace: str) -> list[str]:
    """The sessions in a central store, whose identity is left alone."""

    async def sessions() -> list[str]:
        central = connect(url, namespace)
        found = await central.sessions("", 1000)
        await central.close()
        return found

    return asyncio.run(sessions())


def everything_in(server: RedisServer) -> dict[bytes, Any]:
    """All keys of a Redis, with what they hold. The note of which store it is, is none of the data."""
    with redis.Redis.from_url(server.url) as client:
        keys: Any = client.keys("*")
        return {key: client.dump(key) for key in keys if not key.endswith(b":store")}


def flush_all(server: RedisServer) -> None:
    with redis.Redis.from_url(server.url) as client:
        client.flushall()


def logged(caplog: pytest.LogCaptureFixture, text: str) -> int:
    return sum(text in record.message for record in caplog.records if record.levelno >= logging.WARNING)


# It is sent again.


def test_an_emptied_redis_gets_everything_back_by_itself(own_redis: OwnRedis, opened: Open) -> None:
    server = own_redis()
    a, b = opened("a", server.url), opened("b", server.url)
    lost: dict[localfirst.Store, list[str]] = {a: [], b: []}
    for store, told in lost.items():
        store.on(SessionEvent.REMOTE_LOST, lambda session_id, _, told=told: told.append(session_id))
    fill(a, "from a")
    fill(b, "from b")
    a.refresh(10)
    flush_all(server)
    a.session("s0").add_message("user", "after")
    eventually(lambda: {*lost[a], *lost[b]} == set(SESSIONS))  # Either may be the one that finds it.
    settle(a, b)
    c = opened("c", server.url)
    c.refresh(10)
    for name in SESSIONS:
        assert contents(c.session(name)) == contents(a.session(name)) == contents(b.session(name))
        assert sorted(contents(c.session(name))) == ["after", "from a", "from b"][name != "s0" :]
        assert c.session(name).metadata() == {"from a": True, "from b": True}
    for store in (a, b, c):
        assert store.verify(10, full=True).problems == []
        assert store.status().state == "online"
    assert all(len(told) == len(set(told)) for told in lost.values())


def test_what_was_sent_again_while_it_ran_is_not_asked_about_later(own_redis: OwnRedis, opened: Open) -> None:
    """A worker that runs finds the sessions lost one by one; that the store is another one, it finds out by that."""
    server = own_redis()
    a = opened("a", server.url)
    fill(a, "before")
    flush_all(server)
    lost = a._local.identity.followed(a.namespace)
    eventually(lambda: a._local.identity.followed(a.namespace) != lost)
    a.flush(10)
    assert a.verify(10, full=True).ok
    a.close()
    again = opened("a", server.url, on_remote_loss="ask")
    again.refresh(10)
    assert again.status().state == "online"


def test_another_store_is_told_of_in_one_line(
    two_urls: tuple[str, str], opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    one, other = two_urls
    with opened("a", one) as first:
        fill(first, "before")
    again = opened("a", other)
    again.flush(10)
    again.refresh(10)
    again.refresh(10)
    opened("b", other).refresh(10)
    assert logged(caplog, "another one than before") == 1


def test_another_store_with_sessions_of_the_same_names_loses_nothing_and_nor_do_we(
    two_urls: tuple[str, str], opened: Open
) -> None:
    one, other = two_urls
    theirs = opened("theirs", other)
    fill(theirs, "theirs")
    with opened("a", one) as first:
        fill(first, "ours")
        first.session("only here").add_message("user", "ours")
    again = opened("a", other)
    again.session("s0").add_message("user", "new")
    settle(again, theirs)
    for name in SESSIONS:
        assert contents(again.session(name)) == contents(theirs.session(name))
        assert sorted(contents(again.session(name))) == ["new", "ours", "theirs"][name != "s0" :]
        assert theirs.session(name).metadata() == {"ours": True, "theirs": True}
    assert contents(theirs.session("only here")) == ["ours"]
    assert again.verify(10, full=True).ok
    back = opened("b", one)  # What was there stays there.
    back.refresh(10)
    assert contents(back.session("s0")) == ["ours"]


def test_a_schema_that_was_dropped_is_filled_again(postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    fill(a, "from a")
    fill(b, "from b")
    a.refresh(10)
    drop_schema(postgres_url)
    for store in (a, b):
        eventually(partial(refreshed, store))
    fill(a, "after")
    settle(a, b)
    for name in SESSIONS:
        assert contents(a.session(name)) == contents(b.session(name))
        assert sorted(contents(a.session(name))) == ["after", "from a", "from b"]


def refreshed(store: localfirst.Store) -> bool:
    """The first call may be the one that finds out that the schema is not there; the next makes it."""
    try:
        store.refresh(20)
    except ConfigurationError:
        return False
    return True


def drop_schema(url: str) -> None:
    async def drop() -> None:
        connection = await asyncpg.connect(url)
        await connection.execute("DROP SCHEMA localfirst CASCADE")
        await connection.close()

    asyncio.run(drop())


# It is asked.


@pytest.mark.parametrize("when", ["while it runs", "while it is closed"])
def test_an_emptied_redis_is_asked_about(own_redis: OwnRedis, opened: Open, when: str) -> None:
    server = own_redis()
    a = opened("a", server.url, on_remote_loss="ask")
    fill(a, "before")
    if when == "while it is closed":
        a.close()
        flush_all(server)
        a = opened("a", server.url, on_remote_loss="ask")
    else:
        flush_all(server)
    a.session("s0").add_message("user", "after")
    a.session("new").add_message("user", "after")
    eventually(lambda: a.status().state == "blocked", 3)
    assert "`reseed` sends it what is here" in str(a.status().last_error)
    for call in (a.flush, a.refresh, a.session("s0").flush):
        with pytest.raises(RemoteLost):
            call(5)
    a.session("s1").add_message("user", "local calls work")
    assert contents(a.session("s1")) == ["before", "local calls work"]
    assert a.session("s1").pop_message() == {"role": "user", "content": "local calls work"}
    assert everything_in(server) == {}
    assert a.status().state == "blocked"
    assert a.reseed()
    eventually(lambda: a.status().state == "online", 3)
    a.flush(10)
    assert a.quarantined() == []
    c = opened("c", server.url)
    c.refresh(10)
    assert [contents(c.session(name)) for name in ("s0", "s1", "new")] == [["before", "after"], ["before"], ["after"]]
    assert not a.reseed()


def test_nothing_is_written_to_another_store_before_somebody_says_so(two_urls: tuple[str, str], opened: Open) -> None:
    one, other = two_urls
    namespace = opened("theirs", other).namespace
    fill(opened("theirs", other), "theirs")
    with opened("a", one, on_remote_loss="ask") as first:
        fill(first, "ours")
        first.session("only here").add_message("user", "ours")
    again = opened("a", other, on_remote_loss="ask")
    again.session("s0").add_message("user", "new")
    eventually(lambda: again.status().state == "blocked", 3)
    with pytest.raises(RemoteLost):
        again.refresh(5)
    theirs = opened("c", other)
    theirs.refresh(10)
    assert held_by(other, namespace) == list(SESSIONS)
    assert all(contents(theirs.session(name)) == ["theirs"] for name in SESSIONS)
    assert contents(again.session("s1")) == ["ours"]  # Nor was anything taken.
    assert again.reseed()
    again.flush(10)
    theirs.refresh(10)
    assert sorted(contents(theirs.session("s0"))) == ["new", "ours", "theirs"]
    assert again.verify(10, full=True).ok


def test_the_old_store_comes_back_before_anybody_answers(two_urls: tuple[str, str], opened: Open) -> None:
    """A wrong URL, put right: nothing happened, and an answer that comes late changes nothing."""
    one, other = two_urls
    with opened("a", one, on_remote_loss="ask") as first:
        fill(first, "before")
    with opened("a", other, on_remote_loss="ask") as wrong:
        eventually(lambda: wrong.status().state == "blocked", 3)
    right = opened("a", one, on_remote_loss="ask")
    right.session("s0").add_message("user", "after")
    right.flush(10)
    assert not right.reseed()
    right.close()
    again = opened("a", one, on_remote_loss="ask")
    again.refresh(10)
    assert again.status().state == "online"
    assert held_by(other, right.namespace) == []


def test_a_schema_that_was_dropped_is_asked_about(postgres_url: str, opened: Open) -> None:
    a = opened("a", postgres_url, on_remote_loss="ask")
    fill(a, "before")
    drop_schema(postgres_url)
    a.session("s0").add_message("user", "after")
    eventually(lambda: a.status().state == "blocked")
    with pytest.raises(RemoteLost):
        a.refresh(10)
    assert held_by(postgres_url, a.namespace) == []
    assert a.reseed()
    eventually(lambda: held_by(postgres_url, a.namespace) == list(SESSIONS))


# One session of many.


@pytest.fixture
def told() -> list[str]:
    """What sessions are in quarantine for, as the events say it."""
    return []


@pytest.fixture
def gone(own_redis: OwnRedis, opened: Open, namespace: str, told: list[str]) -> tuple[localfirst.Store, RedisServer]:
    """A store that asks, and a Redis that has lost its session s1."""
    server = own_redis()
    a = opened("a", server.url, on_remote_loss="ask")
    a.on(SessionEvent.QUARANTINED, lambda _, reason: told.append(reason))
    fill(a, "1", "2")
    with redis.Redis.from_url(server.url) as client:
        keys: Any = client.keys(f"localfirst:{namespace}:{{s1}}:*")
        assert client.delete(*keys) == 2
    eventually(a.quarantined)
    return a, server


def test_one_lost_session_stops_and_no_other(
    gone: tuple[localfirst.Store, RedisServer],
    opened: Open,
    namespace: str,
    told: list[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    a, server = gone
    b = opened("b", server.url)
    assert [(found.session_id, found.direction) for found in a.quarantined()] == [("s1", "pull"), ("s1", "push")]
    (reason,) = {found.reason for found in a.quarantined()}
    eventually(lambda: told)
    assert told == [reason]  # One loss, one event.
    records = [*caplog.get_records("setup"), *caplog.get_records("call")]
    logged_of_it = [record.message for record in records if reason in record.message]
    assert logged_of_it == [f"can't be synced (pull and push): {reason}"]
    assert reason.count("session 's1'") == 1
    assert "()" not in reason  # It is read at the command line, too.
    assert {info.session_id: info.state for info in a.sessions()} == {
        "s0": "synced",
        "s1": "quarantined",
        "s2": "synced",
    }
    assert a.status().quarantined == 1
    assert a.status().state == "online"
    a.session("s1").add_message("user", "3")
    a.session("s0").add_message("user", "3")
    with pytest.raises(RemoteRejected, match="retry"):
        a.flush(10)
    b.refresh(10)
    assert contents(b.session("s0")) == ["1", "2", "3"]
    assert held_by(server.url, namespace) == ["s0", "s2"]
    assert contents(a.session("s1")) == ["1", "2", "3"]


def test_a_lost_session_is_sent_again_after_a_retry(gone: tuple[localfirst.Store, RedisServer], opened: Open) -> None:
    a, server = gone
    told: list[str] = []
    a.session("s1").on(SessionEvent.REMOTE_LOST, told.append)
    a.session("s1").add_message("user", "3")
    assert a.retry("s1")
    a.flush(10)
    a.refresh(10)
    assert a.quarantined() == []
    assert len(told) == 1
    b = opened("b", server.url)
    b.refresh(10)
    assert contents(b.session("s1")) == ["1", "2", "3"]
    assert a.verify(10, full=True).ok


def test_consent_is_for_one_loss(gone: tuple[localfirst.Store, RedisServer], opened: Open, namespace: str) -> None:
    a, server = gone
    assert a.retry("s1")
    a.refresh(10)
    assert held_by(server.url, namespace) == list(SESSIONS)
    with redis.Redis.from_url(server.url) as client:
        keys: Any = client.keys(f"localfirst:{namespace}:{{s1}}:*")
        client.delete(*keys)
    eventually(a.quarantined)
    assert held_by(server.url, namespace) == ["s0", "s2"]


def test_a_lost_session_that_is_given_up_is_dropped_here_too_and_can_begin_anew(
    gone: tuple[localfirst.Store, RedisServer], opened: Open, namespace: str
) -> None:
    a, server = gone
    a.session("s1").add_message("user", "3")
    assert a.discard("s1")
    assert (contents(a.session("s1")), a.session("s1").metadata(), a.session("s1").pending) == ([], {}, 0)
    a.refresh(10)
    a.flush(10)
    assert a.quarantined() == []
    assert held_by(server.url, namespace) == ["s0", "s2"]
    a.session("s1").add_message("user", "anew")
    a.flush(10)
    b = opened("b", server.url)
    b.refresh(10)
    assert contents(b.session("s1")) == contents(a.session("s1")) == ["anew"]
    assert a.verify(10, full=True).ok
    a.close()
    assert contents(opened("a", server.url).session("s1")) == ["anew"]


def test_a_session_that_another_device_sends_again_leaves_the_quarantine(
    gone: tuple[localfirst.Store, RedisServer], opened: Open, namespace: str
) -> None:
    """Its owner was asked, another device was not: what it sent is as good as an answer."""
    a, server = gone
    b = opened("b", server.url)
    b.session("s1").add_message("user", "from b")
    b.flush(10)
    assert a.retry("s1")
    a.flush(10)
    a.refresh(10)
    b.refresh(10)
    assert contents(a.session("s1")) == contents(b.session("s1"))
    assert sorted(contents(a.session("s1"))) == ["1", "2", "from b"]


def test_a_central_directory_that_is_deleted_under_its_users_is_filled_again(tmp_path: Path) -> None:
    central = tmp_path / "central"
    with localfirst.open(tmp_path / "a", remote=central.as_uri(), poll_interval=0.1) as store:
        store.session("s").add_message("user", "before")
        store.flush(10)
        shutil.rmtree(central)
        store.session("s").add_message("user", "after")
        store.flush(10)
        with localfirst.open(tmp_path / "b", remote=central.as_uri(), poll_interval=0.1) as other:
            eventually(lambda: len(other.session("s")) == 2)


def test_a_directory_that_is_deleted_under_its_store_is_told_and_comes_back_from_the_central_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "PLACE_SECONDS", 0.05)
    central = (tmp_path / "central").as_uri()
    store = localfirst.open(tmp_path / "a", remote=central, poll_interval=0.1)
    session = store.session("s")
    session.add_message("user", "before")
    store.flush(10)
    shutil.rmtree(tmp_path / "a")
    assert store._link is not None
    shown = store._link.host.status
    eventually(lambda: shown.state == "stopped")
    assert "open the store again" in str(shown.last_error)
    calls: list[Callable[[], object]] = [
        lambda: session.add_message("user", "after"),
        session.get_messages,
        store.status,
        lambda: list(store.sessions()),
    ]
    for call in calls:
        with pytest.raises(StoreMoved, match="open the store again"):
            call()
    store.close()
    assert not (tmp_path / "a" / "data").exists()
    with localfirst.open(tmp_path / "a", remote=central) as again:
        assert contents(again.session("s")) == ["before"]


@pytest.mark.parametrize("worker", ["none", "thread"])
def test_a_flush_finds_that_the_central_store_is_another_one(tmp_path: Path, worker: Any) -> None:
    """Also if all had been sent to the one before."""
    old, new = ((tmp_path / name).as_uri() for name in ("old", "new"))
    with localfirst.open(tmp_path / "a", remote=old) as store:
        store.session("s").add_message("user", "x")
        store.flush(30)
    with localfirst.open(tmp_path / "a", remote=new, worker=worker) as store:
        store.flush(30)
    with localfirst.open(tmp_path / "b", remote=new) as other:
        other.refresh(30)
        assert [message["content"] for message in other.session("s").get_messages()] == ["x"]


def test_a_flush_with_nothing_to_send_does_not_wait_for_a_server(tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "a", remote="redis://127.0.0.1:1") as store:
        store.flush(5)
