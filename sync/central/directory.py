"""A directory as central store: on the same engine as the local side, for one machine or a shared local disk.

Not for network file systems: SQLite's locks do not work there. It has no hints; replicas poll.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from localfirst.change import EMPTY_DIGEST, check_session_id, new_id
from localfirst.clock import wall_ms
from localfirst.errors import (
    ConfigurationError,
    LocalFirstError,
    RemoteRejected,
    RemoteUnavailable,
    RemoteVersionError,
    StoreBusy,
)
from localfirst.rows import BadRow, Rows
from sync.central.base import (
    FORMAT_VERSION,
    KEEP_ENDED,
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
from sync.retry import patiently

T = TypeVar("T")

_STORE: Final = b"store"
_HEAD: Final = b"h"
_ENTRY: Final = b"l"
_CHECKPOINT: Final = b"k"
_END: Final = b"e"
_PAGE_ROWS: Final = 256
_SWEEP_ROWS: Final = 1000
_MOST: Final = (1 << 62) - 1
"""No seq is greater."""
_LAST: Final = (1 << 63) - 1


class _Identity(msgspec.Struct, array_like=True):
    format: int
    store_id: str


class _Session(msgspec.Struct, array_like=True):
    """The head row of a session, key `h <namespace> <session id>`."""

    generation: str
    seq: int = 0
    digest: int = EMPTY_DIGEST
    admitted_at: int = 0
    acked: dict[str, int] = {}
    floor: int = 0
    floor_digest: int = EMPTY_DIGEST
    """Of the log up to `floor`, for which the checkpoint stands: key `k <namespace and session>`."""
    ttl: int = 0
    expires_at: int = 0

    def renew(self) -> None:
        """Something is admitted now."""
        self.admitted_at = max(wall_ms(), self.admitted_at)
        self.expires_at = self.admitted_at + self.ttl if self.ttl else 0

    @property
    def head(self) -> Head:
        return Head(self.generation, self.seq, self.digest)


class _Entry(msgspec.Struct, array_like=True):
    """A row of a log, key `l <namespace and session> <seq>`."""

    admitted_at: int
    digest: int
    """Of the log up to this entry."""
    data: bytes


class _End(msgspec.Struct, array_like=True):
    """How a life ended, key `e <namespace and session> <generation>`."""

    how: Ended
    forget_at: int


_encode = msgspec.msgpack.Encoder().encode
_identity_decoder = msgspec.msgpack.Decoder(_Identity)
_session_decoder = msgspec.msgpack.Decoder(_Session)
_entry_decoder = msgspec.msgpack.Decoder(_Entry)
_end_decoder = msgspec.msgpack.Decoder(_End)


class DirectoryStore:
    """`CentralStore` in a directory, `file:///directory`."""

    def __init__(self, url: str, namespace: str) -> None:
        parts = urlsplit(url)
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
            raise ConfigurationError("a directory as central store is given as file:///absolute/path")
        self._directory = Path(path)
        self._namespace = blake2b(namespace.encode(), digest_size=16).digest()
        self._opened: Rows | None = None
        self._inode = 0

    @property
    def _rows(self) -> Rows:
        if self._opened is None:
            self._opened = Rows(self._directory)
            self._inode = self._opened.file.stat().st_ino
        return self._opened

    def _check_place(self) -> None:
        """SQLite goes on with a file that was deleted or replaced, where nobody else will ever find what it writes."""
        if self._opened is None:
            return
        try:
            same = self._opened.file.stat().st_ino == self._inode
        except OSError:
            same = False
        if not same:
            self._opened.close()
            self._opened = None
            raise RemoteUnavailable(f"the central store {self._directory} was deleted or replaced")

    async def identify(self) -> Identity:
        return await self._run(self._identify)

    def _identify(self) -> Identity:
        with self._rows.transaction():
            found = self._rows.get(_STORE)
            identity = _Identity(FORMAT_VERSION, new_id()) if found is None else _identity_decoder.decode(found)
            if found is None:
                self._rows.put(_STORE, _encode(identity))
        check_format(str(self._directory), identity.format)
        return Identity(identity.store_id, identity.format, wall_ms())

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        return [await self._run(partial(self._push, run)) for run in runs]

    def _push(self, run: Run) -> Pushed:
        with self._rows.transaction():
            session = self._session(run.session_id)
            if session is None and not run.fresh:
                ended = self._ended(run.session_id, run.generation, session)
                return Pushed(PushStatus.MISSING, "", 0, 0, 0, EMPTY_DIGEST, wall_ms(), ended=ended)
            if session is None and run.first > 1:
                return Pushed(PushStatus.GAP, "", 0, 0, 0, EMPTY_DIGEST, wall_ms())
            if session is None:
                self._clear(run.session_id)
                session = _Session(run.generation)
            acked = session.acked.get(run.origin, 0)
            refusal = _refusal(run, session, acked)
            if refusal is PushStatus.GENERATION:
                return _pushed(refusal, session, acked, 0, self._ended(run.session_id, run.generation, session))
            if refusal or run.first <= acked:
                return _pushed(refusal or PushStatus.OK, session, acked, 0)
            self._append(run, session)
            self._rows.put(self._head_key(run.session_id), _encode(session))
            return _pushed(PushStatus.OK, session, session.acked[run.origin], len(run.changes))

    def _append(self, run: Run, session: _Session) -> None:
        session.ttl = session.ttl if run.ttl is None else run.ttl
        session.renew()
        digests = running_digests(session.digest, session.admitted_at, run.hashes)
        for data, digest in zip(run.changes, digests, strict=True):
            session.seq, session.digest = session.seq + 1, digest
            row = _encode(_Entry(session.admitted_at, digest, data))
            self._rows.insert(self._entry_key(run.session_id, session.seq), row)
        session.acked[run.origin] = run.first + len(run.changes) - 1

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        return [await self._run(partial(self._pull, want, max_bytes)) for want in wants]

    def _pull(self, want: Want, max_bytes: int) -> Pulled:
        with self._rows.snapshot():
            session = self._session(want.session_id)
            ended = self._ended(want.session_id, want.generation, session)
            if session is None:
                return Pulled(None, False, [], ended=ended)
            want = want if want.generation is not None else want._replace(after=0)
            if not self._has(session, want):
                return Pulled(session.head, True, [], session.expires_at, ended)
            return Pulled(session.head, False, self._entries(want, session.seq, max_bytes), session.expires_at)

    def _has(self, session: _Session, want: Want) -> bool:
        """Whether what a puller has is the beginning of this log."""
        if not session.floor <= want.after <= session.seq:
            return False
        if want.generation is None:
            return True
        return want.generation == session.generation and want.digest == self._digest_at(session, want)

    def _digest_at(self, session: _Session, want: Want) -> int:
        if want.after == session.seq:
            return session.digest
        if want.after == session.floor:
            return session.floor_digest
        row = self._rows.get(self._entry_key(want.session_id, want.after))
        if row is None:
            raise self._hole(want.session_id, want.after)
        return _entry_decoder.decode(row).digest

    def _hole(self, session_id: str, seq: int) -> RemoteRejected:
        return RemoteRejected(f"{self._directory}: the log of {session_id!r} has no seq {seq}")

    def _entries(self, want: Want, last: int, max_bytes: int) -> list[LogEntry]:
        entries: list[LogEntry] = []
        seq, size = want.after, 0
        while seq < last and size < max_bytes:
            rows = self._rows.range(
                self._entry_key(want.session_id, seq + 1), self._entry_key(want.session_id, last + 1), _PAGE_ROWS
            )
            for row_key, value in rows:
                seq += 1
                if int.from_bytes(row_key[-8:], "big") != seq:
                    raise self._hole(want.session_id, seq)
                entry = _entry_decoder.decode(value)
                entries.append(LogEntry(seq, entry.admitted_at, entry.data))
                size += len(entry.data)
                if size >= max_bytes:
                    break
            if not rows:
                raise RemoteRejected(f"{self._directory}: the log of {want.session_id!r} ends before its head {last}")
        return entries

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        return await self._run(partial(self._heads, session_ids))

    def _heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        return [self._head(session_id) for session_id in session_ids]

    def _head(self, session_id: str) -> Head | None:
        session = self._session(session_id)
        return None if session is None else session.head

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        return await self._run(partial(self._checkpoint, session_id))

    def _checkpoint(self, session_id: str) -> Checkpoint | None:
        with self._rows.snapshot():
            session = self._session(session_id)
            if session is None or not session.floor:
                return None
            data = self._rows.get(self._checkpoint_key(session_id))
        if data is None:
            raise RemoteRejected(f"{self._directory}: session {session_id!r} has lost its checkpoint")
        return Checkpoint(session.generation, session.floor, session.floor_digest, data)

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        return await self._run(partial(self._put_checkpoint, session_id, expected, checkpoint, acked, ttl))

    def _put_checkpoint(
        self, session_id: str, expected: Head | None, checkpoint: Checkpoint, acked: Mapping[str, int], ttl: int
    ) -> bool:
        with self._rows.transaction():
            session = self._session(session_id)
            if (session and session.head) != expected or checkpoint.seq < 1:
                return False
            if session is None or session.generation != checkpoint.generation:
                admitted_at = session.admitted_at if session else 0
                self._clear(session_id)
                session = _Session(*checkpoint[:3], admitted_at, dict(acked), ttl=ttl)
                session.renew()
            elif session.floor < checkpoint.seq <= session.seq:
                self._drop(session_id, checkpoint.seq)
            else:
                return False
            session.floor, session.floor_digest = checkpoint.seq, checkpoint.digest
            self._rows.put(self._checkpoint_key(session_id), checkpoint.data)
            self._rows.put(self._head_key(session_id), _encode(session))
        return True

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        for ending in endings:
            await self._run(partial(self._delete, ending, wall_ms() + keep))

    def _delete(self, ending: Ending, forget_at: int) -> None:
        with self._rows.transaction():
            found = self._kept(self._head_key(ending.session_id))
            if ending.generation is not None:
                self._note(ending.session_id, ending.generation, _End("deleted", forget_at))
            if found is not None and ending.generation in (None, found.generation):
                self._clear(ending.session_id)
                self._note(ending.session_id, found.generation, _End("deleted", forget_at))
        self._rows.scrub()

    async def sweep(self, limit: int) -> int:
        swept, after = 0, _HEAD + self._namespace
        while swept < limit and (found := await self._run(partial(self._expired, after))) is not None:
            session_ids, after = found
            for session_id in session_ids[: limit - swept]:
                await self._run(partial(self._sweep, session_id))
                swept += 1
        await self._run(self._forget)
        return swept

    def _expired(self, after: bytes) -> tuple[list[str], bytes] | None:
        """Which sessions of the next page of heads expired, and where the page after begins; None at the end."""
        prefix, now = _HEAD + self._namespace, wall_ms()
        rows = self._rows.range(after, prefix + b"\xff", _SWEEP_ROWS)
        if not rows:
            return None
        expired = [row_key for row_key, value in rows if _has_expired(_decoded(value), now)]
        return [row_key[len(prefix) :].decode() for row_key in expired], rows[-1][0] + b"\0"

    def _sweep(self, session_id: str) -> None:
        with self._rows.transaction():
            if self._session(session_id) is None:
                self._clear(session_id)

    def _forget(self) -> None:
        prefix = _END + self._namespace
        with self._rows.transaction():
            for row_key, value in self._rows.range(prefix, prefix + b"\xff" * 64):
                if _end_decoder.decode(value).forget_at <= wall_ms():
                    self._rows.delete_range(row_key, row_key + b"\0")

    def _clear(self, session_id: str) -> None:
        """Remove all rows of a session; how it ended, if it expired, is noted."""
        key = self._head_key(session_id)
        found = self._kept(key)
        if found is not None and _has_expired(found, wall_ms()):
            self._note(session_id, found.generation, _End("expired", found.expires_at + KEEP_ENDED))
        self._drop(session_id, _LAST)
        for row_key in (key, self._checkpoint_key(session_id)):
            self._rows.delete_range(row_key, row_key + b"\0")

    def _note(self, session_id: str, generation: str, end: _End) -> None:
        self._rows.put(self._end_key(session_id, generation), _encode(end))

    def _ended(self, session_id: str, generation: str | None, session: _Session | None) -> Ended | None:
        """What became of a life that is not the session's."""
        if generation is None or (session and session.generation == generation):
            return None
        value = self._rows.get(self._end_key(session_id, generation))
        if value is not None:
            end = _end_decoder.decode(value)
            return end.how if end.forget_at > wall_ms() else None
        found = self._kept(self._head_key(session_id))
        return "expired" if found is not None and session is None and found.generation == generation else None

    def _drop(self, session_id: str, last: int) -> None:
        """Delete the entries of a log up to a seq."""
        bounds = self._entry_key(session_id, 0), self._entry_key(session_id, last + 1)
        if self._rows.has_more(*bounds, 0):
            self._rows.delete_range(*bounds)

    async def sessions(self, after: str, limit: int) -> list[str]:
        return await self._run(partial(self._sessions, after, limit))

    def _sessions(self, after: str, limit: int) -> list[str]:
        prefix = _HEAD + self._namespace
        found: list[str] = []
        last = prefix + after.encode() + b"\0"
        while len(found) < limit and (rows := self._rows.range(last, prefix + b"\xff", limit)):
            now = wall_ms()
            found += [
                row_key[len(prefix) :].decode() for row_key, value in rows if not _has_expired(_decoded(value), now)
            ]
            last = rows[-1][0] + b"\0"
        return found[: max(0, limit)]

    async def watch(self) -> AsyncIterator[Hint | None]:
        return
        yield

    async def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _session(self, session_id: str) -> _Session | None:
        """A session that is there."""
        found = self._kept(self._head_key(session_id))
        return None if found is None or _has_expired(found, wall_ms()) else found

    def _kept(self, key: bytes) -> _Session | None:
        """A session of which there are rows, though it may have expired."""
        value = self._rows.get(key)
        return None if value is None else _decoded(value)

    def _head_key(self, session_id: str) -> bytes:
        return _HEAD + self._namespace + check_session_id(session_id).encode()

    def _checkpoint_key(self, session_id: str) -> bytes:
        return _CHECKPOINT + self._hash(session_id)

    def _entry_key(self, session_id: str, seq: int) -> bytes:
        return _ENTRY + self._hash(session_id) + seq.to_bytes(8, "big")

    def _end_key(self, session_id: str, generation: str) -> bytes:
        return _END + self._namespace + self._hash(session_id) + generation.encode()

    def _hash(self, session_id: str) -> bytes:
        return blake2b(self._namespace + session_id.encode(), digest_size=16).digest()

    async def _run(self, call: Callable[[], T]) -> T:
        """What goes wrong with this directory is the central store's trouble, not the local one's."""
        try:
            self._check_place()
            return await patiently(call)
        except (ConfigurationError, RemoteRejected, RemoteUnavailable, RemoteVersionError):
            raise
        except BadRow as error:  # The sessions of other rows go on.
            raise RemoteRejected(f"the central store is damaged: {error}") from error
        except StoreBusy as error:
            raise RemoteUnavailable(f"the central store {self._directory} is locked by another process") from error
        except LocalFirstError as error:
            raise RemoteUnavailable(f"the central store can't be used: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RemoteRejected(f"the central store {self._directory} holds what can't be decoded: {error}") from error


def _refusal(run: Run, session: _Session, acked: int) -> PushStatus | None:
    if not run.fresh and run.generation != session.generation:
        return PushStatus.GENERATION
    if run.first > acked + 1:
        return PushStatus.GAP
    return PushStatus.OVERLAP if run.first <= acked < run.first + len(run.changes) - 1 else None


def _decoded(value: bytes) -> _Session:
    return _session_decoder.decode(value)


def _has_expired(session: _Session, now: int) -> bool:
    return 0 < session.expires_at <= now


def _pushed(status: PushStatus, session: _Session, acked: int, admitted: int, ended: Ended | None = None) -> Pushed:
    now = session.admitted_at or wall_ms()
    head = session.generation, acked, admitted, session.seq, session.digest
    return Pushed(status, *head, now, session.expires_at, ended)
