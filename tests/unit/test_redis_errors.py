"""The table of redis-py's exceptions: complete, and what it says of the ones that matter."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Iterator

import pytest
import redis.asyncio  # noqa: F401 - has exceptions of its own
from redis import exceptions

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteRejected, RemoteUnavailable
from sync.central.redis.errors import MEANINGS, Server, translate, translated

SERVER = Server("redis://host:6379", secrets=("hunter2",))


def _below(kind: type[BaseException]) -> Iterator[type[BaseException]]:
    yield kind
    for each in kind.__subclasses__():
        yield from _below(each)


NAMED = [kind for kind in vars(exceptions).values() if isinstance(kind, type) and issubclass(kind, BaseException)]
# And what other modules of redis-py derive from them; not what tests do.
FOREIGN = sorted({kind for named in NAMED for kind in _below(named) if kind.__module__.startswith("redis.")}, key=repr)


@pytest.mark.parametrize("foreign", FOREIGN, ids=lambda foreign: foreign.__name__)
def test_every_exception_of_redis_py_is_in_the_table(foreign: type[BaseException]) -> None:
    meant = foreign if foreign.__module__ == "redis.exceptions" else foreign.__mro__[1]
    assert meant in MEANINGS


def test_exceptions_of_other_modules_were_found() -> None:
    assert {kind.__module__ for kind in FOREIGN} >= {"redis.exceptions", "redis.asyncio.sentinel"}


def test_exceptions_that_redis_py_may_add_mean_what_their_base_means() -> None:
    class NewError(exceptions.ReadOnlyError):
        pass

    assert type(translated(NewError("x"), SERVER)) is RemoteUnavailable


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (exceptions.ConnectionError("refused"), RemoteUnavailable),
        (exceptions.TimeoutError("slow"), RemoteUnavailable),
        (exceptions.BusyLoadingError("loading"), RemoteUnavailable),
        (exceptions.ReadOnlyError("replica"), RemoteUnavailable),
        (exceptions.NoScriptError("flushed"), RemoteUnavailable),
        (exceptions.ResponseError("BUSY running a script"), RemoteUnavailable),
        (exceptions.ResponseError("CLUSTERDOWN Hash slot not served"), RemoteUnavailable),
        (exceptions.ResponseError("MOVED 1 host:1"), ConfigurationError),
        (exceptions.ResponseError("NOREPLICAS Not enough good replicas"), RemoteUnavailable),
        (exceptions.AuthenticationError("invalid password"), ConfigurationError),
        (exceptions.NoPermissionError("evalsha"), ConfigurationError),
        (exceptions.OutOfMemoryError("maxmemory"), ConfigurationError),
        (exceptions.MovedError("1 host:1"), ConfigurationError),
        (exceptions.InvalidResponse("H"), ConfigurationError),
        (exceptions.ResponseError("MISCONF can't persist"), ConfigurationError),
        (exceptions.ResponseError("unknown command 'EVALSHA'"), ConfigurationError),
        (exceptions.ResponseError("ACL failure in script: User x"), ConfigurationError),
        (exceptions.ResponseError("WRONGTYPE Operation against a key"), RemoteRejected),
        (exceptions.ResponseError("MALFORMED field seq"), RemoteRejected),
        (ConnectionResetError(), RemoteUnavailable),
        (TimeoutError(), RemoteUnavailable),
        (socket.gaierror(-2, "Name or service not known"), RemoteUnavailable),
        (ssl.SSLEOFError(8, "EOF"), RemoteUnavailable),
        (ssl.SSLCertVerificationError(1, "self-signed"), ConfigurationError),
        (PermissionError(13, "socket"), ConfigurationError),
        (AttributeError("a reply of the wrong type"), ConfigurationError),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else f"{type(value).__name__} {value}",
)
def test_meanings(foreign: BaseException, ours: type[LocalFirstError]) -> None:
    with pytest.raises(LocalFirstError, match="redis://host:6379: ") as raised, translate(SERVER):
        raise foreign
    assert type(raised.value) is ours


def test_a_failure_of_tls_is_seen_inside_a_connection_error() -> None:
    with pytest.raises(ConfigurationError, match="TLS"), translate(SERVER):  # noqa: PT012
        try:
            raise ssl.SSLCertVerificationError(1, "self-signed")
        except OSError:
            raise exceptions.ConnectionError("Error 1 connecting")  # noqa: B904 - as redis-py does


@pytest.mark.parametrize(
    "text",
    [
        "unknown command `HELLO`, with args beginning with: `3`, `AUTH`, `default`, `hunt",
        "you said hunter2",
    ],
)
def test_passwords_never_get_into_messages(text: str) -> None:
    error = translated(exceptions.ResponseError(text), SERVER, "session 's'")
    assert "hunt" not in str(error)
    assert str(error).startswith("redis://host:6379: session 's': ResponseError: ")


def test_a_traceback_does_not_show_the_original() -> None:
    with pytest.raises(RemoteUnavailable) as raised, translate(SERVER):
        raise exceptions.ConnectionError("hunter2")
    assert raised.value.__suppress_context__


def test_our_own_errors_and_bugs_pass() -> None:
    with pytest.raises(RemoteRejected, match=r"^as it is$"), translate(SERVER):
        raise RemoteRejected("as it is")
    with pytest.raises(RuntimeError), translate(SERVER):
        raise RuntimeError
