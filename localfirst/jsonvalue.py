"""JSON values to bytes and back, exactly: what `decode` returns equals what `encode` was given, or `encode` refused.

The common case is msgspec at full speed, proved right by decoding the result and comparing. What msgspec can't hold
(lone surrogates, NaN, infinities) goes through the standard library; msgspec refuses to decode all of that, so one
look tells which of the two wrote it. This module knows nothing of items or changes.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, Final

import msgspec

from localfirst.errors import InvalidItem, MalformedChange

MAX_DEPTH: Final = 512
"""Deepest nesting that is taken. Decoding must work wherever the caller's stack stands."""

_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder()
_splitter = msgspec.json.Decoder(list[msgspec.Raw])
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError)
_SPLIT_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")


def encode(value: Any) -> bytes:
    """Compact JSON of a value: dict, list, str, int of any size, float, bool, None.

    As with `json.dumps`, tuples become lists, and keys that are numbers, bools or None become strings. Sets, bytes,
    other objects, keys that would collide, and nesting deeper than `MAX_DEPTH` raise `InvalidItem`.

    >>> encode({"role": "user", "content": "Hello"})
    b'{"role":"user","content":"Hello"}'
    """
    try:
        data = _encoder.encode(value)
        if _decoder.decode(data) == value and (_surely_shallow(data) or _depth(value) <= MAX_DEPTH):
            return data
    except (TypeError, ValueError, OverflowError, RecursionError):
        pass  # Not for msgspec; the careful way tells whether it is for JSON.
    if _depth(value) > MAX_DEPTH:
        raise InvalidItem(f"nested deeper than {MAX_DEPTH} levels: store it as a string")
    return _encode_carefully(value)


def decode(data: bytes) -> Any:
    """The value in JSON bytes, always a fresh object. Raises `MalformedChange`.

    >>> decode(b'[1, "two"]')
    [1, 'two']
    """
    try:
        return _decoder.decode(data)
    except _UNREADABLE:
        pass
    except RecursionError:
        raise MalformedChange("JSON is nested too deeply") from None
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise MalformedChange(f"{len(data)} bytes are not JSON: {error}") from error


def decode_each(encoded: list[bytes]) -> list[Any]:
    """The values in many JSON bytes; faster than joining them into one array, which would copy them all."""
    try:
        return list(map(_decoder.decode, encoded))
    except (*_UNREADABLE, RecursionError):
        return [decode(data) for data in encoded]


def join(encoded: list[bytes]) -> bytes:
    """A JSON array of values that are encoded already."""
    return b"[" + b",".join(encoded) + b"]"


def split(array: bytes) -> list[bytes]:
    """The encoded elements of a JSON array. Raises `MalformedChange`.

    >>> split(b'[{"a":1},2]')
    [b'{"a":1}', b'2']
    """
    try:
        return [bytes(raw) for raw in _splitter.decode(array)]
    except (*_UNREADABLE, RecursionError):
        values = decode(array)
    if not isinstance(values, list):
        raise MalformedChange(f"JSON holds a {type(values).__name__} where an array belongs")
    try:
        return [encode(value) for value in values]
    except InvalidItem as error:
        raise MalformedChange(f"JSON holds what can't be kept: {error}") from error


def is_plain_array(data: bytes) -> bool:
    """Whether JSON bytes are an array of values that `encode` would have taken, as far as that is told at once: False
    says nothing.

    >>> is_plain_array(b'[{"a":1},2]'), is_plain_array(b'{"a":1}'), is_plain_array(b"[NaN]")
    (True, False, False)
    """
    try:
        return isinstance(_decoder.decode(data), list) and _surely_shallow(data)
    except (*_UNREADABLE, RecursionError):
        return False


def check_depth(value: Any) -> None:
    """Raise `MalformedChange` for a value that `encode` would not have taken for its depth."""
    if _depth(value) > MAX_DEPTH:
        raise MalformedChange(f"JSON is nested deeper than {MAX_DEPTH} levels")


def _surely_shallow(data: bytes) -> bool:
    """Each level takes two bytes at least."""
    return len(data) <= 2 * MAX_DEPTH or data.count(b"{") + data.count(b"[") <= MAX_DEPTH


def _depth(value: Any) -> int:
    """Levels of nesting, as far as `MAX_DEPTH` + 1; without recursion, for that has a limit of its own."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH + 1:
        level = [
            element
            for container in level
            if isinstance(container, (dict, list, tuple))
            for element in (container.values() if isinstance(container, dict) else container)
        ]
        depth += 1
    return depth - 1


def _encode_carefully(value: Any) -> bytes:
    try:
        plain = _plain(value, "")
        text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"))
        if _SPLIT_PAIR.search(text):  # As \\u escapes, two halves would come back as one character.
            return text.encode("utf-8", "surrogatepass")
        try:
            return text.encode()
        except UnicodeEncodeError:
            return json.dumps(plain, separators=(",", ":")).encode()
    except (ValueError, RecursionError) as error:  # An integer of more digits than Python converts.
        raise InvalidItem(f"can't be stored as JSON: {error}") from error


def _plain(value: Any, path: str) -> Any:
    """A copy made of JSON's own types only; the path is for the message of the error."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, Enum):  # A str or int that is also an Enum prints as its name; JSON wants its value.
        value = value.value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, (list, tuple)):
        elements = []
        for index, element in enumerate(value):  # A comprehension would take a second stack frame per level.
            elements.append(_plain(element, f"{path}[{index}]"))
        return elements
    if isinstance(value, dict):
        return _plain_dict(value, path)
    raise InvalidItem(f"{type(value).__name__} can't be stored as JSON{_at(path)}: convert it first")


def _plain_dict(value: dict[Any, Any], path: str) -> dict[str, Any]:
    plain = {}
    for key, element in value.items():
        plain[_key(key, path)] = _plain(element, f"{path}.{key!s}")
    if len(plain) < len(value):
        raise InvalidItem(f"keys collide when they become strings{_at(path)}: use string keys")
    return plain


def _key(key: Any, path: str) -> str:
    if isinstance(key, str):
        return str(key.value if isinstance(key, Enum) else key)
    if key is None or isinstance(key, (bool, int, float)):
        return json.dumps(key)
    raise InvalidItem(f"a key of type {type(key).__name__} can't be stored as JSON{_at(path)}: use string keys")


def _at(path: str) -> str:
    return f" (at {path})" if path else ""
