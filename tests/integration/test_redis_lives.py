"""Expiry and deletion in Redis: what its keys say, and what is left of a session that is gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from redis.asyncio import Redis

from localfirst.change import new_id
from localfirst.testing.conformance.harness import GENERATION, changes, end_of, following, run
from sync.central.base import KEEP_ENDED, Checkpoint, Ending
from sync.central.redis import RedisStore
from sync.central.redis.keys import Keys

HOUR = 3_600_000
FOLDED = Checkpoint(GENERATION, 3, 5 << 32 | 6, b"folded")
SECRET = b"secret-2093"


@pytest.fixture
def namespace() -> str:
    return f"test-{new_id()}"


@pytest.fixture
async def store(redis_url: str, namespace: str) -> AsyncIterator[RedisStore]:
    store = RedisStore(redis_url, namespace)
    await store.identify()
    yield store
    await store.close()


@pytest.fixture
async def client(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as client:
        yield client


async def expiries(client: Any, namespace: str) -> list[int]:
    """When the keys of the session are gone, Unix milliseconds: head, log, checkpoint, ends. -1: never; -2: no key."""
    *times, ends = [await client.pexpiretime(key) for key in Keys(namespace).session("s")]
    return [*(time + 1 if time > 0 else time for time in times), ends]  # They live through the millisecond before.


async def dump(client: Any, namespace: str) -> bytes:
    """All that the server has of a namespace."""
    keys = [key async for key in client.scan_iter(f"localfirst:{namespace}:*")]
    return b"".join([*keys, *[await client.dump(key) or b"" for key in keys]])


async def test_all_keys_of_a_session_expire_together(store: RedisStore, client: Any, namespace: str) -> None:
    [pushed] = await store.push([replace(run("s", "r1", 1, 5), ttl=HOUR)])
    first = pushed.expires_at
    assert await expiries(client, namespace) == [first, first, -2, first + KEEP_ENDED]
    assert await store.put_checkpoint("s", await end_of(store, "s"), FOLDED, {})
    assert await expiries(client, namespace) == [first, first, first, first + KEEP_ENDED]
    await asyncio.sleep(0.002)
    [pushed] = await store.push([following("s", "r1", 6, 1)])
    second = pushed.expires_at
    assert second > first
    assert await expiries(client, namespace) == [second, second, second, second + KEEP_ENDED]
    assert await store.put_checkpoint("s", await end_of(store, "s"), FOLDED._replace(seq=6), {})
    assert await expiries(client, namespace) == [second, -2, second, second + KEEP_ENDED], "an empty log is no key"
    [pushed] = await store.push([following("s", "r1", 7, 1)])
    third = pushed.expires_at
    assert await expiries(client, namespace) == [third, third, third, third + KEEP_ENDED]
    await store.push([replace(following("s", "r1", 8, 1), ttl=0)])
    assert (await expiries(client, namespace))[:3] == [-1, -1, -1]
    assert await client.exists(Keys(namespace).session("s")[3]) == 0, "nothing will expire"


async def test_a_session_that_is_made_of_a_checkpoint_expires(store: RedisStore, client: Any, namespace: str) -> None:
    assert await store.put_checkpoint("s", None, FOLDED, {"r1": 3}, HOUR)
    expires_at = (await expiries(client, namespace))[0]
    assert abs(expires_at - time.time() * 1000 - HOUR) < 60_000
    assert await expiries(client, namespace) == [expires_at, -2, expires_at, expires_at + KEEP_ENDED]
    made = FOLDED._replace(generation="other")
    assert await store.put_checkpoint("s", await end_of(store, "s"), made, {"r1": 3})
    assert (await expiries(client, namespace))[:3] == [-1, -2, -1]


async def test_a_session_without_a_ttl_has_no_key_for_ends(store: RedisStore, client: Any, namespace: str) -> None:
    await store.push([run("s", "r1", 1, 5)])
    assert await expiries(client, namespace) == [-1, -1, -2, -2]


async def test_nothing_of_a_deleted_session_is_left_but_how_it_ended(
    store: RedisStore, client: Any, namespace: str
) -> None:
    secret = replace(run("s", "r1", 1, 5), changes=changes("r1", 1, 5, b'["%s"]' % SECRET))
    await store.push([replace(secret, ttl=HOUR)])
    assert await store.put_checkpoint("s", await end_of(store, "s"), FOLDED._replace(data=SECRET), {})
    assert SECRET in await dump(client, namespace)
    await store.delete([Ending("s", GENERATION)])
    assert SECRET not in await dump(client, namespace)
    past = Keys(namespace).session("s")[3]
    keys = {key.decode() async for key in client.scan_iter(f"localfirst:{namespace}:*")}
    assert keys == {past, Keys(namespace).store}
    assert 0 < await client.pttl(past) - KEEP_ENDED <= HOUR, "as long as it was to be kept, if that is longer"


async def test_a_session_is_missing_to_all_calls_at_once(store: RedisStore) -> None:
    for number in range(20):
        names = [f"s{number}-{part}" for part in range(5)]
        await store.push([replace(run(name, "r1", 1, 1), ttl=2) for name in names])
        deadline = time.monotonic() + 20
        while await store.heads(names) != [None] * 5:
            assert time.monotonic() < deadline
        assert await store.sessions("", 10) == []


async def test_the_index_forgets_what_expired(store: RedisStore, client: Any, namespace: str) -> None:
    await store.push([replace(run(f"s{number}", "r1", 1, 1), ttl=1) for number in range(5)])
    await store.push([run("stays", "r1", 1, 1)])
    deadline = time.monotonic() + 20
    while await store.heads([f"s{number}" for number in range(5)]) != [None] * 5:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)
    assert await store.sessions("", 10) == ["stays"]
    swept = 0
    while swept < 5:
        swept += await store.sweep(2)
        assert time.monotonic() < deadline
    assert await client.zrange(Keys(namespace).sessions, 0, -1) == [b"stays"]
    assert await store.sweep(10) == 0


async def test_a_sweep_while_a_session_is_made_does_not_hide_it(
    store: RedisStore, redis_url: str, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, send = RedisStore(redis_url, namespace), store._send

    async def swept_between(commands: Any, client: Any) -> list[Any]:
        answers = []
        for command in commands:
            answers += await send([command], client)
            await other.sweep(10)
        return answers

    await store.push([run("warm", "r1", 1, 1)])
    monkeypatch.setattr(store, "_send", swept_between)
    await store.push([run("s", "r1", 1, 1)])
    assert await other.sessions("", 10) == ["s", "warm"]
    await other.close()
