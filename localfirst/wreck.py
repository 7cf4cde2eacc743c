"""What can still be read in a broken database. Nothing is written to it: all is done on a copy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Generator, Iterator
from contextlib import closing, suppress
from heapq import heappop, heappush
from pathlib import Path
from typing import Any, Final, NamedTuple

from localfirst.connections import DATABASE
from localfirst.private import open_private
from localfirst.schema import READABLE, checksum

_MOST_FAILURES: Final = 100_000
"""Reads that fail before the rest is given up."""
_BEYOND: Final = 4096
"""Rows to look for behind the last, where nothing tells how many there were."""
_QUERY: Final = (
    f"SELECT rowid, key, value, {READABLE}, tag, store_time FROM Cache NOT INDEXED WHERE rowid BETWEEN ? AND ?"
    " ORDER BY rowid"
)


class Found(NamedTuple):
    """A row that passes its checksum."""

    key: bytes
    value: bytes
    since: float
    """Unix time of its writing."""


class Wreck:
    """A broken database.

    `place`: a directory to work in. `sound`: a new database of the same format; if the first page of the broken one,
    which tells where everything is, can't be used, its first page is.
    """

    def __init__(self, broken: Path, place: Path, sound: Path) -> None:
        self._file = place / DATABASE
        self._sound = sound
        self._broken = broken
        self.damaged = 0
        """Rows that were met, and are not what was written."""

    def rows(self) -> Iterator[Found]:
        """All that can be read, in the order in which it was added; some of it perhaps twice."""
        self._copy()
        whole = yield from self._read()
        if not whole:
            self._copy()
            self._replace_first_page()
            yield from self._read()

    def _copy(self) -> None:
        for suffix in ("", "-wal", "-shm"):
            Path(f"{self._file}{suffix}").unlink(missing_ok=True)
        for suffix in ("", "-wal"):
            copy = Path(f"{self._file}{suffix}")
            with (
                suppress(FileNotFoundError),
                (self._broken / f"{DATABASE}{suffix}").open("rb") as broken,
                os.fdopen(open_private(copy, os.O_CREAT | os.O_WRONLY), "wb") as file,
            ):
                shutil.copyfileobj(broken, file, 1 << 20)

    def _replace_first_page(self) -> None:
        page = bytearray(self._sound.read_bytes()[:4096])
        with self._file.open("r+b") as file:
            size = file.seek(0, 2) // len(page)
            page[28:32] = size.to_bytes(4, "big")
            page[32:40] = bytes(8)  # No free pages: nobody will write to it.
            file.seek(0)
            file.write(page)

    def _read(self) -> Generator[Found, None, bool]:
        """Returns whether nothing went wrong."""
        self.damaged = 0
        with closing(sqlite3.connect(self._file, isolation_level=None)) as connection:
            connection.text_factory = bytes
            with suppress(sqlite3.Error):
                connection.execute("PRAGMA temp_store = MEMORY")
                connection.execute("PRAGMA trusted_schema = OFF")
                connection.execute("PRAGMA writable_schema = ON")  # Else SQLite refuses a file that was cut short.
                connection.execute("PRAGMA mmap_size = 0")
            failures = yield from self._scan(connection)
            return not failures

    def _scan(self, connection: sqlite3.Connection) -> Generator[Found, None, int]:
        """Read by rowid, and around what can't be read: the largest stretches first. Returns how many reads failed."""
        last = _last_row(connection)
        ranges = [(0, 0, last if last is not None else 1 << 62)]
        failures = 0
        while ranges and failures < _MOST_FAILURES:
            _, at, upto = heappop(ranges)
            try:
                for rowid, *row in connection.execute(_QUERY, (at, upto)):
                    at = max(at, rowid + 1)  # Which number a broken page gives is anybody's guess.
                    found = self._checked(*row)
                    if found is not None:
                        yield found
            except (sqlite3.Error, OverflowError, MemoryError):
                failures += 1
                if upto == 1 << 62:
                    upto = at + _BEYOND
                if at < upto:
                    middle = (at + upto) // 2
                    for part in ((at, middle), (middle + 1, upto)):
                        heappush(ranges, (part[0] - part[1], *part))
        return failures

    def _checked(self, key: Any, value: Any, readable: Any, tag: Any, since: Any) -> Found | None:
        if not readable or checksum(key, value) != tag:
            self.damaged += 1
            return None
        now = time.time()
        return Found(key, value, since if isinstance(since, float) and 0 < since < now else now)


def _last_row(connection: sqlite3.Connection) -> int | None:
    for source in ("Cache NOT INDEXED", "Cache INDEXED BY Cache_key_rowid"):
        with suppress(sqlite3.Error):
            found = connection.execute(f"SELECT max(rowid) FROM {source}").fetchone()[0]
            return found if isinstance(found, int) else 0
    return None
