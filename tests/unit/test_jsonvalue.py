"""JSON values: what goes in comes out exactly, or is refused."""

from __future__ import annotations

import enum
import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.errors import InvalidItem, MalformedChange

any_text = st.text(st.characters(exclude_categories=()))  # Lone surrogates too.
scalars = st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats() | any_text
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(any_text, inner, max_size=5), max_leaves=20
)


def same(left: Any, right: Any) -> bool:
    """Equal in type and value, where NaN equals NaN and -0.0 does not equal 0.0."""
    if type(left) is not type(right):
        return False
    if isinstance(left, float):
        return (math.isnan(left) and math.isnan(right)) or (
            left == right and math.copysign(1, left) == math.copysign(1, right)
        )
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


@settings(max_examples=500)
@given(json_values)
def test_values_come_back_exactly(value: Any) -> None:
    assert same(jsonvalue.decode(jsonvalue.encode(value)), value)


@settings(max_examples=200)
@given(st.lists(json_values, max_size=6))
def test_an_array_splits_into_what_was_joined(values: list[Any]) -> None:
    encoded = [jsonvalue.encode(value) for value in values]
    assert same(jsonvalue.decode_each(jsonvalue.split(jsonvalue.join(encoded))), values)


@pytest.mark.parametrize(
    "value",
    [
        "\ud800",
        "\udc00 alone",
        "\ud83d\ude00 as two halves, which is not one character",
        {"\udfff": "\ud800"},
        2**64,
        -(10**300),
        float("nan"),
        float("inf"),
        float("-inf"),
        -0.0,
        5e-324,
        "",
        {"": ""},
        {"a": {}, "b": []},
        "\x00\x1f\u2028",
        "x" * 2**20,
    ],
    ids=lambda value: repr(value)[:20].encode("ascii", "replace").decode(),
)
def test_odd_values_come_back_exactly(value: Any) -> None:
    assert same(jsonvalue.decode(jsonvalue.encode(value)), value)


def test_deep_nesting_comes_back_and_deeper_is_refused() -> None:
    value: Any = "core"
    for _ in range(jsonvalue.MAX_DEPTH):
        value = [value]
    assert jsonvalue.decode(jsonvalue.encode(value)) == value
    with pytest.raises(InvalidItem, match="nested deeper"):
        jsonvalue.encode([value])


def test_a_value_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(InvalidItem, match="nested deeper"):
        jsonvalue.encode(value)


class Colour(str, enum.Enum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        ((1, (2, 3)), [1, [2, 3]]),
        ({2: "a", None: "b", True: "c", 1.5: "d"}, {"2": "a", "null": "b", "true": "c", "1.5": "d"}),
        ({Colour.RED: Colour.RED}, {"red": "red"}),
        ((float("inf"), Colour.RED), [float("inf"), "red"]),
    ],
)
def test_what_json_dumps_takes_is_taken_alike(value: Any, stored: Any) -> None:
    assert jsonvalue.decode(jsonvalue.encode(value)) == stored


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({1, 2}, "set"),
        (b"bytes", "bytes"),
        ({"deep": [{"x": object()}]}, r"object .* \(at .deep\[0\].x\)"),
        ({1: "a", "1": "b"}, "collide"),
        ({(1, 2): "a"}, "tuple"),
        (10**5000, "stored as JSON"),
        (float, "type"),
    ],
    ids=["set", "bytes", "object", "colliding keys", "tuple as key", "5,000 digits", "class"],
)
def test_what_json_cannot_hold_is_refused(value: Any, says: str) -> None:
    with pytest.raises(InvalidItem, match=says):
        jsonvalue.encode(value)


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[1,]", b'"\xff"', b"nul", b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000]
)
def test_bytes_that_are_not_json_are_a_typed_error(data: bytes) -> None:
    with pytest.raises(MalformedChange):
        jsonvalue.decode(data)


@pytest.mark.parametrize("data", [b"{}", b"1", b"NaN", b"[", b"[1,,2]"])
def test_only_an_array_can_be_split(data: bytes) -> None:
    with pytest.raises(MalformedChange):
        jsonvalue.split(data)


def test_what_the_standard_library_wrote_can_be_read() -> None:
    value = {"text": "héllo", "numbers": [1, 2.5, float("inf")], "none": None}
    assert jsonvalue.decode(json.dumps(value).encode()) == value
