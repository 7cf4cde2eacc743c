"""What can go wrong with a socket, a name or TLS has its class, with either server: none is left to a default."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Iterator

import pytest

from localfirst.errors import ConfigurationError, LocalFirstError, RemoteUnavailable
from sync.central.postgres.address import parse_address
from sync.central.postgres.errors import classify, our_errors
from sync.central.redis.errors import Server, translate, translated

SERVER = Server("redis://host:6379")
ADDRESS = parse_address("postgresql://me@db/app")

EXPECTED: dict[type[BaseException], type[LocalFirstError]] = {
    OSError: RemoteUnavailable,
    BlockingIOError: RemoteUnavailable,
    BrokenPipeError: RemoteUnavailable,
    ChildProcessError: RemoteUnavailable,
    ConnectionError: RemoteUnavailable,
    ConnectionAbortedError: RemoteUnavailable,
    ConnectionRefusedError: RemoteUnavailable,
    ConnectionResetError: RemoteUnavailable,
    FileExistsError: RemoteUnavailable,
    FileNotFoundError: RemoteUnavailable,  # of a Unix socket: the server is not up
    InterruptedError: RemoteUnavailable,
    IsADirectoryError: RemoteUnavailable,
    NotADirectoryError: RemoteUnavailable,
    PermissionError: ConfigurationError,
    ProcessLookupError: RemoteUnavailable,
    TimeoutError: RemoteUnavailable,
    asyncio.TimeoutError: RemoteUnavailable,
    asyncio.IncompleteReadError: RemoteUnavailable,
    EOFError: RemoteUnavailable,
    socket.timeout: RemoteUnavailable,
    socket.gaierror: RemoteUnavailable,  # what being offline looks like
    socket.herror: RemoteUnavailable,
    ssl.SSLError: ConfigurationError,
    ssl.SSLCertVerificationError: ConfigurationError,
    ssl.SSLEOFError: RemoteUnavailable,
    ssl.SSLSyscallError: RemoteUnavailable,
    ssl.SSLWantReadError: RemoteUnavailable,
    ssl.SSLWantWriteError: RemoteUnavailable,
    ssl.SSLZeroReturnError: RemoteUnavailable,
}


def of_the_network() -> Iterator[type[BaseException]]:
    """Every exception class that Python's sockets, names, TLS and event loop have for a failed operation."""
    waiting: list[type[BaseException]] = [OSError, EOFError, asyncio.TimeoutError]
    while waiting:
        kind = waiting.pop()
        if kind.__module__.partition(".")[0] in ("builtins", "socket", "ssl", "_ssl", "asyncio"):
            yield kind
            waiting += kind.__subclasses__()


def made(kind: type[BaseException]) -> BaseException:
    return kind(b"", 1) if kind is asyncio.IncompleteReadError else kind("message")


@pytest.mark.parametrize("kind", sorted(set(of_the_network()), key=repr), ids=lambda kind: kind.__name__)
def test_every_failure_of_the_network_has_its_class(kind: type[BaseException]) -> None:
    assert type(translated(made(kind), SERVER)) is EXPECTED[kind]
    assert classify(made(kind)) is EXPECTED[kind]


def test_the_families_were_found() -> None:
    assert set(of_the_network()) == set(EXPECTED)


@pytest.mark.parametrize("kind", [asyncio.CancelledError, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_what_is_no_failure_of_a_server_passes(kind: type[BaseException]) -> None:
    with pytest.raises(kind), translate(SERVER):
        raise kind
    with pytest.raises(kind), our_errors(ADDRESS):
        raise kind
