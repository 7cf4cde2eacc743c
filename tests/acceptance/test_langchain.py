"""LangChain with a session as its message history: chains remember, messages come back as they were."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import (
    AIMessage,
    AIMessageChunk,
    BaseMessage,
    ChatMessage,
    FunctionMessage,
    HumanMessage,
    SystemMessage,
    ToolMessage,
    message_to_dict,
)
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import Runnable

import localfirst
from localfirst.integrations.langchain import LocalFirstChatMessageHistory

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # LangChain would rather have graphs.
    from langchain_core.runnables.history import RunnableWithMessageHistory

CALL = AIMessage("", tool_calls=[{"name": "add", "args": {"a": 2, "b": 3}, "id": "call_1"}])
MESSAGES: list[BaseMessage] = [
    SystemMessage("Be brief."),
    HumanMessage("2 + 3?"),
    CALL,
    ToolMessage("5", tool_call_id="call_1"),
    AIMessage("5"),
    HumanMessage("Hello", id="message-1", name="ann"),
    HumanMessage([{"type": "text", "text": "What's this?"}, {"type": "image_url", "image_url": {"url": "data:"}}]),
    HumanMessage(["in", "parts"]),
    AIMessage(
        "It is a tool",
        id="run-1",
        response_metadata={"model_name": "m", "logprobs": None},
        usage_metadata={"input_tokens": 1, "output_tokens": 2, "total_tokens": 3},
    ),
    AIMessage("", invalid_tool_calls=[{"name": "add", "args": "{", "id": "call_2", "error": "no JSON"}]),
    AIMessage("", additional_kwargs={"function_call": {"name": "add", "arguments": "{}"}}),
    AIMessage([{"type": "reasoning", "reasoning": "Well"}, {"type": "text", "text": "5"}]),
    AIMessageChunk(content="5", tool_call_chunks=[{"name": "add", "args": '{"a":1}', "id": "call_3", "index": 0}]),
    ToolMessage("5", tool_call_id="call_1", name="add", artifact={"sum": [5]}, status="error"),
    FunctionMessage(name="add", content="5"),
    ChatMessage(role="narrator", content="Night falls."),
    ChatMessage(role="user", content="Hello"),
]


@pytest.fixture
def session(tmp_path: Path) -> Iterator[localfirst.Session]:
    with localfirst.open(tmp_path) as store:
        yield store.session("s")


@pytest.fixture
def history(session: localfirst.Session) -> LocalFirstChatMessageHistory:
    return LocalFirstChatMessageHistory(session)


def same(found: BaseMessage, message: BaseMessage) -> bool:
    """Whether nothing of it was lost."""
    return type(found) is type(message) and message_to_dict(found) == message_to_dict(message)


@pytest.mark.parametrize("message", MESSAGES, ids=range(len(MESSAGES)))
def test_a_message_comes_back_as_it_was(history: LocalFirstChatMessageHistory, message: BaseMessage) -> None:
    history.add_message(message)
    assert same(history.messages[0], message)
    assert history.session.get_messages()[0]["content"] == message.content


async def test_all_at_once_and_from_coroutines(history: LocalFirstChatMessageHistory) -> None:
    added: list[Any] = []
    history.session.on(localfirst.SessionEvent.MESSAGE_ADDED, added.append)
    history.add_messages(MESSAGES)
    await history.aadd_messages(MESSAGES)
    assert all(map(same, history.messages, MESSAGES * 2))
    assert all(map(same, await history.aget_messages(), MESSAGES * 2))
    assert len(added) == len(history.messages) == 2 * len(MESSAGES)
    await history.aclear()
    assert await history.aget_messages() == []
    history.add_user_message("Hello")
    history.clear()
    assert history.messages == []


async def test_all_messages_or_none(history: LocalFirstChatMessageHistory) -> None:
    bad = [HumanMessage("Hello"), ToolMessage("5", tool_call_id="call_1", artifact=object())]
    with pytest.raises(localfirst.InvalidItem, match="item 1 of 2"):
        history.add_messages(bad)
    with pytest.raises(localfirst.InvalidItem, match="item 1 of 2"):
        await history.aadd_messages(bad)
    assert history.messages == []


def test_others_see_role_and_content(history: LocalFirstChatMessageHistory) -> None:
    history.add_messages([*MESSAGES[1:5], HumanMessage("Hello", id="message-1")])
    function = {"name": "add", "arguments": '{"a": 2, "b": 3}'}
    assert history.session.get_messages() == [
        {"role": "user", "content": "2 + 3?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
        },
        {"role": "tool", "content": "5", "tool_call_id": "call_1"},
        {"role": "assistant", "content": "5"},
        {
            "role": "user",
            "content": "Hello",
            "provider_data": {"langchain": {"type": "human", "data": {"id": "message-1"}}},
        },
    ]


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"role": "user", "content": "Hello", "channel": "web"}, HumanMessage("Hello")),
        ({"role": "assistant", "content": None}, AIMessage("")),
        (
            {"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hi!"}]},
            AIMessage("Hi!"),
        ),
        ({"role": "user", "content": [{"type": "input_image"}]}, HumanMessage([{"type": "input_image"}])),
        ({"role": "user", "content": [1]}, HumanMessage("[1]")),
        ({"role": "user", "content": {"a": "ü"}}, HumanMessage('{"a": "ü"}')),
        ({"role": "tool", "content": "5"}, ChatMessage(role="tool", content="5")),
        ({"role": "assistant", "content": "", "tool_calls": 5}, ChatMessage(role="assistant", content="")),
        (
            {"role": "user", "content": "Hello", "provider_data": {"langchain": {"type": "of the future", "data": {}}}},
            HumanMessage("Hello"),
        ),
    ],
)
async def test_what_others_wrote_is_shown(
    history: LocalFirstChatMessageHistory, item: dict[str, Any], message: BaseMessage
) -> None:
    await history.session.add_items([{"type": "function_call", "call_id": "call_1"}, "no message", item])
    for found in (history.messages, await history.aget_messages()):
        assert len(found) == 1
        assert same(found[0], message)


async def test_a_chain_goes_on_where_it_was(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()

    def chain(store: localfirst.Store, *answers: str) -> Runnable[Any, Any]:
        prompt = ChatPromptTemplate.from_messages([MessagesPlaceholder("history"), ("human", "{question}")])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return RunnableWithMessageHistory(
                prompt | FakeListChatModel(responses=list(answers)),
                lambda session_id: LocalFirstChatMessageHistory(store.session(session_id)),
                input_messages_key="question",
                history_messages_key="history",
            )

    async with localfirst.open(tmp_path / "a", remote=central) as store:
        there = chain(store, "Hi Alice!", "You are Alice.")
        there.invoke({"question": "I am Alice"}, {"configurable": {"session_id": "alice"}})
        await there.ainvoke({"question": "Who am I?"}, {"configurable": {"session_id": "alice"}})
    async with localfirst.open(tmp_path / "b", remote=central) as store:
        here = chain(store, "Still Alice.")
        await here.ainvoke({"question": "And now?"}, {"configurable": {"session_id": "alice"}})
        here.invoke({"question": "Hello"}, {"configurable": {"session_id": "bob"}})
        assert [message["content"] for message in store.session("alice").get_messages()] == [
            "I am Alice",
            "Hi Alice!",
            "Who am I?",
            "You are Alice.",
            "And now?",
            "Still Alice.",
        ]
        assert len(store.session("bob")) == 2
