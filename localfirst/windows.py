"""The end of a history, cut between turns: no tool call is parted from its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from localfirst import jsonvalue

_ANSWERED: Final = ("call_id", "approval_request_id", "tool_call_id")
"""Where an item names the one that it answers, in the Responses and in the Chat Completions API."""
_MAKING: Final = (b'"call_id"', b'"tool_calls"', b'"mcp_approval_request"')
"""What stands in items that make calls."""
_NEAR: Final = 16
"""How far before its output a call is looked for, before all of the history is."""


def whole_turns(history: Sequence[bytes], limit: int) -> list[Any]:
    """The newest turns of a history (items as JSON) that have `limit` items between them, at most; 0: none.

    A turn begins with a message of the user and goes on to the next one. The newest comes whole, even if it is longer
    than the limit: half of it would be calls without a question, or outputs without a call. If outputs come after later
    messages of the user, the turn of their calls is part of it. Of a history without messages of the user, as many of
    the last items come as part no call from its output, and no reasoning from what it led to.

    >>> user, call = b'{"role":"user","content":"2 + 3?"}', b'{"type":"function_call","call_id":"a"}'
    >>> output = b'{"type":"function_call_output","call_id":"a","output":"5"}'
    >>> len(whole_turns([user, user, call, output], 3)), len(whole_turns([user, user, call, output], 1))
    (3, 3)
    >>> len(whole_turns([user, user, call, output], 4)), whole_turns([user], 0)
    (4, [])
    """
    found: list[Any] = []
    start = loose = 0
    unmet: set[bytes] = set()
    calls = _Calls(history)
    for place in range(len(history) - 1, -1 if limit else len(history), -1):
        if len(found) >= limit and start:
            break
        item = jsonvalue.decode(history[place])
        found.append(item)
        unmet.difference_update(_made_by(item))
        unmet.update(call for call in _answered_by(item) if calls.are_before(call, place))
        if unmet:
            continue
        if _is_question(item) and (len(found) <= limit or not start):
            start = len(found)
        elif len(found) <= limit and not (place and _is_thought(history[place - 1])):
            loose = len(found)
    if not start and any(_is_question(item) for item in found):
        start = len(found)  # It hangs together from the beginning.
    return found[: start or loose][::-1]


def _is_question(item: Any) -> bool:
    return isinstance(item, dict) and item.get("role") == "user"


def _is_thought(data: bytes) -> bool:
    """Whether an item is reasoning, which models take back only with what followed it."""
    item = jsonvalue.decode(data)
    return isinstance(item, dict) and item.get("type") == "reasoning"


class _Calls:
    """Tells whether a call is found before a place. Outputs of calls that are gone part nothing."""

    def __init__(self, history: Sequence[bytes]) -> None:
        self._history = history
        self._first: dict[bytes, int] | None = None

    def are_before(self, call: bytes, place: int) -> bool:
        for before in range(place - 1, max(0, place - _NEAR) - 1, -1):
            if call in self._history[before] and call in _made_by(jsonvalue.decode(self._history[before])):
                return True
        return self._firsts().get(call, place) < place

    def _firsts(self) -> dict[bytes, int]:
        """Where each is made first. All of the history is read for it once, not once for each call that is gone."""
        if self._first is None:
            self._first = {}
            for place, data in enumerate(self._history):
                if any(name in data for name in _MAKING):
                    for call in _made_by(jsonvalue.decode(data)):
                        self._first.setdefault(call, place)
        return self._first


def _answered_by(item: Any) -> Iterator[bytes]:
    """The calls, or requests, to which an item is the answer: their ids in JSON."""
    if _is_answer(item):
        answered = [item.get(field) for field in _ANSWERED]
        if item.get("type") == "local_shell_call_output":
            answered.append(item.get("id"))
        yield from (jsonvalue.encode(call) for call in answered if isinstance(call, str))


def _made_by(item: Any) -> Iterator[bytes]:
    """The calls, or requests, that an item makes: their ids in JSON."""
    if isinstance(item, dict) and not _is_answer(item):
        calls = item.get("tool_calls")
        made = [call.get("id") for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []
        made.append(item.get("id" if item.get("type") == "mcp_approval_request" else "call_id"))
        yield from (jsonvalue.encode(call) for call in made if isinstance(call, str))


def _is_answer(item: Any) -> bool:
    if not isinstance(item, dict):
        return False
    return item.get("role") == "tool" or str(item.get("type")).endswith(("_output", "_response"))
