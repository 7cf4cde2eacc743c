"""A directory as central store: on the same engine as the local side, for one machine or a shared local disk.

Not for network file systems: SQLite's locks do not work there. It has no hints; replicas poll.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote, urlsplit

import msgspec

from localfirst.change import new_id
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
    Ending,
    Head,
    Hint,
    Identity,
    Pulled,
    Pushed,
    Run,
    Want,
)
from sync.central.directory.lives import Lives
from sync.central.directory.logs import Logs
from sync.central.directory.rows import STORE, Keys, StoreRow, decode_store, encode
from sync.central.formats import check_format
from sync.retry import patiently

T = TypeVar("T")


class DirectoryStore:
    """`CentralStore` in a directory, `file:///directory`."""

    def __init__(self, url: str, namespace: str) -> None:
        parts = urlsplit(url)
        path = unquote(parts.path)
        if parts.netloc not in ("", "localhost") or not path.startswith("/") or "\0" in path:
            raise ConfigurationError("a directory as central store is given as file:///absolute/path")
        self._directory = Path(path)
        self._keys = Keys(namespace)
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
        return await self._run(lambda _: self._identify())

    def _identify(self) -> Identity:
        with self._rows.transaction():
            found = self._rows.get(STORE)
            identity = StoreRow(FORMAT_VERSION, new_id()) if found is None else decode_store(found)
            if found is None:
                self._rows.put(STORE, encode(identity))
        check_format(str(self._directory), identity.format)
        return Identity(identity.store_id, identity.format, wall_ms())

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        return [await self._run(partial(Logs.push, run=run)) for run in runs]

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        return [await self._run(partial(Logs.pull, want=want, max_bytes=max_bytes)) for want in wants]

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        return await self._run(lambda logs: logs.heads(session_ids))

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        return await self._run(lambda logs: logs.checkpoint(session_id))

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        return await self._run(lambda logs: logs.put_checkpoint(session_id, expected, checkpoint, acked, ttl))

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        for ending in endings:
            await self._ask(partial(Lives.delete, ending=ending, forget_at=wall_ms() + keep))

    async def sweep(self, limit: int) -> int:
        swept, after = 0, b""
        while swept < limit and (found := await self._ask(partial(Lives.expired, after=after))):
            session_ids, after = found
            for session_id in session_ids[: limit - swept]:
                await self._ask(partial(Lives.sweep, session_id=session_id))
                swept += 1
        await self._ask(Lives.forget)
        return swept

    async def sessions(self, after: str, limit: int) -> list[str]:
        return await self._ask(partial(Lives.sessions, after=after, limit=limit))

    async def watch(self) -> AsyncIterator[Hint | None]:
        return
        yield

    async def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None

    async def _ask(self, call: Callable[[Lives], T]) -> T:
        return await self._run(lambda logs: call(logs.lives))

    async def _run(self, call: Callable[[Logs], T]) -> T:
        """What goes wrong with this directory is the central store's trouble, not the local one's."""
        try:
            self._check_place()
            return await patiently(lambda: call(Logs(self._rows, self._keys)))
        except (ConfigurationError, RemoteRejected, RemoteUnavailable, RemoteVersionError):
            raise
        except BadRow as error:  # The sessions of other rows go on.
            raise RemoteRejected(f"the central store is damaged: {error}") from error
        except StoreBusy as error:
            raise RemoteUnavailable(f"the central store {self._directory} is locked by another process") from error
        except LocalFirstError as error:
            raise RemoteUnavailable(f"the central store can't be used: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise RemoteRejected(f"the central store {self._directory} holds what can't be decoded: {error}") from error
