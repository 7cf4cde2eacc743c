"""Where a client of redis-py goes, as the address of a central store. The client is not used."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from localfirst.errors import ConfigurationError
from localfirst.secret import Url

_USER: Final = ("username", "password")
_TLS: Final = (
    "ssl_keyfile",
    "ssl_certfile",
    "ssl_password",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_ca_data",
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_min_version",
)
_OF_ITS_OWN: Final = ("credential_provider", "redis_connect_func")
_VERIFY: Final = {ssl.CERT_NONE: "none", ssl.CERT_OPTIONAL: "optional", ssl.CERT_REQUIRED: "required"}
_WORKS: Final = "localfirst works with redis.Redis and redis.asyncio.Redis to one server, and with from_url(url=…)"


def of_client(client: Any) -> Url:
    """The address to which a client connects, with user, password and certificates. Raises `ConfigurationError` where
    it has none, or one that changes: with a cluster, Sentinel, or passwords that somebody hands out.

    >>> import redis
    >>> of_client(redis.Redis(host="cache", db=1, password="secret"))
    'redis://cache:6379/1'
    """
    pool: Any = getattr(client, "connection_pool", None)
    options = getattr(pool, "connection_kwargs", None)
    if not isinstance(options, dict):
        raise ConfigurationError(f"a {type(client).__name__} is no client of one Redis server: {_WORKS}")
    if hasattr(pool, "sentinel_manager"):
        raise ConfigurationError(f"this client asks Sentinel for its server: {_WORKS}")
    kinds = {kind.__name__ for kind in pool.connection_class.__mro__}
    port, database = int(options.get("port") or 6379), int(options.get("db") or 0)
    if "path" in options:
        return with_options(f"unix://{quote(options['path'])}", options)
    host = str(options.get("host") or "localhost")
    host = f"[{host}]" if ":" in host else quote(host)
    scheme = "rediss" if "SSLConnection" in kinds else "redis"
    return with_options(f"{scheme}://{host}:{port}/{database}", options)


def with_options(url: str, options: Mapping[str, Any]) -> Url:
    """An address, and what it lacks of what a client was given: user, password, database and certificates. The rest of
    a client's options is about the client. Raises `ConfigurationError`.

    >>> with_options("redis://cache", {"db": 2, "decode_responses": True}).partition("?")[2]
    'db=2'
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(f"this is not the address of a Redis server: {_WORKS}") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise ConfigurationError(f"the address of a Redis server begins with redis://, rediss:// or unix://; {_WORKS}")
    for name, value in options.items():
        if value and (name in _OF_ITS_OWN or (name.startswith("ssl_") and name not in _TLS)):
            raise ConfigurationError(f"{name} is not understood by localfirst: {_WORKS}")
    wanted = {name: _text(options[name]) for name in (*_USER, *_TLS) if options.get(name) not in (None, "", b"")}
    if options.get("db") and (parts.scheme == "unix" or not parts.path.strip("/")):
        wanted["db"] = str(options["db"])
    if parts.scheme != "rediss" and not wanted.keys().isdisjoint(_TLS):
        raise ConfigurationError("certificates are for TLS: the address has to begin with rediss://")
    written = dict(parse_qsl(parts.query))
    added = urlencode({name: value for name, value in wanted.items() if name not in written})
    return Url(f"{url}{'&' if parts.query else '?'}{added}" if added else url)


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            raise ConfigurationError("a user, a password and certificates are text, in UTF-8") from None
    if value in _VERIFY and isinstance(value, ssl.VerifyMode):
        return _VERIFY[value]
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value) if isinstance(value, IntEnum) else value)
