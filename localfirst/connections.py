"""SQLite connections of diskcache's database: one per thread, safe across forks, closed only when nobody uses them."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
from pathlib import Path
from typing import ClassVar, Final

import diskcache
from diskcache.core import DBNAME

from localfirst.errors import StoreClosed

# Pages (4 KiB) of the write-ahead log from which an agent's write moves it into the database, if no worker did before.
# Rarely: it costs milliseconds. With fsync sooner: a file that is written over syncs faster than one that grows.
_CHECKPOINT_PAGES: Final = {False: 8192, True: 1000}


class Connection:
    """One thread's connection. Hold `lock` while using it; it is free but for the moment of closing."""

    __slots__ = ("lock", "pid", "serial", "sqlite", "transactions")

    def __init__(self, connection: sqlite3.Connection, serial: int) -> None:
        self.sqlite = connection
        self.serial = serial
        """Names the connection in this process."""
        self.transactions = 0
        """How many it has committed."""
        self.lock = threading.RLock()
        self.pid = os.getpid()


class Connections(diskcache.Cache):  # type: ignore[misc]
    """diskcache's table and files without its slow initialisation, which `localfirst.rows` does once per directory."""

    _serials: ClassVar = itertools.count(1)
    _inherited: ClassVar[list[Connection]] = []

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        self._directory = str(directory)
        self._fsync = fsync
        self._timeout = 0  # Waiting is up to the caller, who may be on an event loop.
        self._txn_id = None
        self._closed = False
        self._start()

    def _start(self) -> None:
        self._pid = os.getpid()
        self._local = threading.local()
        self._open: list[Connection] = []
        self.writing = threading.RLock()
        """Held by the thread of this process that writes: waiting for it is cheaper than being refused by SQLite."""

    @property
    def _con(self) -> sqlite3.Connection:
        return self.mine().sqlite

    def mine(self) -> Connection:
        """The calling thread's connection."""
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or connection.pid != os.getpid():
            connection = self._connect()
        return connection

    def _connect(self) -> Connection:
        if self._closed:
            raise StoreClosed(f"{self._directory} is closed: open it again")
        if self._pid != os.getpid():
            # SQLite forbids even closing a connection that came through a fork, and locks may have been held then.
            self._inherited.extend(self._open)
            self._start()
        path = Path(self._directory, DBNAME)
        connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
            connection.execute("PRAGMA cache_size = -8192")
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES[self._fsync]}")
        except sqlite3.Error:
            connection.close()
            raise
        mine = self._local.connection = Connection(connection, next(self._serials))
        self._open.append(mine)
        return mine

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its call is done. What comes later is refused."""
        self._closed = True
        for connection in self._open:
            if connection.pid == os.getpid():
                with connection.lock:
                    connection.sqlite.close()
        self._open.clear()
