"""Replies of a Redis that is none, or whose scripts are others: refused, whatever they are."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import pytest

from localfirst.errors import RemoteRejected
from sync.central.base import FORMAT_VERSION, Head, LogEntry, Pulled, PushStatus
from sync.central.redis import replies

PUSH: Final[list[Any]] = [b"ok", b"g", 3, 1, 7, 1, 2, 1_000, 5_000, b""]
HEAD: Final[list[Any]] = [b"g", 7, 1, 2]
PAGE: Final[list[Any]] = [*HEAD, 5_000, b""]
MISSING: Final[list[Any]] = [b"", 0, 0, 0, 0, b"deleted", 0, b"", b""]
DIGEST = bytes(8)
LANE = 1 << 31
STRANGE: Final[list[Any]] = [None, b"", [], {}]


def changed(reply: list[Any], place: int, value: Any) -> list[Any]:
    return [*reply[:place], value, *reply[place + 1 :]]


def page(*elements: bytes) -> list[Any]:
    return [*PAGE, 0, b"".join(len(each).to_bytes(4, "big") for each in elements), b"".join(elements)]


def test_what_makes_sense() -> None:
    assert replies.pushed(PUSH).status is PushStatus.OK
    head = Head("g", 7, 1 << 32 | 2)
    assert replies.head(HEAD) == head
    assert replies.head(None) is None
    one = [b"1000:" + DIGEST + b"one", b"1000:" + DIGEST + b"two", b"1001:" + DIGEST]
    expected = [LogEntry(5, 1000, b"one"), LogEntry(6, 1000, b"two"), LogEntry(7, 1001, b"")]
    assert replies.pulled(page(*one), 4) == Pulled(head, False, expected, 5_000)
    assert replies.pulled(MISSING, 4) == Pulled(None, False, [], ended="deleted")


@pytest.mark.parametrize(
    ("decode", "reply"),
    [
        *((decode, reply) for decode in (replies.identity, replies.pushed, replies.count) for reply in STRANGE),
        *((decode, reply) for decode in (replies.head, replies.checkpoint) for reply in (0, [], [b"g"], [None] * 5)),
        (replies.identity, [b"id", b"two", 0]),
        (replies.identity, [b"id", b"9" * 16, 0]),
        (replies.identity, [b"\xff", b"2", 0]),
        (replies.identity, [None, str(FORMAT_VERSION).encode(), 0]),
        (replies.pushed, changed(PUSH, 0, b"done")),
        (replies.pushed, changed(PUSH, 0, b"\xff")),
        (replies.pushed, changed(PUSH, 1, b"\xff")),
        (replies.pushed, changed(PUSH, 2, -1)),
        (replies.pushed, changed(PUSH, 4, 1 << 53)),
        (replies.pushed, changed(PUSH, 5, LANE)),
        (replies.pushed, changed(PUSH, 8, -1)),
        (replies.head, changed(HEAD, 3, LANE)),
        (replies.head, changed(HEAD, 1, 7.5)),
        (replies.checkpoint, [*HEAD, None]),
        (replies.count, -1),
        (replies.members, [b"s", 1]),
        (partial(replies.pulled, after=0), None),
        (partial(replies.pulled, after=0), [*HEAD, 0, b"", b""]),
        *(
            (partial(replies.pulled, after=0), page(element))
            for element in (b"", b"1000", b"x:" + DIGEST, b":" + DIGEST, b"1000:" + DIGEST[1:], b"0" * 100 + b":")
        ),
        (partial(replies.pulled, after=0), page(b"1000:" + DIGEST, b"100")),
        *(
            (partial(replies.pulled, after=0), changed(page(b"1000:" + DIGEST), place, value))
            for place, value in (
                (7, None),
                (7, b""),
                (7, bytes(3)),
                (7, bytes(4)),
                (7, bytes(1 << 20)),
                (8, None),
                (8, b""),
            )
        ),
    ],
)
def test_what_makes_none_is_refused(decode: Callable[[Any], Any], reply: Any) -> None:
    """Invariant 10."""
    with pytest.raises(RemoteRejected):
        decode(reply)
