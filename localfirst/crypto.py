"""Keys, and sealing with them: AES-256-GCM, every body under a key of its own.

The keys of a session follow from a key of the ring by HKDF (RFC 5869). From them follow the key of a body, by what it
is (its context), and the nonce, by what it is and holds. So a nonce meets a key again only where the same is sealed
again, and then the result is the same, too. Replication needs that: copies of a directory that rename a change alike
send the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from localfirst.errors import DecryptionError, of_session
from localfirst.keys import ID_BYTES, KEY_BYTES, SEALED, Masters, key_of, missing_key

_HEADER: Final = len(SEALED) + ID_BYTES
_NONCE: Final = 12


class _Derived(NamedTuple):
    key_id: bytes
    bodies: bytes
    """From it follow the keys of bodies."""
    nonces: bytes

    def __repr__(self) -> str:
        return f"_Derived({self.key_id.hex()})"


class SessionKeys:
    """Seals and opens what is of one session.

    >>> from localfirst.keys import KeyRing
    >>> keys = session_keys(KeyRing(bytes(32)).masters("default"), "default", "user-123")
    >>> keys.open(b"what it is", keys.seal(b"what it is", b"what it holds"))
    b'what it holds'
    """

    def __init__(self, session_id: str, keys: Sequence[_Derived]) -> None:
        self._session_id = session_id
        self._newest = keys[0]
        self._keys = {each.key_id: each for each in keys}

    def __repr__(self) -> str:
        return f"SessionKeys({self._session_id!r})"

    def seal(self, context: bytes, body: bytes) -> bytes:
        """A body, sealed with the newest key. It can be opened only as what it is: with the same context."""
        key_id, bodies, nonces = self._newest
        header = SEALED + key_id
        nonce = _hash(nonces, len(context).to_bytes(4, "big") + context + body)[:_NONCE]
        return header + nonce + _cipher(bodies, context).encrypt(nonce, body, header + context)

    def open(self, context: bytes, sealed: bytes) -> bytes:
        """What is in a sealed body. Raises `DecryptionError`."""
        header, nonce = sealed[:_HEADER], sealed[_HEADER : _HEADER + _NONCE]
        key = self._key(sealed)
        try:
            return _cipher(key.bodies, context).decrypt(nonce, sealed[_HEADER + _NONCE :], header + context)
        except (InvalidTag, ValueError):
            raise DecryptionError(
                of_session(
                    self._session_id,
                    f"what is sealed with key {key.key_id.hex()} was altered, or is not where it was written",
                )
            ) from None

    def _key(self, sealed: bytes) -> _Derived:
        if sealed[:1] != SEALED:
            raise DecryptionError(of_session(self._session_id, "it was sealed by a newer localfirst: upgrade this one"))
        key_id = key_of(sealed)
        if key_id not in self._keys:
            raise missing_key(self._session_id, key_id)
        return self._keys[key_id]

    @property
    def ids(self) -> str:
        """Of the keys, the newest first."""
        return " ".join(each.hex() for each in self._keys)

    def has(self, key_id: bytes) -> bool:
        """Whether a key is in the ring, by its id."""
        return key_id in self._keys

    def is_newest(self, sealed: bytes) -> bool:
        """Whether something is sealed with the newest key."""
        return sealed[:_HEADER] == SEALED + self._newest.key_id


def session_keys(masters: Masters, namespace: str, session_id: str) -> SessionKeys:
    """The keys of a session, which follow from those of its namespace."""
    keys = masters.sessions.get(session_id, masters.keys)
    return SessionKeys(session_id, [_derived(each, namespace, session_id) for each in keys])


def _cipher(bodies: bytes, context: bytes) -> AESGCM:
    return AESGCM(_hash(bodies, context))


def _hash(key: bytes, data: bytes) -> bytes:
    """Keyed, 32 bytes (RFC 7693); twice as fast as an HMAC."""
    return blake2b(data, key=key, digest_size=KEY_BYTES).digest()


def _derived(master: bytes, namespace: str, session_id: str) -> _Derived:
    """The id of the key is the same in all sessions."""
    info = b"localfirst\0" + namespace.encode() + b"\0" + session_id.encode()
    both = HKDF(SHA256(), 2 * KEY_BYTES, salt=None, info=info).derive(master)
    key_id = _hash(master, b"localfirst key id")[:ID_BYTES]
    return _Derived(key_id, both[:KEY_BYTES], both[KEY_BYTES:])
