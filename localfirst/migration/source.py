"""What is read of a place where another program keeps conversations, whichever program and place it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

from localfirst import jsonvalue
from localfirst.change import MAIN_BRANCH
from localfirst.errors import InvalidItem, ItemTooLarge, MalformedChange
from localfirst.limits import check_item

PART: Final = 500
"""Rows that are asked for at once."""


class Row(NamedTuple):
    """One item, as its owner wrote it."""

    id: str
    """Names it to whoever looks for it there."""
    data: bytes
    """JSON, if it is not damaged."""


class Damaged(Exception):
    """What is in a row is no item."""


def item_of(row: Row) -> bytes:
    """A row's item, as a session keeps it. Raises `Damaged`, which says what is wrong.

    >>> item_of(Row("1", b'{"role": "user", "content": "Hello"}'))
    b'{"role":"user","content":"Hello"}'
    """
    try:
        return check_item(jsonvalue.encode(jsonvalue.decode(row.data)), "it")
    except (InvalidItem, ItemTooLarge, MalformedChange) as error:
        raise Damaged(str(error)) from None


@dataclass(frozen=True)
class Conversation:
    """One session there."""

    session_id: str
    rows: Callable[[str], Iterator[Row]]
    """Those of a branch, in their order, from the first on; each call reads anew."""
    branches: Mapping[str, int]
    """By name, with how many rows each has now: main first, then the oldest."""
    created_at: str = ""
    """As it is written there; with the source's kind it tells this session from another one of the same id."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What else is known of it; set here where nothing is set."""
    usage: Mapping[str, Mapping[int, Any]] = field(default_factory=dict)
    """By branch and number of the turn: what models were asked for in it, see `localfirst.usage`."""
    notes: tuple[str, ...] = ()
    """What of it does not come along, and why."""


class Source(Protocol):
    """A place where conversations are. Nothing in it is ever changed. Raises `SourceUnreadable`, and for servers what
    a central store raises."""

    @property
    def kind(self) -> str:
        """What it is: the same for copies of it, wherever they are."""

    @property
    def name(self) -> str:
        """Where it is, without credentials."""

    def session_ids(self) -> list[str]:
        """All that are there."""

    def conversation(self, session_id: str) -> AbstractContextManager[Conversation]:
        """One of them, to be read inside the block."""

    def close(self) -> None:
        """Let go of it."""


def only_main(count: int) -> dict[str, int]:
    """The branches of a session that has one."""
    return {MAIN_BRANCH: count}
