"""The database in a store's directory, as diskcache makes it and as it is used here.

diskcache brings the table, the unique index on (key, raw) and connections per thread. What it does by default and is
wrong for data that must not be lost is switched off here: pickle, eviction, culling, values in files, memory-mapped
reads, triggers and an index for an expiry that is not used.
"""

from __future__ import annotations

import errno
import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn
from zlib import crc32

import diskcache
from diskcache.core import DBNAME, DEFAULT_SETTINGS, METADATA, MODE_RAW

from localfirst.connections import Connections
from localfirst.diskerrors import FULL, no_space
from localfirst.errors import ConfigurationError, StoreCorrupt
from localfirst.private import keep_private, make_private, open_private

Execute = Callable[..., sqlite3.Cursor]

FORMAT: Final = 3
READABLE: Final = f"raw = 1 AND mode = {MODE_RAW} AND typeof(key) = 'blob' AND typeof(value) = 'blob'"
"""Of a row that localfirst may have written; the checksum tells whether it did."""

_SETTINGS: Final = {
    "eviction_policy": "none",
    "cull_limit": 0,
    "size_limit": 2**62,
    "statistics": 0,
    "sqlite_auto_vacuum": 2,  # Incremental: freed pages are given back when asked, not in each commit.
    "sqlite_mmap_size": 0,  # A truncated file must be an error, not a SIGBUS.
}
_KNOWN_SETTINGS: Final = frozenset((*DEFAULT_SETTINGS, *METADATA))
_MAKING_SECONDS: Final = 30.0
"""To wait for another process, while the table is made."""
_FORMAT_KEY: Final = "localfirst_format"


def checksum(key: bytes, value: bytes) -> int:
    """What tells a row that was written from one that was damaged since."""
    return crc32(value, crc32(key))


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


def prepare_directory(directory: Path) -> None:
    """Make the directory and an empty file for its database, readable by nobody else, if they are missing."""
    file = directory / DBNAME
    try:
        make_private(directory)
        # SQLite gives its other files the mode of this one, whatever the umask. One that is there already is never
        # opened here: closing it would let go of all locks that SQLite holds on it for other stores of this process,
        # and the next process that closes it would remove the write-ahead log under them.
        if not os.path.lexists(file):
            with Connections.making, suppress(FileExistsError):
                os.close(open_private(file, os.O_CREAT | os.O_EXCL | os.O_RDWR))
        keep_private(file)
        if not os.access(file, os.R_OK | os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))
    except NotADirectoryError:
        raise ConfigurationError(f"{directory} or its parent is a file: pass a path where a directory can be") from None
    except ConfigurationError:
        raise
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in FULL:
            raise no_space(directory, error) from error
        raise ConfigurationError(
            f"{directory} can't be created or written ({error}): pass another path, or change its permissions"
        ) from error
    if file.is_dir():
        raise ConfigurationError(f"{file} is a directory where a database belongs: move it away, or pass another path")


def create(directory: Path, execute: Execute) -> None:
    """Make the table."""
    execute("DROP TABLE IF EXISTS Settings")  # diskcache would do as they say.
    diskcache.Cache(str(directory), disk=NoPickleDisk, timeout=_MAKING_SECONDS, **_SETTINGS).close()


def finish(execute: Execute) -> None:
    """Remove from the database that was made what costs and is not used, and note its format. In a transaction."""
    triggers = execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
    for (name,) in triggers:
        execute(f'DROP TRIGGER IF EXISTS "{name}"')
    execute("DROP INDEX IF EXISTS Cache_expire_time")
    execute("INSERT OR REPLACE INTO Settings VALUES (?, ?)", (_FORMAT_KEY, FORMAT))


def format_of(execute: Execute) -> Any:
    """The format that is noted; None: there is no database yet, or it was not finished."""
    try:
        row = execute("SELECT value FROM Settings WHERE key = ?", (_FORMAT_KEY,)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" not in str(error):
            raise
        return None
    return row[0] if row else None


def check_free(file: Path, execute: Execute) -> bool:
    """Raise if somebody else made the database. False: localfirst did, and it has lost its settings.

    True: there is nothing yet, or what a process left that was killed while it made the database.
    """
    tables = {name for (name,) in execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    rows = execute(f"SELECT key, value, {READABLE}, tag FROM Cache") if "Cache" in tables else ()
    ours = [readable and checksum(key, value) == tag for key, value, readable, tag in rows]
    names = execute("SELECT key FROM Settings") if "Settings" in tables else ()
    others = [name for (name,) in names if name not in _KNOWN_SETTINGS]
    if any(ours):
        return False
    if ours or others or tables - {"Settings", "Cache", "sqlite_sequence", "sqlite_stat1"}:
        raise ConfigurationError(
            f"{file} is a database that localfirst did not make: it was left alone; pass another path"
        )
    return True
