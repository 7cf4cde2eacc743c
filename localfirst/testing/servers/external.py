"""Servers that somebody else runs, named in the environment instead of started by us."""

from __future__ import annotations

import os
from typing import NoReturn, Protocol

from localfirst.testing.servers.postgres import PostgresServer
from localfirst.testing.servers.process import ServerError
from localfirst.testing.servers.redis import RedisServer

REDIS_URL_VARIABLE = "LOCALFIRST_TEST_REDIS_URL"
POSTGRES_URL_VARIABLE = "LOCALFIRST_TEST_POSTGRES_URL"


class Server(Protocol):
    """What tests need of a server, whoever runs it."""

    @property
    def url(self) -> str: ...
    @property
    def pid(self) -> int: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    def kill(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def restart(self) -> None: ...
    def close(self) -> None: ...


class ExternalServer:
    """A server that is already running: its address is ours to use, its process is not ours to touch."""

    def __init__(self, url: str) -> None:
        self.url = url

    def start(self) -> None:
        """Nothing to do: it runs."""

    def close(self) -> None:
        """Nothing to do: it runs on."""

    @property
    def pid(self) -> int:
        self._refuse()

    def stop(self) -> None:
        self._refuse()

    def kill(self) -> None:
        self._refuse()

    def pause(self) -> None:
        self._refuse()

    def resume(self) -> None:
        self._refuse()

    def restart(self) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ServerError(
            "this server was named in the environment, so its process is not ours to touch; "
            "a test that stops, kills or pauses a server needs one of its own"
        )


def redis_from_environment() -> Server:
    """The Redis server named by `LOCALFIRST_TEST_REDIS_URL`, else one of our own, not yet started."""
    url = os.environ.get(REDIS_URL_VARIABLE)
    return ExternalServer(url) if url else RedisServer()


def postgres_from_environment() -> Server:
    """The Postgres server named by `LOCALFIRST_TEST_POSTGRES_URL`, else one of our own, not yet started."""
    url = os.environ.get(POSTGRES_URL_VARIABLE)
    return ExternalServer(url) if url else PostgresServer()
