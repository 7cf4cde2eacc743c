"""Clocks that lie, against real servers, which have the true time. tests/unit/test_clocks.py has the whole of it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

import localfirst
from localfirst.clock import HybridClock, pack, unpack_ms, wall_ms, wall_time

HOUR = 3_600_000
DAY = 24 * HOUR
YEARS = 3650 * DAY

Open = Callable[[str, int], localfirst.Session]


@pytest.fixture
def opened(remote_url: str, tmp_path: Path) -> Iterator[Open]:
    """A session of a store that syncs when it is told to, and whose clock is so many milliseconds ahead."""
    namespace = f"test-{uuid.uuid4()}"
    with ExitStack() as stack:

        def open_session(name: str, lie: int) -> localfirst.Session:
            store = localfirst.open(tmp_path / name, remote=remote_url, namespace=namespace, worker="none")
            store._local._clock = HybridClock(lambda: wall_time() + pack(lie))
            return stack.enter_context(store).session("s")

        yield open_session


@pytest.mark.parametrize("lie", [HOUR, -HOUR, DAY + HOUR, -DAY - HOUR, YEARS, -YEARS])
def test_a_clock_that_lies_spoils_nothing(opened: Open, lie: int) -> None:
    liar, honest = opened("liar", lie), opened("honest", 0)
    for number in range(2):  # Writes that saw each other follow each other.
        for one, other in ((liar, honest), (honest, liar)):
            one.set("k", [number, one is liar])
            one.flush(10)
            other.refresh(10)
            assert one.get("k") == other.get("k") == [number, one is liar]
    assert liar.conflicts() == honest.conflicts() == []

    liar.set("k", "liar's")  # Those that did not are a conflict.
    liar.flush(10)
    honest.set("k", "honest, later")
    honest.flush(10)
    for session in (liar, honest):
        session.refresh(10)
        assert session.get("k") == "honest, later"
        assert len(session.conflicts()) == 1
    assert liar.conflicts() == honest.conflicts()

    assert abs(unpack_ms(honest._store._local._clock.now()) - wall_ms()) < HOUR / 2
    offset = honest._store.status().clock_offset
    assert offset is not None
    assert abs(offset) < 60
