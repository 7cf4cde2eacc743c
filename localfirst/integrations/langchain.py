"""A session as the message history of LangChain: `pip install 'localfirst[langchain]'`.

Messages come back as they were. Others see them as messages with role and content, tool calls as the Chat Completions
API writes them; and what others wrote with role and content is seen here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from localfirst.integrations.shared import add_items, of_extra, own_part, text_of
from localfirst.plans import is_message
from localfirst.session import Session

with of_extra("langchain"):
    from langchain_core.chat_history import BaseChatMessageHistory
    from langchain_core.messages import (
        BaseMessage,
        ChatMessage,
        convert_to_messages,
        message_to_dict,
        messages_from_dict,
    )

_ROLES: Final = {"ai": "assistant", "human": "user"}


class LocalFirstChatMessageHistory(BaseChatMessageHistory):
    """The history in a session, of `Store.session` or one that opens its own store.

    The methods that begin with `a` don't block the event loop. What is added in one call is added whole, or not at all;
    what JSON can't hold raises `InvalidItem`. Items of the session that have no role and content are not shown.

    >>> history = LocalFirstChatMessageHistory(session)
    >>> history.add_user_message("Hello")
    >>> history.messages, session.get_messages()
    ([HumanMessage(content='Hello', ...)], [{'role': 'user', 'content': 'Hello'}])
    """

    def __init__(self, session: Session) -> None:
        super().__init__()
        self.session = session

    @property
    def messages(self) -> list[BaseMessage]:  # type: ignore[override] # an attribute there
        """All messages, oldest first, as fresh objects."""
        return [_to_message(item) for item in self.session.get_messages()]

    async def aget_messages(self) -> list[BaseMessage]:
        """As `messages`, without blocking the event loop."""
        return [_to_message(item) for item in await self.session.get_items(-1) if is_message(item)]

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Add messages at the end, all of them or none."""
        add_items(self.session, [_to_item(message) for message in messages])

    async def aadd_messages(self, messages: Sequence[BaseMessage]) -> None:
        """As `add_messages`, without blocking the event loop."""
        await self.session.add_items([_to_item(message) for message in messages])

    def clear(self) -> None:
        """Remove all items of the session; its metadata stays."""
        self.session.clear()

    async def aclear(self) -> None:
        """As `clear`, without blocking the event loop."""
        await self.session.clear_session()


def _to_item(message: BaseMessage) -> dict[str, Any]:
    """Role and content, and beside them only what these don't say."""
    kind = message.type.removesuffix("MessageChunk").lower()
    item: dict[str, Any] = {"role": getattr(message, "role", _ROLES.get(kind, kind)), "content": message.content}
    for field in ("name", "tool_call_id"):
        if getattr(message, field, None) is not None:
            item[field] = getattr(message, field)
    if calls := getattr(message, "tool_calls", None):
        item["tool_calls"] = [
            {"id": call["id"], "type": "function", "function": {"name": call["name"], "arguments": _json(call["args"])}}
            for call in calls
        ]
    if message_to_dict(_as_shown(item)) != message_to_dict(message):
        data = message.model_dump(exclude={"content", "type"}, exclude_defaults=True)
        item["provider_data"] = {"langchain": {"type": message.type, "data": data}}
    return item


def _to_message(item: dict[str, Any]) -> BaseMessage:
    own = own_part(item, "langchain")
    if own is not None:
        try:
            return messages_from_dict([{"type": own["type"], "data": {**own["data"], "content": item["content"]}}])[0]
        except (KeyError, TypeError, ValueError):
            pass  # Another version wrote it, which knows more of messages.
    return _as_shown(item)


def _as_shown(item: dict[str, Any]) -> BaseMessage:
    """A message of which there is no more than what all may see."""
    content, text = item["content"], text_of(item["content"] or "")
    if text is not None:
        content = text
    elif not isinstance(content, list) or not all(isinstance(part, (str, dict)) for part in content):
        content = _json(content)
    fields = {field: item[field] for field in ("name", "tool_call_id", "tool_calls") if item.get(field) is not None}
    try:
        return convert_to_messages([{"role": item["role"], "content": content, **fields}])[0]
    except (KeyError, TypeError, ValueError):
        return ChatMessage(role=str(item["role"]), content=content)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
