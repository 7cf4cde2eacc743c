"""What clients of Redis and engines of SQLAlchemy become: the address of a central store, or an error that helps."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest
import redis
import redis.asyncio
import redis.asyncio.sentinel
import redis.credentials
import sqlalchemy
from redis.asyncio.connection import parse_url
from sqlalchemy import event
from sqlalchemy.ext.asyncio import create_async_engine

from localfirst.errors import ConfigurationError
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import RedisSession, SQLAlchemySession, SQLiteSession
from localfirst.integrations.openai_agents.postgres_address import of_engine, of_url
from localfirst.integrations.openai_agents.redis_address import of_client, with_options
from sync.central.postgres.address import parse_address
from sync.central.redis.address import connection_pools

SECRET: Final = "h/u#n@t:2?%é+ &"
KINDS: Final = [redis.Redis, redis.asyncio.Redis]


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    stores._close_all()


def options_of(url: str) -> dict[str, Any]:
    """What redis-py makes of an address."""
    found: dict[str, Any] = dict(parse_url(url))
    kind = found.pop("connection_class", None)
    return found | ({"tls": True} if kind is redis.asyncio.SSLConnection else {})


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_of_redis(kind: Any) -> None:
    assert of_client(kind()) == "redis://localhost:6379/0"
    assert of_client(kind(host="::1", port=7, db=3, decode_responses=True)) == "redis://[::1]:7/3"
    url = of_client(kind(host="cache", username="me", password=SECRET, client_name="x", socket_timeout=1))
    assert options_of(url) == {"host": "cache", "port": 6379, "db": 0, "username": "me", "password": SECRET}
    assert SECRET not in repr(url)
    assert repr(url) == "'redis://cache:6379/0'"
    path = "/run/redis server.sock"
    assert options_of(of_client(kind(unix_socket_path=path, db=2, password=SECRET))) == {
        "path": path,
        "db": 2,
        "password": SECRET,
    }
    assert of_client(kind.from_url("redis://:a%2Fb@cache:7/4")).startswith("redis://cache:7/4?password=a%2Fb")


@pytest.mark.parametrize("kind", KINDS)
def test_a_client_with_certificates(kind: Any, tmp_path: Path) -> None:
    files = {name: str(tmp_path / name) for name in ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile")}
    url = of_client(kind(ssl=True, ssl_password=SECRET, **files))
    expected = {"host": "localhost", "port": 6379, "db": 0, "tls": True, "ssl_password": SECRET, **files}
    found = options_of(url)
    assert expected.items() <= found.items()
    assert (found["ssl_cert_reqs"], found["ssl_check_hostname"]) == ("required", True)
    careless = options_of(of_client(kind(ssl=True, ssl_cert_reqs="none", ssl_check_hostname=False)))
    assert (careless["ssl_cert_reqs"], careless["ssl_check_hostname"]) == ("none", False)
    strict = of_client(kind(ssl=True, ssl_cert_reqs=ssl.CERT_REQUIRED, ssl_min_version=ssl.TLSVersion.TLSv1_3))
    assert options_of(strict)["ssl_cert_reqs"] == "required"
    connection_pools(strict)
    assert "tls" in options_of(of_client(kind.from_url("rediss://cache")))


async def test_clients_without_one_address_are_refused() -> None:
    provider = redis.credentials.UsernamePasswordCredentialProvider("me", SECRET)
    sentinels: Any = redis.asyncio.sentinel.Sentinel
    sentinel = sentinels([("localhost", 1)]).master_for("main", password=SECRET)
    refused: list[tuple[Any, str]] = [
        (redis.Redis(credential_provider=provider), "credential_provider is not understood"),
        (sentinel, "Sentinel"),
        (redis.asyncio.RedisCluster("localhost"), "RedisCluster is no client of one Redis server"),
        (object(), "object is no client"),
        (redis.Redis(ssl=True, ssl_include_verify_flags=[ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF]), "ssl_include"),
    ]
    for client, message in refused:
        with pytest.raises(ConfigurationError, match=message) as caught:
            RedisSession("s", redis_client=client)
        assert "from_url" in str(caught.value)
        assert SECRET not in str(caught.value)


def test_an_address_of_redis() -> None:
    assert with_options("redis://cache", {}) == "redis://cache"
    given = {"password": SECRET, "db": 2, "decode_responses": True, "max_connections": 3}
    assert options_of(with_options("redis://cache", given)) == {"host": "cache", "password": SECRET, "db": 2}
    assert options_of(with_options("redis://:mine@cache/1?socket_timeout=3", given)) == {
        "host": "cache",
        "db": 1,
        "socket_timeout": 3.0,
        "password": "mine",
    }
    assert options_of(with_options("rediss://cache?ssl_ca_certs=/a", {"ssl_ca_certs": "/b"}))["ssl_ca_certs"] == "/a"
    for url, options, message in (
        ("postgresql://host/db", {}, "begins with redis://"),
        ("redis+cluster://host", {}, "begins with redis://"),
        ("redis://[host", {}, "not the address"),
        ("redis://cache", {"ssl_ca_certs": "/a"}, "rediss://"),
        ("redis://cache", {"credential_provider": object()}, "credential_provider"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            RedisSession.from_url("s", url=url, redis_kwargs=options)


def test_prefixes_and_tables_are_namespaces(tmp_path: Path) -> None:
    url, other = "redis://127.0.0.1:1", "postgresql://127.0.0.1:1/db"
    named = {
        "default": RedisSession.from_url("s", url=url, path=tmp_path / "1"),
        "chat": RedisSession.from_url("s", url=url, path=tmp_path / "1", key_prefix="chat"),
        "agent_sessions.chat": SQLAlchemySession("s", db_url=other, path=tmp_path / "2", messages_table="chat"),
        "a.agent_messages": SQLiteSession("s", tmp_path / "3", "a"),
    }
    for namespace, session in named.items():
        assert session.store.namespace == namespace
    for prefix in ("", "default"):
        with pytest.raises(ConfigurationError, match="take another one"):
            RedisSession.from_url("s", url=url, key_prefix=prefix)


@pytest.fixture
def drivers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines can be made of drivers that are not here."""
    for name in ("psycopg2", "psycopg"):
        if name not in sys.modules:
            monkeypatch.setitem(sys.modules, name, _driver(name))


