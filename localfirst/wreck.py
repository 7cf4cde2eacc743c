"""What can still be read in a broken database. Nothing is written to it: all is done on a copy."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing, suppress
from heapq import heapify, heappop, heappush
from pathlib import Path
from typing import Any, Final, NamedTuple

from localfirst.connections import DATABASE
from localfirst.private import open_private
from localfirst.schema import READABLE, checksum

_MOST_LOOKS: Final = 30_000
"""Looks into stretches that can't be read as a whole, before the rest of them is given up: a second or two."""
_FEW_LOOKS: Final = 4096
"""The same, where hardly a row can be read."""
_STEP: Final = 64
"""Rows to pass over behind one that can't be read; twice as many each time until there is one that can."""
_END: Final = 1 << 62
_QUERY: Final = (
    f"SELECT rowid, key, value, {READABLE}, tag, store_time FROM Cache NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
)
_BY_INDEX: Final = "SELECT key, rowid FROM Cache INDEXED BY Cache_key_raw ORDER BY key {0}, raw {0}"
_ERRORS: Final = (sqlite3.Error, OverflowError, MemoryError)


class Found(NamedTuple):
    """A row that passes its checksum."""

    key: bytes
    value: bytes
    since: float
    """Unix time of its writing."""


class _Stretch(NamedTuple):
    size: int
    first: int
    last: int


_ALL: Final = _Stretch(_END, 0, _END)


class Wreck:
    """A broken database.

    `place`: a directory to work in. `sound`: a new database of the same format; if the first page of the broken one,
    which tells where everything is, can't be used, its first page is.
    """

    def __init__(self, broken: Path, place: Path, sound: Path) -> None:
        self._file = place / DATABASE
        self._sound = sound
        self._broken = broken
        self.named_all = False
        """Whether the index could be read as a whole, so that what it does not name was never there."""
        self.unread = False
        """Whether there are rows of which nothing is known, because they could not be met."""
        self._unsound: set[int] = set()
        self._met = 0

    @property
    def damaged(self) -> int:
        """Rows that were met, and are not what was written."""
        return len(self._unsound)

    def rows(self) -> Iterator[Found]:
        """All that can be read, in the order in which it was added; some of it perhaps twice."""
        self._copy()
        doubts = yield from self._read([_ALL])
        if doubts:
            self._copy()
            self._replace_first_page()
            yield from self._read(doubts if self._met else [_ALL])

    def named(self) -> Iterator[tuple[bytes, int]]:
        """Keys and numbers of rows by the index, which has no checksums: in order, and behind damage in reverse."""
        with closing(self._connect()) as connection:
            for order in ("ASC", "DESC"):
                try:
                    for key, rowid in connection.execute(_BY_INDEX.format(order)):
                        if isinstance(key, bytes) and isinstance(rowid, int):
                            yield key, rowid
                except _ERRORS:
                    continue
                self.named_all = order == "ASC"
                return

    def sought(self, rowids: Iterable[int]) -> Iterator[Found | None]:
        """The rows with these numbers, each if it can be read."""
        with closing(self._connect()) as connection:
            for rowid in rowids:
                row = None
                with suppress(*_ERRORS):
                    row = connection.execute(f"{_QUERY} LIMIT 1", (rowid,)).fetchone()
                yield None if row is None or row[0] != rowid else self._checked(*row)

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

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._file, isolation_level=None)
        connection.text_factory = bytes
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA temp_store = MEMORY")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA writable_schema = ON")  # Else SQLite refuses a file that was cut short.
            connection.execute("PRAGMA mmap_size = 0")
        return connection

    def _read(self, stretches: list[_Stretch]) -> Generator[Found, None, list[_Stretch]]:
        """Returns what could not be read as a whole."""
        with closing(self._connect()) as connection:
            doubts = (yield from self._leap(connection)) if stretches == [_ALL] else stretches
            self.unread = bool(doubts)
            yield from self._look_closer(connection, doubts)
            return doubts

    def _leap(self, connection: sqlite3.Connection) -> Generator[Found, None, list[_Stretch]]:
        """Read by number, and pass over what can't be read; returns that."""
        doubts: list[_Stretch] = []
        at, step = 0, _STEP
        while at < _END:
            begin = at
            at, ended = yield from self._stretch(connection, at, _END)
            if ended:
                break
            step = _STEP if at > begin else 2 * step  # Numbers may have gaps of millions, where rows were deleted.
            doubts.append(_Stretch(step, at, at + step))
            at += step + 1
        return doubts

    def _look_closer(self, connection: sqlite3.Connection, doubts: list[_Stretch]) -> Generator[Found, None, None]:
        """Halve what can't be read as a whole: the smallest stretches first, for rows are close to each other."""
        ranges = doubts.copy()
        heapify(ranges)
        for _ in range(min(_FEW_LOOKS + self._met, _MOST_LOOKS)):
            if not ranges:
                return
            _, first, last = heappop(ranges)
            first, ended = yield from self._stretch(connection, first, last)
            if not ended and first < last:
                middle = (first + last) // 2
                heappush(ranges, _Stretch(middle - first, first, middle))
                heappush(ranges, _Stretch(last - middle - 1, middle + 1, last))

    def _stretch(self, connection: sqlite3.Connection, at: int, upto: int) -> Generator[Found, None, tuple[int, bool]]:
        """Read from one number to another. Returns how far that came, and whether all of it was met.

        Which number a broken page gives is anybody's guess, even with a row that is sound. So it counts only once a
        greater one follows, and SQLite is told no upper bound, at which it would end without an error.
        """
        last, sound = at - 1, True
        try:
            for rowid, *row in connection.execute(_QUERY, (at,)):
                found = self._checked(rowid, *row)
                if found is None:
                    sound = False
                    continue
                self._met += 1
                yield found
                if rowid > last:
                    at = max(at, last + 1)
                    if last > upto:
                        break
                last = rowid
        except _ERRORS:
            return at, False
        return at, sound or upto == _END

    def _checked(self, rowid: int, key: Any, value: Any, readable: Any, tag: Any, since: Any) -> Found | None:
        if not readable or checksum(key, value) != tag:
            if len(self._unsound) < _MOST_LOOKS:
                self._unsound.add(rowid)
            return None
        now = time.time()
        return Found(key, value, since if isinstance(since, float) and 0 < since < now else now)
