"""The views for people: plain SQL shows what the fold shows, and nothing that a client may have written breaks it."""

from __future__ import annotations

import json
import random
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import pytest

from localfirst.change import (
    APPEND,
    CLEAR,
    DELETE,
    END,
    FORK,
    INCREMENT,
    MAIN_BRANCH,
    PUT,
    REMOVE,
    Admitted,
    Change,
    decode_change,
    encode_change,
)
from localfirst.checkpoint import State, encode_state
from localfirst.clock import pack
from localfirst.fold import Fold, fold
from localfirst.testing.conformance.harness import whole_log
from sync.central.base import Checkpoint, Run
from sync.central.postgres import PostgresStore

NAMESPACE = "test"
LONG_AGO = pack(1_700_000_000_000)
FAR_AHEAD = pack(4_000_000_000_000)


class Author:
    """Writes changes to one session, each pushed at once."""

    def __init__(self, store: PostgresStore, session_id: str, origin: str) -> None:
        self._store, self._session_id, self._origin = store, session_id, origin
        self.counter = 0

    async def write(
        self, kind: str, body: Any, *, base: int = 0, time: int = LONG_AGO, branch: str = MAIN_BRANCH
    ) -> None:
        """One change; a body that is not bytes becomes JSON."""
        self.counter += 1
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        change = encode_change(Change(self._origin, self.counter, time, base, branch, kind, data))
        [pushed] = await self._store.push([Run(self._session_id, "g", True, self._origin, self.counter, [change])])
        assert pushed.admitted == 1

    async def put(self, key: str, value: Any, rule: str = "last", **options: Any) -> None:
        await self.write(PUT, {"key": key, "rule": rule, "value": value}, **options)


@pytest.fixture
async def store(postgres_url: str) -> AsyncIterator[PostgresStore]:
    opened = PostgresStore(postgres_url, NAMESPACE)
    await opened.identify()
    yield opened
    await opened.close()


@pytest.fixture
async def connection(postgres_url: str) -> AsyncIterator[Any]:
    opened = await asyncpg.connect(postgres_url)
    await opened.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")
    yield opened
    await opened.close()


async def contents(connection: Any, session_id: str = "user-123") -> list[str]:
    """The SQL that the documentation shows."""
    rows = await connection.fetch(
        "select item->>'content' from localfirst.items where session_id = $1 order by seq, index", session_id
    )
    return [row[0] for row in rows]


async def metadata(connection: Any, session_id: str = "user-123") -> dict[str, Any]:
    return dict(await connection.fetch("select key, value from localfirst.metadata where session_id = $1", session_id))


async def said(author: Author, *words: str, base: int = 0) -> None:
    await author.write(APPEND, [{"role": "user", "content": word} for word in words], base=base)


async def test_items_are_there_in_order_with_their_time(store: PostgresStore, connection: Any) -> None:
    await said(Author(store, "user-123", "r1"), "one", "two")
    await said(Author(store, "user-123", "r2"), "three")
    await said(Author(store, "other", "r1"), "another session")
    assert await contents(connection) == ["one", "two", "three"]
    row = await connection.fetchrow("select * from localfirst.items where session_id = 'other'")
    assert (row["namespace"], row["origin"], row["counter"], row["seq"], row["index"]) == (NAMESPACE, "r1", 1, 1, 0)
    assert row["created_at"].timestamp() * 1000 == LONG_AGO >> 16


async def test_a_removed_item_is_gone(store: PostgresStore, connection: Any) -> None:
    first, second = Author(store, "user-123", "r1"), Author(store, "user-123", "r2")
    await said(first, "one", "two", "three")
    for author in (second, first):
        await author.write(REMOVE, {"origin": "r1", "counter": 1, "index": 1})
    assert await contents(connection) == ["one", "three"]


