"""Time. A hybrid logical clock: close to the wall clock, never backwards, always after what it has seen.

Source: Kulkarni, Demirbas, Madappa, Avva, Leone: Logical Physical Clocks (OPODIS 2014), packed into one integer as
milliseconds << 16 | logical count. The count begins with the fraction of the millisecond.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final, NamedTuple

LOGICAL_BITS: Final = 16
STEADY: Final = 50
"""Milliseconds by which two clocks may differ and count as the same."""
WRONG: Final = 1000
"""Milliseconds by which a clock is off that was trusted, so that what it told before is to be read anew."""
ASK_AGAIN: Final = 10_000
"""Milliseconds after which it is asked what other processes of the directory know of the central store's clock."""
MOST_AHEAD: Final = 86_400_000 << LOGICAL_BITS


def wall_ms() -> int:
    """The wall clock, Unix milliseconds."""
    return time.time_ns() // 1_000_000


def wall_time() -> int:
    """The wall clock as a timestamp: the fraction of the millisecond stands where the logical count does."""
    return (time.time_ns() << LOGICAL_BITS) // 1_000_000


def pack(ms: int, logical: int = 0) -> int:
    """A timestamp from Unix milliseconds and a logical count below 65,536."""
    return ms << LOGICAL_BITS | logical


def unpack_ms(timestamp: int) -> int:
    """The Unix milliseconds of a timestamp."""
    return timestamp >> LOGICAL_BITS


def moment(timestamp: int) -> datetime | None:
    """The time of a timestamp (UTC); None for one that no clock shows.

    >>> moment(pack(0, 1)) is None, moment(pack(1_500))
    (True, datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc))
    """
    ms = unpack_ms(timestamp)
    try:
        return datetime.fromtimestamp(ms / 1000, timezone.utc) if ms else None
    except (OverflowError, ValueError, OSError):
        return None


def utc(seconds: float | None) -> datetime | None:
    """A Unix time as a moment.

    >>> utc(1.5)
    datetime.datetime(1970, 1, 1, 0, 0, 1, 500000, tzinfo=datetime.timezone.utc)
    """
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc)


def clamp(timestamp: int, admitted_at: int) -> int:
    """A change is never newer than its admission (Unix milliseconds), so a fast clock can't win for ever.

    >>> clamp(pack(5_000), admitted_at=4_000) < pack(4_001)
    True
    """
    return min(timestamp, pack(admitted_at + 1) - 1)


class Reckoning(NamedTuple):
    """What is known in a directory of the central store's clock. Milliseconds."""

    offset: int = 0
    """By which it is ahead of this machine's."""
    until: int = 0
    """Times up to this one were given when less was known,"""
    shift: int = 0
    """and are this much too early."""


class CentralTime:
    """What time it is by the central store's clock, as far as that is known here.

    `known`: asked now and then, for another process may know better.

    >>> time = CentralTime(wall=lambda: pack(5_000))
    >>> time.reckoning = Reckoning(offset=-1_000)
    >>> time.now(), unpack_ms(time.timestamp())
    (4000, 4000)
    """

    def __init__(self, wall: Callable[[], int] = wall_time, known: Callable[[], Reckoning] | None = None) -> None:
        self.reckoning = Reckoning() if known is None else known()
        self._wall = wall
        self._known = known
        self._asked = unpack_ms(wall())

    def now(self) -> int:
        """Unix milliseconds."""
        return unpack_ms(self._told()) + self.reckoning.offset

    def _told(self) -> int:
        """What the wall clock says, when it is known how far that is off."""
        wall = self._wall()
        if self._known is not None and not 0 <= unpack_ms(wall) - self._asked < ASK_AGAIN:
            self._asked, self.reckoning = unpack_ms(wall), self._known()
        return wall

    def of(self, ms: int) -> int:
        """A time that was given here (Unix milliseconds), as is known now. It never becomes earlier."""
        return ms + self.reckoning.shift if ms <= self.reckoning.until else ms

    def measured(self, there: int, asked_at: float) -> None:
        """That clock told its time (Unix milliseconds), when it was asked at a Unix time and answered just now."""
        answered = unpack_ms(self._wall())
        before, until, shift = self.reckoning
        offset = round(there - asked_at * 500 - answered / 2)
        if abs(offset - before) <= (answered - asked_at * 1000) / 2 + STEADY:
            return  # It may as well be the line: what expired does not come back for that.
        if abs(offset - before) > WRONG:
            # Other processes of the directory go on as before, until they ask again.
            until, shift = answered + before + ASK_AGAIN, max(0, offset - before, offset - before + shift)
        self.reckoning = Reckoning(offset, until, shift)

    def timestamp(self) -> int:
        """As `wall_time`."""
        return self._told() + (self.reckoning.offset << LOGICAL_BITS)


class HybridClock:
    """The clock of one replica. Safe to use from any thread.

    >>> clock = HybridClock(wall=lambda: pack(1_000))
    >>> clock.now() < clock.now()
    True
    >>> clock.observe(pack(2_000)); unpack_ms(clock.now())
    2000
    """

    def __init__(self, wall: Callable[[], int] = wall_time) -> None:
        self._wall = wall
        self._last = 0
        self._lock = threading.Lock()

    def now(self) -> int:
        """A timestamp greater than every one given or observed before."""
        with self._lock:
            self._last = max(self._wall(), self._last + 1)
            return self._last

    def observe(self, timestamp: int) -> None:
        """Never give a timestamp below this one again, unless it is more than a day ahead: then it is nobody's time."""
        with self._lock:
            if timestamp <= self._wall() + MOST_AHEAD:
                self._last = max(self._last, timestamp)
