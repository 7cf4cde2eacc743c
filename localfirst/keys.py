"""The keys of a store, as its user gives them."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple

from localfirst.errors import ConfigurationError, DecryptionError, of_session

KEY_BYTES: Final = 32
ID_BYTES: Final = 4
SEALED: Final = b"\x01"
"""How sealed bytes begin: with the version of all that `localfirst.crypto` does. JSON never does. The id of the key is
next."""
LEAST_PASSPHRASE: Final = 8
"""Characters."""

_SCRYPT: Final = partial(hashlib.scrypt, n=1 << 15, r=8, p=3, maxmem=1 << 26, dklen=KEY_BYTES)
"""A quarter of a second of a server's core, and 32 MB. Others would need another `SEALED`."""
_NEARLY: Final = re.compile(rb"[A-Za-z0-9_/+-]{43}=|^[A-Za-z0-9_/+-]{43}$")
"""Something else is around it, or it lacks its end."""
_BASE64: Final = re.compile(rb"[A-Za-z0-9_/+-]{43}=")

Key = str | bytes


class KeyRing:
    """The keys of a store: what is written is sealed with the first; what was sealed with any of them can be read.

    A key is 32 bytes, or the same in base64 (as Fernet and `openssl rand -base64 32` have it), or a passphrase of at
    least 8 characters, which is as weak as it can be guessed, and takes a quarter of a second when the store is opened.
    White space around the last two is no part of them.
    `sessions`: keys of single sessions, which are sealed with no others: without them, such a session is unreadable for
    good, whatever copies of it there are. `plain`: take from the central store also what was written without a key.
    Raises `ConfigurationError` for what is no key.

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
        return base64.urlsafe_b64encode(secrets.token_bytes(KEY_BYTES)).decode()

    def masters(self, namespace: str) -> Masters:
        """The keys themselves. A passphrase makes another in each namespace; that takes its time."""
        return Masters(
            [secret.master(namespace) for secret in self._keys],
            {name: [secret.master(namespace) for secret in own] for name, own in self._sessions.items()},
        )


def key_of(sealed: bytes) -> bytes:
    """The id of the key of a sealed body."""
    return sealed[len(SEALED) : len(SEALED) + ID_BYTES]


def missing_key(session_id: str, key_id: bytes) -> DecryptionError:
    """What to tell who lacks a key."""
    return DecryptionError(
        of_session(
            session_id,
            f"it is sealed with key {key_id.hex()}, which is not here: open the store with it"
            " (encryption_key=, or localfirst --key-file); until then, it stays as it is",
        ),
        key_id.hex(),
    )


def key_ring(key: Key | KeyRing | None) -> KeyRing | None:
    """What `encryption_key` stands for."""
    return key if isinstance(key, (KeyRing, type(None))) else KeyRing(key)


class Masters(NamedTuple):
    """The keys from which those of the sessions of a namespace follow, the newest first."""

    keys: Sequence[bytes]
    sessions: Mapping[str, Sequence[bytes]]

    def __repr__(self) -> str:
        return f"Masters({len(self.keys)}, {len(self.sessions)})"


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
    if not isinstance(keys, (str, bytes, Sequence)):
        raise ConfigurationError(f"an encryption key is a string or bytes, not {type(keys).__name__}")
    found = [_secret(key) for key in ([keys] if isinstance(keys, (str, bytes)) else keys)]
    if not found:
        raise ConfigurationError("a key ring needs a key: KeyRing.generate() makes one")
    if len(set(found)) < len(found):
        raise ConfigurationError("a key is twice in the key ring")
    return found


def _secret(key: object) -> _Secret:
    if not isinstance(key, (str, bytes)):
        raise ConfigurationError(f"an encryption key is a string or bytes, not {type(key).__name__}")
    if isinstance(key, bytes) and len(key) == KEY_BYTES:
        return _Secret(key, False)
    key = key.strip()  # Of a file or a variable it may have a line end, and would be another.
    try:
        data = key.encode() if isinstance(key, str) else key
    except UnicodeEncodeError:
        raise ConfigurationError("an encryption key is text, and this holds what is none (UTF-8)") from None
    if _BASE64.fullmatch(data):
        return _Secret(base64.b64decode(data.replace(b"-", b"+").replace(b"_", b"/")), False)
    if _NEARLY.search(data):
        raise ConfigurationError(
            "this is nearly an encryption key: in base64, one is 44 characters, with = at the end and nothing around"
        )
    if isinstance(key, bytes):
        raise ConfigurationError(
            f"an encryption key of bytes has {KEY_BYTES} of them, or is 44 of base64; this has {len(key)}"
        )
    if len(key) < LEAST_PASSPHRASE:
        raise ConfigurationError(f"a passphrase has at least {LEAST_PASSPHRASE} characters, this has {len(key)}")
    return _Secret(data, True)
