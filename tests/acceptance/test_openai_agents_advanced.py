"""Branches and usage with the Runner of the released SDK, unmodified."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from agents import Agent, RunConfig, Runner, function_tool
from agents.extensions.memory import AdvancedSQLiteSession as Theirs
from agents.extensions.memory import EncryptedSession as TheirEncryptedSession
from agents.memory import Session
from agents.testing import ScriptedModel, assistant_message, function_call
from agents.usage import Usage

from localfirst.integrations.openai_agents import AdvancedSQLiteSession, EncryptedSession

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "coming-from" / "openai-agents-advanced.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
NO_TRACES = RunConfig(tracing_disabled=True)
PER_REQUEST = Usage(requests=1, input_tokens=100, output_tokens=10, total_tokens=110)


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@function_tool(needs_approval=True)
def delete(name: str) -> str:
    """Delete a file."""
    return f"{name} is gone"


def agent(*steps: Any) -> Agent[None]:
    """An agent whose model answers from a script."""
    model = ScriptedModel(steps, default_usage=PER_REQUEST)
    return Agent(name="Calculator", model=model, tools=[add, delete])


def calculator() -> Agent[None]:
    """Calls a tool, then answers; and answers once more."""
    return agent(
        [function_call("add", {"a": 2, "b": 3}, call_id="call_1")], [assistant_message("5")], [assistant_message("6")]
    )


def used(requests: int, turns: int) -> dict[str, int]:
    """What `get_session_usage` tells of so many requests."""
    names = {"input_tokens": 100, "output_tokens": 10, "total_tokens": 110}
    return {"requests": requests, **{name: each * requests for name, each in names.items()}, "total_turns": turns}


@pytest.fixture
def session(tmp_path: Path) -> AdvancedSQLiteSession:
    return AdvancedSQLiteSession(session_id="s", db_path=tmp_path / "sessions")


async def run(agent: Agent[None], text: str, session: Session) -> Any:
    return await Runner.run(agent, text, session=session, run_config=NO_TRACES)


async def run_streamed(agent: Agent[None], text: str, session: Session) -> Any:
    result = Runner.run_streamed(agent, text, session=session, run_config=NO_TRACES)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("way", [run, run_streamed])
async def test_usage_is_tracked_without_a_call(
    way: Callable[..., Awaitable[Any]], session: AdvancedSQLiteSession
) -> None:
    calculating = calculator()
    result = await way(calculating, "2 + 3?", session)
    assert await session.get_usage_stats() == used(2, 1)
    await session.store_run_usage(result)
    assert await session.get_usage_stats() == used(2, 1)  # Not counted again.
    await way(calculating, "And 3 + 3?", session)
    assert await session.get_session_usage() == used(3, 2)
    turns: Any = await session.get_turn_usage()
    assert [(turn["user_turn_number"], turn["requests"]) for turn in turns] == [(1, 2), (2, 1)]
    assert await session.get_tool_usage() == [("add", 1, 1)]


def test_usage_of_run_sync(session: AdvancedSQLiteSession) -> None:
    Runner.run_sync(calculator(), "2 + 3?", session=session, run_config=NO_TRACES)
    assert asyncio.run(session.get_usage_stats()) == used(2, 1)


async def test_the_same_as_theirs_after_the_same_runs(session: AdvancedSQLiteSession) -> None:
    theirs = Theirs(session_id="s", create_tables=True)
    both: tuple[Any, Any] = (session, theirs)
    for each in both:
        calculating = calculator()
        for text in "2 + 3?", "And 3 + 3?":
            await each.store_run_usage(await run(calculating, text, each))
        await each.create_branch_from_content("3 + 3", "instead")
        await each.store_run_usage(await run(calculator(), "And 2 + 3 again?", each))
    for name in ("get_session_usage", "get_turn_usage", "get_tool_usage", "get_conversation_by_turns"):
        for branch in "main", "instead":
            ours, expected = [await getattr(each, name)(branch_id=branch) for each in both]
            assert ours == expected
    assert await session.get_session_usage() == await theirs.get_session_usage() == used(5, 3)
    theirs.close()


async def test_a_run_goes_on_from_an_earlier_turn(session: AdvancedSQLiteSession) -> None:
    await run(calculator(), "2 + 3?", session)
    await run(agent([assistant_message("Wrong")]), "And 3 + 3?", session)
    await session.create_branch_from_turn(2, "instead")
    going_on = agent([assistant_message("6")])
    await run(going_on, "And 3 + 3, carefully?", session)
    assert isinstance(going_on.model, ScriptedModel)
    assert len(going_on.model.calls[-1].input) == 5
    await session.switch_to_branch("main")
    turns = [turn["content"] for turn in await session.get_conversation_turns()]
    assert turns == ["2 + 3?", "And 3 + 3?"]
    assert await session.get_session_usage() == used(4, 3)


async def test_a_run_that_waits_for_approval(session: AdvancedSQLiteSession) -> None:
    deleting = agent([function_call("delete", {"name": "x"}, call_id="call_1")], [assistant_message("It is gone")])
    waiting = await run(deleting, "Delete x", session)
    (interruption,) = waiting.interruptions
    state = waiting.to_state()
    state.approve(interruption)
    result = await Runner.run(deleting, state, session=session, run_config=NO_TRACES)
    assert result.final_output == "It is gone"
    assert await session.get_usage_stats() == used(2, 1)


@pytest.mark.parametrize("encrypted", [TheirEncryptedSession, EncryptedSession])
async def test_usage_is_tracked_under_encryption(encrypted: Any, session: AdvancedSQLiteSession) -> None:
    outer = encrypted(session_id="s", underlying_session=session, encryption_key="a key of the user")
    result = await run(calculator(), "2 + 3?", outer)
    assert result.final_output == "5"
    assert len(await outer.get_items()) == 4
    assert await session.get_usage_stats() == used(2, 1)


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_a_snippet_of_the_page(code: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "TMPDIR": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    promised = re.findall(r"print\(.*\)  # (.*)", code)
    assert promised
    for line in promised:
        assert line in run.stdout.splitlines()


def test_the_page_names_every_call() -> None:
    for name in vars(Theirs):
        if not name.startswith("_"):
            assert f"`{name}(" in PAGE, name
            assert hasattr(AdvancedSQLiteSession, name)
