"""`resolvers=` of `localfirst.open`: by which rule, or which function of the user's, writes to a key are merged."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Final

from localfirst.errors import ConfigurationError
from localfirst.metadata import RULES, Rule

Function = Callable[[str, Any, Any, Any], Any]
"""Given key, mine, theirs and base, tells the value; None stands for a key that is not set, in all of them."""
Resolver = Rule | Function

_LAST: Final[tuple[Rule, bool]] = ("last", False)
_ASK: Final[tuple[Rule, bool]] = ("last", True)


class Resolvers:
    """By key, or by glob: a key's own entry comes before globs, and these count in their order.

    Raises `ConfigurationError` for what is no rule and no function.

    >>> resolvers = Resolvers({"tags.*": "union", "*": "max", "tags.main": "first"})
    >>> [resolvers.rule(key)[0] for key in ("tags.main", "tags.other", "size")]
    ['first', 'union', 'max']
    """

    def __init__(self, given: Mapping[str, Resolver] | None = None) -> None:
        self._exact = dict({} if given is None else _checked(given))
        self._globs = [(key, each) for key, each in self._exact.items() if any(sign in key for sign in "*?[")]
        self.has_functions = any(callable(each) for each in self._exact.values())

    def rule(self, key: str) -> tuple[Rule, bool]:
        """The rule by which a write to a key travels, and whether a function is to be asked on a conflict."""
        found = self._find(key) if self._exact else None
        if found is None:
            return _LAST
        return _ASK if callable(found) else (found, False)

    def function(self, key: str) -> Function | None:
        """The function for a key; None if it has none."""
        found = self._find(key)
        return found if callable(found) else None

    def _find(self, key: str) -> Resolver | None:
        if key in self._exact:
            return self._exact[key]
        return next((each for glob, each in self._globs if fnmatchcase(key, glob)), None)


def _checked(given: Mapping[str, Resolver]) -> Mapping[str, Resolver]:
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"resolvers is a dict of keys or globs, not a {type(given).__name__}")
    for key, resolver in given.items():
        if not isinstance(key, str):
            raise ConfigurationError(f"resolvers names keys by strings, not by {type(key).__name__}: {key!r:.60}")
        if callable(resolver):
            _check_function(key, resolver)
        elif resolver not in RULES:
            raise ConfigurationError(
                f"the resolver of {key!r} is {resolver!r:.60}: take a function, or one of {', '.join(RULES)}"
            )
    return given


def _check_function(key: str, function: Function) -> None:
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError(f"the resolver of {key!r} is a coroutine function: take a plain one")
    try:
        inspect.signature(function).bind(key, None, None, None)
    except TypeError:
        raise ConfigurationError(
            f"the resolver of {key!r} can't be called with (key, mine, theirs, base): let it take these four"
        ) from None
    except ValueError:
        pass  # One of Python's own, that does not tell what it takes.
