"""Checkpoints in Postgres: their rows, the locks and plans of putting one, and rows that were damaged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from localfirst.change import Change, encode_change
from localfirst.errors import RemoteRejected, RemoteUnavailable
from localfirst.testing.conformance.harness import GENERATION, bodies, end_of, run, whole_log
from localfirst.testing.servers import PostgresServer
from sync.central.base import Checkpoint, Head, PushStatus, Want
from sync.central.postgres import PostgresStore
from sync.central.postgres import store as store_module
from tests.conftest import OwnPostgres

NAMESPACE = "test"
FOLDED = Checkpoint(GENERATION, 3, 5, b"folded")
MADE = Checkpoint("made", 9, 7, b"made")


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(postgres_url, NAMESPACE)
    await opened.identify()
    yield opened
    await opened.close()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(postgres_url)
    yield opened
    await opened.close()


async def filled(store: PostgresStore, *session_ids: str) -> Head:
    """Sessions of five changes of r1 and two of r2."""
    await store.push([run(session_id, "r1", 1, 5) for session_id in session_ids])
    await store.push([run(session_id, "r2", 1, 2) for session_id in session_ids])
    return await end_of(store, session_ids[0])


async def rows(connection: Any, session_id: str) -> dict[str, list[Any]]:
    """What the tables hold of a session."""
    return {
        table: [
            row[0]
            for row in await connection.fetch(
                f"select {column} from localfirst.{table} where session_id = $1 order by 1", session_id
            )
        ]
        for table, column in [("changes", "seq"), ("origins", "origin || acked"), ("checkpoints", "seq")]
    }


async def test_rows_below_the_floor_are_deleted(store: PostgresStore, connection: Any) -> None:
    head = await filled(store, "s", "t")
    assert await store.put_checkpoint("s", head, FOLDED, {"r9": 9})
    assert await rows(connection, "s") == {"changes": [4, 5, 6, 7], "origins": ["r15", "r22"], "checkpoints": [3]}
    assert await rows(connection, "t") == {"changes": [*range(1, 8)], "origins": ["r15", "r22"], "checkpoints": []}
    assert await store.put_checkpoint("s", head, MADE, {"r9": 9})
    assert await rows(connection, "s") == {"changes": [], "origins": ["r99"], "checkpoints": [9]}


async def test_what_was_left_of_a_session_is_replaced(store: PostgresStore, connection: Any) -> None:
    """Somebody deleted the head of a session, and nothing else."""
    head = await filled(store, "s", "t")
    assert await store.put_checkpoint("s", head, FOLDED, {})
    await connection.execute("delete from localfirst.sessions where session_id = 's'")
    assert await store.checkpoint("s") is None
    assert await store.put_checkpoint("s", None, MADE, {"r9": 9})
    assert await store.checkpoint("s") == MADE
    assert await rows(connection, "s") == {"changes": [], "origins": ["r99"], "checkpoints": [9]}
    assert len((await rows(connection, "t"))["changes"]) == 7


@pytest.mark.parametrize(
    "damage", ["delete from localfirst.checkpoints", "update localfirst.checkpoints set seq = seq + 1"]
)
async def test_a_floor_without_its_checkpoint_is_damage(store: PostgresStore, connection: Any, damage: str) -> None:
    assert await store.put_checkpoint("s", await filled(store, "s"), FOLDED, {})
    await connection.execute(damage)
    with pytest.raises(RemoteRejected, match=r"'s' is damaged.*checkpoint"):
        await store.checkpoint("s")
    with pytest.raises(RemoteRejected, match=r"'s' is damaged.*digest of its log up to 3"):
        await store.pull([Want("s", *FOLDED[:3])], 1_000)


async def test_a_log_that_goes_on_meanwhile_is_not_replaced(store: PostgresStore, connection: Any) -> None:
    """Who waits for a push to end decides by what it left."""
    head = await filled(store, "s")
    for refused in (FOLDED, MADE):
        async with connection.transaction():
            await connection.execute("update localfirst.sessions set head = head where session_id = 's'")
            putting = asyncio.ensure_future(store.put_checkpoint("s", head, refused, {}))
            await waiting_for_a_lock(connection)
            await connection.execute("update localfirst.sessions set head = head + 1, digest = 1")
        assert await putting is False
        await connection.execute("update localfirst.sessions set head = $1, digest = $2", head.seq, head.digest)
    assert await store.checkpoint("s") is None
    assert len(await whole_log(store, "s")) == 7


async def test_a_session_that_is_made_meanwhile_is_not_replaced(store: PostgresStore, connection: Any) -> None:
    async with connection.transaction():
        await connection.execute("insert into localfirst.sessions values ($1, 's', 'g')", NAMESPACE)
        putting = asyncio.ensure_future(store.put_checkpoint("s", None, MADE, {}))
        await waiting_for_a_lock(connection)
    assert await putting is False
    assert await store.heads(["s"]) == [Head("g", 0, 0)]


async def waiting_for_a_lock(connection: Any) -> None:
    """Poll until somebody waits for what this connection holds."""
    query = "select exists (select from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid)))"
    deadline = time.monotonic() + 10
    while not await connection.fetchval(query):
        assert time.monotonic() < deadline, "nobody waits"
        await asyncio.sleep(0.005)


async def test_other_sessions_are_not_held_up(store: PostgresStore, connection: Any) -> None:
    """While one session is locked by a checkpoint, others are pushed to, and all can be read."""
    head = await filled(store, "s", "t")
    async with connection.transaction():
        put = "select localfirst.put_checkpoint($1, 's', $2, $3, $4, $2, 3, 5, 'folded', '{}', '{}', 0, 0)"
        assert await connection.fetchval(put, NAMESPACE, *head)
        [pushed] = await asyncio.wait_for(store.push([run("t", "r3", 1, 1)]), 10)
        assert pushed.status is PushStatus.OK
        assert await asyncio.wait_for(store.put_checkpoint("u", None, MADE, {}), 10)
        assert len(await asyncio.wait_for(whole_log(store, "s"), 10)) == 7
        assert await store.checkpoint("s") is None
    assert await store.checkpoint("s") == FOLDED


async def test_the_time_of_admission_never_goes_backwards(store: PostgresStore, connection: Any) -> None:
    await filled(store, "s")
    await connection.execute("update localfirst.sessions set updated_at = updated_at + interval '1 hour'")
    [before] = await store.push([run("s", "r3", 1, 1)])
    assert await store.put_checkpoint("s", await end_of(store, "s"), MADE, {})
    [after] = await store.push([run("s", "r1", 1, 1)])
    assert after.admitted_at == before.admitted_at


@pytest.mark.parametrize(
    ("generation", "acked"), [("", {}), ("a\0b", {}), ("g", {"": 1}), ("g", {"a\0b": 1}), ("g", {"r1": 1 << 63})]
)
async def test_what_no_column_holds_is_refused(store: PostgresStore, generation: str, acked: dict[str, int]) -> None:
    with pytest.raises(RemoteRejected):
        await store.put_checkpoint("s", None, MADE._replace(generation=generation), acked)
    assert await store.heads(["s"]) == [None]


async def test_plans_go_through_the_primary_keys(store: PostgresStore, connection: Any) -> None:
    names = [f"session-{number}" for number in range(300)]
    await store.push([run(name, "r1", 1, 20) for name in names])
    plans: list[str] = []
    await connection.execute(
        """load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_level = notice; set client_min_messages = notice"""
    )
    connection.add_log_listener(lambda _connection, message: plans.append(message.message))
    put = "select localfirst.put_checkpoint($1, $2, $3, $4, $5, $6, $7, 5, 'folded', '{r1}', '{5}', 0, 0)"
    for generation in (GENERATION, "made"):
        head = await end_of(store, "session-7")
        assert await connection.fetchval(put, NAMESPACE, "session-7", *head, generation, 3)
    await connection.fetchval("select 'the end'")
    deadline = time.monotonic() + 10
    while not any("the end" in plan for plan in plans):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.005)
    nested = "\n".join(plan for plan in plans if "localfirst." in plan)
    for table in ("changes", "sessions", "origins"):
        assert f"Index Scan using {table}_pkey" in nested
    [compacting] = [plan for plan in plans if "as folded" in plan]
    assert "Index Scan using changes_pkey" in compacting
    assert "(seq <= " in compacting.split("Index Cond:")[1], "it reads no more than it deletes"
    assert "Seq Scan" not in nested
    for line in nested.splitlines():
        if "Index Cond" in line:
            assert "session_id = " in line, nested


async def test_a_silent_server_is_noticed(own_postgres: OwnPostgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "LARGE_SECONDS", 0.5)
    monkeypatch.setattr(store_module, "CONNECT_SECONDS", 0.5)
    server: PostgresServer = own_postgres()
    survivor = PostgresStore(server.url, NAMESPACE)
    await survivor.identify()
    assert await survivor.put_checkpoint("s", None, MADE, {})
    server.pause()
    large = MADE._replace(data=bytes(20_000_000))  # more than any buffer on the way holds
    for call in (survivor.checkpoint("s"), survivor.put_checkpoint("s", Head(*MADE[:3]), large, {})):
        with pytest.raises(RemoteUnavailable):
            await asyncio.wait_for(call, 10)
    server.resume()
    assert await survivor.checkpoint("s") == MADE
    await survivor.close()


async def test_changes_say_which_turn_they_are_part_of(store: PostgresStore, connection: Any) -> None:
    data = [encode_change(Change("r1", n, 1, 0, "main", "append", b"[]", turn)) for n, turn in enumerate([0, 7], 1)]
    await store.push([replace(run("s", "r1", 1, 2), changes=[*data])])
    assert [row[0] for row in await connection.fetch("select turn from localfirst.changes order by seq")] == [0, 7]
    assert bodies(await whole_log(store, "s")) == data
