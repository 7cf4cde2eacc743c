"""Histories that could have happened: replicas write, push, pull, pop and fork; one central log puts it in order."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.branches import encode_drop, encode_fork
from localfirst.change import (
    APPEND,
    CLEAR,
    DELETE,
    DROP,
    FORK,
    INCREMENT,
    MAIN_BRANCH,
    PUT,
    REMOVE,
    Admitted,
    Change,
)
from localfirst.fold import Fold, fold
from localfirst.history import encode_clear, encode_removal
from localfirst.metadata import RULES, encode_delete, encode_increment, encode_put

VALUES = {
    "last": st.integers() | st.text(max_size=3),
    "first": st.integers(),
    "merge": st.dictionaries(st.sampled_from("xyz"), st.integers(0, 3), max_size=2),
    "union": st.lists(st.integers(0, 5), max_size=3),
    "max": st.integers() | st.text(max_size=3),
    "min": st.integers() | st.booleans() | st.none(),
}


@dataclass
class Replica:
    origin: str
    skew: int
    known: list[Admitted] = field(default_factory=list)
    pending: list[Change] = field(default_factory=list)
    counter: int = 0

    def state(self) -> Fold:
        return fold(self.known, self.pending)

    def write(self, kind: str, body: bytes, now: int, branch: str = MAIN_BRANCH) -> None:
        self.counter += 1
        base = len(self.known)
        self.pending.append(Change(self.origin, self.counter, now + self.skew, base, branch, kind, body))


@dataclass
class Universe:
    log: list[Admitted] = field(default_factory=list)
    replicas: list[Replica] = field(default_factory=list)

    def push(self, replica: Replica, count: int) -> None:
        run, replica.pending = replica.pending[:count], replica.pending[count:]
        admitted_at = 10 * (len(self.log) + 1)
        self.log += [Admitted(len(self.log) + place, admitted_at, change) for place, change in enumerate(run, 1)]
        replica.known = list(self.log)  # What it pushed is only gone from pending once it was pulled.

    def pull(self, replica: Replica, count: int) -> None:
        upto = len(replica.known) + count
        while upto < len(self.log) and self.log[upto - 1].change.origin == replica.origin:
            upto += 1
        replica.known = self.log[:upto]


KINDS = ["append"] * 4 + ["remove", "clear", "put", "delete", "increment"] + ["sync"] * 3
BRANCHING = [*KINDS, "append", "remove", "fork", "fork", "drop"]


@st.composite
def universes(draw: st.DrawFn, max_steps: int = 25, kinds: list[str] | None = None) -> Universe:
    """A log with 1 to 3 origins, and replicas that are behind it and have pending changes."""
    kinds = draw(st.sampled_from([KINDS, BRANCHING])) if kinds is None else kinds
    skews = draw(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=3))
    universe = Universe(replicas=[Replica(f"r{place}", skew) for place, skew in enumerate(skews)])
    for step in range(draw(st.integers(0, max_steps))):
        replica = draw(st.sampled_from(universe.replicas))
        action = draw(st.sampled_from(kinds))
        if action == "sync":
            universe.push(replica, draw(st.integers(0, len(replica.pending))))
            universe.pull(replica, draw(st.integers(0, 10)))
        else:
            _write(draw, replica, action, 10**12 + step * 1000)
    return universe


def _write(draw: st.DrawFn, replica: Replica, action: str, now: int) -> None:
    if action in ("delete", "increment", "put"):
        _write_metadata(draw, replica, action, now)
        return
    state = replica.state()
    shown = state.branches.shown()
    branch = draw(st.sampled_from(shown)).id if len(shown) > 1 else MAIN_BRANCH
    items = list(state.on(branch))
    if action == "append":
        bodies = [
            jsonvalue.encode(f"{replica.origin}.{replica.counter + 1}.{place}")
            for place in range(draw(st.integers(1, 3)))
        ]
        replica.write(APPEND, jsonvalue.join(bodies), now, branch)
    elif action == "remove" and items:
        replica.write(REMOVE, encode_removal(draw(st.sampled_from(items))), now, branch)
    elif action == "clear":
        seen = {item.origin: state.counter(item.origin) for item in items if item.origin != replica.origin}
        replica.write(CLEAR, encode_clear(seen), now, branch)
    elif action == "fork":
        left_out = items[draw(st.integers(0, len(items))) :]
        upto = {item.origin: (item.counter, item.place) for item in reversed(left_out)}
        seen = {origin: counter for origin, counter in state.counters.items() if origin != replica.origin}
        replica.write(FORK, encode_fork(draw(st.sampled_from("xy")), seen, upto), now, branch)
    elif action == "drop" and branch != MAIN_BRANCH:
        replica.write(DROP, encode_drop(branch), now)


def _write_metadata(draw: st.DrawFn, replica: Replica, action: str, now: int) -> None:
    key = draw(st.sampled_from(["k", "n"]))
    if action == "delete":
        replica.write(DELETE, encode_delete(key), now)
    elif action == "increment":
        replica.write(INCREMENT, encode_increment(key, draw(st.integers(-5, 5))), now)
    else:
        rule = draw(st.sampled_from(RULES))
        value = draw(VALUES[rule])
        gone = draw(st.lists(st.sampled_from("xyz"), max_size=1)) if rule == "merge" else None
        if isinstance(value, dict) and gone:
            gone = [name for name in gone if name not in value]
        replica.write(PUT, encode_put(key, rule, jsonvalue.encode(value), gone), now)


def lines(state: Fold) -> list[tuple[object, ...]]:
    """All that can be told of the branches, now or later."""
    return [
        (
            line.id,
            line.name,
            line.time,
            line.parent,
            dict(line.seen),
            dict(line.upto),
            dict(line.barred),
            line.forked,
            line.deleted,
            list(line.history.items),
            line.history.removed_early,
            dict(line.history.cleared),
        )
        for line in sorted(state.branches.others(state.counters).values(), key=lambda line: line.id)
    ]


@st.composite
def rebuilt(draw: st.DrawFn, log: list[Admitted]) -> list[Admitted]:
    """A log that was lost, and filled again by each replica in turn: only the order of each one's changes is kept."""
    runs: dict[str, list[Change]] = {}
    for entry in log:
        runs.setdefault(entry.change.origin, []).append(entry.change)
    again: list[Admitted] = []
    while runs:
        origin = draw(st.sampled_from(sorted(runs)))
        again.append(Admitted(len(again) + 1, 10**6, runs[origin].pop(0)))
        runs = {each: run for each, run in runs.items() if run}
    return again
