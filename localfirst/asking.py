"""Functions of `resolvers=` are asked about conflicts that writes of this replica met, and what they say is put.

Never under a lock. What is said is put only if nobody wrote the key since, so that of several processes on a directory
one does it. When a function fails, what rule `last` chose is put in its place: either way the conflict is resolved.
"""

from __future__ import annotations

import logging
from typing import Any, NamedTuple

from localfirst import jsonvalue, plans
from localfirst.change import DELETE, PUT
from localfirst.errors import LocalFirstError
from localfirst.local import Local
from localfirst.metadata import Conflict, encode_delete, encode_put
from localfirst.records import SessionKey
from localfirst.resolvers import Function
from localfirst.unresolved import Unresolved
from localfirst.view import Step

_logger = logging.getLogger("localfirst")


class Resolution(NamedTuple):
    """What became of a conflict."""

    conflict: Conflict
    value: Any
    """Of its key now; None: deleted."""
    changed: bool
    """Whether it was another before."""


def resolve_conflicts(local: Local, key: SessionKey, session_id: str) -> list[Resolution]:
    """Ask about all that is unresolved in a session. What somebody has written over meanwhile is not told."""
    resolutions = []
    for each in local.unresolved(key, session_id):
        function = local.resolvers.function(each.conflict.key)
        if function is not None:
            resolution = _resolve(local, key, session_id, each, function)
            resolutions += [resolution] if resolution else []
    return resolutions


def _resolve(local: Local, key: SessionKey, session_id: str, each: Unresolved, function: Function) -> Resolution | None:
    value, problem = _ask(local, session_id, each, function)
    conflict = each.conflict._replace(problem=problem)
    step = plans.Replace(conflict.key, each.register, _step(conflict.key, value))
    try:
        local.write(key, session_id, step, fresh=True)
    except LocalFirstError as error:
        named = _named(local, session_id, conflict.key)
        _logger.exception("session %r: what the resolver of %s said can't be put", session_id, named)
        return Resolution(conflict._replace(problem=problem or str(error)), _value(each.register.value), changed=False)
    return Resolution(conflict, _value(value), changed=value != each.register.value) if step.done else None


def _ask(local: Local, session_id: str, each: Unresolved, function: Function) -> tuple[bytes | None, str]:
    """What the function says, as JSON; or what rule `last` chose, and the problem that the function had."""
    key = each.conflict.key
    try:
        said = function(key, _value(each.mine), _value(each.theirs), _value(each.base))
        return None if said is None else plans.encode_value(key, said), ""
    except BaseException as error:  # As of a callback: an exit that it asks for can't be had in this thread.
        named = _named(local, session_id, key)
        _logger.exception("session %r: the resolver of %s failed; the later write stands", session_id, named)
        return each.register.value, f"{type(error).__name__}: {error}"


def _named(local: Local, session_id: str, key: str) -> str:
    """A key, for the log: not one that is sealed."""
    return "a key" if local.log.codec(session_id).seals else repr(key)


def _step(key: str, value: bytes | None) -> Step:
    """A write like others: should it meet a conflict in its turn, the function is asked again."""
    if value is None:
        return DELETE, encode_delete(key, ask=True)
    return PUT, encode_put(key, "last", value, ask=True)


def _value(data: bytes | None) -> Any:
    return None if data is None else jsonvalue.decode(data)
