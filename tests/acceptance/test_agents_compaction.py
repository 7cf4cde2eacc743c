"""Compaction by the OpenAI Agents SDK, with a stand-in for the API: whatever happens to it, nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any, Final

import pytest
from agents import Agent, OpenAIResponsesCompactionSession, RunConfig, Runner, function_tool
from agents.extensions.memory import EncryptedSession as SdkEncryptedSession
from agents.testing import ScriptedModel, assistant_message, function_call

from localfirst.integrations.openai_agents import EncryptedSession
from tests.acceptance.agents_faces import (  # noqa: F401 - the fixture
    KEY,
    OURS,
    Make,
    apart,
    kinds,
    making,
    postgres_of_module,
)

pytestmark = pytest.mark.integration

CONFIG = RunConfig(tracing_disabled=True)
SUMMARY: Final = {"type": "compaction", "id": "cmp_1", "encrypted_content": "all of it"}
HISTORY: Final[list[Any]] = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "How are you?"},
]


class Api:
    """Answers as `AsyncOpenAI().responses.compact` does."""

    def __init__(self, output: Any = SUMMARY, meanwhile: Callable[[], Awaitable[Any]] | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.responses = self
        self._output, self._meanwhile = output, meanwhile

    async def compact(self, **given: Any) -> Any:
        self.calls.append(given)
        if self._meanwhile is not None:
            await self._meanwhile()
        if isinstance(self._output, Exception):
            raise self._output
        return SimpleNamespace(output=[self._output], usage=None)


@pytest.fixture(scope="module", params=OURS)
def maker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    with making(request.param, request, tmp_path_factory.mktemp("faces")) as made:
        yield made


@pytest.fixture
def make(maker: Make) -> Make:
    return apart(maker)


def compacting(session: Any, api: Any, **options: Any) -> OpenAIResponsesCompactionSession:
    options = {"should_trigger_compaction": lambda _: True, **options}
    return OpenAIResponsesCompactionSession(session.session_id, session, client=api, **options)


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


def calculator() -> tuple[Agent[Any], ScriptedModel]:
    called = [function_call("add", {"a": 2, "b": 3}, call_id="call_1")]
    model = ScriptedModel([called, [assistant_message("5")], [assistant_message("It was 5.")]])
    return Agent(name="Calculator", model=model, tools=[add]), model


async def test_a_run_compacts_what_its_model_saw(make: Make) -> None:
    api, (agent, model) = Api(), calculator()
    session = compacting(make("s"), api)
    await Runner.run(agent, "2 + 3?", session=session, run_config=CONFIG)
    assert len(api.calls) == 1
    assert await make("s").get_items() == [SUMMARY]
    await Runner.run(agent, "What was it?", session=compacting(make("s"), api), run_config=CONFIG)
    given: Any = model.calls[-1].input
    assert given[0] == SUMMARY
    assert await make("s").get_items() == [SUMMARY]


async def test_a_history_is_compacted_on_demand(make: Make) -> None:
    api = Api()
    session = compacting(make("s"), api)
    await session.add_items(HISTORY)
    await session.run_compaction({"force": True, "compaction_mode": "input"})
    assert [item["content"] for item in api.calls[0]["input"]] == ["Hello", "Hi", "How are you?"]
    assert await make("s").get_items() == [SUMMARY]
    assert await session.pop_item() == SUMMARY


async def test_the_sdk_finds_what_replaces_in_one_step(make: Make) -> None:
    session = make("s")
    await session.add_items(HISTORY)
    seen = await session._get_compaction_snapshot(2)
    assert (seen.items, seen.complete) == (HISTORY[1:], False)
    assert await seen.replace_suffix(1, [SUMMARY]) is True
    assert await session.get_items() == [*HISTORY[:2], SUMMARY]
    assert await seen.replace_suffix(1, [SUMMARY]) is False
    assert await type(session)._atomic_replace_items(session, [SUMMARY, *HISTORY]) is True
    assert await session.get_items() == [SUMMARY, *HISTORY]


@pytest.mark.parametrize("output", [RuntimeError("the API is away"), {"type": "compaction", "x": object()}])
async def test_a_compaction_that_fails_loses_nothing(make: Make, output: Any) -> None:
    session = compacting(make("s"), Api(output))
    await session.add_items(HISTORY)
    with pytest.raises((RuntimeError, TypeError)):
        await session.run_compaction({"force": True, "compaction_mode": "input"})
    assert await make("s").get_items() == HISTORY
    agent, _ = calculator()
    with suppress(RuntimeError, TypeError):  # What else the SDK does about it is its own matter.
        await Runner.run(agent, "2 + 3?", session=session, run_config=CONFIG)
    items = await make("s").get_items()
    assert items[:3] == HISTORY
    assert kinds(items[3:]) == ["user", "function_call", "function_call_output", "message"]


async def test_what_comes_while_a_run_is_compacted_stays(make: Make) -> None:
    new = {"role": "user", "content": "from another device"}
    session = compacting(make("s"), Api(meanwhile=lambda: make("s").add_items([new])))
    agent, _ = calculator()
    await Runner.run(agent, "2 + 3?", session=session, run_config=CONFIG)
    items = await make("s").get_items()
    assert kinds(items) == ["user", "function_call", "function_call_output", "message", "user"]
    assert items[-1] == new


async def test_a_compaction_that_is_cancelled_leaves_the_one_or_the_other(make: Make) -> None:
    waits = asyncio.Event()

    async def wait() -> None:
        waits.set()
        await asyncio.Event().wait()

    session = compacting(make("s"), Api(meanwhile=wait))
    await session.add_items(HISTORY)
    compaction = asyncio.ensure_future(session.run_compaction({"force": True, "compaction_mode": "input"}))
    await asyncio.wait_for(waits.wait(), 10)
    compaction.cancel()
    await asyncio.wait([compaction])
    assert await make("s").get_items() == HISTORY


@pytest.mark.parametrize("kind", [EncryptedSession, SdkEncryptedSession])
async def test_sealed_around_a_compaction(make: Make, kind: Any) -> None:
    """What is compacted is opened first, and sealed again."""
    api, (agent, _), inner = Api(), calculator(), make("s")
    if isinstance(inner, EncryptedSession):
        return  # Nobody seals twice.
    session = kind(inner.session_id, compacting(inner, api), KEY)
    await Runner.run(agent, "2 + 3?", session=session, run_config=CONFIG)
    assert await session.get_items() == [SUMMARY]
    assert "all of it" not in str(await inner.get_items())
    await session.add_items(HISTORY)
    await session.run_compaction({"force": True, "compaction_mode": "input"})
    assert await session.get_items() == [SUMMARY]
