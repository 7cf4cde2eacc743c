"""SQLite connections of diskcache's database: one per thread, none across a fork, closed only when nobody uses them."""

from __future__ import annotations

import itertools
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

from localfirst.errors import StoreClosed, StoreMoved

DATABASE: Final[str] = DBNAME
"""The file, in its directory."""

_WAL_BYTES: Final = 4 << 20
"""What is left of the write-ahead log after it has grown."""
_CHECKPOINT_PAGES: Final = 1000
"""Of 4 KiB in the write-ahead log, from which an agent's write moves it into the database, if no worker did before. All
of them are within what is left: a file that is written over is faster, and syncs faster, than one that grows."""
_SETTINGS: Final = {
    fsync: f"PRAGMA synchronous = {level};"
    "PRAGMA cache_size = -8192;"
    "PRAGMA temp_store = MEMORY;"  # Nothing goes into files beside the directory.
    "PRAGMA trusted_schema = OFF;"
    "PRAGMA secure_delete = ON;"  # What is deleted is overwritten, not only forgotten.
    f"PRAGMA journal_size_limit = {_WAL_BYTES};"
    f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES};"
    for fsync, level in ((False, "NORMAL"), (True, "FULL"))
}
"""Of each connection, by whether each commit is synced."""
PLACE_SECONDS: Final = 0.1
"""How long a process may go on before it notices that its files were moved away: looking costs microseconds."""


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
    """diskcache's table and files without its slow initialisation, which `localfirst.schema` does once per directory.

    Whoever holds the lock of a connection may then take `writing`, never the other way round.
    """

    making: ClassVar = threading.Lock()
    """Held while a database file is made or looked at: nobody may have it open yet when that is closed again."""
    _serials: ClassVar = itertools.count(1)
    _all: ClassVar[weakref.WeakSet[Connections]] = weakref.WeakSet()

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        self._directory = str(directory)
        self._fsync = fsync
        self._timeout = 0  # Waiting is up to the caller, who may be on an event loop.
        self._txn_id = None
        self._closed = False
        self._local = threading.local()
        self._open: list[Connection] = []
        self._opening = threading.Lock()
        self._file = os.path.join(self._directory, DBNAME)  # noqa: PTH118 - a path costs more than the look
        self._place = _place_of(self._file)
        self._checked_at = 0.0
        self.writing = threading.RLock()
        """Held by the thread of this process that writes: waiting for it is cheaper than being refused by SQLite."""
        with self.making:
            self._all.add(self)

    @property
    def _con(self) -> sqlite3.Connection:
        return self._mine().sqlite

    def acquire(self) -> Connection:
        """The calling thread's connection, with its lock, which the caller releases."""
        while True:
            connection = self._mine()
            connection.lock.acquire()
            if connection.open:
                return connection
            connection.lock.release()  # It was closed for a fork, or for good.

    @classmethod
    def is_used_here(cls, database: Path) -> bool:
        """Whether this process has a database open. If so, no other code may open its files: closing them again would
        drop SQLite's locks, which belong to the process. Hold `making`, for as long as they are looked at."""
        place = _place_of(str(database))
        return any(not store._closed and store._place == place for store in list(cls._all))

    def check_place(self) -> None:
        """Raise `StoreMoved` if the files are no longer where they were: SQLite would go on with them for ever."""
        found = _place_of(self._file)
        if found is None or found != self._place:
            raise StoreMoved(
                f"{self._directory} was moved away, replaced, deleted or put out of reach while it was open; nothing of"
                " this call was stored: open the store again"
            )
        self._checked_at = time.monotonic()

    def _mine(self) -> Connection:
        if time.monotonic() - self._checked_at > PLACE_SECONDS:
            self.check_place()
        connection: Connection | None = getattr(self._local, "connection", None)
        if connection is None or not connection.open:
            connection = self._connect()
        return connection

    def _connect(self) -> Connection:
        with self._opening:
            if self._closed:
                raise StoreClosed(f"{self._directory} is closed: open it again")
            self.check_place()
            self._close_orphans()
            mine = self._local.connection = Connection(self._connect_sqlite(), next(self._serials))
            self._open.append(mine)
            return mine

    def _connect_sqlite(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            connection.executescript(_SETTINGS[self._fsync])
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


def file_bytes(file: str) -> int:
    """Its size; 0 if there is none."""
    try:
        return os.stat(file).st_size  # noqa: PTH116 - a path costs more than the look
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _place_of(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - a path costs more than the look
    except OSError:
        return None
    return found.st_dev, found.st_ino


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
