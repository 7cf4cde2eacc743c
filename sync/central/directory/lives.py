"""Which sessions a directory has, and how the lives ended that it had: they expired, or were deleted."""

from __future__ import annotations

from typing import Final

from localfirst.clock import wall_ms
from localfirst.rows import Rows
from sync.central.base import KEEP_ENDED, Ended, Ending
from sync.central.directory.rows import End, Keys, Session, decode_end, decode_session, encode

_SWEEP_ROWS: Final = 1000
_LAST: Final = (1 << 63) - 1
"""No seq is greater."""


class Lives:
    """Those of one namespace."""

    def __init__(self, rows: Rows, keys: Keys) -> None:
        self._rows = rows
        self._keys = keys

    def session(self, session_id: str) -> Session | None:
        """A session that is there."""
        found = self._kept(self._keys.head(session_id))
        return None if found is None or found.has_expired(wall_ms()) else found

    def _kept(self, key: bytes) -> Session | None:
        """A session of which there are rows, though it may have expired."""
        value = self._rows.get(key)
        return None if value is None else decode_session(value)

    def ended(self, session_id: str, generation: str | None, session: Session | None) -> Ended | None:
        """What became of a life that is not the session's."""
        if generation is None or (session and session.generation == generation):
            return None
        value = self._rows.get(self._keys.end(session_id, generation))
        if value is not None:
            end = decode_end(value)
            return end.how if end.forget_at > wall_ms() else None
        found = self._kept(self._keys.head(session_id))
        return "expired" if found is not None and session is None and found.generation == generation else None

    def sessions(self, after: str, limit: int) -> list[str]:
        """The ids of some that are there, in order."""
        prefix = self._keys.heads
        found: list[str] = []
        last = prefix + after.encode() + b"\0"
        while len(found) < limit and (rows := self._rows.range(last, prefix + b"\xff", limit)):
            now = wall_ms()
            found += [
                row_key[len(prefix) :].decode() for row_key, value in rows if not decode_session(value).has_expired(now)
            ]
            last = rows[-1][0] + b"\0"
        return found[: max(0, limit)]

    def delete(self, ending: Ending, forget_at: int) -> None:
        """Delete a session, to the last byte, and remember that until a time."""
        with self._rows.transaction():
            found = self._kept(self._keys.head(ending.session_id))
            if ending.generation is not None:
                self._note(ending.session_id, ending.generation, End("deleted", forget_at))
            if found is not None and ending.generation in (None, found.generation):
                self.clear(ending.session_id)
                self._note(ending.session_id, found.generation, End("deleted", forget_at))
        self._rows.scrub()

    def expired(self, after: bytes = b"") -> tuple[list[str], bytes] | None:
        """Which sessions of the next page of heads expired, and where the page after begins; None at the end."""
        prefix, now = self._keys.heads, wall_ms()
        rows = self._rows.range(after or prefix, prefix + b"\xff", _SWEEP_ROWS)
        if not rows:
            return None
        expired = [row_key for row_key, value in rows if decode_session(value).has_expired(now)]
        return [row_key[len(prefix) :].decode() for row_key in expired], rows[-1][0] + b"\0"

    def sweep(self, session_id: str) -> None:
        """Remove what is left of a session, unless it was begun anew."""
        with self._rows.transaction():
            if self.session(session_id) is None:
                self.clear(session_id)

    def forget(self) -> None:
        """Remove what need not be remembered any more."""
        prefix = self._keys.ends
        with self._rows.transaction():
            for row_key, value in self._rows.range(prefix, prefix + b"\xff" * 64):
                if decode_end(value).forget_at <= wall_ms():
                    self._rows.delete_range(row_key, row_key + b"\0")

    def clear(self, session_id: str) -> None:
        """Remove all rows of a session; how it ended, if it expired, is noted."""
        key = self._keys.head(session_id)
        found = self._kept(key)
        if found is not None and found.has_expired(wall_ms()):
            self._note(session_id, found.generation, End("expired", found.expires_at + KEEP_ENDED))
        self.drop(session_id, _LAST)
        for row_key in (key, self._keys.checkpoint(session_id)):
            self._rows.delete_range(row_key, row_key + b"\0")

    def _note(self, session_id: str, generation: str, end: End) -> None:
        self._rows.put(self._keys.end(session_id, generation), encode(end))

    def drop(self, session_id: str, last: int) -> None:
        """Delete the entries of a log up to a seq."""
        bounds = self._keys.entry(session_id, 0), self._keys.entry(session_id, last + 1)
        if self._rows.has_more(*bounds, 0):
            self._rows.delete_range(*bounds)
