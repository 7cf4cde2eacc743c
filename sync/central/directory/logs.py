"""The logs of a directory: runs are admitted, pages are read, and checkpoints put, each in one transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from localfirst.change import EMPTY_DIGEST
from localfirst.clock import wall_ms
from localfirst.errors import RemoteRejected
from localfirst.rows import Rows
from sync.central.base import Checkpoint, Ended, Head, LogEntry, Pulled, Pushed, PushStatus, Run, Want
from sync.central.digests import running_digests
from sync.central.directory.lives import Lives
from sync.central.directory.rows import Entry, Keys, Session, decode_entry, encode

_PAGE_ROWS: Final = 256


class Logs:
    """Those of one namespace."""

    def __init__(self, rows: Rows, keys: Keys) -> None:
        self.lives = Lives(rows, keys)
        self._rows = rows
        self._keys = keys

    def push(self, run: Run) -> Pushed:
        """Admit a run, if what it follows is there."""
        with self._rows.transaction():
            session = self.lives.session(run.session_id)
            if session is None and not run.fresh:
                ended = self.lives.ended(run.session_id, run.generation, session)
                return Pushed(PushStatus.MISSING, "", 0, 0, 0, EMPTY_DIGEST, wall_ms(), ended=ended)
            if session is None and run.first > 1:
                return Pushed(PushStatus.GAP, "", 0, 0, 0, EMPTY_DIGEST, wall_ms())
            if session is None:
                self.lives.clear(run.session_id)
                session = Session(run.generation)
            acked = session.acked.get(run.origin, 0)
            refusal = _refusal(run, session, acked)
            if refusal is PushStatus.GENERATION:
                return _pushed(refusal, session, acked, 0, self.lives.ended(run.session_id, run.generation, session))
            if refusal or run.first <= acked:
                return _pushed(refusal or PushStatus.OK, session, acked, 0)
            self._append(run, session)
            self._rows.put(self._keys.head(run.session_id), encode(session))
            return _pushed(PushStatus.OK, session, session.acked[run.origin], len(run.changes))

    def _append(self, run: Run, session: Session) -> None:
        session.ttl = session.ttl if run.ttl is None else run.ttl
        session.renew()
        digests = running_digests(session.digest, session.admitted_at, run.hashes)
        for data, digest in zip(run.changes, digests, strict=True):
            session.seq, session.digest = session.seq + 1, digest
            row = encode(Entry(session.admitted_at, digest, data))
            self._rows.insert(self._keys.entry(run.session_id, session.seq), row)
        session.acked[run.origin] = run.first + len(run.changes) - 1

    def pull(self, want: Want, max_bytes: int) -> Pulled:
        """A page of a log."""
        with self._rows.snapshot():
            session = self.lives.session(want.session_id)
            ended = self.lives.ended(want.session_id, want.generation, session)
            if session is None:
                return Pulled(None, False, [], ended=ended)
            want = want if want.generation is not None else want._replace(after=0)
            if not self._has(session, want):
                return Pulled(session.head, True, [], session.expires_at, ended)
            return Pulled(session.head, False, self._entries(want, session.seq, max_bytes), session.expires_at)

    def _has(self, session: Session, want: Want) -> bool:
        """Whether what a puller has is the beginning of this log."""
        if not session.floor <= want.after <= session.seq:
            return False
        if want.generation is None:
            return True
        return want.generation == session.generation and want.digest == self._digest_at(session, want)

    def _digest_at(self, session: Session, want: Want) -> int:
        if want.after == session.seq:
            return session.digest
        if want.after == session.floor:
            return session.floor_digest
        row = self._rows.get(self._keys.entry(want.session_id, want.after))
        if row is None:
            raise self._hole(want.session_id, want.after)
        return decode_entry(row).digest

    def _hole(self, session_id: str, seq: int) -> RemoteRejected:
        return RemoteRejected(f"{self._rows.directory}: the log of {session_id!r} has no seq {seq}")

    def _entries(self, want: Want, last: int, max_bytes: int) -> list[LogEntry]:
        entries: list[LogEntry] = []
        seq, size = want.after, 0
        while seq < last and size < max_bytes:
            rows = self._rows.range(
                self._keys.entry(want.session_id, seq + 1), self._keys.entry(want.session_id, last + 1), _PAGE_ROWS
            )
            for row_key, value in rows:
                seq += 1
                if int.from_bytes(row_key[-8:], "big") != seq:
                    raise self._hole(want.session_id, seq)
                entry = decode_entry(value)
                entries.append(LogEntry(seq, entry.admitted_at, entry.data))
                size += len(entry.data)
                if size >= max_bytes:
                    break
            if not rows:
                where = self._rows.directory
                raise RemoteRejected(f"{where}: the log of {want.session_id!r} ends before its head {last}")
        return entries

    def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        """Where logs end."""
        return [self._head(session_id) for session_id in session_ids]

    def _head(self, session_id: str) -> Head | None:
        session = self.lives.session(session_id)
        return None if session is None else session.head

    def checkpoint(self, session_id: str) -> Checkpoint | None:
        """What stands for the log up to its floor."""
        with self._rows.snapshot():
            session = self.lives.session(session_id)
            if session is None or not session.floor:
                return None
            data = self._rows.get(self._keys.checkpoint(session_id))
        if data is None:
            raise RemoteRejected(f"{self._rows.directory}: session {session_id!r} has lost its checkpoint")
        return Checkpoint(session.generation, session.floor, session.floor_digest, data)

    def put_checkpoint(
        self, session_id: str, expected: Head | None, checkpoint: Checkpoint, acked: Mapping[str, int], ttl: int
    ) -> bool:
        """Put one in the place of the log up to its seq, or of the whole session."""
        with self._rows.transaction():
            session = self.lives.session(session_id)
            if (session and session.head) != expected or checkpoint.seq < 1:
                return False
            if session is None or session.generation != checkpoint.generation:
                admitted_at = session.admitted_at if session else 0
                self.lives.clear(session_id)
                session = Session(*checkpoint[:3], admitted_at, dict(acked), ttl=ttl)
                session.renew()
            elif session.floor <= checkpoint.seq <= session.seq:
                self.lives.drop(session_id, checkpoint.seq)
            else:
                return False
            session.floor, session.floor_digest = checkpoint.seq, checkpoint.digest
            self._rows.put(self._keys.checkpoint(session_id), checkpoint.data)
            self._rows.put(self._keys.head(session_id), encode(session))
        return True


def _refusal(run: Run, session: Session, acked: int) -> PushStatus | None:
    if not run.fresh and run.generation != session.generation:
        return PushStatus.GENERATION
    if run.first > acked + 1:
        return PushStatus.GAP
    return PushStatus.OVERLAP if run.first <= acked < run.first + len(run.changes) - 1 else None


def _pushed(status: PushStatus, session: Session, acked: int, admitted: int, ended: Ended | None = None) -> Pushed:
    now = session.admitted_at or wall_ms()
    head = session.generation, acked, admitted, session.seq, session.digest
    return Pushed(status, *head, now, session.expires_at, ended)
