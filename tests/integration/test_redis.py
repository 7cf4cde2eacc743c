"""What only the Redis store has: its keys, its scripts, and data in them that make no sense."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import NoScriptError, ResponseError

from localfirst.change import extend_digest, new_id
from localfirst.errors import ConfigurationError, RemoteRejected, RemoteUnavailable, RemoteVersionError
from localfirst.testing.conformance import CASES, HINT_CASES, Case, check
from localfirst.testing.conformance.harness import (
    GENERATION,
    bodies,
    changes,
    end_of,
    following,
    grow,
    having,
    nothing_of,
    run,
    whole_log,
)
from localfirst.testing.servers import RedisServer
from sync.central.base import Hint, Pulled, PushStatus, Want
from sync.central.redis import RedisStore
from sync.central.redis.store import HEADS_AT_ONCE

OwnRedis = Callable[..., RedisServer]


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


# Keys


async def test_keys_are_as_documented(redis_url: str, client: Any) -> None:
    namespace = f"my app: {new_id()}"
    prefix = f"localfirst:{namespace.replace(' ', '%20').replace(':', '%3A')}:"
    store = RedisStore(redis_url, namespace)
    identity = await store.identify()
    [pushed] = await store.push([run("Ann & {Bob}", "r1", 1, 2)])
    [last] = await store.push([run("Ann & {Bob}", "r2", 1, 1)])
    await store.close()

    session = f"{prefix}{{Ann%20%26%20%7BBob%7D}}"
    expected = {f"{prefix}store", f"{prefix}sessions", f"{session}:head", f"{session}:log"}
    assert {key.decode() async for key in client.scan_iter(f"{prefix}*")} == expected
    assert await client.hgetall(f"{prefix}store") == {b"store_id": identity.store_id.encode(), b"format": b"3"}
    assert await client.zrange(f"{prefix}sessions", 0, -1, withscores=True) == [(b"Ann & {Bob}", 0.0)]
    log = await client.lrange(f"{session}:log", 0, -1)
    data = changes("r1", 1, 2)
    digests = [extend_digest(0, pushed.admitted_at, data[:count]).to_bytes(8, "big") for count in (1, 2)]
    assert log[:2] == [b"%d:%s%s" % (pushed.admitted_at, *pair) for pair in zip(digests, data, strict=True)]
    head = await client.hgetall(f"{session}:head")
    digest = extend_digest(pushed.digest, last.admitted_at, changes("r2", 1, 1))
    assert {key: value for key, value in head.items() if key != b"admitted_at"} == {
        b"generation": GENERATION.encode(),
        b"seq": b"3",
        b"floor": b"0",
        b"digest0": b"%d" % (digest >> 32),
        b"digest1": b"%d" % (digest & 0xFFFFFFFF),
        b"acked:r1": b"2",
        b"acked:r2": b"1",
    }
    assert log[2].startswith(head[b"admitted_at"] + b":")


async def test_keys_of_a_session_share_a_slot(redis_url: str, namespace: str, store: RedisStore) -> None:
    keys = store._keys.session("}{a}:{")
    assert [(key.count("{"), key.count("}")) for key in keys] == [(1, 1)] * 4
    assert len({key.partition("}")[0] for key in keys}) == 1


async def test_index_entries_without_a_session_are_not_listed(store: RedisStore, client: Any, namespace: str) -> None:
    await store.push([run("b", "r1", 1, 1), run("d", "r1", 1, 1)])
    index = dict.fromkeys((b"a", b"c", b"\xff", b"", b"e", b"f", b"x" * 2000), 0)
    await client.zadd(f"localfirst:{namespace}:sessions", index)
    assert await store.sessions("", 2) == ["b", "d"]
    assert await store.sessions("", 1) == ["b"]
    assert await store.sessions("b", 10) == ["d"]
    assert await store.sessions("\ud800", 10) == []
    assert await store.sessions("", 0) == []


@pytest.mark.parametrize("case", [*CASES, *HINT_CASES], ids=lambda case: case.__name__)
async def test_conformance_with_resp3(case: Case, redis_url: str) -> None:
    await check(case, lambda namespace: RedisStore(f"{redis_url}?protocol=3", namespace))


async def test_unix_socket(redis_server: Any, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    with pytest.raises(RemoteUnavailable, match=f"^unix://{path}: "):
        await RedisStore(f"unix://{path}", "n").identify()
    port = int(redis_server.url.rpartition(":")[2].partition("/")[0])

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(reader, to_writer), _copy(to_reader, writer))

    async with await asyncio.start_unix_server(forward, path):
        store = RedisStore(f"unix://{path}", f"test-{new_id()}")
        await store.push([run("s", "r1", 1, 3)])
        assert bodies(await whole_log(store, "s")) == changes("r1", 1, 3)
        await store.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65_536):
        writer.write(data)
    writer.close()


# Scripts


async def test_scripts_are_loaded_again_when_the_server_forgot_them(own_redis: OwnRedis) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    async with Redis.from_url(server.url) as client:
        for counter in range(1, 10, 3):
            await client.script_flush()
            runs = [run("s", "r1", counter, 1), *(following("s", "r1", counter + i, 1) for i in (1, 2))]
            pushed = await store.push(runs)
            assert [(each.status, each.admitted) for each in pushed] == [(PushStatus.OK, 1)] * 3
            await client.script_flush()
            assert len(await whole_log(store, "s")) == counter + 2
            await client.script_flush()
            assert [head and head.seq for head in await store.heads(["s", "none"])] == [counter + 2, None]
    await store.close()


async def test_runs_after_a_forgotten_script_are_sent_again_in_order(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    send = store._send

    async def flushed_halfway(commands: Any, client: Any) -> list[Any]:
        monkeypatch.setattr(store, "_send", send)
        return [*await send(commands[:2], client), *(NoScriptError() for _ in commands[2:])]

    await store.push([run("warm", "r1", 1, 1)])
    monkeypatch.setattr(store, "_send", flushed_halfway)
    pushed = await store.push([run("s", "r1", 1, 1), run("s", "r2", 1, 1), run("s", "r1", 2, 1)])
    assert [(each.status, each.admitted, each.head) for each in pushed] == [(PushStatus.OK, 1, n) for n in (1, 2, 3)]


async def test_runs_around_a_forgotten_script_are_not_reordered(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another client loaded the script just after the server had refused one run of ours."""
    send = store._send

    async def one_refused(commands: Any, client: Any) -> list[Any]:
        monkeypatch.setattr(store, "_send", send)
        answers = await send([commands[0], *commands[2:]], client)
        return [answers[0], NoScriptError(), *answers[1:]]

    await store.push([run("warm", "r1", 1, 1)])
    runs = [run("s", "r1", 1, 1), run("s", "r2", 1, 1)]
    monkeypatch.setattr(store, "_send", one_refused)
    with pytest.raises(RemoteUnavailable):
        await store.push(runs)
    assert [each.admitted for each in await store.push(runs)] == [1, 0]


