"""What a file is, which somebody names as a place where conversations are."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from agents import SQLiteSession
from agents.extensions.memory import AdvancedSQLiteSession, SQLAlchemySession

import localfirst
from localfirst.migration.detect import kind_of


async def test_files_of_the_sdk_are_known_by_their_tables(tmp_path: Path) -> None:
    file = tmp_path / "plain.db"
    session = SQLiteSession("user-123", file)
    await session.add_items([{"role": "user", "content": "Hello"}])
    assert kind_of(file) == "openai-agents"  # While it is open.
    session.close()
    assert kind_of(file) == "openai-agents"

    file = tmp_path / "named.db"
    SQLiteSession("user-123", file, sessions_table="mine", messages_table="of_mine").close()
    assert kind_of(str(file)) == "openai-agents"

    file = tmp_path / "advanced.db"
    AdvancedSQLiteSession(session_id="user-123", db_path=file, create_tables=True).close()
    assert kind_of(file) == "openai-agents"

    file = tmp_path / "alchemy.db"
    alchemy = SQLAlchemySession.from_url("user-123", url=f"sqlite+aiosqlite:///{file}", create_tables=True)
    await alchemy.add_items([{"role": "user", "content": "Hello"}])
    await alchemy.engine.dispose()
    assert kind_of(file) == "openai-agents"


def test_a_store_of_openstackai_is_known(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "sessions.db")) as made:
        made.execute("CREATE TABLE sessions (id, user_id, state)")
        made.execute("CREATE TABLE messages (id, session_id, role, content, position)")
    assert kind_of(tmp_path / "sessions.db") == "openstackai"


def test_an_export_is_known(tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store") as store:
        session = store.session("user-123")
        session.add_message("user", "Hello")
        (tmp_path / "export.json").write_text(json.dumps(session.export()))
    assert kind_of(tmp_path / "export.json") == "localfirst-export"


def test_other_files_are_something_else(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as made:
        made.execute("CREATE TABLE other (id)")
    (tmp_path / "notes.txt").write_text("localfirst.session")
    (tmp_path / "empty.db").write_bytes(b"")
    (tmp_path / "short.db").write_bytes(b"{")
    assert kind_of(tmp_path / "other.db") == "sqlite"
    assert [kind_of(tmp_path / name) for name in ("notes.txt", "empty.db", "short.db", ".", "missing")] == [None] * 5


@pytest.mark.parametrize("harm", ["cut", "overwritten"])
def test_a_damaged_database_is_a_database(tmp_path: Path, harm: str) -> None:
    file = tmp_path / "damaged.db"
    asyncio.run(_fill(file))
    data = bytearray(file.read_bytes())
    data[100:4096] = b"\xff" * 3996
    file.write_bytes(data[:5000] if harm == "cut" else data)
    assert kind_of(file) == "sqlite"


async def _fill(file: Path) -> None:
    session = SQLiteSession("user-123", file)
    await session.add_items([{"role": "user", "content": "Hello"}] * 100)
    session.close()
