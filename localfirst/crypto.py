"""Keys, and sealing with them: AES-256-GCM, every body under a key of its own.

The keys of a session follow from a key of the ring by HKDF (RFC 5869). From them follow the key of a body, by what it
is (its context), and the nonce, by what it is and holds. So a nonce meets a key again only where the same is sealed
again, and then the result is the same, too. Replication needs that: copies of a directory that rename a change alike
send the same bytes.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from localfirst.errors import ConfigurationError, DecryptionError, of_session

KEY_BYTES: Final = 32
LEAST_PASSPHRASE: Final = 8
"""Characters."""
SEALED: Final = b"\x01"
"""How sealed bytes begin: with the version of all that is here. JSON never does."""
OVERHEAD: Final = 1 + 4 + 12 + 16
"""How much longer sealed bytes are: version, id of the key, nonce, tag."""

_SCRYPT: Final = partial(hashlib.scrypt, n=1 << 15, r=8, p=3, maxmem=1 << 26, dklen=KEY_BYTES)
"""A quarter of a second of a server's core, and 32 MB. Others would need another version."""
_HEADER: Final = 1 + 4
_NONCE: Final = 12
_BASE64: Final = re.compile(rb"[A-Za-z0-9_-]{43}=")

Key = str | bytes


class KeyRing:
    """The keys of a store: what is written is sealed with the first; what was sealed with any of them can be read.

    A key is 32 bytes, or the same in URL-safe base64 (as Fernet has it), or a passphrase of at least 8 characters,
    which is as weak as it can be guessed, and takes a quarter of a second when the store is opened. `sessions`: keys of
    single sessions, which are sealed with no others: without them, such a session is unreadable for good, whatever
    copies of it there are. `plain`: take from the central store also what was written without a key. Raises
    `ConfigurationError` for what is no key.

    >>> KeyRing([bytes(32), "an older passphrase"], sessions={"user-7": KeyRing.generate()})
    KeyRing(2 keys, 1 session has others)
    """

    def __init__(
        self,
        keys: Key | Sequence[Key],
        *,
        sessions: Mapping[str, Key | Sequence[Key]] | None = None,
        plain: bool = False,
    ) -> None:
        self.plain = plain
        self._keys = _secrets(keys)
        self._sessions = {session_id: _secrets(own) for session_id, own in (sessions or {}).items()}

    def __repr__(self) -> str:
        count, own = len(self._keys), len(self._sessions)
        others = f", {own} session{'s have' if own > 1 else ' has'} others" if own else ""
        return f"KeyRing({count} key{'s' if count > 1 else ''}{others})"

    @staticmethod
    def generate() -> str:
        """A new random key, in URL-safe base64.

        >>> len(KeyRing.generate())
        44
        """
        return base64.urlsafe_b64encode(AESGCM.generate_key(8 * KEY_BYTES)).decode()

    def masters(self, namespace: str) -> Masters:
        """The keys themselves. A passphrase makes another in each namespace; that takes its time."""
        return Masters(
            [secret.master(namespace) for secret in self._keys],
            {name: [secret.master(namespace) for secret in own] for name, own in self._sessions.items()},
        )


class Masters(NamedTuple):
    """The keys from which those of the sessions of a namespace follow, the newest first."""

    keys: Sequence[bytes]
    sessions: Mapping[str, Sequence[bytes]]

    def __repr__(self) -> str:
        return f"Masters({len(self.keys)}, {len(self.sessions)})"

    def of(self, namespace: str, session_id: str) -> SessionKeys:
        """The keys of a session."""
        return SessionKeys(
            session_id, [_derived(each, namespace, session_id) for each in self.sessions.get(session_id, self.keys)]
        )


class _Derived(NamedTuple):
    key_id: bytes
    bodies: bytes
    """From it follow the keys of bodies."""
    nonces: bytes


class SessionKeys:
    """Seals and opens what is of one session.

    >>> keys = KeyRing(bytes(32)).masters("default").of("default", "user-123")
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
        nonce = hmac.digest(nonces, len(context).to_bytes(4, "big") + context + body, "sha256")[:_NONCE]
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

    def has(self, key_id: bytes) -> bool:
        """Whether a key is in the ring, by its id."""
        return key_id in self._keys

    def is_newest(self, sealed: bytes) -> bool:
        """Whether something is sealed with the newest key."""
        return sealed[:_HEADER] == SEALED + self._newest.key_id


def key_of(sealed: bytes) -> bytes:
    """The id of the key of a sealed body."""
    return sealed[len(SEALED) : _HEADER]


def missing_key(session_id: str, key_id: bytes) -> DecryptionError:
    """What to tell who lacks a key."""
    return DecryptionError(
        of_session(
            session_id,
            f"it is sealed with key {key_id.hex()}, which is not here: open the store with it"
            " (encryption_key=); until then, the session is neither read nor written",
        ),
        key_id.hex(),
    )


def _cipher(bodies: bytes, context: bytes) -> AESGCM:
    return AESGCM(hmac.digest(bodies, context, "sha256"))


def _derived(master: bytes, namespace: str, session_id: str) -> _Derived:
    """The id of the key is the same in all sessions."""
    info = b"localfirst\0" + namespace.encode() + b"\0" + session_id.encode()
    both = HKDF(SHA256(), 2 * KEY_BYTES, salt=None, info=info).derive(master)
    key_id = hmac.digest(master, b"localfirst key id", "sha256")[:4]
    return _Derived(key_id, both[:KEY_BYTES], both[KEY_BYTES:])


class _Secret(NamedTuple):
    value: bytes
    is_passphrase: bool

    def master(self, namespace: str) -> bytes:
        if not self.is_passphrase:
            return self.value
        salt = hashlib.sha256(b"localfirst\0" + namespace.encode()).digest()  # The same for all who share a session.
        return bytes(_SCRYPT(self.value, salt=salt))

    def __repr__(self) -> str:
        return "_Secret(...)"


def _secrets(keys: Key | Sequence[Key]) -> list[_Secret]:
    found = [_secret(key) for key in ([keys] if isinstance(keys, (str, bytes)) else keys)]
    if not found:
        raise ConfigurationError("a key ring needs a key: KeyRing.generate() makes one")
    if len(set(found)) < len(found):
        raise ConfigurationError("a key is twice in the key ring")
    return found


def _secret(key: object) -> _Secret:
    if not isinstance(key, (str, bytes)):
        raise ConfigurationError(f"an encryption key is a string or bytes, not {type(key).__name__}")
    data = key.encode() if isinstance(key, str) else key
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return _Secret(key, False)
    if _BASE64.fullmatch(data):
        return _Secret(base64.urlsafe_b64decode(data), False)
    if isinstance(key, bytes):
        raise ConfigurationError(
            f"an encryption key of bytes has {KEY_BYTES} of them, or is 44 of URL-safe base64; this has {len(key)}"
        )
    if len(key) < LEAST_PASSPHRASE:
        raise ConfigurationError(f"a passphrase has at least {LEAST_PASSPHRASE} characters, this has {len(key)}")
    return _Secret(data, True)