async def test_a_removal_that_comes_before_its_item_counts(store: PostgresStore, connection: Any) -> None:
    await Author(store, "user-123", "r2").write(REMOVE, {"origin": "r1", "counter": 1, "index": 0})
    await said(Author(store, "user-123", "r1"), "one", "two")
    assert await contents(connection) == ["two"]


async def test_a_clear_takes_what_its_author_had_seen(store: PostgresStore, connection: Any) -> None:
    first, second = Author(store, "user-123", "r1"), Author(store, "user-123", "r2")
    await said(first, "seen")
    await said(first, "not seen")
    await said(second, "own")
    await second.write(CLEAR, {"seen": {"r1": 1, "r7": 7}}, base=1_000)
    await said(second, "after")
    await said(first, "later")
    assert await contents(connection) == ["not seen", "after", "later"]


async def test_a_clear_that_comes_before_what_its_author_had_seen_counts(store: PostgresStore, connection: Any) -> None:
    """As in a log that was rebuilt."""
    first, second = Author(store, "user-123", "r1"), Author(store, "user-123", "r2")
    await second.write(CLEAR, {"seen": {"r1": 1}})
    await said(first, "seen")
    await said(first, "not seen")
    assert await contents(connection) == ["not seen"]


async def test_items_are_those_of_the_main_branch(store: PostgresStore, connection: Any) -> None:
    author = Author(store, "user-123", "r1")
    await said(author, "one", "two")
    await author.write(FORK, {"name": "draft", "seen": {}})
    await author.write(APPEND, [{"content": "elsewhere"}], branch="r1:2")
    await author.write(REMOVE, {"origin": "r1", "counter": 1, "index": 0}, branch="r1:2")
    await author.write(CLEAR, {"seen": {"r1": 9}}, branch="r1:2")
    await author.put("name", "Ada")
    for folded in (False, True):
        if folded:
            await compact(store, await admitted_in(store), 6)
        assert await contents(connection) == ["one", "two"]
        assert await metadata(connection) == {"name": "Ada"}


async def test_metadata_by_rule(store: PostgresStore, connection: Any) -> None:
    author = Author(store, "user-123", "r1")
    await author.put("name", "Ada")
    await author.put("name", "Grace")
    await author.put("gone", 1)
    await author.write(DELETE, {"key": "gone"})
    await author.write(INCREMENT, {"key": "turns", "by": 2})
    await author.write(INCREMENT, {"key": "turns", "by": 3})
    for value in (5, 3, 7):
        await author.put("most", value, "max")
        await author.put("least", value, "min")
        await author.put("born", value, "first")
        await author.put("tags", ["a", value, "a"], "union")
        await author.put("profile", {"last": value, str(value): True}, "merge")
    await author.write(PUT, {"key": "profile", "rule": "merge", "value": {}, "gone": ["3"]})
    assert await metadata(connection) == {
        "name": "Grace",
        "turns": 5,
        "most": 7,
        "least": 3,
        "born": 5,
        "tags": ["a", 5, 3, 7],
        "profile": {"last": 7, "5": True, "7": True},
    }


async def test_the_later_of_two_writes_wins_unless_one_had_seen_the_other(
    store: PostgresStore, connection: Any
) -> None:
    first, second = Author(store, "user-123", "r1"), Author(store, "user-123", "r2")
    await first.put("unseen", "late", time=LONG_AGO + 9)
    await second.put("unseen", "early", time=LONG_AGO)
    await first.put("seen", "late", time=LONG_AGO + 9)
    await second.put("seen", "early", time=LONG_AGO, base=3)
    await first.put("tie", "r1")
    await second.put("tie", "r2")
    assert await metadata(connection) == {"unseen": "late", "seen": "early", "tie": "r2"}


async def test_a_clock_that_is_fast_does_not_win_for_ever(store: PostgresStore, connection: Any) -> None:
    first, second = Author(store, "user-123", "r1"), Author(store, "user-123", "r2")
    await first.put("key", "from the future", time=FAR_AHEAD)
    await connection.execute("select pg_sleep(0.01)")
    await second.put("key", "now", time=FAR_AHEAD - 1)
    assert await metadata(connection) == {"key": "now"}
    assert await connection.fetchval("select updated_at <= now() from localfirst.metadata")


