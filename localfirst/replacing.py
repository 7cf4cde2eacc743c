"""Replacing a part of the history by something shorter, all at once: what compaction asks of a session.

The OpenAI Agents SDK looks for this by name on the session that it compacts. While a summary is made, others may write:
it takes the place of what was read only if that still stands at the end, just as it was.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from localfirst import jsonvalue
from localfirst.change import APPEND, REMOVE
from localfirst.fold import Fold
from localfirst.history import Item, encode_removal
from localfirst.plans import clear
from localfirst.view import OnBranch, Step


@dataclass(frozen=True)
class Snapshot:
    """The last items of a session, and how to replace them."""

    items: list[Any]
    complete: bool
    """Whether there are no others."""
    replace_suffix: Callable[[int, list[Any]], Awaitable[bool]]
    """Replaces those from a place on by others, if what was read is still the end of the history; tells whether."""


class Replace:
    """Plans to put other items where the last ones are, if these are still those that were read (None: whatever they
    are). Tells, when carried out, whether they were. `expired`: which of the oldest ones go as well."""

    def __init__(
        self,
        seen: Sequence[Item] | None,
        new: list[bytes],
        branch: OnBranch,
        expired: Callable[[Any], bool] | None = None,
    ) -> None:
        self.done = False
        self._seen, self._branch, self._expired = seen, branch, expired
        self._added: list[Step] = [(APPEND, jsonvalue.join(new))] if new else []

    def __call__(self, fold: Fold) -> list[Step]:
        items = fold.on(self._branch(fold))
        kept = 0 if self._seen is None else len(items) - len(self._seen)
        self.done = self._seen is None or (
            kept >= 0 and [item.id for item in items[kept:]] == [i.id for i in self._seen]
        )
        if not self.done:
            return []
        gone = self._leading(items[:kept])
        if gone == kept:
            return clear(fold, self._branch) + self._added
        return [(REMOVE, encode_removal(item)) for item in (*items[:gone], *items[kept:])] + self._added

    def _leading(self, items: Sequence[Item]) -> int:
        if self._expired is None:
            return 0
        return next((at for at, item in enumerate(items) if not self._expired(jsonvalue.decode(item.data))), len(items))
