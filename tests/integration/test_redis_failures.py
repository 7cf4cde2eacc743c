"""Redis servers that fail, refuse, or are something else."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteUnavailable
from localfirst.testing.conformance.harness import GENERATION, bodies, changes, following, run, whole_log
from localfirst.testing.servers import RedisServer
from sync.central.base import Hint, PushStatus
from sync.central.redis import RedisStore, hints

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
    [pushed] = await store.push([following("s", "r1", 3, 2)])
    assert pushed.admitted <= 2
    assert (await store.heads(["s"]))[0] is not None
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
    assert hints.QUIET_SECONDS + hints.ANSWER_SECONDS <= 30
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
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(_self_signed_certificate(tmp_path))
    async with await asyncio.start_server(lambda *_: None, "127.0.0.1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        store = RedisStore(f"rediss://127.0.0.1:{port}", "n")
        with pytest.raises(ConfigurationError, match=f"^rediss://127.0.0.1:{port}: .*certificate"):
            await store.identify()
        await store.close()


def _self_signed_certificate(folder: Path) -> Path:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(timezone.utc)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1))
    file = folder / "server.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
    return file


@asynccontextmanager
async def _listener(answer: bytes) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A port that answers whatever it is told with the same bytes, and then closes; and what it was told."""
    told: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told.append(await reader.read(65_536))
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], told


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
    async with _listener(answer) as (port, told):
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
