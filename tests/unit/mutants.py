"""Bytes and values that were something valid, and are something else now."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec

NUMBERS = [0, 1, -1, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, -(2**63), 2**64 - 1]
JUNK: list[Any] = [
    *NUMBERS,
    None,
    True,
    "",
    b"",
    [],
    {},
    1.5,
    float("inf"),
    float("nan"),
    1e308,
    "\0",
    "é\u2028",
    "x" * 2000,
    "r1:1",
    "../../x",
    [[]],
    {"": {}},
    b"\xff" * 20,
]
HEADERS = [
    b"\xdd\xff\xff\xff\xff",  # msgpack: an array, a map, bytes and a text that have no end
    b"\xdf\xff\xff\xff\xff",
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\x91" * 2000,
    b"[" * 2000,
    b'{"a":' * 2000,
    b"9" * 20_000,
    b"-1e999999999",
    b"1e-999999999",
    b'"\\ud800"',
    b"NaN",
    b"\xed\xa0\x80",
    b"\0" * 64,
]


def mangled(chance: Random, data: bytes, others: Sequence[bytes]) -> bytes:  # noqa: C901 - a list of ways
    """Some bytes are others, more, fewer, or elsewhere."""
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 1, 2, 4))):
        at, end = sorted(chance.randrange(len(made) + 1) for _ in range(2))
        how = chance.randrange(8)
        if how == 0 and at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        elif how == 1 and at < len(made):
            made[at] = chance.choice((0, 1, 0x7F, 0x80, 0x90, 0xC0, 0xFF, *b'"[]{},:0919eE-\\'))
        elif how == 2:
            del made[at:end]
        elif how == 3:
            made[at:at] = chance.choice(HEADERS)
        elif how == 4:
            made[at:end] = made[at:end] * 2
        elif how == 5:
            del made[at:]
        elif how == 6:
            other = chance.choice(others)
            made[at:end] = other[: chance.randrange(len(other) + 1)]
        else:
            made[at:at] = chance.randbytes(chance.choice((1, 2, 8)))
    return bytes(made)


def altered(chance: Random, value: Any) -> Any:  # noqa: C901 - a list of ways
    """A part of a value is another, or missing, or there twice."""
    if isinstance(value, (list, tuple)) and value and chance.random() < 0.85:
        made, place = list(value), chance.randrange(len(value))
        how = chance.random()
        if how < 0.1:
            del made[place]
        elif how < 0.2:
            made.insert(place, made[place])
        else:
            made[place] = altered(chance, made[place])
        return made
    if isinstance(value, dict) and value and chance.random() < 0.85:
        changed, key = dict(value), chance.choice(list(value))
        how = chance.random()
        if how < 0.1:
            del changed[key]
        elif how < 0.25:
            changed[str(chance.choice(JUNK))] = changed.pop(key)
        else:
            changed[key] = altered(chance, changed[key])
        return changed
    if isinstance(value, int) and not isinstance(value, bool) and chance.random() < 0.7:
        return chance.choice((value + 1, value - 1, -value, chance.choice(NUMBERS)))
    if isinstance(value, str) and value and chance.random() < 0.4:
        return text_of(mangled(chance, value.encode("utf-8", "surrogatepass"), [value.encode("utf-8", "replace")]))
    if isinstance(value, bytes) and value and chance.random() < 0.6:
        return mangled(chance, value, [value])
    return chance.choice(JUNK)


def text_of(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def of_json(chance: Random, data: bytes) -> bytes:
    """Valid JSON, of another shape."""
    return json.dumps(altered(chance, json.loads(data)), default=repr).encode()


def of_msgpack(chance: Random, data: bytes) -> bytes:
    """Valid msgpack, of another shape."""
    return msgspec.msgpack.encode(altered(chance, msgspec.msgpack.decode(data)))


def mutants(
    chance: Random, seeds: Sequence[bytes], shape: Callable[[Random, bytes], bytes] | None
) -> Callable[[], bytes]:
    """Makes one after the other."""

    def make() -> bytes:
        seed = chance.choice(seeds)
        if shape is None or chance.random() < 0.5:
            return mangled(chance, seed, seeds)
        return shape(chance, seed)

    return make