async def test_a_batch_larger_than_a_pipeline_keeps_its_order(store: RedisStore) -> None:
    runs = [run("s", "r1", 1, 1)] + [following("s", "r1", counter, 1) for counter in range(2, 2_301)]
    pushed = await store.push(runs)
    assert [each.head for each in pushed] == list(range(1, 2_301))
    large = [replace(following("s", "r2", counter, 1), changes=[bytes(400_000)]) for counter in range(1, 8)]
    assert [each.acked for each in await store.push(large)] == list(range(1, 8))


async def test_heads_of_many_sessions_take_one_round_trip_and_few_scripts(
    own_redis: OwnRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_redis()
    store = RedisStore(server.url, "n")
    names = [f"s{number}" for number in range(2 * HEADS_AT_ONCE + 1)]
    await store.push([run(name, "r1", 1, 1 + place % 3) for place, name in enumerate(names) if place % 5])
    async with Redis.from_url(server.url) as client:
        await client.config_resetstat()
        sent: list[int] = []
        send = store._send

        async def counted(commands: Any, client: Any) -> list[Any]:
            sent.append(len(commands))
            return await send(commands, client)

        monkeypatch.setattr(store, "_send", counted)
        heads = await store.heads(names)
        assert sent == [3]
        assert (await client.info("commandstats"))["cmdstat_evalsha"]["calls"] == 3
    assert [head and head.seq for head in heads] == [
        1 + place % 3 if place % 5 else None for place in range(len(names))
    ]
    assert await store.heads([]) == []
    await store.close()


async def test_a_servers_clock_that_steps_back_is_held(store: RedisStore, client: Any) -> None:
    await store.push([run("s", "r1", 1, 1)])
    future = 10**15 - 1  # No more digits are read; the digests are right even so.
    await client.hset(store._keys.session("s")[0], "admitted_at", future)
    [pushed] = await store.push([run("s", "r1", 2, 2_000)])
    assert pushed.admitted_at == future
    assert [entry.admitted_at for entry in await whole_log(store, "s")][1:] == [future] * 2_000


# Data that make no sense


async def test_half_a_session_is_a_missing_one(store: RedisStore, client: Any) -> None:
    """Eviction takes single keys. What is left must not look like a session, nor stay when it is made again."""
    for half in (0, 1):
        session_id = f"s{half}"
        await store.push([run(session_id, "r1", 1, 5)])
        await client.delete(store._keys.session(session_id)[half])
        assert await store.heads([session_id]) == [None]
        assert await store.pull([Want(session_id, GENERATION, 2, 1)], 1_000) == [Pulled(None, False, [])]
        [pushed] = await store.push([following(session_id, "r1", 6, 1)])
        assert pushed.status is PushStatus.MISSING
        [pushed] = await store.push([run(session_id, "r2", 1, 2, generation="generation-2")])
        assert (pushed.status, pushed.generation, pushed.head) == (PushStatus.OK, "generation-2", 2)
        assert bodies(await whole_log(store, session_id)) == changes("r2", 1, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seq", b""),
        ("seq", b"x"),
        ("seq", b"-1"),
        ("seq", b"1e3"),
        ("seq", b"0x10"),
        ("seq", b" 1"),
        ("seq", b"9" * 16),
        ("floor", b"nan"),
        ("digest0", b"2147483648"),
        ("digest1", b"1.5"),
        ("admitted_at", b"inf"),
        ("generation", None),
        ("seq", None),
        ("generation", b"\xff"),
    ],
)
async def test_a_head_that_makes_no_sense(store: RedisStore, client: Any, field: str, value: bytes | None) -> None:
    await store.push([run("bad", "r1", 1, 1), run("good", "r1", 1, 1)])
    head = store._keys.session("bad")[0]
    await (client.hdel(head, field) if value is None else client.hset(head, field, value))
    before = await client.hgetall(head)
    await _all_rejected(store)
    if field != "generation":  # which is only text to the script
        assert await client.hgetall(head) == before


