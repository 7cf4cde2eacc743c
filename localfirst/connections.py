"""SQLite connections of diskcache's database: one per thread, none across a fork, closed only when nobody uses them."""

from __future__ import annotations

import itertools
import math
import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar, Final

import diskcache
from diskcache.core import DBNAME

from localfirst.errors import StoreClosed, StoreUnwritable

LOOK_SECONDS: Final = 1.0
"""How often a process looks whether its directory is still there: a call that comes later than that does."""

# Pages (4 KiB) of the write-ahead log from which an agent's write moves it into the database, if no worker did before.
# Rarely: it costs milliseconds. With fsync sooner: a file that is written over syncs faster than one that grows.
_CHECKPOINT_PAGES: Final = {False: 8192, True: 1000}


class Connection:
    """One thread's connection. Hold `lock` while using it; it is free but for the moments of closing and forking."""

    __slots__ = ("lock", "open", "serial", "sqlite", "thread", "transactions")

    def __init__(self, connection: sqlite3.Connection, serial: int) -> None:
        self.sqlite = connection
        self.serial = serial
        """Names the connection in this process."""
        self.transactions = 0
        """How many it has committed."""
        self.lock = threading.RLock()
        self.open = True
        self.thread = threading.current_thread()

    def close(self) -> None:
        """Hold `lock`."""
        self.open = False
        self.sqlite.close()


class Connections(diskcache.Cache):  # type: ignore[misc]
    """diskcache's table and files without its slow initialisation, which `localfirst.rows` does once per directory.

    Whoever holds the lock of a connection may then take `writing`, never the other way round.
    """

    making: ClassVar = threading.Lock()
    """Held while a database file is made: nobody may have it open yet when its maker closes it."""
    _serials: ClassVar = itertools.count(1)
    _all: ClassVar[weakref.WeakSet[Connections]] = weakref.WeakSet()

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        self._directory = str(directory)
        self._fsync = fsync
        self._timeout = 0  # Waiting is up to the caller, who may be on an event loop.
        self._txn_id = None
        self._closed = False
        self._local = threading.local()
        self._file = Path(directory, DBNAME)
        self._place: tuple[int, int] | None = None
        self._looked_at = -math.inf
        self._open: list[Connection] = []
        self._opening = threading.Lock()
        self.writing = threading.RLock()
        """Held by the thread of this process that writes: waiting for it is cheaper than being refused by SQLite."""
        self._all.add(self)

    @property
    def _con(self) -> sqlite3.Connection:
        return self._mine().sqlite

    def acquire(self) -> Connection:
        """The calling thread's connection, with its lock, which the caller releases."""
        while True:
            connection = self._mine()
            if time.monotonic() - self._looked_at > LOOK_SECONDS:
                self._check_place()
            connection.lock.acquire()
            if connection.open:
                return connection
            connection.lock.release()  # It was closed for a fork, or for good.

    def _mine(self) -> Connection:
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or not connection.open:
            connection = self._connect()
        return connection

    def _connect(self) -> Connection:
        with self._opening:
            if self._closed:
                raise StoreClosed(f"{self._directory} is closed: open it again")
            self._close_orphans()
            if self._place is not None:
                self._check_place()  # Else it would be made anew, by whoever comes first.
            mine = self._local.connection = Connection(self._connect_sqlite(), next(self._serials))
            self._open.append(mine)
            return mine

    def _check_place(self) -> None:
        """SQLite goes on with a file that was deleted or replaced, where nobody else will ever find what it writes."""
        try:
            found = self._file.stat()
            place = found.st_dev, found.st_ino
        except OSError:
            place = None
        if place is None or place != (self._place or place):
            raise StoreUnwritable(
                f"{self._directory} was deleted, replaced or put out of reach while it was open; nothing of this call"
                " was stored: close the store and open it again"
            )
        self._place, self._looked_at = place, time.monotonic()

    def _connect_sqlite(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.execute(f"PRAGMA synchronous = {'FULL' if self._fsync else 'NORMAL'}")
            connection.execute("PRAGMA cache_size = -8192")
            connection.execute("PRAGMA secure_delete = ON")  # What is deleted is overwritten, not only forgotten.
            connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES[self._fsync]}")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _close_orphans(self) -> None:
        """Connections of threads that have ended, which would be open files for ever."""
        for connection in [each for each in self._open if not each.thread.is_alive()]:
            with connection.lock:
                connection.close()
            self._open.remove(connection)

    def close(self) -> None:
        """Close the connections of all threads, each as soon as its call is done. What comes later is refused."""
        with self._opening:
            self._closed = True
            with self._all_locked():
                for connection in self._open:
                    connection.close()
            self._open.clear()

    @contextmanager
    def _all_locked(self) -> Iterator[None]:
        held = list(self._open)
        for connection in held:
            connection.lock.acquire()
        try:
            yield
        finally:
            for connection in held:
                connection.lock.release()

    @classmethod
    @contextmanager
    def _none_open(cls) -> Iterator[None]:
        """Close all connections and let nobody open one.

        SQLite's locks belong to the process: a child that inherits its book-keeping believes that it holds locks
        which only the parent has, and loses what it writes. So nothing of SQLite may be open at a fork.
        """
        cls.making.acquire()
        stores = list(cls._all)
        for store in stores:
            store._opening.acquire()
            with store._all_locked():
                for connection in store._open:
                    connection.close()
            store._open.clear()
        try:
            yield
        finally:
            for store in stores:
                store._opening.release()
            cls.making.release()


_forking: list[object] = []


def _before_fork() -> None:
    quiet = Connections._none_open()
    quiet.__enter__()
    _forking.append(quiet)


def _after_fork() -> None:
    quiet = _forking.pop()
    quiet.__exit__(None, None, None)  # type: ignore[attr-defined]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
