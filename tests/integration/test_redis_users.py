"""Users of one namespace in Redis: the documented ACL line is enough, all of it is needed, none can leave its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlsplit

import pytest
from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from localfirst.change import new_id
from localfirst.errors import ConfigurationError
from localfirst.testing.conformance import CASES, HINT_CASES, Case, check
from localfirst.testing.conformance.harness import GENERATION, end_of, having, nothing_of, run, whole_log
from sync.central.base import Checkpoint, Ending, Hint
from sync.central.redis import RedisStore, hints

PAGE: Final = (Path(__file__).parents[2] / "docs" / "redis.md").read_text("utf-8")
LINE: Final = PAGE.partition("ACL SETUSER ")[2].partition("\n")[0].split()
COMMANDS: Final = [word for word in LINE if word.startswith("+")]


def rights(namespace: str, without: str = "") -> list[str]:
    """What the documentation gives to a user of a namespace."""
    words = [word.replace("localfirst:app:", f"localfirst:{quote(namespace, safe='')}:") for word in LINE[1:]]
    return [word for word in words if word != without]


def with_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:password@{parts.hostname}:{parts.port}").geturl()


@pytest.fixture
async def admin(redis_url: str) -> AsyncIterator[Any]:
    async with Redis.from_url(redis_url) as client:
        yield client


@asynccontextmanager
async def user_of(admin: Any, namespace: str, without: str = "") -> AsyncIterator[str]:
    """A user with what is documented, but for one word."""
    name = f"user-{new_id()}"
    await admin.execute_command("ACL", "SETUSER", name, *rights(namespace, without))
    yield name
    await admin.execute_command("ACL", "DELUSER", name)


@pytest.mark.parametrize("case", [*CASES, *HINT_CASES], ids=lambda case: case.__name__)
async def test_a_user_of_one_namespace_does_all_that_a_store_does(case: Case, redis_url: str) -> None:
    """Each namespace with a user of its own."""
    users: dict[str, str] = {}
    with BlockingRedis.from_url(redis_url) as admin:

        def connect(namespace: str) -> RedisStore:
            if namespace not in users:
                users[namespace] = f"user-{new_id()}"
                admin.execute_command("ACL", "SETUSER", users[namespace], *rights(namespace))
            return RedisStore(with_user(redis_url, users[namespace]), namespace)

        await check(case, connect)
        admin.execute_command("ACL", "DELUSER", *users.values())


async def everything(store: RedisStore, admin: Any, namespace: str) -> None:
    """Whatever a worker asks of a store, in every way that is another to the scripts."""
    await store.identify()
    watching = store.watch()
    assert await anext(watching) is None
    await store.push([replace(run("s", "r1", 1, 5), ttl=10**8)])
    # Sent by somebody else behind the push, so that a missing hint is not waited for.
    await admin.publish(f"localfirst:{namespace}:hints", '["end","",0]')
    assert await anext(watching) == Hint("s", GENERATION, 5), "no hint"
    await store.push([replace(run("s", "r1", 6, 1), ttl=0)])
    log = await whole_log(store, "s")
    await store.pull([nothing_of("s"), having("s", log[:3]), having("s", log)], 100)
    end = await end_of(store, "s")
    assert await store.put_checkpoint("s", end, Checkpoint(GENERATION, 2, 0, b"folded"), {})
    assert await store.checkpoint("s")
    assert await store.put_checkpoint("s", end, Checkpoint("other", 3, 0, b"made"), {"r1": 6}, 10**8)
    assert await store.sessions("", 10) == ["s"]
    await store.delete([Ending("s", "other"), Ending("s", "other")])
    await admin.zadd(f"localfirst:{namespace}:sessions", {"lost": 0})
    assert await store.sweep(10) == 1
    await watching.aclose()
    watching = store.watch()
    assert await anext(watching) is None
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.wait([waiting], timeout=3 * hints.QUIET_SECONDS)
    if waiting.done():
        waiting.result()
    waiting.cancel()
    await asyncio.wait([waiting])


@pytest.mark.parametrize("word", ["", "&", "~", *COMMANDS])
async def test_each_word_of_it_is_needed(
    admin: Any, redis_url: str, namespace: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hints, "QUIET_SECONDS", 0.02)
    without = next((each for each in rights(namespace) if word and each.startswith(word)), "")
    if word == "+script|load":
        await admin.script_flush()
    async with user_of(admin, namespace, without) as user:
        store = RedisStore(with_user(redis_url, user), namespace)
        if not word:
            await everything(store, admin, namespace)
        else:
            with pytest.raises((ConfigurationError, AssertionError), match=r"docs/redis\.md|no hint"):
                await everything(store, admin, namespace)
        await store.close()


ELSEWHERE: Final = "elsewhere"
"""Stands for the keys of another namespace."""

ATTEMPTS: Final = (
    "GET elsewhere:{s}:checkpoint",
    "LRANGE elsewhere:{s}:log 0 -1",
    "HGETALL elsewhere:{s}:head",
    "HMGET elsewhere:store store_id",
    "ZRANGEBYLEX elsewhere:sessions - +",
    "EXISTS elsewhere:{s}:head",
    "PTTL elsewhere:{s}:head",
    "EXISTS mine:sessions elsewhere:sessions",
    "SET elsewhere:new x",
    "HSET elsewhere:{s}:head seq 0",
    "RPUSH elsewhere:{s}:log x",
    "LTRIM elsewhere:{s}:log 1 0",
    "ZADD elsewhere:sessions 0 x",
    "ZREM elsewhere:sessions s",
    "UNLINK mine:x elsewhere:{s}:log",
    "PEXPIREAT elsewhere:{s}:head 1",
    "PERSIST elsewhere:{s}:head",
    "SUBSCRIBE elsewhere:hints",
    "SUBSCRIBE mine:hints elsewhere:hints",
    "PSUBSCRIBE *",
    "PSUBSCRIBE mine:*",
    "SSUBSCRIBE elsewhere:hints",
    "PUBLISH elsewhere:hints x",
    "PUBSUB CHANNELS",
    "KEYS *",
    "KEYS mine:*",
    "SCAN 0",
    "RANDOMKEY",
    "DBSIZE",
    "RENAME mine:store elsewhere:store",
    "COPY elsewhere:store mine:copy",
    "SORT mine:sessions BY nosort GET elsewhere:*",
    "DUMP elsewhere:store",
    "OBJECT ENCODING elsewhere:store",
    "MEMORY USAGE elsewhere:store",
    "EVAL return(redis.call('KEYS','*')) 0",
    "FUNCTION LIST",
    "SCRIPT FLUSH",
    "FLUSHDB",
    "SELECT 1",
    "SWAPDB 0 1",
    "MIGRATE 127.0.0.1 1 elsewhere:store 0 1",
    "CONFIG GET *",
    "ACL LIST",
    "ACL SETUSER me ~*",
    "CLIENT LIST",
    "MONITOR",
    "SYNC",
    "SLOWLOG GET",
)
WITHIN: Final = (
    "return redis.call('GET', 'elsewhere:{s}:checkpoint')",
    "return redis.call('LRANGE', ARGV[1] .. '{s}:log', 0, -1)",
    "return redis.call('HSET', ARGV[1] .. '{s}:head', 'seq', 0)",
    "return redis.call('HGETALL', ARGV[1] .. 'store')",
    "return redis.call('ZRANGEBYLEX', 'elsewhere:' .. 'sessions', '-', '+')",
    "return redis.call('PUBLISH', 'elsewhere:hints', 'x')",
    "return redis.call('KEYS', '*')",
    "return redis.call('SCAN', 0)",
    "return redis.call('UNLINK', 'mine:x', 'elsewhere:store')",
)


async def test_a_user_does_nothing_in_another_namespace(admin: Any, redis_url: str, namespace: str) -> None:
    other = RedisStore(redis_url, f"{namespace}:b")
    await other.push([run("s", "r1", 1, 5)])
    assert await other.put_checkpoint("s", await end_of(other, "s"), Checkpoint(GENERATION, 2, 0, b"theirs"), {})
    prefix = f"localfirst:{namespace}%3Ab"
    before = {key: await admin.dump(key) async for key in admin.scan_iter(f"{prefix}:*")}
    assert len(before) == 4

    def there(text: str) -> str:
        return text.replace("elsewhere", prefix).replace("mine", f"localfirst:{namespace}")

    watching = other.watch()
    assert await anext(watching) is None
    async with user_of(admin, namespace) as user, Redis.from_url(with_user(redis_url, user)) as connected:
        client: Any = connected
        own = RedisStore(with_user(redis_url, user), namespace)
        await own.push([run("s", "r1", 1, 1)])
        for attempt in ATTEMPTS:
            with pytest.raises(NoPermissionError):
                await client.execute_command(*there(attempt).split())
        for script in WITHIN:
            sha = await client.execute_command("SCRIPT", "LOAD", there(script))
            with pytest.raises(NoPermissionError):
                await client.execute_command("EVALSHA", sha, 1, f"{prefix}:store", f"{prefix}:")
            with pytest.raises(ResponseError, match=r"ACL failure in script|The user executing the script can't"):
                await client.execute_command("EVALSHA", sha, 0, f"{prefix}:")
        await own.close()
    await admin.publish(f"{prefix}:hints", '["end","",0]')
    assert await anext(watching) == Hint("end", "", 0), "nobody else told of anything"
    assert {key: await admin.dump(key) async for key in admin.scan_iter(f"{prefix}:*")} == before
    await other.close()


@pytest.mark.parametrize("suffix", [":", ":b", "*", "?", "[a]", "x", "%3A", "{b}", "\\", "\n", " ", "é", "-", "."])
async def test_a_user_opens_no_namespace_that_looks_like_its_own(
    admin: Any, redis_url: str, namespace: str, suffix: str
) -> None:
    for own, other in ((namespace, namespace + suffix), (namespace + suffix, namespace)):
        async with user_of(admin, own) as user:
            url = with_user(redis_url, user)
            allowed, forbidden = RedisStore(url, own), RedisStore(url, other)
            await allowed.push([run("s", "r1", 1, 1)])
            calls = (
                forbidden.identify(),
                forbidden.push([run("s", "r1", 1, 1)]),
                forbidden.pull([nothing_of("s")], 100),
                forbidden.heads(["s"]),
                forbidden.sessions("", 10),
                forbidden.delete([Ending("s", None)]),
                anext(forbidden.watch()),
            )
            for call in calls:
                with pytest.raises(ConfigurationError, match=r"docs/redis\.md"):
                    await call
            assert await allowed.sessions("", 10) == ["s"]
            await allowed.close()
            await forbidden.close()
