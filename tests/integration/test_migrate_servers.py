"""What the OpenAI Agents SDK keeps in Redis and in Postgres comes along, whole, once, and as it is."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import pytest
import redis.asyncio
from agents.extensions.memory import RedisSession, SQLAlchemySession

import localfirst
from localfirst.errors import ConfigurationError, RemoteUnavailable
from tests.conftest import OwnPostgres, OwnRedis
from tests.faults.tls import Authority, postgres_with_tls, redis_with_tls


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    """An empty one, without a central store."""
    with localfirst.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def prefix() -> str:
    """One that no other test has, with what means something in a pattern."""
    return f"app[*]{uuid.uuid4()}"


def messages(count: int, first: int = 0) -> list[Any]:
    """A conversation."""
    return [{"role": "user", "content": f"Message {number} ünïcode"} for number in range(first, first + count)]


async def in_redis(url: str, prefix: str, session_id: str, items: list[Any]) -> None:
    """Written by the SDK."""
    session = RedisSession.from_url(session_id, url=url, key_prefix=prefix)
    await session.add_items(items)
    await session.close()


def sqlalchemys(url: str) -> str:
    """A URL as SQLAlchemy wants it."""
    return url.replace("postgresql://", "postgresql+asyncpg://", 1)


async def in_postgres(url: str, session_id: str, items: list[Any], **tables: Any) -> None:
    """Written by the SDK, which takes a second for what it is given at once."""
    session = SQLAlchemySession.from_url(session_id, url=sqlalchemys(url), create_tables=True, **tables)
    await session.add_items(items)
    await session.engine.dispose()


# Redis.


async def test_redis(redis_url: str, prefix: str, store: localfirst.Store) -> None:
    await in_redis(redis_url, prefix, "long", messages(1203))
    await in_redis(redis_url, prefix, "a:messages", messages(2))
    await in_redis(redis_url, f"{prefix}-other", "long", messages(1))

    report = localfirst.migrate(redis_url, store, key_prefix=prefix)

    assert (report.ok, report.verified, report.imported) == (True, True, 1205)
    assert [session.session_id for session in report.sessions] == ["a:messages", "long"]
    assert list(store.session("long")) == messages(1203)
    assert list(store.session("a:messages")) == messages(2)
    assert str(store.session("long").get("created_at")).startswith("20")

    await in_redis(redis_url, prefix, "long", messages(3, first=1203))
    again = localfirst.migrate(redis_url, store, key_prefix=prefix, sessions="lo*")
    assert (again.ok, again.verified, again.imported, again.skipped) == (True, True, 3, 1203)
    assert list(store.session("long")) == messages(1206)


async def test_redis_damaged_and_changed(redis_url: str, prefix: str, store: localfirst.Store) -> None:
    await in_redis(redis_url, prefix, "user-123", messages(3))
    client: Any = redis.asyncio.Redis.from_url(redis_url)
    key = f"{prefix}:user-123:messages"
    await client.lset(key, 1, b"\xff{")
    report = localfirst.migrate(redis_url, store, key_prefix=prefix)
    assert (report.ok, report.imported, report.damaged) == (True, 2, 1)
    await client.lset(key, 1, b"1")
    report = localfirst.migrate(redis_url, store, key_prefix=prefix)
    assert "not those that were imported before" in str(report.problems[0].problem)
    await client.aclose()


async def test_redis_with_something_else_in_the_place_of_a_time(
    redis_url: str, prefix: str, store: localfirst.Store
) -> None:
    await in_redis(redis_url, prefix, "odd", messages(2))
    await in_redis(redis_url, prefix, "usual", messages(2))
    async with redis.asyncio.from_url(redis_url) as client:
        await client.set(f"{prefix}:odd", "no hash")
    report = localfirst.migrate(redis_url, store, key_prefix=prefix)
    assert (report.ok, report.imported) == (True, 4)


async def test_redis_that_refuses(own_redis: OwnRedis, store: localfirst.Store) -> None:
    server = own_redis(password="s3cret-of-mine")
    await in_redis(server.url, "agents:session", "user-123", messages(2))
    assert localfirst.migrate(server.url, store).imported == 2
    with pytest.raises(ConfigurationError) as refused:
        localfirst.migrate(server.url.replace("s3cret-of-mine", "wr0ng"), store)
    assert "wr0ng" not in str(refused.value)
    server.close()
    with pytest.raises(RemoteUnavailable):
        localfirst.migrate(server.url, store)


def test_redis_by_tls(store: localfirst.Store, tmp_path: Path) -> None:
    ours = Authority("ours")
    (tmp_path / "ca.crt").write_bytes(ours.certificate)
    with redis_with_tls(ours.issue("localhost")) as port:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.crt'}"
        asyncio.run(in_redis(url, "agents:session", "user-123", messages(2)))
        assert localfirst.migrate(url, store).imported == 2
        with pytest.raises(ConfigurationError):
            localfirst.migrate(f"rediss://localhost:{port}/0", store)


# Postgres.


async def test_postgres(postgres_url: str, store: localfirst.Store) -> None:
    await in_postgres(postgres_url, "user-123", messages(1203))
    await in_postgres(postgres_url, "other", messages(2))
    url = sqlalchemys(postgres_url)

    report = localfirst.migrate(url, store)  # On a thread whose loop runs.

    assert (report.ok, report.verified, report.imported) == (True, True, 1205)
    assert list(store.session("user-123")) == messages(1203)
    assert str(store.session("user-123").get("created_at")).startswith("20")

    await in_postgres(postgres_url, "user-123", messages(3, first=1203))
    again = await localfirst.amigrate(postgres_url, store, sessions=["user-123"])
    assert (again.ok, again.verified, again.imported, again.skipped) == (True, True, 3, 1203)
    assert list(store.session("user-123")) == messages(1206)


async def test_postgres_in_the_sdks_own_order(postgres_url: str, store: localfirst.Store) -> None:
    await in_postgres(postgres_url, "user-123", messages(3))
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("UPDATE agent_messages SET created_at = '2001-01-01' WHERE id = 3")
    await connection.execute("UPDATE agent_messages SET message_data = '{' WHERE id = 1")
    await connection.close()
    report = localfirst.migrate(postgres_url, store)
    assert (report.ok, report.verified, report.damaged) == (True, True, 1)
    assert list(store.session("user-123")) == [messages(3)[2], messages(3)[1]]


async def test_postgres_other_tables(postgres_url: str, store: localfirst.Store) -> None:
    await in_postgres(postgres_url, "user-123", messages(2), sessions_table="Mine", messages_table="OfMine")
    with pytest.raises(ConfigurationError, match="'agent_messages'"):
        localfirst.migrate(postgres_url, store)
    names: dict[str, Any] = {"sessions_table": "public.Mine", "messages_table": "public.OfMine"}
    assert localfirst.migrate(postgres_url, store, **names).imported == 2


async def test_postgres_while_its_owner_writes(postgres_url: str, store: localfirst.Store) -> None:
    await in_postgres(postgres_url, "user-123", messages(3000))
    owner = SQLAlchemySession.from_url("user-123", url=sqlalchemys(postgres_url))
    count = 3000

    async def write_on() -> None:
        nonlocal count
        while not imported.done():
            await owner.add_items(messages(1, first=count))
            count += 1

    imported = asyncio.create_task(localfirst.amigrate(postgres_url, store))
    await write_on()
    assert (await imported).verified
    localfirst.migrate(postgres_url, store)
    assert list(store.session("user-123")) == messages(count)
    await owner.engine.dispose()


async def test_postgres_that_refuses(own_postgres: OwnPostgres, store: localfirst.Store) -> None:
    server = own_postgres(password="s3cret-of-mine")
    await in_postgres(server.url, "user-123", messages(2))
    assert localfirst.migrate(server.url, store).imported == 2
    with pytest.raises(ConfigurationError) as refused:
        localfirst.migrate(server.url.replace("s3cret-of-mine", quote("wr0ng")), store)
    assert "wr0ng" not in str(refused.value)
    server.close()
    with pytest.raises(RemoteUnavailable):
        localfirst.migrate(server.url, store)


def test_postgres_by_tls(store: localfirst.Store, tmp_path: Path) -> None:
    ours = Authority("ours")
    (tmp_path / "ca.crt").write_bytes(ours.certificate)

    async def fill(url: str) -> None:
        connection = await asyncpg.connect(url)
        await connection.execute(
            "CREATE TABLE agent_sessions (session_id varchar PRIMARY KEY, created_at timestamp, updated_at timestamp);"
            "CREATE TABLE agent_messages (id serial, session_id varchar, message_data text, created_at timestamp);"
            "INSERT INTO agent_messages (session_id, message_data, created_at) VALUES ('user-123', '1', now());"
        )
        await connection.close()

    with postgres_with_tls(ours.issue("localhost")) as port:
        where = f"localhost:{port}/postgres"
        trusted = f"sslrootcert={tmp_path / 'ca.crt'}"
        asyncio.run(fill(f"postgresql://postgres@{where}?sslmode=verify-full&{trusted}"))
        assert (
            localfirst.migrate(f"postgresql+asyncpg://postgres@{where}?ssl=verify-full&{trusted}", store).imported == 1
        )
        with pytest.raises(ConfigurationError):
            localfirst.migrate(f"postgresql://postgres@{where}?sslmode=verify-full", store)
