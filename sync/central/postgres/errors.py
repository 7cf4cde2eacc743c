"""What every error of asyncpg, and of the network below it, means to us: one table."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import asyncpg
from asyncpg.exceptions._base import DataError as ArgumentError  # Not asyncpg.DataError, which the server raises.

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteRejected, RemoteUnavailable
from sync.central import tls
from sync.central.postgres.address import Address

ErrorClass = type[RemoteUnavailable] | type[ConfigurationError] | type[RemoteRejected]

SQLSTATES: Final[Mapping[str, ErrorClass]] = {
    # By class: the first two characters.
    "03": RemoteRejected,  # SQL statement not yet complete
    "08": RemoteUnavailable,  # connection exception
    "09": RemoteRejected,  # triggered action exception
    "0A": ConfigurationError,  # feature not supported: a server too old, or something else that speaks the protocol
    "0B": RemoteUnavailable,  # invalid transaction initiation
    "0F": RemoteRejected,  # locator exception
    "0L": ConfigurationError,  # invalid grantor
    "0P": ConfigurationError,  # invalid role specification
    "0Z": RemoteRejected,  # diagnostics exception
    "10": RemoteRejected,  # XQuery error
    "20": RemoteRejected,  # case not found
    "21": RemoteRejected,  # cardinality violation
    "22": RemoteRejected,  # data exception
    "23": RemoteRejected,  # integrity constraint violation: the log is not what its head says
    "24": RemoteRejected,  # invalid cursor state
    "25": RemoteUnavailable,  # invalid transaction state: read-only while a standby takes over, timed out
    "26": ConfigurationError,  # invalid SQL statement name: a pooler lost a prepared statement
    "27": RemoteRejected,  # triggered data change violation
    "28": ConfigurationError,  # invalid authorization
    "2B": ConfigurationError,  # dependent privileges
    "2D": RemoteUnavailable,  # invalid transaction termination
    "2F": RemoteRejected,  # SQL routine exception
    "34": ConfigurationError,  # invalid cursor name: a pooler
    "38": RemoteRejected,  # external routine exception
    "39": RemoteRejected,  # external routine invocation exception
    "3B": RemoteUnavailable,  # savepoint exception
    "3D": ConfigurationError,  # no such database
    "3F": ConfigurationError,  # no such schema
    "40": RemoteUnavailable,  # transaction rollback: serialization, deadlock
    "42": ConfigurationError,  # missing privilege, table or function
    "44": RemoteRejected,  # WITH CHECK OPTION violation
    "53": RemoteUnavailable,  # insufficient resources
    "54": RemoteRejected,  # program limit exceeded
    "55": RemoteUnavailable,  # not in prerequisite state: locked, in use
    "57": RemoteUnavailable,  # operator intervention: shutdown, statement timeout
    "58": RemoteUnavailable,  # system error
    "72": RemoteUnavailable,  # snapshot too old
    "F0": ConfigurationError,  # configuration file error
    "HV": ConfigurationError,  # foreign data wrapper error
    "P0": RemoteRejected,  # raised in a function: a damaged session
    "XX": RemoteUnavailable,  # internal error: not the fault of what was sent, whichever session was in it
    # And where one code is unlike its class.
    "08P01": ConfigurationError,  # protocol violation: poolers refuse startup options with it
    "25P04": RemoteUnavailable,  # transaction timeout
    "53400": ConfigurationError,  # configuration limit exceeded
    "55P02": ConfigurationError,  # can't change a runtime parameter: an unknown option in the URL
    "57P04": ConfigurationError,  # database dropped
}

CLIENT_ERRORS: Final[tuple[tuple[type[BaseException], ErrorClass], ...]] = (
    # Found by asyncpg or Python; the first that fits counts.
    (asyncpg.InvalidCachedStatementError, RemoteUnavailable),  # The schema changed under a prepared statement.
    (asyncpg.ClientConfigurationError, ConfigurationError),
    (asyncpg.UnsupportedClientFeatureError, ConfigurationError),
    (asyncpg.UnsupportedServerFeatureError, ConfigurationError),
    (ArgumentError, RemoteRejected),  # Nothing that the wire could carry.
    (asyncpg.InterfaceError, RemoteUnavailable),  # "Connection is closed", "in progress": a new one will do.
    (asyncpg.InternalClientError, RemoteUnavailable),  # Protocol confusion, no primary among the hosts.
    (ssl.SSLCertVerificationError, ConfigurationError),
    (ssl.SSLEOFError, RemoteUnavailable),
    (ssl.SSLZeroReturnError, RemoteUnavailable),
    (ssl.SSLSyscallError, RemoteUnavailable),
    (ssl.SSLWantReadError, RemoteUnavailable),
    (ssl.SSLWantWriteError, RemoteUnavailable),
    (ssl.SSLError, ConfigurationError),
    (UnicodeError, ConfigurationError),  # A host name that can't be one.
    (PermissionError, ConfigurationError),
    (asyncio.TimeoutError, RemoteUnavailable),
    (EOFError, RemoteUnavailable),
    (OSError, RemoteUnavailable),
)

_STUMBLES: Final = (ValueError, TypeError, LookupError, AttributeError)
"""What asyncpg raises while it connects to something that sends what no Postgres would."""

_ADVICE: Final[Mapping[str, str]] = {
    "08P01": "a pooler may refuse options of the URL: remove them, or have it ignore them",
    "26000": "behind a pooler such as PgBouncer add ?statement_cache_size=0&notify=off to the URL",
    "28000": "check the user and the client certificate (sslcert) in the URL, and the server's pg_hba.conf",
    "28P01": "check the user and the password in the URL",
    "3D000": "create the database, or correct its name in the URL",
    "42501": "the owner of the schema localfirst must grant this role the use of it, see docs/postgres.md",
    "42P05": "behind a pooler such as PgBouncer add ?statement_cache_size=0&notify=off to the URL",
}

_MAX_MESSAGE: Final = 400
_FOREIGN: Final = (asyncpg.PostgresError, *(kind for kind, _ in CLIENT_ERRORS))


@contextmanager
def our_errors(address: Address) -> Iterator[None]:
    """Raise ours for everything foreign that is raised inside."""
    try:
        yield
    except LocalFirstError:
        raise
    except _FOREIGN as error:
        raise translate(error, address) from None  # Its text, and values in its frames, may have the password.


@contextmanager
def connecting(address: Address) -> Iterator[None]:
    """As `our_errors`, around what makes a connection."""
    with our_errors(address):
        try:
            yield
        except (LocalFirstError, *_FOREIGN):
            raise
        except _STUMBLES as error:
            raise ConfigurationError(
                f"{address.server}: {type(error).__name__} while connecting (check that the URL is that of a Postgres "
                "server)"
            ) from None


def translate(error: BaseException, address: Address) -> LocalFirstError:
    """Our error for one of theirs; says which server, what happened, and what to do about it."""
    error = _below(error)
    if isinstance(error, OSError) and (unreadable := _unreadable(address)):
        return ConfigurationError(f"{address.server}: {unreadable}")
    kind = classify(error)
    message = address.hide(str(error))[:_MAX_MESSAGE] or type(error).__name__
    advice = _ADVICE.get(_sqlstate(error) or "")
    if kind is ConfigurationError and isinstance(error, ssl.SSLError):
        advice = tls.advice(error, "sslrootcert", "sslcert")
    return kind(f"{address.server}: {message}" + (f" ({advice})" if advice else ""))


def _below(error: BaseException) -> BaseException:
    """What asyncpg hides in a connection that was closed: a server refuses a client's certificate late."""
    hidden = error.__cause__
    return hidden if isinstance(error, asyncpg.PostgresConnectionError) and isinstance(hidden, ssl.SSLError) else error


def _unreadable(address: Address) -> str | None:
    """Of a missing file asyncpg tells no more than of a missing socket."""
    for option, name in address.files:
        try:
            Path(name).open("rb").close()
        except OSError as error:
            return f"{option}={name} in the URL can't be read: {error.strerror}"
    return None


def classify(error: BaseException) -> ErrorClass:
    """Which of our classes stands for an error."""
    for kind, ours in CLIENT_ERRORS:
        if isinstance(error, kind):
            return ConfigurationError if _refuses_tls(error) else ours
    code = _sqlstate(error)
    if code is None:
        return RemoteUnavailable  # A server that can't even say what is wrong.
    return SQLSTATES.get(code) or SQLSTATES.get(code[:2], RemoteRejected)


def _sqlstate(error: BaseException) -> str | None:
    code = getattr(error, "sqlstate", None)
    return code if isinstance(code, str) else None


def _refuses_tls(error: BaseException) -> bool:
    """asyncpg has no class of its own for a server that does not speak TLS."""
    return isinstance(error, ConnectionError) and "rejected SSL upgrade" in str(error)
