"""The branch on which a `Session` object stands: remembered on disk, for the next one of that session here."""

from __future__ import annotations

from typing import Final

from localfirst import plans
from localfirst.change import fork_of
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
        """Tells where it stands, by the branch's id. It raises `ConfigurationError` where there is no such branch."""
        return on_main if self._here == _MAIN else self._find

    def _find(self, fold: Fold) -> str:
        here, branches = self._here, fold.branches
        line = branches.named(self.name or "") if here is None else branches.find(here.branch, here.time)
        if line is None and here is None:
            raise plans.no_branch(self.name, fold)
        if line is None and self._found and here is not None and fold.has_seen(fork_of(here.branch)[0]):
            raise ConfigurationError('this branch was deleted: switch() to another, for example to "main"')
        line = line or branches.main  # What was remembered is not there any more, or is of a life that is over.
        self._here, self._found = Here(line.id, line.time), True
        return line.id

    def switch(self, branch: str, time: int) -> None:
        """Go to a branch, and remember it."""
        here = Here(branch, time)
        self._local.stand(self._key, here)
        self._here, self._found, self.unknown = here, True, False
