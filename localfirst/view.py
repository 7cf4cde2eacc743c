"""What an agent sees of a session, kept in memory and brought up to date from new rows only.

A view belongs to a process; many processes, threads and event loops may have one of the same session. It is checked
against the disk by SQLite's `data_version` and never trusted beyond it. Its lock is held for one small commit at most,
and never while waiting for anything.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from operator import itemgetter
from typing import Final

from localfirst.change import BEGIN, END, MAIN_BRANCH, OF_A_BRANCH, TOUCH, Admitted, Change
from localfirst.clock import WRONG, CentralTime, HybridClock, moment, unpack_ms
from localfirst.errors import LocalFirstError, MalformedChange, StoreBusy, StoreCorrupt, of_session
from localfirst.fold import VOID, Effect, Fold
from localfirst.lifetime import FOR_EVER, Lifetime, Wish, decode_touch, encode_touch
from localfirst.limits import CHANGE_ROOM, check_call
from localfirst.lives import end_life
from localfirst.log import Log
from localfirst.records import Head, Page, Rest, SessionKey
from localfirst.room import Evicted
from localfirst.unresolved import Conflicts

_CONNECTIONS: Final = 64  # Of which a view remembers what it has checked.
_LOCK_SECONDS: Final = 0.002  # To wait for a lock that should be free at once.
_ITEM_OVERHEAD: Final = 200  # What an item costs in memory beside its own bytes,
_VIEW_OVERHEAD: Final = 6000  # and a session beside its items.

Step = tuple[str, bytes]
"""Kind and body of a change that is about to be made."""
Plan = Callable[[Fold], Sequence[Step]]
"""Decides, looking at what is visible, which changes to make; none at all is fine."""
OnBranch = Callable[[Fold], str]
"""Tells, looking at what is visible, the id of the branch that is meant."""


def no_turn() -> int:
    """Of changes that are part of no turn."""
    return 0


def on_main(_: Fold) -> str:
    """The main branch."""
    return MAIN_BRANCH


class View:
    """One session as this process sees it. Every call may raise `StoreBusy`; then it has done nothing."""

    def __init__(
        self,
        log: Log,
        clock: HybridClock,
        key: SessionKey,
        head: Head,
        listening: Callable[[], bool],
        time: CentralTime | None = None,
        conflicts: Conflicts | None = None,
        in_turns: dict[int, int] | None = None,
    ) -> None:
        self.lock = threading.Lock()
        self._in_turns = {} if in_turns is None else in_turns
        self.conflicts = conflicts
        """The unresolved ones, if there are functions to be asked about them."""
        self.fold = self._new_fold()
        self.size = 0
        """Bytes of memory that its items take, roughly."""
        self.hydrated = False
        """Whether the central store was asked, or need not be."""
        self.effects: deque[Effect] = deque(maxlen=10_000)
        """What changes of other replicas did, for those who listen; filled while `listening()`."""
        self.loaded = False
        self.expired = False
        """It was dropped here, since somebody asked last."""
        self._unsettled = False
        self._listening = listening
        self._log = log
        self._codec = log.codec(head.session_id)
        self._clock = clock
        self._key = key
        self._head = head
        self._exists = False
        self._time = time or CentralTime()
        self._wished: Wish | None = None
        self._renewed = 0
        self._slot = 0
        self._checked: dict[int, tuple[int, int]] = {}

    @property
    def head(self) -> Head:
        """As of the last look at the disk."""
        return self._head

    def refresh(self, *, until: int | None = None) -> Fold:
        """What is visible now. Hold `lock`. With `until`, pages that begin after that seq are left for later."""
        self._read(until)
        return self.visible()

    def look_again(self) -> None:
        """Let the next call look at the disk, whatever it does."""
        with self.lock:
            self.loaded = False
            self._checked.clear()

    def check_whole(self) -> None:
        """Raise `Evicted` if only what is pending is here, as of the last look."""
        if self._head.stub:
            raise Evicted(
                of_session(self._head.session_id, "it was evicted from this disk, and is to be fetched first")
            )

    def visible(self) -> Fold:
        """What of that which was read last has not expired. Hold `lock`."""
        fold = self.fold
        if self._head.locked and not self._codec.has(self._head.locked):
            raise self._codec.lacks(self._head.locked)
        if fold.next_expiry or fold.lifetime.ttl:
            now = self._time.now()
            fold.expire(now)
            if 0 < self.expires_at <= now:
                hidden = Fold()
                hidden.seq = fold.seq  # Of which what is written next has been the author's view.
                return hidden
        return fold

    @property
    def expires_at(self) -> int:
        """When the session expires, Unix milliseconds by the central store's clock; 0: never."""
        ttl = self.fold.lifetime.ttl
        if not ttl:
            return 0
        return max(self._head.expires_at, self._time.of(self._renewed) + ttl if self.unsent else 0)

    def _read(self, until: int | None) -> None:
        if self.fold.expired_up_to and self.fold.expired_up_to > self._time.now() + WRONG:
            self._forget()  # The clock was ahead, and is put right: what was taken away then may not have expired.
        serial, version = self._log.rows.version()
        if self._checked.get(serial) == version:
            return
        rest = self._log.rest(self._key, self.fold.seq, self._slot, self._head.epoch)
        if rest.head is None and self._log.last_slot(self._key) and not self._log.create(self._key, self._head):
            rest = self._log.rest(self._key, self.fold.seq, self._slot, self._head.epoch)
        if rest.head is not None:
            try:
                self._take(rest, rest.head, until)
            except LocalFirstError as error:
                self._forget()  # Half folded: the next look begins from nothing.
                raise _corrupt(rest.head, error) from error
        self.loaded = True
        if until is None:
            if len(self._checked) > _CONNECTIONS:
                self._checked.clear()
            self._checked[serial] = version

    def write(
        self,
        plan: Plan,
        *,
        fresh: bool,
        turn: Callable[[], int] = no_turn,
        branch: OnBranch = on_main,
        wish: Wish | None = None,
        shared: bool = False,
    ) -> list[Change]:
        """Make the changes that a plan decides on, all or none. `fresh`: it must see the newest state; `turn` tells of
        which turn they are part, `branch` on which branch they are made, and `wish` how long the session shall live.
        `shared`: in a transaction of several that is under way. Then nobody else writes, until `settle` or `retreat`;
        and as whoever holds `lock` may wait for that transaction, it does not wait for `lock`. Raises `Evicted` if that
        needs what is not here."""
        if not self.lock.acquire(timeout=_LOCK_SECONDS if shared else -1):
            raise self._busy()
        try:
            if self._unsettled and not shared:
                raise self._busy()
            self._unsettled = shared
            if fresh or not self.loaded or wish != self._wished:
                self.refresh()
            while steps := plan(visible := self._seen(whole=fresh or branch is not on_main)):
                if visible is not self.fold and self._restart():
                    continue
                if self._exists or self._exist():
                    steps, lifetime = self._live_on(steps, visible, wish)
                    changes = self._number(steps, turn(), branch, visible)
                    size = self._checked_size(changes)
                    if self._commit(changes, lifetime):
                        self._note_size(changes, size)
                        self._wished = wish
                        return changes
                    self._catch_up()
            return []
        finally:
            self.lock.release()

    def settle(self) -> None:
        """What was written in a transaction of several is on disk."""
        self._unsettled = False

    def retreat(self) -> None:
        """What was written in a transaction of several is not on disk: forget all that is known here."""
        with self.lock:
            self._forget()
            self._exists = self._unsettled = False

    def _busy(self) -> StoreBusy:
        return StoreBusy(of_session(self._head.session_id, "somebody else is writing; nothing was stored: try again"))

    def _checked_size(self, changes: Sequence[Change]) -> int:
        """Bytes of a call, unless that is too many. The end of a turn is never too much."""
        size = CHANGE_ROOM * (len(changes) - 1)
        for change in changes:
            size += len(change.body)
        if changes[0].kind != END:
            check_call(size, self._in_turns.get(changes[0].turn, 0))
        return size

    def _note_size(self, changes: Sequence[Change], size: int) -> None:
        turn = changes[0].turn
        if turn and changes[0].kind == END:
            self._in_turns.pop(turn, None)
        elif turn:
            self._in_turns[turn] = self._in_turns.get(turn, 0) + size + CHANGE_ROOM

    def _seen(self, *, whole: bool) -> Fold:
        if whole:
            self.check_whole()
        return self.visible()

    def _restart(self) -> bool:
        """Drop what has expired, if the central store never had it. Else that one decides, so it is only hidden. True:
        plan again, on what is visible now."""
        before = self._head, self._slot
        self._checked.clear()
        if self.refresh() is self.fold or (self._head, self._slot) != before:
            return True  # Others have renewed it.
        if self._head.generation is not None or self._head.ending:
            return False
        if end_life(self._log, self._key, self._head, keep=self._slot + 1) is not None:
            self.expired = True
        self._checked.clear()
        self.refresh()
        return True

    def _live_on(
        self, steps: Sequence[Step], visible: Fold, wish: Wish | None
    ) -> tuple[Sequence[Step], Lifetime | None]:
        """With the steps that say how long the session lives; and that, if they do."""
        standing = self.fold.lifetime
        if visible is self.fold and wish == self._wished and TOUCH not in [kind for kind, _ in steps]:
            return steps, None if standing == self._head.lifetime else standing
        before = list[Step]()
        if visible is not self.fold:
            before.append((BEGIN, b"{}"))
            if standing != FOR_EVER:
                before.append((TOUCH, encode_touch(Wish(*standing))))
        if wish is not None and wish != self._wished and wish.differs(standing):
            before.append((TOUCH, encode_touch(wish)))
        lifetime = standing
        for kind, body in (*before, *steps):
            if kind == TOUCH:
                lifetime = decode_touch(body).applied(lifetime)
        return ([*before, *steps] if before else steps), (None if lifetime == self._head.lifetime else lifetime)

    def _exist(self) -> bool:
        """Make the session known on this disk. False: somebody else did, under another head, which was read now."""
        self._exists = self._log.create(self._key, self._head)
        if not self._exists:
            self._checked.clear()
            self.refresh()
            return False
        return True

    def _commit(self, changes: list[Change], lifetime: Lifetime | None = None) -> bool:
        """Fold, then store: what can't be folded is never stored. False: another process or thread was faster."""
        done = 0
        try:
            for change in changes:
                self.fold.pend(change)
                done += 1
            if self._log.append(self._key, self._slot + 1, [self._codec.encode(each) for each in changes], lifetime):
                self._slot += len(changes)
                self._renewed = unpack_ms(changes[-1].time)
                for change in changes:
                    self.size += len(change.body) + _ITEM_OVERHEAD
                return True
        except LocalFirstError:
            self.fold.retract(done)
            raise
        except BaseException:
            self._forget()  # Interrupted: only the disk knows whether it was stored.
            raise
        self.fold.retract(done)
        return False

    def _catch_up(self) -> None:
        """Read what took our counter; own inserts do not show in a version."""
        taken, origin = self._slot, self._head.origin
        self._checked.clear()
        self.refresh()
        if self._slot <= taken and self._head.origin == origin:
            raise self._log.rows.damaged(f"has a change {taken + 1} of session {self._head.session_id!r}, unread")

    @property
    def unsent(self) -> int:
        """How many changes made here are not known to be in the central store, as of the last look."""
        return max(0, self._slot - max(self._head.acked, self._head.sent, self._head.offset))

    @property
    def exists(self) -> bool:
        """Whether the session is known on this disk, as of the last look."""
        return self._exists

    @property
    def weight(self) -> int:
        """Bytes of memory, roughly, with the pointers of its branches."""
        return self.size + 8 * self.fold.branches.pointers() + _VIEW_OVERHEAD

    def is_costly(self) -> bool:
        """Whether the next look at it reads so much that an event loop should not wait for it."""
        return not self.loaded and self._log.is_long(self._key)

    @property
    def updated_at(self) -> datetime | None:
        """When the newest change was made, by its author's clock; None, too, if all has expired."""
        return moment(max(self.fold.newest, self._head.time)) if self.visible() is self.fold else None

    def _number(self, steps: Sequence[Step], turn: int, on_branch: OnBranch, visible: Fold) -> list[Change]:
        branch = MAIN_BRANCH
        if on_branch is not on_main and any(kind in OF_A_BRANCH for kind, _ in steps):
            branch = on_branch(visible)
        base, now, origin, counter = self.fold.seq, self._clock.now, self._head.origin, self._head.counter(self._slot)
        changes = []
        for kind, body in steps:
            counter += 1
            where = branch if kind in OF_A_BRANCH else MAIN_BRANCH
            changes.append(Change(origin, counter, now(), base, where, kind, body, turn))
        return changes

    def _take(self, rest: Rest, head: Head, until: int | None) -> None:
        before, known = self._head, self._begin_again() if rest.whole else None
        self._exists, self._head = True, head
        if rest.checkpoint is not None:
            self._restore(rest.checkpoint)
        elif rest.whole and head.stub:
            self.fold.seq, self.fold.lifetime = head.floor, head.lifetime
        rows = dict(rest.changes)
        own = {slot: self._codec.decode(data) for slot, data in rows.items() if data}
        self._admit([page for page in rest.pages if until is None or page.first <= until], own)
        self._slot = max(self._slot, head.bottom, head.offset, head.slot(self.fold.counter(head.origin)))
        for slot in sorted(rows):
            if slot > self._slot:
                self._slot = slot
                if slot in own:
                    self.fold.pend(own[slot])
                    self._renewed = unpack_ms(own[slot].time)
                    self.size += len(own[slot].body) + _ITEM_OVERHEAD
        self._clock.observe(self.fold.time)
        if known is not None:
            self.fold.forget_awaiting()
            if self._listening():
                self._tell_apart(known, before)

    def _begin_again(self) -> Fold | None:
        """Forget the history, which was replaced; what was known of it."""
        known = self.fold if self.loaded else None
        self._forget()
        if known is not None:
            self.fold.awaiting = known.awaiting  # What the authors of what is pending had seen is not on disk.
        return known

    def _restore(self, checkpoint: bytes) -> None:
        awaiting, self.fold = self.fold.awaiting, self._codec.decode_state(checkpoint).fold
        self.fold.awaiting = awaiting
        self.size = sum(len(item.data) + _ITEM_OVERHEAD for item in self.fold.each_item().values())

    def _tell_apart(self, known: Fold, before: Head) -> None:
        """The history was replaced: what in it is news? What a stub had is none, though it was not known."""
        mine, shown, had = self._head.origin, known.each_item(), before.seq if before.stub else -1
        items = self.fold.each_item().values()
        added = [item for item in items if item.id not in shown and item.origin != mine and item.seq > had]
        if added:
            self.effects.append(Effect(VOID, added=added))
        told = [conflict._replace(seq=0) for conflict in known.conflicts]
        met = [each for each in self.fold.conflicts if each.seq > had and each._replace(seq=0) not in told]
        self.effects += [Effect(VOID, conflict=conflict) for conflict in met]

    def _admit(self, pages: list[Page], own: dict[int, Change]) -> None:
        entries = [entry for page in pages for entry in self._entries(page, own)]
        if entries:
            effects = self.fold.admit(entries)
            if self.conflicts is not None:
                self.conflicts.follow(effects, self._head.origin)
            if self.loaded and self._listening():
                self.effects += filter(None, map(self._news_of, effects))
            self.size += sum(len(entry.change.body) + _ITEM_OVERHEAD for entry in entries)

    def _news_of(self, effect: Effect) -> Effect | None:
        """What is new about a change that was admitted: of ours, only that it met a conflict."""
        if effect.change.origin != self._head.origin:
            return effect
        return Effect(effect.change, conflict=effect.conflict) if effect.conflict is not None else None

    def _entries(self, page: Page, own: dict[int, Change]) -> list[Admitted]:
        entries = [Admitted(entry.seq, entry.admitted_at, self._decoded(entry.data)) for entry in page.foreign]
        for first in page.own:
            for place in range(first.count):
                slot = first.slot + place
                change = own.get(slot) or self.fold.pending_change(self._head.counter(slot))
                if change is None and slot > self._slot:
                    raise self._log.rows.damaged(f"lacks change {slot} made here, which was admitted")
                entries.append(Admitted(first.seq + place, first.admitted_at, change or VOID))  # Folded already: void.
        entries.sort(key=itemgetter(0))
        return entries

    def _decoded(self, data: bytes) -> Change:
        return self._codec.decode(data) if data else VOID

    def _forget(self) -> None:
        self.fold, self._slot, self.size, self.loaded = self._new_fold(), 0, 0, False
        self._wished = None  # It may be another life, for which nothing is set.
        self._checked.clear()
        if self.conflicts is not None:
            self.conflicts.forget()

    def _new_fold(self) -> Fold:
        fold = Fold()
        fold.awaiting = None if self.conflicts is None else {}
        return fold


def _corrupt(head: Head, error: LocalFirstError) -> LocalFirstError:
    """What is on disk can't be folded; errors that pass by themselves stay what they are."""
    if isinstance(error, StoreCorrupt):
        return StoreCorrupt(of_session(head.session_id, str(error)))
    if isinstance(error, MalformedChange):
        return StoreCorrupt(f"session {head.session_id!r} holds on this disk what can't be read: {error}")
    return error
