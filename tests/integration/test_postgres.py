"""What is particular to the Postgres store: its schema, roles, poolers, locks, hints, and data that was damaged."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from localfirst.errors import (
    ConfigurationError,
    LocalFirstError,
    RemoteRejected,
    RemoteVersionError,
)
from localfirst.testing.conformance import CASES, check
from localfirst.testing.conformance.harness import admitted, bodies, changes, following, grow, having, run, whole_log
from sync.central.base import FORMAT_VERSION, Checkpoint, Ending, Head, Hint
from sync.central.digests import digest_after
from sync.central.postgres import PostgresStore, hints
from sync.central.postgres.schema import STEPS
from sync.central.postgres.statements import QUERIES, SCHEMA
from tests.conftest import OwnPostgres

NAMESPACE = "test"
PAGE = 1 << 20

OpenStore = Callable[..., PostgresStore]


@pytest.fixture
async def open_store(postgres_url: str) -> AsyncIterator[OpenStore]:
    """Open stores on the test's database, with options of the URL."""
    async with AsyncExitStack() as stack:

        def connect(options: str = "", url: str = postgres_url) -> PostgresStore:
            opened = PostgresStore(f"{url}{options}", NAMESPACE)
            stack.push_async_callback(opened.close)
            return opened

        yield connect


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of an administrator."""
    opened = await asyncpg.connect(postgres_url)
    yield opened
    await opened.close()


# The schema.


async def test_eight_stores_create_the_schema_at_once(open_store: OpenStore, connection: Any) -> None:
    identities = await asyncio.gather(*(open_store().identify() for _ in range(8)))
    assert len({identity.store_id for identity in identities}) == 1
    rows = await connection.fetch("select store_id, format, schema_step from localfirst.store")
    assert [tuple(row) for row in rows] == [(identities[0].store_id, FORMAT_VERSION, len(STEPS))]


async def test_everything_is_in_one_schema_and_explained(open_store: OpenStore, connection: Any) -> None:
    await open_store().identify()
    outside = "select count(*) from pg_class where relnamespace = 'public'::regnamespace"
    assert await connection.fetchval(outside) == 0
    unexplained = await connection.fetch(
        """select relname from pg_class where relnamespace = 'localfirst'::regnamespace and relkind in ('r', 'v')
        and obj_description(oid) is null"""
    )
    assert unexplained == []


async def test_an_older_schema_is_brought_up_to_date(open_store: OpenStore, connection: Any) -> None:
    await connection.execute(SCHEMA[STEPS[0]])
    await connection.execute(QUERIES["remember_schema"], "known", FORMAT_VERSION, 1)
    identities = await asyncio.gather(*(open_store().identify() for _ in range(4)))
    assert {identity.store_id for identity in identities} == {"known"}
    assert await connection.fetchval("select schema_step from localfirst.store") == len(STEPS)
    await connection.fetch("select * from localfirst.items")


async def test_a_failed_creation_leaves_nothing(
    open_store: OpenStore, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SCHEMA, STEPS[-1], "select no_such_function()")
    with pytest.raises(ConfigurationError):
        await open_store().identify()
    assert await connection.fetchval("select to_regnamespace('localfirst')") is None


async def test_a_newer_format_is_left_alone(open_store: OpenStore, connection: Any) -> None:
    await open_store().identify()
    await connection.execute("update localfirst.store set format = $1, schema_step = 0", FORMAT_VERSION + 1)
    with pytest.raises(RemoteVersionError, match="upgrade"):
        await open_store().identify()
    row = await connection.fetchrow("select format, schema_step from localfirst.store")
    assert tuple(row) == (FORMAT_VERSION + 1, 0)


async def test_an_older_format_is_for_somebody_to_empty(open_store: OpenStore, connection: Any) -> None:
    await open_store().identify()
    await connection.execute("update localfirst.store set format = 2")
    with pytest.raises(ConfigurationError, match=r"unreleased version.*empty it.*another database or namespace"):
        await open_store().identify()
    row = await connection.fetchrow("select format, schema_step from localfirst.store")
    assert tuple(row) == (2, len(STEPS))


async def test_a_schema_that_has_lost_its_name_is_for_somebody_to_restore(
    open_store: OpenStore, connection: Any
) -> None:
    await open_store().identify()
    await connection.execute("delete from localfirst.store")
    with pytest.raises(ConfigurationError, match=r"localfirst\.store is empty.*restore it, or drop the schema"):
        await open_store().identify()
    assert await connection.fetchval("select count(*) from localfirst.store") == 0


async def test_a_database_that_can_not_hold_all_text_is_refused(
    open_store: OpenStore, connection: Any, postgres_url: str
) -> None:
    name = f"latin_{secrets.token_hex(8)}"
    await connection.execute(f"create database {name} encoding 'LATIN1' locale 'C' template template0")
    try:
        latin = open_store(url=urlsplit(postgres_url)._replace(path=f"/{name}").geturl())
        with pytest.raises(ConfigurationError, match="UTF8"):
            await latin.identify()
        await latin.close()
    finally:
        await connection.execute(f"drop database {name}")


# Roles and credentials.


@asynccontextmanager
async def application_role(connection: Any, url: str) -> AsyncIterator[tuple[str, str]]:
    """A role that owns nothing and may create nothing: its name, and the URL for it."""
    name, password = f"app_{secrets.token_hex(8)}", secrets.token_hex(8)
    await connection.execute(f"create role {name} login password '{password}'")
    parts = urlsplit(url)
    try:
        yield name, parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}").geturl()
    finally:
        await connection.execute(f"drop owned by {name}; drop role {name}")


async def test_a_role_that_may_create_nothing_uses_what_is_there(
    open_store: OpenStore, connection: Any, postgres_url: str
) -> None:
    async with application_role(connection, postgres_url) as (role, url):
        application = open_store(url=url)
        with pytest.raises(ConfigurationError, match="grant"):
            await application.identify()
        identity = await open_store().identify()
        with pytest.raises(ConfigurationError, match="grant"):
            await application.identify()
        await connection.execute(
            f"""grant usage on schema localfirst to {role};
            grant select, insert, update, delete on all tables in schema localfirst to {role}"""
        )
        assert (await application.identify()).store_id == identity.store_id
        await application.push([run("s", "r1", 1, 3)])
        assert bodies(await whole_log(application, "s")) == changes("r1", 1, 3)
        await application.close()


async def test_a_wrong_password_is_told_without_it(own_postgres: OwnPostgres) -> None:
    server = own_postgres(password="right")
    wrong = PostgresStore(server.url.replace("right", "wr0ng-p4ss"), NAMESPACE)
    for call in (wrong.identify(), wrong.heads(["s"]), anext(wrong.watch())):
        with pytest.raises(ConfigurationError, match="check the user and the password") as caught:
            await call
        assert f"postgresql://127.0.0.1:{server.port}/postgres" in str(caught.value)
        assert "wr0ng-p4ss" not in f"{caught.value}{caught.value.__cause__}"
    await wrong.close()


async def test_an_unknown_database_is_for_somebody_to_correct(open_store: OpenStore, postgres_url: str) -> None:
    unknown = open_store(url=urlsplit(postgres_url)._replace(path="/no_such_database").geturl())
    with pytest.raises(ConfigurationError, match="create the database"):
        await unknown.identify()


async def test_an_unknown_option_is_for_somebody_to_correct(open_store: OpenStore) -> None:
    with pytest.raises(ConfigurationError, match="no_such_option"):
        await open_store("?no_such_option=1").identify()


# Poolers.


async def test_all_of_conformance_without_prepared_statements_and_hints(postgres_url: str) -> None:
    url = f"{postgres_url}?notify=off&statement_cache_size=0"
    for case in CASES:
        await check(case, lambda namespace: PostgresStore(url, namespace))


async def test_behind_a_pooler_nothing_outlives_a_transaction(open_store: OpenStore) -> None:
    pooled = open_store("?notify=off&statement_cache_size=0")
    await pooled.identify()
    await pooled.push([run("s", "r1", 1, 1)])
    async with pooled._connection() as used:
        assert used.is_in_transaction(), "between its steps a statement may not move to another server"
        assert await used.fetch("select * from pg_prepared_statements where name <> ''") == []
        assert await used.fetch("select * from pg_listening_channels()") == []


async def test_without_hints_watching_ends_at_once(open_store: OpenStore) -> None:
    assert [hint async for hint in open_store("?notify=off").watch()] == []


# Pushes that disturb each other.


async def test_runs_that_are_taken_are_not_sent_one_by_one(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is refused together is sent again in parts: that must not hide a mistake in what was sent together."""
    shared = open_store()
    await shared.identify()
    push, sent = shared._push_statement, []

    async def counted(runs: Any) -> Any:
        sent.append(len(runs))
        return await push(runs)

    monkeypatch.setattr(shared, "_push_statement", counted)
    runs = [run("gap" if number == 7 else f"s{number}", "r1", 1 + (number == 7), number) for number in range(1, 21)]
    answers = await shared.push(runs)
    assert [each.admitted for each in answers] == [*range(1, 7), 0, *range(8, 21)]
    assert sent == [20]
    for number in (1, 8, 20):
        log = admitted(runs[number - 1], answers[number - 1])
        for known in range(number):
            [page] = await shared.pull([having(f"s{number}", log[:known])], 1)
            assert page.entries == log[known : known + 1]