UNREADABLE = [b"", b"\xff\xfe", b"{", b"[NaN]", b'["\\u0000"]', b'["\\ud800"]', b"\x00", b"[" * 100_000, b"[1e999999]"]


async def test_what_can_not_be_read_is_there_without_its_content(store: PostgresStore, connection: Any) -> None:
    author = Author(store, "user-123", "r1")
    for body in UNREADABLE:
        await author.write(APPEND, body)
    await said(author, "readable")
    await author.write(APPEND, b"{}")
    await author.write(APPEND, b"[]")
    expected = [None] * len(UNREADABLE) + ["readable", None]
    assert await contents(connection) == expected
    assert await connection.fetchval("select count(*) from localfirst.items where item is null") == len(expected) - 1


@pytest.mark.parametrize("kind", [REMOVE, CLEAR, PUT, DELETE, INCREMENT, "unknown"])
async def test_what_is_malformed_breaks_no_view(store: PostgresStore, connection: Any, kind: str) -> None:
    author = Author(store, "user-123", "r1")
    await said(author, "kept")
    await author.put("kept", 1)
    other = Author(store, "user-123", "r2")
    for body in [*UNREADABLE, b"null", b"[]", b"7", b'{"key":7}', b'{"key":"kept","by":"x","rule":"no","value":1}']:
        await other.write(kind, body)
    await other.write(PUT, {"key": "kept", "rule": "merge", "value": 5})
    await other.write(PUT, {"key": "kept", "rule": "union", "value": 5})
    await other.write(PUT, {"key": "kept", "rule": "max"})
    await other.write(PUT, {"key": "kept", "rule": "merge", "value": {"a": 1}, "gone": 3})
    assert await contents(connection) == ["kept"]
    assert (await metadata(connection))["kept"] == {"a": 1}
    for view in ("items", "metadata"):
        await connection.fetch(f"select * from localfirst.{view}")


async def test_a_change_in_an_unknown_encoding_breaks_no_view(store: PostgresStore, connection: Any) -> None:
    await store.push([Run("user-123", "g", True, "r1", 1, [b"from a newer client"])])
    assert await contents(connection) == []
    assert await metadata(connection) == {}


SEALED = [b"\x01", b"\x01[]", b'\x01{"key":"k"}', b"\x01\xff\x00 key and nonce \x80", b"\x01" * 5_000]


async def test_what_is_sealed_is_passed_over(store: PostgresStore, connection: Any) -> None:
    author, other = Author(store, "user-123", "r1"), Author(store, "sealed", "r1")
    await said(author, "before")
    for kind in (APPEND, REMOVE, CLEAR, PUT, DELETE, INCREMENT, FORK, "unknown"):
        for body in SEALED:
            await Author(store, f"{kind} {body[:9]!r}", "r1").write(kind, body)
            await other.write(kind, body)
            if kind != CLEAR:
                await author.write(kind, body)
    await said(author, "after")
    await author.put("key", 1)
    for data in SEALED:
        [head] = await store.heads(["sealed"])
        assert head is not None
        floor = head.seq - len(SEALED) + SEALED.index(data)
        assert await store.put_checkpoint("sealed", head, Checkpoint(head.generation, floor, 0, data), {})
        for session_id in ("user-123", None):
            query = "select item->>'content' from localfirst.items where session_id = $1 or $1 is null order by seq"
            rows = await connection.fetch(query, session_id)
            assert [row[0] for row in rows] == ["before", "after"]
        assert await connection.fetch("select session_id, key, value::text from localfirst.metadata") == [
            ("user-123", "key", "1")
        ]


