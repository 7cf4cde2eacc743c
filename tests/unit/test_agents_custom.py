"""Sessions of one's own: by subclassing those of the SDK, or ours; and what becomes of rows that are damaged."""

from __future__ import annotations

import gc
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner
from agents.testing import ScriptedModel, assistant_message
from diskcache.core import DBNAME

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import (
    AsyncSQLiteSession,
    EncryptedSession,
    Session,
    SessionABC,
    SessionSettings,
    SQLiteSession,
)
from localfirst.records import CHANGE, session_key

CONFIG = RunConfig(tracing_disabled=True)


@pytest.fixture(autouse=True)
def _closed() -> Iterator[None]:
    yield
    stores._close_all()


def said(number: int) -> Any:
    return {"role": "user", "content": f"number {number}"}


class Custom(SessionABC):
    """One that shares nothing with ours."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.items: list[Any] = []

    async def get_items(self, limit: int | None = None) -> list[Any]:
        return self.items[-limit:] if limit else self.items

    async def add_items(self, items: list[Any]) -> None:
        self.items.extend(items)

    async def pop_item(self) -> Any | None:
        return self.items.pop() if self.items else None

    async def clear_session(self) -> None:
        self.items.clear()


class Numbered(SQLiteSession):
    """One that keeps something with each item."""

    async def add_items(self, items: Any) -> None:
        await super().add_items([{**item, "number": len(self) + place} for place, item in enumerate(items)])


class Aware(SQLiteSession):
    """One that is told who runs."""

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.told: list[Any] = []

    async def get_items(self, limit: int | None = None, *, wrapper: Any = None, **options: Any) -> list[Any]:
        self.told.append(wrapper)
        return await super().get_items(limit, **options)

    async def add_items(self, items: Any, *, wrapper: Any = None) -> None:
        self.told.append(wrapper)
        await super().add_items(items)

    async def pop_item(self, *, wrapper: Any = None) -> Any | None:
        self.told.append(wrapper)
        return await super().pop_item()

    async def clear_session(self, *, wrapper: Any = None) -> None:
        self.told.append(wrapper)
        await super().clear_session()


async def run(session: Any, context: Any = None) -> None:
    agent = Agent[Any](name="Assistant", model=ScriptedModel([[assistant_message("Hi")]]))
    await Runner.run(agent, "Hello", session=session, context=context, run_config=CONFIG)


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_session_that_shares_nothing_with_ours(sealed: bool) -> None:
    below = Custom("s")
    session: Any = EncryptedSession(session=below, encryption_key="k" * 32) if sealed else below
    await run(session)
    assert [item["role"] for item in await session.get_items()] == ["user", "assistant"]


@pytest.mark.parametrize("sealed", [False, True])
async def test_a_subclass_is_told_who_runs(tmp_path: Path, sealed: bool) -> None:
    below = Aware("s", tmp_path)
    session: Any = EncryptedSession(session=below, encryption_key="k" * 32) if sealed else below
    await run(session, context="Alice")
    assert {wrapper.context for wrapper in below.told} == {"Alice"}
    below.told.clear()
    if sealed:
        assert (await session.pop_item(wrapper="Ben"))["role"] == "assistant"
        assert set(below.told) == {"Ben"}


async def test_a_subclass_with_items_of_its_own_making_is_not_passed_by(tmp_path: Path) -> None:
    session = Numbered("s", tmp_path)
    await session.add_items([said(0), said(1)])
    assert [item["number"] for item in await session.get_items()] == [0, 1]
    assert await session._get_compaction_snapshot(10) is None
    assert await session._atomic_replace_items([]) is False


def test_each_is_a_session_of_the_sdk_and_one_of_ours(tmp_path: Path) -> None:
    session = AsyncSQLiteSession("s", tmp_path)
    for kind in (Session, SessionABC, localfirst.Session):
        assert isinstance(session, kind)


async def test_settings_may_be_a_dict(tmp_path: Path) -> None:
    session = SQLiteSession("s", tmp_path, session_settings={"limit": 1})
    assert session.session_settings == SessionSettings(limit=1)
    await session.add_items([said(0), said(1)])
    assert await session.get_items() == [said(1)]
    agent = Agent[Any](name="Assistant", model=ScriptedModel([[assistant_message("Hi")]]))
    config = RunConfig(tracing_disabled=True, session_settings={"limit": 2})
    await Runner.run(agent, "Hello", session=session, run_config=config)
    assert len(agent.model.calls[0].input) == 3  # type: ignore[union-attr]
    assert SQLiteSession("s", tmp_path).session_settings == SessionSettings()


async def test_a_limit_never_parts_a_call_from_its_output(tmp_path: Path) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    output = {"type": "function_call_output", "call_id": "c", "output": "5"}
    for sealed in (False, True):
        below = SQLiteSession(f"{sealed}", tmp_path, session_settings={"limit": 2}, whole_turns=True)
        session: Any = EncryptedSession(session=below, encryption_key="k" * 32) if sealed else below
        await session.add_items([said(0), said(1), call, output, {"role": "assistant", "content": "5"}])
        model = ScriptedModel([[assistant_message("Hi")]])
        await Runner.run(Agent[Any](name="A", model=model), "Hello", session=session, run_config=CONFIG)
        given: Any = model.calls[0].input
        assert [item.get("type", item.get("role")) for item in given] == [
            "user",
            "function_call",
            "function_call_output",
            "assistant",
            "user",
        ]


async def test_memory_is_each_objects_own_and_ends_with_it() -> None:
    one, other = SQLiteSession("s"), SQLiteSession("s")
    await one.add_items([said(0)])
    assert await other.get_items() == []
    directory = one.store.path
    one.close()
    assert not directory.exists()


async def test_closing_is_a_coroutine_where_it_is_one_in_the_sdk(tmp_path: Path) -> None:
    session = AsyncSQLiteSession("s", tmp_path)
    await session.close()
    await session.close()
    async with AsyncSQLiteSession("s", tmp_path) as entered:
        await entered.add_items([said(0)])
    with AsyncSQLiteSession("s", tmp_path) as again:
        assert len(again) == 1
    with pytest.raises(RuntimeError, match="AsyncSQLiteSession is closed"):
        await entered.add_items([])
    assert not stores._opened


@pytest.mark.parametrize("closes", [True, False])
async def test_of_a_damaged_row_the_rest_is_shown(tmp_path: Path, closes: bool) -> None:
    """Also to programs that make a session for each request, and never close one."""

    def session() -> Any:
        return SQLiteSession("s", tmp_path)

    first = session()
    for number in range(5):
        await first.add_items([said(number)])
    first.store.close()
    stores._opened.clear()
    key = CHANGE + session_key("default", "s") + (3).to_bytes(8, "big")
    with closing(sqlite3.connect(tmp_path / "data" / DBNAME)) as connection, connection:
        query = "UPDATE Cache SET value = CAST(value || 'x' AS BLOB) WHERE key = ?"
        assert connection.execute(query, (key,)).rowcount == 1
    damaged = session()
    with pytest.raises(localfirst.StoreCorrupt):
        await damaged.get_items()
    if closes:
        damaged.close()
    del first, damaged
    gc.collect()
    assert await session().get_items() == [said(0), said(1), said(3), said(4)]
    assert await session().get_items(limit=3) == [said(1), said(3), said(4)]
    assert session().store.status().recovered is not None
    assert await session().pop_item() == said(4)


def test_without_the_sdk_there_is_an_error_that_names_the_extra() -> None:
    program = """
import sys
sys.modules["agents"] = None
import localfirst, localfirst.integrations
try:
    import localfirst.integrations.openai_agents
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert "pip install 'localfirst[openai-agents]'" in done.stdout


def test_importing_localfirst_imports_no_framework() -> None:
    program = (
        "import localfirst, sys; print([name for name in ('agents', 'sqlalchemy', 'redis') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
    program = program.replace("localfirst,", "localfirst.integrations.openai_agents,")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "['agents']"
