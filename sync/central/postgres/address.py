"""A Postgres URL: what of it is for asyncpg, what is for us, and what may be shown to people."""

from __future__ import annotations

import re
from typing import Final, NamedTuple
from urllib.parse import SplitResult, parse_qsl, unquote, urlencode, urlsplit

from localfirst.errors import ConfigurationError

_SCHEMES: Final = ("postgresql", "postgres", "postgresql+asyncpg")
_HOST: Final = re.compile(r"(\[[^\]]*\]|[^:\[\]]*)(:[0-9]+)?")
_SHAPE: Final = "postgresql://user:password@host:5432/database"
_HIDDEN: Final = "***"
_FILES: Final = ("sslrootcert", "sslcert", "sslkey", "sslcrl")


class Address(NamedTuple):
    """Where a Postgres store is, and how to talk to it."""

    dsn: str
    """For asyncpg; holds the password."""
    server: str
    """For messages: hosts, ports and database only."""
    passwords: tuple[str, ...]
    notify: bool
    """Whether to send and listen for hints. Off behind poolers that hand a connection to another client meanwhile."""
    statement_cache_size: int
    """0 behind poolers that know nothing of prepared statements."""
    files: tuple[tuple[str, str], ...] = ()
    """Options that name files, and the files."""

    def __repr__(self) -> str:
        return f"<Address {self.server}>"

    def hide(self, text: str) -> str:
        """The text without the password, should some library have put it there."""
        for password in self.passwords:
            text = text.replace(password, _HIDDEN)
        return text


def parse_address(url: str) -> Address:
    """The address in a URL, or `ConfigurationError`; its message never quotes the URL.

    >>> parse_address("postgresql+asyncpg://me:secret@db:5432/app?notify=off").server
    'postgresql://db:5432/app'
    """
    parts = _split(url)
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    notify = _switch("notify", options.pop("notify", "on"))
    cache = _count("statement_cache_size", options.pop("statement_cache_size", "100"))
    hosts = parts.netloc.rpartition("@")[2] or options.get("host", "")
    return Address(
        dsn=parts._replace(
            scheme="postgresql", query=urlencode({"application_name": "localfirst", **options})
        ).geturl(),
        server=f"postgresql://{hosts}{unquote(parts.path)}",
        passwords=_passwords(parts, options),
        notify=notify,
        statement_cache_size=cache,
        files=tuple((name, options[name]) for name in _FILES if options.get(name)),
    )


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(f"the Postgres URL can't be read: it should look like {_SHAPE}") from None
    if parts.scheme not in _SCHEMES:
        raise ConfigurationError(f"not a Postgres URL: it should look like {_SHAPE}")
    # A password with an unescaped / ? or # ends the part that holds it: its rest would be taken for something to show.
    if "@" in parts.path + parts.query + parts.fragment or parts.fragment:
        raise ConfigurationError(
            "the Postgres URL has a special character where none can be: write @ / ? # in a user, password or "
            "database as %40 %2F %3F %23"
        )
    hosts = parts.netloc.rpartition("@")[2]
    if not all(_HOST.fullmatch(host) for host in hosts.split(",")):
        raise ConfigurationError(f"the Postgres URL has no valid host and port: it should look like {_SHAPE}")
    return parts


def _passwords(parts: SplitResult, options: dict[str, str]) -> tuple[str, ...]:
    written = parts.netloc.rpartition("@")[0].partition(":")[2]
    found = {written, unquote(written), options.get("password", ""), options.get("sslpassword", "")} - {""}
    return tuple(sorted(found, key=len, reverse=True))


def _switch(name: str, value: str) -> bool:
    if value not in ("on", "off"):
        raise ConfigurationError(f"the option {name} of a Postgres URL is on or off")
    return value == "on"


def _count(name: str, value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise ConfigurationError(f"the option {name} of a Postgres URL is a number, 0 or greater")
    return int(value)