def _driver(name: str) -> ModuleType:
    module: Any = ModuleType(name)
    module.paramstyle, module.__version__, module.extras = "pyformat", "3.9.9", None
    return module  # type: ignore[no-any-return]


@pytest.mark.parametrize("driver", ["", "+asyncpg", "+psycopg2", "+psycopg"])
def test_an_address_of_postgres(driver: str) -> None:
    url = f"postgresql{driver}://me:p%40ss@db:5432/app"
    assert of_url(url) == "postgresql://me:p%40ss@db:5432/app"
    assert repr(of_url(url)) == "'postgresql://db:5432/app'"
    assert of_url(sqlalchemy.make_url(url)) == of_url(url)


def test_options_of_postgres() -> None:
    kept = "sslmode=verify-full&sslrootcert=%2Fca.crt&application_name=app"
    assert of_url(f"postgresql://db/app?{kept}") == f"postgresql://db/app?{kept}"
    assert of_url("postgresql+asyncpg://db/app?ssl=verify-full&prepared_statement_cache_size=0&timeout=3") == (
        "postgresql://db/app?sslmode=verify-full&statement_cache_size=0"
    )
    assert of_url("postgresql+asyncpg://db/app?ssl=true").endswith("?sslmode=require")
    hosts = of_url("postgresql+psycopg2:///app?host=a:5432&host=b:5433&connect_timeout=3&channel_binding=prefer")
    assert parse_address(hosts).server == "postgresql://a:5432,b:5433/app"
    for option in ("channel_binding=require", "service=x", "sslcompression=1", "passfile=x"):
        with pytest.raises(ConfigurationError, match=f"option {option.partition('=')[0]} .*leave it out"):
            of_url(f"postgresql://db/app?{option}")


