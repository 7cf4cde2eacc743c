"""The figures that were set. On local calls, each is a ratio of two things that were measured side by side, so that it
holds anywhere; replication is also held to plain numbers, with what a bare message takes beside them.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

if TYPE_CHECKING:
    from benchmarks.beside import Beside
    from benchmarks.bulk import Bulk
    from benchmarks.crowd import Crowd
    from benchmarks.local import Effort, Results
    from benchmarks.many import Many
    from benchmarks.replication import Replication
    from benchmarks.together import Together


class Check(NamedTuple):
    """One figure: wanted, and seen."""

    name: str
    at_most: bool
    """Else at least."""
    bound: float | None
    """None: for information."""
    rounds: Sequence[float]
    """What each round saw."""

    @property
    def seen(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

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

    def line(self) -> str:
        """For a terminal."""
        verdict = {True: "", False: "  missed", None: ""}[self.met]
        seen = f"{self.seen:.2f} ({min(self.rounds):.2f} - {max(self.rounds):.2f})"
        return f"{self.name:60} {self.wanted:>7}  {seen}{verdict}"

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "name": self.name,
            "wanted": self.wanted,
            "bound": self.bound,
            "at_most": self.at_most,
            "seen": round(self.seen, 3),
            "lowest": round(min(self.rounds), 3),
            "highest": round(max(self.rounds), 3),
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
        Check("add 1 / bare insert", True, 2.5, ratios("add_1", "localfirst", "bare-normal")),
        Check("add 1, full / bare insert, full", True, 1.15, ratios("add_1", "localfirst-full", "bare-full")),
        Check("get 1000 / bare decoding", True, 1.15, ratios("get_1000", "localfirst", "bare-decode")),
        Check("add 1, sealed / plain", True, 1.4, ratios("add_1", "localfirst-sealed", "localfirst")),
        Check("get 1000, sealed / plain", True, 2.0, ratios("get_1000", "localfirst-sealed", "localfirst")),
        faster("add_1", "add 1", 10.0),
        faster("add_1", "add 1, full", None, "localfirst-full"),
        faster("get_100", "get 100", 8.0),
        faster("get_1000", "get 1000", 4.0),
        faster("last_20", "last 20 of 1000", 10.0),
        faster("pop", "pop", 8.0),
        faster("turn", "turn", 10.0),
        faster("turn", "turn, full", None, "localfirst-full"),
        faster("open", "open and get 100", 4.0),
    ]


def check_size(results: Results, effort: Effort) -> Check:
    """Whether a long history makes adding slower."""
    both = zip(results["large", "add_1"].medians, results["small", "add_1"].medians, strict=True)
    return Check(f"add 1 to {effort.large:,} items / to 10", True, 1.2, [one / other for one, other in both])


def check_together(together: Together) -> list[Check]:
    """Whether those who write at once are in each other's way."""
    crowd, ours, theirs = together.crowd, together.speed["localfirst-full"], together.speed["sqlite"]
    faster = [one / other for one, other in zip(ours, theirs, strict=True)]
    title = f"{crowd.sessions} sessions on one loop, full"
    slowest = f"{crowd.processes} processes to one session, add 1, p99, ms"
    return [
        Check(f"{title}: times the adds/s of SQLiteSession", False, 5.0, faster),
        Check(f"{title}: adds/s", False, None, ours),
        Check(slowest, True, 20.0, _milliseconds(together.shared["localfirst"].p99s)),
        Check(f"{slowest}, SQLiteSession", True, None, _milliseconds(together.shared["sqlite"].p99s)),
    ]


def check_many(many: Many) -> list[Check]:
    """Whether a store of very many sessions is slower, or larger than it need be."""
    both = zip(many.adding["many"].medians, many.adding["few"].medians, strict=True)
    few, sessions = f"{many.counts.few:,}", f"{many.counts.many:,}"
    return [
        Check(f"open a store of {sessions} sessions, ms", True, 50.0, _milliseconds(many.opening["many"].medians)),
        Check(f"open a store of {few} sessions, ms", True, None, _milliseconds(many.opening["few"].medians)),
        Check(f"add 1 in a store of {sessions} sessions / of {few}", True, 1.2, [one / other for one, other in both]),
        Check(f"memory after {many.counts.read:,} sessions were read, MB", True, 96.0, [many.memory / 1e6]),
        Check("bytes on disk / of items of 300 bytes", True, 1.6, [many.disk]),
    ]


