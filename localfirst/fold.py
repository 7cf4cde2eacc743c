"""The fold: from admitted changes, then pending ones, to what the agent sees. Pure: no I/O, no clock, no chance.

Every replica folds the same log with this code, so all of them agree by construction. It works in place and
incrementally: `fold(a + b)` equals `fold(a)` followed by `b`. Pending changes stand on top, each with the way to undo
it, so that what other replicas got admitted first can be put below them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Final, NamedTuple

import msgspec

from localfirst import jsonvalue
from localfirst.branches import Branches
from localfirst.change import (
    APPEND,
    BEGIN,
    CLEAR,
    DELETE,
    DROP,
    END,
    FORK,
    INCREMENT,
    MAIN_BRANCH,
    PUT,
    REMOVE,
    TOUCH,
    Admitted,
    Change,
)
from localfirst.clock import clamp, unpack_ms
from localfirst.errors import MalformedChange
from localfirst.history import PENDING, History, Item, ItemId, Undo
from localfirst.lifetime import Lifetime, decode_touch
from localfirst.metadata import Conflict, Register, Stamp, resolve, saw

MAX_CONFLICTS: Final = 100
"""How many conflicts of a session are remembered, the newest."""


VOID: Final = Change("", 0, 0, 0, MAIN_BRANCH, END, b"{}")
"""Stands in the log for a change that nobody here could read, and that was given up."""


class Effect(msgspec.Struct, frozen=True, gc=False):
    """What one change did to what the agent sees."""

    change: Change
    added: Sequence[Item] = ()
    removed: Item | None = None
    cleared: bool = False
    key: str | None = None
    conflict: Conflict | None = None
    before: Register | None = None
    """What stood under `key`; None: nothing."""
    after: Register | None = None
    base: bytes | None = None
    """Of a write that met a conflict: the value that its author had seen under `key`; JSON. None: there was none, or it
    is not known any more, or nobody wanted to know (`Fold.awaiting`)."""


class Awaiting(NamedTuple):
    """A write to metadata that is not admitted yet."""

    key: str
    known: bool
    """Whether it is known what its author had seen under the key."""
    base: bytes | None
    """That value; JSON. None: there was none."""


class _Pending(msgspec.Struct, frozen=True):
    change: Change
    undo: Undo
    before: int
    """The highest counter of its origin until then: one less, unless a change is missing on this disk."""


class Fold:
    """The state of one session.

    >>> change = Change("r1", 1, 0, 0, "main", APPEND, b'["Hello"]')
    >>> state = fold([Admitted(1, 0, change)])
    >>> [item.data for item in state.items]
    [b'"Hello"']
    """

    def __init__(self) -> None:
        self.seq = 0
        """The last admitted change in it."""
        self.time = 0
        """The greatest timestamp of an admitted change in it. Those of pending ones may be any clock's."""
        self.metadata: dict[str, Register] = {}
        self.conflicts: deque[Conflict] = deque(maxlen=MAX_CONFLICTS)
        self.branches = Branches()
        self.lifetime = Lifetime()
        """What is set for the session."""
        self.next_expiry = 0
        """When the next item expires, Unix milliseconds; 0: none does."""
        self.expired_up_to = 0
        """What expired up to then was taken away, Unix milliseconds."""
        self.counters: dict[str, int] = {}
        """The highest counter of each origin in it, pending ones included."""
        self.awaiting: dict[tuple[int, bytes], Awaiting] | None = None
        """The pending writes to metadata, by time and body (for they may be renamed), and what their author had seen.
        None: nobody wants to know."""
        self._pending: deque[_Pending] = deque()
        self._hides = False  # A pending change says that its author began anew.
        self._admitted_items = 0  # Counts while what is pending is simple.
        self._simple = True  # Pending are appends to main only: then an acknowledgement in order moves nothing.

    @property
    def items(self) -> list[Item]:
        """What is visible on the main branch, oldest first."""
        return self.branches.main.history.items

    @property
    def history(self) -> History:
        """Of the main branch."""
        return self.branches.main.history

    def on(self, branch: str) -> Sequence[Item]:
        """What is visible on the branch with an id, oldest first; nothing on one that is not there."""
        line = self.branches.get(branch)
        return line.history.items if line is not None else ()

    def each_item(self) -> dict[ItemId, Item]:
        """What is visible on any branch."""
        return {item.id: item for line in self.branches.shown() for item in line.history.items}

    @property
    def pending(self) -> int:
        """How many changes on top are not admitted yet."""
        return len(self._pending)

    @property
    def newest(self) -> int:
        """The timestamp of the newest change in it, pending ones included."""
        return max(self.time, self._pending[-1].change.time) if self._pending else self.time

    def restored(self) -> None:
        """What is in it now was put there from a checkpoint: it is admitted."""
        self._admitted_items = len(self.items)
        self.next_expiry = self.branches.expire(0)

    def counter(self, origin: str) -> int:
        """The highest counter of an origin in it, pending ones included."""
        return self.counters.get(origin, 0)

    def has_seen(self, origin: str) -> bool:
        """Whether this life of the session has a change of an origin."""
        return origin in self.counters and not self._hides

    def pending_change(self, counter: int) -> Change | None:
        """The pending change with this counter, if there is one."""
        place = counter - self._pending[0].change.counter if self._pending else -1
        found = self._pending[place].change if 0 <= place < len(self._pending) else None
        return found if found is not None and found.counter == counter else None

    def forget_awaiting(self) -> None:
        """Drop what is awaited and not pending any more, because the history was replaced."""
        if self.awaiting is not None:
            pending = {(each.change.time, each.change.body) for each in self._pending}
            self.awaiting = {name: each for name, each in self.awaiting.items() if name in pending}

    def pend(self, change: Change) -> Effect:
        """Put a change of this replica on top."""
        before = self.counters.get(change.origin, 0)
        effect, undo = self._apply(change, PENDING, change.time)
        if self.awaiting is not None and effect.key is not None:
            seen = Awaiting(effect.key, effect.conflict is None, effect.before and effect.before.value)
            self.awaiting.setdefault((change.time, change.body), seen)  # It may be put on top again.
        self._pending.append(_Pending(change, undo, before))
        if self._simple:
            self._simple = change.kind == APPEND and self._only_on_main(change)
        return effect

    def _only_on_main(self, change: Change) -> bool:
        branches = self.branches
        return change.branch == MAIN_BRANCH and not (branches.main.heirs and branches.is_late(change))

    def retract(self, count: int) -> None:
        """Take the last pending changes off again, which were not stored after all."""
        for _ in range(count):
            last = self._pending.pop()
            change = last.change
            last.undo()
            self.counters[change.origin] = last.before
            if self.awaiting is not None:
                self.awaiting.pop((change.time, change.body), None)

    def admit(self, entries: Sequence[Admitted]) -> list[Effect]:
        """Fold the next entries of the central log, below what is pending.

        Returns the effects of changes that were not pending here, and of writes to metadata that were, for it is now
        that they meet their conflicts. An entry whose change is known already is skipped: no change is folded twice.
        """
        if self._simple and self._acknowledges(entries):
            self._promote(entries)
            return []
        waiting = [pending.change for pending in self._pending]
        self._undo_pending()
        effects = self._fold_entries(entries)
        self._admitted_items = len(self.items)
        for change in waiting:
            if change.counter > self.counter(change.origin):
                self.pend(change)
        known = {(change.origin, change.counter) for change in waiting}
        return [
            effect
            for effect in effects
            if effect.key is not None or (effect.change.origin, effect.change.counter) not in known
        ]

    def expire(self, now: int) -> None:
        """Take away the items whose time has come (Unix milliseconds), for good. Nothing before `next_expiry`."""
        if not 0 < self.next_expiry <= now:
            return
        waiting = [pending.change for pending in self._pending]
        self._undo_pending()
        self.expired_up_to = now
        self.next_expiry = self.branches.expire(now)
        self._admitted_items = len(self.items)
        for change in waiting:
            self.pend(change)

    def _fold_entries(self, entries: Sequence[Admitted]) -> list[Effect]:
        effects = []
        stood: dict[str, list[Register | None]] = {}
        for seq, admitted_at, change in entries:
            if seq != self.seq + 1:
                raise MalformedChange(f"the log goes from seq {self.seq} to {seq}")
            self.seq = seq
            if change is VOID or change.counter <= self.counter(change.origin):
                continue
            time = clamp(change.time, admitted_at)
            effect, _ = self._apply(change, seq, time)
            self.time = max(self.time, time)
            if effect.conflict is not None:
                self.conflicts.append(effect.conflict)
            if self.awaiting is not None and effect.key is not None:
                effect = self._with_base(effect, self.awaiting, stood.setdefault(effect.key, []))
            effects.append(effect)
        return effects

    @staticmethod
    def _with_base(effect: Effect, awaiting: dict[tuple[int, bytes], Awaiting], stood: list[Register | None]) -> Effect:
        """Find what the author of a write had seen: as kept since it was made, else among what stood just before."""
        change = effect.change
        stood.append(effect.before)
        kept = awaiting.pop((change.time, change.body), None)
        if effect.conflict is None:
            return effect
        if kept is not None and kept.known:
            return msgspec.structs.replace(effect, base=kept.base)
        seen = next((each for each in reversed(stood) if each is None or saw(change, each)), None)
        return msgspec.structs.replace(effect, base=seen and seen.value)

    def _acknowledges(self, entries: Sequence[Admitted]) -> bool:
        """Whether the entries are the oldest pending changes, in order, with nothing of others in between."""
        return 0 < len(entries) <= len(self._pending) and all(
            entry.change.counter == pending.change.counter and entry.change.origin == pending.change.origin
            for entry, pending in zip(entries, self._pending, strict=False)
        )

    def _promote(self, entries: Sequence[Admitted]) -> None:
        """Pending items become admitted where they stand; only their `seq` changes."""
        items, position = self.items, self._admitted_items
        for seq, admitted_at, change in entries:
            if seq != self.seq + 1:
                raise MalformedChange(f"the log goes from seq {self.seq} to {seq}")
            self._pending.popleft()
            self.seq = seq
            clamped = clamp(change.time, admitted_at)
            self.time = max(self.time, clamped)
            sooner = unpack_ms(change.time) - unpack_ms(clamped)
            while position < len(items) and items[position].counter == change.counter:
                item = items[position]
                expires = item.expires and item.expires - sooner
                items[position] = msgspec.structs.replace(item, seq=seq, expires=expires)
                self.next_expiry = min(expires, self.next_expiry) if expires else self.next_expiry
                position += 1
        self._admitted_items = position

    def _undo_pending(self) -> None:
        while self._pending:
            last = self._pending.pop()
            last.undo()
            self.counters[last.change.origin] = last.before
        self._simple = True

    def _apply(self, change: Change, seq: int, time: int) -> tuple[Effect, Undo]:
        done = self._append(change, seq, time) if change.kind == APPEND else self._apply_kind(change, seq, time)
        self.counters[change.origin] = change.counter
        return done

    def _apply_kind(self, change: Change, seq: int, time: int) -> tuple[Effect, Undo]:
        if change.kind == REMOVE:
            removed, undo = self.branches.remove(change, self.counters)
            return Effect(change, removed=removed), undo
        if change.kind == CLEAR:
            count, undo = self.branches.clear(change, self.counters)
            return Effect(change, cleared=count > 0), undo
        if change.kind in (PUT, DELETE, INCREMENT):
            key, register, conflict = resolve(self.metadata, change, Stamp(time, change.origin, seq))
            before = self.metadata.get(key)
            self.metadata[key] = register
            effect = Effect(change, key=key, conflict=conflict, before=before, after=register)
            return effect, partial(self._restore, key, before)
        return Effect(change), self._apply_rare(change, seq)

    def _apply_rare(self, change: Change, seq: int) -> Undo:
        if change.kind in (FORK, DROP):
            make_or_delete = self.branches.fork if change.kind == FORK else self.branches.drop
            return make_or_delete(change, self.counters)
        if change.kind == TOUCH:
            standing, self.lifetime = self.lifetime, decode_touch(change.body).applied(self.lifetime)
            return partial(setattr, self, "lifetime", standing)
        if change.kind == BEGIN:
            return self._hide() if seq == PENDING else _nothing
        if change.kind == END:
            return _nothing
        raise MalformedChange(
            f"a change of unknown kind {change.kind[:40]!r}: a newer localfirst wrote it; upgrade this one"
        )

    def _append(self, change: Change, seq: int, time: int) -> tuple[Effect, Undo]:
        item_ttl = self.lifetime.item_ttl
        if not item_ttl:
            added, undo = self.branches.append(change, seq, self.counters)
            return Effect(change, added=added), undo
        expires = unpack_ms(time) + item_ttl
        if expires <= self.expired_up_to:
            return Effect(change), _nothing
        added, undo = self.branches.append(change, seq, self.counters, expires)
        self.next_expiry = min(expires, self.next_expiry or expires)
        return Effect(change, added=added), undo

    def _hide(self) -> Undo:
        """What was before is not seen any more, as long as it is not known better."""
        before = self.branches, self.metadata, self.conflicts, self._hides
        self._see(Branches(), {}, deque(maxlen=MAX_CONFLICTS), True)
        return partial(self._see, *before)

    def _see(self, branches: Branches, metadata: dict[str, Register], conflicts: deque[Conflict], hides: bool) -> None:
        self.branches, self.metadata, self.conflicts, self._hides = branches, metadata, conflicts, hides

    def _restore(self, key: str, register: Register | None) -> None:
        if register is None:
            del self.metadata[key]
        else:
            self.metadata[key] = register


def _nothing() -> None:
    return None


def check(change: Change) -> None:
    """Raise `MalformedChange` for a change that can't be folded, so that it is refused before it is stored."""
    if change.kind == APPEND and change.branch == MAIN_BRANCH and jsonvalue.is_plain_array(change.body):
        return  # Nearly all are that, and whoever fetches a long history checks each.
    for item in Fold().pend(change).added:
        jsonvalue.check_depth(jsonvalue.decode(item.data))


def fold(admitted: Iterable[Admitted], pending: Iterable[Change] = (), start: Fold | None = None) -> Fold:
    """The state after admitted changes, then pending ones, from nothing or from a start (which is used up)."""
    state = Fold() if start is None else start
    state.admit(list(admitted))
    for change in pending:
        state.pend(change)
    return state