def test_engines(drivers: None) -> None:
    url = sqlalchemy.URL.create("postgresql", "me", SECRET, "::1", 5432, "app", {"sslmode": "require"})
    for engine in (
        sqlalchemy.create_engine(url.set(drivername="postgresql+psycopg2"), pool_pre_ping=True),
        create_async_engine(url.set(drivername="postgresql+asyncpg", query={"ssl": "require"}), pool_size=3),
    ):
        found = of_engine(engine)
        assert SECRET in parse_address(found).passwords
        assert parse_address(found).server == "postgresql://[::1]:5432/app"
        assert found.endswith("?sslmode=require")


def test_engines_that_connect_with_more_than_their_url_are_refused(drivers: None) -> None:
    url = "postgresql+asyncpg://me:hunter2@db/app"

    def connect(*_: Any) -> Any:
        raise AssertionError

    listened = create_async_engine(url)
    event.listen(listened.sync_engine, "do_connect", connect)
    for engine in (
        create_async_engine(url, connect_args={"ssl": ssl.create_default_context()}),
        create_async_engine(url, async_creator=connect),
        sqlalchemy.create_engine("postgresql+psycopg2://db/app", creator=connect),
        listened,
    ):
        with pytest.raises(ConfigurationError, match="pass db_url=") as caught:
            SQLAlchemySession("s", engine=engine)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="connect_args"):
        SQLAlchemySession.from_url("s", url=url, engine_kwargs={"connect_args": {"ssl": True}})
    with pytest.raises(ConfigurationError, match="no engine"):
        SQLAlchemySession("s", engine=object())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sqlite+aiosqlite:///conversations.db", r"SQLiteSession\(session_id, directory\)"),
        ("mysql+aiomysql://me:hunter2@db/app", "begin with mysql.*postgresql://"),
        ("redis://:hunter2@cache", "RedisSession"),
        ("me:hunter2@db", "not a URL"),
    ],
)
def test_other_databases_are_refused_and_told_what_works(url: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        SQLAlchemySession("s", db_url=url)
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigurationError, match=message):
        SQLAlchemySession.from_url("s", url=url, engine_kwargs={"echo": False}, create_tables=True)
    if url.startswith("sqlite"):
        with pytest.raises(ConfigurationError, match=message):
            SQLAlchemySession("s", engine=create_async_engine(url))


@pytest.mark.parametrize("rest", ["a?hunter2", "a?b=1&hunter2", "a?hunter2="])
def test_the_rest_of_a_password_is_not_shown_as_an_option(rest: str) -> None:
    with pytest.raises(ConfigurationError, match="%3F") as raised:
        of_url(f"postgresql://me:{rest}@db/app")
    assert "hunter2" not in str(raised.value)


def test_a_client_with_a_password_that_is_no_text() -> None:
    with pytest.raises(ConfigurationError, match="UTF-8"):
        of_client(redis.Redis(password=b"\xff"))  # type: ignore[arg-type]  # It takes bytes all the same.


def test_one_of_engine_and_url(tmp_path: Path) -> None:
    url = "postgresql+asyncpg://127.0.0.1:1/app"
    for given in ({}, {"engine": create_async_engine(url), "db_url": url}):
        with pytest.raises(ConfigurationError, match="either engine= or db_url="):
            SQLAlchemySession("s", **given)  # type: ignore[arg-type]
    engine = create_async_engine(url)
    session = SQLAlchemySession("s", engine=engine, path=tmp_path)
    assert session.engine is engine
    made = SQLAlchemySession.from_url("s", url=url, path=tmp_path)
    assert made.engine is made.engine
    assert str(made.engine.url) == url


def test_memory_goes_nowhere() -> None:
    with pytest.raises(ConfigurationError, match="name a directory as db_path"):
        SQLiteSession("s", remote="redis://cache")
