"""Whose a session is: its metadata key "owner", which a `Session` that was given one sets with its first write."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from localfirst import plans
from localfirst.change import PUT
from localfirst.errors import ConfigurationError
from localfirst.fold import Fold
from localfirst.metadata import Rule, encode_put
from localfirst.view import Plan, Step

OWNER: Final = "owner"
"""The key. It replicates, merges and is exported as any other."""


def checked_owner(owner: object) -> str:
    """The owner, or `ConfigurationError`."""
    if isinstance(owner, str):
        return owner
    raise ConfigurationError(
        f"an owner is a string, not {type(owner).__name__}: pass an id of the user; delete({OWNER!r}) leaves a session"
        " without one"
    )


def as_owner(value: Any) -> str | None:
    """The owner that the value of the key names; None if it is not set, or set to something else than a string."""
    return value if isinstance(value, str) else None


class Claim:
    """Of one `Session` object: sets the owner with the first write, and later where a write finds none.

    So an owner that somebody sets afterwards stays. Where none is found, a rule is used by which one that is only not
    known here stays, too.
    """

    def __init__(self, owner: str, rule: Rule, told: Callable[[], None], *, made: bool = False) -> None:
        self._value = plans.encode_value(OWNER, owner)
        self._rule: Rule = rule
        self._told = told
        self._made = made

    def on(self, plan: Plan, then: Callable[[], None]) -> tuple[Plan, Callable[[], None]]:
        """A plan that makes it too, and what to call when it was carried out: tells of it, then calls `then`."""
        planned: Sequence[Step] = ()
        due = False

        def both(fold: Fold) -> Sequence[Step]:
            nonlocal planned, due
            planned, due = plan(fold), self._is_due(fold)
            return [self._step(), *planned] if planned and due else planned

        def tell() -> None:
            if planned:
                self._made = True
                if due:
                    self._told()
            then()

        return both, tell

    def _is_due(self, fold: Fold) -> bool:
        standing = plans.value_of(fold, OWNER)
        return standing is None or (not self._made and standing != self._value)

    def _step(self) -> Step:
        return PUT, encode_put(OWNER, "first" if self._made else self._rule, self._value)
