"""Sealing anew with the newest key, in a directory that was never with a central store: there, nobody has a copy."""

from __future__ import annotations

from typing import Final

from localfirst.log import Log
from localfirst.records import CHANGE, SessionKey, span

_ROWS: Final = 100
"""In a transaction."""


def seal_anew(log: Log, key: SessionKey, session_id: str) -> None:
    """Seal the changes of a session anew, in small transactions. Raises `DecryptionError`, and has done some then."""
    codec, lower, upper = log.codec(session_id), *span(CHANGE + key)
    while True:
        with log.rows.transaction():
            found = log.rows.range(lower, upper, _ROWS)
            for row_key, data in found:
                if data and not codec.is_newest(data):
                    log.rows.put(row_key, codec.encode(codec.decode(data)))
        if len(found) < _ROWS:
            return
        lower = found[-1][0] + b"\0"
