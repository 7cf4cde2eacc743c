"""From the address that a user gives to a pool of connections, and to a name of the server without its password."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.connection import BlockingConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from localfirst.errors import ConfigurationError
from sync.central.redis.errors import Server

_DEFAULTS: Final[dict[str, Any]] = {
    "socket_connect_timeout": 5.0,
    "socket_timeout": 10.0,
    "max_connections": 16,
    "timeout": 10.0,  # for a free connection
    "protocol": 2,  # all servers and proxies speak it
}
"""What the query of the address may override, as in `redis://host?socket_timeout=30`."""

_SECRETS: Final = ("password", "ssl_password")


def connection_pool(url: str) -> tuple[Server, BlockingConnectionPool]:
    """The server's name, and a pool that has not connected yet. Raises `ConfigurationError`, without the password."""
    options = _options(url)
    server = Server(_name(options, urlsplit(url)), tuple(options[key] for key in _SECRETS if options.get(key)))
    try:
        # redis-py would retry ten times, and the worker retries anyway.
        forced = {"decode_responses": False, "retry_on_timeout": False, "retry": Retry(NoBackoff(), 0)}
        pool = BlockingConnectionPool(**_DEFAULTS | options | forced)
        # Not connected: it only checks the options.
        probe = pool.make_connection()  # type: ignore[no-untyped-call]
        if isinstance(probe, SSLConnection):
            probe.ssl_context.get()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{server.name}: can't be used with these options: {reason}") from None
    return server, pool


def _options(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        options: dict[str, Any] = dict(parse_url(url))
    except (AttributeError, TypeError, ValueError):
        raise ConfigurationError(
            "not the address of a Redis server: redis://[user:password@]host[:port][/database], rediss://… or "
            "unix:///path; in user and password, anything but letters and digits must be percent-encoded"
        ) from None
    if parts.fragment or (parts.scheme != "unix" and "@" in parts.path):
        raise ConfigurationError("in the address of a Redis server, # and / in a password must be percent-encoded")
    if parts.scheme != "unix" and parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ConfigurationError("in the address of a Redis server, the database after the host must be a number")
    return options


def _name(options: dict[str, Any], parts: SplitResult) -> str:
    if parts.scheme == "unix":
        return f"unix://{options.get('path', '')}"
    return f"{parts.scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}"
