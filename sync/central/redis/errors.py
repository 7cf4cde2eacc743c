"""What the exceptions of redis-py, and of the sockets below it, mean to us: one table, and how it is applied.

Transient ones become `RemoteUnavailable`, those that somebody must act upon `ConfigurationError`, and data that make
no sense `RemoteRejected`. Messages name the server as scheme://host:port; no password ever gets into one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from redis import exceptions as redis

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteRejected, RemoteUnavailable
from sync.central import tls


class Server(NamedTuple):
    """A server as messages name it."""

    name: str
    """scheme://host:port"""
    secrets: tuple[str, ...] = ()
    """What must not get into a message, should the server send it back."""

    def __repr__(self) -> str:
        return f"<Server {self.name}>"


class Meaning(NamedTuple):
    """What an exception means."""

    error: type[LocalFirstError]
    advice: str = ""


_TRANSIENT: Final = Meaning(RemoteUnavailable)
_CONFIGURATION: Final = Meaning(ConfigurationError)
_REJECTED: Final = Meaning(RemoteRejected)
_CREDENTIALS: Final = Meaning(ConfigurationError, "check user and password in the address")
_PRIVILEGE: Final = Meaning(
    ConfigurationError,
    "the user needs the keys and channels of its namespace, EVALSHA, SCRIPT LOAD, and what the scripts call: see the "
    "ACL line in docs/redis.md",
)
_MEMORY: Final = Meaning(ConfigurationError, "raise maxmemory, or delete something")
_TLS: Final = Meaning(ConfigurationError)  # `tls.advice` tells the rest
_NO_FILE: Final = Meaning(ConfigurationError, "check the files of ssl_ca_certs, ssl_certfile and ssl_keyfile")
_CLUSTER: Final = Meaning(ConfigurationError, "a node of a cluster can't be used by itself")
_STRANGER: Final = Meaning(ConfigurationError, "check that the address is that of a Redis server")

_REDIS: Final[dict[str, Meaning]] = {
    # The connection, and servers that will be back
    "ConnectionError": _TRANSIENT,
    "TimeoutError": _TRANSIENT,
    "BusyLoadingError": _TRANSIENT,
    "ReadOnlyError": _TRANSIENT,  # a failover: this one is a replica now
    "MasterDownError": _TRANSIENT,
    "ClusterError": _TRANSIENT,
    "ClusterDownError": _TRANSIENT,
    "TryAgainError": _TRANSIENT,
    "SlotNotCoveredError": _TRANSIENT,
    "MaxConnectionsError": _TRANSIENT,
    "ExternalAuthProviderError": _TRANSIENT,  # the server's own LDAP is down
    "NoScriptError": _TRANSIENT,  # flushed again just after they were loaded
    "ChildDeadlockedError": _TRANSIENT,
    "WatchError": _TRANSIENT,
    "PubSubError": _TRANSIENT,
    "LockError": _TRANSIENT,
    "LockNotOwnedError": _TRANSIENT,
    "InvalidPipelineStack": _TRANSIENT,
    # What somebody must act upon
    "AuthenticationError": _CREDENTIALS,
    "AuthorizationError": _CREDENTIALS,
    "AuthenticationWrongNumberOfArgsError": _CREDENTIALS,
    "NoPermissionError": _PRIVILEGE,
    "OutOfMemoryError": _MEMORY,
    "AskError": _CLUSTER,
    "MovedError": _CLUSTER,
    "ClusterCrossSlotError": _CLUSTER,
    "CrossSlotTransactionError": _CLUSTER,
    "RedisClusterException": _CLUSTER,
    "IncorrectPolicyType": _CONFIGURATION,
    "ModuleError": _CONFIGURATION,
    "DataError": _CONFIGURATION,
    "InvalidResponse": _STRANGER,
    # What makes no sense; `_REPLIES` tells more about a bare ResponseError
    "ResponseError": _REJECTED,
    "ExecAbortError": _REJECTED,
    "NoSuchFieldsetError": _REJECTED,
    "RedisError": _REJECTED,
}
"""By name, as no version of redis-py has all of them."""