NAMES = [f"session-{number:02}" for number in range(50)]


async def push_in_opposite_orders(open_store: OpenStore, first: int) -> None:
    """Two replicas push to the same sessions; both get through."""
    orders = {"r1": NAMES, "r2": NAMES[::-1]}
    pushes = (open_store().push([run(name, origin, first, 1) for name in order]) for origin, order in orders.items())
    for pushed in await asyncio.gather(*pushes):
        assert {each.admitted for each in pushed} == {1}


async def test_two_replicas_over_the_same_sessions_in_opposite_orders(open_store: OpenStore) -> None:
    await open_store().identify()
    for first in range(1, 41):
        await push_in_opposite_orders(open_store, first)
    heads = await open_store().heads(NAMES)
    assert {head.seq for head in heads if head} == {80}


@pytest.mark.parametrize(
    "obstacle",
    [
        pytest.param("insert into localfirst.sessions values ('test', 'session-25', 'g')", id="new sessions"),
        pytest.param("select from localfirst.sessions where session_id = 'session-25' for update", id="old sessions"),
    ],
)
async def test_replicas_that_wait_do_not_wait_for_each_other(
    open_store: OpenStore, connection: Any, obstacle: str
) -> None:
    await open_store().identify()
    first = 1
    if obstacle.startswith("select"):
        await push_in_opposite_orders(open_store, first)
        first = 2
    blocking = connection.transaction()
    await blocking.start()
    await connection.execute(obstacle)
    pushing = asyncio.ensure_future(push_in_opposite_orders(open_store, first))
    # Each locked all it could in its order: were these opposite, they would now hold what the other needs.
    await asyncio.sleep(0.5)
    assert not pushing.done()
    await blocking.rollback()
    await pushing


