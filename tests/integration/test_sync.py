"""Replication end to end, on every kind of central store: real Redis, real Postgres, a directory."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

import localfirst
from localfirst import SessionEvent, StoreStatus, SyncTimeout
from sync.central.postgres.statements import QUERIES
from tests.conftest import OwnPostgres, OwnRedis
from tests.integration.stores import Open, contents
from tests.polling import eventually


def test_a_conversation_goes_from_one_device_to_another_and_back(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    a.add_message("user", "Hello")
    a.set("name", "Alice")
    a.flush(10)
    assert a.pending == 0
    assert contents(b) == ["Hello"]  # The first read of a session that was never here waits for it.
    assert b.metadata() == {"name": "Alice"}
    b.add_message("assistant", "Hi there!")
    b.increment("turns")
    b.flush(10)
    a.refresh(10)
    assert contents(a) == contents(b) == ["Hello", "Hi there!"]
    assert a.metadata() == b.metadata() == {"name": "Alice", "turns": 1}
    assert a.synced_at is not None


def test_replication_needs_no_call(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    a.add_message("user", "1")
    eventually(lambda: contents(b) == ["1"])
    b.add_message("user", "2")
    eventually(lambda: contents(a) == ["1", "2"])
    eventually(lambda: b.pending == 0)


def test_what_both_wrote_offline_is_the_same_history_on_both(
    remote_url: str, tmp_path: Path, namespace: str, opened: Open
) -> None:
    for name in ("a", "b"):
        with localfirst.open(tmp_path / name, namespace=namespace) as offline:
            session = offline.session("s")
            for number in range(20):
                session.add_message("user", f"{name}{number}")
                session.increment("count")
            session.set("who", name)
    a, b = opened("a", remote_url), opened("b", remote_url)
    for store in (a, b, a):
        store.flush(10)
        store.refresh(10)
    left, right = a.session("s"), b.session("s")
    assert contents(left) == contents(right)
    assert sorted(contents(left)) == sorted(f"{name}{number}" for name in "ab" for number in range(20))
    for name in ("a", "b"):  # Invariant 4: each run stays together and in order.
        own = [place for place, text in enumerate(contents(left)) if text.startswith(name)]
        assert own == list(range(own[0], own[0] + 20))
    assert left.metadata() == right.metadata()
    assert left.get("count") == 40
    assert len(left.conflicts()) == len(right.conflicts()) == 1


def test_pop_and_clear_replicate(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    for number in range(4):
        a.add_message("user", number)
    a.flush(10)
    assert b.pop_message() == {"role": "user", "content": 3}
    a.clear()
    b.add_message("user", "not seen by the clear")
    for session in (a, b):
        session.flush(10)
    for session in (a, b):
        session.refresh(10)
    assert contents(a) == contents(b) == ["not seen by the clear"]


def test_refresh_brings_sessions_that_were_never_used_here(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url), opened("b", remote_url)
    names = [f"s{number:02}" for number in range(30)] + ["odd {id}: é*%"]
    for name in names:
        a.session(name).add_message("user", name)
    a.flush(10)
    b.refresh(10)
    assert [info.session_id for info in b.sessions()] == sorted(names)
    assert all(info.items == 1 and info.state == "synced" and info.pending == 0 for info in b.sessions())


def test_namespaces_never_meet(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url, namespace="n"), opened("b", remote_url, namespace="n:x")
    a.session("s").add_message("user", "secret")
    a.flush(10)
    b.refresh(10)
    assert list(b.sessions()) == []
    assert len(b.session("s")) == 0


@pytest.mark.parametrize("kind", ["thread", "none"])
def test_what_could_not_be_sent_goes_up_after_reopening(
    kind: Any, remote_url: str, opened: Open, namespace: str, tmp_path: Path
) -> None:
    """Invariants 1 and 7."""
    with localfirst.open(tmp_path / "a", namespace=namespace, worker="none") as store:
        store.session("s").add_message("user", "written offline")
    a = opened("a", remote_url, worker=kind)
    a.flush(10)
    assert a.status().pending_changes == 0
    assert contents(opened("b", remote_url).session("s")) == ["written offline"]


def test_without_a_worker_only_flush_and_refresh_sync(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url, worker="none"), opened("b", remote_url, worker="none")
    a.session("s").add_message("user", "1")
    assert a.status().state == "stopped"
    assert a.status().pending_changes == 1
    assert len(b.session("s")) == 0
    a.flush(10)
    assert a.status().state == "online"
    assert len(b.session("s")) == 0
    b.refresh(10)
    assert contents(b.session("s")) == ["1"]


async def test_the_worker_as_a_task_on_the_running_loop(remote_url: str, namespace: str, tmp_path: Path) -> None:
    async with (
        localfirst.open(tmp_path / "a", remote=remote_url, namespace=namespace, worker="task") as a,
        localfirst.open(tmp_path / "b", remote=remote_url, namespace=namespace, worker="task") as b,
    ):
        await a.session("s").add_items(["1"])
        await a.aflush(10)
        assert await b.session("s").get_items() == ["1"]
        await b.session("s").add_items(["2"])
        await b.session("s").aflush(10)
        await a.arefresh(10)
        assert await a.session("s").get_items() == ["1", "2"]
        for call in (a.flush, a.refresh, a.close):
            with pytest.raises(localfirst.ConfigurationError, match="await"):
                call()


def test_a_long_session_goes_up_and_down_whole(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url), opened("b", remote_url)
    session = a.session("s")
    for number in range(3000):
        session.add_message("user", number, padding="x" * 500)
    a.flush(60)
    b.refresh(60)
    assert contents(b.session("s")) == contents(session) == list(range(3000))


def test_values_survive_the_journey_exactly(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    items = ["\ud800", "a\x00b", 10**40, float("inf"), {"": [""]}, "x" * 2**20, -0.0, "\ud83d\ude00"]
    asyncio.run(a.add_items(items))
    a.set("odd", items)
    a.flush(10)
    b.refresh(10)
    assert list(b) == items
    assert b.get("odd") == items


def test_events_of_remote_changes_come_in_the_workers_thread(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url).session("s"), opened("b", remote_url).session("s")
    a.add_message("user", "before")
    a.set("k", "a")
    a.flush(10)
    assert len(b) == 1
    heard: list[Any] = []
    threads = set()

    def hear(name: str) -> Callable[..., None]:
        def callback(*arguments: Any) -> None:
            heard.append((name, *arguments))
            threads.add(threading.current_thread().name)

        return callback

    for event in (
        SessionEvent.REMOTE_CHANGED,
        SessionEvent.MESSAGE_REMOVED,
        SessionEvent.SESSION_CLEARED,
        SessionEvent.METADATA_CHANGED,
        SessionEvent.SYNCED,
    ):
        b.on(event, hear(event.name))
    a.add_message("user", "new")
    a.set("k", {"x": 1})
    a.flush(10)
    eventually(lambda: len(heard) >= 2)
    assert ("REMOTE_CHANGED", [{"role": "user", "content": "new"}]) in heard
    assert ("METADATA_CHANGED", "k", {"x": 1}) in heard
    a.pop_message()
    a.clear()
    a.flush(10)
    eventually(lambda: ("SESSION_CLEARED",) in heard)
    assert ("MESSAGE_REMOVED", {"role": "user", "content": "new"}) in heard
    assert not [event for event in heard if event[0] == "SYNCED"]
    assert threads == {"localfirst-sync"}
    b.add_message("assistant", "mine")
    eventually(lambda: ("SYNCED",) in heard)
    assert len([event for event in heard if event[0] == "REMOTE_CHANGED"]) == 1


def test_conflicts_are_raised_as_events(remote_url: str, tmp_path: Path, namespace: str, opened: Open) -> None:
    with localfirst.open(tmp_path / "b", namespace=namespace) as offline:
        offline.session("s").set("k", "b")
    a, b = opened("a", remote_url), opened("b", remote_url, poll_interval=60)
    conflicts: list[Any] = []
    b.on(SessionEvent.CONFLICT_RESOLVED, lambda session_id, conflict: conflicts.append((session_id, conflict)))
    a.session("s").set("k", "a")
    a.flush(10)
    b.flush(10)
    b.refresh(10)
    a.refresh(10)
    assert a.session("s").get("k") == b.session("s").get("k")
    assert a.session("s").conflicts() == b.session("s").conflicts()
    (found,) = a.session("s").conflicts()
    assert {found.current, found.incoming} == {"a", "b"}
    assert found.winner == a.session("s").get("k")


def test_periodic_replication_waits_for_its_interval(remote_url: str, opened: Open) -> None:
    a = opened("a", remote_url, sync_interval=3600)
    session = a.session("s")
    session.add_message("user", "at once, after a quiet time")
    eventually(lambda: session.pending == 0)
    session.add_message("user", "waits")
    b = opened("b", remote_url)
    b.session("s").add_message("user", "others still come")
    b.flush(10)
    eventually(lambda: "others still come" in contents(session))
    assert session.pending == 1
    session.flush(10)
    assert session.pending == 0


def test_one_leader_per_directory_and_another_when_it_closes(remote_url: str, opened: Open) -> None:
    first = opened("a", remote_url)
    eventually(lambda: first.status().leader)
    second = opened("a", remote_url)
    assert not second.status().leader
    second.session("s").add_message("user", "goes up through the leader")
    eventually(lambda: second.session("s").pending == 0)
    assert eventually(lambda: second.status().state == "online")
    second.session("s").add_message("user", "and by a flush of its own")
    second.flush(10)
    first.close()
    eventually(lambda: second.status().leader, timeout=1.0)
    second.session("s").add_message("user", "leads now")
    eventually(lambda: second.session("s").pending == 0)
    assert len(contents(opened("b", remote_url).session("s"))) == 3


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Any:
    """A server of the test's own, to be stopped and killed."""
    factory: OwnRedis | OwnPostgres = request.getfixturevalue(f"own_{request.param}")
    return factory()


