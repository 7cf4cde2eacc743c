"""The tokens that runs have used, by turn: records that replicate with the session.

Each turn of a branch has a key of its own among the metadata: two devices that go on with a session write different
keys, and a write costs the same however many there are. It is named for the message with which the turn begins, not for
its number, which changes if what another device has added comes before it. A record whose message is gone counts no
more, whoever took it away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from localfirst import jsonvalue, plans
from localfirst.branches import Line, encode_drop
from localfirst.change import APPEND, DELETE, DROP, PUT
from localfirst.errors import InvalidItem
from localfirst.fold import Fold
from localfirst.history import Item
from localfirst.metadata import OWN, encode_delete, encode_put
from localfirst.view import OnBranch, Plan, Step, on_main

_USAGE: Final = f"{OWN}usage:"
_CLEARED: Final = f"{OWN}cleared"
_COUNTS: Final = ("requests", "input_tokens", "output_tokens", "total_tokens")
_DETAILS: Final = ("input_tokens_details", "output_tokens_details")


def is_used(usage: Any) -> bool:
    """Whether anything was asked of a model."""
    return any(getattr(usage, count, 0) for count in _COUNTS)


def appending(encoded: Sequence[bytes], usage: Any, branch: OnBranch) -> Plan:
    """Add items (JSON), and note what was used in the turn to which they belong. Nothing is noted where a turn begins
    with them: what was used before is not of it."""
    steps = [(APPEND, jsonvalue.join(list(encoded)))] if encoded else []
    if any(plans.begins_turn(data) for data in encoded):
        return plans.always(*steps)
    note = noting(usage, branch)
    return lambda fold: [*steps, *note(fold)]


def noting(usage: Any, branch: OnBranch) -> Plan:
    """Note what was used in the last turn of a branch, in the place of what was noted before. Nothing where there is no
    item."""
    value = plans.encode_value(_USAGE, _plain(usage))

    def plan(fold: Fold) -> list[Step]:
        line = fold.branches.get(branch(fold))
        if line is None or not line.history.items:
            return []
        items = line.history.items
        key = _key(line, next((item for item in reversed(items) if plans.begins_turn(item.data)), items[0]))
        return [] if plans.value_of(fold, key) == value else [(PUT, encode_put(key, "last", value))]

    return plan


class Pop(plans.Pop):
    """Plans the removal of the last item of a branch. If its turn is gone with it, so is what was noted of that."""

    def __call__(self, fold: Fold) -> list[Step]:
        steps = super().__call__(fold)
        line = fold.branches.get(self._branch(fold))
        if steps and line is not None:
            steps += plans.delete(_key(line, line.history.items[-1]))(fold)
        return steps


def drop(line: Line, fold: Fold) -> list[Step]:
    """Delete a branch, and what was noted of it."""
    return [(DROP, encode_drop(line.id)), *_forget(fold, _of(line))]


def clear(fold: Fold) -> list[Step]:
    """Delete all that is seen: the items of main, every other branch, what was noted of them."""
    lines = [line for line in fold.branches.shown() if line is not fold.branches.main]
    steps = [(DROP, encode_drop(line.id)) for line in lines] + _forget(fold, _USAGE) + plans.clear(fold, on_main)
    return [*steps, (PUT, encode_put(_CLEARED, "last", b"true"))] if steps else []


def cleared_since(fold: Fold, time: int) -> bool:
    """Whether everything was deleted after a time."""
    register = fold.metadata.get(_CLEARED)
    return register is not None and register.stamp.time > time


def noted(fold: Fold) -> dict[str, bytes]:
    """All records, as JSON."""
    return {
        key: register.value
        for key, register in fold.metadata.items()
        if register.value is not None and key.startswith(_USAGE)
    }


def taken_over(fold: Fold, usage: Mapping[str, Mapping[int, Any]]) -> list[Step]:
    """Note what is known from elsewhere, by branch and turn, of turns of which nothing is known here."""
    steps: list[Step] = []
    for name, turns in usage.items():
        line = fold.branches.named(name)
        for turn, key in _keys(line, line.history.items) if line is not None else ():
            if turn in turns and plans.value_of(fold, key) is None:
                steps.append((PUT, encode_put(key, "last", plans.encode_value(key, turns[turn]))))
    return steps


def by_turn(line: Line, items: Iterable[Item], records: Mapping[str, bytes]) -> dict[int, dict[str, Any]]:
    """What was used on a branch with some items, by turn."""
    if not any(key.startswith(_of(line)) for key in records):
        return {}
    return {turn: jsonvalue.decode(records[key]) for turn, key in _keys(line, items) if key in records}


def total(turns: Sequence[Mapping[str, Any]]) -> dict[str, int] | None:
    """The sum; None if there is nothing to add up."""
    if not turns:
        return None
    return {**{count: sum(turn[count] for turn in turns) for count in _COUNTS}, "total_turns": len(turns)}


def _keys(line: Line, items: Iterable[Item]) -> Iterator[tuple[int, str]]:
    """The number of each turn, and its key; 0 is what comes before the first message of the user."""
    turn = 0
    for place, item in enumerate(items):
        begins = plans.begins_turn(item.data)
        turn += begins
        if begins or not place:
            yield turn, _key(line, item)


def _key(line: Line, item: Item) -> str:
    return f"{_of(line)}{item.time}:{item.place}"


def _of(line: Line) -> str:
    """So begin the keys of a branch. Ids change when a replica is renamed; times don't."""
    return f"{_USAGE}{line.time}:"


def _forget(fold: Fold, prefix: str) -> list[Step]:
    return [(DELETE, encode_delete(key)) for key in noted(fold) if key.startswith(prefix)]


def _plain(usage: Any) -> dict[str, Any]:
    counts = {count: getattr(usage, count, 0) or 0 for count in _COUNTS}
    return counts | {detail: _details(getattr(usage, detail, None)) for detail in _DETAILS}


def _details(details: Any) -> Any:
    """As a dict; None if JSON can't hold them."""
    try:
        return jsonvalue.decode(jsonvalue.encode(dict(vars(details)))) if details else None
    except (InvalidItem, TypeError):
        return None
