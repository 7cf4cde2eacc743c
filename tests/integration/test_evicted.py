"""A limit on disk space, with real stores: what is evicted comes back, and what is pending stays."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from typer.testing import CliRunner

import localfirst
from localfirst import SessionEvent, volumes
from localfirst.cli.app import app
from localfirst.errors import ConfigurationError, RemoteUnavailable, StoreFull
from tests.integration.stores import Open, contents
from tests.polling import eventually

PATIENCE = 60.0
LIMIT = 1_000_000
WAL = 4 << 20  # To which the write-ahead log grows before it is written over.


def states(store: localfirst.Store) -> dict[str, str]:
    return {info.session_id: info.state for info in store.sessions()}


def evict_all(store: localfirst.Store) -> None:
    """Fill the directory with other sessions, until the first ones are gone."""
    names = list(states(store))
    count = 0
    while any(states(store)[name] != "evicted" for name in names):
        assert count < 200
        try:
            store.session(f"filler-{count}").add_message("user", "x" * 30_000)
        except StoreFull:
            time.sleep(0.05)
        store.flush(PATIENCE)
        count += 1


@pytest.mark.timeout(300)
def test_a_store_ten_times_its_limit_serves_all_sessions(opened: Open, redis_url: str) -> None:
    serves_all(opened, redis_url, 1000, 10_000)


def test_so_with_every_central_store(opened: Open, remote_url: str) -> None:
    serves_all(opened, remote_url, 100, 50_000)


def serves_all(opened: Open, remote_url: str, sessions: int, length: int) -> None:
    names = [f"s{number}" for number in range(sessions)]
    a = opened("a", remote_url)
    for name in names:
        a.session(name).add_message("user", name + "x" * length)
        a.session(name).set("name", name)
    a.flush(PATIENCE)
    assert a.status().disk_bytes > sessions * length
    assert a.status().size_limit is None
    a.close()
    a = opened("a", remote_url, size_limit=LIMIT)
    eventually(lambda: a._local.disk_bytes() < LIMIT, PATIENCE, "it is made small")
    most = 0
    for name in names:
        session = a.session(name, hydrate_timeout=PATIENCE)
        assert contents(session) == [name + "x" * length]
        assert session.get("name") == name
        most = max(most, a._local.disk_bytes())
    assert most < 5 * LIMIT + WAL, "what was just fetched may be above the limit, for a moment"
    assert len(states(a)) == sessions
    eventually(lambda: a._local.disk_bytes() < LIMIT, PATIENCE, "it is small again")
    for name in names[::100]:
        session = a.session(name, hydrate_timeout=PATIENCE)
        session.add_message("user", "more")
        assert contents(session)[1:] == ["more"]
    b = opened("b", remote_url)
    b.refresh(PATIENCE)
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    for name in names[::50]:
        assert contents(b.session(name))[1:] == ["more"] * (int(name[1:]) % 100 == 0)


def test_the_command_deletes_nothing_with_which_others_may_have_gone_on(
    opened: Open, central: str, tmp_path: Path, namespace: str
) -> None:
    a = opened("a", central, size_limit=LIMIT)
    a.session("s").add_message("user", "x")
    evict_all(a)
    a.close()
    command = ["cleanup", "--idle-for", "0s", "--yes", "--store", str(tmp_path / "a"), "--namespace", namespace]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "left as they are" in done.stderr
    b = opened("b", central)
    b.refresh(PATIENCE)
    assert contents(b.session("s")) == ["x"]


def test_every_call_brings_a_session_back(opened: Open, central: str) -> None:
    a = opened("a", central, size_limit=LIMIT)
    b = opened("b", central)

    async def items(session: localfirst.Session) -> None:
        assert len(await session.get_items()) == 2

    async def pop(session: localfirst.Session) -> None:
        assert await session.pop_item() == {"role": "user", "content": "two"}

    async def add(session: localfirst.Session) -> None:
        await session.add_items([{"role": "user", "content": "three"}])
        assert states(a)[session.session_id] == "evicted", "that needs nothing of what was there"
        assert len(await session.get_items()) == 3

    calls: dict[str, Callable[[localfirst.Session], object]] = {
        "get": lambda session: session.get("key") == 1 or pytest.fail("get"),
        "metadata": lambda session: session.metadata() == {"key": 1} or pytest.fail("metadata"),
        "increment": lambda session: session.increment("key") == 2 or pytest.fail("increment"),
        "delete": lambda session: session.delete("key"),
        "union": lambda session: session.set("tags", ["new"], merge="union"),
        "clear": lambda session: session.clear(),
        "pop": lambda session: session.pop_message() or pytest.fail("pop"),
        "branch": lambda session: session.branch("other"),
        "branches": lambda session: session.branches()[0].items == 2 or pytest.fail("branches"),
        "export": lambda session: len(session.export()["items"]) == 2 or pytest.fail("export"),
        "len": lambda session: len(session) == 2 or pytest.fail("len"),
        "expires_at": lambda session: session.expires_at,
        "items": lambda session: asyncio.run(items(session)),
        "pop item": lambda session: asyncio.run(pop(session)),
        "add items": lambda session: asyncio.run(add(session)),
    }
    for name in calls:
        session = a.session(name)
        session.add_message("user", "one")
        session.add_message("user", "two")
        session.set("key", 1)
    a.flush(PATIENCE)
    evict_all(a)
    for name, call in calls.items():
        assert states(a)[name] == "evicted"
        call(a.session(name, hydrate_timeout=PATIENCE))
        assert states(a)[name] != "evicted"
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    for name in calls:
        assert contents(b.session(name)) == contents(a.session(name))
        assert b.session(name).metadata() == a.session(name).metadata()
    assert contents(b.session("clear")) == []


def test_what_can_not_be_fetched_is_never_shown_as_empty(opened: Open, central: str, tmp_path: Path) -> None:
    a = opened("a", central, size_limit=LIMIT)
    a.session("s").add_message("user", "one")
    a.flush(PATIENCE)
    evict_all(a)
    a.close()
    offline = opened("a", "")
    session = offline.session("s")
    for call in (session.get_messages, session.pop_message, session.clear, lambda: session.get("key"), session.export):
        with pytest.raises(RemoteUnavailable, match="'s': it was evicted from this disk"):
            call()
    assert states(offline)["s"] == "evicted"
    told: list[object] = []
    session.on(SessionEvent.METADATA_CHANGED, lambda *arguments: told.append(arguments))
    session.add_message("user", "two")
    session.set("key", 1)
    assert told == [("key", 1)]
    assert session.pending == 2
    offline.close()
    alone = opened("a", central, worker="none")
    with pytest.raises(RemoteUnavailable, match="refresh"):
        alone.session("s").get_messages()
    alone.session("s").refresh(PATIENCE)
    assert contents(alone.session("s")) == ["one", "two"]


def test_a_store_without_a_central_store_is_full_at_its_limit(opened: Open) -> None:
    store = opened("a", "", size_limit=LIMIT)
    told: list[tuple[int, int]] = []
    store.on(SessionEvent.STORE_FILLING, lambda size, limit: told.append((size, limit)))
    session, count = store.session("s"), 0
    with suppress(StoreFull):
        while count < 2000:  # A look every 100 writes, at least.
            session.add_message("user", "x" * 500)
            count += 1
    with pytest.raises(StoreFull, match=f"its size_limit is {LIMIT}"):
        session.add_message("user", "x")
    assert len(session) == count
    [(size, limit)] = told
    assert 0.8 * LIMIT < size < LIMIT == limit
    writes: list[Callable[[], object]] = [
        lambda: session.set("key", 1),
        session.clear,
        lambda: asyncio.run(session.add_items(["x"])),
    ]
    for write in writes:
        with pytest.raises(StoreFull):
            write()
    assert store.status().disk_bytes > LIMIT
    assert len(store.session("s")) == count, "it can be read"
    store.delete("s")
    store.session("s").add_message("user", "after")


def test_pending_changes_are_never_evicted(opened: Open, central: str, tmp_path: Path) -> None:
    with opened("a", central, size_limit=LIMIT) as a:
        a.session("synced").add_message("user", "x" * 100_000)
        a.flush(PATIENCE)
    unreachable = "redis://127.0.0.1:1"
    a = opened("b", unreachable, size_limit=LIMIT)
    eventually(lambda: a.status().state == "offline", PATIENCE, "it is seen that there is none")
    count = 0
    with suppress(StoreFull):
        while count < 200:
            a.session(f"s{count}").add_message("user", "x" * 20_000)
            count += 1
            time.sleep(0.02)
    assert count < 100
    assert set(states(a).values()) <= {"local", "pending"}
    a.close(timeout=0)
    a = opened("b", central, size_limit=LIMIT)
    a.flush(PATIENCE)
    eventually(lambda: a.status().disk_bytes < LIMIT, PATIENCE, "there is room when all is in the central store")
    a.session("after").add_message("user", "x")
    b = opened("c", central)
    b.refresh(PATIENCE)
    assert [contents(b.session(f"s{number}")) for number in range(count)] == [["x" * 20_000]] * count


def test_cleanup_asks_whether_what_was_evicted_went_on_elsewhere(opened: Open, central: str) -> None:
    a, b = opened("a", central, size_limit=LIMIT), opened("b", central)
    for name in ("idle", "busy"):
        a.session(name).add_message("user", "x")
    a.flush(PATIENCE)
    evict_all(a)
    time.sleep(1.0)
    b.refresh(PATIENCE)
    b.session("busy").add_message("user", "y")
    b.flush(PATIENCE)
    deleted = a.cleanup(idle_for=0.9)
    assert "idle" in deleted
    assert "busy" not in deleted


def test_a_deletion_reaches_what_was_evicted(opened: Open, remote_url: str) -> None:
    a, b = opened("a", remote_url, size_limit=LIMIT), opened("b", remote_url)
    told: list[str] = []
    a.on(SessionEvent.SESSION_DELETED, told.append)
    a.session("s").add_message("user", "x")
    a.flush(PATIENCE)
    evict_all(a)
    b.delete("s")
    b.flush(PATIENCE)
    eventually(lambda: told == ["s"], PATIENCE, "it is told")
    assert contents(a.session("s")) == []


def test_what_others_wrote_meanwhile_is_told_when_it_comes(opened: Open, central: str) -> None:
    a, b = opened("a", central, size_limit=LIMIT), opened("b", central)
    a.session("s").add_message("user", "one")
    a.flush(PATIENCE)
    b.refresh(PATIENCE)
    b.session("s").add_message("user", "two")
    b.flush(PATIENCE)
    session = a.session("s")
    session.refresh(PATIENCE)
    evict_all(a)
    told: list[object] = []
    session.on(SessionEvent.REMOTE_CHANGED, lambda items: told.extend(item["content"] for item in items))
    b.session("s").add_message("user", "three")
    b.flush(PATIENCE)
    assert contents(session) == ["one", "two", "three"]
    eventually(lambda: told == ["three"], PATIENCE, "only what is new")


@pytest.mark.parametrize("limit", [0, 999_999, 1.5, "1 GB", True])
def test_a_limit_that_can_not_work(opened: Open, limit: object) -> None:
    with pytest.raises(ConfigurationError, match="size_limit is a number of bytes"):
        opened("a", "", size_limit=limit)


def test_a_session_of_a_thousand_items_goes_and_comes_in_50_ms(opened: Open, central: str) -> None:
    """Both together, at best of some tries: other tests run beside this one."""
    a = opened("a", central, size_limit=20_000_000)
    session = a.session("s", hydrate_timeout=PATIENCE)
    for number in range(1000):
        session.add_message("user", f"{number:05}" + "x" * 250)
    a.flush(PATIENCE)
    log, key = a._local.log, session._key
    best = float("inf")
    for _ in range(5):
        assert len(session) == 1000
        head = log.head(key)
        assert head is not None
        before = time.perf_counter()
        assert log.evict(key, head, 0)
        while volumes.sweep(log):
            pass
        gone = time.perf_counter()
        assert len(session) == 1000
        best = min(best, time.perf_counter() - before)
        print(f"evicted in {(gone - before) * 1e3:.1f} ms, back in {(time.perf_counter() - gone) * 1e3:.1f} ms")
    assert best < 0.2
