"""Addresses of central stores, which may hold a password: how they are given, and what is shown of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl

from localfirst.errors import ConfigurationError

MAX_BYTES: Final = 1 << 16
"""Of a file that holds an address."""
_HIDDEN: Final = "***"
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*")
_HOST: Final = re.compile(r"(\[[^\]@]*\]|[^:\[\]@]*)(:[0-9]+)?")


class Url(str):
    """An address that shows no credentials where values are shown: in tracebacks, debuggers and logs.

    >>> Url("redis://me:secret@host:6379/0?password=secret")
    'redis://host:6379/0'
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return repr(shown(self))


def given(remote: str) -> Url:
    """The address that somebody gave: itself, or as `@` and the path of a file that holds it."""
    if not remote.startswith("@"):
        return Url(remote)
    file = Path(remote[1:]).expanduser()
    try:
        with file.open("rb") as opened:
            text = opened.read(MAX_BYTES).decode().strip()
    except (OSError, ValueError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not text"
        raise ConfigurationError(
            f"{file}, which is to hold the URL of the central store, can't be read: {what}"
        ) from None
    if not text or text.startswith("@") or len(text.split()) > 1:
        raise ConfigurationError(f"{file} is to hold the URL of the central store, and nothing else")
    return Url(text)


def shown(url: str) -> str:
    """An address without credentials and options, for people. Where it can't be told which part they are, of all of it
    only the scheme is left.

    >>> shown("postgresql://me:secret@db:5432/app?sslmode=require"), shown("redis://me:un/escaped@host")
    ('postgresql://db:5432/app', 'redis://***')
    """
    scheme, separator, rest = url.partition("://")
    if not separator or not _SCHEME.fullmatch(scheme):
        return _HIDDEN
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    after = rest[len(authority) :]
    hosts = authority.rpartition("@")[2]
    if (authority and "@" in after) or not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        return f"{scheme}://{_HIDDEN}"
    return f"{scheme}://{hosts}{re.split('[?#]', after, maxsplit=1)[0]}"


def has_password(url: str) -> bool:
    """Whether there is a password in an address.

    >>> has_password("redis://:secret@host"), has_password("postgresql://me@host/app")
    (True, False)
    """
    rest = url.partition("://")[2]
    named = any("password" in name.lower() for name, _ in parse_qsl(rest.partition("?")[2]))
    return named or ("@" in rest and ":" in rest.rpartition("@")[0])
