"""How the lives of sessions end in a universe: what may go then, and what must not be shown any more."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from localfirst import jsonvalue
from localfirst.change import APPEND, BEGIN, CLEAR, TOUCH, derived_id
from localfirst.clock import unpack_ms
from localfirst.lifetime import decode_touch
from localfirst.records import ANY_LIFE, CHANGE, Head, number, session_key, span
from localfirst.view import View
from tests.simulation.ledger import Ledger
from tests.simulation.oracle import Oracle, Record, Violation
from tests.simulation.replica import Directory
from tests.simulation.server import NAMESPACE, Server

SLACK: Final = 2000
"""Milliseconds by which a clock may be off that is trusted."""


@dataclass
class _Memory:
    """What was seen of one session in one directory."""

    head: Head
    pending: list[Record] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    """The generations whose ends it has heard of."""
    deleted: set[str] = field(default_factory=set)
    """Those that were deleted here, whether or not the central store knows."""
    dropped: set[int] = field(default_factory=set)
    """The times of changes that ended here before they were admitted."""
    lives: int = 0
    """How many have ended here."""
    told: int = 0
    """How many times that was told."""


class Lives:
    """Of all sessions."""

    def __init__(self, oracle: Oracle, server: Server, ledger: Ledger) -> None:
        self._oracle = oracle
        self._server = server
        self._ledger = ledger
        self._memory: dict[tuple[int, str], _Memory] = {}
        self._ends: dict[tuple[str, str], str] = {}
        self.over: set[int] = set()
        """The times of changes that ended before they were admitted."""
        self.again: set[int] = set()
        """The times of changes that may be in two lives: they were admitted to one that ended, and their author had no
        answer; or they were under way when they were dropped."""
        self._deleting: tuple[int, str] | None = None
        self._forgotten = False

    # What happens.

    def deleting(self, directory: Directory, session: str) -> None:
        """Somebody deletes a session here: its changes go with it."""
        memory = self._memory.get((directory.number, session))
        if memory is not None and memory.head.generation is not None:
            memory.deleted.add(memory.head.generation)
        self._deleting = directory.number, session

    def deleted(self) -> None:
        """It was looked at."""
        self._deleting = None

    def told(self, directory: Directory, session: str) -> None:
        """It was told that a life ended."""
        memory = self._memory[directory.number, session]
        memory.told += 1
        if memory.told > memory.lives:
            raise Violation(6, "an end is told once", f"{_at(directory, session)}: {memory.told} of {memory.lives}")

    def late(self, changes: Iterable[bytes]) -> None:
        """A push to whichever life there is arrives that nobody waits for any more."""
        found = (self._oracle.record(self._ledger.change(data)) for data in changes)
        self.again.update(record.time for record in found if record is not None)

    def note_ends(self, directories: Iterable[Directory]) -> None:
        """What has ended in the central store since the last look?"""
        for life, how in self._server.ends().items():
            if life in self._ends:
                continue
            self._ends[life] = how
            session, generation = life
            if how == "deleted" and not self._somebody_deletes(session, generation):
                raise Violation(1, "what was told is kept", f"session {session}: nobody deleted life {generation}")
            for directory in directories:
                memory = self._memory.get((directory.number, session))
                if memory is not None and (how == "expired" or memory.head.generation != generation):
                    times = {record.time for record in memory.pending}
                    self.again |= times & self._server.lives[life].times

    def _somebody_deletes(self, session: str, generation: str) -> bool:
        """Whether somebody knew the life and deleted it, or is just deleting whichever is there."""
        memories = [memory for (_, name), memory in self._memory.items() if name == session]
        deleting = any(each.head.ending in (generation, ANY_LIFE) or generation in each.deleted for each in memories)
        return deleting or self._forgotten

    # Looks at a directory.

    def look(self, directory: Directory, session: str, head: Head, view: View) -> set[int]:
        """The times of pending changes that may be gone since the last look, because their life has ended. To be called
        after every step in which the session was written."""
        memory = self._memory.setdefault((directory.number, session), _Memory(Head(NAMESPACE, session)))
        before, memory.head = memory.head, head
        was, memory.pending = memory.pending, list(self._pending(directory, session, head))
        may_go = self._end(directory, session, memory, before, was) if has_ended(before, head) else set()
        self._nothing_over(directory, session, memory, view)
        return may_go

    def _end(
        self, directory: Directory, session: str, memory: _Memory, before: Head, was: Sequence[Record]
    ) -> set[int]:
        """A life ended here, and `was` was pending."""
        memory.lives += 1
        life = session, before.generation or ""
        if life in self._server.ends() or life[1] in memory.deleted:  # Else it may have been renewed elsewhere.
            memory.heard.add(life[1])
        deleted, first = self._server.ends().get(life) == "deleted", self._ends.get(life, "")
        last, anew = _parted(was)
        if self._deleting == (directory.number, session):
            deleted, last, anew = True, [*last, *anew], []
        elif deleted and not last:
            last, anew = anew, []
        may_go, must_go = set(_times(last)), set(_times(last if first != "expired" or anew else ()))
        if not deleted:
            may_go = self._expired(directory, session, last)
        may_go |= self._spent(directory, anew, before.ttl, early=True)
        must_go |= self._spent(directory, anew, before.ttl, early=False)
        still = set(_times(memory.pending))
        if kept := still & must_go - self._server.admitted:
            raise Violation(6, "what ended does not come back", f"{_at(directory, session)} keeps {sorted(kept)}")
        gone = [record for record in was if record.time not in still]
        dropped = set(_times(gone)) & may_go - self._server.admitted
        memory.dropped |= dropped
        self.over |= dropped
        others = [process for process in directory.processes if process is not directory.driven]
        if before.generation is None and any(process.task is not None for process in others):
            self.again |= dropped  # One of them may be sending it just now, and an agent's call dropped it.
        for turn in filter(None, (record.turn for record in gone)):
            turn.parted = True
        return may_go

    def _pending(self, directory: Directory, session: str, head: Head) -> Iterator[Record]:
        for _, value in directory.log.rows.range(*span(CHANGE + session_key(NAMESPACE, session), head.acked)):
            record = self._oracle.record(self._ledger.change(value)) if value else None
            if record is not None:
                yield record

    def _expired(self, directory: Directory, session: str, pending: Sequence[Record]) -> set[int]:
        """Those of some pending changes, up to where somebody began anew, that had expired by the central store's
        clock: they renew each other."""
        wishes = [decode_touch(each.body).ttl for each in self._oracle.by_session[session] if each.kind == TOUCH]
        shortest = min(filter(None, wishes), default=0)
        expired, group = set[int](), list[Record]()
        for record in pending:
            group.append(record)
            if record.kind == BEGIN:
                off = _off(record) if directory.clock.stepped else 0
                expired |= self._spent(directory, group[:-1], shortest, early=True, off=off) | {record.time}
                group.clear()
        return expired | self._spent(directory, group, shortest, early=True)

    def _spent(self, directory: Directory, group: Sequence[Record], ttl: int, *, early: bool, off: int = 0) -> set[int]:
        """Them, if they have expired: perhaps already, as far as clocks may be wrong, or (not `early`) for sure."""
        if not ttl or not group or (directory.clock.stepped and not early):
            return set()
        made = max(round(each.at * 1000) for each in group)
        late = max(unpack_ms(each.time) - round(each.at * 1000) for each in group)
        if directory.clock.stepped:
            off += abs(directory.now() - self._server.now()) + max(map(_off, group))
        expires = made + ttl + (-off - SLACK if early else 10 * SLACK + max(0, late))
        return set(_times(group)) if expires <= self._server.now() else set()

    def _nothing_over(self, directory: Directory, session: str, memory: _Memory, view: View) -> None:
        """Nothing is shown whose time has come, nor what ended here."""
        now, fold, head = directory.now(), view.visible(), memory.head
        items = list(fold.each_item().values())
        where = _at(directory, session)
        for item in items:
            if 0 < item.expires <= now:
                raise Violation(6, "what expired is not shown", f"{where} shows {item.data!r}")
            record = self._oracle.of_item.get(item.data)
            if record is not None and self._is_over(session, memory, record.time):
                raise Violation(6, "what ended does not come back", f"{where} shows {item.data!r}")
        if not (ttl := view.fold.lifetime.ttl):
            return
        expires = head.expires_at
        if memory.pending and view.unsent:  # Else the central store has it, and has told when it expires.
            expires = max(expires, unpack_ms(memory.pending[-1].time) + ttl, view.expires_at)
        if 0 < expires <= now and items:
            raise Violation(6, "what expired is not shown", f"{where} shows {items}, {now - expires} ms late")

    def _is_over(self, session: str, memory: _Memory, time: int) -> bool:
        """Whether a change was dropped here, or in a life that ended, which is known here."""
        if time in self.again:
            return False
        known = (each for each in memory.heard if each in memory.deleted or (session, each) in self._ends)
        return time in memory.dropped or any(time in self._server.lives[session, each].times for each in known)

    # At the end.

    def ended(self, session: str) -> set[int]:
        """The times of all changes that were in a life of a session that is over."""
        ended = (self._server.lives[life].times for life in self._ends if life[0] == session)
        return {time for time in self.over if self._oracle.records[time].session == session}.union(*ended)

    def items_expire(self, session: str) -> bool:
        """Whether somebody let them."""
        return any(decode_touch(each.body).item_ttl for each in self._oracle.by_session[session] if each.kind == TOUCH)

    def items_again(self) -> set[bytes]:
        """The items that may be in two lives: what was taken away from one may be there in the other."""
        found = (self._oracle.records[time] for time in self.again)
        return {item for record in found if record.kind == APPEND for item in record.items}

    def unseen_items(self, session: str) -> set[bytes]:
        """The items that may have been cleared by somebody for whom they had expired, and who was wrong."""
        records = self._oracle.by_session[session]
        if not self.items_expire(session) and not any(record.kind == BEGIN for record in records):
            return set()
        last = max((record.at for record in records if record.kind == CLEAR), default=0.0)
        return {item for record in records if record.kind == APPEND and record.at <= last for item in record.items}

    def expired_items(self, session: str) -> set[bytes]:
        """The items of the life that a session is in now whose time has come, or is just about to."""
        found = self._server.alive(session)
        item_ttl, expired = 0, set[bytes]()
        for change, admitted_at in self._server.lives[session, found.generation].log.values():
            if change.origin == "evil":  # Which `faults` forges, and no replica ever shows.
                continue
            if change.kind == TOUCH:
                wish = decode_touch(change.body)
                item_ttl = item_ttl if wish.item_ttl is None else wish.item_ttl
                continue
            expires = min(unpack_ms(change.time), admitted_at) + item_ttl
            if change.kind == APPEND and item_ttl and expires <= self._server.now() + SLACK:
                expired.update(jsonvalue.split(change.body))
        return expired

    def forget(self, directory: Directory) -> None:
        """It is not there any more."""
        self._forgotten = True
        for place in [place for place in self._memory if place[0] == directory.number]:
            del self._memory[place]


def _times(records: Iterable[Record]) -> list[int]:
    return [record.time for record in records]


def _off(record: Record) -> int:
    """Milliseconds by which its author's clock was."""
    return abs(unpack_ms(record.time) - round(record.at * 1000))


def _parted(pending: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """What was pending when somebody began anew for the last time, with that; and what came after it."""
    begins = max((place for place, record in enumerate(pending, start=1) if record.kind == BEGIN), default=0)
    return list(pending[:begins]), list(pending[begins:])


def has_ended(before: Head, now: Head) -> bool:
    """Whether a life ended here between two heads: the next one has a name that follows from the last."""
    if not before.origin and now.offset:  # It was not known here.
        return now.generation is None and now.epoch == 1
    return now.origin == derived_id(before.origin, number(now.offset))


def _at(directory: Directory, session: str) -> str:
    return f"directory {directory.number} session {session}"
