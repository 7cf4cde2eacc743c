"""`RedisStore`: sends the scripts, in pipelines. `keys` tells what is where, `errors` what exceptions mean."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError

from localfirst.change import check_session_id, new_id
from localfirst.errors import RemoteRejected, RemoteVersionError
from sync.central.base import FORMAT_VERSION, CentralStore, Head, Hint, Identity, Pulled, Pushed, Run, Want
from sync.central.redis import hints, replies, scripts
from sync.central.redis.address import connection_pool
from sync.central.redis.errors import translate, translated
from sync.central.redis.keys import Keys
from sync.central.redis.scripts import Command

PIPELINE_COMMANDS: Final = 1_000
PIPELINE_BYTES: Final = 1 << 20
"""What goes out at once, and on a slow line within the timeout; a run that is larger goes alone."""

_T = TypeVar("_T")


class RedisStore(CentralStore):
    """One namespace of a Redis or Valkey server. Connects when it is first used, and again whenever it has to."""

    def __init__(self, url: str, namespace: str) -> None:
        self._server, self._pool = connection_pool(url)
        self._client: Redis = Redis.from_pool(self._pool)
        self._keys = Keys(namespace)
        self._watching: set[AbstractConnection] = set()

    async def identify(self) -> Identity:
        command = scripts.IDENTIFY.call((self._keys.store,), new_id(), FORMAT_VERSION)
        [reply] = await self._ask([command])
        identity = self._decode(reply, replies.identity, self._keys.store)
        if identity.format > FORMAT_VERSION:
            raise RemoteVersionError(
                f"{self._server.name}: has format {identity.format}, this localfirst knows {FORMAT_VERSION}: "
                "upgrade it. Nothing was written"
            )
        return identity

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        for run in runs:
            check_session_id(run.session_id)
        pushed: list[Pushed] = []
        for batch in _batches(runs):
            # First the index: an entry without a session does no harm, a session without one is never listed.
            indexed, *answers = await self._ask([self._index(batch), *map(self._push, batch)])
            self._decode(indexed, replies.count, self._keys.sessions)
            pushed += [
                self._decode(answer, replies.pushed, _title(run.session_id))
                for run, answer in zip(batch, answers, strict=True)
            ]
        return pushed

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        commands = [self._pull(want, max_bytes) for want in wants]
        return [
            self._decode(answer, partial(replies.pulled, after=_after(want)), _title(want.session_id))
            for want, answer in zip(wants, await self._ask(commands), strict=True)
        ]

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        commands = [scripts.HEAD.call(self._keys.session(check_session_id(each))) for each in session_ids]
        return [
            self._decode(answer, replies.head, _title(session_id))
            for session_id, answer in zip(session_ids, await self._ask(commands), strict=True)
        ]

    async def sessions(self, after: str, limit: int) -> list[str]:
        found: list[str] = []
        last = after.encode("utf-8", "surrogatepass")  # any string has its place, even one that can't be an id
        while len(found) < limit:
            page = await self._index_page(last, limit)
            found += await self._existing(page)
            if len(page) < limit:
                break
            last = page[-1]
        return found[: max(0, limit)]

    async def watch(self) -> AsyncGenerator[Hint | None, None]:
        connection: AbstractConnection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        self._watching.add(connection)
        messages = hints.watch(connection, self._keys.hints, self._server)
        try:
            async for hint in messages:
                yield hint
        finally:
            self._watching.discard(connection)
            await messages.aclose()

    async def close(self) -> None:
        with suppress(RedisError, OSError):  # what can't be closed in an orderly way is closed anyway
            await self._client.aclose()
        for connection in tuple(self._watching):
            await connection.disconnect(nowait=True)

    # Commands

    def _index(self, runs: Sequence[Run]) -> Command:
        scored = ((0, session_id) for session_id in dict.fromkeys(run.session_id for run in runs))
        return ("ZADD", self._keys.sessions, *(word for pair in scored for word in pair))

    def _push(self, run: Run) -> Command:
        return scripts.PUSH.call(
            self._keys.session(run.session_id),
            run.generation,
            int(run.fresh),
            run.origin,
            run.first,
            self._keys.hints,
            run.session_id,
            run.hashes,
            *run.changes,
        )

    def _pull(self, want: Want, max_bytes: int) -> Command:
        keys = self._keys.session(check_session_id(want.session_id))
        return scripts.PULL.call(keys, want.generation or "", _after(want), max_bytes)

    async def _index_page(self, after: bytes, limit: int) -> list[bytes]:
        [answer] = await self._ask([("ZRANGEBYLEX", self._keys.sessions, b"(" + after, b"+", b"LIMIT", 0, limit)])
        return self._decode(answer, replies.members, self._keys.sessions)

    async def _existing(self, members: list[bytes]) -> list[str]:
        """Those of the index's members that are sessions: one may have expired, or never been made."""
        session_ids = [each for each in map(_decoded, members) if each is not None]
        answers = await self._ask([("EXISTS", self._keys.session(each)[0]) for each in session_ids])
        return [
            session_id
            for session_id, answer in zip(session_ids, answers, strict=True)
            if self._decode(answer, replies.count, _title(session_id))
        ]

    # The wire

    async def _ask(self, commands: Sequence[Command]) -> list[Any]:
        """The reply or the error of each command, in order; scripts that the server has forgotten are loaded."""
        answers: list[Any] = []
        for start in range(0, len(commands), PIPELINE_COMMANDS):
            answers += await self._ask_at_once(commands[start : start + PIPELINE_COMMANDS])
        return answers

    async def _ask_at_once(self, commands: Sequence[Command]) -> list[Any]:
        answers = await self._send(commands)
        done = next((i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)), len(answers))
        if done == len(answers) or not all(isinstance(answer, NoScriptError) for answer in answers[done:]):
            # Or somebody else loaded them halfway. Sending what was left out would change the order of runs, so
            # that is an error, and all will be sent again.
            return answers
        for loaded in await self._send([script.load() for script in scripts.ALL]):
            self._decode(loaded, str, "SCRIPT LOAD")
        return answers[:done] + await self._send(commands[done:])

    async def _send(self, commands: Sequence[Command]) -> list[Any]:
        with translate(self._server):
            async with self._client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*command)
                return await pipeline.execute(raise_on_error=False)

    def _decode(self, answer: Any, decode: Callable[[Any], _T], where: str) -> _T:
        if isinstance(answer, Exception):
            raise translated(answer, self._server, where) from None
        try:
            return decode(answer)
        except RemoteRejected as error:
            raise RemoteRejected(f"{self._server.name}: {where}: {error}") from None


def _after(want: Want) -> int:
    return 0 if want.generation is None else want.after


def _title(session_id: str) -> str:
    return f"session {session_id!r}"


def _decoded(member: bytes) -> str | None:
    """None for what can't be the id of a session, so isn't one."""
    try:
        return check_session_id(member.decode())
    except ValueError:
        return None


def _batches(runs: Sequence[Run]) -> Iterator[list[Run]]:
    """Runs in order, in lists that are not too large for one pipeline."""
    batch: list[Run] = []
    size = 0
    for run in runs:
        weight = sum(map(len, run.changes))
        if batch and (size + weight > PIPELINE_BYTES or len(batch) + 1 == PIPELINE_COMMANDS):  # one is for the index
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += weight
    if batch:
        yield batch
