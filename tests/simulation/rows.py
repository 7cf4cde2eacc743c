"""The rows of a directory in memory: what `localfirst.rows.Rows` does, for processes that may die at any commit."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final, NamedTuple

from localfirst.errors import StoreCorrupt
from localfirst.records import CHANGE, HEAD, KEY_BYTES
from localfirst.rows import RowExists, Rows
from tests.simulation.world import WORLD

_KINDS: Final = CHANGE + HEAD


class Crash(BaseException):
    """The process ends here."""


class Life:
    """Whether a process lives, and how many more commits it has."""

    def __init__(self, fuse: int | None = None, *, late: bool = False) -> None:
        self.dead = False
        self.fuse = fuse
        """It dies with this commit, counted from now; None: with none."""
        self.late = late
        """After that commit, not before it."""

    def check(self) -> None:
        """Nothing is done by the dead."""
        if self.dead:
            raise Crash

    def commit(self, apply: Callable[[], None]) -> None:
        """Commit, and perhaps die before or after it."""
        self.check()
        dies = False
        if self.fuse is not None:
            self.fuse -= 1
            dies = self.fuse < 0
        if dies and not self.late:
            self.dead = True
            raise Crash
        apply()
        if dies:
            self.dead = True
            raise Crash


class Row(NamedTuple):
    """One row of the table."""

    value: bytes
    rowid: int
    stored_at: float


class Disk:
    """What is on the disk of one directory, whoever writes it."""

    def __init__(self) -> None:
        self.rows: dict[bytes, Row] = {}
        self.order: list[bytes] = []
        self.last_rowid = 0
        self.commits = 0
        self.touched: set[bytes] = set()
        """The sessions whose changes or heads were written since somebody looked."""

    def copy(self) -> Disk:
        """As it is now."""
        other = Disk()
        other.rows, other.order, other.last_rowid = dict(self.rows), list(self.order), self.last_rowid
        return other

    def put(self, key: bytes, row: Row | None) -> None:
        """Give a key a row, or none."""
        if row is None:
            del self.rows[key]
            del self.order[bisect_left(self.order, key)]
        else:
            if key not in self.rows:
                insort(self.order, key)
            self.rows[key] = row
        if key[0] in _KINDS:
            self.touched.add(key[1 : 1 + KEY_BYTES])

    def span(self, lower: bytes, upper: bytes) -> list[bytes]:
        """The keys with lower <= key < upper."""
        return self.order[bisect_left(self.order, lower) : bisect_left(self.order, upper)]

    def new_row(self, value: bytes) -> Row:
        """A row that was never there."""
        self.last_rowid += 1
        return Row(value, self.last_rowid, WORLD.time())


class MemoryRows(Rows):
    """One connection of one process."""

    _serials = count(1)

    def __init__(self, disk: Disk, life: Life) -> None:
        self.directory = self.file = Path("simulated")
        self.disk = disk
        self._life = life
        self._serial = next(self._serials)
        self._commits = 0
        self._transactions = 0
        self._undo: list[tuple[bytes, Row | None]] | None = None

    def _write(self, changes: list[tuple[bytes, Row | None]]) -> None:
        if self._undo is not None:
            self._life.check()
            for key, row in changes:
                self._undo.append((key, self.disk.rows.get(key)))
                self.disk.put(key, row)
            return
        self._life.commit(lambda: self._commit(changes))

    def _commit(self, changes: list[tuple[bytes, Row | None]]) -> None:
        for key, row in changes:
            self.disk.put(key, row)
        self.disk.commits += 1
        self._commits += 1

    @contextmanager
    def transaction(self) -> Iterator[None]:
        self._life.check()
        assert self._undo is None, "a transaction in a transaction"
        self._undo = []
        try:
            yield
            undo, self._undo = self._undo, None
            try:
                self._life.commit(lambda: self._commit([]))
            except Crash:
                if not self._life.late:
                    self._roll_back(undo)
                raise
            self._transactions += 1
        except BaseException:
            if self._undo is not None:
                undo, self._undo = self._undo, None
                self._roll_back(undo)
            raise

    def _roll_back(self, undo: list[tuple[bytes, Row | None]]) -> None:
        for key, row in reversed(undo):
            self.disk.put(key, row)

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        self._life.check()
        yield

    def get(self, key: bytes) -> bytes | None:
        self._life.check()
        row = self.disk.rows.get(key)
        return None if row is None else row.value

    def range(self, lower: bytes, upper: bytes, limit: int = -1, *, reverse: bool = False) -> list[tuple[bytes, bytes]]:
        self._life.check()
        keys = self.disk.span(lower, upper)
        if reverse:
            keys.reverse()
        return [(key, self.disk.rows[key].value) for key in (keys if limit < 0 else keys[:limit])]

    def keys(self, lower: bytes, upper: bytes) -> list[bytes]:
        self._life.check()
        return self.disk.span(lower, upper)

    def has_more(self, lower: bytes, upper: bytes, count: int) -> bool:
        self._life.check()
        return len(self.disk.span(lower, upper)) > count

    def check_ends(self, lower: bytes, count: int) -> None:
        self._life.check()

    def insert(self, key: bytes, value: bytes) -> None:
        if self.get(key) is not None:
            raise RowExists
        self._write([(key, self.disk.new_row(value))])

    def insert_last(self, key: bytes, value: bytes, upper: bytes) -> None:
        self._life.check()
        if self.disk.span(key, upper):
            raise RowExists
        self._write([(key, self.disk.new_row(value))])

    def put(self, key: bytes, value: bytes) -> None:
        self._life.check()
        known, row = self.disk.rows.get(key), self.disk.new_row(value)
        self._write([(key, row if known is None else row._replace(rowid=known.rowid))])

    def delete_range(self, lower: bytes, upper: bytes, limit: int = -1) -> int:
        self._life.check()
        keys = self.disk.span(lower, upper)
        keys = keys if limit < 0 else keys[:limit]
        self._write([(key, None) for key in keys])
        return len(keys)

    def prefixes_since(self, rowid: int, lower: bytes, upper: bytes, length: int) -> tuple[set[bytes], int]:
        self._life.check()
        rows = self.disk.rows
        return {key[:length] for key in self.disk.span(lower, upper) if rows[key].rowid > rowid}, self.disk.last_rowid

    def measure(self, lower: bytes, upper: bytes) -> tuple[int, int, float]:
        self._life.check()
        rows = [self.disk.rows[key] for key in self.disk.span(lower, upper)]
        return len(rows), sum(len(row.value) for row in rows), min((row.stored_at for row in rows), default=0.0)

    def last_row(self) -> int:
        self._life.check()
        return self.disk.last_rowid

    def version(self) -> tuple[int, tuple[int, int]]:
        self._life.check()
        return self._serial, (self.disk.commits - self._commits, self._transactions)

    def size(self) -> int:
        return 0

    def damaged(self, what: str, kind: type[StoreCorrupt] = StoreCorrupt) -> StoreCorrupt:
        return kind(what)

    def wal_bytes(self) -> int:
        return 0

    def checkpoint(self) -> None:
        pass

    def scrub(self) -> bool:
        return True

    def give_back(self, pages: int = 256) -> bool:
        return False

    def close(self) -> None:
        pass
