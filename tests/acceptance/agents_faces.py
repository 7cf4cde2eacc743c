"""Every session class for the OpenAI Agents SDK, as its users make it, for tests that hold for all of them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
import redis.asyncio
from agents import OpenAIResponsesCompactionSession
from agents.extensions.memory import EncryptedSession as SdkEncryptedSession
from sqlalchemy.ext.asyncio import create_async_engine

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import (
    AdvancedSQLiteSession,
    AsyncSQLiteSession,
    EncryptedSession,
    RedisSession,
    SQLAlchemySession,
    SQLiteSession,
)
from localfirst.testing.servers import Server, fresh_database

KEY: Final = "nfF2-wNQnV3i8LpZrXeJ5s7uYbGhKdCa"
Make = Callable[..., Any]
"""Makes a session by its id; of one id, they are one conversation."""

OURS: Final = ("core", "sqlite", "async_sqlite", "advanced", "redis", "sqlalchemy", "encrypted")
WRAPPED: Final = ("sdk_encrypted", "compacting")
"""Ours, inside of what the SDK wraps sessions in."""


@contextmanager
def making(face: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Make]:
    """Makes sessions of a class in a folder and, where it has one, on a server; closed at the end."""
    with ExitStack() as stack:
        stack.callback(stores._close_all)
        yield _maker(face, request, folder, stack)


def apart(make: Make) -> Make:
    """With ids that nobody else has."""
    mark = uuid.uuid4().hex
    return lambda session_id, **options: make(f"{session_id}-{mark}", **options)


def _maker(face: str, request: pytest.FixtureRequest, folder: Path, stack: ExitStack) -> Make:
    directory = folder / "conversations.db"

    def sqlite(session_id: str, **options: Any) -> SQLiteSession:
        return SQLiteSession(session_id, directory, **options)

    def core() -> Make:
        return stack.enter_context(localfirst.open(folder / "core")).session

    def on_redis() -> Make:
        client = redis.asyncio.from_url(request.getfixturevalue("redis_server").url, decode_responses=True)
        given: Any = {"redis_client": client, "key_prefix": f"test-{uuid.uuid4()}", "path": folder / "redis"}
        return lambda session_id, **options: RedisSession(session_id, **given, **options)

    def on_postgres() -> Make:
        url = request.getfixturevalue("postgres_of_module").replace("postgresql:", "postgresql+asyncpg:")
        given: Any = {"engine": create_async_engine(url), "create_tables": True, "path": folder / "sql"}
        return lambda session_id, **options: SQLAlchemySession(session_id, **given, **options)

    def compacting(session_id: str, **options: Any) -> OpenAIResponsesCompactionSession:
        below = sqlite(session_id, **options)
        return OpenAIResponsesCompactionSession(session_id, below, should_trigger_compaction=lambda _: False)

    makers: dict[str, Callable[[], Make]] = {
        "core": core,
        "sqlite": lambda: sqlite,
        "async_sqlite": lambda: lambda name, **options: AsyncSQLiteSession(name, directory, **options),
        "advanced": lambda: (
            lambda name, **options: AdvancedSQLiteSession(session_id=name, db_path=folder / "advanced.db", **options)
        ),
        "redis": on_redis,
        "sqlalchemy": on_postgres,
        "encrypted": lambda: lambda name, **options: EncryptedSession(name, sqlite(name, **options), KEY),
        "sdk_encrypted": lambda: lambda name, **options: SdkEncryptedSession(name, sqlite(name, **options), KEY),
        "compacting": lambda: compacting,
    }
    return makers[face]()


def below(session: Any) -> localfirst.Session:
    """The session of ours in what the SDK wraps sessions in, or itself."""
    while not isinstance(session, localfirst.Session):
        session = session.underlying_session
    return session


def kinds(items: list[Any]) -> list[str]:
    """The type of each item, or its role."""
    return [item.get("type") or item["role"] for item in items]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def postgres_of_module(postgres_server: Server) -> AsyncIterator[str]:
    """A new database in the shared Postgres, dropped after the tests of a module."""
    async with fresh_database(postgres_server.url) as url:
        yield url
