"""How long it takes from `add_items` in one process to the event in another, by way of a central store with hints.

Bare messages go from one process to the other by way of the same server, in rounds between: nothing can be faster.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import asyncpg
from redis.asyncio import Redis

import localfirst
from benchmarks.messages import messages
from benchmarks.processes import ANSWER_SECONDS, answer, started
from benchmarks.timing import Series
from localfirst import SessionEvent

REST: Final = (0.025, 0.045)
"""Seconds between two adds: longer than `sync_interval`, within which a write waits for others."""

_WARM_UP: Final = 5
_CHANNEL: Final = "benchmark"

_supply: Final = messages(997, seed=2)


class Latency(NamedTuple):
    """What was measured, in rounds by turns."""

    add: Series
    """From the call in one process to the event in another."""
    message: Series
    """Of a bare message."""


async def measure_latency(directory: Path, url: str, rounds: int, adds: int) -> Latency:
    """Rounds of so many adds, and as many bare messages."""
    found = Latency(Series(), Series())
    with started(_watch, directory / "b", url) as pipe, localfirst.open(directory / "a", remote=url) as store:
        session = store.session("watched")

        async def add(number: int) -> None:
            await session.add_items([{**_supply[number % len(_supply)], "number": number}])

        answer(pipe)
        async with _sender(url) as send:
            for call in (add, send):
                await _times(pipe, call, _WARM_UP)
            for _ in range(rounds):
                found.add.rounds.append(await _times(pipe, add, adds))
                found.message.rounds.append(await _times(pipe, send, adds))
    return found


async def _times(pipe: Connection, send: Callable[[int], Awaitable[Any]], count: int) -> list[int]:
    return [await _until_heard(pipe, send, number) for number in range(count)]


async def _until_heard(pipe: Connection, send: Callable[[int], Awaitable[Any]], number: int) -> int:
    await asyncio.sleep(random.uniform(*REST))
    start = time.monotonic_ns()
    await send(number)
    heard, at = await asyncio.to_thread(answer, pipe)
    if heard != number:
        raise AssertionError(f"{heard} was heard where {number} was sent")
    return int(at - start)


@asynccontextmanager
async def _sender(url: str) -> AsyncIterator[Callable[[int], Awaitable[Any]]]:
    """Sends bare messages."""
    if url.startswith("redis"):
        async with Redis.from_url(url) as client:
            yield lambda number: client.publish(_CHANNEL, number)
    else:
        connection = await asyncpg.connect(url)
        yield lambda number: connection.execute("select pg_notify($1, $2)", _CHANNEL, str(number))
        await connection.close()


def _watch(directory: Path, url: str, pipe: Connection) -> None:
    """In a process: tell when a number was heard, in an item or a bare message. They come by turns."""
    with localfirst.open(directory, remote=url) as store:

        def hear(items: list[Any]) -> None:
            now = time.monotonic_ns()
            for item in items:
                pipe.send((item["number"], now))

        session = store.session("watched")
        session.on(SessionEvent.REMOTE_CHANGED, hear)
        session.refresh(ANSWER_SECONDS)
        asyncio.run(_listen(url, pipe))


async def _listen(url: str, pipe: Connection) -> None:
    if url.startswith("redis"):
        async with Redis.from_url(url) as client, client.pubsub() as listener:
            await listener.subscribe(_CHANNEL)
            pipe.send("ready")
            async for message in listener.listen():
                if message["type"] == "message":
                    pipe.send((int(message["data"]), time.monotonic_ns()))
    else:
        connection = await asyncpg.connect(url)
        await connection.add_listener(_CHANNEL, lambda *heard: pipe.send((int(heard[-1]), time.monotonic_ns())))
        pipe.send("ready")
        await asyncio.Event().wait()
