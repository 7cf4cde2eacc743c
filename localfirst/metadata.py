"""The metadata of a session: one register per key, and the rules by which writes to a key are merged. Pure.

A write whose author had seen the current value (its own, or one at a `seq` up to the write's `base`) simply follows
it. Otherwise the two were made without knowledge of each other: the write's rule decides, and a `Conflict` is noted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, NamedTuple

import msgspec

from localfirst import jsonvalue
from localfirst.change import DELETE, INCREMENT, PUT, Change
from localfirst.errors import InvalidItem, MalformedChange

Rule = Literal["last", "first", "merge", "union", "max", "min"]
RULES: Final[tuple[Rule, ...]] = ("last", "first", "merge", "union", "max", "min")


class Stamp(NamedTuple):
    """Who wrote, and when."""

    time: int
    """Hybrid logical clock, never newer than the admission."""
    origin: str
    seq: int


OWN: Final = "localfirst:"
"""So begin the keys of records that are kept in metadata for users, and that are none of theirs."""

_NO_SUMS: Final[Mapping[str, Any]] = {}
_COMBINING: Final = frozenset(("counter", "merge", "union"))
"""What they make of two values has both in it."""


class Register(NamedTuple):
    """The current value of one key."""

    value: bytes | None
    """JSON; None: deleted."""
    stamp: Stamp
    """Of the write that last had an effect."""
    kind: str
    """Of that write."""
    fields: Mapping[str, Stamp]
    """Rule `merge` only: who wrote each field, also those taken away since."""
    sums: Mapping[str, Any] = _NO_SUMS
    """What each origin has added since the value was set."""
    base: bytes | None = None
    """The value to which that was added; JSON."""
    beside: Stamp | None = None
    """The last write of another origin that is in the value too, and that the author of `stamp` had not seen."""


class Conflict(NamedTuple):
    """Two writes to one key, made without knowledge of each other."""

    key: str
    rule: str
    """By which it was resolved: the later write's; `counter` for an increment."""
    current: Any
    """The value that stood; None when the key was deleted."""
    incoming: Any
    """What the later write brought; None for a deletion."""
    winner: Any
    """The value after it."""
    origins: tuple[str, str]
    """The replicas that wrote `current` and `incoming`."""
    seq: int
    """Where the later write stands in the session's log."""
    problem: str = ""
    """Why the function that was to resolve it could not, so that rule `last` did. Only in the event, and only on the
    replica that has the function."""


class PutBody(msgspec.Struct):
    """Body of a put. Rule `merge` carries only the fields that its author changed (`value`) and took away (`gone`)."""

    key: str
    rule: Rule
    value: msgspec.Raw
    gone: list[str] = []
    ask: bool = False
    """Whether a function of its author is to be asked, should it meet a conflict."""


class DeleteBody(msgspec.Struct):
    key: str
    ask: bool = False


class IncrementBody(msgspec.Struct):
    key: str
    by: msgspec.Raw


_put_decoder = msgspec.json.Decoder(PutBody)
_delete_decoder = msgspec.json.Decoder(DeleteBody)
_increment_decoder = msgspec.json.Decoder(IncrementBody)


def encode_put(key: str, rule: Rule, value: bytes, gone: list[str] | None = None, *, ask: bool = False) -> bytes:
    """Body of a put; the value is JSON."""
    head = b'{"key":%b,"rule":"%b","value":%b' % (jsonvalue.encode(key), rule.encode(), value)
    return head + (b',"gone":%b' % jsonvalue.encode(gone) if gone else b"") + (b',"ask":true}' if ask else b"}")


def encode_delete(key: str, *, ask: bool = False) -> bytes:
    """Body of a delete."""
    return b'{"key":%b%b}' % (jsonvalue.encode(key), b',"ask":true' if ask else b"")


def encode_increment(key: str, by: float) -> bytes:
    """Body of an increment."""
    return b'{"key":%b,"by":%b}' % (jsonvalue.encode(key), jsonvalue.encode(by))


