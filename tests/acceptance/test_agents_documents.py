"""Programs for the sessions of the OpenAI Agents SDK, as its users write them, with another import line.

Where their calls differ from the SDK's, both work.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import redis.asyncio as redis
from agents import Agent, RunConfig, Runner
from agents.memory import SQLiteSession as SdkSQLiteSession
from agents.testing import ModelStep, ScriptedModel, assistant_message
from fastapi import FastAPI
from sqlalchemy.ext.asyncio import create_async_engine

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import (
    AsyncSQLiteSession,
    EncryptedSession,
    RedisSession,
    SessionABC,
    SQLAlchemySession,
    SQLiteSession,
)

pytestmark = pytest.mark.integration

CONFIG = RunConfig(tracing_disabled=True)


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOCALFIRST_HOME", str(tmp_path / "home"))
    yield
    stores._close_all()


def answering() -> Agent[Any]:
    """An agent that says how many messages it was given."""

    def answer(call: Any) -> Any:
        return ModelStep(output=[assistant_message(f"{len(call.input)} messages")])

    return Agent(
        name="NotesAgent", instructions="Help with notes.", model=ScriptedModel([ModelStep(responder=answer)] * 9)
    )


async def answers(session: Any, *questions: str) -> list[str]:
    agent = answering()
    return [
        str((await Runner.run(agent, question, session=session, run_config=CONFIG)).final_output)
        for question in questions
    ]


TWICE = ["1 messages", "3 messages"]


async def test_in_memory_and_in_a_file() -> None:
    assert await answers(SQLiteSession("user_123"), "Create a note", "Now list my notes") == TWICE
    assert await answers(SQLiteSession("user_123"), "Create a note") == ["1 messages"]
    assert await answers(SQLiteSession("user_123", "conversations.db"), "Create a note", "Now list my notes") == TWICE
    assert await answers(SQLiteSession("user_123", "conversations.db"), "And now?") == ["5 messages"]
    assert await answers(AsyncSQLiteSession("user_123", "conversations.db"), "And now?") == ["7 messages"]


async def test_a_session_per_user() -> None:
    async def chat(user_id: str, message: str) -> str:
        session = SQLiteSession(user_id, "conversations.db")
        result = await Runner.run(answering(), message, session=session, run_config=CONFIG)
        return str(result.final_output)

    said = [await chat("ann", "Hello"), await chat("ben", "Hello"), await chat("ann", "Again")]
    assert said == ["1 messages", "1 messages", "3 messages"]


async def test_a_database_by_its_url(postgres_url: str) -> None:
    url = postgres_url.replace("postgresql:", "postgresql+asyncpg:")
    session = SQLAlchemySession(session_id="user_123", db_url=url, create_tables=True)
    assert await answers(session, "Create a note", "Now list my notes") == TWICE
    same = SQLAlchemySession.from_url("user_123", url=url, create_tables=True)
    assert await answers(same, "And now?") == ["5 messages"]


async def test_a_service_with_an_engine(postgres_url: str) -> None:
    app = FastAPI()
    engine = create_async_engine(postgres_url.replace("postgresql:", "postgresql+asyncpg:"))

    @app.post("/chat")
    async def chat(user_id: str, message: str) -> dict[str, str]:
        session = SQLAlchemySession(session_id=user_id, engine=engine)
        result = await Runner.run(answering(), message, session=session, run_config=CONFIG)
        return {"response": result.final_output}

    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        found = [
            (await client.post("/chat", params={"user_id": user, "message": "Hello"})).json()["response"]
            for user in ("ann", "ben", "ann")
        ]
    assert found == ["1 messages", "1 messages", "3 messages"]


async def test_redis_with_a_client(redis_url: str) -> None:
    client = redis.from_url(redis_url, decode_responses=True)
    session = RedisSession(session_id="documented", redis_client=client, ttl=3600)
    await session.clear_session()
    assert await answers(session, "Create a note", "Now list my notes") == TWICE
    assert session.expires_at is not None
    await session.aflush(10)
    await client.aclose()


async def test_sealed_in_both_spellings() -> None:
    base = SQLiteSession("user_123", "conversations.db")
    one = EncryptedSession(session=base, encryption_key="your-32-byte-key-here-for-aes256", ttl=3600)
    assert await answers(one, "My secret", "Again") == TWICE
    other = EncryptedSession(
        session_id="user_123",
        underlying_session=base,
        encryption_key="your-secret-key-32-bytes-long!",
        ttl=600,
    )
    assert await answers(other, "My secret", "Again") == TWICE
    assert "secret" not in str(await base.get_items())


async def test_calls_of_a_session() -> None:
    session = SQLiteSession("user_123")
    await session.add_items([{"role": "user", "content": "Hello"}])
    assert await session.get_items() == [{"role": "user", "content": "Hello"}]
    assert await session.pop_item() == {"role": "user", "content": "Hello"}
    await session.clear_session()
    assert await session.get_items() == []


async def test_a_session_of_ones_own() -> None:
    class MyCustomSession(SessionABC):
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

    assert await answers(MyCustomSession("s"), "Hello", "Again") == TWICE


async def test_a_context_beside_the_session() -> None:
    @dataclass
    class UserContext:
        user_name: str

    model = ScriptedModel([[assistant_message("Hi")]])
    agent = Agent[UserContext](
        name="NotesAgent",
        instructions=lambda context, _: f"Help {context.context.user_name} with notes.",
        model=model,
    )
    session = SQLiteSession("user_123", "conversations.db")
    await Runner.run(agent, "Hello", context=UserContext("Ann"), session=session, run_config=CONFIG)
    assert model.calls[0].system_instructions == "Help Ann with notes."


async def test_after_an_error_the_session_goes_on() -> None:
    session = SQLiteSession("user_123", "conversations.db")
    agent = Agent[Any](name="A", model=ScriptedModel([RuntimeError("away"), [assistant_message("Hi")]]))
    with pytest.raises(RuntimeError, match="away"):
        await Runner.run(agent, "Hello", session=session, run_config=CONFIG)
    result = await Runner.run(agent, "Hello?", session=session, run_config=CONFIG)
    assert result.final_output == "Hi"


async def test_old_sessions_are_cleaned_up() -> None:
    session = SQLiteSession("user_123", "conversations.db")
    await session.add_items([{"role": "user", "content": "Hello"}])
    assert session.store.cleanup(idle_for=timedelta(days=30)) == []
    assert session.store.cleanup(idle_for=0) == ["user_123"]
    assert isinstance(session, localfirst.Session)


async def test_a_database_of_the_sdk_comes_along_in_its_place(tmp_path: Path) -> None:
    theirs = SdkSQLiteSession("user_123", "conversations.db")
    await answers(theirs, "Create a note", "Now list my notes")
    before = await theirs.get_items()
    theirs.close()
    with pytest.raises(localfirst.ConfigurationError) as caught:
        SQLiteSession("user_123", "conversations.db")
    found = re.search("`localfirst (.*?)`", str(caught.value))
    assert found is not None
    command = await asyncio.create_subprocess_exec(sys.executable, "-m", "localfirst", *found[1].split())
    assert await asyncio.wait_for(command.wait(), 60) == 0
    session = SQLiteSession("user_123", "conversations.db")
    assert await session.get_items() == before
    assert await answers(session, "And now?") == ["5 messages"]
