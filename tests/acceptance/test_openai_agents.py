"""A session in the OpenAI Agents SDK: the Runner of the released SDK, unmodified, with tools."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, function_tool
from agents.memory import Session, SessionSettings
from agents.testing import ScriptedModel, assistant_message, function_call

import localfirst

NO_TRACES = RunConfig(tracing_disabled=True)


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def agent(*steps: Any) -> tuple[Agent[None], ScriptedModel]:
    """An agent whose model answers from a script."""
    model = ScriptedModel(steps)
    return Agent(name="Calculator", model=model, tools=[add]), model


def call_and_answer(answer: str) -> tuple[Any, Any]:
    """A tool call, and the answer after it."""
    return [function_call("add", {"a": 2, "b": 3}, call_id="call_1")], [assistant_message(answer)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    """A store with a central store."""
    with localfirst.open(tmp_path / "a", remote=(tmp_path / "central").as_uri()) as opened:
        yield opened


def kinds(items: list[Any]) -> list[str]:
    """The type of each item, or its role."""
    return [item.get("type") or item["role"] for item in items]


def test_a_session_is_one_of_the_sdk(store: localfirst.Store) -> None:
    assert isinstance(store.session("s"), Session)


async def test_a_run_with_a_tool_is_stored_in_order(store: localfirst.Store) -> None:
    session = store.session("s")
    calculator, _ = agent(*call_and_answer("5"))
    result = await Runner.run(calculator, "2 + 3?", session=session, run_config=NO_TRACES)
    assert result.final_output == "5"
    items = await session.get_items()
    assert kinds(items) == ["user", "function_call", "function_call_output", "message"]
    assert items[2]["output"] == "5"
    assert items[1]["call_id"] == items[2]["call_id"] == "call_1"


def test_run_sync(store: localfirst.Store) -> None:
    session = store.session("s")
    calculator, _ = agent(*call_and_answer("5"))
    assert Runner.run_sync(calculator, "2 + 3?", session=session, run_config=NO_TRACES).final_output == "5"
    assert len(session) == 4


async def test_a_streamed_run(store: localfirst.Store) -> None:
    session = store.session("s")
    calculator, _ = agent(*call_and_answer("5"))
    result = Runner.run_streamed(calculator, "2 + 3?", session=session, run_config=NO_TRACES)
    async for _ in result.stream_events():
        pass
    assert kinds(await session.get_items()) == ["user", "function_call", "function_call_output", "message"]


async def test_a_second_run_is_given_the_history(store: localfirst.Store) -> None:
    session = store.session("s")
    calculator, model = agent(*call_and_answer("5"), [assistant_message("It was 5.")])
    await Runner.run(calculator, "2 + 3?", session=session, run_config=NO_TRACES)
    await Runner.run(calculator, "What was it?", session=session, run_config=NO_TRACES)
    given = model.calls[-1].input
    assert kinds(given) == ["user", "function_call", "function_call_output", "message", "user"]
    assert given[-1]["content"] == "What was it?"
    assert len(await session.get_items()) == 6


async def test_another_replica_goes_on(store: localfirst.Store, tmp_path: Path) -> None:
    calculator, model = agent(*call_and_answer("5"), [assistant_message("It was 5.")])
    await Runner.run(calculator, "2 + 3?", session=store.session("s"), run_config=NO_TRACES)
    await store.aflush(10)
    async with localfirst.open(tmp_path / "b", remote=(tmp_path / "central").as_uri()) as other:
        session = other.session("s", hydrate_timeout=10)
        await Runner.run(calculator, "What was it?", session=session, run_config=NO_TRACES)
        assert len(model.calls[-1].input) == 5
        await other.aflush(10)
        await store.arefresh(10)
        assert await store.session("s").get_items() == await session.get_items()


@pytest.mark.parametrize("where", ["session", "run"])
async def test_session_settings_limit_what_the_model_is_given(where: str, store: localfirst.Store) -> None:
    settings = SessionSettings(limit=2)
    session = store.session("s", session_settings=settings if where == "session" else None)
    await session.add_items([{"role": "user", "content": f"number {number}"} for number in range(10)])
    calculator, model = agent([assistant_message("9")])
    config = RunConfig(tracing_disabled=True, session_settings=settings if where == "run" else None)
    await Runner.run(calculator, "The last?", session=session, run_config=config)
    assert [item["content"] for item in model.calls[-1].input] == ["number 8", "number 9", "The last?"]
    assert len(await session.get_items(limit=-1)) == 12


async def test_a_run_that_fails_leaves_a_history_to_go_on_with(store: localfirst.Store) -> None:
    session = store.session("s")
    calculator, _ = agent(RuntimeError("the model is away"), [assistant_message("Hello again")])
    with pytest.raises(RuntimeError, match="away"):
        await Runner.run(calculator, "Hello", session=session, run_config=NO_TRACES)
    result = await Runner.run(calculator, "Hello?", session=session, run_config=NO_TRACES)
    assert result.final_output == "Hello again"
    assert kinds(await session.get_items())[-2:] == ["user", "message"]