def states(store: localfirst.Store) -> StoreStatus:
    return store.status()


def test_sync_goes_on_after_a_restart_of_the_server(server: Any, opened: Open) -> None:
    a, b = opened("a", server.url), opened("b", server.url)
    a.session("s").add_message("user", "before")
    a.flush(10)
    assert contents(b.session("s")) == ["before"]
    server.stop()
    for store, name in ((a, "a"), (b, "b")):
        for number in range(10):
            store.session("s").add_message("user", f"{name}{number}")
    offline = eventually(lambda: a.status().state == "offline" and a.status())
    assert offline.pending_changes == 10
    assert offline.last_error
    with pytest.raises(SyncTimeout, match="10 changes of 1 session not in"):
        a.flush(0.3)
    server.start()
    a.flush(20)
    b.flush(20)
    a.refresh(20)
    b.refresh(20)
    assert contents(a.session("s")) == contents(b.session("s"))
    assert len(contents(a.session("s"))) == 21
    assert a.status().state == "online"
    assert a.status().last_error is None


def test_sync_goes_on_after_the_server_was_killed(server: Any, opened: Open) -> None:
    a = opened("a", server.url)
    session = a.session("s")
    for number in range(50):
        session.add_message("user", number)
    server.kill()
    for number in range(50, 100):
        session.add_message("user", number)
    server.start()
    a.flush(20)
    b = opened("b", server.url)
    b.refresh(20)
    assert contents(b.session("s")) == list(range(100))