async def test_an_acked_counter_that_makes_no_sense(store: RedisStore, client: Any) -> None:
    await store.push([run("bad", "r1", 1, 1)])
    await client.hset(store._keys.session("bad")[0], "acked:r1", "-5")
    with pytest.raises(RemoteRejected, match=r"session 'bad'.*acked"):
        await store.push([run("bad", "r1", 2, 1)])


@pytest.mark.parametrize("part", [0, 1])
async def test_keys_of_another_type(store: RedisStore, client: Any, part: int) -> None:
    await store.push([run("bad", "r1", 1, 1), run("good", "r1", 1, 1)])
    await client.set(store._keys.session("bad")[part], "a string")
    await _all_rejected(store)


@pytest.mark.parametrize(("part", "value"), [(0, b"a string"), (1, b"a string"), (0, None)])
async def test_a_session_that_makes_no_sense_hides_no_other_from_the_script(
    store: RedisStore, client: Any, part: int, value: bytes | None
) -> None:
    pushed = await store.push([run(name, "r1", 1, 2) for name in ("before", "bad", "after")])
    key = store._keys.session("bad")[part]
    await (client.hdel(key, "seq") if value is None else client.set(key, value))
    [[before, bad, none, after]] = await store._ask([store._heads(["before", "bad", "none", "after"])])
    assert isinstance(bad, ResponseError)
    assert ("WRONGTYPE" if value else "field seq") in str(bad)
    assert none is None
    for found, expected in ((before, pushed[0]), (after, pushed[2])):
        assert found == [GENERATION.encode(), 2, *divmod(expected.digest, 1 << 32)]


