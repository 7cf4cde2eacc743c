"""Rows of bytes on disk: the one place that touches diskcache and its SQL.

diskcache brings the table, the unique index on (key, raw) and connections per thread. What it does by default and is
wrong for data that must not be lost is switched off here: pickle, eviction, culling, values in files, memory-mapped
reads, triggers and an index for an expiry that is not used. Keys and values are bytes; a row of any other kind was
not written by this module and is refused unread, whatever it holds.
"""

from __future__ import annotations

import errno
import os
import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar

import diskcache
from diskcache.core import DBNAME, MODE_RAW
from filelock import FileLock

from localfirst.connections import Connections
from localfirst.errors import (
    ConfigurationError,
    ItemTooLarge,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreFull,
    StoreUnwritable,
)

FORMAT: Final = 2
PATIENCE: Final = 30.0
"""Seconds to wait for other processes' commits before giving up with `StoreBusy`."""

_SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "sqlite_auto_vacuum": 2,  # Incremental: freed pages are given back when asked, not in each commit.
    "sqlite_mmap_size": 0,  # A truncated file must be an error, not a SIGBUS.
}
_FORMAT_KEY: Final = "localfirst_format"
_INSERT: Final = f"INSERT INTO Cache (key, raw, store_time, mode, value) VALUES (?, 1, ?, {MODE_RAW}, ?)"
_INSERT_LAST: Final = (
    f"INSERT INTO Cache (key, raw, store_time, mode, value) SELECT ?, 1, ?, {MODE_RAW}, ?"
    " WHERE NOT EXISTS (SELECT 1 FROM Cache WHERE key >= ? AND key < ?)"
)
_READABLE: Final = f"raw = 1 AND mode = {MODE_RAW} AND typeof(key) = 'blob' AND typeof(value) = 'blob'"

T = TypeVar("T")


class RowExists(Exception):
    """The key of an insert is taken."""


class NoPickleDisk(diskcache.Disk):  # type: ignore[misc]
    """Refuses to turn anything but bytes into rows, and rows into anything (CVE-2025-69872)."""

    def put(self, key: Any) -> NoReturn:
        _refuse("a key")

    def get(self, key: Any, raw: Any) -> NoReturn:
        _refuse("a key")

    def store(self, value: Any, read: Any, key: Any = None) -> NoReturn:
        _refuse("a value")

    def fetch(self, mode: Any, filename: Any, value: Any, read: Any) -> NoReturn:
        _refuse("a value")


def _refuse(what: str) -> NoReturn:
    raise StoreCorrupt(
        f"diskcache was asked to convert {what}, which could run code: only rows.py reads and writes here"
    )


