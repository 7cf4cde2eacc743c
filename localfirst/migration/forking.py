"""A branch of a source becomes a branch here: forked where it shows the longest beginning of another one.

Whatever happened there since it was made (turns that were taken back, say), it then shows exactly its own items.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from localfirst import plans
from localfirst.fold import Fold
from localfirst.migration.marks import Chain, Mark, mark_in, put
from localfirst.migration.source import Damaged, Row, item_of
from localfirst.view import Step


class Beginning(NamedTuple):
    """What a branch is to take over."""

    parent: str
    """The name of the branch here that has it."""
    items: list[bytes]
    mark: Mark
    """The rows that are taken over with it."""


Lines = list[tuple[str, list[bytes]]]
"""Branches, by name, with their items: main first, then the oldest."""


def lines_in(fold: Fold) -> Lines:
    """Those that are here."""
    return [(line.name, [item.data for item in line.history.items]) for line in fold.branches.shown()]


def beginning(lines: Lines, rows: Iterable[Row]) -> Beginning:
    """The longest that a branch here has in common with some rows; main's, if several have the same.

    >>> beginning([("main", [b"1", b"2"]), ("draft", [b"1", b"3"])], [Row("a", b"1"), Row("b", b"3")]).parent
    'draft'
    """
    chain, taken = Chain(), list[bytes]()
    mark = chain.mark()
    for row in rows:
        chain.add(row)
        try:
            item = item_of(row)
        except Damaged:
            continue
        place = len(taken)
        held = [(name, items) for name, items in lines if items[place : place + 1] == [item]]
        if not held:
            break
        lines, mark = held, chain.mark()
        taken.append(item)
    return Beginning(lines[0][0], taken, mark)


class Take:
    """Plans a fork with a mark, if the parent still begins so, and nothing else has the name."""

    def __init__(self, name: str, place: str, begins: Beginning) -> None:
        self.done = False
        self._name, self._place, self._begins = name, place, begins

    def __call__(self, fold: Fold) -> list[Step]:
        parent, taken = fold.branches.named(self._begins.parent), self._begins.items
        if parent is None or mark_in(fold, self._place) is not None or fold.branches.named(self._name):
            return []
        items = parent.history.items
        self.done = [item.data for item in items[: len(taken)]] == taken
        if not self.done:
            return []
        fork = plans.fork_before(fold, self._name, items[len(taken) :])
        return [fork, *put(fold, self._place, self._begins.mark)]
