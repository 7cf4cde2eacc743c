"""The rows in memory do what the rows on disk do."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random

import pytest

from localfirst.rows import RowExists, Rows
from tests.simulation.rows import Crash, Disk, Life, MemoryRows

KEYS = [bytes([letter, number]) for letter in b"abc" for number in range(4)]


class Stop(Exception):
    """Something goes wrong in a transaction."""


def attempt(call: Callable[[], object]) -> object:
    try:
        return call()
    except (RowExists, Stop) as error:
        return type(error)


def write(rows: Rows, random: Random) -> object:
    key, value = random.choice(KEYS), random.randbytes(2)
    return random.choice(
        (
            lambda: rows.insert(key, value),
            lambda: rows.insert_last(key, value, key[:1] + b"\xff"),
            lambda: rows.put(key, value),
        )
    )()


def several(rows: Rows, random: Random) -> object:
    with rows.transaction():
        for _ in range(random.randrange(4)):
            rows.put(random.choice(KEYS), random.randbytes(2))
        lower, upper = sorted(random.sample(KEYS, 2))
        removed = rows.delete_range(lower, upper, random.choice((-1, 1, 2)))
        if random.random() < 0.3:
            raise Stop
    return removed


def looks(rows: Rows, random: Random) -> list[object]:
    lower, upper = sorted(random.sample(KEYS, 2))
    limit, reverse = random.choice((-1, 1, 3)), random.random() < 0.5
    found, _ = rows.prefixes_since(0, lower, upper, 1)
    return [
        rows.get(lower),
        rows.range(lower, upper, limit, reverse=reverse),
        rows.keys(lower, upper),
        rows.has_more(lower, upper, 2),
        rows.measure(lower, upper)[:2],
        found,
    ]


def step(rows: Rows, random: Random) -> object:
    done = attempt(partial(write if random.random() < 0.6 else several, rows, random))
    return done, looks(rows, random)


@pytest.mark.parametrize("seed", range(20))
def test_memory_and_disk_agree(tmp_path: Path, seed: int) -> None:
    on_disk, in_memory = Rows(tmp_path / "data"), MemoryRows(Disk(), Life())
    one, other = Random(seed), Random(seed)
    for _ in range(40):
        assert step(on_disk, one) == step(in_memory, other)
    on_disk.close()


def test_rows_that_were_added_later_are_told() -> None:
    rows = MemoryRows(Disk(), Life())
    rows.put(b"a1", b"")
    after = rows.last_row()
    with rows.transaction():
        rows.delete_range(b"a", b"b")
    rows.put(b"b1", b"")
    assert rows.prefixes_since(after, b"a", b"c", 1) == ({b"b"}, rows.last_row())


def test_a_version_shows_what_others_did() -> None:
    disk = Disk()
    one, other = MemoryRows(disk, Life()), MemoryRows(disk, Life())
    before = one.version()
    one.put(b"a", b"")
    assert one.version() == before
    with one.transaction():
        one.put(b"b", b"")
    assert one.version() != before
    before = one.version()
    other.put(b"c", b"")
    assert one.version() != before


@pytest.mark.parametrize("late", [False, True])
def test_a_process_dies_before_or_after_a_commit(late: bool) -> None:
    disk, life = Disk(), Life(1, late=late)
    rows = MemoryRows(disk, life)
    rows.put(b"a", b"")

    def two() -> None:
        with rows.transaction():
            rows.put(b"b", b"")
            rows.put(b"c", b"")

    with pytest.raises(Crash):
        two()
    assert life.dead
    assert sorted(disk.rows) == ([b"a", b"b", b"c"] if late else [b"a"])
    with pytest.raises(Crash):
        rows.get(b"a")
