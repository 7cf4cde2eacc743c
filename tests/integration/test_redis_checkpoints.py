"""Checkpoints in Redis: their keys, what eviction leaves of them, and servers that refuse or hang."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.asyncio import Redis

from localfirst.change import extend_digest, new_id
from localfirst.errors import ConfigurationError, RemoteRejected, RemoteUnavailable
from localfirst.testing.conformance.harness import (
    GENERATION,
    bodies,
    changes,
    end_of,
    following,
    run,
    whole_log,
)
from localfirst.testing.servers import RedisServer
from sync.central.base import Checkpoint, Head, Pulled, PushStatus, Want
from sync.central.redis import RedisStore

OwnRedis = Callable[..., RedisServer]

FOLDED = Checkpoint(GENERATION, 3, 5 << 32 | 6, b"folded")
MADE = Checkpoint("made", 9, 7 << 32 | 8, b"made")


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


async def compacted(store: RedisStore, session_id: str = "s") -> Head:
    """A session of five changes, three of them folded."""
    await store.push([run(session_id, "r1", 1, 5)])
    head = await end_of(store, session_id)
    assert await store.put_checkpoint(session_id, head, FOLDED, {})
    return head


async def test_keys_are_as_documented(store: RedisStore, client: Any, namespace: str) -> None:
    head = await compacted(store)
    prefix = f"localfirst:{namespace}:"
    expected = {f"{prefix}{name}" for name in ("store", "sessions", "{s}:head", "{s}:log", "{s}:checkpoint")}
    assert {key.decode() async for key in client.scan_iter(f"{prefix}*")} == expected
    assert await client.get(f"{prefix}{{s}}:checkpoint") == b"folded"
    log = await client.lrange(f"{prefix}{{s}}:log", 0, -1)
    admitted_at = int(log[0].partition(b":")[0])
    digests = [extend_digest(0, admitted_at, changes("r1", 1, count)).to_bytes(8, "big") for count in (4, 5)]
    assert log == [b"%d:%s%s" % (admitted_at, *pair) for pair in zip(digests, changes("r1", 4, 2), strict=True)]
    fields = await client.hgetall(f"{prefix}{{s}}:head")
    assert {name: value for name, value in fields.items() if name != b"admitted_at"} == {
        b"generation": GENERATION.encode(),
        b"seq": b"5",
        b"digest0": b"%d" % (head.digest >> 32),
        b"digest1": b"%d" % (head.digest & 0xFFFFFFFF),
        b"floor": b"3",
        b"floor_digest0": b"5",
        b"floor_digest1": b"6",
        b"acked:r1": b"5",
    }
    assert await store.put_checkpoint("s", head, MADE, {"r7": 7})
    assert {key.decode() async for key in client.scan_iter(f"{prefix}*")} == expected - {f"{prefix}{{s}}:log"}
    fields = await client.hgetall(f"{prefix}{{s}}:head")
    assert {name for name in fields if name.startswith(b"acked:")} == {b"acked:r7"}


@pytest.mark.parametrize("part", [0, 1, 2])
async def test_a_part_of_a_session_is_a_missing_one(store: RedisStore, client: Any, part: int) -> None:
    """Eviction takes single keys. What is left must not look like a session, nor stay when it is made again."""
    for made_by_push in (True, False):
        head = await compacted(store)
        await client.delete(store._keys.session("s")[part])
        assert await store.heads(["s"]) == [None]
        assert await store.checkpoint("s") is None
        assert await store.pull([Want("s", GENERATION, 4, 1)], 1_000) == [Pulled(None, False, [])]
        [pushed] = await store.push([following("s", "r1", 6, 1)])
        assert pushed.status is PushStatus.MISSING
        assert await store.put_checkpoint("s", head, FOLDED._replace(seq=5), {}) is False
        if made_by_push:
            await store.push([run("s", "r2", 1, 2)])
            assert bodies(await whole_log(store, "s")) == changes("r2", 1, 2)
            assert await store.checkpoint("s") is None
            assert await client.exists(*store._keys.session("s")) == 2
        else:
            assert await store.put_checkpoint("s", None, MADE, {"r2": 2})
            assert await store.checkpoint("s") == MADE
            assert await client.hget(store._keys.session("s")[0], "acked:r1") is None
        await client.delete(*store._keys.session("s"))


async def test_an_index_that_was_evicted_is_written_again(store: RedisStore, client: Any, namespace: str) -> None:
    await store.push([run("s", "r1", 1, 5)])
    await client.delete(f"localfirst:{namespace}:sessions")
    await store.put_checkpoint("s", await end_of(store, "s"), FOLDED, {})
    assert await store.sessions("", 10) == ["s"]


@pytest.mark.parametrize(("field", "value"), [("floor_digest0", b"x"), ("floor_digest1", None), ("floor", b"x")])
async def test_a_floor_that_makes_no_sense(store: RedisStore, client: Any, field: str, value: bytes | None) -> None:
    await compacted(store)
    key = store._keys.session("s")[0]
    await (client.hdel(key, field) if value is None else client.hset(key, field, value))
    for asked in (store.checkpoint("s"), store.pull([Want("s", *FOLDED[:3])], 1_000)):
        with pytest.raises(RemoteRejected, match="session 's'"):
            await asked


async def test_a_checkpoint_of_another_type(store: RedisStore, client: Any) -> None:
    await compacted(store)
    key = store._keys.session("s")[2]
    await client.delete(key)
    await client.rpush(key, "a list")
    with pytest.raises(RemoteRejected, match="session 's'"):
        await store.checkpoint("s")


@pytest.mark.parametrize(("seq", "acked"), [(10**15, {}), (5, {"r1": 10**15})])
async def test_numbers_that_redis_can_not_count_to(store: RedisStore, seq: int, acked: dict[str, int]) -> None:
    with pytest.raises(RemoteRejected, match="session 's'"):
        await store.put_checkpoint("s", None, MADE._replace(seq=seq), acked)
    assert await store.heads(["s"]) == [None]


async def test_a_servers_clock_that_steps_back_is_held(store: RedisStore, client: Any) -> None:
    await store.push([run("s", "r1", 1, 1)])
    future = 99_999_999_999_999
    await client.hset(store._keys.session("s")[0], "admitted_at", future)
    assert await store.put_checkpoint("s", await end_of(store, "s"), MADE, {})
    [pushed] = await store.push([run("s", "r1", 1, 1)])
    assert pushed.admitted_at == future


async def test_scripts_are_loaded_again_when_the_server_forgot_them(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    async with Redis.from_url(server.url) as client:
        assert await store.put_checkpoint("s", None, MADE, {})
        await client.script_flush()
        assert await store.checkpoint("s") == MADE
        await client.script_flush()
        assert await store.put_checkpoint("s", Head(*MADE[:3]), MADE._replace(generation="again"), {})
    await store.close()


async def test_what_a_full_server_refuses_changes_nothing(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    async with Redis.from_url(server.url) as client:
        head = await compacted(store)
        await client.config_set("maxmemory", 1)
        for refused in (FOLDED._replace(seq=5), MADE):
            with pytest.raises(ConfigurationError, match="maxmemory"):
                await store.put_checkpoint("s", head, refused, {})
        assert await store.checkpoint("s") == FOLDED
        await client.config_set("maxmemory", 0)
        assert await store.put_checkpoint("s", head, FOLDED._replace(seq=5), {})
    await store.close()


async def test_a_server_that_hangs(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(f"{server.url}?socket_timeout=0.1", "n")
    assert await store.put_checkpoint("s", None, MADE, {})
    server.pause()
    start = time.monotonic()
    large = MADE._replace(data=bytes(20_000_000))  # more than any buffer on the way holds
    for call in (store.checkpoint("s"), store.put_checkpoint("s", Head(*MADE[:3]), large, {})):
        with pytest.raises(RemoteUnavailable, match="Timeout"):
            await asyncio.wait_for(call, 10)
    assert time.monotonic() - start < 6
    server.resume()
    assert await store.checkpoint("s") == MADE
    await store.close()
