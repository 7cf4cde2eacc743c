"""What errors of SQLite and of the operating system with a store's files mean to those who use it."""

from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path
from typing import Final

from localfirst.errors import ItemTooLarge, LocalFirstError, StoreBusy, StoreClosed, StoreFull, StoreUnwritable

FULL: Final = (errno.ENOSPC, errno.EDQUOT)
"""The numbers of errors of the operating system that say that there is no space."""
_OUT_OF_SHAPE: Final = ("no such", "decode", "malformed", "has no column")
"""SQLite's words for a schema that is not the one that was made, and for text where bytes belong."""
_LITTLE: Final = 1 << 16
"""Bytes of free space that are none: SQLite asks for 32 KiB at once, and reports no more than a failed write."""


def of_this_call(directory: Path, error: Exception) -> LocalFirstError | None:
    """The error that says what is wrong with a call, or with its moment; None: it is something else."""
    text = str(error)
    if isinstance(error, sqlite3.ProgrammingError) and "closed" in text:
        return StoreClosed(f"{directory} was closed during the call: open it again")
    if "too big" in text:
        return ItemTooLarge(f"more than {directory} can hold in one row ({text}); nothing of this call was stored")
    if "locked" in text or "busy" in text:
        return StoreBusy(f"{directory} is locked by another process; nothing of this call was stored: try again")
    return None


def of_the_disk(directory: Path, error: Exception) -> LocalFirstError | None:
    """The error that says what is wrong with the disk, if `of_this_call` has none; None: the database is damaged."""
    text = str(error)
    if "full" in text or ("disk I/O" in text and _is_full(directory)):
        return no_space(directory, error)
    if isinstance(error, sqlite3.OperationalError) and not any(each in text for each in _OUT_OF_SHAPE):
        return StoreUnwritable(f"{directory} can't be used ({text}); nothing of this call was stored")
    return None


def no_space(directory: Path, error: Exception) -> StoreFull:
    """The error that says so."""
    return StoreFull(f"no space for {directory} ({error}); nothing of this call was stored: free some space")


def file_error(directory: Path, error: OSError) -> StoreFull | StoreUnwritable:
    """What an error of the operating system with one of a store's files means to its user."""
    if error.errno in FULL:
        return no_space(directory, error)
    return StoreUnwritable(f"{directory} can't be used ({error}); nothing of this call was stored")


def _is_full(directory: Path) -> bool:
    """Whether there is next to no space left, as far as the file system tells."""
    try:
        found = os.statvfs(directory)
    except (OSError, AttributeError):  # Another operating system.
        return False
    return found.f_bavail * found.f_frsize < _LITTLE
