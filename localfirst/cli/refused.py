"""What would be dropped if a session in quarantine were given up, told before it is done."""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from localfirst import jsonvalue
from localfirst.aside import Quarantine
from localfirst.change import APPEND, CLEAR, DELETE, END, INCREMENT, PUT, REMOVE, Change, decode_change
from localfirst.cli.output import count, one_line
from localfirst.cli.sessions import brief
from localfirst.errors import LocalFirstError
from localfirst.log import Log
from localfirst.records import Aside, SessionKey, session_key
from localfirst.rows import Rows

_SHOWN: Final = 10
_WIDTH: Final = 100


def what_is_dropped(path: Path, namespace: str, session_id: str) -> list[str]:
    """What `Store.discard` would give up, line by line: only looks."""
    key = session_key(namespace, session_id)
    with closing(Rows(path / "data")) as rows:
        asides = [aside for (each, _), aside in sorted(Quarantine(rows).all(namespace).items()) if each == key]
        stopped = [aside for aside in reversed(asides) if not aside.consent]
        return [line for aside in _distinct(stopped) for line in _lines(Log(rows), key, aside)]


def _distinct(asides: list[Aside]) -> Iterable[Aside]:
    """A session that was lost is stopped in both directions for one reason."""
    return asides[:1] if asides and asides[0].lost else asides


def _lines(log: Log, key: SessionKey, aside: Aside) -> list[str]:
    if aside.lost:
        return ["Everything of this session is dropped here: the central store has lost it."]
    if aside.direction == "push":
        return _refused(log, key, aside) if aside.count else []
    if not aside.mark:
        return []  # Of a log that is damaged as a whole, nothing can be given up.
    return [f"Change {aside.place} of the central log, which can't be read, is passed over here. It stays there."]


def _refused(log: Log, key: SessionKey, aside: Aside) -> list[str]:
    """The pending changes that the central store refuses."""
    head = log.head(key)
    acked = head.acked if head else 0
    after = max(aside.place - 1, acked)
    changes = log.run(key, after, max(0, aside.place + aside.count - 1 - after))
    waiting = max(0, log.last_slot(key) - acked)
    of = f" of {waiting} that wait" if waiting > len(changes) else ""
    told = [line for data in changes[:_SHOWN] for line in _told(data)]
    lines = [f"{count(len(changes), 'change')}{of} for the central store, which refuses it:"]
    lines += [f"  {line}" for line in told[:_SHOWN]]
    hidden = len(changes) > _SHOWN or len(told) > _SHOWN
    return [*lines, "  …"] if hidden else lines


def _told(data: bytes) -> list[str]:
    """What a change does, for people."""
    try:
        change = decode_change(data)
        return _said(change)
    except (LocalFirstError, ValueError, KeyError, TypeError):
        return [f"{len(data)} bytes that can't be read"]


def _said(change: Change) -> list[str]:
    body = jsonvalue.decode(change.body)
    if change.kind == APPEND:
        return ["add " + ": ".join(brief(item, _WIDTH)) for item in body]
    plainly = {REMOVE: "remove an item", CLEAR: "remove all items that were there", END: "end a turn"}
    return [plainly[change.kind] if change.kind in plainly else _on_key(change.kind, body)]


def _on_key(kind: str, body: dict[str, Any]) -> str:
    key = json.dumps(body["key"], ensure_ascii=False)
    if kind == DELETE:
        return f"delete {key}"
    if kind == INCREMENT:
        return f"add {body['by']} to {key}"
    if kind == PUT:
        return one_line(f"set {key} to {json.dumps(body['value'], ensure_ascii=False)}", _WIDTH)
    return f"a change of kind {kind!r}"
