"""Between a replica and the central store: requests and replies get lost, come twice, late, or in part."""

from __future__ import annotations

import types
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TypeVar

from localfirst.errors import RemoteUnavailable
from sync.central.base import (
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
from tests.simulation.server import Server, now

T = TypeVar("T")


@types.coroutine
def pause() -> Generator[None, None, None]:
    """Others go on."""
    yield


@dataclass
class Weather:
    """How bad the network is: chances for each call."""

    random: Random
    lost: float = 0.0
    reply_lost: float = 0.0
    twice: float = 0.0
    late: float = 0.0
    """It is carried out later, when its sender has given up on it."""
    later: list[Callable[[], object]] = field(default_factory=list)
    """What is still under way, whoever sent it."""

    def clear(self) -> None:
        """It is fine from now on."""
        self.lost = self.reply_lost = self.twice = self.late = 0.0
        self.later.clear()

    def carry(self, request: Callable[[], T]) -> T:
        """Carry out a request, or not, or twice, and bring its reply, or not."""
        chance = self.random.random()
        for size, fate in (
            (self.lost, _lose),
            (self.reply_lost, _lose_reply),
            (self.twice, _repeat),
            (self.late, self._delay),
        ):
            if chance < size:
                fate(request)
                break
            chance -= size
        return request()

    def _delay(self, request: Callable[[], object]) -> None:
        self.later.append(request)
        raise RemoteUnavailable("no answer yet")


def _lose(request: Callable[[], object]) -> None:
    raise RemoteUnavailable("the request was lost")


def _lose_reply(request: Callable[[], object]) -> None:
    request()
    raise RemoteUnavailable("the reply was lost")


def _repeat(request: Callable[[], object]) -> None:
    request()


class Link(CentralStore):
    """One replica's connection to the central store."""

    def __init__(self, server: Server, weather: Weather) -> None:
        self._server = server
        self._weather = weather
        self._store = server.store()

    async def _call(self, request: Callable[[], T]) -> T:
        epoch = self._server.epoch
        await pause()
        if self._server.epoch != epoch:
            raise RemoteUnavailable("the server was started again")
        reply = self._weather.carry(request)
        await pause()
        if self._server.epoch != epoch:
            raise RemoteUnavailable("the server was started again")
        return reply

    async def identify(self) -> Identity:
        return await self._call(lambda: now(self._store.identify()))

    async def push(self, runs: Sequence[Run]) -> list[Pushed]:
        return await self._call(partial(self._push, list(runs)))

    def _push(self, runs: list[Run]) -> list[Pushed]:
        if len(runs) > 1 and self._weather.random.random() < self._weather.lost:
            self._server.push(self._store, runs[: self._weather.random.randrange(1, len(runs))])
            raise RemoteUnavailable("it broke in between")
        return self._server.push(self._store, runs)

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        return await self._call(lambda: now(self._store.pull(wants, max_bytes)))

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        return await self._call(lambda: now(self._store.checkpoint(session_id)))

    async def put_checkpoint(
        self,
        session_id: str,
        expected: Head | None,
        checkpoint: Checkpoint,
        acked: Mapping[str, int],
        ttl: int = 0,
    ) -> bool:
        def put() -> bool:
            self._server.note_checkpoint(session_id, expected, checkpoint)
            return now(self._store.put_checkpoint(session_id, expected, checkpoint, acked, ttl))

        return await self._call(put)

    async def delete(self, endings: Sequence[Ending], keep: int = KEEP_ENDED) -> None:
        await self._call(lambda: now(self._store.delete(endings, keep)))

    async def sweep(self, limit: int) -> int:
        return await self._call(lambda: now(self._store.sweep(limit)))

    async def heads(self, session_ids: Sequence[str]) -> list[Head | None]:
        return await self._call(lambda: now(self._store.heads(session_ids)))

    async def sessions(self, after: str, limit: int) -> list[str]:
        return await self._call(lambda: now(self._store.sessions(after, limit)))

    async def watch(self) -> AsyncIterator[Hint | None]:
        return
        yield

    async def close(self) -> None:
        pass
