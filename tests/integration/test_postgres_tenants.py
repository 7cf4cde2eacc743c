"""Roles of one namespace in Postgres: what they need, and that nothing they write or set lets them see another one."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest

from localfirst.change import APPEND, PUT, Change, encode_change
from localfirst.errors import ConfigurationError
from localfirst.testing.conformance import CASES, HINT_CASES, check
from localfirst.testing.conformance.harness import GENERATION, end_of, run, whole_log
from sync.central.base import FORMAT_VERSION, Checkpoint, Ending, Hint, Identity, Run
from sync.central.postgres import PostgresStore, hints
from sync.central.postgres.schema import STEPS
from sync.central.postgres.statements import QUERIES, SCHEMA
from tests.integration.stores import Open, contents
from tests.polling import eventually

OURS, THEIRS = "team-a", "team-b"
TABLES = ("sessions", "endings", "origins", "checkpoints", "changes")
VIEWS = ("items", "metadata", "removed", "cleared")
PAGE = (Path(__file__).parents[2] / "docs" / "postgres.md").read_text("utf-8")
LEAST = "grant" + PAGE.partition("```sql\ngrant")[2].partition("```")[0].replace("to app;", "to {0};")
"""As it is documented."""


class Roles:
    """Makes roles that own nothing in the database of a test."""

    def __init__(self, url: str, owner: Any) -> None:
        self.url, self._owner = url, owner
        self._names: list[str] = []

    async def make(self, options: str = "") -> tuple[str, str]:
        """The name of a new role, and the URL for it."""
        name, password = f"role_{secrets.token_hex(8)}", secrets.token_hex(8)
        await self._owner.execute(f"create role {name} login password '{password}' {options}")
        self._names.append(name)
        parts = urlsplit(self.url)
        return name, parts._replace(netloc=f"{name}:{password}@{parts.hostname}:{parts.port}").geturl()

    async def drop(self) -> None:
        for name in self._names:
            await self._owner.execute(f"drop owned by {name}; drop role {name}")


@pytest.fixture
async def owner(postgres_url: str) -> AsyncIterator[Any]:
    """A connection of who owns the schema."""
    store = PostgresStore(postgres_url, OURS)
    await store.identify()
    await store.close()
    connection = await asyncpg.connect(postgres_url)
    yield connection
    await connection.close()


@pytest.fixture
async def roles(postgres_url: str, owner: Any) -> AsyncIterator[Roles]:
    made = Roles(postgres_url, owner)
    yield made
    await made.drop()


class Tenant(NamedTuple):
    """A role of one namespace."""

    role: str
    url: str
    store: PostgresStore
    sql: Any
    """A connection for what a program would not do."""


@pytest.fixture
async def alice(roles: Roles, owner: Any) -> AsyncIterator[Tenant]:
    """A tenant of OURS, which has one session; THEIRS has one of the same name, with everything that can be in it."""
    async with AsyncExitStack() as stack:
        tenants = [await stack.enter_async_context(tenant(roles, owner, name)) for name in (OURS, THEIRS)]
        for (_, _, store, _), word in zip(tenants, (b"ours", b"theirs"), strict=True):
            await store.push([Run("s", "g", True, "r1", 1, [said(1, word), said(2, word), named(3, word)], ttl=10**9)])
            assert await store.put_checkpoint("s", await end_of(store, "s"), Checkpoint("g", 1, 0, word), {})
            await store.delete([Ending("gone", "g")])
        yield tenants[0]


@asynccontextmanager
async def tenant(roles: Roles, owner: Any, namespace: str) -> AsyncIterator[Tenant]:
    role, url = await roles.make()
    await owner.execute("select localfirst.confine($1, $2)", role, namespace)
    store = PostgresStore(url, namespace)
    await store.identify()
    connection = await asyncpg.connect(url)
    yield Tenant(role, url, store, connection)
    await connection.close()
    await store.close()


def said(counter: int, word: bytes) -> bytes:
    return encode_change(Change("r1", counter, 1, 0, "main", APPEND, b'["%s"]' % word))


def named(counter: int, word: bytes) -> bytes:
    body = b'{"key":"name","rule":"last","value":"%s"}' % word
    return encode_change(Change("r1", counter, 1, 0, "main", PUT, body))


async def theirs(owner: Any) -> list[Any]:
    """All that is theirs."""
    return [
        await owner.fetch(f"select * from localfirst.{table} where namespace = $1 order by 1, 2, 3", THEIRS)
        for table in TABLES
    ]


# What a role needs.


async def test_an_application_needs_no_more_than_is_documented(roles: Roles, owner: Any) -> None:
    role, url = await roles.make()
    await owner.execute(LEAST.format(role))
    await owner.execute(f"revoke create, temporary on database {urlsplit(url).path[1:]} from public")
    store = PostgresStore(url, OURS)
    await everything(store, owner)
    await store.close()
    connection = await asyncpg.connect(url)
    for statement in (
        "create table localfirst.mine ()",
        "drop table localfirst.changes",
        "truncate localfirst.changes",
        "update localfirst.changes set body = ''",
        "alter table localfirst.sessions add column mine text",
        "create or replace function localfirst.whole(p_text text) returns bigint language sql as 'select 1'",
        "update localfirst.store set store_id = 'mine'",
        "insert into localfirst.tenants values (current_user, 'other', 'channel')",
        "select localfirst.confine(current_user, 'other')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_and_no_less(roles: Roles, owner: Any) -> None:
    role, url = await roles.make()
    await owner.execute(LEAST.format(role))
    rights = ["usage on schema localfirst", "select on localfirst.store"]
    rights += [
        f"{right} on localfirst.{table}" for table in TABLES for right in ("select", "insert", "update", "delete")
    ]
    rights.remove("update on localfirst.changes")
    for right in rights:
        await owner.execute(f"revoke {right} from {role}")
        store = PostgresStore(url, right)
        with pytest.raises(ConfigurationError, match="permission denied"):
            await everything(store, owner)
        await store.close()
        await owner.execute(f"grant {right} to {role}")


async def everything(store: PostgresStore, owner: Any) -> None:
    """Whatever a worker asks of a store."""
    await store.identify()
    await store.push([run("s", "r1", 1, 5), run("old", "r1", 1, 1)])
    await store.push([run("s", "r1", 6, 1)])
    end = await end_of(store, "s")
    assert await store.put_checkpoint("s", end, Checkpoint(GENERATION, 2, 0, b"folded"), {})
    assert await store.put_checkpoint("s", end, Checkpoint(GENERATION, 3, 0, b"folded"), {})
    assert await store.checkpoint("s")
    assert await store.put_checkpoint("s", end, Checkpoint("other", 3, 0, b"made"), {"r1": 6})
    await whole_log(store, "old")
    assert await store.sessions("", 10) == ["old", "s"]
    await store.delete([Ending("s", "other"), Ending("s", "other")])
    await store.push([run("late", "r1", 1, 1)])
    await owner.execute("update localfirst.sessions set expires_at = '2020-01-01' where session_id = 'late'")
    assert await store.sweep(10) == 1
    await owner.execute("update localfirst.endings set forget_at = '2020-01-01'")
    await store.sweep(10)


async def test_a_role_is_told_who_must_create_or_upgrade_the_schema(
    roles: Roles, owner: Any, postgres_url: str
) -> None:
    role, url = await roles.make()
    store = PostgresStore(url, OURS)
    await owner.execute(LEAST.format(role))
    await owner.execute("update localfirst.store set schema_step = schema_step - 1")
    with pytest.raises(ConfigurationError, match=r"an older one.*must be owner|an older one.*permission denied"):
        await store.identify()
    await owner.execute("drop schema localfirst cascade")
    with pytest.raises(ConfigurationError, match=r"there is none.*permission denied.*let its owner connect once"):
        await store.identify()
    await PostgresStore(postgres_url, OURS).identify()
    with pytest.raises(ConfigurationError, match=r"permission denied for schema localfirst .*grant"):
        await store.identify()
    await store.close()


async def test_an_older_schema_gets_it_too(roles: Roles, owner: Any, postgres_url: str) -> None:
    await owner.execute("drop schema localfirst cascade")
    for step in STEPS[:3]:
        await owner.execute(SCHEMA[step])
    await owner.execute(QUERIES["remember_schema"], "known", FORMAT_VERSION, 3)
    await owner.execute(
        "select localfirst.push('team-b', '{s}', '{g}', '{t}', '{r1}', '{1}', '{1}', '{1}', '{1}', '{0}',"
        " '{0}', '{main}', '{append}', '{x}', '{1}', '{1}', '{null}', 0)"
    )
    store = PostgresStore(postgres_url, OURS)
    assert (await store.identify()).store_id == "known"
    await store.close()
    off = "select count(*) from pg_class where relnamespace = 'localfirst'::regnamespace and relrowsecurity"
    assert await owner.fetchval(off) == 1, "only the table of tenants; who does not ask for it pays nothing"
    async with tenant(roles, owner, OURS) as ours, tenant(roles, owner, THEIRS) as other:
        assert (await ours.store.sessions("", 10), await other.store.sessions("", 10)) == ([], ["s"])


# Tenants.


async def test_no_function_has_more_rights_than_who_calls_it(owner: Any) -> None:
    query = "select proname from pg_proc where pronamespace = 'localfirst'::regnamespace and prosecdef"
    assert await owner.fetch(query) == []


async def test_tenants_do_all_that_a_store_does(roles: Roles, owner: Any) -> None:
    """A role that is confined to each namespace when it first comes to it."""
    role, url = await roles.make()
    one_by_one = asyncio.Lock()

    class Confined(PostgresStore):
        async def identify(self) -> Identity:
            async with one_by_one:
                await owner.execute("select localfirst.confine($1, $2)", role, self._namespace)
            return await super().identify()

    for case in (*CASES, *HINT_CASES)[3::9]:
        await check(case, lambda namespace: Confined(url, namespace))


async def test_a_tenant_sees_what_is_its_own(alice: Tenant) -> None:
    assert await alice.store.sessions("", 10) == ["s"]
    for relation in (*TABLES, *VIEWS):
        rows = await alice.sql.fetch(f"select namespace from localfirst.{relation}")
        assert {row["namespace"] for row in rows} == ({OURS} if relation not in ("removed", "cleared") else set())
    assert [row["item"] for row in await alice.sql.fetch("select item from localfirst.items")] == ['"ours"']
    assert [row["value"] for row in await alice.sql.fetch("select value from localfirst.metadata")] == ['"ours"']
    assert [tuple(row) for row in await alice.sql.fetch("select role, namespace from localfirst.tenants")] == [
        (alice.role, OURS)
    ]


READS = {
    **{
        f"select {relation}": f"select * from localfirst.{relation} where namespace = '{THEIRS}'"
        for relation in (*TABLES, *VIEWS)
    },
    **{
        f"lock {table}": f"select * from localfirst.{table} where namespace = '{THEIRS}' for update"
        for table in TABLES
        if table != "changes"
    },
    "tenants": f"select * from localfirst.tenants where namespace = '{THEIRS}'",
    "another's namespace by a join": (
        "select c.* from localfirst.sessions as s left join localfirst.changes as c on c.session_id = s.session_id"
        " where c.namespace <> 'team-a' or s.namespace <> 'team-a'"
    ),
    "page_end": f"select where (localfirst.page_end('{THEIRS}', 's', 1, null, 1, 3, 1)).same is false",
    "pull": f"select from localfirst.page_end('{THEIRS}', 's', 1, null, 1, 3, 1) where last < 3",
    "how_ended": f"select where localfirst.how_ended('{THEIRS}', 'gone', 'g') is not null",
    "writes_of": f"select * from localfirst.writes_of('{THEIRS}', 's')",
    "registers_of": f"select * from localfirst.registers_of('{THEIRS}', 's')",
    "metadata_of": f"select * from localfirst.metadata_of('{THEIRS}', 's')",
    "delete_sessions": f"select from localfirst.delete_sessions('{THEIRS}', '{{s}}', array[null::text], 0)",
    "update": f"update localfirst.sessions set head = 0 where namespace = '{THEIRS}' returning *",
    "delete": f"delete from localfirst.changes where namespace = '{THEIRS}' returning *",
    "delete all": "delete from localfirst.endings where namespace <> 'team-a' returning *",
    "update in a query": (
        "with t as (update localfirst.checkpoints set data = '' where namespace <> 'team-a' returning *) table t"
    ),
    "statistics": "select tablename from pg_stats where schemaname = 'localfirst' and tablename <> 'store'",
    "statements": "select * from pg_stat_activity where usename <> current_user and query ilike '%localfirst%'",
}


async def test_a_tenant_gets_nothing_of_another(alice: Tenant, owner: Any) -> None:
    await owner.execute("analyze")
    before = await theirs(owner)
    for setting in ("row_security = on", "role none", "session authorization default"):
        await alice.sql.execute(f"set {setting}")
        for what, query in READS.items():
            assert await alice.sql.fetch(query) == [], (what, setting)
        for source in (*(f"localfirst.{table}" for table in TABLES), *(f"(table localfirst.{view})" for view in VIEWS)):
            assert THEIRS.encode() not in await copied(alice.sql, f"copy {source} to stdout")
        swept = await alice.sql.fetchrow(f"select * from localfirst.sweep('{THEIRS}', 10, 10, 0, '-infinity')")
        assert tuple(swept)[:2] == (0, False)
    assert await theirs(owner) == before


async def copied(connection: Any, statement: str) -> bytes:
    """What a copy gives."""
    gave = bytearray()

    async def take(data: bytes) -> None:
        gave.extend(data)

    await connection._copy_out(statement, take, 10)
    return bytes(gave)


PUSH = (
    "select * from localfirst.push('team-b', '{%s}', '{g}', '{%s}', '{%s}', '{1}', '{%d}', '{%d}', '{1}', '{0}', '{0}',"
    " '{main}', '{append}', '{x}', '{1}', '{1}', '{0}', 0)"
)
WRITES = {
    "insert a session": "insert into localfirst.sessions values ('team-b', 'new', 'g')",
    "insert a change": (
        "insert into localfirst.changes (namespace, session_id, seq, admitted_at, digest, origin, counter, body)"
        " values ('team-b', 's', 4, now(), 0, 'r9', 1, '')"
    ),
    "insert where something is": "insert into localfirst.sessions values ('team-b', 's', 'g') on conflict do nothing",
    "upsert": (
        "insert into localfirst.sessions values ('team-b', 's', 'g')"
        " on conflict (namespace, session_id) do update set head = 0"
    ),
    "insert an end": "insert into localfirst.endings values ('team-b', 's', 'g', 'deleted', 'infinity')",
    "insert an origin": "insert into localfirst.origins values ('team-b', 's', 'r9', 1)",
    "insert a checkpoint": "insert into localfirst.checkpoints values ('team-b', 'new', 1, 0, now(), '')",
    "move what is ours": "update localfirst.sessions set namespace = 'team-b', session_id = 'moved'",
    "move an end": "update localfirst.endings set namespace = 'team-b'",
    "push a session": PUSH % ("new", "true", "r1", 1, 1),
    "push to what is there": PUSH % ("s", "true", "r9", 1, 1),
    "end a life": "select localfirst.end_life('team-b', 's', 'g', 'deleted', 'infinity')",
    "delete": "select localfirst.delete_sessions('team-b', '{s}', '{g}', 1000)",
    "put a checkpoint": (
        "select localfirst.put_checkpoint('team-b', 'new', null, null, null, 'g', 1, 0, '', '{}', '{}', 0, 0)"
    ),
    "become a tenant of another": "insert into localfirst.tenants values (current_user, 'team-b', 'c')",
    "become one by an update": "update localfirst.tenants set namespace = 'team-b'",
    "drop the others": "delete from localfirst.tenants",
    "turn it off": "alter table localfirst.changes disable row level security",
    "another policy": "create policy mine on localfirst.changes using (true)",
    "confine": "select localfirst.confine(current_user, 'team-b')",
    "be another store": "update localfirst.store set store_id = 'mine'",
    "be somebody else": "set role pg_database_owner",
    "authorize": "set session authorization pg_monitor",
    "without policies": "set local row_security = off; select * from localfirst.changes",
}


async def test_a_tenant_writes_nothing_of_another(alice: Tenant, owner: Any) -> None:
    before = await theirs(owner)
    for what, statement in WRITES.items():
        try:
            async with alice.sql.transaction():
                await alice.sql.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            continue
        pytest.fail(what)
    for namespace in (OURS, THEIRS):
        records = [(namespace, "new", "g", "deleted", datetime.now(timezone.utc))]
        with pytest.raises(asyncpg.FeatureNotSupportedError, match="row-level security"):
            await alice.sql.copy_records_to_table("endings", schema_name="localfirst", records=records)
    follow = PUSH % ("s", "false", "r1", 4, 4)
    assert (await alice.sql.fetchrow(follow))["status"] == "missing"
    put = "select localfirst.put_checkpoint('team-b', 's', 'g', 3, 0, 'g', 3, 0, '', '{}', '{}', 0, 0)"
    assert await alice.sql.fetchval(put) is False
    assert await theirs(owner) == before
    assert await alice.store.sessions("", 10) == ["s"]


async def test_whatever_was_granted_nobody_makes_himself_a_tenant(alice: Tenant, owner: Any) -> None:
    """Grants on all tables are in many a script."""
    await owner.execute(f"grant all on all tables in schema localfirst to {alice.role}")
    for statement in (
        "insert into localfirst.tenants values (current_user, 'team-b', 'c')",
        "insert into localfirst.store (store_id, format, schema_step) values ('mine', 3, 1)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await alice.sql.execute(statement)
    for statement in (
        "update localfirst.tenants set namespace = 'team-b'",
        "delete from localfirst.tenants",
        "update localfirst.store set store_id = 'mine'",
        "delete from localfirst.store",
    ):
        assert (await alice.sql.execute(statement)).endswith(" 0")
    await owner.execute("select localfirst.confine($1, $2)", alice.role, OURS)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await alice.sql.execute("truncate localfirst.changes")


async def test_a_function_of_a_tenants_sees_no_row_before_the_policy_does(alice: Tenant) -> None:
    heard: list[str] = []
    alice.sql.add_log_listener(lambda _connection, message: heard.append(message.message))
    await alice.sql.execute(
        """create function pg_temp.spy(bytea) returns boolean language plpgsql cost 0.0000001
        as $$ begin raise notice '%', convert_from($1, 'UTF8'); return true; end $$"""
    )
    for relation, column in (("changes", "body"), ("checkpoints", "data"), ("items", "convert_to(item::text, 'UTF8')")):
        await alice.sql.fetch(f"select from localfirst.{relation} where pg_temp.spy({column})")
        await alice.sql.fetch(f"select from localfirst.{relation} where namespace = 'team-b' and pg_temp.spy({column})")
    await asyncio.sleep(0)
    assert heard
    assert not any("theirs" in each for each in heard)


async def test_tenants_hear_hints_of_their_own_namespace_only(alice: Tenant, roles: Roles, owner: Any) -> None:
    async with tenant(roles, owner, THEIRS) as other, tenant(roles, owner, OURS) as colleague:
        admin = PostgresStore(roles.url, THEIRS)
        await admin.identify()
        heard: list[str] = []
        for channel in (hints.channel(THEIRS), hints.channel(OURS), THEIRS):
            await alice.sql.add_listener(channel, lambda *told: heard.append(told[-1]))
        watching, ours = other.store.watch(), alice.store.watch()
        assert (await anext(watching), await anext(ours)) == (None, None)
        await other.store.push([run("theirs", "r1", 1, 1)])
        assert await asyncio.wait_for(anext(watching), 10) == Hint("theirs", GENERATION, 1)
        await admin.push([run("theirs", "r1", 2, 1)])
        assert await asyncio.wait_for(anext(watching), 10) == Hint("theirs", GENERATION, 2)
        await colleague.store.push([run("ours", "r1", 1, 1)])
        assert await asyncio.wait_for(anext(ours), 10) == Hint("ours", GENERATION, 1)
        await alice.sql.execute("select pg_notify($1, 'end')", THEIRS)
        while not heard:
            await alice.sql.execute("select")
        assert heard == ["end"]
        await admin.close()


async def test_who_may_not_see_a_namespace_is_told(alice: Tenant, roles: Roles, owner: Any) -> None:
    """To it all sessions would be missing, which looks like a loss."""
    _, unknown = await roles.make("in role pg_read_all_data")
    for url in (alice.url, unknown):
        store = PostgresStore(url, THEIRS)
        with pytest.raises(ConfigurationError, match=r"may not use the namespace 'team-b'.*localfirst\.confine"):
            await store.identify()
        await store.close()
    await owner.execute("delete from localfirst.tenants where role = $1", alice.role)
    with pytest.raises(ConfigurationError, match="may not use the namespace 'team-a'"):
        await alice.store.identify()
    assert await alice.store.sessions("", 10) == []


async def test_a_role_that_row_level_security_does_not_bind_is_not_confined(roles: Roles, owner: Any) -> None:
    schema_owner, _ = await roles.make()
    for table in (*TABLES, "store"):
        await owner.execute(f"alter table localfirst.{table} owner to {schema_owner}")
    for options in ("superuser", "bypassrls", "createrole", f"in role {schema_owner}"):
        role, _ = await roles.make(options)
        with pytest.raises(asyncpg.RaiseError, match="does not bind"):
            await owner.execute("select localfirst.confine($1, $2)", role, OURS)
    for table in (*TABLES, "store"):
        await owner.execute(f"alter table localfirst.{table} owner to current_user")
    with pytest.raises(asyncpg.UndefinedObjectError):
        await owner.execute("select localfirst.confine('nobody''; drop table localfirst.changes; --', 'x')")
    assert await owner.fetchval("select count(*) from localfirst.tenants") == 0


async def test_a_store_that_loses_its_namespace_is_blocked_and_keeps_what_it_has(
    roles: Roles, owner: Any, opened: Open
) -> None:
    role, url = await roles.make()
    confine = "select localfirst.confine($1, $2)"
    await owner.execute(confine, role, OURS)
    store = await asyncio.to_thread(opened, "a", url, namespace=OURS)
    session = store.session("s")
    session.add_message("user", "before")
    await store.aflush(20)
    await owner.execute("delete from localfirst.tenants")
    session.add_message("user", "meanwhile")
    await asyncio.to_thread(eventually, lambda: store.status().state == "blocked")
    assert contents(session) == ["before", "meanwhile"]
    await owner.execute(confine, role, OURS)
    await store.aflush(20)
    query = "select item->>'content' from localfirst.items order by seq, index"
    assert [row[0] for row in await owner.fetch(query)] == contents(session) == ["before", "meanwhile"]
    await asyncio.to_thread(store.close)
