"""What tells that a database is damaged before it is opened, and the note on disk that it is."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import struct
import sys
import tempfile
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, NamedTuple

import msgspec

from localfirst.connections import Connections, file_bytes
from localfirst.private import open_private

if sys.platform != "win32":
    import fcntl

_logger = logging.getLogger("localfirst")

_INDEX_HEADER: Final = struct.Struct("=IIIBBHII2I8s2I")
"""Of the file that SQLite keeps beside a write-ahead log, in which it counts its frames."""
_INDEX_VERSION: Final = 3007000
_INDEX_ALIVE: Final = 128
"""The byte of that file which every process that has the database open holds a lock on."""
_LOG_HEADER: Final = 32
_LEFT_SECONDS: Final = 60.0
_FRAME: Final = struct.Struct(">II8s8s")


class Note(msgspec.Struct):
    """What is known of a damaged database."""

    reason: str
    aside: str = ""
    """The directory that it is moved to, once that has begun."""


def note_file(directory: Path) -> Path:
    """Where the note is: beside the database, which may be on its way elsewhere."""
    return directory.with_name(f"{directory.name}.damaged")


def read_note(directory: Path) -> Note | None:
    """The note, if there is one."""
    try:
        note = msgspec.json.decode(note_file(directory).read_bytes(), type=Note)
        return note if is_name(note.aside) else Note(note.reason)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return Note("it was found to be damaged")  # Whoever wrote the note was stopped, or the disk was full.


def is_name(text: str) -> bool:
    """Whether it is a name of something beside the database, and leads nowhere else.

    >>> is_name("data.broken-20300101T000000Z"), is_name("../elsewhere"), is_name("")
    (True, False, False)
    """
    return text not in ("", ".", "..") and not set(text) & set("/\\\0") and text.isascii() and len(text) < 256


def write_note(directory: Path, note: Note) -> None:
    """Write it down, for this process and all others. Raises `OSError`."""
    file = note_file(directory)
    temporary = file.with_name(f"{file.name}.{os.getpid()}")
    with os.fdopen(open_private(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC), "wb") as written:
        written.write(msgspec.json.encode(note))
        written.flush()
        os.fsync(written.fileno())
    temporary.replace(file)


def made_file(directory: Path) -> Path:
    """Is there from when the database was made: without it, one that is missing or empty was never there."""
    return directory.with_name(f"{directory.name}.made")


def evidence(database: Path) -> str:
    """What is wrong with a database, as far as that shows without opening it; empty: nothing."""
    if not file_bytes(str(database)) and made_file(database.parent).exists():
        return "is empty" if database.exists() else "is gone"
    with Connections.making:
        return "" if Connections.is_used_here(database) else _log_damage(database)


class _Index(NamedTuple):
    frames: int
    """Of the write-ahead log, that were committed."""
    moved: int
    """How many of them are in the database already."""


def _log_damage(database: Path) -> str:
    """SQLite takes a write-ahead log up to the first frame that is damaged, and forgets the rest without a word."""
    log, index_file = f"{database}-wal", f"{database}-shm"
    if not os.path.lexists(log) and not os.path.lexists(index_file):
        return ""
    return _log_lacks(Path(log), *_read_index(Path(index_file)))


def _log_lacks(log: Path, index: _Index | None, alive: bool) -> str:
    if alive:
        return ""  # What is in the log was read by processes that go on.
    needed = index.frames if index is not None and index.frames > index.moved else 0
    if not log.exists() or not log.stat().st_size:
        return f"has lost its write-ahead log, of {needed} frames" if needed else ""
    try:
        found = _recovered(log)
        lost = max(needed - found, _committed_after(log, found))
    except (OSError, sqlite3.Error) as error:  # No space to look, say.
        _logger.warning("%s is taken as SQLite takes it, without a look at it before: %s", log, error)
        return ""
    return f"has a damaged write-ahead log: {lost} frames after the first {found} can't be read" if lost else ""


def _read_index(file: Path) -> tuple[_Index | None, bool]:
    """What the processes before knew of the log, and whether one of them lives."""
    if sys.platform == "win32":
        return None, False
    try:
        with open(file, "r+b") as index:  # noqa: PTH123 - as the rest of it
            data = index.read(2 * _INDEX_HEADER.size + 4)
            fcntl.lockf(index, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _INDEX_ALIVE)
    except FileNotFoundError:
        return None, False
    except OSError:
        return None, True
    if len(data) < 2 * _INDEX_HEADER.size + 4 or data[: _INDEX_HEADER.size] != data[_INDEX_HEADER.size : -4]:
        return None, False
    version, _, _, ready, _, _, frames, *_ = _INDEX_HEADER.unpack(data[: _INDEX_HEADER.size])
    if version != _INDEX_VERSION or not ready:
        return None, False
    return _Index(frames, int.from_bytes(data[-4:], sys.byteorder)), False


def _recovered(log: Path) -> int:
    """How many frames SQLite takes of a log, tried on a copy."""
    for left in log.parent.parent.glob("look-*"):  # By a process that was killed while it looked.
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=log.parent.parent, prefix="look-") as place:
        copy = Path(place, "copy.db")
        os.close(open_private(copy, os.O_CREAT | os.O_WRONLY))  # SQLite gives its other files the same mode.
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute(f"PRAGMA page_size = {_page_size(log)}")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("CREATE TABLE anything (at_all)")
        with os.fdopen(open_private(Path(f"{copy}-wal"), os.O_CREAT | os.O_WRONLY), "wb") as file:
            file.write(log.read_bytes())
        with closing(sqlite3.connect(copy)) as connection:
            connection.execute("PRAGMA synchronous = OFF")
            with suppress(sqlite3.Error):  # It is not the database of the log. What counts is how far that is read.
                connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
            return max(0, int(connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()[1]))


def _page_size(log: Path) -> int:
    with log.open("rb") as file:
        size = int.from_bytes(file.read(12)[8:], "big")
    return size if size.bit_count() == 1 and 512 <= size <= 1 << 16 else 4096


def _committed_after(log: Path, frame: int) -> int:
    """How many frames after one are of the same life of the log, if a commit is among them that others followed.

    A commit that is the last one may have been under way when its process was killed: then it was never told.
    """
    size = _page_size(log) + _FRAME.size
    with log.open("rb") as file:
        salts = file.read(_LOG_HEADER)[16:24]
        count, commits = 0, []
        file.seek(_LOG_HEADER + frame * size)
        while len(header := file.read(_FRAME.size)) == _FRAME.size:
            _, committed, its_salts, _ = _FRAME.unpack(header)
            if its_salts == salts:
                count += 1
                commits += [count] if committed else []
            file.seek(size - _FRAME.size, os.SEEK_CUR)
    return count if commits and commits[0] < count else 0
