"""Rows of bytes on disk: the one place that reads and writes them, by SQL on diskcache's table.

Keys and values are bytes; a row of any other kind was not written by this module and is refused unread, whatever it
holds. Each row has a checksum of both (in diskcache's column `tag`), which is looked at whenever the value is read:
disks, and those who copy files, make mistakes.
"""

from __future__ import annotations

import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar
from zlib import crc32

from diskcache.core import DBNAME, MODE_RAW
from filelock import FileLock

from localfirst.connections import Connections, file_bytes
from localfirst.diskerrors import file_error, of_the_disk, of_this_call
from localfirst.errors import ConfigurationError, StoreBusy, StoreCorrupt, StoreMoved, StoreUnwritable
from localfirst.schema import FORMAT, READABLE, check_free, checksum, create, finish, format_of, prepare_directory

PATIENCE: Final = 30.0
"""Seconds to wait for other processes' commits before giving up with `StoreBusy`."""

_LONG_LOG: Final = 1 << 20
_TRIES: Final = 5
_INSERT: Final = f"INSERT INTO Cache (key, raw, store_time, mode, tag, value) VALUES (?, 1, ?, {MODE_RAW}, ?, ?)"
# It is given the key of the row that is in its way, if there is one, and so refused. `WHERE NOT EXISTS` would cost an
# eighth more: what SQLite selects from the table that it inserts into, it puts aside first.
_INSERT_LAST: Final = (
    "INSERT INTO Cache (key, raw, store_time, mode, tag, value) VALUES"
    " (coalesce((SELECT key FROM Cache WHERE key >= ?1 AND key < ?5 AND raw = 1 LIMIT 1), ?1), 1, ?2,"
    f" {MODE_RAW}, ?3, ?4)"
)
_GUARD: Final = b"\0"
_OUTER: Final = "BEGIN IMMEDIATE", "COMMIT", ("ROLLBACK",)
_INNER: Final = "SAVEPOINT part", "RELEASE part", ("ROLLBACK TO part", "RELEASE part")
"""How a transaction begins, ends, and is undone; and one that is part of another."""

T = TypeVar("T")


class BadRow(StoreCorrupt):
    """One row is not what was written. Others may be."""


