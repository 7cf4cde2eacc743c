"""Histories that could have happened: replicas that write, push, pull and pop, put in order by one central log."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from localfirst import jsonvalue
from localfirst.change import APPEND, CLEAR, DELETE, INCREMENT, MAIN_BRANCH, PUT, REMOVE, Admitted, Change
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

    def write(self, kind: str, body: bytes, now: int) -> None:
        self.counter += 1
        base = len(self.known)
        self.pending.append(Change(self.origin, self.counter, now + self.skew, base, MAIN_BRANCH, kind, body))


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


@st.composite
def universes(draw: st.DrawFn, max_steps: int = 25) -> Universe:
    """A log with 1 to 3 origins, and replicas that are behind it and have pending changes."""
    skews = draw(st.lists(st.integers(-(10**9), 10**9), min_size=1, max_size=3))
    universe = Universe(replicas=[Replica(f"r{place}", skew) for place, skew in enumerate(skews)])
    for step in range(draw(st.integers(0, max_steps))):
        replica = draw(st.sampled_from(universe.replicas))
        action = draw(
            st.sampled_from(["append"] * 4 + ["remove", "clear", "put", "delete", "increment"] + ["sync"] * 3)
        )
        if action == "sync":
            universe.push(replica, draw(st.integers(0, len(replica.pending))))
            universe.pull(replica, draw(st.integers(0, 10)))
        else:
            _write(draw, replica, action, 10**12 + step * 1000)
    return universe


def _write(draw: st.DrawFn, replica: Replica, action: str, now: int) -> None:
    key = draw(st.sampled_from(["k", "n"]))
    if action == "append":
        bodies = [
            jsonvalue.encode(f"{replica.origin}.{replica.counter + 1}.{place}")
            for place in range(draw(st.integers(1, 3)))
        ]
        replica.write(APPEND, jsonvalue.join(bodies), now)
    elif action == "remove":
        items = replica.state().items
        if items:
            replica.write(REMOVE, encode_removal(draw(st.sampled_from(items))), now)
    elif action == "clear":
        state = replica.state()
        seen = {item.origin: state.counter(item.origin) for item in state.items if item.origin != replica.origin}
        replica.write(CLEAR, encode_clear(seen), now)
    elif action == "delete":
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
