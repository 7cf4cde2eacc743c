"""Merge rules by properties: whatever replicas do, in whatever order it is admitted."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue, plans
from localfirst.change import DELETE, INCREMENT, MAIN_BRANCH, PUT, Admitted, Change
from localfirst.clock import pack
from localfirst.fold import Fold, fold
from localfirst.metadata import RULES, Register, encode_delete, encode_increment, encode_put
from tests.unit.universe import VALUES

KINDS = (*RULES, "delete", "increment")


@dataclass
class Device:
    """A replica with one session, that folds as views do: what is admitted below what is pending."""

    origin: str
    clock: int = 0
    """Milliseconds beside the true time; nobody knows."""
    fold: Fold = field(default_factory=Fold)
    pending: list[Change] = field(default_factory=list)
    counter: int = 0

    def write(self, kind: str, value: Any, now: int, key: str = "k") -> None:
        for step_kind, body in steps(self.fold, kind, key, value):
            self.counter += 1
            time = pack(now + self.clock)
            change = Change(self.origin, self.counter, time, self.fold.seq, MAIN_BRANCH, step_kind, body)
            self.fold.pend(change)
            self.pending.append(change)

    def push(self, log: list[Admitted], count: int, now: int) -> None:
        run, self.pending = self.pending[:count], self.pending[count:]
        log += [Admitted(len(log) + place, now, change) for place, change in enumerate(run, 1)]

    def pull(self, log: list[Admitted], count: int) -> None:
        self.fold.admit(log[self.fold.seq : self.fold.seq + count])

    @property
    def metadata(self) -> dict[str, Any]:
        return {key: value_of(register) for key, register in self.fold.metadata.items()}


def steps(state: Fold, kind: str, key: str, value: Any) -> Sequence[tuple[str, bytes]]:
    """What a call of a session becomes."""
    if kind == "delete":
        return [(DELETE, encode_delete(key))]
    if kind == "increment":
        return [(INCREMENT, encode_increment(key, value))]
    if kind == "merge":
        return plans.merge(key, value)(state)
    return [(PUT, encode_put(key, kind, jsonvalue.encode(value)))]  # type: ignore[arg-type]


def value_of(register: Register | None) -> Any:
    return None if register is None or register.value is None else jsonvalue.decode(register.value)


def some_value(draw: st.DrawFn, kind: str) -> Any:
    return draw({**VALUES, "delete": st.none(), "increment": st.integers(-5, 5)}[kind])


@st.composite
def lives(draw: st.DrawFn, kinds: Sequence[str] = KINDS) -> tuple[list[Device], list[Admitted]]:
    """Devices that wrote, pushed and pulled in any order, with clocks up to ten years off."""
    years = 10 * 365 * 86_400_000
    clocks = draw(st.lists(st.integers(-years, years), min_size=2, max_size=4))
    devices = [Device(f"d{number}", clock) for number, clock in enumerate(clocks)]
    log: list[Admitted] = []
    for step in range(draw(st.integers(1, 25))):
        device, now = draw(st.sampled_from(devices)), 10**12 + 1000 * step
        action = draw(st.sampled_from(["write", "write", "push", "pull"]))
        if action == "write":
            kind = draw(st.sampled_from(kinds))
            device.write(kind, some_value(draw, kind), now)
        elif action == "push":
            device.push(log, draw(st.integers(0, 5)), now)
        else:
            device.pull(log, draw(st.integers(1, 10)))
    return devices, log


def settle(devices: list[Device], log: list[Admitted]) -> None:
    for device in devices:
        device.push(log, len(device.pending), 2 * 10**12)
    for device in devices:
        device.pull(log, len(log))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_replicas_converge_by_each_rule(kind: str, data: st.DataObject) -> None:
    """Invariant 3, with one rule for the key."""
    devices, log = data.draw(lives([kind]))
    settle(devices, log)
    assert all(device.metadata == devices[0].metadata for device in devices)
    assert all(list(device.fold.conflicts) == list(devices[0].fold.conflicts) for device in devices)


@settings(max_examples=300, deadline=None)
@given(lives())
def test_replicas_converge_with_all_rules_on_one_key(life: tuple[list[Device], list[Admitted]]) -> None:
    """Invariant 3: the rule travels with the write, so replicas with other settings agree."""
    devices, log = life
    settle(devices, log)
    assert all(device.metadata == devices[0].metadata for device in devices)
    assert all(list(device.fold.conflicts) == list(devices[0].fold.conflicts) for device in devices)
    assert devices[0].fold.metadata == fold(log).metadata


@settings(max_examples=500, deadline=None)
@given(lives())
def test_conflicts_are_exact(life: tuple[list[Device], list[Admitted]]) -> None:
    """By a book of who is in the value: a conflict is a write to a value with something in it of another replica that
    its author had not seen."""
    devices, log = life
    settle(devices, log)
    state, inside = Fold(), set[tuple[str, int]]()
    for entry in log:
        before, change = state.metadata.get("k"), entry.change
        (effect,) = state.admit([entry])
        unseen = {each for each in inside if each[0] != change.origin and each[1] > change.base}
        combines = change.kind == INCREMENT or b'"rule":"merge"' in change.body or b'"rule":"union"' in change.body
        last = change.kind == DELETE or b'"rule":"last"' in change.body
        follows = before is None or before.stamp.origin == change.origin or before.stamp.seq <= change.base
        counts = change.kind == INCREMENT and before is not None and before.kind == INCREMENT
        if last or not follows:
            assert (effect.conflict is not None) == bool(unseen and not counts), entry
        else:  # It takes nothing away from what it follows.
            assert effect.conflict is None, entry
        if state.metadata["k"] is not before:
            kept = inside if combines and before is not None and before.value is not None else set()
            inside = {*kept, (change.origin, entry.seq)}


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["last", "max", "min", "union", "merge", "increment"]),
    st.data(),
    st.randoms(use_true_random=False),
)
def test_for_writes_that_knew_nothing_of_each_other_the_order_of_admission_is_nothing(
    kind: str, data: st.DataObject, chance: random.Random
) -> None:
    times = data.draw(st.lists(st.integers(1, 10**6), min_size=2, max_size=5, unique=True))
    devices = [Device(f"d{number}") for number in range(len(times))]
    for device, time in zip(devices, times, strict=True):
        device.write(kind, data.draw(VALUES.get(kind, st.integers(-5, 5))), time)
    found = []
    for _ in range(3):
        log: list[Admitted] = []
        for device in chance.sample(devices, len(devices)):
            log += [Admitted(len(log) + place, 10**7, change) for place, change in enumerate(device.pending, 1)]
        value = value_of(fold(log).metadata.get("k"))
        found.append(sorted(map(repr, value)) if kind == "union" and value is not None and len(log) > 1 else value)
    assert all(each == found[0] for each in found)


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(-(2**70), 2**70), max_size=6), min_size=5, max_size=5), st.data())
def test_increments_of_five_offline_replicas_add_up_exactly(added: list[list[int]], data: st.DataObject) -> None:
    devices, log = [Device(f"d{number}") for number in range(5)], list[Admitted]()
    for device, numbers in zip(devices, added, strict=True):
        for number in numbers:
            device.write("increment", number, 10**12)
    while any(device.pending for device in devices):
        data.draw(st.sampled_from(devices)).push(log, data.draw(st.integers(1, 3)), 10**12)
    settle(devices, log)
    for device in devices:
        assert device.metadata.get("k", 0) == sum(map(sum, added))
        assert not device.fold.conflicts


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abcdef"), st.integers(), max_size=6),
    st.dictionaries(st.sampled_from("abc"), st.integers() | st.dictionaries(st.sampled_from("xy"), st.integers())),
    st.dictionaries(st.sampled_from("def"), st.integers() | st.lists(st.integers())),
    st.booleans(),
)
def test_merge_keeps_what_each_side_changed(
    start: dict[str, Any], left: dict[str, Any], right: dict[str, Any], swapped: bool
) -> None:
    """One side has a, b and c, the other d, e and f: so both are right in all, whoever comes first."""
    devices, log = [Device("d0"), Device("d1")], list[Admitted]()
    devices[0].write("last", start, 10**12)
    settle(devices, log)
    for device, own, names in ((devices[0], left, "abc"), (devices[1], right, "def")):
        others = {name: value for name, value in start.items() if name not in names}
        device.write("merge", {**others, **own}, 10**12 + 1)
    for device in reversed(devices) if swapped else devices:
        device.push(log, 1, 10**12 + 2)
    settle(devices, log)
    assert devices[0].metadata == devices[1].metadata == {"k": {**left, **right}}
