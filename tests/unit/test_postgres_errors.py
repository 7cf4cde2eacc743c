"""Every exception that asyncpg, or the network below it, can raise has its class; and none gives a password away."""

from __future__ import annotations

import asyncio
import inspect
import socket
import ssl
import traceback
from collections.abc import Iterator

import asyncpg
import pytest

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteRejected, RemoteUnavailable
from sync.central.postgres.address import parse_address
from sync.central.postgres.errors import CLIENT_ERRORS, SQLSTATES, classify, our_errors, translate

ADDRESS = parse_address("postgresql://me:se%2Fcret@db:5432/app")


def asyncpg_exceptions() -> Iterator[type[Exception]]:
    """All but warnings, which asyncpg never raises."""
    for found in vars(asyncpg.exceptions).values():
        if inspect.isclass(found) and issubclass(found, Exception) and not issubclass(found, Warning):
            yield found


@pytest.mark.parametrize("kind", list(asyncpg_exceptions()), ids=lambda kind: kind.__name__)
def test_every_exception_of_asyncpg_has_a_class(kind: type[Exception]) -> None:
    sqlstate = getattr(kind, "sqlstate", None)
    if sqlstate is not None:
        assert sqlstate[:2] in SQLSTATES, "an SQLSTATE class without a row would be taken for a refusal"
    elif not issubclass(kind, asyncpg.PostgresError):
        assert any(issubclass(kind, row) for row, _ in CLIENT_ERRORS)
    assert classify(kind("message")) in (RemoteUnavailable, ConfigurationError, RemoteRejected)


@pytest.mark.parametrize(
    ("error", "ours"),
    [
        (asyncpg.InvalidPasswordError(""), ConfigurationError),
        (asyncpg.InvalidCatalogNameError(""), ConfigurationError),
        (asyncpg.InsufficientPrivilegeError(""), ConfigurationError),
        (asyncpg.UndefinedTableError(""), ConfigurationError),
        (asyncpg.ClientConfigurationError(""), ConfigurationError),
        (asyncpg.DuplicatePreparedStatementError(""), ConfigurationError),
        (asyncpg.DatabaseDroppedError(""), ConfigurationError),
        (asyncpg.CantChangeRuntimeParamError(""), ConfigurationError),
        (ssl.SSLCertVerificationError(), ConfigurationError),
        (ssl.SSLError(), ConfigurationError),
        (ConnectionError('PostgreSQL server at "db:5432" rejected SSL upgrade'), ConfigurationError),
        (UnicodeError("label empty or too long"), ConfigurationError),
        (asyncpg.AdminShutdownError(""), RemoteUnavailable),
        (asyncpg.QueryCanceledError(""), RemoteUnavailable),
        (asyncpg.TooManyConnectionsError(""), RemoteUnavailable),
        (asyncpg.DiskFullError(""), RemoteUnavailable),
        (asyncpg.DeadlockDetectedError(""), RemoteUnavailable),
        (asyncpg.ReadOnlySQLTransactionError(""), RemoteUnavailable),
        (asyncpg.InternalServerError(""), RemoteUnavailable),
        (asyncpg.InvalidCachedStatementError(""), RemoteUnavailable),
        (asyncpg.ConnectionDoesNotExistError(""), RemoteUnavailable),
        (asyncpg.TargetServerAttributeNotMatched(""), RemoteUnavailable),
        (asyncpg.InterfaceError("connection is closed"), RemoteUnavailable),
        (asyncio.TimeoutError(), RemoteUnavailable),
        (ConnectionRefusedError(), RemoteUnavailable),
        (socket.gaierror(), RemoteUnavailable),
        (ssl.SSLEOFError(), RemoteUnavailable),
        (asyncpg.UniqueViolationError(""), RemoteRejected),
        (asyncpg.ProgramLimitExceededError(""), RemoteRejected),
        (asyncpg.RaiseError(""), RemoteRejected),
        (asyncpg.DataError(""), RemoteRejected),
        (asyncpg.exceptions._base.DataError("invalid input for query argument"), RemoteRejected),
    ],
    ids=repr,
)
def test_what_the_usual_ones_mean(error: Exception, ours: type[LocalFirstError]) -> None:
    assert classify(error) is ours


def test_a_code_decides_where_asyncpg_has_no_class_for_it() -> None:
    error = asyncpg.exceptions.UnknownPostgresError("from an extension")
    assert classify(error) is RemoteUnavailable
    error.sqlstate = "57ABC"
    assert classify(error) is RemoteUnavailable
    error.sqlstate = "ZZ001"
    assert classify(error) is RemoteRejected


def test_the_message_says_where_what_and_what_to_do() -> None:
    message = str(translate(asyncpg.InvalidPasswordError("password authentication failed"), ADDRESS))
    assert message.startswith("postgresql://db:5432/app: password authentication failed (")
    assert "check the user and the password" in message
    assert "TimeoutError" in str(translate(asyncio.TimeoutError(), ADDRESS)), "an error without words has a name"


def test_a_password_that_a_library_quotes_is_hidden() -> None:
    with pytest.raises(ConfigurationError) as caught, our_errors(ADDRESS):
        raise asyncpg.ClientConfigurationError("can't use postgresql://me:se%2Fcret@db or se/cret")
    shown = "".join(traceback.format_exception(caught.value))
    final = str(caught.value)
    assert "cret" not in final
    assert caught.value.__suppress_context__, shown


def test_our_own_errors_and_bugs_pass_through() -> None:
    own = RemoteUnavailable("one of ours, though an OSError too")
    with pytest.raises(RemoteUnavailable) as caught, our_errors(ADDRESS):
        raise own
    assert caught.value is own
    with pytest.raises(ZeroDivisionError), our_errors(ADDRESS):
        raise ZeroDivisionError