@pytest.mark.parametrize("reply", [None, 5, [], [None], [None] * 3])
async def test_replies_that_are_not_one_for_each_session(
    store: RedisStore, monkeypatch: pytest.MonkeyPatch, reply: object
) -> None:
    async def send(commands: Any, client: Any) -> list[Any]:
        return [reply]

    monkeypatch.setattr(store, "_send", send)
    with pytest.raises(RemoteRejected, match="not a list of 2 replies"):
        await store.heads(["a", "b"])


async def _all_rejected(store: RedisStore) -> None:
    """Everything about "bad" is rejected; "good" goes on, even in the same batch."""
    calls = (
        store.push([run("bad", "r1", 2, 1), run("good", "r1", 2, 1)]),
        store.pull([nothing_of("bad")], 1_000),
        store.heads(["good", "bad"]),
    )
    for call in calls:
        with pytest.raises(RemoteRejected, match=r"^redis://127\.0\.0\.1:\d+: session 'bad': "):
            await call
    [head] = await store.heads(["good"])
    assert head is not None
    assert head.seq == 2


NO_DIGEST = (b"", b"no time", b":", b"1:", b"1:1234567")
NO_TIME = (
    b":12345678data",
    b"x:12345678data",
    b"-1:12345678data",
    b"9999999999999999:12345678data",
    b"1 :12345678data",
)


@pytest.mark.parametrize("element", NO_DIGEST + NO_TIME)
async def test_a_log_that_makes_no_sense(store: RedisStore, client: Any, element: bytes) -> None:
    log = await grow(store, run("s", "r1", 1, 4))
    await client.lset(store._keys.session("s")[1], 1, element)
    with pytest.raises(RemoteRejected, match="session 's'"):
        await store.pull([nothing_of("s")], 1_000)
    at_it, after_it = having("s", log[:2]), having("s", log[:3])
    assert len((await store.pull([after_it], 1_000))[0].entries) == 1
    if element in NO_TIME:
        assert await store.pull([at_it], 1_000) == [Pulled(await end_of(store, "s"), True, [])]
    else:
        with pytest.raises(RemoteRejected, match=r"session 's'.*change 2 in the log: it has no digest"):
            await store.pull([at_it], 1_000)


async def test_a_place_near_the_end_of_a_long_log_is_found_at_once(own_redis: OwnRedis) -> None:
    """By the index of its element, from the nearer end: the log is not read for it."""
    server = own_redis()
    store = RedisStore(server.url, "n")
    log = await grow(store, *(run("s", "r1", first, 5_000) for first in range(1, 50_000, 5_000)))
    async with Redis.from_url(server.url) as client:
        spent: list[float] = []
        for known in (2, 49_998):
            want = having("s", log[:known])
            await client.config_resetstat()
            for _ in range(200):
                [page] = await store.pull([want], 1)
                assert page.entries == log[known : known + 1]
            statistics = await client.info("commandstats")
            assert statistics["cmdstat_lindex"]["calls"] == 200
            assert statistics["cmdstat_lrange"]["calls"] == 200
            spent.append(statistics["cmdstat_lindex"]["usec_per_call"])
        assert max(spent) < 100, "microseconds"
    await store.close()


async def test_an_index_of_another_type(store: RedisStore, client: Any, namespace: str) -> None:
    await client.set(f"localfirst:{namespace}:sessions", "a string")
    with pytest.raises(RemoteRejected, match="sessions"):
        await store.sessions("", 10)
    with pytest.raises(RemoteRejected, match="sessions"):
        await store.push([run("s", "r1", 1, 1)])