def written(chance: random.Random) -> tuple[str, Any]:
    """A change that somebody might make: its kind and its body."""
    number = chance.randint(1, 9)
    return chance.choice(
        [
            (APPEND, [{"content": str(chance.random())} for _ in range(chance.randint(0, 3))]),
            (APPEND, [number]),
            (REMOVE, {"origin": f"r{chance.randint(1, 3)}", "counter": number, "index": chance.randint(0, 2)}),
            (CLEAR, {"seen": {"r1": number, "r2": 2 * number}}) if chance.random() < 0.3 else (APPEND, [None, "x"]),
            (END, {}),
            (PUT, {"key": chance.choice("abc"), "rule": "last", "value": number}),
            (PUT, {"key": chance.choice("abc"), "rule": chance.choice(["first", "max", "min"]), "value": number}),
            (PUT, {"key": "abc", "rule": "union", "value": [number, "x"]}),
            (PUT, {"key": "abc", "rule": "last", "value": chance.choice([number, [number], None, "x"])}),
            (DELETE, {"key": chance.choice(["a", "b", "c", "abc"])}),
            (INCREMENT, {"key": chance.choice("abc"), "by": number}),
            (FORK, {"name": "draft", "seen": {"r1": number, "r2": number}}),
        ]
    )


@pytest.mark.parametrize("seed", range(12))
async def test_views_show_what_the_fold_shows(store: PostgresStore, connection: Any, seed: int) -> None:
    chance = random.Random(seed)
    authors = [Author(store, "user-123", f"r{number}") for number in (1, 2, 3)]
    for head in range(60):
        kind, body = written(chance)
        time = chance.choice([LONG_AGO + chance.randint(0, 5), FAR_AHEAD])
        branch = chance.choice([MAIN_BRANCH, MAIN_BRANCH, f"r{chance.randint(1, 3)}:{chance.randint(1, 20)}"])
        await chance.choice(authors).write(kind, body, base=chance.randint(0, head), time=time, branch=branch)
    admitted = await admitted_in(store)
    await shows(connection, fold(admitted))
    for floor in sorted(chance.sample(range(1, 61), 2)):
        await compact(store, admitted, floor)
        await shows(connection, fold(admitted))


async def admitted_in(store: PostgresStore) -> list[Admitted]:
    log = await whole_log(store, "user-123")
    return [Admitted(entry.seq, entry.admitted_at, decode_change(entry.data)) for entry in log]


async def compact(store: PostgresStore, admitted: Sequence[Admitted], floor: int) -> None:
    """Fold all up to a seq into a checkpoint."""
    state = State()
    state.admit(admitted[:floor])
    await put(store, encode_state(state), floor)


async def put(store: PostgresStore, data: bytes, floor: int) -> None:
    [head] = await store.heads(["user-123"])
    assert head is not None
    assert await store.put_checkpoint("user-123", head, Checkpoint(head.generation, floor, 0, data), {})


async def shows(connection: Any, state: Fold) -> None:
    """Both views show what the fold shows."""
    rows = await connection.fetch("select * from localfirst.items where session_id = 'user-123' order by seq, index")
    assert [(row["origin"], row["counter"], row["index"], row["item"]) for row in rows] == [
        (item.origin, item.counter, item.place, json.loads(item.data)) for item in state.items
    ]
    assert await metadata(connection) == {
        key: json.loads(register.value) for key, register in state.metadata.items() if register.value is not None
    }


