"""How far a source was imported: noted in the session itself, in the same commit as the items.

So a run that is cut off goes on where it was, and every replica that has the items knows where they are from.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Any, Final

import msgspec

from localfirst import jsonvalue, plans
from localfirst.change import APPEND, MAIN_BRANCH
from localfirst.fold import Fold
from localfirst.metadata import OWN
from localfirst.migration.source import Conversation, Row, Source
from localfirst.view import Step

KEY: Final = f"{OWN}imported"
"""The metadata key: by source and branch, a `Mark`."""


class Mark(msgspec.Struct, frozen=True, omit_defaults=True):
    """The first rows of a branch, which were imported."""

    rows: int
    """How many, with the damaged ones."""
    last: str
    """The id of the last of them."""
    digest: str
    """Of all of them."""
    verified: int = 0
    """How many of them were read back and compared."""

    def unverified(self) -> Mark:
        """The same rows, as if nobody had looked."""
        return Mark(self.rows, self.last, self.digest)


class Chain:
    """A digest that grows with each row."""

    def __init__(self) -> None:
        self.rows = 0
        self.last = ""
        self._hash = blake2b(digest_size=16)

    def add(self, row: Row) -> None:
        """The next row."""
        name = row.id.encode(errors="surrogateescape")
        for part in (name, row.data):
            self._hash.update(b"%d:" % len(part))
            self._hash.update(part)
        self.rows += 1
        self.last = row.id

    def mark(self) -> Mark:
        """All rows up to here."""
        return Mark(self.rows, self.last, self._hash.hexdigest())


def place_of(source: Source, conversation: Conversation, branch: str) -> str:
    """What a branch of a source's session is called among the marks: the same for every copy of the source."""
    told = f"{source.kind}\0{conversation.session_id}\0{conversation.created_at}"
    name = blake2b(told.encode(errors="surrogateescape"), digest_size=8).hexdigest()
    return name if branch == MAIN_BRANCH else f"{name}/{branch}"


def mark_in(fold: Fold, place: str) -> Mark | None:
    """The mark there; None: nothing was imported from it."""
    found = _marks(fold).get(place)
    try:
        return None if found is None else msgspec.convert(found, Mark)
    except msgspec.ValidationError:
        return Mark(-1, "", "")  # Somebody wrote something else there: it fits no source.


class Advance:
    """Plans to move a mark, and what is to be written with it, if the mark is where it was seen."""

    def __init__(self, place: str, seen: Mark | None, mark: Mark, items: Sequence[bytes] = ()) -> None:
        self.done = False
        """Whether it was."""
        self._place, self._seen, self._mark, self._items = place, seen, mark, items

    def __call__(self, fold: Fold) -> list[Step]:
        self.done = mark_in(fold, self._place) == self._seen
        items: list[Step] = [(APPEND, jsonvalue.join(list(self._items)))] if self._items else []
        return [*items, *put(fold, self._place, self._mark)] if self.done else []


def put(fold: Fold, place: str, mark: Mark) -> list[Step]:
    """The steps that set a mark, and leave the others."""
    return list(plans.merge(KEY, {**_marks(fold), place: msgspec.to_builtins(mark)})(fold))


def _marks(fold: Fold) -> dict[str, Any]:
    value = plans.value_of(fold, KEY)
    found = None if value is None else jsonvalue.decode(value)
    return found if isinstance(found, dict) else {}