_BELOW: Final[dict[type[BaseException], Meaning]] = {
    # A name that can't be resolved is what being offline looks like
    OSError: _TRANSIENT,
    asyncio.TimeoutError: _TRANSIENT,  # before Python 3.11 not an OSError
    EOFError: _TRANSIENT,
    PermissionError: Meaning(ConfigurationError, "this user may not open the server's socket"),
    ssl.SSLError: _TLS,
    ssl.SSLEOFError: _TRANSIENT,
    ssl.SSLZeroReturnError: _TRANSIENT,
    ssl.SSLSyscallError: _TRANSIENT,
    ssl.SSLWantReadError: _TRANSIENT,
    ssl.SSLWantWriteError: _TRANSIENT,
    # redis-py stumbles over replies that no Redis would send
    ValueError: _STRANGER,
    TypeError: _STRANGER,
    LookupError: _STRANGER,
    AttributeError: _STRANGER,
}
"""What redis-py lets through, or hides in its own exceptions."""

MEANINGS: Final[dict[type[BaseException], Meaning]] = _BELOW | {
    getattr(redis, name): meaning for name, meaning in _REDIS.items() if hasattr(redis, name)
}
"""The table. A class that isn't in it means what its nearest base class means."""

_REPLIES: Final[dict[str, Meaning]] = {
    # redis-py before 6 has classes for these in its cluster client only
    "MOVED ": _CLUSTER,
    "ASK ": _CLUSTER,
    "CROSSSLOT ": _CLUSTER,
    "TRYAGAIN ": _TRANSIENT,
    "CLUSTERDOWN ": _TRANSIENT,
    "MASTERDOWN ": _TRANSIENT,
    "BUSY ": _TRANSIENT,
    "NOREPLICAS ": _TRANSIENT,
    "MISCONF ": Meaning(ConfigurationError, "the server can't write to its disk"),
    "DENIED ": Meaning(ConfigurationError, "the server is in protected mode"),
    "NOPROTO ": Meaning(ConfigurationError, "the server is too old for this protocol"),
    "ACL failure in script": _PRIVILEGE,
    "The user executing the script can't": _PRIVILEGE,
    "unknown command": Meaning(ConfigurationError, "the server is too old, or the command is renamed"),
    "DB index is out of range": Meaning(ConfigurationError, "the server has fewer databases"),
    "invalid DB index": Meaning(ConfigurationError, "the address names a database that can't be"),
}
"""Of a bare ResponseError, by how its text begins."""


@contextmanager
def translate(server: Server) -> Iterator[None]:
    """Raise exceptions of redis-py as ours."""
    try:
        yield
    except LocalFirstError:
        raise
    except tuple(MEANINGS) as error:
        # Not `from error`: a traceback would show its message, and that may hold what the server echoed.
        raise translated(error, server) from None


def translated(error: BaseException, server: Server, where: str = "") -> LocalFirstError:
    """What to raise for an exception; `where` tells what was being done."""
    below = _below(error)
    meaning = _meaning(below)
    if isinstance(below, FileNotFoundError) and server.name.startswith("rediss:"):
        meaning = _NO_FILE
    advice = meaning.advice
    if meaning is _TLS and isinstance(below, ssl.SSLError):
        advice = tls.advice(below, "ssl_ca_certs", "ssl_certfile")
    parts = [f"{server.name}: ", where and f"{where}: ", f"{type(error).__name__}: {_safe_text(error, server)}"]
    return meaning.error("".join(parts) + (f" ({advice})" if advice else ""))


def _below(error: BaseException) -> BaseException:
    """What redis-py hides in a connection error: failures of TLS among others."""
    if type(error) is redis.ConnectionError and isinstance(error.__context__, OSError):
        return error.__context__
    return error


def _meaning(error: BaseException) -> Meaning:
    if type(error) is redis.ResponseError:
        replies = (meaning for start, meaning in _REPLIES.items() if str(error).startswith(start))
        return next(replies, _REJECTED)
    return next(MEANINGS[base] for base in type(error).__mro__ if base in MEANINGS)


def _safe_text(error: BaseException, server: Server) -> str:
    # Servers repeat the arguments of commands that they don't know, and AUTH is one to some.
    text = str(error).partition(", with args beginning with")[0]
    for secret in server.secrets:
        text = text.replace(secret, "***")
    return text