def test_local_calls_do_not_wait_for_a_server_that_hangs(server: Any, opened: Open) -> None:
    """Invariant 8."""
    a = opened("a", server.url)
    session = a.session("s")
    session.add_message("user", "x")
    a.flush(10)
    server.pause()
    try:
        began = time.perf_counter()
        for number in range(200):
            session.add_message("user", number)
            session.get_messages(5)
        assert time.perf_counter() - began < 2.0
    finally:
        server.resume()
    a.flush(30)


def test_a_server_that_cannot_be_reached_is_no_error_at_open(opened: Open) -> None:
    a = opened("a", "redis://127.0.0.1:1")
    session = a.session("s")
    session.add_message("user", "kept here")
    assert contents(session) == ["kept here"]
    assert eventually(lambda: a.status().state == "offline")
    assert "127.0.0.1:1" in (a.status().last_error or "")


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_wrong_password_is_blocked_and_never_shown(
    kind: str, own_redis: OwnRedis, own_postgres: OwnPostgres, opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    server: Any = (own_redis if kind == "redis" else own_postgres)(password="right-secret")
    wrong = server.url.replace("right-secret", "wrong-secret")
    a = opened("a", wrong)
    a.session("s").add_message("user", "x")
    status = eventually(lambda: a.status().state == "blocked" and a.status())
    with pytest.raises(localfirst.ConfigurationError) as raised:
        a.flush(10)
    shown = f"{status} {raised.value!r} {a!r} {a.session('s')!r} {caplog.text}"
    assert "secret" not in shown
    a.close()
    again = opened("a", server.url)
    again.flush(10)
    assert again.status().state == "online"


def test_closing_does_not_hang_on_a_server_that_is_gone(server: Any, tmp_path: Path, namespace: str) -> None:
    store = localfirst.open(tmp_path / "a", remote=server.url, namespace=namespace)
    store.session("s").add_message("user", "1")
    store.flush(10)
    server.kill()
    store.session("s").add_message("user", "2")
    began = time.monotonic()
    store.close(timeout=1.0)
    assert time.monotonic() - began < 4.0
    server.start()
    with localfirst.open(tmp_path / "a", remote=server.url, namespace=namespace) as again:
        again.flush(10)
        assert again.status().pending_changes == 0


def test_a_server_that_lost_everything_gets_it_again(own_redis: OwnRedis, opened: Open) -> None:
    """Redis without persistence, as a cache: what every replica has goes up again, once, in the same order."""
    server = own_redis(persistent=False)
    a, b = opened("a", server.url), opened("b", server.url)
    for number in range(10):
        store = (a, b)[number % 2]
        store.session("s").add_message("user", number)
        store.flush(10)
        a.refresh(10)
        b.refresh(10)
    server.kill()
    a.session("s").add_message("user", "while it was gone")
    server.start()
    a.flush(20)
    a.refresh(20)
    b.refresh(20)
    assert contents(a.session("s")) == contents(b.session("s")) == [*range(10), "while it was gone"]
    assert contents(opened("c", server.url).session("s")) == [*range(10), "while it was gone"]


def test_what_one_namespace_wrote_is_never_sent_as_anothers(
    remote_url: str, tmp_path: Path, namespace: str, opened: Open
) -> None:
    with localfirst.open(tmp_path / "a", namespace=f"{namespace}-b") as other:
        other.session("secret").add_message("user", "of another tenant")
    a = opened("a", remote_url)
    assert a.status().pending_changes == 0
    a.session("s").add_message("user", "mine")
    a.flush(10)
    peer = opened("peer", remote_url)
    peer.refresh(10)
    assert [info.session_id for info in peer.sessions()] == ["s"]
    b = opened("a", remote_url, namespace=f"{namespace}-b")  # On the same directory, with a leader of its own.
    eventually(lambda: b.status().leader and a.status().leader)
    eventually(lambda: b.status().pending_changes == 0)
    assert contents(opened("peer", remote_url, namespace=f"{namespace}-b").session("secret")) == ["of another tenant"]


def test_an_application_beside_a_worker_of_its_own_process_gets_what_it_asks_for(remote_url: str, opened: Open) -> None:
    """`localfirst sync` as a sidecar: the application opens its store with worker="none"."""
    opened("a", remote_url)  # The sidecar.
    application = opened("a", remote_url, worker="none")
    elsewhere = opened("b", remote_url)
    elsewhere.session("s").add_message("user", "from elsewhere")
    elsewhere.flush(10)
    session = application.session("s")
    eventually(lambda: contents(session) == ["from elsewhere"])
    session.add_message("assistant", "answer")
    eventually(lambda: contents(elsewhere.session("s")) == ["from elsewhere", "answer"])
    fresh = application.session("not there yet")
    assert contents(fresh) == []
    elsewhere.session("not there yet").add_message("user", "now it is")
    eventually(lambda: contents(fresh) == ["now it is"])


@pytest.mark.parametrize("kind", ["thread", "none"])
def test_closing_at_once_is_safe_whatever_runs(kind: Any, redis_url: str, tmp_path: Path, namespace: str) -> None:
    for number in range(20):
        store = localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace, worker=kind)
        store.session(f"s{number}").add_message("user", "x")
        waiting = threading.Thread(target=lambda store=store: _flush_and_ignore(store))
        waiting.start()
        began = time.monotonic()
        store.close(0.01 * (number % 3))
        assert time.monotonic() - began < 4.0
        waiting.join(10)
    with localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace) as store:
        store.flush(10)
        assert store.status().pending_changes == 0
        assert len(list(store.sessions())) == 20


