"""Time. A hybrid logical clock: close to the wall clock, never backwards, always after what it has seen.

Source: Kulkarni, Demirbas, Madappa, Avva, Leone: Logical Physical Clocks (OPODIS 2014), packed into one integer as
milliseconds << 16 | logical count. The count begins with the fraction of the millisecond.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Final

LOGICAL_BITS: Final = 16
STEADY: Final = 50
"""Milliseconds by which two clocks may differ and count as the same."""
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


def clamp(timestamp: int, admitted_at: int) -> int:
    """A change is never newer than its admission (Unix milliseconds), so a fast clock can't win for ever.

    >>> clamp(pack(5_000), admitted_at=4_000) < pack(4_001)
    True
    """
    return min(timestamp, pack(admitted_at + 1) - 1)


class CentralTime:
    """What time it is by the central store's clock, as far as that is known here.

    >>> time = CentralTime(wall=lambda: pack(5_000))
    >>> time.offset = -1_000
    >>> time.now(), unpack_ms(time.timestamp())
    (4000, 4000)
    """

    def __init__(self, wall: Callable[[], int] = wall_time) -> None:
        self.offset = 0
        """Milliseconds by which that clock is ahead of this machine's."""
        self._wall = wall

    def now(self) -> int:
        """Unix milliseconds."""
        return unpack_ms(self._wall()) + self.offset

    def measured(self, there: int, asked_at: float) -> None:
        """That clock told its time (Unix milliseconds), when it was asked at a Unix time and answered just now."""
        answered_at = unpack_ms(self._wall()) / 1000
        offset = there - (asked_at + answered_at) * 500
        if abs(offset - self.offset) > (answered_at - asked_at) * 500 + STEADY:
            self.offset = round(offset)  # Else it may as well be the line: what expired does not come back for that.

    def timestamp(self) -> int:
        """As `wall_time`."""
        return self._wall() + (self.offset << LOGICAL_BITS)


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
