"""How Postgres finds what the store asks for: always through the primary keys, and no further than it must."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from typing import Any

import asyncpg
import pytest

from localfirst.change import Change, encode_change
from localfirst.testing.conformance.harness import GENERATION, PAGE, digest_of, grow, having, run, whole_log
from sync.central.base import Checkpoint, Head
from sync.central.postgres import PostgresStore
from sync.central.postgres.batch import numbers
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


@pytest.fixture(params=["administrator", "tenant"])
async def connection(request: pytest.FixtureRequest, filled: PostgresStore, postgres_url: str) -> AsyncIterator[Any]:
    """A connection of an administrator, or of a role that row-level security binds."""
    opened = await asyncpg.connect(postgres_url)
    role = f"role_{secrets.token_hex(8)}"
    if request.param == "tenant":
        await opened.execute(f"create role {role}")
        await opened.execute("select localfirst.confine($1, $2)", role, NAMESPACE)
        await opened.execute(f"set role {role}")
    yield opened
    if request.param == "tenant":
        await opened.execute(f"reset role; drop owned by {role}; drop role {role}")
    await opened.close()


async def administer(connection: Any, statement: str) -> None:
    """Execute what a tenant may not."""
    role = await connection.fetchval("select current_user")
    await connection.execute("reset role")
    await connection.execute(statement)
    await connection.execute(f"set role {role}")


def scans(plan: str) -> Iterator[str]:
    """The lines of a plan that read a table; that of the tenants has a row for each, and is read once."""
    others = ("Function Scan", " on tenants")
    return (line.strip() for line in plan.splitlines() if " on " in line and not any(each in line for each in others))


def places(after: int, digest: int | None, count: int = 100) -> tuple[str, str]:
    """Of so many pullers."""
    return numbers([after] * count), numbers([digest] * count)


async def explain(connection: Any, query: str, *arguments: Any) -> str:
    rows = await connection.fetch(f"explain {QUERIES[query]}", *arguments)
    return "\n".join(row[0] for row in rows)


@pytest.mark.parametrize("analyzed", [False, True])
async def test_plans_of_reads_go_through_the_primary_keys(
    filled: PostgresStore, connection: Any, analyzed: bool
) -> None:
    if analyzed:
        await administer(connection, "analyze")
    names = [f"session-{number}" for number in range(100)]
    plans = [
        await explain(connection, "heads", NAMESPACE, names),
        await explain(
            connection, "pull", NAMESPACE, names, [None] * 100, numbers([0] * 100), numbers([None] * 100), PAGE
        ),
        await explain(
            connection, "pull", NAMESPACE, names, [GENERATION] * 100, numbers([7] * 100), numbers([1] * 100), PAGE
        ),
        await explain(connection, "sessions", NAMESPACE, "session-1", 10),
    ]
    for plan in plans:
        for scan in scans(plan):
            assert "_pkey on " in scan, plan
        assert "session_id" in plan.split("Index Cond:")[1], plan
    assert "sessions_pkey" in plans[0]
    for plan in plans[1:3]:
        assert "changes_pkey" in plan
        called, _, condition = plan.partition("One-Time Filter: ")
        assert "page_end" not in called, "it is called for those only that get a page"
        assert "after < s.head" in condition


async def test_plans_within_the_functions_go_through_the_primary_keys(filled: PostgresStore, connection: Any) -> None:
    plans: list[str] = []
    await administer(
        connection,
        """load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;
        set auto_explain.log_level = notice; set client_min_messages = notice""",
    )
    connection.add_log_listener(lambda _connection, message: plans.append(message.message))
    log = await whole_log(filled, "session-7")
    folded = Checkpoint(GENERATION, 4, digest_of(log[:4]), b"folded")
    assert await filled.put_checkpoint("session-7", Head(GENERATION, 20, digest_of(log)), folded, {})
    for after in (4, 5):
        page = "select same, last from localfirst.page_end($1, 'session-7', $2, $3, 4, 20, 10)"
        row = await connection.fetchrow(page, NAMESPACE, after, digest_of(log[:after]))
        assert tuple(row) == (True, after + 1)
    await connection.fetch(
        "select * from localfirst.push($1, $2, '{g}', '{t}', '{r1}', '{1}', '{21}', '{21}', "
        "'{1}', '{0}', '{0}', '{main}', '{append}', $3, '{1}', '{1}', '{null}', 0)",
        NAMESPACE,
        ["session-7"],
        [b"[]"],
    )
    await asyncio.sleep(0.1)
    nested = "\n".join(plan for plan in plans if "from localfirst." in plan)
    for table in ("changes", "checkpoints", "sessions"):
        assert f"Index Scan using {table}_pkey" in nested
    assert "seq >= " in nested, "a page begins where its puller is"
    assert "Index Scan using origins_pkey" in nested
    assert "Seq Scan" not in nested


async def test_a_page_reads_no_further_than_it_holds(filled: PostgresStore, connection: Any) -> None:
    log = await grow(filled, run("s", "r1", 1, 20_000))
    await administer(connection, "vacuum analyze localfirst.changes")
    for generation, after in ((None, 0), (GENERATION, 10_000), (GENERATION, 19_999)):
        place = [generation], *places(after, digest_of(log[:after]) if generation else None, 1)
        found, blocks = await rows_and_blocks(connection, ["s"], *place, 1000)
        assert 1 <= found <= 20
        assert blocks < 60


async def test_a_puller_with_another_digest_reads_next_to_nothing(filled: PostgresStore, connection: Any) -> None:
    log = await grow(filled, run("s", "r1", 1, 20_000))
    await administer(connection, "vacuum analyze localfirst.changes")
    for digest in (1, digest_of(log[:10_000]) + 1):
        found, blocks = await rows_and_blocks(
            connection, ["s"], [GENERATION], numbers([10_000]), numbers([digest]), 1 << 30
        )
        assert (found, blocks < 20) == (1, True)


async def rows_and_blocks(connection: Any, *arguments: Any) -> tuple[int, int]:
    """What a pull returns and reads, when the catalog was read already."""
    for _ in range(2):
        plan = await connection.fetchval(
            f"explain (analyze, buffers, format json) {QUERIES['pull']}", NAMESPACE, *arguments
        )
    page = json.loads(plan)[0]["Plan"]
    return page["Actual Rows"], page["Shared Hit Blocks"] + page["Shared Read Blocks"]


async def test_a_pull_from_below_the_floor_reads_no_changes(filled: PostgresStore, connection: Any) -> None:
    [head] = await filled.heads(["session-7"])
    assert head is not None
    assert await filled.put_checkpoint("session-7", head, Checkpoint(head.generation, 5, 0, b""), {})
    for generation in (None, head.generation):
        rows = await connection.fetch(
            QUERIES["pull"],
            NAMESPACE,
            ["session-7"],
            [generation],
            numbers([4 if generation else 0]),
            numbers([0]),
            PAGE,
        )
        assert [row["seq"] for row in rows] == [None]


async def test_the_tail_of_a_long_log_is_what_was_pushed(filled: PostgresStore) -> None:
    data = [encode_change(Change("r1", counter, 1, 0, "main", "append", b"[1]")) for counter in range(1, 20_001)]
    log = await grow(filled, replace(run("s", "r1", 1, 1), changes=data))
    [page] = await filled.pull([having("s", log[:19_990])], PAGE)
    assert page.entries == log[19_990:]
    assert page.head is not None
    assert page.head.digest == digest_of(log)
