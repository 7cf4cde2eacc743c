"""A session as the message history of Pydantic AI: `pip install 'localfirst[pydantic-ai]'`.

    result = await agent.run("Hello", message_history=await ahistory(session))
    await arecord(session, result)

Each message is an item. Others see prompts and the text of answers as messages with role and content; calls of tools
and what they returned are for Pydantic AI alone. What others wrote with role and content is seen here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Protocol

from localfirst.errors import InvalidItem
from localfirst.integrations.shared import add_items, of_extra, own_part, text_of
from localfirst.plans import is_message
from localfirst.session import Session

with of_extra("pydantic-ai"):
    from pydantic_ai.messages import (
        ModelMessage,
        ModelMessagesTypeAdapter,
        ModelRequest,
        ModelResponse,
        SystemPromptPart,
        TextPart,
        UserPromptPart,
    )


class Result(Protocol):
    """What a run gives, streamed or not."""

    def new_messages(self) -> list[ModelMessage]:
        """The messages of this run, without the history that it was given."""


def history(session: Session) -> list[ModelMessage]:
    """The messages in a session, oldest first, for `message_history=` of a run.

    >>> _ = session.add_message("user", "Hello")
    >>> history(session)
    [ModelRequest(parts=[UserPromptPart(content='Hello', ...)]...)]
    """
    return _messages(list(session))


async def ahistory(session: Session, limit: int | None = None) -> list[ModelMessage]:
    """As `history`, without blocking the event loop.

    `limit`: only the newest turns that have so many messages between them, and the newest at least, however long: no
    call of a tool without its return, nor an answer without its prompt.
    """
    return _messages(await session.get_items(-1 if limit is None else limit, whole_turns=True))


def record(session: Session, result: Result | Sequence[ModelMessage]) -> None:
    """Add the new messages of a run, or these messages, to a session: all of them or none.

    Raises `InvalidItem` for what JSON can't hold.

    >>> record(session, [ModelRequest(parts=[UserPromptPart("Hello")])])
    >>> session.get_messages()
    [{'role': 'user', 'content': 'Hello', 'provider_data': {'pydantic_ai': {'parts': ...}}}]
    """
    add_items(session, _items(result))


async def arecord(session: Session, result: Result | Sequence[ModelMessage]) -> None:
    """As `record`, without blocking the event loop."""
    await session.add_items(_items(result))


def _items(result: Result | Sequence[ModelMessage]) -> list[dict[str, Any]]:
    messages = list(result if isinstance(result, Sequence) else result.new_messages())
    try:
        dumped = ModelMessagesTypeAdapter.dump_python(messages, mode="json")
    except ValueError as error:
        raise InvalidItem(f"{error}; nothing was stored") from None
    own = [{"provider_data": {"pydantic_ai": data}} for data in dumped]
    return [{**_shown(message), **rest} for message, rest in zip(messages, own, strict=True)]


def _shown(message: ModelMessage) -> dict[str, Any]:
    """Role and content of what the user or the model said."""
    if isinstance(message, ModelResponse):
        text = "".join(part.content for part in message.parts if isinstance(part, TextPart))
        return {"role": "assistant", "content": text} if text else {}
    prompts = [part.content for part in message.parts if isinstance(part, UserPromptPart)]
    pieces = [piece for prompt in prompts for piece in ([prompt] if isinstance(prompt, str) else prompt)]
    return {"role": "user", "content": "\n".join(p for p in pieces if isinstance(p, str))} if prompts else {}


def _messages(items: Sequence[Any]) -> list[ModelMessage]:
    return [message for item in items for message in _of_item(item)]


def _of_item(item: Any) -> list[ModelMessage]:
    own = own_part(item, "pydantic_ai")
    if own is not None:
        try:
            return ModelMessagesTypeAdapter.validate_python([own])
        except ValueError:
            pass  # Another version wrote it, which knows more of messages.
    return _of_other(item["role"], item["content"]) if is_message(item) else []


def _of_other(role: Any, content: Any) -> list[ModelMessage]:
    """A message that somebody else wrote. Answers of tools are left out: their calls are not here in our form."""
    text = text_of(content or "")
    text = json.dumps(content, ensure_ascii=False) if text is None else text
    if role == "user":
        return [ModelRequest(parts=[UserPromptPart(text)])]
    if role in ("system", "developer"):
        return [ModelRequest(parts=[SystemPromptPart(text)])]
    return [ModelResponse(parts=[TextPart(text)])] if role == "assistant" and text else []
