"""Turns: calls that reach other replicas together. Which are open, in which process, and which were left behind.

While a turn is open it has a row, and the process holds an operating-system lock on a file that the row names. The lock
goes with the process, so a turn whose process was killed is known for what it is: what it wrote goes up. A turn of a
process that lives is waited for, as long as it writes now and then.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
from filelock import FileLock, Timeout

from localfirst.change import END, MAIN_BRANCH, Change, decode_change, in_turn, new_id
from localfirst.diskerrors import file_error
from localfirst.errors import MalformedChange
from localfirst.log import Log
from localfirst.records import KEY_BYTES, TURN, Head, SessionKey, number, span

IDLE_SECONDS: Final = 600.0
"""After so long without a write, a turn that was never ended is ended: its process may hang."""

_encode = msgspec.msgpack.Encoder().encode


class _Open(msgspec.Struct, frozen=True, array_like=True):
    owner: str


_decoder = msgspec.msgpack.Decoder(_Open)


class Owner:
    """The lock of this process, taken with its first turn."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._name = ""
        self._lock: FileLock | None = None
        self._taking = threading.Lock()

    def name(self) -> str:
        """What the rows of this process's turns say."""
        with self._taking:
            if self._lock is None:
                self._name = new_id()
                lock = FileLock(_file(self._directory, self._name), thread_local=False, mode=0o600)
                try:
                    lock.acquire()
                except OSError as error:
                    raise file_error(self._directory, error) from error
                self._lock = lock
            return self._name

    def release(self) -> None:
        """When the store is closed."""
        if self._lock is not None:
            self._lock.release()
            Path(self._lock.lock_file).unlink(missing_ok=True)
            self._lock = None

    def forked(self) -> None:
        """In a child process, which has turns of its own."""
        self._lock, self._taking = None, threading.Lock()


def _file(directory: Path, name: str) -> Path:
    return directory / f"turns-{name}.lock"


def _is_alive(directory: Path, name: str) -> bool:
    path = _file(directory, name)
    if not (name.isascii() and name.isalnum() and len(name) < 100) or not path.exists():
        return False
    lock = FileLock(path, timeout=0, thread_local=False, mode=0o600)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    path.unlink(missing_ok=True)
    return False


class Turns:
    """The open turns in one directory."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._rows = log.rows

    def open(self, key: SessionKey, turn: int, owner: str) -> None:
        """Note that a turn began."""
        self._rows.put(TURN + key + number(turn), _encode(_Open(owner)))

    def close(self, key: SessionKey, turn: int) -> None:
        """Note that it ended, after the change that says so was written."""
        with self._rows.transaction():
            self._delete(key, turn)

    def left_behind(self, directory: Path, namespace: str) -> Iterator[tuple[SessionKey, int]]:
        """The turns in sessions of a namespace whose process is gone, or has not written for long.

        Not those that are sealed with keys that are not here: they wait for who has them."""
        alive: dict[str, bool] = {}
        for row_key, value in self._rows.range(*span(TURN)):
            owner, key = self._decode(value).owner, row_key[1 : 1 + KEY_BYTES]
            head = self._log.head(key)
            if head is not None and (head.namespace != namespace or not self._can_end(key, head)):
                continue
            if owner not in alive:
                alive[owner] = _is_alive(directory, owner)
            if not alive[owner] or self._is_idle(key, row_key):
                yield key, int.from_bytes(row_key[1 + KEY_BYTES :], "big")

    def _can_end(self, key: SessionKey, head: Head) -> bool:
        """Whether what is written last could be read here: what ends a turn has to be sealed as the turn is, or nobody
        who reads it takes its end."""
        newest = self._log.change(key, self._log.last_slot(key))
        with suppress(MalformedChange):
            return newest is None or self._log.codec(head.session_id).can_open(newest)
        return True

    def _is_idle(self, key: SessionKey, row_key: bytes) -> bool:
        began = self._rows.measure(row_key, row_key + b"\0")[2]
        last = self._rows.range(*span(b"c" + key), 1, reverse=True)
        wrote = self._rows.measure(last[0][0], last[0][0] + b"\0")[2] if last else 0.0
        return time.time() - max(began, wrote) > IDLE_SECONDS

    def is_open(self, key: SessionKey, turn: int) -> bool:
        """Whether a turn has not been ended."""
        return self._rows.get(TURN + key + number(turn)) is not None

    def end(self, key: SessionKey, turn: int) -> None:
        """End a turn that was left behind; in one step, so that a process that lives after all knows when it writes."""
        while (head := self._log.head(key)) is not None:
            last = self._log.last_slot(key)
            ending = self._log.codec(head.session_id).encode(_ending(head, last, self._log.change(key, last), turn))
            with self._rows.transaction():
                if self._log.append(key, last + 1, [ending]):
                    self._delete(key, turn)
                    return
        self.close(key, turn)

    def _delete(self, key: SessionKey, turn: int) -> None:
        row_key = TURN + key + number(turn)
        self._rows.delete_range(row_key, row_key + b"\0")

    def _decode(self, value: bytes) -> _Open:
        try:
            return _decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._rows.damaged(f"holds a turn that can't be decoded ({error})") from error


def nobodys_turn() -> bytes:
    """The row of a turn whose process is gone."""
    return _encode(_Open("nobody"))


def left_open(changes: Iterable[bytes]) -> set[int]:
    """The turns among some changes (wire bytes, in order) whose ends are not."""
    turns: set[int] = set()
    for change in [decode_change(data) for data in changes if in_turn(data)]:
        (turns.discard if change.kind == END else turns.add)(change.turn)
    return turns


def _ending(head: Head, last: int, newest: bytes | None, turn: int) -> Change:
    after = 0
    if newest is not None:
        with suppress(ValueError):
            after = decode_change(newest).time
    return Change(head.origin, head.counter(last + 1), after + 1, head.seq, MAIN_BRANCH, END, b"{}", turn)


class OpenTurns:
    """Which turns are open after each change of a stretch of one origin, in the order of their counters."""

    def __init__(self) -> None:
        self._open: set[int] = set()

    def follow(self, data: bytes) -> bool:
        """Take the next change (wire bytes). True: after it, no turn is open."""
        if in_turn(data):
            change = decode_change(data)
            if change.kind == END:
                self._open.discard(change.turn)
            else:
                self._open.add(change.turn)
        return not self._open


def whole(changes: Sequence[bytes]) -> int:
    """How many of the first changes of a stretch can go without parting a turn."""
    turns, safe = OpenTurns(), 0
    for place, data in enumerate(changes, start=1):
        if turns.follow(data):
            safe = place
    return safe
