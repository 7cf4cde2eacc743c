"""What waits for the central store: found without a look at what was settled long ago."""

from __future__ import annotations

from collections.abc import Iterable

from localfirst.log import Log
from localfirst.records import (
    CHANGE,
    HEAD,
    KEY_BYTES,
    SETTLED,
    Backlog,
    Head,
    SessionKey,
    Touched,
    number,
    span,
)


def touched_since(log: Log, rowid: int, namespace: str) -> tuple[Touched, int]:
    """What any process did in a namespace after a row; and the last row now."""
    prefixes, last = _prefixes_since(log, rowid, CHANGE, HEAD)
    written = _of(log, (prefix[1:] for prefix in prefixes if prefix[:1] == CHANGE), namespace)
    asked = _of(log, (prefix[1:] for prefix in prefixes if prefix[:1] == HEAD), namespace)
    return Touched(set(written), {key for key, head in asked.items() if head.generation is None}), last


def waiting(log: Log, namespace: str) -> set[SessionKey]:
    """The sessions of a namespace of which something waits for the central store."""
    heads = _of(log, _unsettled(log), namespace)
    return {key for key, head in heads.items() if head.ending or log.last_slot(key) > head.acked}


def backlog(log: Log, namespace: str) -> dict[SessionKey, Backlog]:
    """What of a namespace waits for the central store, by session. A deletion counts as a change."""
    heads = _of(log, _unsettled(log), namespace)
    sent = {key: max(head.acked, head.sent) - bool(head.ending) for key, head in heads.items()}
    found = {key: Backlog(*log.rows.measure(*span(CHANGE + key, last))) for key, last in sent.items()}
    return {key: backlog for key, backlog in found.items() if backlog.changes}


def mark_settled(log: Log) -> bool:
    """Note that nothing waits, so that nobody need look at what is there now. False: something waits.

    The look may be long and holds no lock: what was admitted stays so, and rows that come meanwhile come later.
    """
    last = log.rows.last_row()
    for key in _unsettled(log):
        head = log.head(key)
        if head is None or head.ending or log.last_slot(key) > head.acked:
            return False
    log.rows.put(SETTLED, number(last))
    return True


def _unsettled(log: Log) -> Iterable[SessionKey]:
    """Sessions with changes of ours that were not seen settled yet."""
    settled = int.from_bytes(log.rows.get(SETTLED) or b"", "big")
    return [prefix[1:] for prefix in _prefixes_since(log, settled, CHANGE, CHANGE)[0]]


def _prefixes_since(log: Log, rowid: int, first: bytes, last: bytes) -> tuple[set[bytes], int]:
    """Kind and session of the rows of some kinds that were added after a row; and the last row now."""
    return log.rows.prefixes_since(rowid, first, bytes([last[0] + 1]), 1 + KEY_BYTES)


def _of(log: Log, keys: Iterable[SessionKey], namespace: str) -> dict[SessionKey, Head]:
    heads = {key: log.head(key) for key in keys}
    return {key: head for key, head in heads.items() if head is not None and head.namespace == namespace}