@pytest.mark.parametrize("kind", ["thread", "none"])
def test_a_flush_that_waits_ends_when_the_store_is_closed(kind: Any, tmp_path: Path) -> None:
    store = localfirst.open(tmp_path / "a", remote="redis://127.0.0.1:1", worker=kind)
    store.session("s").add_message("user", "x")
    raised: list[BaseException] = []

    def flush() -> None:
        try:
            store.flush()
        except BaseException as error:
            raised.append(error)

    waiting = threading.Thread(target=flush)
    waiting.start()
    eventually(lambda: store.status().state == "offline" or kind == "none")
    store.close(0)
    waiting.join(10)
    assert [type(error) for error in raised] == [localfirst.StoreClosed]


async def test_an_aflush_that_waits_can_be_cancelled_and_ends_at_close(tmp_path: Path) -> None:
    store = localfirst.open(tmp_path / "a", remote="redis://127.0.0.1:1")
    store.session("s").add_message("user", "x")
    cancelled, closed = asyncio.create_task(store.aflush()), asyncio.create_task(store.aflush())
    await asyncio.to_thread(eventually, lambda: store.status().state == "offline")
    cancelled.cancel()
    await asyncio.wait([cancelled], timeout=5)
    assert cancelled.cancelled()
    await store.aclose(0)
    with pytest.raises(localfirst.StoreClosed):
        await closed


