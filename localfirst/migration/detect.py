"""What a file is that somebody names as a place where conversations are."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Final, Literal

from localfirst.export import EXPORT_FORMAT
from localfirst.migration.readonly import columns, open_read_only

Kind = Literal["openai-agents", "openstackai", "localfirst-export", "sqlite"]

_OPENAI_AGENTS: Final = {"id", "session_id", "message_data", "created_at"}
_OPENSTACKAI: Final = {"id", "session_id", "role", "content", "position"}
_NO_DATABASE: Final = "file is not a database"
_SMALLEST: Final = 512
"""Bytes of a database. Of less, SQLite says that it is an empty one, whatever it is."""
_BEGINNING: Final = 4096


def kind_of(path: str | os.PathLike[str]) -> Kind | None:
    """What is in a file: conversations of the OpenAI Agents SDK or of openstackai in SQLite, an export of a session,
    or a SQLite database of anything else; None: nothing of these, or no file that can be read. The file stays as it is.

    >>> kind_of("/nowhere") is None
    True
    """
    file = Path(path)
    try:
        if not file.is_file():
            return None
        if file.stat().st_size >= _SMALLEST:
            # By SQLite first: if this process has the file open in SQLite, whoever else closes it lets go of its locks.
            with closing(open_read_only(file)) as connection:
                return _kind_of_database({table: set(fields) for table, fields in columns(connection).items()})
    except sqlite3.DatabaseError as error:
        if str(error) != _NO_DATABASE:
            return "sqlite"  # Damaged, or locked: whoever reads it is told.
    except (OSError, ValueError):
        return None
    return "localfirst-export" if _is_export(file) else None


def _kind_of_database(tables: dict[str, set[str]]) -> Kind:
    if any(found >= _OPENAI_AGENTS for found in tables.values()):
        return "openai-agents"
    if tables.get("messages", set()) >= _OPENSTACKAI and "sessions" in tables:
        return "openstackai"
    return "sqlite"


def _is_export(file: Path) -> bool:
    try:
        with file.open("rb") as opened:
            beginning = opened.read(_BEGINNING)
    except OSError:
        return False
    return beginning.lstrip().startswith(b"{") and b'"%b"' % EXPORT_FORMAT.encode() in beginning
