"""The write-ahead log is moved by a thread of its own, before an agent's call has to do it."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

import localfirst
from localfirst import mover
from localfirst.connections import DATABASE
from localfirst.errors import StoreBusy
from localfirst.mover import Mover
from tests.polling import eventually


def _write_until(made: Mover, holds: Callable[[], bool]) -> None:
    def look() -> bool:
        made.wrote()
        return holds()

    eventually(look)


def test_moves_once_at_a_time_in_a_thread_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "MOVE_WRITES", 3)
    threads: list[str] = []
    begun, go_on = threading.Event(), threading.Event()

    def move() -> None:
        threads.append(threading.current_thread().name)
        begun.set()
        assert go_on.wait(10)

    made = Mover(move)
    for _ in range(2):
        made.wrote()
    assert made._executor is None
    for _ in range(20):
        made.wrote()
    assert begun.wait(10)
    assert len(threads) == 1
    go_on.set()
    _write_until(made, lambda: len(threads) > 1)
    made.close()
    assert all(name.startswith("localfirst-move") for name in threads)
    before = len(threads)
    for _ in range(20):
        made.wrote()
    assert len(threads) == before


def test_goes_on_after_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "MOVE_WRITES", 1)
    tries: list[int] = []

    def move() -> None:
        tries.append(1)
        raise StoreBusy("somebody else writes")

    made = Mover(move)
    _write_until(made, lambda: len(tries) > 2)
    made.close()


def test_what_is_written_reaches_the_database_while_the_store_is_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mover, "MOVE_WRITES", 10)
    file = tmp_path / "data" / DATABASE
    with localfirst.open(tmp_path, remote="") as store:
        session = store.session("s")
        before = file.stat().st_size
        for number in range(50):
            session.add_message("user", f"{number} {'x' * 1000}")
        eventually(lambda: file.stat().st_size > before + 30_000)
        for number in range(50):
            session.add_message("user", f"more {number}")
        with closing(sqlite3.connect(file)) as other:
            assert other.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    with localfirst.open(tmp_path, remote="") as store:
        assert len(store.session("s")) == 100
