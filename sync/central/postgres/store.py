"""The central store in Postgres. What an operation does is SQL, in the files beside; here is how it is asked for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import datetime, timezone
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import asyncpg

from localfirst.change import check_session_id
from localfirst.errors import ConfigurationError, LocalFirstError, RemoteRejected, RemoteUnavailable
from sync.central.base import (
    KEEP_ENDED,
    CentralStore,
    Checkpoint,
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
from sync.central.postgres import hints, schema
from sync.central.postgres.address import parse_address
from sync.central.postgres.batch import batches, check_names, check_run, columns, data, numbers
from sync.central.postgres.errors import connecting, our_errors
from sync.central.postgres.statements import QUERIES

MAX_CONNECTIONS: Final = 4
CONNECT_SECONDS: Final = 5.0
COMMAND_SECONDS: Final = 30.0
WAIT_SECONDS: Final = 30.0
"""For a free connection."""
LARGE_SECONDS: Final = 120.0
"""For a checkpoint, which may have 50 MB."""
LARGE_AT_ONCE: Final = 2
"""So many connections are taken by checkpoints, that there are some for the rest."""
IDLE_SECONDS: Final = 60.0
"""Shorter than what routers between give a connection that nobody uses."""
CLOSE_SECONDS: Final = 5.0
HEAD_START_SECONDS: Final = 0.002
"""That hints get before the rest goes on: near by, they are sent by then."""
TELL_SECONDS: Final = 1.0
"""That closing waits for hints to be sent."""
SWEEP_SESSIONS: Final = 10
SWEEP_CHANGES: Final = 500
"""Removed in one statement: what it locks, it holds for a few milliseconds."""
MAX_NAMESPACE_BYTES: Final = 512
_FIRST: Final = datetime(1, 1, 1, tzinfo=timezone.utc)


class _Connection(asyncpg.Connection):  # type: ignore[misc]
    """A connection of the pool. No statement leaves any state in it, so giving it back needs no round trip."""

    def get_reset_query(self) -> str:
        return ""


class PostgresStore(CentralStore):
    """One namespace of a Postgres database.

    The URL is asyncpg's, and takes two options more: `notify=off` for no hints, and `statement_cache_size=0`; both are
    for poolers such as PgBouncer.
    """

    def __init__(self, url: str, namespace: str) -> None:
        self._address = parse_address(url)
        self._namespace = _check_namespace(namespace)
        self._channel = hints.channel(namespace)
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._closed = False
        self._listening: set[Any] = set()
        self._moved: list[Hint] = []
        """What watchers are to be told."""
        self._telling: asyncio.Task[None] | None = None

    async def identify(self) -> Identity:
        """Connect, create what is missing, and tell which store this is."""
        async with self._connection() as connection:
            identity, channel = await schema.identify(connection, self._namespace)
        self._channel = channel or hints.channel(self._namespace)
        return identity

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        """Admit runs, each in one atomic step. If some are refused for good, the others are admitted before
        `RemoteRejected` is raised: they may be pushed again without harm."""
        for run in runs:
            check_session_id(run.session_id)
        results: list[Pushed | None] = [None] * len(runs)
        refusals: list[RemoteRejected] = []
        for places in batches(runs):
            for place, result in zip(places, await self._push_batch([runs[place] for place in places]), strict=True):
                if isinstance(result, Pushed):
                    results[place] = result
                else:
                    refusals.append(result)
        if refusals:
            raise refusals[0]
        return [result for result in results if result is not None]

    async def _push_batch(self, runs: Sequence[Run]) -> list[Pushed | RemoteRejected]:
        """Push runs in one statement; one by one if they are refused together, so that one can't fail the others."""
        try:
            return [*await self._push_statement(runs)]
        except RemoteRejected as error:
            if len(runs) == 1:
                return [error]
        return [result for run in runs for result in await self._push_batch([run])]

    async def _push_statement(self, runs: Sequence[Run]) -> list[Pushed]:
        for run in runs:
            check_run(run)
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["push"], self._namespace, *columns(runs), KEEP_ENDED)
            results = [Pushed(PushStatus(status), *numbers) for _, status, *numbers in sorted(rows)]
        moved = [
            Hint(run.session_id, pushed.generation, pushed.head)
            for run, pushed in zip(runs, results, strict=True)
            if pushed.admitted
        ]
        await self._notify(moved)
        return results

    async def _notify(self, moved: Sequence[Hint]) -> None:
        """Apart from the push, which must stand whatever becomes of this, and need not wait for it. Postgres lets one
        notifying transaction commit at a time, so it is short, and tells all that has moved meanwhile."""
        if not (self._address.notify and moved):
            return
        self._moved += moved
        if self._telling is None or self._telling.done():
            self._telling = asyncio.create_task(self._tell(), name="localfirst-notify")
            # What is done next on this loop would hold it up.
            await asyncio.wait([self._telling], timeout=HEAD_START_SECONDS)

    async def _tell(self) -> None:
        with suppress(LocalFirstError):  # A hint may be lost.
            while self._moved:
                moved, self._moved = self._moved, []
                async with self._connection() as connection:
                    await connection.execute(QUERIES["notify"], self._channel, hints.payloads(moved))

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        """A page of each session's log after what the puller has."""
        for want in wants:
            check_session_id(want.session_id)
        wants = [want if want.generation is not None else want._replace(after=0) for want in wants]
        session_ids = [want.session_id for want in wants]
        generations = [want.generation for want in wants]
        afters = [want.after for want in wants]
        digests = [None if want.generation is None else want.digest for want in wants]
        arguments = self._namespace, session_ids, generations, numbers(afters), numbers(digests), max_bytes
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["pull"], *arguments)
        rows.sort(key=itemgetter(0))  # They come so; SQL just does not promise it.
        return [_page(wants[n - 1], list(page)) for n, page in groupby(rows, itemgetter(0))]

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        """What stands for the changes up to the floor of a log; None if all are there."""
        check_session_id(session_id)
        async with self._large, self._connection() as connection:
            row = await connection.fetchrow(QUERIES["checkpoint"], self._namespace, session_id, timeout=LARGE_SECONDS)
        if row is None:
            return None
        generation, floor, seq, digest, stored = row
        if seq != floor:
            raise _damaged(session_id, "its checkpoint is missing")
        return Checkpoint(generation, seq, digest, stored)

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        """Put a checkpoint if the log still ends at `expected`; see `CentralStore`."""
        check_names(check_session_id(session_id), checkpoint.generation, *acked)
        arguments = (
            *(expected or (None, None, None)),
            *checkpoint,
            list(acked),
            numbers(acked.values()),
            ttl,
            KEEP_ENDED,
        )
        async with self._large, self._connection() as connection:
            done: bool = await connection.fetchval(
                QUERIES["put_checkpoint"], self._namespace, session_id, *arguments, timeout=LARGE_SECONDS
            )
        made = expected is None or expected.generation != checkpoint.generation
        if done and made:
            await self._notify([Hint(session_id, checkpoint.generation, checkpoint.seq)])
        return done

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        """Delete sessions, and remember that."""
        for session_id, generation in endings:
            check_names(check_session_id(session_id), *filter(None, [generation]))
        arguments = [ending.session_id for ending in endings], [ending.generation for ending in endings], keep
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["delete"], self._namespace, *arguments, timeout=LARGE_SECONDS)
        await self._notify([Hint(session_id, "", 0) for (session_id,) in rows])

    async def sweep(self, limit: int) -> int:
        """Remove what is left of sessions that expired, statement by statement."""
        swept, more, last = 0, True, _FIRST
        while more and swept < limit:
            arguments = min(SWEEP_SESSIONS, limit - swept), SWEEP_CHANGES, KEEP_ENDED, last
            async with self._connection() as connection:
                row = await connection.fetchrow(QUERIES["sweep"], self._namespace, *arguments)
            swept, more, last = swept + row["swept"], row["more"], row["last"]
        return swept

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        """Where each log ends; None for a session that is missing."""
        for session_id in session_ids:
            check_session_id(session_id)
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["heads"], self._namespace, list(session_ids))
        heads = {session_id: Head(*head) for session_id, *head in rows}
        return [heads.get(session_id) for session_id in session_ids]

    async def sessions(self, after: str, limit: int) -> list[str]:
        """The next session ids after one, by code point."""
        async with self._connection() as connection:
            rows = await connection.fetch(QUERIES["sessions"], self._namespace, after, limit)
        return [session_id for (session_id,) in rows]

    async def watch(self) -> AsyncIterator[Hint | None]:
        """Which sessions moved, after one None that says that it listens. Ends at once with `notify=off`."""
        if not self._address.notify:
            return
        async with self._listener() as listener:
            yield None
            async for hint in listener.hints():
                yield hint
        raise self._unavailable("the connection that listened for hints ended")

    async def close(self) -> None:
        """Close all connections; what is still asked for gets a moment to finish."""
        if self._telling is not None:
            await asyncio.wait([self._telling], timeout=TELL_SECONDS)
            self._telling.cancel()
        self._closed = True
        for connection in list(self._listening):
            connection.terminate()
        async with self._opening:
            pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            await asyncio.wait_for(pool.close(), CLOSE_SECONDS)
        except (asyncio.TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
            pool.terminate()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        """A connection of the pool, and our errors for what goes wrong with it."""
        with our_errors(self._address):
            pool = await self._open_pool()
            with connecting(self._address):
                connection = await pool.acquire(timeout=WAIT_SECONDS)
            try:
                if self._address.statement_cache_size:
                    yield connection
                else:
                    # A pooler keeps its server for a transaction, not between the steps of one statement.
                    async with connection.transaction(isolation="read_committed"):
                        yield connection
            except (asyncpg.PostgresError, LocalFirstError):
                raise
            except BaseException as error:
                # Interrupted within a statement: a new connection is quicker than finding out how far it came.
                connection.terminate()
                if isinstance(error, (OSError, asyncio.TimeoutError)):
                    await pool.expire_connections()  # The others lead to the same server.
                raise
            finally:
                await pool.release(connection)

    async def _open_pool(self) -> Any:
        async with self._opening:
            self._check_open()
            if self._pool is None:
                self._pool = await asyncpg.create_pool(
                    self._address.dsn,
                    min_size=0,
                    max_size=MAX_CONNECTIONS,
                    max_inactive_connection_lifetime=IDLE_SECONDS,
                    connection_class=_Connection,
                    **self._connect_options(),
                )
            return self._pool

    @asynccontextmanager
    async def _listener(self) -> AsyncIterator[hints.Listener]:
        """A connection of its own: one that listens is never given to anybody else."""
        self._check_open()
        with our_errors(self._address):
            with connecting(self._address):
                connection = await asyncpg.connect(self._address.dsn, **self._connect_options())
            self._listening.add(connection)
            try:
                self._check_open()
                listener = hints.Listener(connection)
                await listener.start(self._channel)
                yield listener
            finally:
                self._listening.discard(connection)
                connection.terminate()

    def _connect_options(self) -> dict[str, Any]:
        return {
            "timeout": CONNECT_SECONDS,
            "command_timeout": COMMAND_SECONDS,
            "statement_cache_size": self._address.statement_cache_size,
        }

    def _check_open(self) -> None:
        if self._closed:
            raise self._unavailable("the store was closed")

    def _unavailable(self, why: str) -> RemoteUnavailable:
        return RemoteUnavailable(f"{self._address.server}: {why}")


def _page(want: Want, rows: Sequence[Any]) -> Pulled:
    """One page from the rows of one session, each `(n, generation, head, digest, same, last, expires_at, ended, seq,
    admitted_at, …)`."""
    _, generation, seq, digest, same, last, expires_at, ended, *_ = rows[0]
    if generation is None:
        return Pulled(None, resync=False, entries=[], ended=ended)
    head = Head(generation, seq, digest)
    if same is None:
        raise _damaged(want.session_id, f"the digest of its log up to {want.after} is missing")
    if not same:
        return Pulled(head, resync=True, entries=[], expires_at=expires_at, ended=ended)
    entries = [LogEntry(row[8], row[9], data(row[10:])) for row in rows if row[8] is not None]
    _check_complete(want, entries, want.after if last is None else last)
    return Pulled(head, resync=False, entries=entries, expires_at=expires_at)


def _check_complete(want: Want, entries: Sequence[LogEntry], last: int) -> None:
    """A log with a hole must never pass for a shorter log."""
    for expected, found in enumerate((entry.seq for entry in entries), want.after + 1):
        if found != expected:
            raise _damaged(want.session_id, f"change {expected} of its log is missing")
    if want.after + len(entries) != last:
        raise _damaged(want.session_id, f"change {want.after + len(entries) + 1} of its log is missing")


def _damaged(session_id: str, how: str) -> RemoteRejected:
    return RemoteRejected(
        f"session {session_id!r} is damaged in the central store: {how}. Restore the tables of the schema localfirst, "
        "or delete the session from all of them so that replicas send it again"
    )


def _check_namespace(namespace: str) -> str:
    if not namespace or "\0" in namespace:
        raise ConfigurationError("a namespace is a string that is not empty and holds no NUL character")
    try:
        size = len(namespace.encode())
    except UnicodeEncodeError:
        raise ConfigurationError("a namespace can't hold lone surrogates: it must be valid Unicode") from None
    if size > MAX_NAMESPACE_BYTES:
        raise ConfigurationError(f"a namespace has at most {MAX_NAMESPACE_BYTES} bytes in UTF-8")
    return namespace
