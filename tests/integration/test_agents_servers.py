"""Sessions of the OpenAI Agents SDK with real servers behind them: other devices, passwords, TLS, and no server."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from agents import Agent, RunConfig, Runner, function_tool
from agents.testing import ScriptedModel, assistant_message, function_call
from sqlalchemy.ext.asyncio import create_async_engine

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import EncryptedSession, RedisSession, SQLAlchemySession, SQLiteSession
from localfirst.testing.servers.process import free_port
from tests.conftest import OwnPostgres, OwnRedis
from tests.faults.tls import Authority, postgres_with_tls, redis_with_tls
from tests.polling import eventually

CONFIG = RunConfig(tracing_disabled=True)
ITEM: Any = {"role": "user", "content": "Hello"}


@pytest.fixture(autouse=True)
def _home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("LOCALFIRST_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("LOCALFIRST_REMOTE", raising=False)
    yield
    stores._close_all()


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def calculator(*steps: Any) -> tuple[Agent[Any], ScriptedModel]:
    model = ScriptedModel(steps)
    return Agent(name="Calculator", model=model, tools=[add]), model


@pytest.mark.parametrize("kind", ["redis", "sqlalchemy", "sqlite", "encrypted"])
async def test_a_run_on_one_device_goes_on_on_another(
    kind: str, redis_url: str, postgres_url: str, tmp_path: Path
) -> None:
    prefix = f"test-{uuid.uuid4()}"

    def session_on(device: str) -> Any:
        path = tmp_path / device
        if kind == "redis":
            client = redis.asyncio.from_url(redis_url)
            return RedisSession("s", redis_client=client, key_prefix=prefix, path=path)
        if kind == "sqlite":
            return SQLiteSession("s", path, prefix, remote=redis_url)
        engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
        session = SQLAlchemySession("s", engine=engine, create_tables=True, path=path)
        return EncryptedSession(session=session, encryption_key="k" * 32) if kind == "encrypted" else session

    called = [function_call("add", {"a": 2, "b": 3}, call_id="call_1")]
    agent, model = calculator(called, [assistant_message("5")], [assistant_message("It was 5.")])
    phone = session_on("phone")
    await Runner.run(agent, "2 + 3?", session=phone, run_config=CONFIG)
    await phone.aflush(10)
    laptop = session_on("laptop")
    await Runner.run(agent, "What was it?", session=laptop, run_config=CONFIG)
    assert len(model.calls[-1].input) == 5
    await laptop.aflush(10)
    await phone.arefresh(10)
    assert await phone.get_items() == await laptop.get_items()
    assert len(await phone.get_items()) == 6


async def test_redis_with_a_password(own_redis: OwnRedis, tmp_path: Path) -> None:
    server = own_redis(password="hunter2 é/#@", persistent=False)
    client = redis.asyncio.Redis(host="127.0.0.1", port=server.port, password="hunter2 é/#@", decode_responses=True)
    session = RedisSession("s", redis_client=client)
    await session.add_items([ITEM])
    assert await session.ping()
    await session.aflush(10)
    assert not client.connection_pool._available_connections  # It was not used,
    assert await client.llen("localfirst:default:{s}:log") == 1
    assert session.store.path == tmp_path / "home" / f"redis-127.0.0.1-{server.port}-0"
    for shown in (repr(session), repr(session.store), str(session.store.status())):
        assert "hunter2" not in shown
    await session.close()
    assert await client.ping()  # nor closed.
    await client.aclose()
    with pytest.raises(RuntimeError, match="RedisSession is closed"):
        await session.ping()


async def test_redis_by_a_socket(own_redis: OwnRedis, tmp_path: Path) -> None:
    path = Path(f"/tmp/localfirst-{uuid.uuid4().hex}.sock")
    own_redis(persistent=False, settings={"unixsocket": str(path), "unixsocketperm": "777"})
    session = RedisSession("s", redis_client=redis.asyncio.Redis(unix_socket_path=str(path), db=1))
    await session.add_items([ITEM])
    await session.aflush(10)
    other = RedisSession.from_url("s", url=f"unix://{path}", redis_kwargs={"db": 1}, path=tmp_path / "other")
    assert await other.get_items() == [ITEM]


async def test_postgres_with_a_password(own_postgres: OwnPostgres) -> None:
    server = own_postgres(password="hunter2 é/#@")
    session = SQLAlchemySession("s", db_url=server.url.replace("postgresql:", "postgresql+asyncpg:"))
    await session.add_items([ITEM])
    await session.aflush(10)
    for shown in (repr(session), repr(session.store), str(session.store.status())):
        assert "hunter2" not in shown


async def test_redis_with_certificates(tmp_path: Path) -> None:
    ours, clients = Authority("ours"), Authority("clients")
    (tmp_path / "ca.crt").write_bytes(ours.certificate)
    clients.issue("me").save(tmp_path, "me")
    files = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "me.crt", "ssl_keyfile": "me.key"}
    options: Any = {name: str(tmp_path / file) for name, file in files.items()}
    with redis_with_tls(ours.issue("localhost"), clients) as port:
        client = redis.asyncio.Redis(host="localhost", port=port, ssl=True, **options)
        session = RedisSession("s", redis_client=client)
        await session.add_items([ITEM])
        await session.aflush(10)
        by_url = RedisSession.from_url(
            "s", url=f"rediss://localhost:{port}", redis_kwargs=options, path=tmp_path / "other"
        )
        assert await by_url.get_items() == [ITEM]
        stranger = RedisSession(
            "s", redis_client=redis.asyncio.Redis(host="localhost", port=port, ssl=True), path=tmp_path / "stranger"
        )
        assert not await stranger.ping(timeout=1.0)
        stores._close_all()


async def test_postgres_with_certificates(tmp_path: Path) -> None:
    ours, clients = Authority("ours"), Authority("clients")
    (tmp_path / "ca.crt").write_bytes(ours.certificate)
    clients.issue("me").save(tmp_path, "me")
    with postgres_with_tls(ours.issue("localhost"), clients) as port:
        url = f"postgresql+psycopg2://postgres@localhost:{port}/postgres?sslmode=verify-full"
        files = f"&sslrootcert={tmp_path}/ca.crt&sslcert={tmp_path}/me.crt&sslkey={tmp_path}/me.key"
        session = SQLAlchemySession("s", db_url=url + files)
        await session.add_items([ITEM])
        await session.aflush(10)
        stores._close_all()


async def test_it_works_while_there_is_no_server() -> None:
    port = free_port()
    url = f"redis://127.0.0.1:{port}"
    session = RedisSession.from_url("s", url=url)
    began = time.perf_counter()
    await session.add_items([ITEM])
    assert await session.get_items() == [ITEM]
    assert time.perf_counter() - began < 2.5  # what a session that was never here may wait, once
    assert not await session.ping(timeout=0.2)
    assert session.pending == 1


async def test_a_session_expires(redis_url: str) -> None:
    prefix = f"test-{uuid.uuid4()}"
    session = RedisSession.from_url("s", url=redis_url, key_prefix=prefix, ttl=1)
    await session.add_items([ITEM])
    await session.aflush(10)
    client = redis.asyncio.from_url(redis_url)
    assert 0 < await client.pttl(f"localfirst:{prefix}:{{s}}:log") <= 1000
    await client.aclose()
    eventually(lambda: len(session) == 0)


async def test_a_session_for_each_request_shares_a_store(postgres_url: str) -> None:
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))
    first = SQLAlchemySession("user-0", engine=engine)
    for number in range(20):
        await SQLAlchemySession(f"user-{number}", engine=engine).add_items([ITEM])
    assert SQLAlchemySession("user-7", engine=engine).store is first.store
    assert len(list(first.store.sessions())) == 20
    await first.store.aflush(10)
    with localfirst.open(first.store.path.parent / "other", remote=postgres_url) as other:
        other.refresh(10)
        assert len(list(other.sessions())) == 20
