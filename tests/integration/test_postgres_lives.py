"""Expiry and deletion in Postgres: how it is swept without disturbing anybody, and what is left in the tables."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import asyncpg
import pytest

from localfirst.testing.conformance.harness import GENERATION, changes, end_of, run
from sync.central.base import KEEP_ENDED, Checkpoint, Ending
from sync.central.postgres import PostgresStore
from sync.central.postgres.statements import QUERIES
from sync.central.postgres.store import SWEEP_CHANGES, SWEEP_SESSIONS

NAMESPACE = "test"
TABLES = ("changes", "checkpoints", "endings", "origins", "sessions")
EXPIRED = 2_000
FIRST = datetime(1, 1, 1, tzinfo=timezone.utc)
SECRET = b"secret-6617"


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    store = PostgresStore(postgres_url, NAMESPACE)
    await store.identify()
    yield store
    await store.close()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of an administrator."""
    opened = await asyncpg.connect(postgres_url)
    yield opened
    await opened.close()


async def expire(store: PostgresStore, count: int, size: int = 5) -> None:
    """So many sessions that have expired."""
    for start in range(0, count, 500):
        names = [f"s{number}" for number in range(start, min(start + 500, count))]
        await store.push([replace(run(name, "r1", 1, size), ttl=1) for name in names])
    deadline = time.monotonic() + 20
    while await store.sessions("", 1):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def rows(connection: Any, table: str) -> int:
    return int(await connection.fetchval(f"select count(*) from localfirst.{table}"))


async def test_two_that_sweep_share_the_work_and_keep_nobody_waiting(
    store: PostgresStore, connection: Any, postgres_url: str
) -> None:
    await expire(store, EXPIRED)
    await store.push([run("live", "r1", 1, 1)])
    held: list[float] = []

    async def sweep() -> int:
        """As the store does it, with the time that each statement had its locks, by the server's clock."""
        total, more, last = 0, True, FIRST
        own = await asyncpg.connect(postgres_url)
        while more:
            row = await own.fetchrow(
                f"select swept, more, last, extract(epoch from clock_timestamp() - statement_timestamp())::float held"
                f" from ({QUERIES['sweep'].rstrip().rstrip(';')} offset 0) as swept",
                NAMESPACE,
                SWEEP_SESSIONS,
                SWEEP_CHANGES,
                KEEP_ENDED,
                last,
            )
            total, more, last = total + row["swept"], row["more"], row["last"]
            held.append(row["held"])
        await own.close()
        return total

    sweepers = [asyncio.create_task(sweep()) for _ in range(2)]
    counter = 2
    while not all(sweeper.done() for sweeper in sweepers):
        [pushed] = await store.push([run("live", "r1", counter, 1)])
        assert pushed.admitted == 1
        counter += 1
    swept = [await sweeper for sweeper in sweepers]
    assert sum(swept) == EXPIRED
    assert min(swept) > 0
    assert len(held) >= EXPIRED / SWEEP_SESSIONS
    assert statistics.median(held) < 0.05
    assert [await rows(connection, table) for table in TABLES] == [counter - 1, 0, EXPIRED, 1, 1]
    assert await store.sweep(10) == 0


async def test_what_others_hold_is_left_to_them(store: PostgresStore, connection: Any) -> None:
    await expire(store, 3)
    async with connection.transaction():
        await connection.execute("select from localfirst.sessions where session_id = 's1' for update")
        assert await asyncio.wait_for(store.sweep(10), 10) == 2
    assert await store.sweep(10) == 1


async def test_a_long_log_is_removed_in_parts(store: PostgresStore, connection: Any) -> None:
    await expire(store, 1, size=2 * SWEEP_CHANGES + 10)
    left = []
    for _ in range(3):
        row = await connection.fetchrow(QUERIES["sweep"], NAMESPACE, SWEEP_SESSIONS, SWEEP_CHANGES, KEEP_ENDED, FIRST)
        left.append((await rows(connection, "changes"), row["swept"], row["more"]))
    assert left == [(SWEEP_CHANGES + 10, 0, True), (10, 0, True), (0, 1, True)]


async def test_plans_of_a_sweep_and_a_deletion_go_through_indexes(store: PostgresStore, connection: Any) -> None:
    await expire(store, 300)
    await store.push([run(f"live-{number}", "r1", 1, 5) for number in range(300)])
    plans: list[str] = []
    await connection.execute(
        """load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_level = notice; set client_min_messages = notice"""
    )
    connection.add_log_listener(lambda _connection, message: plans.append(message.message))
    await connection.fetchrow(QUERIES["sweep"], NAMESPACE, SWEEP_SESSIONS, SWEEP_CHANGES, KEEP_ENDED, FIRST)
    await connection.fetch(QUERIES["delete"], NAMESPACE, ["live-1", "live-2"], [GENERATION, None], KEEP_ENDED)
    await asyncio.sleep(0.1)
    nested = "\n".join(plan for plan in plans if "localfirst." in plan)
    assert "sessions_expiry" in nested
    assert "endings_forget" in nested
    for table in ("changes", "origins", "checkpoints", "sessions"):
        assert f"{table}_pkey" in nested
    assert "Seq Scan" not in nested


async def test_nothing_of_a_deleted_session_is_left_but_how_it_ended(store: PostgresStore, connection: Any) -> None:
    secret = replace(run("s", "r1", 1, 5), changes=changes("r1", 1, 5, b'["%s"]' % SECRET))
    await store.push([secret])
    head = await end_of(store, "s")
    assert await store.put_checkpoint("s", head, Checkpoint(GENERATION, 3, 5, SECRET), {})

    async def found() -> list[str]:
        query = "select count(*) from localfirst.{0} as t where position($1::bytea in convert_to(t::text, 'UTF8')) > 0"
        hexed = SECRET.hex().encode()
        return [table for table in TABLES if await connection.fetchval(query.format(table), hexed)]

    assert await found() == ["changes", "checkpoints"]
    await store.delete([Ending("s", GENERATION)])
    assert await found() == []
    assert [await rows(connection, table) for table in TABLES] == [0, 0, 1, 0, 0]
    assert await connection.fetchval("select how from localfirst.endings") == "deleted"


async def test_how_lives_ended_is_forgotten_after_a_while(store: PostgresStore, connection: Any) -> None:
    await store.push([run("s", "r1", 1, 1)])
    await store.delete([Ending("s", GENERATION)], keep=1)
    await store.delete([Ending("kept", GENERATION)])
    await asyncio.sleep(0.01)
    await store.sweep(10)
    assert [row["session_id"] for row in await connection.fetch("select session_id from localfirst.endings")] == [
        "kept"
    ]