@pytest.mark.parametrize("newer", [b"4", b"999"])
async def test_a_newer_format_is_left_alone(client: Any, redis_url: str, namespace: str, newer: bytes) -> None:
    key = f"localfirst:{namespace}:store"
    await client.hset(key, mapping={"format": newer, "other": "things"})
    store = RedisStore(redis_url, namespace)
    with pytest.raises(RemoteVersionError):
        await store.identify()
    await client.hset(key, mapping={"store_id": "abc"})
    with pytest.raises(RemoteVersionError):
        await store.identify()
    assert await client.hgetall(key) == {b"format": newer, b"other": b"things", b"store_id": b"abc"}
    assert [found async for found in client.scan_iter(f"localfirst:{namespace}:*")] == [key.encode()]
    await store.close()


async def test_an_older_format_is_for_somebody_to_empty(client: Any, redis_url: str, namespace: str) -> None:
    key = f"localfirst:{namespace}:store"
    await client.hset(key, mapping={"format": "2", "store_id": "abc"})
    store = RedisStore(redis_url, namespace)
    with pytest.raises(ConfigurationError, match=r"unreleased version.*empty it.*another database or namespace"):
        await store.identify()
    assert await client.hgetall(key) == {b"format": b"2", b"store_id": b"abc"}
    await store.close()


@pytest.mark.parametrize("fields", [{"format": "3"}, {"store_id": "x"}, {"store_id": "x", "format": "new"}])
async def test_an_identity_that_makes_no_sense(
    client: Any, redis_url: str, namespace: str, fields: dict[str, str]
) -> None:
    await client.hset(f"localfirst:{namespace}:store", mapping=fields)
    store = RedisStore(redis_url, namespace)
    with pytest.raises(RemoteRejected, match=f"localfirst:{namespace}:store"):
        await store.identify()
    await store.close()


# Connections and hints


async def test_a_cancelled_call_leaves_no_reply_to_the_next(store: RedisStore) -> None:
    await store.push([run(f"s{i}", "r1", 1, 50) for i in range(20)])
    for delay in (0, 0.0005, 0.001, 0.002, 0.005):
        pulling = asyncio.create_task(store.pull([nothing_of(f"s{i}") for i in range(20)], 1 << 20))
        await asyncio.sleep(delay)
        pulling.cancel()
        await asyncio.gather(pulling, return_exceptions=True)
        heads = await store.heads([f"s{i}" for i in range(20)])
        assert {head and head.seq for head in heads} == {50}


async def test_a_push_that_admits_nothing_gives_no_hint(store: RedisStore) -> None:
    await store.push([run("s", "r1", 1, 1)])
    watching = store.watch()
    assert await anext(watching) is None
    await store.push([run("s", "r1", 1, 1), run("s", "r1", 3, 1), following("none", "r1", 1, 1), run("t", "r1", 1, 2)])
    assert await asyncio.wait_for(anext(watching), 10) == Hint("t", GENERATION, 2)
    await watching.aclose()


async def test_closing_ends_watching(store: RedisStore) -> None:
    watching = store.watch()
    assert await anext(watching) is None
    waiting = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)
    await store.close()
    with pytest.raises(RemoteUnavailable):
        await asyncio.wait_for(waiting, 10)


@pytest.mark.parametrize("message", [b"", b"{}", b"\xff", b'["s"]', b'["s","g","x"]', b"[" * 10_000])
async def test_strange_hints_are_passed_over(store: RedisStore, client: Any, namespace: str, message: bytes) -> None:
    watching = store.watch()
    assert await anext(watching) is None
    await client.publish(f"localfirst:{namespace}:hints", message)
    await store.push([run("s", "r1", 1, 1)])
    assert await asyncio.wait_for(anext(watching), 10) == Hint("s", GENERATION, 1)
    await watching.aclose()
