"""What `localfirst bench` measures: calls of a store of its own, one after the other, by turns with bare inserts."""

from __future__ import annotations

import sqlite3
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path
from typing import Any, Final

import localfirst
from localfirst.errors import SyncTimeout
from localfirst.events import SessionEvent
from localfirst.session import Session
from sync.central import scheme_of

ITEM: Final = {"role": "user", "content": "How long does it take until this is on the disk? " * 5}
"""300 bytes, as messages have on average."""

_BULK: Final = 500
"""Items that are sent at once."""
_PATIENCE: Final = 10.0
"""Seconds after which a server counts as out of reach."""


@dataclass
class Series:
    """What calls of one kind took."""

    title: str
    what: str
    """For people: what was called."""
    seconds: list[float] = field(default_factory=list)

    def at(self, part: float) -> float:
        """The time that so large a part of the calls stayed below or at (nearest rank), seconds.

        >>> Series("add", "", [0.4, 0.1, 0.3, 0.2]).at(0.5)
        0.2
        """
        return sorted(self.seconds)[max(0, ceil(len(self.seconds) * part) - 1)]


@dataclass
class Bench:
    """What was measured."""

    local: list[Series]
    remote: list[Series]
    items_per_second: float | None = None
    """That reached the central store, sent in bulk."""


Measured = Callable[[float], None]
"""Told the part that is done, from 0 to 1."""


def measure(directory: Path, remote: str | None, seconds: float, done: Measured) -> Bench:
    """Measure for so many seconds, in a directory that is empty, and in a namespace of the central store that nobody
    else has. Raises `RemoteUnavailable` and the like if it can't be reached."""
    share = 0.5 if remote else 1.0
    bench = Bench(_local(directory, share * seconds, lambda part: done(share * part)), [])
    if remote:
        with _pair(directory, remote) as (here, there):
            if (
                scheme_of(remote) != "file"
            ):  # A directory tells nobody that something came: it is looked at now and then.
                bench.remote = [_visible(here, there, share * seconds * 0.6, lambda part: done(0.5 + 0.3 * part))]
            bench.items_per_second = _bulk(here, share * seconds * 0.4)
    done(1.0)
    return bench


def _local(directory: Path, seconds: float, done: Measured) -> list[Series]:
    with ExitStack() as stack:
        normal = stack.enter_context(localfirst.open(directory / "normal", remote="")).session("bench")
        synced = stack.enter_context(localfirst.open(directory / "full", remote="", durability="full")).session("bench")
        read = stack.enter_context(localfirst.open(directory / "read", remote="")).session("bench")
        for _ in range(100):
            read.add_message(**ITEM)
        calls: list[tuple[Series, Callable[[], object]]] = [
            (Series("add 1", "on the disk if the process is killed"), lambda: normal.add_message(**ITEM)),
            (Series("bare insert", "of SQLite, the same"), _bare(stack, directory / "normal.db", "NORMAL")),
            (Series("add 1, full", "on the disk if the power is cut"), lambda: synced.add_message(**ITEM)),
            (Series("bare insert, full", "of SQLite, the same"), _bare(stack, directory / "full.db", "FULL")),
            (Series("get 100", "items"), read.get_messages),
        ]
        _by_turns(calls, seconds, done)
    return [series for series, _ in calls]


def _by_turns(calls: list[tuple[Series, Callable[[], object]]], seconds: float, done: Measured) -> None:
    """What slows the machine for a moment slows all of them."""
    for _, call in calls:
        call()
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not calls[0][0].seconds:
        done(min(1.0, spent / seconds))
        for series, call in calls:
            for _ in range(10):
                start = time.perf_counter()
                call()
                series.seconds.append(time.perf_counter() - start)


def _bare(stack: ExitStack, file: Path, synchronous: str) -> Callable[[], object]:
    connection = stack.enter_context(closing(sqlite3.connect(file, isolation_level=None)))
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {synchronous}")
    connection.execute("CREATE TABLE items (id INTEGER PRIMARY KEY, item TEXT NOT NULL)")
    text = str(ITEM)
    return lambda: connection.execute("INSERT INTO items (item) VALUES (?)", (text,))


@contextmanager
def _pair(directory: Path, remote: str) -> Iterator[tuple[Session, Session]]:
    """One session on two replicas, which is deleted at the end."""
    namespace = f"localfirst-bench-{uuid.uuid4()}"
    with ExitStack() as stack:
        here, there = (
            stack.enter_context(localfirst.open(directory / name, remote=remote, namespace=namespace))
            for name in ("here", "there")
        )
        try:
            here.session("bench").add_message(**ITEM)
            here.flush(_PATIENCE)
            there.refresh(_PATIENCE)
            yield here.session("bench"), there.session("bench")
        finally:
            here.delete("bench")
            here.flush(_PATIENCE)


def _visible(here: Session, there: Session, seconds: float, done: Measured) -> Series:
    """From a call on one replica to its effect on the other; both in this process."""
    series = Series("add 1 to visible", "on another replica, by way of the central store")
    came = threading.Event()
    stop = there.on(SessionEvent.REMOTE_CHANGED, lambda _: came.set())
    began = time.perf_counter()
    while (spent := time.perf_counter() - began) < seconds or not series.seconds:
        done(min(1.0, spent / seconds))
        came.clear()
        start = time.perf_counter()
        here.add_message(**ITEM)
        if not came.wait(_PATIENCE):
            raise SyncTimeout(f"an item was not seen on another replica within {_PATIENCE:g} s")
        series.seconds.append(time.perf_counter() - start)
    stop()
    return series


def _bulk(here: Session, seconds: float) -> float:
    """Items per second that reach the central store."""
    sent, spent = 0, 0.0
    data: dict[str, Any] = {**here.export(), "items": [ITEM] * _BULK, "metadata": {}}
    while spent < seconds:
        here.import_data(data)
        start = time.perf_counter()
        here.flush(_PATIENCE)
        spent += time.perf_counter() - start
        sent += _BULK
    return sent / spent