async def test_one_refused_run_does_not_lose_the_others(open_store: OpenStore, connection: Any) -> None:
    shared = open_store()
    await shared.identify()
    await shared.push([run("damaged", "r1", 1, 1)])
    await connection.execute("update localfirst.sessions set head = 0 where session_id = 'damaged'")
    with pytest.raises(RemoteRejected, match="damaged"):
        await shared.push(
            [run("a", "r1", 1, 1), following("damaged", "r1", 2, 1), run("b", "a\0b", 1, 1), run("c", "r1", 1, 1)]
        )
    heads = await shared.heads(["a", "damaged", "b", "c"])
    assert [head and head.seq for head in heads] == [1, 0, None, 1]


async def test_the_time_of_admission_never_goes_backwards(open_store: OpenStore, connection: Any) -> None:
    shared = open_store()
    await shared.identify()
    [first] = await shared.push([run("s", "r1", 1, 1)])
    await connection.execute("update localfirst.sessions set updated_at = updated_at + interval '1 hour'")
    [second] = await shared.push([run("s", "r1", 2, 1)])
    [other] = await shared.push([run("other", "r1", 1, 1)])
    assert second.admitted_at == first.admitted_at + 3_600_000
    assert other.admitted_at < second.admitted_at


async def test_hints_tell_generation_and_place(open_store: OpenStore) -> None:
    shared = open_store()
    await shared.identify()
    watching = shared.watch()
    assert await anext(watching) is None
    await shared.push([run("s", "r1", 1, 3, generation="g1")])
    assert await asyncio.wait_for(anext(watching), 10) == Hint("s", "g1", 3)


