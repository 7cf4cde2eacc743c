"""From the address that a user gives to pools of connections, and to a name of the server without its password."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import SplitResult, urlsplit

from redis.asyncio.connection import BlockingConnectionPool, SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from localfirst.errors import ConfigurationError
from sync.central.redis.bounded import PARSER
from sync.central.redis.errors import Server

_DEFAULTS: Final[dict[str, Any]] = {
    "socket_connect_timeout": 5.0,
    "socket_timeout": 10.0,
    "max_connections": 16,
    "timeout": 10.0,  # for a free connection
    "protocol": 2,  # all servers and proxies speak it
}
"""What the query of the address may override, as in `redis://host?socket_timeout=30`."""

LARGE_FACTOR: Final = 12
"""Timeouts are so much longer for checkpoints: 50 MB within two minutes, where a batch of changes has 1 MB."""
_LARGE_CONNECTIONS: Final = 2

_SECRETS: Final = ("password", "ssl_password")


class Pools(NamedTuple):
    """Connections to one server, none of them made yet."""

    server: Server
    usual: BlockingConnectionPool
    large: BlockingConnectionPool
    """For checkpoints, which take long and must not hold up the rest."""


class _TlsConnection(SSLConnection):
    """Reads its certificates anew whenever it connects: they are renewed, and corrected, while this process runs."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        return super()._connection_arguments()


def connection_pools(url: str) -> Pools:
    """The pools for an address. Raises `ConfigurationError`, without the password."""
    options = _options(url)
    server = Server(_name(options, urlsplit(url)), tuple(options[key] for key in _SECRETS if options.get(key)))
    try:
        # redis-py would retry ten times, and the worker retries anyway.
        forced = {"decode_responses": False, "retry_on_timeout": False, "retry": Retry(NoBackoff(), 0), **PARSER}
        usual = _DEFAULTS | options | forced
        if usual.get("connection_class") is SSLConnection:
            usual["connection_class"] = _TlsConnection
        patient = {name: usual[name] * LARGE_FACTOR for name in ("socket_timeout", "timeout") if usual[name]}
        pools = Pools(
            server,
            BlockingConnectionPool(**usual),
            BlockingConnectionPool(**usual | patient | {"max_connections": _LARGE_CONNECTIONS}),
        )
        # Not connected: it only checks the options.
        probe = pools.usual.make_connection()  # type: ignore[no-untyped-call]
        if isinstance(probe, SSLConnection):
            probe.ssl_context.get()
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise ConfigurationError(f"{server.name}: can't be used with these options: {reason}") from None
    return pools


def _options(url: str) -> dict[str, Any]:
    try:
        parts = urlsplit(url)
        options: dict[str, Any] = dict(parse_url(url))
    except (AttributeError, TypeError, ValueError):
        raise ConfigurationError(
            "not the address of a Redis server: redis://[user:password@]host[:port][/database], rediss://… or "
            "unix:///path; in user and password, anything but letters and digits must be percent-encoded"
        ) from None
    if parts.fragment or ("@" in parts.path and (parts.scheme != "unix" or parts.netloc)):
        raise ConfigurationError("in the address of a Redis server, # and / in a password must be percent-encoded")
    if parts.scheme != "unix" and parts.path.strip("/") and not parts.path.strip("/").isdecimal():
        raise ConfigurationError("in the address of a Redis server, the database after the host must be a number")
    return options


def _name(options: dict[str, Any], parts: SplitResult) -> str:
    if parts.scheme == "unix":
        return f"unix://{options.get('path', '')}"
    return f"{parts.scheme}://{options.get('host', 'localhost')}:{options.get('port', 6379)}"