def _flush_and_ignore(store: localfirst.Store) -> None:
    with suppress(localfirst.LocalFirstError):
        store.flush(5)


def test_a_task_whose_loop_has_ended_can_be_closed(redis_url: str, tmp_path: Path, namespace: str) -> None:
    async def open_and_leave() -> localfirst.Store:
        store = localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace, worker="task")
        store.session("s").add_message("user", "x")
        return store

    store = asyncio.run(open_and_leave())
    with pytest.raises(localfirst.ConfigurationError, match="has ended"):
        store.flush(5)
    store.session("s").add_message("user", "y")
    store.close()
    with localfirst.open(tmp_path / "a", remote=redis_url, namespace=namespace) as again:
        eventually(lambda: again.status().leader)
        again.flush(10)
        assert again.status().pending_changes == 0


async def test_a_task_is_opened_by_async_with(redis_url: str, tmp_path: Path) -> None:
    store = localfirst.open(tmp_path / "a", remote=redis_url, worker="task")
    with pytest.raises(localfirst.ConfigurationError, match="async with"):
        store.__enter__()
    async with localfirst.open(tmp_path / "a", remote=redis_url, worker="task") as store:
        await store.aflush(10)


def test_status_without_a_worker_tells_of_the_last_contact(redis_url: str, opened: Open) -> None:
    a = opened("a", redis_url, worker="none")
    a.session("s").add_message("user", "x")
    a.flush(10)
    a.flush(10)  # Nothing to do, so nobody is asked.
    assert a.status().state == "online"
    assert a.status().last_synced_at is not None


def test_a_callback_of_the_worker_cannot_wait_for_the_worker(redis_url: str, opened: Open) -> None:
    a = opened("a", redis_url)
    raised: list[BaseException] = []

    def flush() -> None:
        try:
            a.flush(5)
        except localfirst.ConfigurationError as error:
            raised.append(error)

    a.session("s").on(SessionEvent.SYNCED, flush)
    a.session("s").add_message("user", "x")
    eventually(lambda: raised)
    assert "callback" in str(raised[0])
    a.flush(10)


async def test_waits_that_were_cancelled_end(tmp_path: Path) -> None:
    store = localfirst.open(tmp_path / "a", remote="redis://127.0.0.1:1")
    store.session("s").add_message("user", "x")
    link: Any = store._link
    host = link.host
    for _ in range(20):
        waiting = asyncio.create_task(store.aflush())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await asyncio.to_thread(eventually, lambda: len(asyncio.all_tasks(host._loop)) < 10)
    await store.aclose(0)


def comes(session: localfirst.Session, content: str) -> bool:
    return content in contents(session)


def test_a_callback_that_wants_to_exit_does_not_end_the_worker(redis_url: str, opened: Open) -> None:
    a, b = opened("a", redis_url), opened("b", redis_url)
    a.session("s").add_message("user", "1")
    a.flush(10)
    assert len(b.session("s")) == 1
    for error in (SystemExit, KeyboardInterrupt, asyncio.CancelledError):

        def leave(*_: Any, error: type[BaseException] = error) -> None:
            raise error

        b.session("s").on(SessionEvent.REMOTE_CHANGED, leave)
        a.session("s").add_message("user", error.__name__)
        eventually(partial(comes, b.session("s"), error.__name__))
    b.session("s").add_message("user", "still there")
    b.flush(10)


@pytest.mark.parametrize("option", ["", "?statement_cache_size=0"])
async def test_a_hint_that_postgres_refuses_takes_no_push_with_it(
    option: str, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(QUERIES, "notify", "select 1 / (length($1::text) * 0) where $2::text[] is not null")
    async with localfirst.open(tmp_path / "a", remote=postgres_url + option) as store:
        await store.session("s").add_items(["x"])
        await store.aflush(10)
        connection = await asyncpg.connect(postgres_url)
        assert await connection.fetchval("select count(*) from localfirst.changes") == 1
        await connection.close()
