"""A central store with few sessions, and one with very many: whether that makes pushes and polls slower.

The sessions are small and made on the server, in the shape that a push of one change gives them. Both stores are on one
server, in databases of their own, and are asked by turns.

`python -m benchmarks.crowd [--full]` measures this alone.
"""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from time import perf_counter_ns
from typing import Any, Final, NamedTuple

import asyncpg
from redis.asyncio import Redis

from benchmarks.checks import check_crowd
from benchmarks.timing import Series
from localfirst.change import APPEND, MAIN_BRANCH, Change, encode_change
from localfirst.testing.servers import PostgresServer, RedisServer, ServerProcess, fresh_database
from sync.central.base import CentralStore, Run
from sync.central.postgres import PostgresStore
from sync.central.redis import RedisStore

HEADS: Final = 1000
"""Sessions of one poll."""
PUSHED: Final = 100
"""Sessions of one push, with a change each."""
_NAMESPACE: Final = "crowd"
_AT_ONCE: Final = 10_000
_BODY: Final = b'["' + b"x" * 100 + b'"]'
_POSTGRES: Final = """
with made as (
    insert into localfirst.sessions (namespace, session_id, generation, head, digest, updated_at)
    select $1, 's' || n, 'g', 1, n, now() from generate_series($2::bigint, $3::bigint) as n
), known as (
    insert into localfirst.origins (namespace, session_id, origin, acked)
    select $1, 's' || n, 'r', 1 from generate_series($2::bigint, $3::bigint) as n
)
insert into localfirst.changes
    (namespace, session_id, seq, admitted_at, digest, origin, counter, time, base, turn, branch, kind, body)
select $1, 's' || n, 1, now(), n, 'r', 1, 1, 0, 0, 'main', 'append', $4
from generate_series($2::bigint, $3::bigint) as n
"""
_REDIS: Final = """
for n = tonumber(ARGV[2]), tonumber(ARGV[3]) do
    local prefix = 'localfirst:' .. ARGV[1] .. ':{s' .. n .. '}:'
    redis.call('HSET', prefix .. 'head', 'generation', 'g', 'seq', 1, 'digest0', 1, 'digest1', n, 'floor', 0,
        'admitted_at', 1, 'acked:r', 1)
    redis.call('RPUSH', prefix .. 'log', '1:' .. string.rep(string.char(1), 8) .. ARGV[4])
    redis.call('ZADD', 'localfirst:' .. ARGV[1] .. ':sessions', 0, 's' .. n)
end
"""


class Size(NamedTuple):
    """How many sessions."""

    few: int
    many: int
    rounds: int


MANY: Final = Size(1000, 1_000_000, 30)
SOME: Final = Size(1000, 20_000, 10)
FEW: Final = Size(1000, 2000, 3)


class Crowd(NamedTuple):
    """What was measured with one kind of server, by number of sessions."""

    remote: str
    push: dict[int, Series]
    heads: dict[int, Series]

    def summary(self) -> dict[str, Any]:
        """As JSON."""
        return {
            name: {str(count): times.summary() for count, times in series.items()}
            for name, series in (("push", self.push), ("heads", self.heads))
        }


async def measure_crowd(name: str, server: ServerProcess, size: Size) -> Crowd:
    """Pushes and polls, by turns."""
    counts = size.few, size.many
    found = Crowd(name, {count: Series() for count in counts}, {count: Series() for count in counts})
    async with AsyncExitStack() as stack:
        stores = {count: await stack.enter_async_context(_STORES[name](server.url, count)) for count in counts}
        for number in range(-1, size.rounds):
            for count, store in stores.items():
                push, heads = await _push(store, count, number + 3), await _heads(store, count)
                if number >= 0:  # The first is to warm up.
                    found.push[count].rounds.append(push)
                    found.heads[count].rounds.append(heads)
    return found


async def _push(store: CentralStore, count: int, number: int) -> list[int]:
    """Of new sessions, and of some that are there."""
    times = []
    for fresh in (True, False):
        author = f"r{number}"
        data = encode_change(Change(author, 1, 1, 0, MAIN_BRANCH, APPEND, _BODY))
        names = [f"new-{number}-{place}" for place in range(PUSHED)] if fresh else _some(count, PUSHED)
        start = perf_counter_ns()
        pushed = await store.push([Run(each, "g", fresh, author, 1, [data]) for each in names])
        times.append(perf_counter_ns() - start)
        if any(each.admitted != 1 for each in pushed):
            raise AssertionError(f"not all of it was taken: {pushed}")
    return times


async def _heads(store: CentralStore, count: int) -> list[int]:
    known = _some(count, HEADS, random.Random(count))  # A device asks for the same ones, again and again.
    start = perf_counter_ns()
    heads = await store.heads(known)
    time = perf_counter_ns() - start
    if None in heads:
        raise AssertionError("not all of them are there")
    return [time]


def _some(count: int, wanted: int, chance: random.Random | None = None) -> list[str]:
    return [f"s{number}" for number in (chance or random.Random()).sample(range(1, count + 1), wanted)]


@asynccontextmanager
async def _in_postgres(url: str, count: int) -> AsyncIterator[CentralStore]:
    async with fresh_database(url) as database:
        store = PostgresStore(database, _NAMESPACE)
        await store.identify()
        connection = await asyncpg.connect(database)
        for first in range(1, count + 1, _AT_ONCE):
            await connection.execute(_POSTGRES, _NAMESPACE, first, min(count, first + _AT_ONCE - 1), _BODY)
        await connection.execute("vacuum analyze localfirst.sessions, localfirst.changes, localfirst.origins")
        await connection.execute("checkpoint")
        await connection.close()
        yield store
        await store.close()


@asynccontextmanager
async def _in_redis(url: str, count: int) -> AsyncIterator[CentralStore]:
    database = f"{url.rsplit('/', 1)[0]}/{1 + (count > MANY.few)}"
    data = encode_change(Change("r", 1, 1, 0, MAIN_BRANCH, APPEND, _BODY))
    async with Redis.from_url(database) as client:
        for first in range(1, count + 1, _AT_ONCE):
            await client.eval(_REDIS, 0, _NAMESPACE, first, min(count, first + _AT_ONCE - 1), data)
        store = RedisStore(database, _NAMESPACE)
        await store.identify()
        yield store
        await store.close()
        await client.flushdb(asynchronous=True)


_STORES: Final = {"Redis": _in_redis, "Postgres": _in_postgres}


async def _main(size: Size) -> None:
    for name, server in (("Redis", RedisServer()), ("Postgres", PostgresServer(fsync=True))):
        with server:
            for check in check_crowd(await measure_crowd(name, server, size)):
                print(check.line())


def main() -> int:
    """Measure and print."""
    asyncio.run(_main(MANY if "--full" in sys.argv[1:] else SOME))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
