"""The central store of a universe: in memory, and it can be restored, emptied and cut short."""

from __future__ import annotations

import dataclasses
from collections import defaultdict, deque
from collections.abc import Coroutine, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from localfirst.change import Change, new_id
from localfirst.checkpoint import MARKED
from localfirst.errors import RemoteRejected
from localfirst.testing.memory import MemoryServer, MemoryStore
from sync.central.base import Checkpoint, Head, LogEntry, Pushed, Run
from tests.simulation.ledger import Ledger
from tests.simulation.oracle import Oracle
from tests.simulation.world import WORLD

NAMESPACE: Final = "default"
REFUSED: Final = b"REFUSE"
"""A change that has this in it is refused for good."""

T = TypeVar("T")
Sessions = dict[str, Any]


def now(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of a coroutine that waits for nothing."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value  # type: ignore[no-any-return]
    raise AssertionError("it waits")


@dataclass
class Life:
    """All that was ever in one life of a session."""

    times: set[int] = field(default_factory=set)
    log: dict[tuple[str, int], tuple[Change, int]] = field(default_factory=dict)
    """By origin and counter, in order, with the times of admission."""


class Server:
    """What all replicas share."""

    def __init__(self, ledger: Ledger, oracle: Oracle) -> None:
        self._oracle = oracle
        self.skew = 0.0
        """Of its clock, in seconds."""
        self.epoch = 0
        """Changes when it is started again: calls that are under way fail."""
        self.admitted: set[int] = set()
        """The times of all changes that were ever in it."""
        self.replaced: set[str] = set()
        """Sessions that were made anew of a checkpoint."""
        self.ledger = ledger
        self._memory = MemoryServer(lambda: int((WORLD.now + self.skew) * 1000))
        self._before: dict[str, deque[Any]] = defaultdict(lambda: deque(maxlen=4))
        self.lives: dict[tuple[str, str], Life] = defaultdict(Life)
        """By session and generation."""
        self._named: dict[tuple[str, str, int], int] = {}

    def store(self) -> MemoryStore:
        """A connection to it."""
        return MemoryStore(self._memory, NAMESPACE)

    @property
    def sessions(self) -> Sessions:
        """By id; each has generation, log, acked, digest and checkpoint."""
        return self._memory.namespace(NAMESPACE).sessions

    def now(self) -> int:
        """Its clock, Unix milliseconds."""
        return self._memory.now()

    def alive(self, session_id: str) -> Any:
        """A session, unless it has expired; None: it is not there."""
        session = self.sessions.get(session_id)
        return None if session is None or 0 < session.expires_at <= self.now() else session

    def ends(self) -> dict[tuple[str, str], str]:
        """How lives ended, by session and generation."""
        known = self._memory.namespace(NAMESPACE).ends
        ends: dict[tuple[str, str], str] = {life: end.how for life, end in known.items()}
        for name, session in self.sessions.items():
            if self.alive(name) is None:
                ends[name, session.generation] = "expired"
        return ends

    def push(self, store: MemoryStore, runs: Sequence[Run]) -> list[Pushed]:
        """Admit runs, and remember how it was before."""
        if any(REFUSED in data for run in runs for data in run.changes):
            raise RemoteRejected("a change is refused")
        for run in runs:
            session = self.sessions.get(run.session_id)
            if session is not None:
                self._before[run.session_id].append(_copy(session))
        pushed = now(store.push(runs))
        for run in runs:
            self._note(run.session_id)
        return pushed

    def _note(self, session_id: str) -> None:
        for entry in self.log(session_id):
            change = self.ledger.change(entry.data)
            if change is not None:
                life = self.lives[session_id, self.sessions[session_id].generation]
                if self._oracle.record(change) is not None:
                    self.admitted.add(change.time)
                    life.times.add(change.time)
                life.log[change.origin, change.counter] = change, entry.admitted_at
                first = self._named.setdefault((session_id, change.origin, change.counter), change.time)
                if first != change.time:
                    self._oracle.confuse(session_id, (first, change.time))

    def note_checkpoint(self, session_id: str, expected: Head | None, checkpoint: Checkpoint) -> None:
        """Somebody puts a checkpoint."""
        if expected is None or expected.generation != checkpoint.generation:
            self.replaced.add(session_id)
            self._oracle.unproved.add(session_id)
        if max(WORLD.vault.codec(session_id).decode_state(checkpoint.data).fold.counters.values(), default=0) > MARKED:
            self._oracle.unproved.add(session_id)

    def times(self, session_id: str) -> set[int]:
        """The changes in the log of a session, and in its checkpoint."""
        session = self.sessions.get(session_id)
        if session is None:
            return set()
        folded = self.ledger.folded(session.checkpoint.data) if session.checkpoint else frozenset()
        return self._times_in(session_id) | folded

    def _times_in(self, session_id: str) -> set[int]:
        records = (self._oracle.record(self.ledger.change(entry.data)) for entry in self.log(session_id))
        return {record.time for record in records if record is not None}

    def log(self, session_id: str) -> list[LogEntry]:
        """The entries of a session behind its checkpoint."""
        session = self.sessions.get(session_id)
        return list(session.log) if session else []

    # What goes wrong with it.

    def snapshot(self) -> Sessions:
        """As it is now, to be restored later."""
        return {name: _copy(session) for name, session in self.sessions.items()}

    def restore(self, snapshot: Sessions) -> None:
        """As it was then."""
        self.sessions.clear()
        self.sessions.update({name: _copy(session) for name, session in snapshot.items()})

    def flush(self, *, other: bool) -> None:
        """Lose everything; `other`: its name too."""
        self.restore({})
        if other:
            self._memory.namespace(NAMESPACE).store_id = new_id()

    def lose_session(self, name: str) -> None:
        """Lose one session."""
        self.sessions.pop(name, None)

    def lose_pushes(self, name: str) -> None:
        """Lose the last pushes to a session."""
        if self._before[name]:
            self.sessions[name] = self._before[name].popleft()
            self._before[name].clear()


def _copy(session: Any) -> Any:
    values = {each.name: getattr(session, each.name) for each in dataclasses.fields(session)}
    return type(session)(**{name: copy(value) for name, value in values.items()})
