"""What the agents of a universe did, and what can't be asked for any more because nobody has it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from localfirst import jsonvalue
from localfirst.change import APPEND, CLEAR, END, INCREMENT, PUT, REMOVE, Change


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
    """append: what it added; remove: what it took; clear: what its author saw."""
    turn: Turn | None = None


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

    def note(self, session: str, change: Change, directory: int, seen: Iterable[bytes]) -> Record:
        """A change is on disk. `seen`: what it takes away."""
        turn = self.turns.setdefault((session, change.turn), Turn(directory)) if change.turn else None
        record = Record(change.time, session, change.kind, change.body, directory, list(seen), turn)
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
        """The items that a session shows when just these changes are in its log."""
        there = [record for record in self.by_session[session] if record.time in times]
        shown = {item for record in there if record.kind == APPEND for item in record.items}
        return shown.difference(*(record.items for record in there if record.kind in (REMOVE, CLEAR)))

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
