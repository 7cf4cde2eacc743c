"""The rows of a directory that is a central store: what they hold, and their keys."""

from __future__ import annotations

from hashlib import blake2b
from typing import Final

import msgspec

from localfirst.change import EMPTY_DIGEST, check_session_id
from localfirst.clock import wall_ms
from sync.central.base import Ended, Head

STORE: Final = b"store"
_HEAD: Final = b"h"
_ENTRY: Final = b"l"
_CHECKPOINT: Final = b"k"
_END: Final = b"e"


class StoreRow(msgspec.Struct, array_like=True):
    """Which store this is, key `store`."""

    format: int
    store_id: str


class Session(msgspec.Struct, array_like=True):
    """The head row of a session, key `h <namespace> <session id>`."""

    generation: str
    seq: int = 0
    digest: int = EMPTY_DIGEST
    admitted_at: int = 0
    acked: dict[str, int] = {}
    floor: int = 0
    floor_digest: int = EMPTY_DIGEST
    """Of the log up to `floor`, for which the checkpoint stands: key `k <namespace and session>`."""
    ttl: int = 0
    expires_at: int = 0

    def has_expired(self, now: int) -> bool:
        """Whether its time has come."""
        return 0 < self.expires_at <= now

    def renew(self) -> None:
        """Something is admitted now."""
        self.admitted_at = max(wall_ms(), self.admitted_at)
        self.expires_at = self.admitted_at + self.ttl if self.ttl else 0

    @property
    def head(self) -> Head:
        """Where its log ends."""
        return Head(self.generation, self.seq, self.digest)


class Entry(msgspec.Struct, array_like=True):
    """A row of a log, key `l <namespace and session> <seq>`."""

    admitted_at: int
    digest: int
    """Of the log up to this entry."""
    data: bytes


class End(msgspec.Struct, array_like=True):
    """How a life ended, key `e <namespace and session> <generation>`."""

    how: Ended
    forget_at: int


encode = msgspec.msgpack.Encoder().encode
decode_store = msgspec.msgpack.Decoder(StoreRow).decode
decode_session = msgspec.msgpack.Decoder(Session).decode
decode_entry = msgspec.msgpack.Decoder(Entry).decode
decode_end = msgspec.msgpack.Decoder(End).decode


class Keys:
    """The keys of the rows of one namespace."""

    def __init__(self, namespace: str) -> None:
        self._namespace = blake2b(namespace.encode(), digest_size=16).digest()
        self.heads = _HEAD + self._namespace
        """With what those of heads begin."""
        self.ends = _END + self._namespace
        """With what those of ended lives begin."""

    def head(self, session_id: str) -> bytes:
        """Of the head of a session."""
        return self.heads + check_session_id(session_id).encode()

    def checkpoint(self, session_id: str) -> bytes:
        """Of what stands for the log up to the floor."""
        return _CHECKPOINT + self._hash(session_id)

    def entry(self, session_id: str, seq: int) -> bytes:
        """Of an entry of a log."""
        return _ENTRY + self._hash(session_id) + seq.to_bytes(8, "big")

    def end(self, session_id: str, generation: str) -> bytes:
        """Of how a life ended."""
        return self.ends + self._hash(session_id) + generation.encode()

    def _hash(self, session_id: str) -> bytes:
        return blake2b(self._namespace + session_id.encode(), digest_size=16).digest()
