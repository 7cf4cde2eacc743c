"""The log on disk where things go wrong: rows that nobody can read, and volumes that come to nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from localfirst import outbox, volumes
from localfirst.change import APPEND, MAIN_BRANCH, Change, encode_change
from localfirst.errors import StoreCorrupt
from localfirst.log import Log
from localfirst.records import CHANGE, GARBAGE, HEAD, NO_VOLUME, PAGE, Head, OwnRange, Page, Rename, number, session_key
from localfirst.rows import Rows

KEY = session_key("default", "s")


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """With a session of two changes, of which the first was admitted."""
    rows = Rows(tmp_path / "data")
    made = Log(rows)
    made.create(KEY, Head("default", "s", "me"))
    both = [Change("me", counter, 0, 0, MAIN_BRANCH, APPEND, b'["x"]') for counter in (1, 2)]
    assert made.append(KEY, 1, [encode_change(change) for change in both])
    assert move(made, Page([OwnRange(1, 0, 1, 1)], []), seq=1, acked=1)
    yield made
    rows.close()


def head_of(log: Log) -> Head:
    head = log.head(KEY)
    assert head is not None
    return head


def move(log: Log, *pages: Page, **to: object) -> Head | None:
    return log.settle(KEY, head_of(log), msgspec.structs.replace(head_of(log), **to), pages)


def unused(log: Log) -> list[bytes]:
    """Those that are being made, or are to be removed."""
    return [row[len(GARBAGE + KEY) :] for row in log.rows.keys(GARBAGE + KEY, GARBAGE + KEY + b"\xff" * 9)]


def rename(log: Log) -> Head | None:
    return log.settle(KEY, head_of(log), head_of(log), rename=Rename(2, "other", 1))


@pytest.mark.parametrize(
    ("row", "read", "what"),
    [
        (HEAD + KEY, head_of, "a head"),
        (CHANGE + KEY + number(2), rename, "a change"),
        (PAGE + KEY + NO_VOLUME + number(1), lambda log: log.rest(KEY, 0, 0, 0), "a page"),
    ],
    ids=["head", "change", "page"],
)
def test_a_row_that_can_not_be_read_is_told(log: Log, row: bytes, read: Callable[[Log], object], what: str) -> None:
    """Invariant 10."""
    log.rows.put(row, b"\xc1")
    with pytest.raises(StoreCorrupt, match=f"{what} that can't be decoded"):
        read(log)


def test_what_is_not_admitted_any_more_waits_again(log: Log) -> None:
    """Also if it had been noted that nothing of it waits."""
    assert not outbox.mark_settled(log)
    assert move(log, Page([OwnRange(2, 0, 2, 1)], []), seq=2, acked=2)
    assert outbox.mark_settled(log)
    assert outbox.waiting(log, "default") == set()
    assert move(log, acked=1)
    assert outbox.waiting(log, "default") == {KEY}


def test_a_volume_that_took_too_long_is_removed_and_never_taken(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = volumes.begin(log, KEY)
    volumes.add_page(log, KEY, volume, Page([OwnRange(1, 0, 1, 2)], []))
    assert not volumes.sweep(log)
    monkeypatch.setattr(volumes, "STALE_SECONDS", -1.0)
    assert volumes.sweep(log)
    before = head_of(log)
    assert move(log, volume=volume, seq=2, acked=2) is None
    assert head_of(log) == before
    assert volumes.pages(log, KEY, volume) == []
    assert unused(log) == []


def test_a_volume_that_is_taken_while_it_is_found_forgotten_stays(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    volume = volumes.begin(log, KEY)
    volumes.add_page(log, KEY, volume, Page([OwnRange(1, 0, 1, 2)], []))

    def finish_late(*_: object) -> bool:
        assert move(log, volume=volume, seq=2, acked=2)
        return True

    monkeypatch.setattr(volumes, "_is_stale", finish_late)
    assert volumes.sweep(log)
    assert unused(log) == [NO_VOLUME]  # The one that it replaced.
    assert volumes.sweep(log)
    assert not volumes.sweep(log)
    (page,) = volumes.pages(log, KEY, volume)
    assert [entry.seq for entry in volumes.entries(log, KEY, page)] == [1, 2]


def test_what_was_begun_for_a_session_that_is_not_here_is_removed_too(log: Log) -> None:
    other = session_key("default", "other")
    volume = volumes.begin(log, other)
    volumes.add_page(log, other, volume, Page([OwnRange(1, 0, 1, 1)], []))
    volumes.forget(log, other, volume)
    assert volumes.sweep(log)
    assert not volumes.sweep(log)
    assert volumes.pages(log, other, volume) == []
