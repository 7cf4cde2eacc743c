"""Sealing with the newest key what older ones sealed, in a directory that was never with a central store.

There, nobody has a copy of what is pending, and it can be written over.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from localfirst.codec import Codec
from localfirst.errors import ConfigurationError, DecryptionError, MalformedChange, StoreCorrupt
from localfirst.local import Local
from localfirst.log import Log
from localfirst.records import CHANGE, SessionKey, span
from localfirst.rotation import Rotation
from localfirst.rows import Rows, patiently

_ROWS: Final = 100
"""In a transaction."""


def seal_here_anew(local: Local, namespace: str, rotation: Rotation) -> None:
    """Seal all sessions of a directory anew, that was never with a central store. Raises `ConfigurationError`."""
    if patiently(partial(local.identity.followed, namespace)) is not None:
        raise ConfigurationError(
            "this directory follows a central store, where everything is to be sealed anew, too: open it with remote="
        )
    known = list(local.sessions(""))
    for key, session_id in known:
        left = ""
        try:
            _seal_anew(local.log, key, session_id)
        except (DecryptionError, MalformedChange, StoreCorrupt) as error:
            left = str(error)
        rotation.note(key, session_id, left, len(known))
    local.log.must_scrub()
    local.scrub(patience=1.0)


def _seal_anew(log: Log, key: SessionKey, session_id: str) -> None:
    """The changes of a session."""
    codec, (start, end) = log.codec(session_id), span(CHANGE + key)
    while following := patiently(partial(_seal_some, log.rows, codec, start, end)):
        start = following


def _seal_some(rows: Rows, codec: Codec, start: bytes, end: bytes) -> bytes:
    """In one small transaction. Returns where the next begins; empty: there is none."""
    with rows.transaction():
        found = rows.range(start, end, _ROWS)
        for row_key, data in found:
            if data and not codec.is_newest(data):
                rows.put(row_key, codec.encode(codec.decode(data)))
    return found[-1][0] + b"\0" if len(found) == _ROWS else b""
