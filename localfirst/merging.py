"""Two folds, each with changes that the other has not: their items, branch by branch, in one. Pure.

What one has folded and does not show was taken away. What only one has folded stands behind what the other shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from localfirst.branches import Line, free_name, may_come
from localfirst.change import MAIN_BRANCH
from localfirst.fold import Fold
from localfirst.history import History, Item, ItemId, greatest


def merge_branches(mine: Fold, other: Fold, merged: Fold) -> int:
    """Give a fold that has only counters yet the items of two, under seqs of their own: 1, 2, … Returns the last."""
    sides = _Side(mine), _Side(other)
    merged.branches.restore(_lines(sides, merged.counters))
    passed: dict[str, list[Item]] = {}
    seqs: dict[ItemId, Item] = {}
    for line in merged.branches.from_main_on():
        passed[line.id] = _items(line, sides, passed.get(line.parent, []))
        _fill(line, sides, passed[line.id])
        items = line.history.items
        for place, item in enumerate(items):
            if item.id not in seqs:
                seqs[item.id] = msgspec.structs.replace(item, seq=len(seqs) + 1)
            items[place] = seqs[item.id]
    return len(seqs)


class _Side:
    """One of the two."""

    def __init__(self, fold: Fold) -> None:
        self.lines = {MAIN_BRANCH: fold.branches.main, **fold.branches.others(fold.counters)}
        self._shown = {branch: {item.id for item in line.history.items} for branch, line in self.lines.items()}
        self._counters = fold.counters

    def has_folded(self, item: Item) -> bool:
        """Whether it knows an item, also if it does not show it."""
        return item.counter <= self._counters.get(item.origin, 0)

    def shows(self, line: Line, item: Item) -> bool:
        """Whether it shows an item on a branch."""
        return item.id in self._shown.get(line.id, ())

    def took_away(self, line: Line, item: Item) -> bool:
        """Whether it does not show an item of a branch that it must have had there."""
        if line.id not in self.lines or self.shows(line, item) or not self.has_folded(item):
            return False
        return self.lines[line.id].forked or not line.inherits(item)


def _lines(sides: Sequence[_Side], counters: Mapping[str, int]) -> list[Line]:
    """All branches but main, without their items."""
    found = []
    for branch in {branch: None for side in sides for branch in side.lines if branch != MAIN_BRANCH}:
        known = [side.lines[branch] for side in sides if branch in side.lines]
        forks = [line for line in known if line.forked]
        deleted = any(line.deleted for line in known)
        if forks:
            # One that knew another branch of the name calls it by a longer one.
            name = "" if deleted else max((line.name for line in forks), key=lambda name: (len(name), name))
            barred = greatest(forks[0].barred, forks[-1].barred)
            found.append(msgspec.structs.replace(forks[0], name=name, barred=barred, deleted=deleted))
        elif may_come(branch, counters):
            found.append(msgspec.structs.replace(known[0], deleted=deleted))
    names: dict[str, str] = {}
    for line in sorted(found, key=lambda line: (line.time, line.id)):
        names[line.id] = line.name and free_name(line.name, line.id, {MAIN_BRANCH, *names.values()})
    return [msgspec.structs.replace(line, history=History(), heirs=[], name=names[line.id]) for line in found]


def _items(line: Line, sides: Sequence[_Side], passed: list[Item]) -> list[Item]:
    """What goes on to a branch's forks, and is on the branch itself if it was not deleted. `passed`: to the branch."""
    if line.deleted:
        return line.inherited(passed)
    one, other = (side.lines[line.id].history.items if line.id in side.lines else [] for side in sides)
    items = [item for item in one if not sides[1].took_away(line, item)]
    items += [item for item in other if not (sides[0].shows(line, item) or sides[0].took_away(line, item))]
    forked = [side for side in sides if line.id in side.lines and side.lines[line.id].forked]
    late = [item for item in line.inherited(passed) if forked and not any(side.has_folded(item) for side in forked)]
    return line.inherited(items) + late + [item for item in items if not line.inherits(item)]


def _fill(line: Line, sides: Sequence[_Side], items: list[Item]) -> None:
    history = line.history
    for known in (side.lines[line.id].history for side in sides if line.id in side.lines):
        history.cleared = greatest(history.cleared, known.cleared)
        history.removed_early |= known.removed_early
    if not line.deleted:
        history.insert(0, items)
