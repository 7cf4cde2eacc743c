"""Pydantic AI with its message history in a session: agents remember, and messages come back as they were."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic_ai import Agent, BinaryContent
from pydantic_ai.messages import (
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    SystemPromptPart,
    TextPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, FunctionModel
from pydantic_ai.models.test import TestModel

import localfirst
from localfirst.integrations.pydantic_ai import ahistory, arecord, history, record


@pytest.fixture
def session(tmp_path: Path) -> Iterator[localfirst.Session]:
    with localfirst.open(tmp_path) as store:
        yield store.session("s")


def parrot() -> Agent[None, str]:
    """It says how many prompts it was given, and the last."""

    def answer(messages: list[ModelMessage], _: AgentInfo) -> ModelResponse:
        prompts = [part.content for message in messages for part in message.parts if isinstance(part, UserPromptPart)]
        return ModelResponse(parts=[TextPart(f"{len(prompts)}: {prompts[-1]}")])

    return Agent(FunctionModel(answer))


def with_tool() -> Agent[None, str]:
    """It calls its tool, then answers."""
    agent = Agent(TestModel(custom_output_text="done"), instructions="Be brief.", system_prompt="You are a calculator.")

    @agent.tool_plain
    def add(a: int, b: int | None) -> bytes | int:
        """The sum of two numbers."""
        return a + (b or 0)

    return agent


def as_json(messages: list[ModelMessage]) -> Any:
    """All that is known of them."""
    return ModelMessagesTypeAdapter.dump_python(messages, mode="json")


async def test_a_run_with_a_tool_comes_back_as_it_was(session: localfirst.Session) -> None:
    result = await with_tool().run("2 + 3?")
    assert len(result.new_messages()) == 4
    await arecord(session, result)
    assert history(session) == await ahistory(session) == result.all_messages()
    assert as_json(history(session)) == as_json(result.all_messages())
    again = await with_tool().run("And 3 + 4?", message_history=await ahistory(session))
    record(session, again)
    assert len(session) == len(again.all_messages())
    assert as_json(history(session)) == as_json(again.all_messages())


def test_others_see_what_was_said(session: localfirst.Session) -> None:
    record(session, with_tool().run_sync("2 + 3?"))
    assert [(message["role"], message["content"]) for message in session.get_messages()] == [
        ("user", "2 + 3?"),
        ("assistant", "done"),
    ]
    assert [set(item) for item in session] == [
        {"role", "content", "provider_data"},
        {"provider_data"},
        {"provider_data"},
        {"role", "content", "provider_data"},
    ]


async def test_a_turn_of_tools_is_not_parted(session: localfirst.Session) -> None:
    for _ in range(2):
        await arecord(session, await with_tool().run("2 + 3?"))
    newest = history(session)[4:]
    for limit, whole in ((1, newest), (5, newest), (8, history(session)), (0, [])):
        assert await ahistory(session, limit) == whole


def test_a_prompt_with_an_image(session: localfirst.Session) -> None:
    image = BinaryContent(b"\xff\x00\xfe", media_type="image/png")
    record(session, [ModelRequest(parts=[UserPromptPart(["What is", image, "this?"]), UserPromptPart([image])])])
    first = history(session)[0].parts[0]
    assert isinstance(first, UserPromptPart)
    assert isinstance(first.content[1], BinaryContent)
    assert first.content[1].data == image.data
    assert session.get_messages()[0]["content"] == "What is\nthis?"


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"role": "user", "content": "Hello", "channel": "web"}, ModelRequest(parts=[UserPromptPart("Hello")])),
        ({"role": "developer", "content": "Be brief."}, ModelRequest(parts=[SystemPromptPart("Be brief.")])),
        (
            {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hi!"}]},
            ModelResponse(parts=[TextPart("Hi!")]),
        ),
        ({"role": "user", "content": [{"type": "ü"}]}, ModelRequest(parts=[UserPromptPart('[{"type": "ü"}]')])),
        (
            {"role": "user", "content": "Hello", "provider_data": {"pydantic_ai": {"kind": "of the future"}}},
            ModelRequest(parts=[UserPromptPart("Hello")]),
        ),
    ],
)
async def test_what_others_said_is_seen(
    session: localfirst.Session, item: dict[str, Any], message: ModelMessage
) -> None:
    unseen = [{"role": "assistant", "content": None, "tool_calls": []}, {"role": "tool", "content": "5"}, "no message"]
    await session.add_items([{"type": "function_call", "call_id": "call_1"}, *unseen, item])
    for found in (history(session), await ahistory(session)):
        assert [type(each) for each in found] == [type(message)]
        assert [(type(part), getattr(part, "content", "")) for part in found[0].parts] == [
            (type(part), getattr(part, "content", "")) for part in message.parts
        ]


async def test_all_messages_or_none(session: localfirst.Session) -> None:
    good, bad = ModelRequest(parts=[UserPromptPart("Hello")]), ModelRequest(parts=[ToolReturnPart("f", object(), "1")])
    for messages in ([good, bad], [good, ModelRequest(parts=[UserPromptPart("x" * (16 << 20))])]):
        with pytest.raises((localfirst.InvalidItem, localfirst.ItemTooLarge)):
            await arecord(session, messages)
        with pytest.raises((localfirst.InvalidItem, localfirst.ItemTooLarge)):
            record(session, messages)
    assert len(session) == 0


async def test_an_agent_goes_on_where_it_was(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    async with localfirst.open(tmp_path / "a", remote=central) as store:
        session = store.session("alice")
        for prompt, output in (("I am Alice", "1: I am Alice"), ("Who am I?", "2: Who am I?")):
            result = await parrot().run(prompt, message_history=await ahistory(session))
            assert result.output == output
            await arecord(session, result)
    async with localfirst.open(tmp_path / "b", remote=central) as store:
        session = store.session("alice")
        async with parrot_streamed().run_stream("And now?", message_history=await ahistory(session)) as streamed:
            assert await streamed.get_output() == "And now?"
        await arecord(session, streamed)
        assert [message["role"] for message in session.get_messages()] == ["user", "assistant"] * 3


def parrot_streamed() -> Agent[None, str]:
    """An agent whose answers come in pieces."""
    return Agent(TestModel(custom_output_text="And now?"))
