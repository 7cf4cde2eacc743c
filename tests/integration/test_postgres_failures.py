"""A Postgres server that fails, and callers that give up: the same store works again as soon as the server does."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from typing import Any

import asyncpg
import pytest

from localfirst.errors import RemoteUnavailable
from localfirst.testing.conformance.harness import bodies, changes, following, run, whole_log
from localfirst.testing.servers import PostgresServer
from sync.central.base import PushStatus
from sync.central.postgres import PostgresStore, hints, store
from tests.conftest import OwnPostgres

NAMESPACE = "test"


@pytest.fixture
def own_server(own_postgres: OwnPostgres) -> PostgresServer:
    return own_postgres()


async def failing_for_now(call: Callable[[], Any]) -> None:
    with pytest.raises(RemoteUnavailable):
        await call()


async def test_a_killed_server_comes_back_to_the_same_store(own_server: PostgresServer) -> None:
    survivor = PostgresStore(own_server.url, NAMESPACE)
    before = await survivor.identify()
    await asyncio.gather(*(survivor.push([run(f"s{i}", "r1", 1, 2)]) for i in range(4)))
    own_server.kill()
    for _ in range(5):
        await failing_for_now(lambda: survivor.heads(["s0"]))
    await failing_for_now(survivor.identify)
    own_server.start()
    assert (await survivor.identify()).store_id == before.store_id
    answers = await asyncio.gather(*(survivor.push([following(f"s{i}", "r1", 2, 2)]) for i in range(4)))
    assert [pushed.head for [pushed] in answers] == [3] * 4
    await survivor.close()


async def test_a_restart_between_two_calls_is_noticed_at_most_once(own_server: PostgresServer) -> None:
    survivor = PostgresStore(own_server.url, NAMESPACE)
    await survivor.identify()
    own_server.restart()
    await asyncio.sleep(0.1)
    assert await survivor.heads(["s"]) == [None]
    await survivor.close()


async def test_a_silent_server_is_noticed(own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "COMMAND_SECONDS", 0.5)
    monkeypatch.setattr(store, "CONNECT_SECONDS", 0.5)
    survivor = PostgresStore(own_server.url, NAMESPACE)
    await survivor.identify()
    own_server.pause()
    start = time.monotonic()
    await asyncio.gather(*(failing_for_now(lambda: survivor.heads(["s"])) for _ in range(8)))
    assert time.monotonic() - start < 5
    own_server.resume()
    assert await survivor.heads(["s"]) == [None]
    await survivor.close()


async def test_a_watcher_notices_that_its_server_was_killed(own_server: PostgresServer) -> None:
    watching = PostgresStore(own_server.url, NAMESPACE).watch()
    assert await anext(watching) is None
    own_server.kill()
    await failing_for_now(lambda: asyncio.wait_for(anext(watching), 10))


async def test_a_watcher_notices_that_its_server_is_silent(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "PROBE_SECONDS", 0.2)
    monkeypatch.setattr(hints, "ANSWER_SECONDS", 0.3)
    watching = PostgresStore(own_server.url, NAMESPACE).watch()
    assert await anext(watching) is None
    next_hint = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(1)
    assert not next_hint.done(), "a server that answers is not given up"
    own_server.pause()
    with pytest.raises(RemoteUnavailable):
        await asyncio.wait_for(next_hint, 10)
    own_server.resume()


async def test_a_server_that_is_read_only_for_now_is_tried_again(postgres_url: str) -> None:
    creator = PostgresStore(postgres_url, NAMESPACE)
    await creator.identify()
    standby = PostgresStore(f"{postgres_url}?default_transaction_read_only=on", NAMESPACE)
    await standby.identify()
    await failing_for_now(lambda: standby.push([run("s", "r1", 1, 1)]))
    await creator.close()
    await standby.close()


async def test_a_closed_store_says_so(postgres_url: str) -> None:
    closed = PostgresStore(postgres_url, NAMESPACE)
    watching = closed.watch()
    assert await anext(watching) is None
    await closed.close()
    await failing_for_now(lambda: anext(watching))
    await failing_for_now(closed.identify)
    await failing_for_now(lambda: anext(closed.watch()))


async def test_connections_into_the_void_are_dropped_with_the_first(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a failover: nobody answers on the old connections, and new ones work."""
    monkeypatch.setattr(store, "COMMAND_SECONDS", 0.5)
    survivor = PostgresStore(own_server.url, NAMESPACE)
    await survivor.identify()
    await asyncio.gather(*(survivor.heads(["s"]) for _ in range(8)))
    backends = await pids(own_server.url)
    assert len(backends) > 1
    for pid in backends:
        os.kill(pid, signal.SIGSTOP)
    await failing_for_now(lambda: survivor.heads(["s"]))
    assert await survivor.heads(["s"]) == [None]
    await survivor.close()


async def pids(url: str) -> list[int]:
    """The server's processes that serve a store."""
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select pid from pg_stat_activity where application_name = 'localfirst'")
    await connection.close()
    return [row[0] for row in rows]


async def test_a_call_to_a_silent_server_can_be_cancelled_at_once(own_server: PostgresServer) -> None:
    survivor = PostgresStore(own_server.url, NAMESPACE)
    await survivor.identify()
    own_server.pause()
    calls = [asyncio.ensure_future(survivor.heads(["s"])) for _ in range(4)]
    await asyncio.sleep(0.3)
    for call in calls:
        call.cancel()
    done, _ = await asyncio.wait(calls, timeout=1)
    assert len(done) == len(calls)
    own_server.resume()
    assert await survivor.heads(["s"]) == [None]
    await survivor.close()


async def test_a_cancelled_push_harms_nothing(postgres_url: str) -> None:
    shared, connection = PostgresStore(postgres_url, NAMESPACE), await asyncpg.connect(postgres_url)
    await shared.identify()
    await shared.push([run("s", "r1", 1, 1)])
    async with connection.transaction():
        await connection.execute("select from localfirst.sessions for update")
        pushing = [asyncio.ensure_future(shared.push([following("s", "r1", 2, 3)])) for _ in range(6)]
        await asyncio.sleep(0.3)
        for each in pushing:
            each.cancel()
        done = await asyncio.gather(*pushing, return_exceptions=True)
        assert [type(each) for each in done] == [asyncio.CancelledError] * 6
        assert [head and head.seq for head in await shared.heads(["s"])] == [1]
    [pushed] = await shared.push([following("s", "r1", 2, 3)])
    assert (pushed.status, pushed.acked, pushed.head) == (PushStatus.OK, 4, 4)
    assert bodies(await whole_log(shared, "s")) == changes("r1", 1, 4)
    await shared.close()
    await connection.close()
