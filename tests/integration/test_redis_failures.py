"""Redis servers that fail, refuse, or are something else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteUnavailable
from localfirst.testing.conformance.harness import GENERATION, bodies, changes, following, run, whole_log
from localfirst.testing.servers import RedisServer
from sync.central.base import Checkpoint, Hint, PushStatus
from sync.central.redis import RedisStore, hints
from sync.central.redis.address import _DEFAULTS
from tests.integration.strangers import answering, swallowing, unvouched

OwnRedis = Callable[..., RedisServer]


async def test_a_wrong_password_is_not_shown(own_redis: OwnRedis) -> None:
    server = own_redis(password="correct horse")
    good = RedisStore(server.url, "n")
    await good.identify()
    await good.close()
    wrong = RedisStore(f"redis://:battery-staple@127.0.0.1:{server.port}/0", "n")
    for call in (wrong.identify(), wrong.push([run("s", "r1", 1, 1)]), anext(wrong.watch())):
        with pytest.raises(ConfigurationError, match=f"redis://127.0.0.1:{server.port}: ") as raised:
            await call
        assert "battery" not in str(raised.value)
    await wrong.close()
    for nobody in (f"redis://127.0.0.1:{server.port}", f"redis://127.0.0.1:{server.port}?protocol=3"):
        with pytest.raises(ConfigurationError):
            await RedisStore(nobody, "n").identify()


async def test_a_killed_server_that_comes_back(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    before = await store.identify()
    await store.push([run("s", "r1", 1, 3)])
    server.kill()
    for _ in range(2):
        with pytest.raises(RemoteUnavailable, match=f"redis://127.0.0.1:{server.port}: "):
            await store.push([following("s", "r1", 4, 1)])
        with pytest.raises(RemoteUnavailable):
            await store.heads(["s"])
    server.start()
    assert (await store.identify()).store_id == before.store_id
    await store.push([run("s", "r1", 1, 3)])  # It may have lost them, if the disk was slow.
    [pushed] = await store.push([following("s", "r1", 4, 1)])
    assert (pushed.status, pushed.acked, pushed.head) == (PushStatus.OK, 4, 4)
    await store.close()


async def test_a_server_that_restarts_between_two_calls(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    await store.push([run("s", "r1", 1, 3)])
    await asyncio.to_thread(server.restart)  # while our side of the connection sees it go
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 3)
    await store.close()


async def test_a_server_that_hangs(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(f"{server.url}?socket_timeout=0.3", "n")
    await store.push([run("s", "r1", 1, 3)])
    server.pause()
    with pytest.raises(RemoteUnavailable, match="Timeout"):
        await store.push([following("s", "r1", 4, 1)])
    server.resume()
    [pushed] = await store.push([following("s", "r1", 4, 1)])
    assert (pushed.status, pushed.acked, pushed.head) == (PushStatus.OK, 4, 4)
    await store.close()


@pytest.mark.parametrize("failure", ["kill", "stop"])
async def test_a_watcher_notices_that_the_server_is_gone(own_redis: OwnRedis, failure: str) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    watching = store.watch()
    assert await anext(watching) is None
    getattr(server, failure)()
    with pytest.raises(RemoteUnavailable):
        await asyncio.wait_for(anext(watching), 10)
    with pytest.raises(RemoteUnavailable):
        await anext(store.watch())
    server.start()
    watching = store.watch()
    assert await anext(watching) is None
    await store.push([run("s", "r1", 1, 1)])
    assert await asyncio.wait_for(anext(watching), 10) == Hint("s", GENERATION, 1)
    await store.close()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_watcher_notices_a_connection_that_is_half_open(
    own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    assert hints.QUIET_SECONDS + hints.ANSWER_SECONDS <= 75
    monkeypatch.setattr(hints, "QUIET_SECONDS", 0.1)
    monkeypatch.setattr(hints, "ANSWER_SECONDS", 1.0)
    server = own_redis()
    store = RedisStore(f"{server.url}?protocol={protocol}", "n")
    watching = store.watch()
    assert await anext(watching) is None
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0.5)
    assert not waiting.done(), "a quiet connection is not a broken one"
    await store.push([run("s", "r1", 1, 1)])
    assert await asyncio.wait_for(waiting, 10) == Hint("s", GENERATION, 1)
    server.pause()
    with pytest.raises(RemoteUnavailable, match="no answer"):
        await asyncio.wait_for(anext(watching), 10)
    server.resume()
    await store.close()


async def test_a_certificate_that_nobody_vouches_for(tmp_path: Path) -> None:
    with unvouched(tmp_path) as port:
        store = RedisStore(f"rediss://127.0.0.1:{port}", "n")
        for call in (store.identify(), anext(store.watch())):
            with pytest.raises(ConfigurationError, match=f"^rediss://127.0.0.1:{port}: .*certificate"):
                await call
        await store.close()


async def test_a_server_without_tls_is_for_somebody_to_correct() -> None:
    async with answering(b"-ERR unknown command\r\n") as (port, _):
        store = RedisStore(f"rediss://127.0.0.1:{port}", "n")
        with pytest.raises(ConfigurationError, match="check that the server speaks TLS"):
            await store.identify()
        await store.close()


async def test_a_name_that_can_not_be_resolved_is_what_being_offline_looks_like() -> None:
    store = RedisStore("redis://no-such-host.invalid:6379", "n")
    for call in (store.identify(), anext(store.watch())):
        with pytest.raises(RemoteUnavailable, match=r"^redis://no-such-host.invalid:6379: "):
            await call
    await store.close()


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("options", ["", "&protocol=3"])
async def test_a_server_that_never_answers(scheme: str, options: str) -> None:
    """Neither a new connection, nor the greeting on it, nor TLS is waited for without end."""
    assert _DEFAULTS["socket_connect_timeout"] + _DEFAULTS["socket_timeout"] <= 30
    with swallowing() as port:
        url = f"{scheme}://:secret@127.0.0.1:{port}?socket_timeout=0.3&socket_connect_timeout=0.3{options}"
        store = RedisStore(url, "n")
        start = time.monotonic()
        for call in (store.identify(), store.checkpoint("s"), anext(store.watch())):
            with pytest.raises(RemoteUnavailable, match="Timeout"):
                await asyncio.wait_for(call, 10)
        assert time.monotonic() - start < 10
        await asyncio.wait_for(store.close(), 5)


async def test_closing_does_not_wait_for_a_server_that_hangs(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    await asyncio.gather(*(store.heads(["s"]) for _ in range(4)))
    watching = store.watch()
    assert await anext(watching) is None
    server.pause()
    await asyncio.wait_for(store.close(), 5)
    server.resume()


PRIVILEGES = {
    "no keys": "+@all &*",
    "no scripts": "~localfirst:* &* +@all -@scripting",
    "not what the scripts call": "~localfirst:* &* +@all -rpush -hset -set",
    "other keys": "~other:* &* +@all",
}


async def of_a_user(server: RedisServer, rights: str) -> RedisStore:
    """A store that logs in as somebody with these rights."""
    async with Redis.from_url(server.url) as admin:
        client: Any = admin
        await client.execute_command("ACL", "SETUSER", "app", "on", ">pw", *rights.split())
    return RedisStore(f"redis://app:pw@127.0.0.1:{server.port}/0", "n")


@pytest.mark.parametrize("rights", PRIVILEGES)
async def test_a_user_who_may_not_is_for_somebody_to_correct(own_redis: OwnRedis, rights: str) -> None:
    server = own_redis()
    store = await of_a_user(server, PRIVILEGES[rights])
    for call in (
        store.push([run("s", "r1", 1, 1)]),
        store.put_checkpoint("s", None, Checkpoint("made", 1, 0, b""), {}),
    ):
        with pytest.raises(ConfigurationError, match="the user needs the keys and channels"):
            await call
    await store.close()


async def test_a_user_without_the_channel_can_do_all_but_hear(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = await of_a_user(server, "resetchannels ~localfirst:* +@all")
    [pushed] = await store.push([run("s", "r1", 1, 1)])
    assert pushed.status is PushStatus.OK
    assert await store.put_checkpoint("t", None, Checkpoint("made", 1, 0, b""), {})
    with pytest.raises(ConfigurationError):
        await anext(store.watch())
    await store.close()


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", RemoteUnavailable),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ConfigurationError),
        (b"-ERR unknown command 'AUTH', with args beginning with: 'hunter2'\r\n", ConfigurationError),
        (b"-ERR hunter2 is wrong\r\n", LocalFirstError),
        (b"-MOVED nonsense\r\n", ConfigurationError),
        (b"-MOVED 1 127.0.0.1:1\r\n", ConfigurationError),
        (b"-\xff\xfe\r\n", LocalFirstError),
        (b"*1\r\n$-1\r\n", LocalFirstError),
        (b"$99999999999999\r\n", LocalFirstError),
        (b":1\r\n", LocalFirstError),
        (b"+OK\r\n*1\r\n:1\r\n", LocalFirstError),
    ],
)
@pytest.mark.parametrize("protocol", [2, 3])
async def test_other_servers(answer: bytes, error: type[LocalFirstError], protocol: int) -> None:
    async with answering(answer) as (port, told):
        store = RedisStore(f"redis://:hunter2@127.0.0.1:{port}?protocol={protocol}", "n")
        with pytest.raises(error) as raised:
            await store.identify()
        assert "hunter2" not in str(raised.value)
        assert len(told) == 1, "the worker tries again, not the client"
        with pytest.raises(LocalFirstError):
            await anext(store.watch())
        await store.close()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://host",
        "redis://user:hunter2@host:port",
        "redis://user:hun/ter2@host",
        "redis://user:hun#ter2@host",
        "redis://user:123/ter2@host",
        "redis://user:123#ter2@host",
        "redis://user:hunter2@host/not-a-number",
        "redis://user:hunter2@host?unknown=1",
        "redis://user:hunter2@host?socket_timeout=long",
        "redis://user:hunter2@host?protocol=9",
        "rediss://user:hunter2@host?ssl_ca_certs=/no/such/file",
    ],
)
def test_addresses_that_make_no_sense(url: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        RedisStore(url, "n")
    assert "hun" not in str(raised.value)
    assert "ter2" not in str(raised.value)


@pytest.mark.parametrize("namespace", [None, 7, "\ud800"])
def test_namespaces_that_make_no_sense(redis_url: str, namespace: Any) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        RedisStore(redis_url, namespace)
