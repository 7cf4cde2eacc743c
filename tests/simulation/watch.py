"""The invariants that hold always, checked after every step in the directories that were written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from localfirst.change import APPEND
from localfirst.errors import LocalFirstError
from localfirst.fold import Fold
from localfirst.history import PENDING, Item
from localfirst.records import CHANGE, Head, session_key, span
from tests.simulation.ledger import Ledger
from tests.simulation.lives import SLACK, Lives, has_ended
from tests.simulation.oracle import Oracle, Record, Violation
from tests.simulation.replica import Directory
from tests.simulation.server import NAMESPACE, Server

Lines = tuple[tuple[str, tuple[bytes, ...]], ...]
Values = tuple[tuple[str, bytes | None], ...]
Shown = tuple[Lines, Values]


class Seen(NamedTuple):
    """What a session showed, where and when."""

    directory: int
    now: int
    lines: Lines
    values: Values
    expiries: dict[bytes, int]
    """Of its items."""


def shown(fold: Fold, now: int = 0) -> Shown:
    """What a session shows: the items of its branches (but for those that have expired by then), and metadata."""
    values = sorted((key, register.value) for key, register in fold.metadata.items())
    lines = fold.branches.shown()
    return tuple((line.name, tuple(_lasting(line.history.items, now))) for line in lines), tuple(values)


def _lasting(items: Sequence[Item], now: int) -> list[bytes]:
    return [item.data for item in items if not 0 < item.expires <= now]


def _expiries(fold: Fold) -> dict[bytes, int]:
    return {item.data: item.expires for item in fold.each_item().values()} if fold.next_expiry else {}


def _same_later(one: Seen, other: Seen) -> bool:
    """Whether two show the same when as much time has passed."""
    now = max(one.now, other.now) + SLACK
    expiries = {**one.expiries, **other.expiries}
    expired = {item for item, expires in expiries.items() if 0 < expires <= now}
    first, second = (
        tuple((name, tuple(item for item in items if item not in expired)) for name, items in each.lines)
        for each in (one, other)
    )
    agreed = all(one.expiries.get(item, 0) == other.expiries.get(item, 0) for item in expiries.keys() - expired)
    return first == second and one.values == other.values and agreed


@dataclass
class Memory:
    """What was seen of one session in one directory. Branches by the times of their forks, 0 is main."""

    admitted: dict[int, list[bytes]] = field(default_factory=dict)
    """The items of each branch in the central log, in the order in which they were shown."""
    pending: frozenset[int] = frozenset()
    taken: dict[tuple[int, bytes], int] = field(default_factory=dict)
    """Branches and items that were taken away from them by calls here, and the time of the call."""
    head: Head = field(default_factory=lambda: Head(NAMESPACE, ""))
    """Where it stood."""


class Watch:
    """Looks at directories, and remembers what it saw."""

    def __init__(self, oracle: Oracle, server: Server, ledger: Ledger, lives: Lives | None = None) -> None:
        self._lives = lives
        self._oracle = oracle
        self._server = server
        self._ledger = ledger
        self._memory: dict[tuple[int, str], Memory] = {}
        self._states: dict[tuple[str, str | None, int, int], Seen] = {}

    def forget(self, directory: Directory, session: str | None = None) -> None:
        """It is another directory now, or has given something up: what was seen there need not hold."""
        for place in list(self._memory):
            if place[0] == directory.number and session in (None, place[1]):
                del self._memory[place]

    def took(self, directory: Directory, record: Record) -> None:
        """A call here took items away."""
        memory = self._of(directory, record.session)
        for item in record.items:
            memory.taken[record.branch, item] = record.time

    def _of(self, directory: Directory, session: str) -> Memory:
        return self._memory.setdefault((directory.number, session), Memory())

    def look(self, directory: Directory, sessions: Sequence[str]) -> None:
        """Check the sessions that were written since the last look."""
        touched, directory.disk.touched = directory.disk.touched, set()
        for session in sessions:
            if session_key(NAMESPACE, session) in touched:
                self.check(directory, session)

    def check(self, directory: Directory, session: str, *, at_end: bool = False) -> None:
        """Check one session in one directory."""
        head = directory.head(session)
        if head is None:
            return
        try:
            fold = directory.view(session).refresh()
        except LocalFirstError as error:
            raise Violation(10, "what is on disk can be read", f"{_at(directory, session)}: {error}") from error
        memory = self._of(directory, session)
        where = _at(directory, session)
        self._kept(where, directory, session, head, memory, self._lives_on(directory, session, head, memory))
        if head.stub or fold is not directory.view(session).fold:
            return  # It shows a part only, or nothing.
        if not self._oracle.is_confused(session):
            self._items(where, directory, session, fold, memory, at_end=at_end)
        self._same(where, session, head, fold, directory)

    def _lives_on(self, directory: Directory, session: str, head: Head, memory: Memory) -> set[int]:
        """Which pending changes may be gone, because their life has ended."""
        if self._lives is None:
            return set()
        if has_ended(memory.head, head):
            memory.admitted.clear()
            memory.taken.clear()  # If others have renewed it, it comes again from its beginning.
        memory.head = head
        return self._lives.look(directory, session, head, directory.view(session))

    def _items(
        self, where: str, directory: Directory, session: str, fold: Fold, memory: Memory, *, at_end: bool
    ) -> None:
        for line in fold.branches.shown():
            items = line.history.items
            if at_end or session not in self._oracle.shared:
                self._nothing_twice(where, items)
                self._together(where, items)
                self._gone(where, line.time, items, memory)
            self._in_order(where, session, line.time, items, memory)
        if self._lives is None or not self._lives.items_expire(session):
            self._whole_turns(where, directory, fold)

    @staticmethod
    def _nothing_twice(where: str, items: Sequence[Item]) -> None:
        if len({item.data for item in items}) < len(items):
            raise Violation(2, "nothing twice", f"{where} shows {[item.data for item in items]}")

    def _together(self, where: str, items: Sequence[Item]) -> None:
        done: set[int] = set()
        last, place = -1, -1
        for item in items:
            record = self._oracle.of_item.get(item.data)
            if record is None:
                continue
            if record.time != last and record.time in done:
                raise Violation(4, "one append stays together", f"{where} has others in {record.items}")
            place = -1 if record.time != last else place
            if item.place <= place:
                raise Violation(4, "one append stays together", f"{where} has {record.items} in another order")
            last, place = record.time, item.place
            done.add(last)

    def _gone(self, where: str, branch: int, items: Sequence[Item], memory: Memory) -> None:
        for item in items:
            time = memory.taken.get((branch, item.data))
            if time is not None and time not in self._oracle.excused and not self._in_another_life(item, time):
                raise Violation(6, "nothing comes back", f"{where} shows {item.data!r} again")

    def _in_another_life(self, item: Item, time: int) -> bool:
        """Whether an item that was taken away was so, or that has ended."""
        if self._lives is None:
            return False
        return self._oracle.of_item[item.data].time in self._lives.again or time in self._lives.over

    def _in_order(self, where: str, session: str, branch: int, items: Sequence[Item], memory: Memory) -> None:
        admitted, earlier = [item.data for item in items if item.seq < PENDING], memory.admitted.get(branch, [])
        still, known = set(admitted), set(earlier)
        before = [data for data in earlier if data in still]
        after = [data for data in admitted if data in known]
        memory.admitted[branch] = admitted
        if before != after and session not in self._oracle.reordered | self._server.replaced:
            raise Violation(5, "an admitted order stays", f"{where}: {before} became {after}")

    def _whole_turns(self, where: str, directory: Directory, fold: Fold) -> None:
        seen = {item.data for item in fold.each_item().values()}
        shown = {line.time for line in fold.branches.shown()}
        records = (self._oracle.of_item.get(data) for data in seen)
        for turn in {id(each.turn): each.turn for each in records if each is not None and each.turn}.values():
            if turn.directory == directory.number or turn.parted:
                continue
            if any(record.time in self._oracle.excused for record in turn.records):
                continue
            appends = [each for each in turn.records if each.kind == APPEND and each.branch in shown]
            items_of = {item for each in appends for item in each.items}
            missing = items_of - seen - self._oracle.removed
            if missing and (self._lives is None or missing - self._lives.unseen_items(turn.records[0].session)):
                raise Violation(13, "turns are whole", f"{where} shows a part of a turn, and not {missing}")

    def _same(self, where: str, session: str, head: Head, fold: Fold, directory: Directory) -> None:
        if head.generation is None or fold.pending:
            return
        place = session, head.generation, head.seq, head.digest
        seen = Seen(directory.number, directory.now() if self._lives else 0, *shown(fold), _expiries(fold))
        other = self._states.setdefault(place, seen)
        if seen[2:] != other[2:] and not _same_later(seen, other):
            raise Violation(3, "the same log shows the same", f"{where}: {seen}, directory {other.directory}: {other}")

    def _kept(
        self, where: str, directory: Directory, session: str, head: Head, memory: Memory, may_go: set[int]
    ) -> None:
        pending = self.pending(directory, session, head)
        gone = memory.pending - pending - self._server.admitted - self._oracle.excused - may_go
        memory.pending = pending
        if gone:
            lost = [self._oracle.records[time] for time in gone]
            raise Violation(7, "what is pending stays until it is admitted", f"{where} lost {lost}")

    def pending(self, directory: Directory, session: str, head: Head) -> frozenset[int]:
        """The times of the changes that wait in a directory."""
        rows = directory.log.rows.range(*span(CHANGE + session_key(NAMESPACE, session), head.acked))
        records = (self._oracle.record(self._ledger.change(value)) for _, value in rows if value)
        return frozenset(record.time for record in records if record is not None)


def _at(directory: Directory, session: str) -> str:
    return f"directory {directory.number} session {session}"
