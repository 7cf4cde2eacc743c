"""What the agents of a universe did, and what can't be asked for any more because nobody has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from localfirst import jsonvalue
from localfirst.change import APPEND, CLEAR, DROP, END, FORK, INCREMENT, PUT, REMOVE, Change
from tests.simulation.world import WORLD


class Violation(AssertionError):
    """An invariant does not hold."""

    def __init__(self, number: int, name: str, detail: str) -> None:
        super().__init__(f"invariant {number} ({name}): {detail}")
        self.number = number
        self.name = name


@dataclass
class Turn:
    """Calls that others are to see together."""

    directory: int
    parted: bool = False
    """Its directory was copied while it was open: the copy ends it where it was."""
    records: list[Record] = field(default_factory=list)


@dataclass(eq=False)
class Record:
    """One change that was stored."""

    time: int
    session: str
    kind: str
    body: bytes
    directory: int
    items: list[bytes] = field(default_factory=list)
    """append: what it added; remove: what it took; clear: what its author saw; fork: what it took over."""
    branch: int = 0
    """On which it was made (drop: which it deletes), by the time of its fork; 0: main."""
    turn: Turn | None = None
    at: float = 0.0
    """When that was, by the clock that nobody has."""


class Oracle:
    """Of one universe."""

    def __init__(self) -> None:
        self.records: dict[int, Record] = {}
        self.turns: dict[tuple[str, int], Turn] = {}
        """By session and number."""
        self.of_item: dict[bytes, Record] = {}
        self.removed: set[bytes] = set()
        """All items that somebody took away, whatever became of that."""
        self.excused: set[int] = set()
        """The times of changes that may be missing for ever."""
        self.poisoned: set[str] = set()
        """Sessions into which something was put that can't be read."""
        self.refused: set[str] = set()
        """Sessions with a change that the central store refuses."""
        self.losses: dict[str, int] = defaultdict(int)
        """How often the central store lost something of a session."""
        self.copied = False
        """Whether a directory was copied, or restored."""
        self.reordered: set[str] = set()
        """Sessions of which nobody has the one order any more, see `Faults._server_loses`."""
        self.confused: set[str] = set()
        """Sessions in which one origin and counter may stand for two changes: a directory was restored to a state
        before they were made, and the central store to one before they came; or it was copied, and gave up some."""
        self.shared: set[str] = set()
        """Sessions of which something waited in a directory that was copied: the copies may name it differently, and
        show it twice, until they have met in the log."""
        self.unproved: set[str] = set()
        """Sessions with a checkpoint that tells of the last changes of an origin only: a copy sends again what it can't
        prove to be in it."""
        self.given_up: set[str] = set()
        """Sessions of which what waited was given up somewhere: what came after it has other counters since."""
        self.by_session: dict[str, list[Record]] = defaultdict(list)

    def note(self, session: str, change: Change, directory: int, seen: Iterable[bytes], branch: int) -> Record:
        """A change is on disk. `seen`: what it takes away, or over."""
        turn = self.turns.setdefault((session, change.turn), Turn(directory)) if change.turn else None
        record = Record(change.time, session, change.kind, change.body, directory, list(seen), branch, turn, WORLD.now)
        if change.kind == APPEND:
            record.items = jsonvalue.split(change.body)
            self.of_item.update(dict.fromkeys(record.items, record))
        elif change.kind in (REMOVE, CLEAR):
            self.removed.update(record.items)
        if turn is not None:
            turn.records.append(record)
        self.records[change.time] = record
        self.by_session[session].append(record)
        return record

    def confuse(self, session: str, times: Iterable[int]) -> None:
        """Different changes were given the same origin and counter."""
        self.confused.add(session)
        self.excused.update(times)

    def is_confused(self, session: str) -> bool:
        """Whether one name may stand for two changes, or two names for one."""
        return session in self.confused | (self.shared & self.unproved)

    def record(self, change: Change | None) -> Record | None:
        """The record of a change, under whatever name; None for what agents did not do."""
        if change is None:
            return None
        record = self.records.get(change.time)
        if record is not None and change.kind == END and record.kind != REMOVE:
            return None  # It ends a turn, and has the time after that of another change.
        return record

    def is_excused(self, record: Record) -> bool:
        """Whether it may be missing: it was lost, or is a removal of what was."""
        if record.time in self.excused:
            return True
        if record.kind != REMOVE:
            return False
        target = self.of_item.get(record.items[0])
        return target is not None and target.time in self.excused

    @contextmanager
    def loss(self, held: Callable[[], set[int]]) -> Iterator[None]:
        """What somebody has before and nobody after it is excused."""
        before = held()
        yield
        self.excused |= before - held()

    def expected(self, session: str, times: set[int]) -> set[bytes]:
        """The items that a session shows on its main branch when just these changes are in its log."""
        there = [record for record in self.by_session[session] if record.time in times]
        return _added(there, 0) - _taken(there, 0)

    def expected_on(self, session: str, times: set[int]) -> dict[int, tuple[set[bytes], set[bytes]]]:
        """The same of the other branches, by the times of their forks: what they must show, and what they may.

        What was taken away on the branch from which it was forked, by somebody who did not know of the fork, may be
        there or not. So may what it took over of a branch that is not there any more.
        """
        there = [record for record in self.by_session[session] if record.time in times]
        forks = {record.time: record for record in there if record.kind == FORK}
        deleted = {record.branch for record in there if record.kind == DROP}
        found = {}
        for time, fork in forks.items():
            above, known = [fork.branch], True
            while above[-1]:
                known = known and above[-1] in forks
                above.append(forks[above[-1]].branch if above[-1] in forks else 0)
            taken_over = {item for item in fork.items if self.of_item[item].time in times}
            sure = {item for item in taken_over if self.of_item[item].branch not in deleted} if known else set()
            must = sure.difference(*(_taken(there, branch) for branch in above)) | _added(there, time)
            may = taken_over | _added(there, time)
            if time not in deleted:
                found[time] = must - _taken(there, time), may - _taken(there, time)
        return found

    def expected_values(self, session: str, times: set[int]) -> dict[str, object]:
        """The values of the keys for which the order of writes makes no difference."""
        there = [record for record in self.by_session[session] if record.time in times]
        count, greatest, union = 0, None, set()
        for record in there:
            if record.kind not in (INCREMENT, PUT):
                continue
            body = jsonvalue.decode(record.body)
            if record.kind == INCREMENT:
                count += body["by"]
            elif body["rule"] == "max":
                greatest = max(greatest or 0, body["value"])
            elif body["rule"] == "union":
                union.update(body["value"])
        return {"count": count, "greatest": greatest, "union": union}


def _added(records: Iterable[Record], branch: int) -> set[bytes]:
    """What was appended to a branch."""
    return {item for record in records if record.kind == APPEND and record.branch == branch for item in record.items}


def _taken(records: Iterable[Record], branch: int) -> set[bytes]:
    """What was taken away from a branch."""
    taken = (record for record in records if record.kind in (REMOVE, CLEAR) and record.branch == branch)
    return {item for record in taken for item in record.items}
