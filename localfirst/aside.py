"""Quarantine: sessions that can't be synced in one direction, why, and what somebody says of it. Rows on disk."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from localfirst.errors import ConfigurationError, of_session
from localfirst.records import ASIDE, KEY_BYTES, VOID, Aside, Direction, SessionKey, span
from localfirst.rows import Rows

_encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(Aside)


class Quarantine:
    """The quarantine of one directory."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def put(self, key: SessionKey, aside: Aside) -> None:
        """Stop a session in one direction."""
        self._rows.put(_row(key, aside.direction), _encode(aside))

    def put_all(self, asides: Mapping[tuple[SessionKey, Direction], Aside]) -> None:
        """Stop several at once."""
        with self._rows.transaction():
            for (key, _), aside in asides.items():
                self.put(key, aside)

    def get(self, key: SessionKey, direction: Direction) -> Aside | None:
        """Why a session stopped in one direction; None if it did not."""
        value = self._rows.get(_row(key, direction))
        return None if value is None else self._decode(value)

    def all(self, namespace: str) -> dict[tuple[SessionKey, Direction], Aside]:
        """What of a namespace is stopped, or goes on by consent."""
        found = {row_key: self._decode(value) for row_key, value in self._rows.range(*span(ASIDE))}
        return {
            (row_key[1 : 1 + KEY_BYTES], aside.direction): aside
            for row_key, aside in found.items()
            if aside.namespace == namespace
        }

    def release(self, key: SessionKey, direction: Direction) -> None:
        """Let a session go on."""
        row_key = _row(key, direction)
        with self._rows.transaction():
            self._rows.delete_range(row_key, row_key + b"\0")

    def heal(self, key: SessionKey) -> None:
        """The whole log of a session was read anew, and taken: nothing is wrong with it any more."""
        for aside in self._of(key):
            if aside.direction == "pull" or aside.lost or not aside.count:
                self.release(key, aside.direction)

    def retry(self, key: SessionKey) -> bool:
        """Let a session be tried again in both directions. False: it was not stopped."""
        found = [aside for aside in self._of(key) if not aside.consent]
        self.put_all(
            {(key, each.direction): msgspec.structs.replace(each, consent=True) for each in found if each.lost}
        )
        for aside in found:
            if not aside.lost:
                self.release(key, aside.direction)
        return bool(found)

    def skip(self, key: SessionKey, aside: Aside) -> None:
        """Give up the change in the central log that can't be read."""
        if aside.is_hopeless:
            raise ConfigurationError(
                f"{of_session(aside.session_id, aside.reason)}; this can't be given up, only repaired: give the key"
                " if one is missing; if the central log is damaged, delete the session there and retry, then what is"
                " here is sent again"
            )
        self._rows.put(VOID + key + aside.mark.encode(), b"")
        self.release(key, aside.direction)

    def skipped(self, key: SessionKey) -> frozenset[str]:
        """The changes that were given up, by their `localfirst.checkpoint.hash_of`."""
        prefix = VOID + key
        return frozenset(row_key[len(prefix) :].decode() for row_key in self._rows.keys(*span(prefix)))

    def _of(self, key: SessionKey) -> list[Aside]:
        both = (self.get(key, "push"), self.get(key, "pull"))
        return [aside for aside in both if aside is not None]

    def _decode(self, value: bytes) -> Aside:
        try:
            return _decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._rows.damaged(f"holds a note that can't be decoded ({error})") from error


def _row(key: SessionKey, direction: Direction) -> bytes:
    return ASIDE + key + direction.encode()
