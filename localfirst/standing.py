"""The branch on which a `Session` object stands: remembered on disk, for the next one of that session here."""

from __future__ import annotations

from functools import partial
from typing import Final

from localfirst import plans
from localfirst.change import MAIN_BRANCH, fork_of
from localfirst.errors import ConfigurationError
from localfirst.fold import Fold
from localfirst.local import Local
from localfirst.records import Here, SessionKey
from localfirst.view import OnBranch, on_main

_MAIN: Final = Here()


class Standing:
    """Of one object. It begins on a branch by name, or where somebody stood last."""

    def __init__(self, local: Local, key: SessionKey, name: str | None) -> None:
        self.name = name
        self.unknown = True
        """Nobody has asked the disk yet."""
        self._local = local
        self._key = key
        self._here: Here | None = None
        self._found = False
        if name == MAIN_BRANCH:  # It is always there.
            self.go(_MAIN.branch, _MAIN.time)

    def recall(self) -> None:
        """Ask the disk."""
        self._begin(None if self.name is not None else self._local.here(self._key))

    async def recall_soon(self) -> None:
        """As `recall`, without blocking the event loop."""
        self._begin(None if self.name is not None else await self._local.here_soon(self._key))

    def _begin(self, here: Here | None) -> None:
        if self.unknown:  # Still: another thread may have switched it.
            self._here, self.unknown = here, False

    def branch(self) -> OnBranch:
        """Tells where it stands now, by the branch's id. Raises `ConfigurationError` where there is no such branch."""
        here = self._here
        return on_main if here == _MAIN else partial(self._find, here)

    def _find(self, here: Here | None, fold: Fold) -> str:
        branches = fold.branches
        line = branches.named(self.name or "") if here is None else branches.find(here.branch, here.time)
        if line is None and here is None:
            raise plans.no_branch(self.name, fold)
        if line is None and here is not None and self._is_deleted(here, fold):
            raise ConfigurationError('this branch was deleted: switch() to another, for example to "main"')
        line = line or branches.main  # What was remembered is not there any more, or is of a life that is over.
        if self._here is here:
            self.go(line.id, line.time)
        return line.id

    def _is_deleted(self, here: Here, fold: Fold) -> bool:
        """Whether a branch that is not there was deleted, while the object was on it."""
        return self._found and fold.has_seen(fork_of(here.branch)[0])

    def go(self, branch: str, time: int) -> None:
        """Go to a branch."""
        self._here, self._found, self.unknown = Here(branch, time), True, False

    def switch(self, branch: str, time: int) -> None:
        """Go to a branch, and remember it."""
        self._local.stand(self._key, Here(branch, time))
        self.go(branch, time)
