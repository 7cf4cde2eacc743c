"""A store takes the place of the file that it was imported from, so that programs find it where they look.

Every step can be the last one before a power cut: done again, all of it goes on from whatever is there. The file itself
is only renamed, and only when everything was read back.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Final

from localfirst.errors import ConfigurationError, SourceUnreadable, StoreBusy
from localfirst.migration.detect import kind_of
from localfirst.migration.readonly import open_read_only, reading
from localfirst.migration.report import MigratedSession, MigrateReport
from localfirst.store import Store

if sys.platform != "win32":
    import fcntl

_COMPANIONS: Final = ("-wal", "-shm", "-journal")
_LOCKED_FROM: Final = 0x40000000
"""The bytes of a database that SQLite's locks are on; whoever has one in WAL mode open holds one all the time."""
_LOCKED: Final = 512


def kept(file: Path) -> Path:
    """Where the file is afterwards."""
    return file.with_name(f"{file.name}.before-localfirst")


def making(file: Path) -> Path:
    """Where the store is until then."""
    return file.with_name(f"{file.name}.localfirst-import")


def in_place(
    file: Path, open_store: Callable[[Path], Store], bring: Callable[[Path, Store], MigrateReport]
) -> MigrateReport:
    """Put a store with all that is in a file in its place, unless something of it can't be brought.

    Raises `StoreBusy` while somebody else has the file open, `ConfigurationError` for what is no such file, and what
    bringing it raises.
    """
    file, report = file.absolute(), None
    _check(file)
    if file.exists():
        report = _bring(file, file, open_store, bring)
        if not report.ok:
            return report
        with _alone(file):
            file.rename(kept(file))
    for each in _COMPANIONS:
        if (beside := file.with_name(file.name + each)).exists():
            beside.rename(f"{kept(file)}{each}")
    _sync(file.parent)
    last = _bring(kept(file), file, open_store, bring)  # What somebody wrote between reading and renaming, too.
    if last.ok:
        making(file).rename(file)
        _sync(file.parent)
    return last if report is None else _both(report, last)


def _check(file: Path) -> None:
    if file.is_symlink():
        raise ConfigurationError(f"{file} is a symbolic link: name the file itself")
    if file.is_dir():
        raise ConfigurationError(f"{file} is a directory already: if it is a store, there is nothing left to do")
    if file.exists() and kept(file).exists():
        raise ConfigurationError(
            f"{kept(file)} is there already, from an import before, and {file} has come back: move one of them away"
        )
    if file.exists() and (kind := kind_of(file)) not in ("openai-agents", "openstackai"):
        if kind == "sqlite":
            with reading(str(file)):  # It may be damaged, which is for SQLite to tell.
                open_read_only(file).close()
        raise ConfigurationError(f"{file} is no SQLite file of the OpenAI Agents SDK or of openstackai")
    if not file.exists() and not kept(file).exists():
        raise ConfigurationError(f"there is no file {file}")


def _bring(
    source: Path, file: Path, open_store: Callable[[Path], Store], bring: Callable[[Path, Store], MigrateReport]
) -> MigrateReport:
    with closing(open_store(making(file))) as store:
        return bring(source, store)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """While nobody else can use a database. Nothing of this process may have it open: that would let go of the lock."""
    if sys.platform == "win32":
        yield
        return
    try:
        opened = file.open("r+b")
    except OSError as error:
        raise SourceUnreadable(f"{file} can't be taken: {error.strerror}") from error
    with opened:
        try:
            fcntl.lockf(opened, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCKED, _LOCKED_FROM)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            raise StoreBusy(
                f"{file} is open in another program: end it and run this again. All that it has was imported into"
                f" {making(file)}, and nothing is lost"
            ) from error
        yield


def _sync(directory: Path) -> None:
    if sys.platform == "win32":
        return
    number = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def _both(first: MigrateReport, last: MigrateReport) -> MigrateReport:
    """One report of two runs, of which the second only looked for what had come since."""
    before = {session.session_id: session for session in first.sessions}
    return replace(
        last, source=first.source, sessions=tuple(_sum(before.get(each.session_id), each) for each in last.sessions)
    )


def _sum(first: MigratedSession | None, last: MigratedSession) -> MigratedSession:
    if first is None:
        return last
    return replace(last, imported=first.imported + last.imported, skipped=first.skipped)
