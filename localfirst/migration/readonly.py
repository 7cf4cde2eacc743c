"""SQLite files of other programs, opened so that nothing in them can change, also while their owners write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from urllib.parse import quote

from localfirst.errors import SourceUnreadable

_UNOPENED: Final = ("unable to open", "attempt to write a readonly")
_PATIENCE: Final = 30.0
"""Seconds to wait for an owner that keeps the file locked; in WAL mode, none does."""


def open_read_only(file: Path) -> sqlite3.Connection:
    """A connection that can only read. Bytes that are no text come as lone surrogates. Raises `sqlite3.Error`."""
    address = f"file:{quote(str(file.absolute()))}?mode=ro"
    connection = sqlite3.connect(address, uri=True, timeout=_PATIENCE, isolation_level=None, check_same_thread=False)
    connection.text_factory = _text
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.OperationalError as error:
        connection.close()
        in_use = any(file.with_name(file.name + each).exists() for each in ("-wal", "-journal"))
        if in_use or not str(error).startswith(_UNOPENED):
            raise
        # On a disk that can't be written, SQLite can't make what it wants beside a file in WAL mode. Nor can others.
        connection = sqlite3.connect(f"{address}&immutable=1", uri=True, isolation_level=None, check_same_thread=False)
        connection.text_factory = _text
    return connection


def columns(connection: sqlite3.Connection) -> dict[str, dict[str, str]]:
    """The tables, and of each the columns with their declared types. Raises `sqlite3.Error`."""
    query = (
        "SELECT found.name, field.name, field.type FROM sqlite_master AS found, pragma_table_info(found.name) AS field"
        " WHERE found.type = 'table'"
    )
    tables: dict[str, dict[str, str]] = {}
    for table, column, kind in connection.execute(query):
        tables.setdefault(table, {})[column] = kind
    return tables


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Raise ours for what SQLite raises inside."""
    try:
        yield
    except sqlite3.Error as error:
        advice = ""
        if type(error) is sqlite3.DatabaseError:
            advice = "; what `sqlite3 FILE .recover` saves of it can be imported instead"
        elif str(error).startswith(_UNOPENED):
            advice = "; if its owner was stopped while it wrote, start that once, so that it ends what it began"
        raise SourceUnreadable(f"{name} can't be read: {error}{advice}") from error


def quoted(name: str) -> str:
    """A name in a statement."""
    return '"' + name.replace('"', '""') + '"'


def _text(data: bytes) -> str:
    return data.decode(errors="surrogateescape")