def is_number(value: Any) -> bool:
    """Whether an increment can add to it."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def asks(change: Change) -> bool:
    """Whether a function of its author is to be asked, should this write meet a conflict."""
    try:
        if change.kind == PUT:
            return _put_decoder.decode(change.body).ask
        return change.kind == DELETE and _delete_decoder.decode(change.body).ask
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        body = jsonvalue.decode(change.body)
        return isinstance(body, dict) and body.get("ask") is True


def resolve(registers: Mapping[str, Register], change: Change, stamp: Stamp) -> tuple[str, Register, Conflict | None]:
    """What a put, delete or increment makes of its key: the key, its new register, and the conflict, if it is one."""
    write = _decode(change)
    current = registers.get(write.key)
    if current is None:
        current = Register(None, Stamp(-1, stamp.origin, 0), DELETE, {})
    own = current.stamp.origin == stamp.origin
    seen = own or current.stamp.seq <= change.base
    beside = current.beside if own else None
    if beside is not None and beside.seq <= change.base:
        beside = None
    try:
        after = _apply(current, write, stamp, seen, change.base)
    except (InvalidItem, OverflowError):
        after = current  # Too great or too deep to be a value: on every replica alike.
    unseen = beside if seen else current.stamp
    if unseen is None:
        return write.key, after, None
    if write.rule in _COMBINING and after is not current and current.value is not None:
        after = after._replace(beside=unseen)
    if (seen and write.rule != "last") or (
        change.kind == INCREMENT == current.kind
    ):  # Both increments count: nothing was decided.
        return write.key, after, None
    before, winner = _value(current), _value(after)
    origins = (unseen.origin, stamp.origin)
    return write.key, after, Conflict(write.key, write.rule, before, write.value, winner, origins, stamp.seq)


def saw(change: Change, register: Register) -> bool:
    """Whether the author of a change had seen a register, or made it."""
    return register.stamp.origin == change.origin or register.stamp.seq <= change.base


class _Write(NamedTuple):
    kind: str
    key: str
    rule: str
    value: Any
    gone: list[str]


def _decode(change: Change) -> _Write:
    """Bodies that msgspec refuses (NaN, lone surrogates) go the long way."""
    try:
        if change.kind == DELETE:
            return _Write(DELETE, _delete_decoder.decode(change.body).key, "last", None, [])
        if change.kind == INCREMENT:
            increment = _increment_decoder.decode(change.body)
            return _checked(change.kind, increment.key, "counter", jsonvalue.decode(bytes(increment.by)), [])
        put = _put_decoder.decode(change.body)
        return _checked(change.kind, put.key, put.rule, jsonvalue.decode(bytes(put.value)), put.gone)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return _decode_slowly(change)


def _decode_slowly(change: Change) -> _Write:
    body = jsonvalue.decode(change.body)
    key = body.get("key") if isinstance(body, dict) else None
    if not isinstance(key, str):
        raise MalformedChange(f"a {change.kind} names no key")
    if change.kind == DELETE:
        return _Write(DELETE, key, "last", None, [])
    if change.kind == INCREMENT:
        return _checked(INCREMENT, key, "counter", body.get("by"), [])
    rule, gone = body.get("rule"), body.get("gone", [])
    if rule not in RULES or "value" not in body or not isinstance(gone, list):
        raise MalformedChange(f"a put to {key!r} has no value, or a rule that is none")
    return _checked(change.kind, key, rule, body["value"], gone)


def _checked(kind: str, key: str, rule: str, value: Any, gone: list[str]) -> _Write:
    if not _fits(rule, value):
        raise MalformedChange(f"a write to {key!r} by rule {rule} brings a {type(value).__name__}")
    return _Write(kind, key, rule, value, gone)


def _fits(rule: str, value: Any) -> bool:
    if rule == "counter":
        return is_number(value)
    if rule == "merge":
        return isinstance(value, dict)
    return rule != "union" or isinstance(value, list)


def _apply(current: Register, write: _Write, stamp: Stamp, seen: bool, base: int) -> Register:
    if write.rule == "merge":
        return _merge_fields(current, write, stamp, base)
    if write.rule == "last":
        wins = seen or (stamp.time, stamp.origin) > (current.stamp.time, current.stamp.origin)
        if not wins:
            return current
        value = None if write.kind == DELETE else jsonvalue.encode(write.value)
        return Register(value, stamp, write.kind, {})
    if current.value is None and write.rule != "counter":
        return Register(jsonvalue.encode(write.value), stamp, write.kind, {})
    return _combine(current, write, stamp)


def _combine(current: Register, write: _Write, stamp: Stamp) -> Register:
    """The rules for which the order of two writes makes no difference, or only the first counts."""
    before = _value(current)
    if write.rule == "counter" and (before is None or is_number(before)):
        added = current.sums.get(stamp.origin, 0) + write.value
        base = current.base if current.sums else current.value
        sums = {**current.sums, stamp.origin: added}
        return Register(jsonvalue.encode((before or 0) + write.value), stamp, write.kind, {}, sums, base)
    if write.rule == "union":
        known = before if isinstance(before, list) else [before]
        return Register(jsonvalue.encode(_distinct([*known, *write.value])), stamp, write.kind, {})
    after, standing = _rank(write.value), _rank(before)
    if (write.rule == "max" and after > standing) or (write.rule == "min" and after < standing):
        return Register(jsonvalue.encode(write.value), stamp, write.kind, {})
    return current


def _merge_fields(current: Register, write: _Write, stamp: Stamp, base: int) -> Register:
    before = _value(current)
    value: dict[str, Any] = before if isinstance(before, dict) else {}
    fields = dict(current.fields)
    taken = not isinstance(before, dict)
    for field in (*write.value, *write.gone):
        standing = fields.get(field, current.stamp)
        seen = standing.origin == stamp.origin or standing.seq <= base
        absent = field not in value and field not in fields
        if not (seen or absent or (stamp.time, stamp.origin) > (standing.time, standing.origin)):
            continue
        taken = True
        fields[field] = stamp
        if field in write.value:
            value[field] = write.value[field]
        else:
            value.pop(field, None)
    if not taken:
        return current
    for field in value:
        fields.setdefault(field, current.stamp)
    return Register(jsonvalue.encode(value), stamp, write.kind, fields)


def merge_registers(
    mine: Register, theirs: Register, folded_here: Callable[[str], int], folded_there: Callable[[str], int]
) -> Register:
    """What two registers of one key become, of which each has folded writes that the other has not.

    What replicas added counts from each side that has folded more of that replica. Else the later write stands, also
    where one side has set or deleted what both had added to.
    """
    later = max(mine, theirs, key=lambda each: (each.stamp.time, each.stamp.origin, each.stamp.seq))
    base = mine.base if mine.sums else mine.value
    if not (mine.sums or theirs.sums) or base != (theirs.base if theirs.sums else theirs.value):
        return later
    origins = mine.sums.keys() | theirs.sums.keys()
    if any(
        folded_here(origin) == folded_there(origin) and mine.sums.get(origin, 0) != theirs.sums.get(origin, 0)
        for origin in origins
    ):
        return later
    sums = {
        origin: (mine if folded_here(origin) >= folded_there(origin) else theirs).sums.get(origin, 0)
        for origin in origins
    }
    before = 0 if base is None else jsonvalue.decode(base) or 0
    try:
        value = jsonvalue.encode(before + sum(sums.values()))
    except (InvalidItem, OverflowError):
        return later  # Too great to be a value.
    return Register(value, later.stamp, later.kind, {}, sums, base)


def _value(register: Register) -> Any:
    return None if register.value is None else jsonvalue.decode(register.value)


def _distinct(values: list[Any]) -> list[Any]:
    """First-seen order; equal means equal as JSON: 1, 1.0 and True differ, the order of a dict's keys is nothing."""
    distinct: dict[str, Any] = {}
    for value in values:
        distinct.setdefault(json.dumps(value, sort_keys=True), value)
    return list(distinct.values())


def _rank(value: Any) -> tuple[int, Any]:
    """A total order over JSON values: null, bools, numbers (NaN first), strings, the rest by its encoding."""
    if value is None or isinstance(value, bool):
        return (0 if value is None else 1), bool(value)
    if isinstance(value, (int, float)):
        return (2, 0) if math.isnan(value) else (3, value)
    if isinstance(value, str):
        return 4, value
    return 5, jsonvalue.encode(value)
