"""Branches as the OpenAI Agents SDK has them: a fork is before a turn, and a cleared session has none but main."""

from __future__ import annotations

import time

from localfirst import plans, usage
from localfirst.fold import Fold
from localfirst.records import Here
from localfirst.standing import Standing
from localfirst.view import OnBranch, Step


class ClearedStanding(Standing):
    """Of an object that is on main when somebody cleared the session."""

    def _is_deleted(self, here: Here, fold: Fold) -> bool:
        return super()._is_deleted(here, fold) and not usage.cleared_since(fold, here.time)


class ForkBefore:
    """Plans a branch of what is before a turn. `name`: the one that it got."""

    def __init__(self, turn: int, name: str | None, branch: OnBranch) -> None:
        self.name = name or ""
        self._turn = turn
        self._asked = name
        self._branch = branch

    def __call__(self, fold: Fold) -> list[Step]:
        line = fold.branches.get(self._branch(fold)) or fold.branches.main
        items = line.history.items
        begins = plans.turn_begins(items, self._turn)
        if begins is None:
            raise ValueError(f"Turn {self._turn} does not contain a user message in branch '{line.name}'")
        self.name = self._asked or self._free_name(fold)
        if fold.branches.named(self.name):
            raise ValueError(f"Branch ID '{self.name}' has already been used. Choose a new branch ID.")
        plans.check_places(fold, begins)
        return [plans.fork_before(fold, self.name, items[begins:])]

    def _free_name(self, fold: Fold) -> str:
        name = f"branch_from_turn_{self._turn}_{int(time.time())}"
        names = (name, *(f"{name}_{number}" for number in range(2, len(fold.branches.shown()) + 2)))
        return next(each for each in names if not fold.branches.named(each))
