"""The disk side of a store: its log, and what this process keeps of it in memory. Knows nothing of a network."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from localfirst import outbox, volumes
from localfirst.aside import Quarantine
from localfirst.change import Change
from localfirst.clock import CentralTime, HybridClock
from localfirst.codec import Vault
from localfirst.errors import LocalFirstError, StoreBusy, StoreClosed
from localfirst.events import Listeners, News, SessionEvent, news_of
from localfirst.fold import Fold
from localfirst.identity import Identity, fingerprint
from localfirst.lifetime import Wish
from localfirst.lives import end_life, is_spent
from localfirst.log import Log
from localfirst.mover import Mover
from localfirst.records import ANY_LIFE, Backlog, Head, Here, SessionKey
from localfirst.resolvers import Resolvers
from localfirst.room import Room
from localfirst.rows import patiently
from localfirst.salvage import open_rows, recovered
from localfirst.status import Recovered
from localfirst.turns import Owner, Turns
from localfirst.unresolved import Conflicts, Unresolved
from localfirst.view import OnBranch, Plan, View, no_turn, on_main
from localfirst.views import Views
from localfirst.writer import Writer, nothing

SCRUB_SECONDS: Final = 1.0
"""How long a deletion waits for those who read, so that nothing of it is left when it returns."""

T = TypeVar("T")
Turn = Callable[[], int]

_logger = logging.getLogger("localfirst")


class Local:
    """Reads and writes sessions of one namespace in one directory; `soon` is what coroutines call."""

    def __init__(
        self,
        path: Path,
        namespace: str,
        *,
        fsync: bool,
        listeners: Listeners,
        resolvers: Resolvers | None = None,
        size_limit: int | None = None,
        vault: Vault | None = None,
    ) -> None:
        self._path = path
        self._namespace = namespace
        self._listeners = listeners
        self._fsync = fsync
        self._closed = False
        self._told = False
        self._unended: list[tuple[SessionKey, int]] = []
        rows = open_rows(path / "data", fsync=fsync, told=self._on_damage)
        self.log = Log(rows, vault)
        self._in_turns: dict[int, int] = {}  # Bytes that this process has written in turns that are open.
        self.identity = Identity(rows)
        self.quarantine = Quarantine(rows)
        self.turns = Turns(self.log)
        self.owner = Owner(path)
        patiently(partial(self.identity.check_host, fingerprint(rows.file)))
        self.time = CentralTime(known=partial(patiently, partial(self.identity.reckoning, namespace)))
        self.resolvers = resolvers or Resolvers()
        self.room = None if size_limit is None else Room(self.log, size_limit, self._tell_filling)
        """What is left of the disk, if that is limited."""
        self.wrote: Callable[[], None] | None = None
        """Called after each write, if there is somebody to be told."""
        self._start()

    def _start(self) -> None:
        self._clock = HybridClock(self.time.timestamp)
        self._views = Views(self._make_view)
        self._mover = Mover(self.log.rows.move_log)
        self._writer = Writer(self.log.rows.together if self._fsync else None)

    @property
    def replica_id(self) -> str:
        """The name of this directory among the replicas."""
        return patiently(self.identity.replica_id)

    def _on_damage(self, reason: str) -> None:
        """Wherever it is met, in any thread."""
        if not self._told:
            self._told = True
            self._listeners.emit_soon(SessionEvent.STORE_CORRUPT, reason)

    def recovered(self) -> Recovered | None:
        """What was saved from a damaged database, if it was."""
        self.check_open()
        return recovered(self.log.rows)

    def _make_view(self, key: SessionKey, session_id: str) -> View:
        listening = partial(self._listeners.any_for, key)
        conflicts = Conflicts() if self.resolvers.has_functions else None
        return View(
            self.log, self._clock, key, self._new_head(session_id), listening, self.time, conflicts, self._in_turns
        )

    def _new_head(self, session_id: str) -> Head:
        return Head(self._namespace, session_id, origin=self.replica_id)

    def check_open(self) -> None:
        """Raise `StoreClosed` if it is."""
        if self._closed:
            raise StoreClosed(f"the store at {self._path} is closed: open it again with localfirst.open()")

    def is_there(self) -> bool:
        """Whether its files are where they were."""
        return self.log.rows.is_there()

    def view(self, key: SessionKey, session_id: str) -> View:
        """What this process knows of a session."""
        self.check_open()
        return self._views.get(key, session_id)

    def read(self, key: SessionKey, session_id: str, look: Callable[[Fold], T]) -> T:
        """What a look at a session, brought up to date, finds. Raises `Evicted` if the session is not here."""
        found = patiently(partial(_look, self.view(key, session_id), look))
        if self.room is not None:
            self.room.used(key)
        return found

    def read_anew(self, key: SessionKey, session_id: str, look: Callable[[Fold], T]) -> T:
        """As `read`, of what is on the disk, whatever is in memory."""
        self.check_open()
        return patiently(partial(_look, self._make_view(key, session_id), look))

    def glance(self, key: SessionKey, session_id: str, look: Callable[[Fold], T]) -> T:
        """As `read`; of a session that was evicted, what is here."""
        return patiently(partial(_glance, self.view(key, session_id), look))

    def peek(self, key: SessionKey, session_id: str, look: Callable[[Fold], T]) -> T:
        """As `read`, in passing: it is no use of the session, and leaves nothing of it in memory."""
        self.check_open()
        return patiently(partial(_look, self._views.peek(key, session_id), look))

    async def read_soon(self, key: SessionKey, session_id: str, look: Callable[[Fold], T]) -> T:
        """As `read`; a session that takes long to load, and a busy directory, are waited for off the event loop."""
        view = self.view(key, session_id)
        if self.room is not None:
            self.room.used(key)
        if not view.is_costly():
            try:
                return _look(view, look)
            except StoreBusy:
                pass
        return await self._writer.run_aside(partial(_look, view, look))

    async def glance_soon(self, key: SessionKey, session_id: str, look: Callable[[Fold], T]) -> T:
        """As `glance`, in the way of `read_soon`."""
        view = self.view(key, session_id)
        if not view.is_costly():
            try:
                return _glance(view, look)
            except StoreBusy:
                pass
        return await self._writer.run_aside(partial(_glance, view, look))

    def write(
        self,
        key: SessionKey,
        session_id: str,
        plan: Plan,
        *,
        fresh: bool = False,
        turn: Turn = no_turn,
        branch: OnBranch = on_main,
        wish: Wish | None = None,
    ) -> list[Change]:
        """Carry out what a plan decides, as part of a turn or by itself; returns the changes when they are on disk."""
        return patiently(partial(self._write, key, session_id, plan, fresh, turn, branch, wish))

    async def write_soon(
        self,
        key: SessionKey,
        session_id: str,
        plan: Plan,
        fresh: bool = False,
        turn: Turn = no_turn,
        branch: OnBranch = on_main,
        wish: Wish | None = None,
        then: Callable[[], None] = nothing,
    ) -> list[Change]:
        """As `write`; a session that takes long to load, and a busy directory, are waited for off the event loop.
        `then` is called when it is on disk, also if the caller was cancelled meanwhile."""
        if self._writer.waits:
            return await self._write_durably(key, session_id, plan, fresh, turn, branch, wish, then)
        view = self.view(key, session_id)
        if self._writer.is_free and not view.is_costly():
            try:
                wrote = self._carry_out(view, key, session_id, plan, fresh, turn, branch, wish)
            except StoreBusy:
                pass
            else:
                then()
                return wrote
        write = partial(self._write, key, session_id, plan, fresh, turn, branch, wish)
        return await self._writer.run_aside(write, then)

    async def _write_durably(
        self,
        key: SessionKey,
        session_id: str,
        plan: Plan,
        fresh: bool,
        turn: Turn,
        branch: OnBranch,
        wish: Wish | None,
        then: Callable[[], None],
    ) -> list[Change]:
        """As `write_soon`, where each commit waits for the disk: those who write at the same time share one."""
        alone = await self._writer.is_alone()
        view = self.view(key, session_id)
        if view.is_costly():
            write = partial(self._write, key, session_id, plan, fresh, turn, branch, wish)
            return await self._writer.run_aside(write, then)
        if alone:
            try:
                with self._writer.timed():
                    wrote = self._carry_out(view, key, session_id, plan, fresh, turn, branch, wish)
            except StoreBusy:
                pass
            else:
                then()
                return wrote
        share = partial(view.write, plan, fresh=fresh, turn=turn, branch=branch, wish=wish)
        after = partial(self._tell, view, key, session_id)
        return await self._writer.run_with_others(share, view, after, then)

    def _write(
        self,
        key: SessionKey,
        session_id: str,
        plan: Plan,
        fresh: bool,
        turn: Turn,
        branch: OnBranch,
        wish: Wish | None,
    ) -> list[Change]:
        return self._carry_out(self.view(key, session_id), key, session_id, plan, fresh, turn, branch, wish)

    def _carry_out(
        self,
        view: View,
        key: SessionKey,
        session_id: str,
        plan: Plan,
        fresh: bool,
        turn: Turn,
        branch: OnBranch,
        wish: Wish | None,
    ) -> list[Change]:
        wrote = view.write(plan, fresh=fresh, turn=turn, branch=branch, wish=wish)
        self._tell(view, key, session_id, wrote)
        return wrote

    def _tell(self, view: View, key: SessionKey, session_id: str, wrote: Sequence[Change]) -> None:
        """What follows from changes that are on disk."""
        if view.expired:
            view.expired = False
            self._listeners.emit(key, session_id, SessionEvent.SESSION_EXPIRED)
        if wrote:
            self._mover.wrote()
        if wrote and self._unended:
            self._end_turns()
        if wrote and self.wrote is not None:
            self.wrote()

    @contextmanager
    def ending(self, key: SessionKey, turn: int) -> Iterator[None]:
        """Around the end of a turn: if that can't be written (the disk is full, say), the next write ends the turn, so
        that what is in it need not wait until it is taken for dead."""
        try:
            yield
        except LocalFirstError:
            self._unended.append((key, turn))
            raise

    def _end_turns(self) -> None:
        with suppress(IndexError):
            while True:
                ended = self._unended.pop()
                try:
                    self.turns.end(*ended)
                except LocalFirstError:
                    self._unended.append(ended)
                    return

    def disk_bytes(self) -> int:
        """What the directory takes on disk."""
        self.check_open()
        return patiently(self.log.rows.disk_bytes)

    def _tell_filling(self, size: int, limit: int) -> None:
        self._listeners.emit_of_store(SessionEvent.STORE_FILLING, size, limit)

    def delete(self, key: SessionKey, session_id: str, *, everywhere: bool, patience: float = SCRUB_SECONDS) -> None:
        """Delete a session, at once here, and in the central store later; returns when no byte of it is on this disk.

        `everywhere`: there may be one in a central store of which nothing is known here; as there may if this directory
        ever followed one. `patience`: see `scrub`.
        """
        self.check_open()
        everywhere = everywhere or patiently(partial(self.identity.followed, self._namespace)) is not None
        patiently(partial(self.log.create, key, self._new_head(session_id)))
        patiently(partial(self._end, key, everywhere))
        self.scrub(patience)
        if self.wrote is not None:
            self.wrote()

    def _end(self, key: SessionKey, everywhere: bool) -> None:
        while (head := self.log.head(key)) is not None:
            ending = head.ending or head.generation or (ANY_LIFE if everywhere else "")
            if end_life(self.log, key, head, ending=ending) is not None:
                return

    def scrub(self, patience: float) -> None:
        """Take from this disk what was deleted, to the last byte. If somebody else reads, or copies it, for so many
        seconds, a worker does the rest, or whoever opens the store next."""
        while patiently(partial(volumes.sweep, self.log)):
            pass
        deadline = time.monotonic() + patience
        while not patiently(self.log.is_scrubbed):
            patiently(self.log.scrub)
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)

    def put_in_order(self, *, alone: bool) -> None:
        """What another process left undone; see `scrub` and `expire`."""
        try:
            self.scrub(patience=0.0)
        except LocalFirstError as error:
            _logger.warning("%s: what was deleted is not scrubbed now: %s", self._path, error)
        self.expire(alone=alone)

    def expire(self, *, alone: bool, limit: float = 0.005) -> None:
        """Drop sessions that expired, as far as the disk lets it and that takes no more than so many seconds: where
        there are very many, others each time. Unless `alone`, those that the central store had are left to it."""
        try:
            self._expire_some(time.monotonic() + limit, alone=alone)
        except LocalFirstError as error:  # They are hidden all the same, and what is wrong is told where it matters.
            _logger.warning("%s: what expired is not dropped now: %s", self._path, error)

    def _expire_some(self, deadline: float, *, alone: bool) -> None:
        after: SessionKey | None = b""
        first = True
        while after is not None and time.monotonic() < deadline:
            heads, after = patiently(partial(self.log.heads, self._namespace, after, 200))
            for key, head in heads:
                if head.ttl and patiently(partial(self._expire, key, head, alone)):
                    self._listeners.emit(key, head.session_id, SessionEvent.SESSION_EXPIRED)
            if after is not None and first:
                first, after = False, max(after, random.randbytes(len(after)))

    def _expire(self, key: SessionKey, head: Head, alone: bool) -> bool:
        gone = is_spent(self.log, key, head, self.time, alone=alone)
        return gone and end_life(self.log, key, head) is not None

    async def run_soon(self, call: Callable[[], T]) -> T:
        """A small call, in its place among those of coroutines; a busy directory is waited for off the event loop."""
        return await self._writer.run(call)

    def new_turn(self) -> int:
        """A number for a turn: odd, see `localfirst.change.in_turn`."""
        return self._clock.now() | 1

    def here(self, key: SessionKey) -> Here:
        """The branch of a session on which somebody in this directory stood last."""
        self.check_open()
        return patiently(partial(self.log.here, key))

    async def here_soon(self, key: SessionKey) -> Here:
        """As `here`; a busy directory is waited for off the event loop."""
        self.check_open()
        look = partial(self.log.here, key)
        try:
            return look()  # Before what waits to be written: calls of a session that come next must not overtake this.
        except StoreBusy:
            return await self._writer.run_aside(look)

    def stand(self, key: SessionKey, here: Here) -> None:
        """Note on which branch of a session somebody stands."""
        self.check_open()
        patiently(partial(self.log.stand, key, here))

    def follow(self, key: SessionKey, session_id: str) -> None:
        """Make a session known on this disk, so that it comes when another replica writes to it."""
        self.check_open()
        patiently(partial(self.log.create, key, self._new_head(session_id)))

    async def follow_soon(self, key: SessionKey, session_id: str) -> None:
        """As `follow`; a busy directory is waited for off the event loop."""
        self.check_open()
        await self._writer.run(partial(self.log.create, key, self._new_head(session_id)))

    def sessions(self, prefix: str) -> Iterator[tuple[SessionKey, str]]:
        """The sessions that are known on this disk and whose id begins with a prefix, in the order of their ids."""
        self.check_open()
        known = [(head.session_id, key) for key, head in self._heads(prefix)]
        for session_id, key in sorted(known):
            yield key, session_id

    def newest_first(self, prefix: str) -> Iterator[tuple[SessionKey, str]]:
        """As `sessions`, but in the order of their newest changes, by their authors' clocks; without those that
        were evicted."""
        self.check_open()
        known = [
            (patiently(partial(self.log.newest, key, head)), head.session_id, key)
            for key, head in self._heads(prefix)
            if not head.stub
        ]
        for _, session_id, key in sorted(known, reverse=True):
            yield key, session_id

    def _heads(self, prefix: str) -> Iterator[tuple[SessionKey, Head]]:
        after: SessionKey | None = b""
        while after is not None:
            heads, after = patiently(partial(self.log.heads, self._namespace, after))
            yield from (each for each in heads if each[1].session_id.startswith(prefix))

    def backlog(self) -> dict[SessionKey, Backlog]:
        """What waits for the central store."""
        self.check_open()
        return patiently(partial(outbox.backlog, self.log, self._namespace))

    def news(self, key: SessionKey, before: Head) -> News:
        """What came into a session after its head was `before`, as events."""
        return patiently(partial(self._news, key, before))

    def _news(self, key: SessionKey, before: Head) -> News:
        view = self.view(key, before.session_id)
        with view.lock:
            if not view.loaded:
                view.refresh(until=before.seq)
            fold = view.refresh()
            effects = list(view.effects)
            view.effects.clear()
            return news_of(effects, fold)

    def unresolved(self, key: SessionKey, session_id: str) -> list[Unresolved]:
        """Conflicts of a session about which a function is to be asked; each is told once."""
        return patiently(partial(_take_unresolved, self.view(key, session_id)))

    def loaded(self) -> list[tuple[SessionKey, str]]:
        """The sessions that this process keeps in memory."""
        return self._views.loaded()

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits to be written, nor to be moved out of the write-ahead log: closing takes no time."""
        return self._writer.is_free and not self.log.rows.wal_bytes()

    def close(self) -> None:
        """Finish what is under way, and release the directory. Closing twice is fine."""
        self._closed = True
        self._writer.close()
        self._mover.close()
        self.owner.release()
        self.log.rows.close()

    def forked(self) -> None:
        """In a child process: threads did not come along, and locks may have been held by them."""
        self.owner.forked()
        self.log.rows.forked()
        self._start()


def _take_unresolved(view: View) -> list[Unresolved]:
    with view.lock:
        fold = view.refresh()
        return [] if view.conflicts is None else view.conflicts.take(fold)


def _look(view: View, look: Callable[[Fold], T]) -> T:
    with view.lock:
        fold = view.refresh()
        view.check_whole()
        return look(fold)


def _glance(view: View, look: Callable[[Fold], T]) -> T:
    with view.lock:
        return look(view.refresh())
