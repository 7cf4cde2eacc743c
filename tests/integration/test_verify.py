"""`Store.verify`: whether what is here is what the central store has, found out by reading it again."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

import localfirst
from localfirst import ConfigurationError, RemoteRejected, SessionEvent, SyncTimeout
from localfirst.change import Admitted, decode_change, new_id
from localfirst.checkpoint import State, encode_state
from localfirst.schema import checksum
from localfirst.status import SessionCheck
from sync.central import connect
from sync.central.base import Checkpoint, Want
from tests.conftest import OwnRedis
from tests.integration.stores import Open, push_foreign


@pytest.fixture
def both(remote_url: str, opened: Open) -> tuple[localfirst.Store, localfirst.Store]:
    """Two devices that agree on two sessions, with changes of each in both."""
    a, b = opened("a", remote_url), opened("b", remote_url)
    for store, name in ((a, "a"), (b, "b")):
        for session_id in ("one", "two"):
            store.session(session_id).add_message("user", f"Hello from {name}")
            store.session(session_id).set(name, True)
        store.flush(10)
    a.refresh(10)
    return a, b


def problems_of(store: localfirst.Store, *, full: bool = False) -> dict[str, str]:
    return {check.session_id: check.problem for check in store.verify(10, full=full).problems}


# What agrees.


def test_what_agrees(both: tuple[localfirst.Store, localfirst.Store]) -> None:
    for store in both:
        for full in (False, True):
            report = store.verify(10, full=full)
            assert report.ok
            assert sorted(check.session_id for check in report.sessions) == ["one", "two"]
            assert report.problems == []
            assert store.verify(10, session_id="one", full=full).sessions == [SessionCheck("one", "", 0)]


def test_what_is_pending_is_told_and_no_problem(central: str, opened: Open) -> None:
    with opened("a", central) as first:
        first.session("s").add_message("user", "1")
    a = opened("a", central, worker="none")
    a.session("s").add_message("user", "2")
    a.session("s").set("key", "value")
    a.session("new").add_message("user", "1")
    report = a.verify(10)
    assert report.ok
    assert {check.session_id: check.pending for check in report.sessions} == {"s": 2, "new": 1}
    assert a.status().pending_changes == 3  # It sends nothing.


def test_what_is_new_is_taken_first(both: tuple[localfirst.Store, localfirst.Store], opened: Open) -> None:
    a, b = both
    for number in range(50):
        b.session("one").add_message("user", number)
    b.session("three").add_message("user", "new")
    b.flush(10)
    report = a.verify(10, full=True)
    assert report.ok
    assert len(report.sessions) == 3
    assert len(a.session("one")) == 52


async def test_without_blocking_the_loop(central: str, tmp_path: Path) -> None:
    for worker in ("task", "thread", "none"):
        async with localfirst.open(tmp_path / worker, remote=central, worker=worker) as store:
            store.session(worker).add_message("user", "Hello")
            await store.aflush(10)
            report = await store.averify(10, full=True)
            assert report.ok
            assert [check.session_id for check in report.sessions if check.session_id == worker] == [worker]
            assert (await store.averify(10, session_id=worker)).ok
            if worker == "task":
                with pytest.raises(ConfigurationError, match="averify"):
                    store.verify(1)


def test_without_a_central_store_there_is_nothing_to_compare_with(opened: Open) -> None:
    store = opened("a", None)
    store.session("s").add_message("user", "1")
    assert store.verify(1).ok


def test_a_central_store_that_is_away(opened: Open) -> None:
    store = opened("a", "redis://127.0.0.1:1/0")
    with pytest.raises(SyncTimeout):
        store.verify(0.2)


def test_it_works_while_everybody_writes(both: tuple[localfirst.Store, localfirst.Store]) -> None:
    """Logs move, are folded, and are verified all the time: nothing is wrong."""
    stop = threading.Event()

    def write(store: localfirst.Store) -> None:
        session, number = store.session("one"), 0
        while not stop.is_set():
            number += 1
            session.set("number", f"{number} ".ljust(100, "x"))
            if number % 5 == 0:
                stop.wait(0.005)

    writers = [threading.Thread(target=write, args=(store,)) for store in both]
    for writer in writers:
        writer.start()
    try:
        found = [both[turn % 2].verify(20, full=turn % 3 == 0).problems for turn in range(12)]
    finally:
        stop.set()
        for writer in writers:
            writer.join(30)
    assert found == [[]] * 12


# What does not.


def alter_central(url: str, namespace: str) -> None:
    """Change a change in session "one", and not the digest that stands beside it."""
    if url.startswith("redis"):
        _alter_redis(url, namespace)
    elif url.startswith("postgres"):
        asyncio.run(_alter_postgres(url))
    else:
        _alter_rows(Path(urlsplit(url).path) / "cache.db", b"l")


def _alter_redis(url: str, namespace: str) -> None:
    with redis.Redis.from_url(url) as client:
        log = f"localfirst:{namespace}:{{one}}:log"
        entry: Any = client.lindex(log, 0)
        assert b"Hello" in entry
        client.lset(log, 0, entry.replace(b"Hello", b"Jello"))


async def _alter_postgres(url: str) -> None:
    connection = await asyncpg.connect(url)
    done = await connection.execute(
        "UPDATE localfirst.changes SET body = replace(convert_from(body, 'UTF8'), 'Hello', 'Jello')::bytea"
        " WHERE session_id = 'one' AND seq = 1"
    )
    await connection.close()
    assert done == "UPDATE 1"


def _alter_rows(file: Path, kind: bytes) -> None:
    """Change the first row of a kind that says Hello, checksum and all: what a disk does, its checksum tells."""
    with closing(sqlite3.connect(file)) as connection, connection:
        key, value = next(
            (key, value)
            for key, value in connection.execute("SELECT key, value FROM Cache WHERE substr(key, 1, 1) = ?", (kind,))
            if b"Hello" in value
        )
        changed = value.replace(b"Hello", b"Jello")
        connection.execute("UPDATE Cache SET value = ?, tag = ? WHERE key = ?", (changed, checksum(key, changed), key))


def test_what_was_altered_behind_the_back_of_the_central_store(
    both: tuple[localfirst.Store, localfirst.Store], remote_url: str, namespace: str
) -> None:
    alter_central(remote_url, namespace)
    for store in both:
        assert problems_of(store) == {}  # Its digest is as it was, and nobody read more.
        (problem,) = problems_of(store, full=True).values()
        assert problem == "the central log is not what its own digest says"
        report = store.verify(10, full=True)
        assert not report.ok
        assert len(report.sessions) == 2


@pytest.mark.parametrize("kind", [b"c", b"p"], ids=["a change made here", "a page of others' changes"])
def test_what_was_altered_on_this_disk(opened: Open, central: str, tmp_path: Path, kind: bytes) -> None:
    a, b = opened("a", central), opened("b", central)
    a.session("s").add_message("user", "Hello from a")
    a.flush(10)
    b.session("s").add_message("user", "Hello from b")
    b.flush(10)
    a.session("good").add_message("user", "1")
    a.flush(10)
    a.refresh(10)
    assert a.verify(10).ok
    _alter_rows(tmp_path / "a" / "data" / "cache.db", kind)
    assert problems_of(a) == {"s": "what is on this disk is not what was written"}
    assert a.verify(10, session_id="good").ok
    assert not a.verify(10, session_id="s").ok
    b.refresh(10)
    assert b.verify(10, full=True).ok


def test_a_checkpoint_that_was_altered_on_this_disk(opened: Open, central: str, tmp_path: Path) -> None:
    a = opened("a", central)
    a.session("s").add_message("user", "Hello")
    for number in range(1000):
        a.session("s").set("number", f"{number} ".ljust(100, "x"))
    a.flush(20)
    assert a.verify(10, full=True).ok
    _alter_rows(tmp_path / "a" / "data" / "cache.db", b"k")
    assert problems_of(a) == {"s": "what is on this disk is not what was written"}


def test_what_can_not_be_read_on_this_disk(opened: Open, central: str, tmp_path: Path) -> None:
    a = opened("a", central)
    for session_id in ("s", "good"):
        a.session(session_id).add_message("user", "1")
    a.flush(10)
    with closing(sqlite3.connect(tmp_path / "a" / "data" / "cache.db")) as connection, connection:
        key = a.session("s")._key
        connection.execute("UPDATE Cache SET value = x'c1' WHERE substr(key, 1, 17) = ?", (b"p" + key,))
    problems = problems_of(a)
    assert set(problems) == {"s"}
    assert "can't be read" in problems["s"]


def lose_in_redis(url: str, namespace: str, session_id: str) -> None:
    with redis.Redis.from_url(url) as client:
        keys: Any = client.keys(f"localfirst:{namespace}:{{{session_id}}}:*")
        assert client.delete(*keys) == 2


LOST = "it is not in the central store any more; the next sync sends it again"


@pytest.mark.parametrize("loss", ["reseed", "ask"])
def test_a_session_that_the_central_store_has_lost_is_told_and_nothing_is_done(
    own_redis: OwnRedis, opened: Open, namespace: str, loss: str
) -> None:
    server = own_redis()
    a = opened("a", server.url, worker="none", on_remote_loss=loss)
    for session_id in ("s", "good"):
        a.session(session_id).add_message("user", "1")
    a.flush(10)
    lose_in_redis(server.url, namespace, "s")
    told: list[object] = []
    for event in (SessionEvent.QUARANTINED, SessionEvent.REMOTE_LOST):
        a.on(event, lambda *arguments: told.append(arguments))
    for full in (False, True):
        report = a.verify(10, full=full)
        assert report.problems == [SessionCheck("s", LOST, 0, lost=True)]
        assert a.verify(10, session_id="s", full=full).problems == report.problems
    assert (a.quarantined(), told) == ([], [])
    if loss == "ask":
        with pytest.raises(RemoteRejected, match="lost"):
            a.refresh(10)
        (check,) = a.verify(10).problems
        assert check.lost
        assert check.problem == a.quarantined()[0].reason
        assert a.retry("s")
    a.refresh(10)
    assert a.verify(10, full=True).ok
    b = opened("b", server.url)
    b.refresh(10)
    assert len(b.session("s")) == 1


def test_a_session_of_which_the_central_store_lost_a_part_is_told_and_nothing_is_done(
    opened: Open, remote_url: str, namespace: str
) -> None:
    """What is there is the beginning of what was followed, or another history: either way it lacks something."""
    a = opened("a", remote_url, worker="none")
    a.session("s").add_message("user", "1")
    a.flush(10)
    a.session("s").add_message("user", "2")
    a.flush(10)
    asyncio.run(rewrite(remote_url, namespace, "s"))
    (check,) = a.verify(10, full=True).problems
    assert check == SessionCheck(
        "s", "the central log lacks changes that it had; the next sync sends them again", 0, lost=True
    )
    assert [item["content"] for item in a.session("s")] == ["1", "2"]
    a.refresh(10)
    assert a.verify(10, full=True).ok
    with opened("b", remote_url) as b:
        b.refresh(10)
        assert sorted(item["content"] for item in b.session("s")) == ["1", "2"]


async def rewrite(url: str, namespace: str, session_id: str) -> None:
    """In the central store, the log of a session is replaced by one that has its first change only."""
    central = connect(url, namespace)
    (pulled,) = await central.pull([Want(session_id, None, 0, 0)], 1 << 20)
    state = State()
    state.admit([Admitted(1, pulled.entries[0].admitted_at, decode_change(pulled.entries[0].data))])
    checkpoint = Checkpoint(new_id(), 1, 12345, encode_state(state))
    assert await central.put_checkpoint(session_id, pulled.head, checkpoint, state.fold.counters)
    await central.close()


def test_half_a_session_is_a_lost_one(own_redis: OwnRedis, opened: Open, namespace: str) -> None:
    server = own_redis()
    a = opened("a", server.url, worker="none")
    for number in range(3):
        a.session("s").add_message("user", number)
    a.flush(10)
    with redis.Redis.from_url(server.url) as client:
        client.rpop(f"localfirst:{namespace}:{{s}}:log")
    assert a.verify(10, full=True).problems == [SessionCheck("s", LOST, 0, lost=True)]
    a.refresh(10)
    assert a.verify(10, full=True).ok
    assert len(opened("b", server.url).session("s")) == 3


def test_one_that_is_malformed_there_stops_the_look_at_no_other(
    own_redis: OwnRedis, opened: Open, namespace: str
) -> None:
    server = own_redis()
    a = opened("a", server.url, worker="none")
    for session_id in ("bad", "good", "lost"):
        a.session(session_id).add_message("user", "1")
    a.flush(10)
    lose_in_redis(server.url, namespace, "lost")
    with redis.Redis.from_url(server.url) as client:
        client.hset(f"localfirst:{namespace}:{{bad}}:head", "seq", "many")
    report = a.verify(10)
    assert len(report.sessions) == 3
    assert {check.session_id: check.lost for check in report.problems} == {"bad": False, "lost": True}
    assert a.quarantined() == []


def test_a_log_that_was_folded_beyond_where_this_replica_was_is_taken(opened: Open, remote_url: str) -> None:
    a, b = opened("a", remote_url, worker="none"), opened("b", remote_url, worker="none")
    a.session("s").add_message("user", "1")
    a.flush(10)
    b.refresh(10)
    for number in range(1000):
        a.session("s").set("number", f"{number} ".ljust(100, "x"))
    a.flush(20)
    assert b.verify(10, full=True).ok
    assert b.session("s").get("number") == a.session("s").get("number")


def test_what_can_not_be_read_there_is_told_and_not_put_aside(opened: Open, remote_url: str, namespace: str) -> None:
    a = opened("a", remote_url, worker="none")
    for session_id in ("s", "good"):
        a.session(session_id).add_message("user", "1")
    a.flush(10)
    push_foreign(remote_url, namespace, "s", [b"\xc1", b"\xc1"])
    first = problems_of(a)
    assert list(first) == ["s"]
    assert "change 2 in the central log" in first["s"]
    assert a.quarantined() == []
    with pytest.raises(RemoteRejected):
        a.refresh(10)
    assert len(a.quarantined()) == 1
    assert problems_of(a) == first


def test_a_session_that_nobody_knows(opened: Open, central: str) -> None:
    a, b = opened("a", central, worker="none"), opened("b", central, worker="none")
    a.session("s").add_message("user", "1")
    a.flush(10)
    b.session("other").add_message("user", "1")
    b.flush(10)
    report = a.verify(10, session_id="nobody")
    assert report.problems == [SessionCheck("nobody", "there is no such session, here or in the central store", 0)]
    assert "nobody" not in known_to(a)
    assert a.verify(10, session_id="other", full=True).ok  # It is there, and fetched.
    assert known_to(a) == {"s", "other"}


def known_to(store: localfirst.Store) -> set[str]:
    return {head.session_id for _, head in store._local.log.heads(store.namespace)[0]}
