"""Conflicts that writes of this replica met, and that a function of the user's is still to be asked about. Pure.

A write whose key has a function says so (`ask`), and travels as rule `last` does. Its author's replica follows what
becomes of it: when it was admitted and met a conflict, that is unresolved until somebody writes the key again. What the
function says is such a write. So the log alone tells what is unresolved, also after a crash.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from localfirst import jsonvalue
from localfirst.change import DELETE
from localfirst.fold import Effect, Fold
from localfirst.metadata import Conflict, Register, asks


class Unresolved(NamedTuple):
    """One of them, with what a function is asked; values are JSON, None: deleted."""

    conflict: Conflict
    mine: bytes | None
    """What our write brought; the last one, if there were more before anything was known of `theirs`."""
    theirs: bytes | None
    base: bytes | None
    """What stood before both, as far as it is known; None: nothing."""
    register: Register
    """What the conflict left."""


class Conflicts:
    """The unresolved conflicts of one session."""

    def __init__(self) -> None:
        self._open: dict[str, Unresolved] = {}

    def follow(self, effects: Iterable[Effect], origin: str) -> None:
        """Go on with what was admitted next. `origin`: of this replica."""
        for effect in effects:
            if effect.key is not None and effect.after is not None:
                self._follow(effect.key, effect, effect.after, effect.change.origin == origin)

    def _follow(self, key: str, effect: Effect, after: Register, own: bool) -> None:
        known, conflict = self._open.get(key), effect.conflict
        follows = own and known is not None and effect.change.base < known.conflict.seq
        if own and (conflict is not None or follows) and asks(effect.change):
            if conflict is not None:
                base = known.base if known is not None and follows else effect.base
                theirs = effect.before and effect.before.value
                self._open[key] = Unresolved(conflict, _brought(effect, conflict), theirs, base, after)
            elif known is not None:  # Our write before it stood, and it stands now.
                self._open[key] = known._replace(mine=after.value, register=after)
        elif known is not None and after != known.register:
            del self._open[key]

    def take(self, fold: Fold) -> list[Unresolved]:
        """Those that a function can be asked about now. A pending write of ours to the key is waited for."""
        pending = {each.key for each in (fold.awaiting or {}).values()}
        ready = [key for key in self._open if key not in pending]
        return [self._open.pop(key) for key in ready]

    def forget(self) -> None:
        """The session is read from the beginning again."""
        self._open.clear()


def _brought(effect: Effect, conflict: Conflict) -> bytes | None:
    return None if effect.change.kind == DELETE else jsonvalue.encode(conflict.incoming)