class Rows:
    """A sorted map from bytes to bytes in a directory of its own; safe to use from any thread and process.

    Every call is atomic and waits for nothing: a lock that another process holds raises `StoreBusy`, see `patiently`.

    >>> import tempfile, pathlib
    >>> rows = Rows(pathlib.Path(tempfile.mkdtemp()) / "data")
    >>> rows.insert(b"a1", b"first"); rows.insert(b"a2", b"second")
    >>> rows.range(b"a1", b"a9", limit=1)
    [(b'a1', b'first')]
    >>> rows.close()
    """

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        self.directory = directory
        self.file = directory / DBNAME
        _prepare_directory(directory)
        self._connections = Connections(directory, fsync=fsync)
        patiently(self._open)

    def _open(self) -> None:
        if self._format() == FORMAT:
            return
        with FileLock(self.directory.parent / f"{self.directory.name}.lock", mode=0o600):
            if self._format() is None:
                self._create()
        if (found := self._format()) != FORMAT:
            raise ConfigurationError(
                f"{self.directory} has format {found}, this localfirst knows {FORMAT}: open it with the version that"
                " made it, or open another directory"
            )

    def _format(self) -> Any:
        with self._using() as execute:
            try:
                row = execute("SELECT value FROM Settings WHERE key = ?", (_FORMAT_KEY,)).fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return None
            return row[0] if row else None

    def _create(self) -> None:
        with self._using():  # For its errors.
            diskcache.Cache(str(self.directory), disk=NoPickleDisk, timeout=PATIENCE, **_SETTINGS).close()
        with self.transaction(), self._using() as execute:
            triggers = execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for (name,) in triggers:
                execute(f'DROP TRIGGER IF EXISTS "{name}"')
            execute("DROP INDEX IF EXISTS Cache_expire_time")
            execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (_FORMAT_KEY, FORMAT))

    @contextmanager
    def _using(self) -> Iterator[Callable[..., sqlite3.Cursor]]:
        """`execute` of this thread's connection, with errors translated. Hot paths do the same without a generator."""
        try:
            connection = self._connections.acquire()
            try:
                yield connection.sqlite.execute
            finally:
                connection.lock.release()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            _translate(error, self.directory)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed at once, or not at all. Keep it small, and never await inside."""
        with self._using() as execute, self._connections.writing:
            execute("BEGIN IMMEDIATE")
            connection = self._connections.acquire()
            try:
                yield
                execute("COMMIT")
                connection.transactions += 1
            except BaseException:
                if connection.sqlite.in_transaction:
                    execute("ROLLBACK")
                raise
            finally:
                connection.lock.release()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state."""
        with self._using() as execute:
            execute("BEGIN")
            try:
                yield
            finally:
                execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        with self._using() as execute:
            row = execute(f"SELECT value, {_READABLE} FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchone()
        return None if row is None else self._checked(key, *row)

    def range(self, lower: bytes, upper: bytes, limit: int = -1, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        """The rows with lower <= key < upper in the order of keys."""
        order = "DESC" if reverse else "ASC"
        query = (
            f"SELECT key, value, {_READABLE} FROM Cache WHERE key >= ? AND key < ? ORDER BY key {order}, raw LIMIT ?"
        )
        with self._using() as execute:
            rows = execute(query, (lower, upper, limit)).fetchall()
        return [(key, self._checked(key, value, readable)) for key, value, readable in rows]

    def keys(self, lower: bytes, upper: bytes) -> list[bytes]:
        """The keys with lower <= key < upper, in order."""
        with self._using() as execute:
            return [
                key
                for (key,) in execute(
                    "SELECT key FROM Cache WHERE key >= ? AND key < ? ORDER BY key, raw", (lower, upper)
                )
            ]

    def has_more(self, lower: bytes, upper: bytes, count: int) -> bool:
        """Whether more than so many rows have lower <= key < upper."""
        with self._using() as execute:
            query = "SELECT 1 FROM Cache WHERE key >= ? AND key < ? LIMIT 1 OFFSET ?"
            return execute(query, (lower, upper, count)).fetchone() is not None

    def insert(self, key: bytes, value: bytes) -> None:
        """Add a row; raises `RowExists` if the key is taken."""
        with self._using() as execute, self._connections.writing:
            try:
                execute(_INSERT, (key, time.time(), value))
            except sqlite3.IntegrityError:
                raise RowExists from None

    def insert_last(self, key: bytes, value: bytes, upper: bytes) -> None:
        """Add a row; raises `RowExists` if there is one with key <= its key < upper."""
        try:
            connection = self._connections.acquire()
            try:
                with self._connections.writing:
                    added = connection.sqlite.execute(_INSERT_LAST, (key, time.time(), value, key, upper)).rowcount
            finally:
                connection.lock.release()
        except sqlite3.Error as error:
            _translate(error, self.directory)
        if not added:
            raise RowExists

    def put(self, key: bytes, value: bytes) -> None:
        """Add a row, or give it another value."""
        with self._using() as execute, self._connections.writing:
            execute(
                f"{_INSERT} ON CONFLICT (key, raw)"
                " DO UPDATE SET value = excluded.value, store_time = excluded.store_time",
                (key, time.time(), value),
            )

    def delete_range(self, lower: bytes, upper: bytes, limit: int = -1) -> int:
        """Remove the rows with lower <= key < upper, the first of them up to a limit; returns how many. In a
        transaction.

        The guard row takes the greatest rowid first, so that SQLite gives no rowid twice and `added_since` misses none.
        """
        with self._using() as execute:
            execute(
                "INSERT OR REPLACE INTO Cache (rowid, key, raw, mode, value)"
                f" VALUES ((SELECT max(rowid) + 1 FROM Cache), x'00', 1, {MODE_RAW}, x'')"
            )
            return execute(
                "DELETE FROM Cache WHERE rowid IN (SELECT rowid FROM Cache WHERE key >= ? AND key < ? LIMIT ?)",
                (lower, upper, limit),
            ).rowcount

    def prefixes_since(self, rowid: int, lower: bytes, upper: bytes, length: int) -> tuple[set[bytes], int]:
        """The first bytes of keys in a range that were added after a rowid, each once, and the last rowid now.

        SQLite does the looking, which may be long, without the interpreter's lock.
        """
        query = "SELECT DISTINCT substr(key, 1, ?) FROM Cache WHERE rowid > ? AND rowid <= ? AND key >= ? AND key < ?"
        last = self.last_row()
        with self._using() as execute:
            found = {prefix for (prefix,) in execute(query, (length, rowid, last, lower, upper))}
        if not all(isinstance(prefix, bytes) and len(prefix) == length for prefix in found):
            raise StoreCorrupt(f"{self.directory} holds a key that localfirst did not write")
        return found, last

    def measure(self, lower: bytes, upper: bytes) -> tuple[int, int, float]:
        """How many rows have lower <= key < upper, the bytes of their values, and the Unix time of the oldest."""
        query = "SELECT count(*), total(length(value)), min(store_time) FROM Cache WHERE key >= ? AND key < ?"
        with self._using() as execute:
            count, size, oldest = execute(query, (lower, upper)).fetchone()
        return count, int(size), oldest or 0.0

    def last_row(self) -> int:
        """The greatest rowid now."""
        with self._using() as execute:
            return execute("SELECT coalesce(max(rowid), 0) FROM Cache").fetchone()[0]  # type: ignore[no-any-return]

    def version(self) -> tuple[int, tuple[int, int]]:
        """Names this thread's connection, and a state that changes with every commit but its own single inserts."""
        try:
            connection = self._connections.acquire()
            try:
                number = connection.sqlite.execute("PRAGMA data_version").fetchone()[0]
            finally:
                connection.lock.release()
        except sqlite3.Error as error:
            _translate(error, self.directory)
        return connection.serial, (number, connection.transactions)

    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        try:
            return (self.directory / f"{DBNAME}-wal").stat().st_size
        except FileNotFoundError:
            return 0

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database as far as that disturbs nobody."""
        with self._using() as execute:
            execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def give_back(self, pages: int = 64) -> bool:
        """Return some of the space of deleted rows to the disk. False: there was none."""
        with self._using() as execute, self._connections.writing:
            if not execute("PRAGMA freelist_count").fetchone()[0]:
                return False
            execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return True

    def scrub(self) -> bool:
        """Take from the write-ahead log, too, what was deleted. False: another process reads; it is done later."""
        with self._using() as execute, self._connections.writing:
            while execute("PRAGMA freelist_count").fetchone()[0]:
                execute("PRAGMA incremental_vacuum(1000)").fetchall()
            busy, _, _ = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def close(self) -> None:
        """Close the connections of all threads; later calls raise `StoreClosed`."""
        self._connections.close()

    def _checked(self, key: bytes, value: Any, readable: int) -> bytes:
        if not readable:
            raise StoreCorrupt(
                f"{self.directory} holds a row that localfirst did not write, at key {key!r:.80}; it was not read"
            )
        return value  # type: ignore[no-any-return]


def patiently(call: Callable[[], T], patience: float = PATIENCE) -> T:
    """Call again until the store is not busy, in a thread that may sleep. Raises `StoreBusy` after some seconds."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return call()
        except StoreBusy:
            if time.monotonic() > deadline:
                raise
            time.sleep(random.uniform(0.0002, 0.002))


def _prepare_directory(directory: Path) -> None:
    file = directory / DBNAME
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        # SQLite gives its other files the mode of this one, whatever the umask. One that is there already is never
        # opened here: closing it would let go of all locks that SQLite holds on it for other stores of this process,
        # and the next process that closes it would remove the write-ahead log under them.
        with Connections.making, suppress(FileExistsError):
            os.close(os.open(file, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        if not os.access(file, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    except FileExistsError:
        raise ConfigurationError(f"{directory} or its parent is a file: pass a path where a directory can be") from None
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{directory} can't be created or written ({error}): pass another path, or change its permissions"
        ) from error


def _translate(error: Exception, directory: Path) -> NoReturn:
    text = str(error)
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in text:
        raise StoreClosed(f"{directory} was closed during the call: open it again") from error
    if "too big" in text:
        raise ItemTooLarge(
            f"more than {directory} can hold in one row ({text}); nothing of this call was stored"
        ) from error
    if "locked" in text or "busy" in text:
        raise StoreBusy(
            f"{directory} is locked by another process; nothing of this call was stored: try again"
        ) from error
    if "full" in text:
        raise StoreFull(
            f"no space for {directory} ({text}); nothing of this call was stored: free some space"
        ) from error
    if isinstance(error, sqlite3.OperationalError):
        raise StoreUnwritable(f"{directory} can't be used ({text}); nothing of this call was stored") from error
    raise StoreCorrupt(
        f"{directory} is damaged ({text}): move it away and open again to fetch what was synced"
    ) from error
