"""Changes and checkpoints as they are on disk and on the wire: sealed, if there is a key, else plain.

Of a change its body is sealed, and bound to all else that it says, to its session and its namespace: it can't be
altered or moved. In memory everything is plain.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Final

import msgspec

from localfirst.change import Change, decode_change, encode_change
from localfirst.checkpoint import State, decode_state, encode_state
from localfirst.errors import DecryptionError, of_session
from localfirst.keys import SEALED, key_of, missing_key

if TYPE_CHECKING:
    from localfirst.crypto import SessionKeys
    from localfirst.keys import KeyRing

_CHECKPOINT: Final = b"checkpoint"
_CODECS: Final = 1024
"""Kept at hand."""


class Codec:
    """Of one session. Without keys, what is sealed can't be read. `plain`: what others did not seal is taken."""

    def __init__(self, session_id: str, keys: SessionKeys | None = None, *, plain: bool = True) -> None:
        self.keys = keys
        self._session_id = session_id
        self._plain = plain

    @property
    def seals(self) -> bool:
        """Whether there is a key."""
        return self.keys is not None

    @property
    def ring(self) -> str:
        """Which keys there are; others may open what these can't."""
        return "none" if self.keys is None else f"{self.keys.ids}{' or plain' if self._plain else ''}"

    def has(self, key_id: str) -> bool:
        """Whether a key is here, by its id."""
        return self.keys is not None and self.keys.has(bytes.fromhex(key_id))

    def can_open(self, data: bytes) -> bool:
        """Whether what a change (wire bytes) is sealed with is here, if it is sealed."""
        body = decode_change(data).body
        return body[:1] != SEALED or (self.keys is not None and self.keys.has(key_of(body)))

    def lacks(self, key_id: str) -> DecryptionError:
        """What to tell who lacks a key."""
        return missing_key(self._session_id, bytes.fromhex(key_id))

    def encode(self, change: Change) -> bytes:
        """Wire bytes of a change: the same for equal changes."""
        if self.keys is not None:
            return encode_change(msgspec.structs.replace(change, body=self.keys.seal(_context(change), change.body)))
        return encode_change(change)

    def decode(self, data: bytes) -> Change:
        """The change in wire bytes. Raises `MalformedChange`, and `DecryptionError` for what can't be opened."""
        return self.opened(decode_change(data))

    def opened(self, change: Change) -> Change:
        """The change, if it is plain; else what it is when it is opened."""
        if change.body[:1] != SEALED:
            return change
        return msgspec.structs.replace(change, body=self._open(_context(change), change.body))

    def check_sealed(self, change: Change) -> None:
        """Raise `DecryptionError` for a change that comes from elsewhere, and should be sealed."""
        if not self._plain and change.body[:1] != SEALED:
            raise self._not_sealed(f"change {change.counter} of replica {change.origin[:40]!r}")

    def encode_state(self, state: State) -> bytes:
        """A checkpoint: the same bytes for equal states."""
        data = encode_state(state)
        return data if self.keys is None else self.keys.seal(_CHECKPOINT, data)

    def decode_state(self, data: bytes) -> State:
        """The state in a checkpoint. Raises `MalformedChange` and `DecryptionError`."""
        return decode_state(self._open(_CHECKPOINT, data))

    def take_state(self, data: bytes) -> State:
        """As `decode_state`, of what comes from elsewhere."""
        if not self._plain and data[:1] != SEALED:
            raise self._not_sealed("its checkpoint in the central store")
        return self.decode_state(data)

    def is_newest(self, data: bytes) -> bool:
        """Whether a change (wire bytes) is sealed with the newest key."""
        return self.keys is None or self.keys.is_newest(decode_change(data).body)

    def is_newest_state(self, data: bytes) -> bool:
        """Whether a checkpoint is."""
        return self.keys is None or self.keys.is_newest(data)

    def same(self, one: bytes, other: bytes) -> bool:
        """Whether two changes (wire bytes) are one, by whichever keys they are sealed."""
        return one == other or self.decode(one) == self.decode(other)

    def _open(self, context: bytes, data: bytes) -> bytes:
        if data[:1] != SEALED:
            return data
        if self.keys is None:
            raise missing_key(self._session_id, key_of(data))
        return self.keys.open(context, data)

    def _not_sealed(self, what: str) -> DecryptionError:
        return DecryptionError(
            of_session(
                self._session_id,
                f"{what} is not sealed: whoever wrote it had no key; open the store there with the key and rotate, or"
                " this one with KeyRing(..., plain=True)",
            )
        )


def _context(change: Change) -> bytes:
    """All that a change says beside its body."""
    return encode_change(msgspec.structs.replace(change, body=b""))


class Vault:
    """The codecs of the sessions of a namespace."""

    def __init__(self, namespace: str = "", ring: KeyRing | None = None) -> None:
        self._namespace = namespace
        self._plain = ring is None or ring.plain
        self._masters = None if ring is None else ring.masters(namespace)
        self.codec = lru_cache(maxsize=_CODECS)(self._codec)
        """By session id."""

    def _codec(self, session_id: str) -> Codec:
        if self._masters is None:
            return Codec(session_id)
        from localfirst.crypto import session_keys  # Who has no key need not load what ciphers need.

        return Codec(session_id, session_keys(self._masters, self._namespace, session_id), plain=self._plain)
