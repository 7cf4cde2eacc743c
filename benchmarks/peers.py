"""What is measured: sessions of several systems behind one small interface, and the bare limits of the machine."""

from __future__ import annotations

import importlib
import sqlite3
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

import msgspec

import localfirst
from localfirst.options import Durability

PACKAGES: Final = ("localfirst", "openai-agents", "SQLAlchemy", "aiosqlite", "diskcache", "msgspec", "redis")
"""Whose versions belong in a report."""

Item = dict[str, Any]

_KEY: Final = b"MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="
_FULL: Final = "fsync every commit"
_NORMAL: Final = "fsync at checkpoints"


class Conversation(Protocol):
    """The calls of an agent on its session."""

    async def add_items(self, items: Any) -> None: ...

    async def get_items(self, limit: int | None = None) -> Any: ...

    async def pop_item(self) -> Any: ...


class Database(ABC):
    """One system on files of its own in an empty or used directory."""

    @abstractmethod
    def session(self, session_id: str) -> Conversation:
        """Begin to use a session."""

    async def leave(self, session: Any) -> None:  # noqa: B027 - most have nothing to do
        """End to use a session."""

    async def close(self) -> None:  # noqa: B027
        """Let go of all files."""


class System(NamedTuple):
    """A system to compare."""

    name: str
    title: str
    durability: str
    """What a call that returned has survived, as the system is configured here."""
    open: Callable[[Path], Database]
    module: str = "agents.memory"
    """Which must be there."""


@asynccontextmanager
async def conversation(database: Database, session_id: str) -> AsyncIterator[Conversation]:
    """A session for as long as it is needed."""
    session = database.session(session_id)
    try:
        yield session
    finally:
        await database.leave(session)


@asynccontextmanager
async def opened(system: System, directory: Path) -> AsyncIterator[Database]:
    """A system on a directory for as long as it is needed."""
    database = system.open(directory)
    try:
        yield database
    finally:
        await database.close()


class LocalFirst(Database):
    """This library without a central store: `benchmarks.beside` measures with one."""

    def __init__(self, directory: Path, durability: Durability, key: bytes | None = None) -> None:
        self._store = localfirst.open(directory / "store", durability=durability, encryption_key=key)

    def session(self, session_id: str) -> Conversation:
        return self._store.session(session_id)

    async def close(self) -> None:
        await self._store.aclose()


class _Plain(Database):
    """The SDK's session on SQLite: its own default for files, one object per session."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sessions.db"

    def session(self, session_id: str) -> Conversation:
        from agents.memory import SQLiteSession

        return SQLiteSession(session_id, self._path)

    async def leave(self, session: Any) -> None:
        session.close()


class _Encrypted(_Plain):
    """The same, with the SDK's encryption around it."""

    def session(self, session_id: str) -> Conversation:
        from agents.extensions.memory import EncryptedSession

        return EncryptedSession(session_id, super().session(session_id), _KEY.decode())  # type: ignore[arg-type]

    async def leave(self, session: Any) -> None:
        session.underlying_session.close()


class _Async(_Plain):
    def session(self, session_id: str) -> Conversation:
        from agents.extensions.memory import AsyncSQLiteSession

        return AsyncSQLiteSession(session_id, self._path)

    async def leave(self, session: Any) -> None:
        await session.close()


class _Advanced(_Plain):
    def session(self, session_id: str) -> Conversation:
        from agents.extensions.memory import AdvancedSQLiteSession

        return AdvancedSQLiteSession(session_id=session_id, db_path=self._path, create_tables=True)


class _SQLAlchemy(Database):
    """One engine for all sessions, as its documentation advises; tables are made once."""

    def __init__(self, directory: Path) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine

        path = directory / "sessions.db"
        self._is_new = not path.exists()
        self._engine = create_async_engine(f"sqlite+aiosqlite:///{path}")

    def session(self, session_id: str) -> Conversation:
        from agents.extensions.memory import SQLAlchemySession

        return SQLAlchemySession(session_id, engine=self._engine, create_tables=self._is_new)

    async def close(self) -> None:
        await self._engine.dispose()


def _localfirst(durability: Durability, key: bytes | None = None) -> Callable[[Path], Database]:
    return lambda directory: LocalFirst(directory, durability, key)


NORMAL: Final = System("localfirst", "localfirst", _NORMAL, _localfirst("normal"), "localfirst")
SEALED: Final = System("localfirst-sealed", "localfirst, sealed", _NORMAL, _localfirst("normal", _KEY), "localfirst")
FULL: Final = System("localfirst-full", "localfirst, full", _FULL, _localfirst("full"), "localfirst")
SDK: Final = System("sqlite", "SQLiteSession", _FULL, _Plain)
SYSTEMS: Final = (
    NORMAL,
    FULL,
    SEALED,
    SDK,
    System(
        "encrypted-sqlite", "EncryptedSession(SQLite)", _FULL, _Encrypted, "agents.extensions.memory.encrypt_session"
    ),
    System("async-sqlite", "AsyncSQLiteSession", _FULL, _Async, "agents.extensions.memory.async_sqlite_session"),
    System("advanced-sqlite", "AdvancedSQLiteSession", _FULL, _Advanced),
    System("sqlalchemy", "SQLAlchemySession", _FULL, _SQLAlchemy, "agents.extensions.memory.sqlalchemy_session"),
)


def why_missing(system: System) -> str | None:
    """Why a system can't be measured here; None if it can."""
    try:
        importlib.import_module(system.module)
    except ImportError as error:
        return str(error)
    return None


# The limits.


class BareInserts:
    """SQLite with nothing around it: one table, one prepared insert, each its own commit to the write-ahead log."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, data BLOB)")

    async def insert(self, data: bytes) -> None:
        """A coroutine as an agent's call is one, so that both pay for that."""
        self._connection.execute("INSERT INTO items (data) VALUES (?)", (data,))

    def close(self) -> None:
        """Close the database."""
        self._connection.close()


def bare_decode(items: Sequence[Item]) -> Callable[[], Awaitable[Any]]:
    """Decode the same items out of one JSON array."""
    data, decode = msgspec.json.encode(items), msgspec.json.Decoder().decode

    async def call() -> Any:
        return decode(data)

    return call