def check_beside(beside: Beside) -> list[Check]:
    """Whether replication is in the way."""
    remote = beside.remote
    return [
        Check(f"add 1, p99, {remote}: busy worker / idle", True, 2.0, beside.ratios("busy", "idle")),
        Check(f"add 1, p99, {remote}: busy worker / no worker", True, None, beside.ratios("busy", "alone")),
        Check(f"add 1, p99, {remote}: idle worker / no worker", True, None, beside.ratios("idle", "alone")),
    ]


def check_replication(replication: Replication) -> list[Check]:
    """Whether replication is soon done, and costs little."""
    latency, idle = replication.latency, replication.idle
    adds, bare = _milliseconds(latency.add.medians), _milliseconds(latency.message.medians)

    def figure(title: str, bound: float | None, rounds: Sequence[float]) -> Check:
        return Check(f"{replication.remote}: {title}", True, bound, rounds)

    figures = [
        figure("add 1 to visible elsewhere, ms, median", 10.0, adds),
        figure("add 1 to visible elsewhere, ms, p99", 50.0, _milliseconds(latency.add.p99s)),
        figure("bare message, ms, median", None, bare),
        figure("add 1 to visible / bare message", None, [one / other for one, other in zip(adds, bare, strict=True)]),
        figure(f"idle, {idle.known:,} sessions, % of a core", 0.5, idle.share),
        figure("bare loop that wakes as often, % of a core", None, idle.bare),
        figure("idle, round trips per poll interval", 1.0, [idle.requests]),
        figure("bulk upload, bytes on the wire / of items", 1.3, replication.wire),
        figure(f"evict and fetch {replication.room.items:,} items, ms", 50.0, replication.room.both),
    ]
    if (sweep := replication.sweep) is not None:
        held = [max(times) / 1e6 for times in sweep.statements.rounds]
        figures.append(figure(f"sweep of {sweep.sessions:,} expired sessions, longest lock, ms", 50.0, held))
    return [*figures, *check_bulk(replication.bulk), *check_crowd(replication.crowd)]


def check_bulk(bulk: Bulk) -> list[Check]:
    """Whether many sessions move nearly as fast as bare bytes, and much faster than call by call."""
    bare_push, bare_hydrate, peer, bound = _BESIDE[bulk.remote]

    def rate(title: str, rates: Sequence[float]) -> Check:
        return Check(f"{bulk.remote}: {title} {bulk.items:,} items, items/s", False, None, rates)

    def ratio(title: str, bound: float | None, above: Sequence[float], below: Sequence[float]) -> Check:
        ratios = [one / other for one, other in zip(above, below, strict=True)]
        return Check(f"{bulk.remote}: {title}", False, bound, ratios)

    best = [ratio("push / RPUSH of a session at once", None, bulk.push, bulk.best_push)] if bulk.best_push else []
    return [
        rate("push of", bulk.push),
        ratio(f"push / {bare_push}", bound, bulk.push, bulk.bare_push),
        *best,
        ratio(f"push / {peer}, call by call", 5.0, bulk.push, bulk.peer),
        ratio("push, 50 ms away / near by", 0.7, bulk.far, bulk.near),
        Check(f"{bulk.remote}: add 1, 50 ms away / near by", True, 1.2, bulk.adds),
        rate("fetch of", bulk.hydrate),
        ratio(f"fetch / {bare_hydrate}", 0.4, bulk.hydrate, bulk.bare_hydrate),
        Check(f"{bulk.remote}: round trips to the last 20 items", True, 2.0, bulk.trips),
    ]


_BESIDE: Final = {
    "Redis": ("pipelined RPUSH", "pipelined LRANGE", "RedisSession", 0.5),
    "Postgres": ("COPY", "COPY out", "SQLAlchemySession", 0.4),
}


def check_crowd(crowd: Crowd) -> list[Check]:
    """Whether sessions that are not asked for are in the way of those that are."""
    (few, many), checks = crowd.push, []
    for title, series in (("push of 100 sessions", crowd.push), ("heads of 1,000", crowd.heads)):
        ratios = [one / other for one, other in zip(series[many].medians, series[few].medians, strict=True)]
        checks.append(Check(f"{crowd.remote}: {title}, {many:,} sessions / {few:,}", True, 1.5, ratios))
        checks.append(Check(f"{crowd.remote}: {title}, ms", True, None, _milliseconds(series[many].medians)))
    return checks


def _milliseconds(microseconds: Sequence[float]) -> list[float]:
    return [time / 1000 for time in microseconds]
