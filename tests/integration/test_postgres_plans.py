"""How Postgres finds what the store asks for: always through the primary keys, and no further than it must."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from localfirst.change import Change, encode_change, extend_digest
from localfirst.testing.conformance.harness import PAGE, bodies, run
from sync.central.base import Checkpoint, Want
from sync.central.postgres import PostgresStore
from sync.central.postgres.statements import QUERIES

NAMESPACE = "test"


@pytest.fixture
async def filled(postgres_url: str) -> AsyncIterator[PostgresStore]:
    """A store of 300 sessions, as pushes left it: nothing in it was ever analyzed."""
    store = PostgresStore(postgres_url, NAMESPACE)
    await store.identify()
    await store.push([run(f"session-{number}", "r1", 1, 20) for number in range(300)])
    yield store
    await store.close()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of an administrator."""
    opened = await asyncpg.connect(postgres_url)
    yield opened
    await opened.close()


def scans(plan: str) -> Iterator[str]:
    """The lines of a plan that read a table."""
    return (line.strip() for line in plan.splitlines() if " on " in line and "Function Scan" not in line)


async def explain(connection: Any, query: str, *arguments: Any) -> str:
    rows = await connection.fetch(f"explain {QUERIES[query]}", *arguments)
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_plans_of_reads_go_through_the_primary_keys(
    filled: PostgresStore, connection: Any, analyzed: bool
) -> None:
    if analyzed:
        await connection.execute("analyze")
    names = [f"session-{number}" for number in range(100)]
    plans = [
        await explain(connection, "heads", NAMESPACE, names),
        await explain(connection, "pull", NAMESPACE, names, [None] * 100, [0] * 100, PAGE),
        await explain(connection, "sessions", NAMESPACE, "session-1", 10),
    ]
    for plan in plans:
        for scan in scans(plan):
            assert "_pkey on " in scan, plan
        assert "session_id" in plan.split("Index Cond:")[1], plan
    assert "sessions_pkey" in plans[0]
    assert "changes_pkey" in plans[1]


async def test_plans_within_the_functions_go_through_the_primary_keys(filled: PostgresStore, connection: Any) -> None:
    plans: list[str] = []
    await connection.execute(
        """load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_level = notice; set client_min_messages = notice"""
    )
    connection.add_log_listener(lambda _connection, message: plans.append(message.message))
    await connection.fetch("select localfirst.page_end($1, 'session-7', 0, 2, 10)", NAMESPACE)
    await connection.fetch(
        "select * from localfirst.push($1, $2, '{g}', '{t}', '{r1}', '{1}', '{21}', '{21}', "
        "'{1}', '{21}', '{1}', '{0}', '{0}', '{main}', '{append}', $3, '{1}', '{1}')",
        NAMESPACE,
        ["session-7"],
        [b"[]"],
    )
    await asyncio.sleep(0.1)
    nested = "\n".join(plan for plan in plans if "from localfirst." in plan)
    assert "Index Scan using changes_pkey" in nested
    assert "Index Scan using sessions_pkey" in nested
    assert "Index Scan using origins_pkey" in nested
    assert "Seq Scan" not in nested


async def test_a_page_reads_no_further_than_it_holds(filled: PostgresStore, connection: Any) -> None:
    await filled.push([run("s", "r1", 1, 20_000)])
    await connection.execute("vacuum analyze localfirst.changes")
    plan = await connection.fetchval(
        f"explain (analyze, buffers, format json) {QUERIES['pull']}", NAMESPACE, ["s"], [None], [0], 1000
    )
    page = json.loads(plan)[0]["Plan"]
    assert page["Shared Hit Blocks"] + page["Shared Read Blocks"] < 60


async def test_a_pull_from_below_the_floor_reads_no_changes(filled: PostgresStore, connection: Any) -> None:
    [head] = await filled.heads(["session-7"])
    assert head is not None
    assert await filled.put_checkpoint("session-7", head, Checkpoint(head.generation, 5, 0, b""), {})
    for generation in (None, head.generation):
        rows = await connection.fetch(
            QUERIES["pull"], NAMESPACE, ["session-7"], [generation], [4 if generation else 0], PAGE
        )
        assert [row["seq"] for row in rows] == [None]


async def test_the_tail_of_a_long_log_is_what_was_pushed(filled: PostgresStore) -> None:
    data = [encode_change(Change("r1", counter, 1, 0, "main", "append", b"[1]")) for counter in range(1, 20_001)]
    await filled.push([replace(run("s", "r1", 1, 1), changes=data)])
    [page] = await filled.pull([Want("s", "generation-1", 19_990)], PAGE)
    assert bodies(page.entries) == data[19_990:]
    assert page.head is not None
    assert page.head.digest == extend_digest(0, data)
