"""A central store whose answers fit what was asked: the one place where their shape and size is checked.

What a backend returns came from a server, and that may be broken, another one, or in somebody else's hands. What does
not fit is a `RemoteRejected`, before anything is made of it. How much a driver has read by then is up to the driver:
see `sync.central.redis.bounded` and SECURITY.md.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Final, Optional, TypeVar, get_args

import msgspec

from localfirst.change import check_session_id
from localfirst.errors import ConfigurationError, RemoteRejected
from localfirst.limits import MAX_CHANGE_BYTES, MAX_CHECKPOINT_BYTES
from sync.central.base import (
    KEEP_ENDED,
    CentralStore,
    Checkpoint,
    Ended,
    Ending,
    Head,
    Hint,
    Identity,
    Pulled,
    Pushed,
    PushStatus,
    Run,
    Want,
)

MAX_NAME: Final = 1024
"""Characters in the id of a store or a generation."""
_MOST: Final = (1 << 63) - 1
_HEADS: Final = list[Optional[Head]]  # noqa: UP045 - made when this runs, also on Python 3.10
_MAYBE_CHECKPOINT: Any = Optional[Checkpoint]  # noqa: UP045

T = TypeVar("T")


class Bounded(CentralStore):
    """Asks another one, and checks what it says."""

    def __init__(self, central: CentralStore) -> None:
        self._central = central

    async def identify(self) -> Identity:
        found = _shaped(await self._central.identify(), Identity)
        _check(found.format, found.now, names=(found.store_id,))
        return found

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        answers = _as_many(_shaped(await self._central.push(runs), list[Pushed]), runs)
        for run, (status, generation, acked, admitted, *numbers, ended) in zip(runs, answers, strict=True):
            _check(acked, admitted, *numbers, names=(generation,), ended=ended)
            if not isinstance(status, PushStatus):
                raise RemoteRejected("the central store did with a run what nobody knows")
            if admitted not in (0, len(run.changes)):
                raise RemoteRejected(f"the central store took {admitted} of {len(run.changes)} changes of a run")
        return answers

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        pages = _as_many(_shaped(await self._central.pull(wants, max_bytes), list[Pulled]), wants)
        return [_checked_page(page, max_bytes) for page in pages]

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        found: Checkpoint | None = _shaped(await self._central.checkpoint(session_id), _MAYBE_CHECKPOINT)
        if found is not None:
            _check(found.seq, found.digest, names=(found.generation,))
            _check_size(found)
        return found

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        _check_size(checkpoint)
        return await self._central.put_checkpoint(session_id, expected, checkpoint, acked, ttl)

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        await self._central.delete(endings, keep)

    async def sweep(self, limit: int) -> int:
        return await self._central.sweep(limit)

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        heads = _as_many(_shaped(await self._central.heads(session_ids), _HEADS), session_ids)
        for head in heads:
            _check_head(head)
        return heads

    async def sessions(self, after: str, limit: int) -> list[str]:
        names = _shaped(await self._central.sessions(after, limit), list[str])
        if len(names) > limit:
            raise RemoteRejected(f"the central store names {len(names):,} sessions where {limit:,} were asked for")
        for name in names:
            try:
                check_session_id(name)
            except ConfigurationError as error:
                raise RemoteRejected(f"the central store names a session that can't be one: {error}") from None
            if name <= after:
                raise RemoteRejected("the central store names sessions out of order, and might do so for ever")
            after = name
        return names

    async def watch(self) -> AsyncIterator[Hint | None]:
        async with aclosing(self._central.watch()) as hints:  # type: ignore[type-var]
            async for hint in hints:
                yield hint if hint is None or _is_sensible(hint) else None
                await asyncio.sleep(0)  # However fast they come, others have their turn.

    async def close(self) -> None:
        await self._central.close()


def _shaped(answer: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(answer, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise RemoteRejected(f"the central store answers what makes no sense: {error}") from None


def _as_many(answers: list[T], questions: Sequence[object]) -> list[T]:
    if len(answers) != len(questions):
        raise RemoteRejected(f"the central store gives {len(answers)} answers to {len(questions)} questions")
    return answers


def _check(*numbers: object, names: Sequence[object] = (), ended: object = None) -> None:
    if not all(isinstance(number, int) and 0 <= number <= _MOST for number in numbers):
        raise RemoteRejected("the central store tells numbers that can't be")
    if not all(isinstance(name, str) and len(name) <= MAX_NAME for name in names):
        raise RemoteRejected("the central store tells names that can't be")
    if ended not in (None, *get_args(Ended)):
        raise RemoteRejected("the central store tells of a life that ended in an unknown way")


def _check_head(head: Head | None) -> None:
    if head is not None:
        _check(head.seq, head.digest, names=(head.generation,))


def _checked_page(page: Pulled, max_bytes: int) -> Pulled:
    page = _shaped(tuple(page), Pulled)  # Of what is a `Pulled` already, only the name would be looked at.
    _check_head(page.head)
    places, times, changes = zip(*page.entries, strict=True) if page.entries else ((0,), (0,), ())
    _check(page.expires_at, min(places), max(places), min(times), max(times), ended=page.ended)
    if not {*map(type, changes)} <= {bytes}:
        raise RemoteRejected("the central store sends changes that are no bytes")
    most = max(0, max_bytes) + MAX_CHANGE_BYTES
    size = sum(map(len, changes))
    if size > most or len(page.entries) > max(1, max_bytes):  # A change has some bytes.
        raise RemoteRejected(
            f"the central store sends {len(page.entries):,} changes of {size:,} bytes where {max_bytes:,} bytes were"
            " asked for"
        )
    return page


def _check_size(checkpoint: Checkpoint) -> None:
    if not isinstance(checkpoint.data, bytes):
        raise RemoteRejected("the central store has a checkpoint that is no bytes")
    if len(checkpoint.data) > MAX_CHECKPOINT_BYTES:
        raise RemoteRejected(
            f"a checkpoint has {len(checkpoint.data):,} bytes, and {MAX_CHECKPOINT_BYTES:,} are allowed"
        )


def _is_sensible(hint: Hint) -> bool:
    try:
        _check(_shaped(hint, Hint).seq, names=(hint.session_id, hint.generation))
        hint.session_id.encode()
    except (RemoteRejected, UnicodeEncodeError):
        return False
    return True
