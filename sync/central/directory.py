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
from localfirst.rows import Rows
from sync.central.base import (
    FORMAT_VERSION,
    Checkpoint,
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
_PAGE_ROWS: Final = 256
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

    @property
    def head(self) -> Head:
        return Head(self.generation, self.seq, self.digest)


class _Entry(msgspec.Struct, array_like=True):
    """A row of a log, key `l <namespace and session> <seq>`."""

    admitted_at: int
    digest: int
    """Of the log up to this entry."""
    data: bytes


_encode = msgspec.msgpack.Encoder().encode
_identity_decoder = msgspec.msgpack.Decoder(_Identity)
_session_decoder = msgspec.msgpack.Decoder(_Session)
_entry_decoder = msgspec.msgpack.Decoder(_Entry)


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
        key = self._head_key(run.session_id)
        with self._rows.transaction():
            session = self._session(key)
            if session is None and not run.fresh:
                return Pushed(PushStatus.MISSING, "", 0, 0, 0, EMPTY_DIGEST, wall_ms())
            if session is None and run.first > 1:
                return Pushed(PushStatus.GAP, "", 0, 0, 0, EMPTY_DIGEST, wall_ms())
            if session is None:
                session = _Session(run.generation)
                self._drop(run.session_id, _MOST)  # Half of a lost session may still be there.
            acked = session.acked.get(run.origin, 0)
            refusal = _refusal(run, session, acked)
            if refusal or run.first <= acked:
                return _pushed(refusal or PushStatus.OK, session, acked, 0)
            self._append(run, session)
            self._rows.put(key, _encode(session))
            return _pushed(PushStatus.OK, session, session.acked[run.origin], len(run.changes))

    def _append(self, run: Run, session: _Session) -> None:
        session.admitted_at = max(wall_ms(), session.admitted_at)
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
            session = self._session(self._head_key(want.session_id))
            if session is None:
                return Pulled(None, False, [])
            want = want if want.generation is not None else want._replace(after=0)
            if not self._has(session, want):
                return Pulled(session.head, True, [])
            return Pulled(session.head, False, self._entries(want, session.seq, max_bytes))

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
        session = self._session(self._head_key(session_id))
        return None if session is None else session.head

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        return await self._run(partial(self._checkpoint, session_id))

    def _checkpoint(self, session_id: str) -> Checkpoint | None:
        with self._rows.snapshot():
            session = self._session(self._head_key(session_id))
            if session is None or not session.floor:
                return None
            data = self._rows.get(self._checkpoint_key(session_id))
        if data is None:
            raise RemoteRejected(f"{self._directory}: session {session_id!r} has lost its checkpoint")
        return Checkpoint(session.generation, session.floor, session.floor_digest, data)

    async def put_checkpoint(
        self, session_id: str, expected: Head | None, checkpoint: Checkpoint, acked: Mapping[str, int]
    ) -> bool:
        return await self._run(partial(self._put_checkpoint, session_id, expected, checkpoint, acked))

    def _put_checkpoint(
        self, session_id: str, expected: Head | None, checkpoint: Checkpoint, acked: Mapping[str, int]
    ) -> bool:
        key = self._head_key(session_id)
        with self._rows.transaction():
            session = self._session(key)
            if (session and session.head) != expected or checkpoint.seq < 1:
                return False
            if session is None or session.generation != checkpoint.generation:
                self._drop(session_id, _LAST)
                admitted_at = max(wall_ms(), session.admitted_at if session else 0)
                session = _Session(*checkpoint[:3], admitted_at, dict(acked))
            elif session.floor < checkpoint.seq <= session.seq:
                self._drop(session_id, checkpoint.seq)
            else:
                return False
            session.floor, session.floor_digest = checkpoint.seq, checkpoint.digest
            self._rows.put(self._checkpoint_key(session_id), checkpoint.data)
            self._rows.put(key, _encode(session))
        return True

    def _drop(self, session_id: str, last: int) -> None:
        """Delete the entries of a log up to a seq."""
        bounds = self._entry_key(session_id, 0), self._entry_key(session_id, last + 1)
        if self._rows.has_more(*bounds, 0):
            self._rows.delete_range(*bounds)

    async def sessions(self, after: str, limit: int) -> list[str]:
        return await self._run(partial(self._sessions, after, limit))

    def _sessions(self, after: str, limit: int) -> list[str]:
        prefix = _HEAD + self._namespace
        rows = self._rows.range(prefix + after.encode() + b"\0", prefix + b"\xff", limit)
        return [row_key[len(prefix) :].decode() for row_key, _ in rows]

    async def watch(self) -> AsyncIterator[Hint | None]:
        return
        yield

    async def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    def _session(self, key: bytes) -> _Session | None:
        value = self._rows.get(key)
        return None if value is None else _session_decoder.decode(value)

    def _head_key(self, session_id: str) -> bytes:
        return _HEAD + self._namespace + check_session_id(session_id).encode()

    def _checkpoint_key(self, session_id: str) -> bytes:
        return _CHECKPOINT + self._hash(session_id)

    def _entry_key(self, session_id: str, seq: int) -> bytes:
        return _ENTRY + self._hash(session_id) + seq.to_bytes(8, "big")

    def _hash(self, session_id: str) -> bytes:
        return blake2b(self._namespace + session_id.encode(), digest_size=16).digest()

    async def _run(self, call: Callable[[], T]) -> T:
        """What goes wrong with this directory is the central store's trouble, not the local one's."""
        try:
            self._check_place()
            return await patiently(call)
        except (ConfigurationError, RemoteRejected, RemoteUnavailable, RemoteVersionError):
            raise
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


def _pushed(status: PushStatus, session: _Session, acked: int, admitted: int) -> Pushed:
    now = session.admitted_at or wall_ms()
    return Pushed(status, session.generation, acked, admitted, session.seq, session.digest, now)
