"""A central store in memory, for tests and the simulator. Stores that share a server meet, as on a real one.

>>> server = MemoryServer()
>>> here, there = MemoryStore(server), MemoryStore(server)
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from localfirst.change import EMPTY_DIGEST, check_session_id, new_id
from localfirst.clock import wall_ms
from localfirst.errors import RemoteUnavailable
from sync.central.base import (
    FORMAT_VERSION,
    KEEP_ENDED,
    CentralStore,
    Checkpoint,
    Ended,
    Ending,
    Head,
    Hint,
    Identity,
    LogEntry,
    Pulled,
    Pushed,
    PushStatus,
    Run,
    Want,
)
from sync.central.digests import running_digests
from sync.central.formats import check_format


@dataclass
class _Session:
    generation: str
    log: list[LogEntry] = field(default_factory=list)
    acked: dict[str, int] = field(default_factory=dict)
    digest: int = EMPTY_DIGEST
    checkpoint: Checkpoint | None = None
    admitted_at: int = 0
    digests: list[int] = field(default_factory=list)
    """Of the whole log up to each entry."""
    ttl: int = 0
    expires_at: int = 0

    def renew(self, now: int) -> None:
        """Something is admitted."""
        self.admitted_at = now
        self.expires_at = now + self.ttl if self.ttl else 0

    @property
    def floor(self) -> int:
        return self.checkpoint.seq if self.checkpoint else 0

    @property
    def seq(self) -> int:
        return self.floor + len(self.log)

    @property
    def head(self) -> Head:
        return Head(self.generation, self.seq, self.digest)

    def has(self, want: Want) -> bool:
        """Whether what a puller has is the beginning of this log."""
        if want.generation is None:
            return self.floor == 0
        if want.generation != self.generation or not self.floor <= want.after <= self.seq:
            return False
        return want.digest == self._digest_at(want.after)

    def _digest_at(self, seq: int) -> int:
        if seq == self.seq:
            return self.digest
        if seq == self.floor:
            return self.checkpoint.digest if self.checkpoint else EMPTY_DIGEST
        return self.digests[seq - self.floor - 1]


class _End(NamedTuple):
    how: Ended
    forget_at: int


@dataclass
class _Namespace:
    store_id: str = field(default_factory=new_id)
    format: int = FORMAT_VERSION
    sessions: dict[str, _Session] = field(default_factory=dict)
    ends: dict[tuple[str, str], _End] = field(default_factory=dict)
    """Of lives that are over, by session and generation."""
    watchers: set[asyncio.Queue[Hint | None]] = field(default_factory=set)


class MemoryServer:
    """What several stores share. `now` is its clock, in Unix milliseconds."""

    def __init__(self, now: Callable[[], int] = wall_ms) -> None:
        self.now = now
        self._namespaces: dict[str, _Namespace] = defaultdict(_Namespace)

    def namespace(self, name: str) -> _Namespace:
        """The state of one namespace, made when it is first asked for."""
        return self._namespaces[name]

    def wipe(self) -> None:
        """Lose everything, as a server does whose disk was replaced."""
        self._namespaces.clear()


class MemoryStore(CentralStore):
    """One namespace of a `MemoryServer`; by default of one of its own."""

    def __init__(self, server: MemoryServer | None = None, namespace: str = "default") -> None:
        self.server = server or MemoryServer()
        self._name = namespace
        self._queues: set[asyncio.Queue[Hint | None]] = set()

    @property
    def _state(self) -> _Namespace:
        return self.server.namespace(self._name)

    async def identify(self) -> Identity:
        check_format("the store in memory", self._state.format)
        return Identity(self._state.store_id, self._state.format, self.server.now())

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        return [self._push(check_session_id(run.session_id), run) for run in runs]

    def _push(self, session_id: str, run: Run) -> Pushed:
        session = self._session(session_id)
        acked = session.acked.get(run.origin, 0) if session else 0
        refusal = _refusal(session, run, acked)
        now = self._now_in(session)
        if refusal:
            ended = None if refusal is PushStatus.GAP else self._ended(session_id, run.generation, session)
            return _pushed(refusal, session or _Session(""), run, 0, now, ended)
        session = self._state.sessions.setdefault(session_id, _Session(run.generation))
        if run.first <= acked:
            return _pushed(PushStatus.OK, session, run, 0, now)
        session.log += [LogEntry(seq, now, data) for seq, data in enumerate(run.changes, session.seq + 1)]
        session.digests += running_digests(session.digest, now, run.hashes)
        session.digest = session.digests[-1]
        session.acked[run.origin] = acked + len(run.changes)
        session.ttl = session.ttl if run.ttl is None else run.ttl
        session.renew(now)
        self._tell(Hint(session_id, session.generation, session.seq))
        return _pushed(PushStatus.OK, session, run, len(run.changes), now)

    def _session(self, session_id: str) -> _Session | None:
        """None, too, if its time has come."""
        session = self._state.sessions.get(check_session_id(session_id))
        if session and 0 < session.expires_at <= self.server.now():
            self._end(session_id, session, "expired", session.expires_at + KEEP_ENDED)
            return None
        return session

    def _end(self, session_id: str, session: _Session, how: Ended, forget_at: int) -> None:
        self._state.ends[session_id, session.generation] = _End(how, forget_at)
        del self._state.sessions[session_id]

    def _ended(self, session_id: str, generation: str | None, session: _Session | None) -> Ended | None:
        if generation is None or (session and session.generation == generation):
            return None
        end = self._state.ends.get((session_id, generation))
        return end.how if end else None

    def _tell(self, hint: Hint) -> None:
        for queue in self._state.watchers:
            queue.put_nowait(hint)

    def _now_in(self, session: _Session | None) -> int:
        """The clock, which may step back; the times in one log don't."""
        now = self.server.now()
        return max(now, session.admitted_at) if session else now

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        return [self._pull(want, max_bytes) for want in wants]

    def _pull(self, want: Want, max_bytes: int) -> Pulled:
        session = self._session(want.session_id)
        ended = self._ended(want.session_id, want.generation, session)
        if session is None:
            return Pulled(None, False, [], ended=ended)
        if not session.has(want):
            return Pulled(session.head, True, [], session.expires_at, ended)
        after = 0 if want.generation is None else want.after
        page: list[LogEntry] = []
        for entry in session.log[after - session.floor :]:
            if page and max_bytes <= 0:
                break
            page.append(entry)
            max_bytes -= len(entry.data)
        return Pulled(session.head, False, page, session.expires_at)

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        session = self._session(session_id)
        return session.checkpoint if session else None

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        session = self._session(session_id)
        if (session.head if session else None) != expected or checkpoint.seq < 1:
            return False
        if session and session.generation == checkpoint.generation:
            return _compact(session, checkpoint)
        now = self._now_in(session)
        made = _Session(checkpoint.generation, [], dict(acked), checkpoint.digest, checkpoint, ttl=ttl)
        made.renew(now)
        self._state.sessions[session_id] = made
        self._tell(Hint(session_id, made.generation, made.seq))
        return True

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        forget_at = self.server.now() + keep
        for session_id, generation in endings:
            session = self._session(session_id)
            if generation is not None:
                self._state.ends[session_id, generation] = _End("deleted", forget_at)
            if session is not None and generation in (None, session.generation):
                self._end(session_id, session, "deleted", forget_at)
                self._tell(Hint(session_id, "", 0))

    async def sweep(self, limit: int) -> int:
        now, swept = self.server.now(), 0
        for session_id in list(self._state.sessions):
            if swept == limit:
                break
            swept += self._session(session_id) is None
        self._state.ends = {life: end for life, end in self._state.ends.items() if end.forget_at > now}
        return swept

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        found = [self._session(session_id) for session_id in session_ids]
        return [session.head if session else None for session in found]

    async def sessions(self, after: str, limit: int) -> list[str]:
        known = [session_id for session_id in list(self._state.sessions) if self._session(session_id)]
        return sorted(session_id for session_id in known if session_id > after)[: max(0, limit)]

    async def watch(self) -> AsyncGenerator[Hint | None, None]:
        queue: asyncio.Queue[Hint | None] = asyncio.Queue()
        watchers = self._state.watchers
        watchers.add(queue)
        self._queues.add(queue)
        try:
            yield None
            while (hint := await queue.get()) is not None:
                yield hint
            raise RemoteUnavailable("the store was closed")
        finally:
            watchers.discard(queue)
            self._queues.discard(queue)

    async def close(self) -> None:
        for queue in self._queues:
            queue.put_nowait(None)


def _pushed(
    status: PushStatus, session: _Session, run: Run, admitted: int, now: int, ended: Ended | None = None
) -> Pushed:
    acked = session.acked.get(run.origin, 0)
    return Pushed(status, session.generation, acked, admitted, *session.head[1:], now, session.expires_at, ended)


def _refusal(session: _Session | None, run: Run, acked: int) -> PushStatus | None:
    if not run.fresh and session is None:
        return PushStatus.MISSING
    if not run.fresh and session and session.generation != run.generation:
        return PushStatus.GENERATION
    if run.first > acked + 1:
        return PushStatus.GAP
    return PushStatus.OVERLAP if run.first <= acked < run.first + len(run.changes) - 1 else None


def _compact(session: _Session, checkpoint: Checkpoint) -> bool:
    if not session.floor <= checkpoint.seq <= session.seq:
        return False
    dropped = checkpoint.seq - session.floor
    session.log, session.digests = session.log[dropped:], session.digests[dropped:]
    session.checkpoint = checkpoint
    return True
