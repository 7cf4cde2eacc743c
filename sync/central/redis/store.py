"""`RedisStore`: sends the scripts, in pipelines. `keys` tells what is where, `errors` what exceptions mean."""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, TypeVar

from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import NoScriptError, RedisError

from localfirst.change import check_session_id, new_id
from localfirst.errors import RemoteRejected
from sync.central.base import (
    FORMAT_VERSION,
    KEEP_ENDED,
    CentralStore,
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
from sync.central.formats import check_format
from sync.central.redis import hints, replies, scripts
from sync.central.redis.address import connection_pools
from sync.central.redis.errors import translate, translated
from sync.central.redis.keys import Keys
from sync.central.redis.scripts import Command

PIPELINE_COMMANDS: Final = 1_000
PIPELINE_BYTES: Final = 1 << 20
"""What goes out at once, and on a slow line within the timeout; a run that is larger goes alone."""
HEADS_AT_ONCE: Final = 250
"""Sessions that one script looks at: cheaper than a script for each, but the server does nothing else meanwhile, which
are a few milliseconds."""
INDEX_PAGE: Final = 1_000

_LANE: Final = 1 << 32
_MAX_NUMBER: Final = 10**15 - 1
"""Lua counts in doubles, and the scripts take fifteen digits."""

_T = TypeVar("_T")


class RedisStore(CentralStore):
    """One namespace of a Redis or Valkey server. Connects when it is first used, and again whenever it has to."""

    def __init__(self, url: str, namespace: str) -> None:
        self._server, self._pool, large = connection_pools(url)
        self._client: Redis = Redis.from_pool(self._pool)
        self._large: Redis = Redis.from_pool(large)
        self._keys = Keys(namespace)
        self._watching: set[AbstractConnection] = set()

    async def identify(self) -> Identity:
        command = scripts.IDENTIFY.call((self._keys.store,), new_id(), FORMAT_VERSION)
        [reply] = await self._ask([command])
        identity = self._decode(reply, replies.identity, self._keys.store)
        check_format(f"{self._server.name}: the namespace", identity.format)
        return identity

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        for run in runs:
            check_session_id(run.session_id)
        pushed: list[Pushed] = []
        for batch in _batches(runs):
            # First the index: an entry without a session does no harm, a session without one is never listed.
            index = self._index(run.session_id for run in batch)
            commands = [index, *map(self._push, batch)]
            if made := [run.session_id for run in batch if run.fresh]:
                commands.append(self._index(made))  # A sweep may come between, and find what is not there yet.
            indexed, *answers = await self._ask(commands)
            self._decode(indexed, replies.count, self._keys.sessions)
            if made:
                self._decode(answers.pop(), replies.count, self._keys.sessions)
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

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        command = scripts.CHECKPOINT.call(self._keys.session(check_session_id(session_id)))
        [answer] = await self._ask([command], self._large)
        return self._decode(answer, replies.checkpoint, _title(session_id))

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        check_session_id(session_id)
        if max(checkpoint.seq, ttl, *acked.values(), 0) > _MAX_NUMBER:
            raise RemoteRejected(f"{_title(session_id)}: a number in the checkpoint is too great for Redis")
        put = self._put_checkpoint(session_id, expected, checkpoint, acked, ttl)
        indexed, answer = await self._ask([self._index([session_id]), put], self._large)
        self._decode(indexed, replies.count, self._keys.sessions)
        done = self._decode(answer, replies.count, _title(session_id)) == 1
        if done and expected is None:  # A sweep may have come between, and have found what was not there yet.
            [indexed] = await self._ask([self._index([session_id])])
            self._decode(indexed, replies.count, self._keys.sessions)
        return done

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        commands = [
            scripts.DELETE.call(
                self._keys.session(check_session_id(session_id)), generation or "", keep, self._keys.hints, session_id
            )
            for session_id, generation in endings
        ]
        for ending, answer in zip(endings, await self._ask(commands), strict=True):
            self._decode(answer, replies.count, _title(ending.session_id))
        await self._unlist([ending.session_id.encode() for ending in endings])

    async def sweep(self, limit: int) -> int:
        swept, last = 0, b""
        while swept < limit:
            page = await self._index_page(last, INDEX_PAGE)
            swept += await self._unlist(page, limit - swept)
            if len(page) < INDEX_PAGE:
                break
            last = page[-1]
        return swept

    async def _unlist(self, members: Sequence[bytes], limit: int = 1 << 62) -> int:
        """Take those out of the index, up to a limit, that are not there. What ended otherwise the server removes."""
        existing = {each.encode() for each in await self._existing(members)}
        missing = [member for member in members if member not in existing][:limit]
        commands = [
            scripts.UNLIST.call((self._keys.sessions, self._keys.session(session_id)[0]), member)
            for member in missing
            if (session_id := _decoded(member)) is not None
        ]
        return sum(self._decode(answer, replies.count, self._keys.sessions) for answer in await self._ask(commands))

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        for session_id in session_ids:
            check_session_id(session_id)
        parts = [session_ids[start : start + HEADS_AT_ONCE] for start in range(0, len(session_ids), HEADS_AT_ONCE)]
        found: list[Head | None] = []
        for part, answer in zip(parts, await self._ask([*map(self._heads, parts)]), strict=True):
            heads = self._decode(answer, partial(replies.several, count=len(part)), "heads of sessions")
            found += [
                self._decode(head, replies.head, _title(session_id))
                for session_id, head in zip(part, heads, strict=True)
            ]
        return found

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
        for client in (self._client, self._large):
            with suppress(RedisError, OSError):  # what can't be closed in an orderly way is closed anyway
                await client.aclose()
        for connection in tuple(self._watching):
            await connection.disconnect(nowait=True)

    # Commands

    def _index(self, session_ids: Iterable[str]) -> Command:
        scored = ((0, session_id) for session_id in dict.fromkeys(session_ids))
        return ("ZADD", self._keys.sessions, *(word for pair in scored for word in pair))

    def _heads(self, session_ids: Sequence[str]) -> Command:
        return scripts.HEADS.call(tuple(key for each in session_ids for key in self._keys.session(each)[:3]))

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
            "" if run.ttl is None else run.ttl,
            struct.pack(f">{len(run.changes)}I", *map(len, run.changes)),
            b"".join(run.changes),
        )

    def _put_checkpoint(
        self, session_id: str, expected: Head | None, checkpoint: Checkpoint, acked: Mapping[str, int], ttl: int
    ) -> Command:
        end = expected or Head("", 0, 0)
        return scripts.PUT_CHECKPOINT.call(
            self._keys.session(session_id),
            int(expected is not None),
            end.generation,
            end.seq,
            *divmod(end.digest, _LANE),
            checkpoint.generation,
            checkpoint.seq,
            *divmod(checkpoint.digest, _LANE),
            checkpoint.data,
            self._keys.hints,
            session_id,
            ttl,
            *(word for pair in acked.items() for word in pair),
        )

    def _pull(self, want: Want, max_bytes: int) -> Command:
        keys = self._keys.session(check_session_id(want.session_id))
        return scripts.PULL.call(keys, want.generation or "", _after(want), max_bytes, *divmod(want.digest, _LANE))

    async def _index_page(self, after: bytes, limit: int) -> list[bytes]:
        [answer] = await self._ask([("ZRANGEBYLEX", self._keys.sessions, b"(" + after, b"+", b"LIMIT", 0, limit)])
        return self._decode(answer, replies.members, self._keys.sessions)

    async def _existing(self, members: Sequence[bytes]) -> list[str]:
        """Those of the index's members that are sessions: one may have expired, or never been made."""
        session_ids = [each for each in map(_decoded, members) if each is not None]
        answers = await self._ask([("EXISTS", self._keys.session(each)[0]) for each in session_ids])
        return [
            session_id
            for session_id, answer in zip(session_ids, answers, strict=True)
            if self._decode(answer, replies.count, _title(session_id))
        ]

    # The wire

    async def _ask(self, commands: Sequence[Command], client: Redis | None = None) -> list[Any]:
        """The reply or the error of each command, in order; scripts that the server has forgotten are loaded."""
        answers: list[Any] = []
        for start in range(0, len(commands), PIPELINE_COMMANDS):
            answers += await self._ask_at_once(commands[start : start + PIPELINE_COMMANDS], client or self._client)
        return answers

    async def _ask_at_once(self, commands: Sequence[Command], client: Redis) -> list[Any]:
        answers = await self._send(commands, client)
        done = next((i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)), len(answers))
        asked = zip(commands[done:], answers[done:], strict=True)
        unknown = all(isinstance(answer, NoScriptError) for command, answer in asked if command[0] == scripts.RUN)
        if done == len(answers) or not unknown:
            # Or somebody else loaded them halfway. Sending what was left out would change the order of runs, so
            # that is an error, and all will be sent again.
            return answers
        for loaded in await self._send([script.load() for script in scripts.ALL], client):
            self._decode(loaded, str, "SCRIPT LOAD")
        return answers[:done] + await self._send(commands[done:], client)

    async def _send(self, commands: Sequence[Command], client: Redis) -> list[Any]:
        with translate(self._server):
            async with client.pipeline(transaction=False) as pipeline:
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
        if batch and (size + weight > PIPELINE_BYTES or len(batch) + 2 == PIPELINE_COMMANDS):  # for the index
            yield batch
            batch, size = [], 0
        batch.append(run)
        size += weight
    if batch:
        yield batch