class RowExists(StoreCorrupt):
    """The local store holds a row where none can be. Opened again, it saves what can be read."""

    # Where one can be, whoever inserts handles this.


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

    def __init__(self, directory: Path, *, fsync: bool = False, on_damage: Callable[[str], None] | None = None) -> None:
        self.directory = directory
        self.file: Path = directory / DBNAME
        self._file = str(self.file)
        self.on_damage = on_damage
        """Called with what is wrong, wherever it is met; must be quick and not raise. None: nobody mends it."""
        self._moving = threading.RLock()  # Who moves the log must not find it busy for another who does.
        prepare_directory(directory)
        self._connections = Connections(directory, fsync=fsync)
        try:
            patiently(self._open)
        except BaseException:
            self._connections.close()
            raise

    def _open(self) -> None:
        if self._format() == FORMAT:
            return
        with locked(self.directory.parent / f"{self.directory.name}.lock"):
            if self._format() is None:
                self._create()
        if (found := self._format()) != FORMAT:
            raise ConfigurationError(
                f"{self.directory} has format {found!r:.40}, this localfirst knows {FORMAT}: open it with the version"
                " that made it, or open another directory"
            )

    def _format(self) -> Any:
        with self._using() as execute:
            return format_of(execute)

    def _create(self) -> None:
        with self._using() as execute:
            if not check_free(self.file, execute):
                raise self.damaged("has lost its settings")
            create(self.directory, execute)
        with self.transaction(), self._using() as execute:
            finish(execute)

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
            self._translate(error)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Everything inside is committed at once, or not at all. Keep it small, and never await inside.

        One in another is a part of that: it is on disk when that is, and can be undone without it.
        """
        with self._using() as execute, self._connections.writing:
            connection = self._connections.acquire()
            try:
                begin, end, undo = _INNER if connection.sqlite.in_transaction else _OUTER
                execute(begin)
                try:
                    yield
                    execute(end)
                    connection.transactions += 1
                except BaseException:
                    if connection.sqlite.in_transaction:
                        for statement in undo:
                            execute(statement)
                    raise
            finally:
                connection.lock.release()

    def together(self, calls: Iterable[Callable[[], None]]) -> None:
        """Make calls, none of which raises, in one transaction. What this raises leaves nothing of any of them."""
        with self.transaction():
            connection = self._connections.acquire()
            try:
                for call in calls:
                    call()
                    if not connection.sqlite.in_transaction:  # What comes now would be stored, and by itself.
                        raise StoreUnwritable(f"{self.directory} can't be used now; nothing of this call was stored")
            finally:
                connection.lock.release()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """All reads inside see one state."""
        with self._using() as execute:
            connection = self._connections.acquire()
            inner = connection.sqlite.in_transaction  # Which sees one state as it is.
            try:
                if not inner:
                    execute("BEGIN")
                yield
            finally:
                connection.lock.release()
                if connection.sqlite.in_transaction and not inner:  # Else SQLite has ended it, for a fault of the disk.
                    execute("COMMIT")

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, or None."""
        with self._using() as execute:
            row = execute(f"SELECT value, {READABLE}, tag FROM Cache WHERE key = ? AND raw = 1", (key,)).fetchone()
        return None if row is None else self._checked(key, *row)

    def range(self, lower: bytes, upper: bytes, limit: int = -1, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        """The rows with lower <= key < upper in the order of keys."""
        order = "DESC" if reverse else "ASC"
        query = (
            f"SELECT key, value, {READABLE}, tag FROM Cache"
            f" WHERE key >= ? AND key < ? ORDER BY key {order}, raw LIMIT ?"
        )
        with self._using() as execute:
            rows = execute(query, (lower, upper, limit)).fetchall()
        return [(key, self._checked(key, value, readable, tag)) for key, value, readable, tag in rows]

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

    def check_ends(self, lower: bytes, count: int) -> None:
        """Raise `StoreCorrupt` if the index has a wrong key for the row before a key, or behind so many rows from it:
        it may hide rows that are there. In a snapshot."""
        with self._using() as execute:
            before = execute("SELECT key, rowid FROM Cache WHERE key < ? ORDER BY key DESC, raw DESC LIMIT 1", (lower,))
            behind = execute(
                "SELECT key, rowid FROM Cache WHERE key >= ? ORDER BY key, raw LIMIT 1 OFFSET ?", (lower, count)
            )
            for key, rowid in (*before, *behind):
                if execute("SELECT key FROM Cache NOT INDEXED WHERE rowid = ?", (rowid,)).fetchone() != (key,):
                    raise self.damaged(f"has an index that is wrong at key {key!r:.80}")

    def insert(self, key: bytes, value: bytes) -> None:
        """Add a row; raises `RowExists` if the key is taken."""
        with self._using() as execute, self._connections.writing:
            try:
                execute(_INSERT, (key, time.time(), checksum(key, value), value))
            except sqlite3.IntegrityError:
                raise RowExists from None

    def insert_last(self, key: bytes, value: bytes, upper: bytes) -> None:
        """Add a row; raises `RowExists` if there is one with key <= its key < upper."""
        try:
            connection = self._connections.acquire()
            try:
                with self._connections.writing:
                    connection.sqlite.execute(_INSERT_LAST, (key, time.time(), crc32(value, crc32(key)), value, upper))
            finally:
                connection.lock.release()
        except sqlite3.IntegrityError:
            raise RowExists from None
        except sqlite3.Error as error:
            self._translate(error)

    def put(self, key: bytes, value: bytes) -> None:
        """Add a row, or give it another value."""
        with self._using() as execute, self._connections.writing:
            execute(
                f"{_INSERT} ON CONFLICT (key, raw)"
                " DO UPDATE SET value = excluded.value, store_time = excluded.store_time, tag = excluded.tag",
                (key, time.time(), checksum(key, value), value),
            )

    def restore(self, found: Iterable[tuple[bytes, bytes, float]], *, once: bytes) -> None:
        """Add rows with the times of their writing. Where a key is taken, the later row stands; of keys that begin with
        `once`, the earlier."""
        with self.transaction(), self._using() as execute:
            for key, value, since in found:
                clause = "IGNORE" if key.startswith(once) else "REPLACE"
                row = (key, since, checksum(key, value), value)
                execute(_INSERT.replace("INSERT", f"INSERT OR {clause}", 1), row)

    def delete_range(self, lower: bytes, upper: bytes, limit: int = -1) -> int:
        """Remove the rows with lower <= key < upper, the first of them up to a limit; returns how many. In a
        transaction.

        The guard row takes the greatest rowid first, so that SQLite gives no rowid twice and `added_since` misses none.
        """
        with self._using() as execute:
            execute(
                "INSERT OR REPLACE INTO Cache (rowid, key, raw, mode, tag, value)"
                f" VALUES ((SELECT max(rowid) + 1 FROM Cache), ?, 1, {MODE_RAW}, ?, x'')",
                (_GUARD, checksum(_GUARD, b"")),
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
            raise self.damaged("holds a key that localfirst did not write")
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
            self._translate(error)
        return connection.serial, (number, connection.transactions)

    def size(self) -> int:
        """Bytes of the database, without the write-ahead log."""
        return file_bytes(self._file)

    def stamped(self, lower: bytes, upper: bytes, limit: int = -1) -> list[tuple[bytes, bytes, float]]:
        """The rows with lower <= key < upper, in order, each with the Unix time when it was written."""
        query = (
            f"SELECT key, value, {READABLE}, tag, store_time FROM Cache WHERE key >= ? AND key < ? ORDER BY key LIMIT ?"
        )
        with self._using() as execute:
            rows = execute(query, (lower, upper, limit)).fetchall()
        return [(key, self._checked(key, value, readable, tag), at or 0.0) for key, value, readable, tag, at in rows]

    def disk_bytes(self) -> int:
        """What is taken on disk, with the write-ahead log, and without what is free to be given back."""
        with self._using() as execute:
            pages, free, size = [
                execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
            ]
        return int((pages - free) * size) + self.wal_bytes()

    def wal_bytes(self) -> int:
        """Size of the write-ahead log."""
        return file_bytes(f"{self._file}-wal")

    def checkpoint(self) -> None:
        """Move the write-ahead log into the database as far as that disturbs nobody."""
        with self._moving, self._using() as execute:
            execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()

    def move_log(self) -> None:
        """As `checkpoint`, and let the write-ahead log be written over from its beginning: for a moment, whoever
        writes finds it busy."""
        with self._moving, self._using() as execute:
            self.checkpoint()
            for _ in range(_TRIES):  # Each moves what was written since, if somebody is just writing.
                busy, _, _ = execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
                if not busy:
                    return

    def shrink(self) -> None:
        """As `checkpoint`, and give back to the disk what the write-ahead log takes, unless another process reads."""
        with self._moving:
            if self.wal_bytes() > _LONG_LOG:
                self.checkpoint()  # Most of it without keeping anybody from writing.
            with self._using() as execute, self._connections.writing:
                execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def give_back(self, pages: int = 64) -> bool:
        """Return some of the space of deleted rows to the disk. False: there was none."""
        with self._using() as execute, self._connections.writing:
            if not execute("PRAGMA freelist_count").fetchone()[0]:
                return False
            execute(f"PRAGMA incremental_vacuum({pages})").fetchall()
        return True

    def scrub(self) -> bool:
        """Take from the write-ahead log, too, what was deleted. False: somebody reads just now; try again."""
        while self.give_back():
            pass
        with self._moving:
            self.checkpoint()  # Most of it, while others write.
            with self._using() as execute, self._connections.writing:
                busy, _, _ = execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        return not busy

    def is_there(self) -> bool:
        """Whether the files are where they were."""
        try:
            self._connections.check_place()
        except StoreMoved:
            return False
        return True

    def forked(self) -> None:
        """In a child process, where nobody moves anything."""
        self._moving = threading.RLock()

    def close(self) -> None:
        """Close the connections of all threads; later calls raise `StoreClosed`."""
        self._connections.close()

    def check(self) -> str:
        """What is wrong with the database as a whole; empty: nothing. Reads all of it, some 250 MB in a second."""
        with self._using() as execute:
            found = execute("PRAGMA integrity_check(1)").fetchone()[0]
        return "" if found == "ok" else str(found)

    def damaged(self, what: str, kind: type[StoreCorrupt] = StoreCorrupt) -> StoreCorrupt:
        """The error that says what is wrong with the directory; it is noted, so that the next open looks into it."""
        if self.on_damage is None:
            return kind(f"{self.directory} {what}: restore it from a backup, or move it away")
        self.on_damage(f"{self.directory} {what}")
        return kind(f"{self.directory} {what}: open the store again, which saves what can still be read")

    def _translate(self, error: Exception) -> NoReturn:
        if (known := of_this_call(self.directory, error)) is not None:
            raise known from error
        self._connections.check_place()  # Else whatever is wrong is wrong with another file.
        if (known := of_the_disk(self.directory, error)) is not None:
            raise known from error
        raise self.damaged(f"is damaged ({error})") from error

    def _checked(self, key: bytes, value: Any, readable: int, tag: Any) -> bytes:
        if not readable or crc32(value, crc32(key)) != tag:
            raise self.damaged(
                f"holds a row that localfirst did not write, at key {key!r:.80}; it was not read", BadRow
            )
        return value  # type: ignore[no-any-return]


@contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold an operating-system lock. Raises `StoreFull` or `StoreUnwritable` if its file can't be made."""
    lock = FileLock(file, mode=0o600)
    try:
        lock.acquire()
    except OSError as error:
        raise file_error(file.parent, error) from error
    try:
        yield
    finally:
        lock.release()


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