async def test_what_was_folded_is_there_as_before(store: PostgresStore, connection: Any) -> None:
    first, second = Author(store, "user-123", "r1"), Author(store, "user-123", "r2")
    await said(first, "one", "two", "three")
    await second.write(REMOVE, {"origin": "r1", "counter": 1, "index": 1})
    for item in (b"[NaN]", b'[{"content":"\\u00e9"}]', b'["\\ud800"]', b'["\\u0000"]'):
        await first.write(APPEND, item)
    await second.write(REMOVE, {"origin": "r3", "counter": 1, "index": 0})
    await first.put("name", "Ada")
    await first.write(PUT, b'{"key":"nan","rule":"last","value":NaN}')
    await first.write(PUT, b'{"key":"\\ud800","rule":"last","value":1}')
    await first.put("gone", 1)
    await first.write(DELETE, {"key": "gone"}, time=LONG_AGO + 9)
    before = await connection.fetch("select * from localfirst.items order by seq, index")
    named = await metadata(connection)
    await compact(store, await admitted_in(store), 12)
    assert await connection.fetchval("select count(*) from localfirst.changes") == 0
    assert await connection.fetch("select * from localfirst.items order by seq, index") == before
    assert await metadata(connection) == named == {"name": "Ada"}
    await said(Author(store, "user-123", "r3"), "removed before it came", "four")
    await second.write(REMOVE, {"origin": "r1", "counter": 1, "index": 2})
    await second.put("gone", "no", time=LONG_AGO)
    await second.put("name", "Grace", base=12)
    assert await contents(connection) == ["one", None, "é", None, None, "four"]
    assert await metadata(connection) == {"name": "Grace"}
    await second.write(CLEAR, {"seen": {"r1": 3}})
    assert await contents(connection) == [None, None, "four"]


FOREIGN = [
    b"",
    b"\xff sealed \0",
    b"null",
    b"[]",
    b'"text"',
    b'{"format":2,"items":[["r1",1,0,1,1,"1"]],"metadata":[["\\"k\\"","1",1,"r1",1,"put",{}]]}',
    b'{"items":[["r1",1,0,1,1,"1"]]}',
    b'{"format":1}',
    b'{"format":1,"items":7,"metadata":{},"removed":"x","cleared":[]}',
    b'{"format":1,"items":[7,null,[],{},"x",["r1"],["r1",1,0,1],["r1",1,0,1,1,null]]}',
    b'{"format":1,"items":[["r1","x",0,1,1,"1"],["r1",1e30,0,1,1,"1"],["r1",1,-1,1,1,"1"],["r1",1,0,1.5,1,"1"]]}',
    b'{"format":1,"items":[["r1",1,99999999999999999999,1,1,"1"],[null,1,0,1,1,"1"],[{},1,0,1,1,""]]}',
    b'{"format":1,"metadata":[7,[],["x"],["\\"k\\""],["k","1",1,"r1",1,"put",{}],["\\"k\\"","{",1,"r1",1,"put"]]}',
    b'{"format":1,"removed":[7,[],["r2"],["r2","x",{}]],"cleared":{"r2":"x","r3":1e30,"r4":null}}',
    b'{"format":1,"items":[["r1",1,0,1,1,"1"]],"marks":"\\u0000"}',
]


@pytest.mark.parametrize("data", FOREIGN)
async def test_a_checkpoint_that_can_not_be_read_shows_nothing(
    store: PostgresStore, connection: Any, data: bytes
) -> None:
    await said(Author(store, "user-123", "r1"), "folded")
    author = Author(store, "user-123", "r2")
    await said(author, "kept")
    await author.put("key", 1)
    await put(store, data, 1)
    assert await contents(connection) == ["kept"]
    assert await metadata(connection) == {"key": 1}


async def test_views_of_one_session_read_only_that(store: PostgresStore, connection: Any) -> None:
    for number in range(50):
        await said(Author(store, f"session-{number}", "r1"), "one", "two")
    for view in ("items", "metadata"):
        rows = await connection.fetch(
            f"explain select * from localfirst.{view} where namespace = $1 and session_id = $2", NAMESPACE, "session-7"
        )
        plan = "\n".join(row[0] for row in rows)
        for line in plan.splitlines():
            if "Index Cond" in line:
                assert "session_id = $2" in line or "session_id = 'session-7'" in line, plan
        assert "Seq Scan on changes" not in plan, plan
        assert "Seq Scan on checkpoints" not in plan, plan
