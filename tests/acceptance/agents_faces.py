"""Every session class for the OpenAI Agents SDK, as its users make it, for tests that hold for all of them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis.asyncio
from agents import OpenAIResponsesCompactionSession
from agents.extensions.memory import EncryptedSession as SdkEncryptedSession
from sqlalchemy.ext.asyncio import create_async_engine

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import (
    AsyncSQLiteSession,
    EncryptedSession,
    RedisSession,
    SQLAlchemySession,
    SQLiteSession,
)

KEY: Final = "nfF2-wNQnV3i8LpZrXeJ5s7uYbGhKdCa"
Make = Callable[..., Any]
"""Makes a session by its id; of one id, they are one conversation."""

OURS: Final = ("core", "sqlite", "async_sqlite", "redis", "sqlalchemy", "encrypted")
WRAPPED: Final = ("sdk_encrypted", "compacting")
"""Ours, inside of what the SDK wraps sessions in."""


@contextmanager
def making(request: pytest.FixtureRequest, folder: Path) -> Iterator[Make]:
    """Makes what the parameter of a fixture names; closed after the test."""
    try:
        yield maker(request.param, request, folder)
    finally:
        stores._close_all()


def maker(face: str, request: pytest.FixtureRequest, folder: Path) -> Make:
    """Makes sessions of a class in a folder, with a new namespace of the servers that all tests share."""
    directory, mark = folder / "conversations.db", f"test{uuid.uuid4().hex}"

    def sqlite(session_id: str, **options: Any) -> SQLiteSession:
        return SQLiteSession(session_id, directory, **options)

    def core() -> Make:
        store = localfirst.open(folder / "core")
        request.addfinalizer(store.close)
        return store.session

    def on_redis() -> Make:
        client = redis.asyncio.from_url(request.getfixturevalue("redis_url"), decode_responses=True)
        given: Any = {"redis_client": client, "key_prefix": mark, "path": folder / "redis"}
        return lambda session_id, **options: RedisSession(session_id, **given, **options)

    def on_postgres() -> Make:
        url = request.getfixturevalue("postgres_url").replace("postgresql:", "postgresql+asyncpg:")
        given: Any = {"engine": create_async_engine(url), "create_tables": True, "path": folder / "sql"}
        return lambda session_id, **options: SQLAlchemySession(session_id, **given, **options)

    def compacting(session_id: str, **options: Any) -> OpenAIResponsesCompactionSession:
        below = sqlite(session_id, **options)
        return OpenAIResponsesCompactionSession(session_id, below, should_trigger_compaction=lambda _: False)

    makers: dict[str, Callable[[], Make]] = {
        "core": core,
        "sqlite": lambda: sqlite,
        "async_sqlite": lambda: lambda name, **options: AsyncSQLiteSession(name, directory, **options),
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
