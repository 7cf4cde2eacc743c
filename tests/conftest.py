"""Fixtures for every test: real servers, each started only when a test first asks for it.

A test that stops, kills or pauses a server takes one of its own (`own_redis`, `own_postgres`); all others
share one of each kind per test worker.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from localfirst.testing.servers import (
    PostgresServer,
    RedisServer,
    Server,
    fresh_database,
    postgres_bin_dir,
    postgres_from_environment,
    redis_binary,
    redis_from_environment,
)

OwnRedis = Callable[..., RedisServer]
OwnPostgres = Callable[..., PostgresServer]


def pytest_report_header() -> list[str]:
    """Say which servers the tests run against."""
    return [f"redis: {_described(redis_binary)}", f"postgres: {_described(postgres_bin_dir)}"]


def _described(find: Callable[[], Path]) -> str:
    try:
        return str(find())
    except LookupError as error:
        return str(error)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[Server]:
    """The Redis server that the tests of this worker share."""
    server = redis_from_environment()
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """The Postgres server that the tests of this worker share."""
    server = postgres_from_environment()
    server.start()
    yield server
    server.close()


@pytest.fixture
def redis_url(redis_server: Server) -> str:
    """The shared Redis; a test keeps to a namespace of its own in it."""
    return redis_server.url


@pytest.fixture
async def postgres_url(postgres_server: Server) -> AsyncIterator[str]:
    """A new database in the shared Postgres, dropped after the test."""
    async with fresh_database(postgres_server.url) as url:
        yield url


@pytest.fixture
def own_redis() -> Iterator[OwnRedis]:
    """Start Redis servers for this test alone: `own_redis(password="…")`, as often as wanted."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisServer(**options))


@pytest.fixture
def own_postgres() -> Iterator[OwnPostgres]:
    """Start Postgres servers for this test alone: `own_postgres(password="…")`, as often as wanted."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(PostgresServer(**options))


@pytest.fixture(params=["directory", "redis", "postgres"])
def remote_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty remote of each kind in turn."""
    if request.param == "directory":
        return (tmp_path / "remote").as_uri()
    url: Any = request.getfixturevalue(f"{request.param}_url")
    return str(url)


@pytest.fixture
def central(tmp_path: Path) -> str:
    """A directory as central store, for what the network has no part in."""
    return (tmp_path / "central").as_uri()
