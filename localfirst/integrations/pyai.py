"""The session classes that the documentation of pyai and openstackai describes, local-first.

A session is given to an agent as its `memory=`. Every class is a `localfirst.Session` that opens its own store, and can
do all that one can. For a key, a limit on disk space, resolvers and the like, open a store with them and give the agent
one of its sessions: `localfirst.open(...).session("user-123")`.
"""

from __future__ import annotations

import os
import re
from datetime import timedelta
from typing import Final
from urllib.parse import quote, urlencode

from localfirst.errors import ConfigurationError
from localfirst.events import SessionEvent
from localfirst.integrations.face import Face, place
from localfirst.integrations.stores import temporary
from localfirst.secret import Url, given

__all__ = ["InMemorySession", "PostgresSession", "RedisSession", "SQLiteSession", "SessionEvent"]

_HOST: Final = re.compile(r"[^\s/@?#\[\],]+|\[[0-9A-Fa-f:.]+\]")
_MOST_PORT: Final = 65_535


class SQLiteSession(Face):
    """A conversation on local disk.

    `db_path`: a directory, made if it is missing (`":memory:"`: one of its own that goes with the object). `remote`: as
    for `localfirst.open`; `ttl` in seconds or a timedelta. Raises `ConfigurationError`, also for a database file, with
    the command that takes its conversations over.

    >>> import tempfile
    >>> with SQLiteSession(tempfile.mkdtemp(), "user-123") as session:
    ...     _ = session.add_message("user", "Hello")
    ...     session.get_messages()
    [{'role': 'user', 'content': 'Hello'}]
    """

    def __init__(
        self,
        db_path: str | os.PathLike[str],
        session_id: str = "default",
        *,
        remote: str | None = None,
        namespace: str = "default",
        ttl: timedelta | float | None = None,
    ) -> None:
        remote = None if remote is None else Url(remote)
        if not os.fspath(db_path):
            raise ConfigurationError('db_path is empty: name a directory, or ":memory:"')
        if str(db_path) != ":memory:":
            super().__init__(session_id, place(db_path, remote, namespace), ttl=ttl)
        elif remote:
            raise ConfigurationError("what is in :memory: goes with the session, and to no central store: name a path")
        else:
            super().__init__(session_id, temporary(), ttl=ttl)


class RedisSession(Face):
    """A conversation on local disk, with a Redis server behind it.

    `ttl`: seconds or a timedelta after which the session expires, if nothing is written to it. `ssl`: TLS, with the
    system's authorities or those of the file `ssl_ca_certs`. `path`: the directory; None: one for each server, in
    `$LOCALFIRST_HOME` or among the platform's user data. A server that can't be reached is no error. Raises
    `ConfigurationError`.

    >>> import tempfile
    >>> with RedisSession("localhost", 1, password="secret", path=tempfile.mkdtemp()) as session:
    ...     _ = session.add_message("user", "Hello")
    ...     session
    <Session 'default' of <Store '...' with redis://localhost:1/0>>
    """

    def __init__(
        self,
        host: str = "localhost",
        port: int = 6379,
        password: str | None = None,
        ssl: bool = False,
        session_id: str = "default",
        ttl: timedelta | float | None = None,
        *,
        db: int = 0,
        username: str | None = None,
        ssl_ca_certs: str | os.PathLike[str] | None = None,
        path: str | os.PathLike[str] | None = None,
        namespace: str = "default",
    ) -> None:
        password = None if password is None else Url(quote(password, safe=""))  # Which no traceback shows.
        remote = _redis(host, port, username, password, db)
        if ssl:
            trusted = "" if ssl_ca_certs is None else "?" + urlencode({"ssl_ca_certs": os.fspath(ssl_ca_certs)})
            remote = Url(f"rediss{remote.removeprefix('redis')}{trusted}")
        elif ssl_ca_certs is not None:
            raise ConfigurationError("ssl_ca_certs says whom to trust with TLS: pass ssl=True, too")
        super().__init__(session_id, place(path, remote, namespace), ttl=ttl)


class PostgresSession(Face):
    """A conversation on local disk, with a Postgres database behind it.

    `connection_string`: `postgresql://user:password@host:5432/database`, or `@` and the path of a file that holds it.
    `ttl`, `path` and errors as for `RedisSession`.

    >>> import tempfile
    >>> with PostgresSession("postgresql://me:secret@localhost:1/app", "user-123", path=tempfile.mkdtemp()) as session:
    ...     session
    <Session 'user-123' of <Store '...' with postgresql://localhost:1/app>>
    """

    def __init__(
        self,
        connection_string: str,
        session_id: str = "default",
        *,
        ttl: timedelta | float | None = None,
        path: str | os.PathLike[str] | None = None,
        namespace: str = "default",
    ) -> None:
        connection_string = Url(connection_string)
        remote = given(connection_string)
        if not remote.startswith(("postgresql://", "postgres://", "postgresql+asyncpg://")):
            raise ConfigurationError(
                "the connection string is not that of a Postgres database: it should look like"
                " postgresql://user:password@host:5432/database"
            )
        super().__init__(session_id, place(path, remote, namespace), ttl=ttl)


class InMemorySession(Face):
    """A conversation that is gone when the object is closed, or the program ends; for tests.

    Each object has its own, whatever its id, in a temporary directory, and replicates nowhere.

    >>> session = InMemorySession()
    >>> session.add_message("user", "Hello")
    {'role': 'user', 'content': 'Hello'}
    >>> len(session), len(InMemorySession())
    (1, 0)
    """

    def __init__(self, session_id: str = "default") -> None:
        super().__init__(session_id, temporary())


def _redis(host: object, port: object, username: str | None, password: str | None, db: object) -> Url:
    """The address of a server. The password comes percent-encoded."""
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        raise ConfigurationError(
            "host is the name or the address of a Redis server; a whole URL is for localfirst.open(remote=...)"
        )
    if isinstance(port, bool) or not isinstance(port, int) or not 0 < port <= _MOST_PORT:
        raise ConfigurationError(f"port is a number from 1 to {_MOST_PORT:,}, not {port!r}")
    if isinstance(db, bool) or not isinstance(db, int) or db < 0:
        raise ConfigurationError(f"db is the number of a database, 0 or greater, not {db!r}")
    who = quote(username or "", safe="") + ("" if password is None else f":{password}")
    at = f"[{host}]" if ":" in host and not host.startswith("[") else host
    return Url(f"redis://{who}{'@' if who else ''}{at}:{port}/{db}")
