"""A Postgres server that fails, and callers that give up: the same store works again as soon as the server does."""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteUnavailable
from localfirst.testing.conformance.harness import bodies, changes, following, run, whole_log
from localfirst.testing.servers import PostgresServer
from sync.central.base import PushStatus
from sync.central.postgres import PostgresStore, hints, store
from tests.conftest import OwnPostgres
from tests.integration.strangers import answering, self_signed_certificate, swallowing, unvouched

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
    answers = await asyncio.gather(*(survivor.push([following(f"s{i}", "r1", 3, 1)]) for i in range(4)))
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


@pytest.mark.parametrize("options", ["", "?sslmode=disable", "?sslmode=require"])
async def test_a_server_that_never_answers(monkeypatch: pytest.MonkeyPatch, options: str) -> None:
    """Neither a new connection, nor the greeting on it, nor TLS is waited for without end."""
    assert store.CONNECT_SECONDS + store.COMMAND_SECONDS + store.WAIT_SECONDS <= 90
    monkeypatch.setattr(store, "CONNECT_SECONDS", 0.3)
    with swallowing() as port:
        lost = PostgresStore(f"postgresql://me:secret@127.0.0.1:{port}/db{options}", NAMESPACE)
        start = time.monotonic()
        await failing_for_now(lost.identify)
        await failing_for_now(lambda: lost.checkpoint("s"))
        await failing_for_now(lambda: anext(lost.watch()))
        assert time.monotonic() - start < 5
        await asyncio.wait_for(lost.close(), 5)


async def test_a_free_connection_is_not_waited_for_without_end(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.3)
    busy = PostgresStore(own_server.url, NAMESPACE)
    await busy.identify()
    own_server.pause()
    waiting = [asyncio.ensure_future(busy.heads(["s"])) for _ in range(store.MAX_CONNECTIONS)]
    await asyncio.sleep(0)
    await asyncio.wait_for(failing_for_now(lambda: busy.heads(["s"])), 5)
    own_server.resume()
    await asyncio.gather(*waiting, return_exceptions=True)
    await busy.close()


async def test_checkpoints_leave_connections_to_the_rest(postgres_url: str) -> None:
    shared, blocking = PostgresStore(postgres_url, NAMESPACE), await asyncpg.connect(postgres_url)
    await shared.identify()
    async with blocking.transaction():
        await blocking.execute("lock localfirst.checkpoints")
        reading = [asyncio.ensure_future(shared.checkpoint("s")) for _ in range(3 * store.MAX_CONNECTIONS)]
        await asyncio.sleep(0)
        assert await asyncio.wait_for(shared.heads(["s"]), 10) == [None]
        assert not any(each.done() for each in reading)
    assert await asyncio.gather(*reading) == [None] * len(reading)
    await shared.close()
    await blocking.close()


async def test_closing_does_not_wait_for_a_server_that_hangs(own_server: PostgresServer) -> None:
    closed = PostgresStore(own_server.url, NAMESPACE)
    await closed.identify()
    watching = closed.watch()
    assert await anext(watching) is None
    own_server.pause()
    await asyncio.wait_for(closed.close(), store.CLOSE_SECONDS + 5)
    own_server.resume()


async def test_a_name_that_can_not_be_resolved_is_what_being_offline_looks_like() -> None:
    offline = PostgresStore("postgresql://me:secret@no-such-host.invalid/db", NAMESPACE)
    await failing_for_now(offline.identify)
    await failing_for_now(lambda: anext(offline.watch()))
    await offline.close()


async def test_a_server_without_tls_is_for_somebody_to_correct(postgres_url: str) -> None:
    plain = PostgresStore(f"{postgres_url}?sslmode=require", NAMESPACE)
    for call in (plain.identify(), anext(plain.watch())):
        with pytest.raises(ConfigurationError, match="SSL"):
            await call
    await plain.close()


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    with unvouched(tmp_path, answers=[b"S"]) as port:
        # Its own root is another certificate.
        (tmp_path / "roots").mkdir()
        root = self_signed_certificate(tmp_path / "roots")
        options = f"?sslmode=verify-ca&sslrootcert={root}"
        stranger = PostgresStore(f"postgresql://me:secret@127.0.0.1:{port}/db{options}", NAMESPACE)
        for call in (stranger.identify(), anext(stranger.watch())):
            with pytest.raises(ConfigurationError, match="certificate"):
                await call
        await stranger.close()


def message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


WELCOME = message(b"R", bytes(4)) + message(b"Z", b"I")

STRANGERS = {
    "nothing": b"",
    "http": b"HTTP/1.1 400 Bad Request\r\n\r\n",
    "redis": b"-ERR unknown command\r\n",
    "noise": b"\xff" * 100,
    "no version": WELCOME,
    "an encoding that Python does not know": message(b"S", b"client_encoding\0nonsense\0") + WELCOME,
    "a way to log in that nobody knows": message(b"R", struct.pack(">I", 99)),
    "a length below zero": b"R" + struct.pack(">i", -5),
    "an error without fields": message(b"E", b"\0"),
    "an error that is no text": message(b"E", b"SFATAL\0C28P01\0M\xff\xfe\0\0"),
    "an error with a strange code": message(b"E", b"SFATAL\0C\xc3\xa9\0Mhello\0\0"),
}


# asyncpg's connection, left behind half made, stumbles once more when it is collected.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stranger", STRANGERS)
async def test_other_servers(stranger: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "CONNECT_SECONDS", 1.0)
    async with answering(STRANGERS[stranger]) as (port, told):
        lost = PostgresStore(f"postgresql://me:secret@127.0.0.1:{port}/db?sslmode=disable", NAMESPACE)
        for call in (lost.identify(), anext(lost.watch())):
            with pytest.raises(LocalFirstError, match=f"^postgresql://127.0.0.1:{port}/db: ") as caught:
                await call
            assert "secret" not in str(caught.value)
        assert len(told) == 2, "the worker tries again, not the client"
        await lost.close()
