"""The figures that were set: each a ratio of two things that were measured side by side, so that it holds anywhere."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from benchmarks.local import Effort, Results
from benchmarks.replication import Replication


class Check(NamedTuple):
    """One figure: wanted, and seen."""

    name: str
    at_most: bool
    """Else at least."""
    bound: float | None
    """None: for information."""
    ratios: Sequence[float]
    """Of each round."""

    @property
    def seen(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool | None:
        """Whether the figure is met; None if none was set."""
        if self.bound is None:
            return None
        return self.seen <= self.bound if self.at_most else self.seen >= self.bound

    @property
    def wanted(self) -> str:
        """As text."""
        return "—" if self.bound is None else f"{'≤' if self.at_most else '≥'} {self.bound:g}"

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "wanted": self.wanted,
            "bound": self.bound,
            "at_most": self.at_most,
            "seen": round(self.seen, 3),
            "lowest": round(min(self.ratios), 3),
            "highest": round(max(self.ratios), 3),
            "met": self.met,
        }


def check_local(results: Results) -> list[Check]:
    """The figures on local calls."""

    def ratios(work: str, above: str, below: str) -> list[float]:
        both = zip(results[above, work].medians, results[below, work].medians, strict=True)
        return [one / other for one, other in both]

    def faster(work: str, title: str, bound: float | None, ours: str = "localfirst") -> Check:
        return Check(f"{title}: times faster than SQLiteSession", False, bound, ratios(work, "sqlite", ours))

    return [
        Check("add 1 / bare insert", True, 3.0, ratios("add_1", "localfirst", "bare-normal")),
        Check("add 1, full / bare insert, full", True, 1.2, ratios("add_1", "localfirst-full", "bare-full")),
        Check("get 1000 / bare decoding", True, 1.25, ratios("get_1000", "localfirst", "bare-decode")),
        faster("add_1", "add 1", 10.0),
        faster("add_1", "add 1, full", None, "localfirst-full"),
        faster("get_1000", "get 1000", 3.5),
        faster("last_20", "last 20 of 1000", 8.0),
        faster("pop", "pop", 8.0),
        faster("turn", "turn", 8.0),
        faster("turn", "turn, full", None, "localfirst-full"),
        faster("open", "open and get 100", None),
    ]


def check_size(results: Results, effort: Effort) -> Check:
    """Whether a long history makes adding slower."""
    both = zip(results["large", "add_1"].medians, results["small", "add_1"].medians, strict=True)
    return Check(f"add 1 to {effort.large:,} items / to 10", True, 1.2, [one / other for one, other in both])


def check_replication(replication: Replication) -> list[Check]:
    """Whether replication is in the way."""
    remote = replication.remote
    return [
        Check(f"add 1, p99, {remote}: busy worker / idle", True, 3.0, replication.ratios("busy", "idle")),
        Check(f"add 1, p99, {remote}: busy worker / no worker", True, None, replication.ratios("busy", "alone")),
        Check(f"add 1, p99, {remote}: idle worker / no worker", True, None, replication.ratios("idle", "alone")),
    ]
