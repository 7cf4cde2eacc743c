"""Looking for a text in the items of sessions: found by reading them, one session after the other.

Upper and lower case are alike, as `str.casefold` has it. What is looked through are the texts of an item: of a message
its content, of a tool call its name and arguments, of its output that; all strings of what has neither role nor type.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any, Final

from localfirst import jsonvalue, plans
from localfirst.errors import ConfigurationError, DecryptionError
from localfirst.fold import Fold
from localfirst.history import Item, ItemId
from localfirst.local import Local
from localfirst.owner import OWNER, as_owner, checked_owner
from localfirst.room import Evicted
from localfirst.view import OnBranch

_AROUND: Final = 60
"""Characters of an excerpt before and behind what was found."""
_FIELDS: Final = (
    "name", "content", "text", "refusal", "transcript", "arguments", "input", "output", "summary", "tool_calls",
    "function",
)  # fmt: skip
_UNFOLDED: Final = "ßİŉſǰẖẗẘẙẚẞ\u212aﬀﬁﬂﬃﬄﬅﬆ"
"""The characters beside ASCII that are ASCII when they are casefolded, or begin or end so."""
_may_fold: Final = re.compile("|".join(_UNFOLDED).encode()).search

_logger = logging.getLogger("localfirst")

Lines = list[tuple[str, list[Item]]]
"""Branches by name, and what they show."""


@dataclass(frozen=True)
class Match:
    """An item in which a text was found."""

    session_id: str
    index: int
    """Its place among the items of the branch, oldest first: 0, 1, 2, …"""
    item: Any = field(hash=False)
    """A fresh object."""
    excerpt: str
    """What was found and a few words around it, on one line."""
    branch: str
    """The first one that shows the item."""


class Finder:
    """Looks for a text in items. Raises `ConfigurationError` for a text that is empty, or no string.

    >>> finder = Finder("hello")
    >>> finder.find(b'{"role":"user","content":"Hello, Bob"}')
    ({'role': 'user', 'content': 'Hello, Bob'}, 'Hello, Bob')
    """

    def __init__(self, text: object) -> None:
        if not isinstance(text, str) or not text:
            raise ConfigurationError(f"what is searched for is a string that is not empty, not {text!r:.60}")
        self._folded = text.casefold()
        # In JSON such a text stands as it is, unless it was written with escapes that are not needed.
        simple = text.isascii() and text.isprintable() and '"' not in text and "\\" not in text
        self._raw = self._folded.encode() if simple else None

    def find(self, data: bytes) -> tuple[Any, str] | None:
        """The item in some JSON, and the excerpt of the first of its texts in which it is; None: in none."""
        if self._raw is not None and self._raw not in data.lower() and not _may_hide(data):
            return None
        item = jsonvalue.decode(data)
        for text in texts_of(item):
            if (place := find_folded(text, self._folded)) is not None:
                return item, _excerpt(text, *place)
        return None


def texts_of(item: Any) -> Iterator[str]:
    """The texts of an item that are looked through, in order.

    >>> list(texts_of({"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}))
    ['Hello']
    >>> list(texts_of({"type": "function_call", "id": "1", "name": "look", "arguments": '{"at":"it"}'}))
    ['look', '{"at":"it"}']
    """
    left = [item]  # No recursion: items may be nested deeper than the caller's stack allows.
    while left:
        value = left.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            left += reversed(value)
        elif isinstance(value, dict):
            fields: Iterable[str] = _FIELDS if "type" in value or "role" in value else value
            left += [value[name] for name in fields if name in value][::-1]


def find_folded(text: str, folded: str) -> tuple[int, int] | None:
    """Where in a text something begins and ends that is this when it is casefolded.

    >>> find_folded("Die Straße", "strasse")
    (4, 10)
    """
    within = text.casefold()
    at = within.find(folded)
    if at < 0:
        return None
    if len(within) == len(text):
        return at, at + len(folded)
    place, start = 0, -1
    for index, character in enumerate(text, start=1):
        place += len(character.casefold())
        start = index - 1 if start < 0 and place > at else start
        if place >= at + len(folded):
            return start, index
    return None


def search_session(finder: Finder, session_id: str, branch: OnBranch, fold: Fold) -> Iterator[Match]:
    """The items of one branch that have the text, the newest first."""
    line = fold.branches.get(branch(fold))
    lines = [] if line is None else [(line.name, list(line.history.items))]
    return _matches(finder, session_id, lines)


def search_store(local: Local, finder: Finder, prefix: str, owner: str | None, limit: int | None) -> Iterator[Match]:
    """The items of all sessions and branches that have the text; see `Store.search`."""
    look = partial(_lines, owner=None if owner is None else checked_owner(owner))
    return first(_search(local, finder, prefix, look), limit)


def first(matches: Iterator[Match], limit: int | None) -> Iterator[Match]:
    """So many of them; None or negative: all."""
    return matches if limit is None or limit < 0 else islice(matches, limit)


def _search(local: Local, finder: Finder, prefix: str, look: Callable[[Fold], Lines]) -> Iterator[Match]:
    sealed = 0
    try:
        for key, session_id in local.newest_first(prefix):
            try:
                lines = local.peek(key, session_id, look)
            except Evicted:
                continue
            except DecryptionError:
                sealed += 1
                continue
            yield from _matches(finder, session_id, lines)
    finally:
        if sealed:
            _logger.warning("not searched, for their keys are not here: %d sessions", sealed)


def _lines(fold: Fold, owner: str | None) -> Lines:
    if owner is not None:
        value = plans.value_of(fold, OWNER)
        if value is None or as_owner(jsonvalue.decode(value)) != owner:
            return []
    return [(line.name, list(line.history.items)) for line in fold.branches.shown()]


def _matches(finder: Finder, session_id: str, lines: Lines) -> Iterator[Match]:
    seen = set[ItemId]()
    for number, (branch, items) in enumerate(lines, start=1):
        for index in range(len(items) - 1, -1, -1):
            item = items[index]
            if seen and item.id in seen:
                continue
            found = finder.find(item.data)
            if found is not None:
                yield Match(session_id, index, *found, branch)
        if number < len(lines):
            seen.update(item.id for item in items)


def _may_hide(data: bytes) -> bool:
    """Whether ASCII may be in the texts of some JSON that is not in its bytes."""
    return b"\\u" in data or b"\\/" in data or not (data.isascii() or _may_fold(data) is None)


def _excerpt(text: str, start: int, end: int) -> str:
    before, behind = max(0, start - _AROUND), end + _AROUND
    cut = " ".join(text[before:behind].split())
    return f"{'…' if before else ''}{cut}{'…' if behind < len(text) else ''}"