async def test_no_statement_needs_to_ask_for_types_first(
    open_store: OpenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Over a slow line, that takes longer than the statement, and it takes it on each connection."""

    async def ask(*_: object) -> None:
        raise AssertionError("types are asked for")

    monkeypatch.setattr(asyncpg.Connection, "_introspect_types", ask)
    shared = open_store()
    await shared.identify()
    await shared.push([replace(run("s", "r1", 1, 3, generation="g1"), ttl=3_600_000)])
    log = await whole_log(shared, "s")
    head = Head("g1", 3, digest_after(0, log))
    assert await shared.heads(["s"]) == [head]
    assert await shared.put_checkpoint("s", head, Checkpoint("g1", 3, head.digest, b"folded"), {"r1": 3})
    assert await shared.checkpoint("s") is not None
    await shared.delete([Ending("s", "g1")])
    assert await shared.sweep(1) == 0
    assert await shared.sessions("", 10) == []


async def test_what_was_pushed_last_is_told_though_the_store_is_closed_at_once(open_store: OpenStore) -> None:
    watched, hasty = open_store(), open_store()
    await watched.identify()
    watching = watched.watch()
    assert await anext(watching) is None
    await hasty.push([run("s", "r1", 1, 1, generation="g1")])
    await hasty.close()
    assert await asyncio.wait_for(anext(watching), 10) == Hint("s", "g1", 1)


async def test_what_a_watcher_can_not_keep_or_read_means_that_anything_moved(
    open_store: OpenStore, connection: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = open_store()
    await shared.identify()
    watching = shared.watch()
    assert await anext(watching) is None
    await connection.execute("select pg_notify($1, 'nonsense')", hints.channel(NAMESPACE))
    assert await asyncio.wait_for(anext(watching), 10) is None
    monkeypatch.setattr(hints, "MAX_WAITING", 5)
    await shared.push([run(f"s{number}", "r1", 1, 1) for number in range(6)])
    assert await asyncio.wait_for(anext(watching), 10) is None


# Data that is not as it should be.


DAMAGE = {
    "head beyond the log": "update localfirst.sessions set head = head + 1",
    "end of the log lost": "delete from localfirst.changes where seq = 5",
    "hole in the log": "delete from localfirst.changes where seq = 3",
    "start of the log lost": "delete from localfirst.changes where seq <= 2",
    "all of the log lost": "delete from localfirst.changes",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("page", [1, 200, PAGE])
async def test_a_log_with_a_hole_never_passes_for_a_shorter_one(
    open_store: OpenStore, connection: Any, damage: str, page: int
) -> None:
    shared = open_store()
    await shared.identify()
    await shared.push([run("s", "r1", 1, 5)])
    await connection.execute(DAMAGE[damage])
    with pytest.raises(RemoteRejected, match="'s' is damaged"):
        await whole_log(shared, "s", page)


async def test_a_puller_whose_place_is_lost_is_not_told_that_its_log_is_another(
    open_store: OpenStore, connection: Any
) -> None:
    shared = open_store()
    await shared.identify()
    log = await grow(shared, run("s", "r1", 1, 5))
    await connection.execute(DAMAGE["hole in the log"])
    with pytest.raises(RemoteRejected, match=r"'s' is damaged.*digest of its log up to 3"):
        await shared.pull([having("s", log[:3])], PAGE)
    for generation, known in (("generation-2", 3), ("generation-1", 4), ("generation-1", 6)):
        want = having("s", [*log, log[-1]][:known], generation=generation)
        [page] = await shared.pull([want], PAGE)
        assert page.resync == (known != 4)


async def test_a_session_without_its_log_is_not_pushed_to(open_store: OpenStore, connection: Any) -> None:
    shared = open_store()
    await shared.identify()
    await shared.push([run("s", "r1", 1, 5)])
    await connection.execute("delete from localfirst.sessions")
    for again in (run("s", "r1", 1, 5), run("s", "r2", 1, 1)):
        with pytest.raises(RemoteRejected):
            await shared.push([again])
    assert await shared.heads(["s"]) == [None], "what was refused made no session"


async def test_a_schema_that_was_dropped_is_made_anew(open_store: OpenStore, connection: Any) -> None:
    shared = open_store()
    before = await shared.identify()
    await shared.push([run("s", "r1", 1, 1)])
    await connection.execute("drop schema localfirst cascade")
    with pytest.raises(LocalFirstError):
        await shared.push([run("s", "r1", 2, 1)])
    after = await shared.identify()
    assert after.store_id != before.store_id
    assert await shared.heads(["s"]) == [None]
