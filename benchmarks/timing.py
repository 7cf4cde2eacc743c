"""Times of calls, round by round."""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from math import ceil
from time import perf_counter, perf_counter_ns
from typing import Any, Final

Call = Callable[[], Awaitable[Any]]

_FEWEST: Final = 3
"""Calls that are measured even when time is up."""
_WARM_UP: Final = 2


class Series:
    """What calls of one kind took, in rounds."""

    def __init__(self) -> None:
        self.rounds: list[list[int]] = []
        """Nanoseconds."""

    @property
    def medians(self) -> list[float]:
        """Of each round, microseconds."""
        return [statistics.median(times) / 1000 for times in self.rounds]

    @property
    def p99s(self) -> list[float]:
        """Of each round, microseconds."""
        return [percentile(times, 0.99) / 1000 for times in self.rounds]

    def summary(self) -> dict[str, Any]:
        """Of all calls, microseconds."""
        every = [time for times in self.rounds for time in times]
        return {
            "median": round(statistics.median(every) / 1000, 2),
            "p99": round(percentile(every, 0.99) / 1000, 2),
            "calls": len(every),
            "round_medians": [round(median, 2) for median in self.medians],
        }


def percentile(times: list[int], part: float) -> float:
    """The time that so large a part of the calls stayed below or at (nearest rank).

    >>> percentile([4, 1, 3, 2], 0.5)
    2
    """
    return sorted(times)[max(0, ceil(len(times) * part) - 1)]


async def measure(call: Call, calls: int, seconds: float) -> list[int]:
    """The nanoseconds of each of some calls, one after the other; fewer calls when they take too long."""
    for _ in range(_WARM_UP):
        await call()
    times: list[int] = []
    deadline = perf_counter() + seconds
    while len(times) < calls and (len(times) < _FEWEST or perf_counter() < deadline):
        start = perf_counter_ns()
        await call()
        times.append(perf_counter_ns() - start)
    return times
