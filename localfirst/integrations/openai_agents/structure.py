"""What a conversation consists of, in the terms of the OpenAI Agents SDK: turns, types of items, tools."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Final, TypedDict

import msgspec

from localfirst import jsonvalue
from localfirst.clock import moment
from localfirst.history import Item
from localfirst.plans import begins_turn

_CALLS: Final = frozenset(
    (
        "tool_call",
        "function_call",
        "computer_call",
        "file_search_call",
        "web_search_call",
        "code_interpreter_call",
        "tool_search_call",
        "custom_tool_call",
        "mcp_call",
        "mcp_approval_request",
        "shell_call",
        "apply_patch_call",
    )
)
_NAMED_BY_TYPE: Final = {
    "computer_call": "computer_call",
    "file_search_call": "file_search_call",
    "web_search_call": "web_search_call",
    "code_interpreter_call": "code_interpreter_call",
    "shell_call": "shell_call",
    "apply_patch_call": "apply_patch_call",
    "tool_search_call": "tool_search",
    "tool_search_output": "tool_search",
}


class _Shape(TypedDict, total=False):
    role: Any
    type: Any
    name: Any
    namespace: Any
    server_label: Any


_shape_decoder = msgspec.json.Decoder(_Shape)


def questions(items: Iterable[Item]) -> Iterator[tuple[int, Item]]:
    """The messages of the user, each with the number of the turn that it begins: 1, 2, 3, …"""
    return enumerate((item for item in items if begins_turn(item.data)), start=1)


def structure(items: Iterable[Item]) -> Iterator[tuple[int, str, str | None]]:
    """Of each item, its turn, its type, and the tool that it names. What is before the first message of a user is in
    turn 0."""
    turn = 0
    for item in items:
        turn += begins_turn(item.data)
        value = _shape(item.data)
        yield turn, type_of(value), tool_of(value)


def _shape(data: bytes) -> Any:
    """An item, of which only the fields matter that tell what it is: reading all takes several times as long."""
    try:
        return _shape_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return jsonvalue.decode(data)


def type_of(item: Any) -> str:
    """
    >>> type_of({"role": "user", "content": "Hello"}), type_of({"type": "function_call"}), type_of("Hello")
    ('user', 'function_call', 'other')
    """
    if not isinstance(item, dict):
        return "other"
    role = item.get("role")
    return role if role in ("user", "assistant") else str(item.get("type") or "other")


def tool_of(item: Any) -> str | None:
    """The tool that an item calls, or names; None: none.

    >>> tool_of({"type": "function_call", "name": "add"}), tool_of({"type": "shell_call"})
    ('add', 'shell_call')
    >>> tool_of({"type": "mcp_call", "server_label": "docs", "name": "search"}), tool_of({"role": "user"})
    ('docs.search', None)
    """
    if not isinstance(item, dict):
        return None
    kind, name = item.get("type"), item.get("name")
    if kind in ("mcp_call", "mcp_approval_request") and "server_label" in item:
        return ".".join(str(part) for part in (item["server_label"], name) if part) or None
    if isinstance(kind, str) and kind in _NAMED_BY_TYPE:
        return _NAMED_BY_TYPE[kind]
    if name is None:
        return None
    name, namespace = str(name), item.get("namespace")
    return f"{namespace}.{name}" if name and namespace is not None and str(namespace) not in ("", name) else name


def tools_used(items: Iterable[Item]) -> list[tuple[Any, int, int]]:
    """Each tool, how often it was called in a turn, and the turn. A search for tools of which only the output is there
    counts as a call."""
    found = list(structure(items))
    searched = {turn for turn, kind, _ in found if kind == "tool_search_call"}
    calls = Counter(
        (turn, tool)
        for turn, kind, tool in found
        if kind in _CALLS or (kind == "tool_search_output" and turn not in searched)
    )
    in_order = sorted(calls.items(), key=lambda used: (used[0][0], used[0][1] is not None, used[0][1] or ""))
    return [(tool, count, turn) for (turn, tool), count in in_order]


def preview(content: Any, length: int | None = None) -> str:
    """What a message says, cut to so many characters.

    >>> preview("Hello", 4), preview([{"type": "input_text", "text": "Hello"}])
    ('Hell...', '[{"type": "input_text", "text": "Hello"}]')
    """
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return text if length is None or len(text) <= length else f"{text[:length]}..."


def texts(content: Any) -> list[str]:
    """The strings in what a message says."""
    if isinstance(content, str):
        return [content]
    parts = content if isinstance(content, list) else []
    found = [part.get("text") for part in parts if isinstance(part, dict)]
    return [text for text in found if isinstance(text, str)]


def when(time: int) -> str | None:
    """A time as SQLite writes it (UTC); `time` of a change.

    >>> when(1_500_000_000_000 << 16)
    '2017-07-14 02:40:00'
    """
    at = moment(time)
    return None if at is None else at.replace(tzinfo=None).isoformat(" ", "seconds")
