"""Whatever rows and replies hold: errors are ours, in bounded time and memory. `LOCALFIRST_SOAK=1`: for long."""

from __future__ import annotations

import json
import os
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from hashlib import blake2b
from pathlib import Path
from random import Random
from typing import Any

import hiredis
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from localfirst import jsonvalue, lifetime, outbox, records, volumes
from localfirst.aside import Quarantine
from localfirst.branches import encode_drop, encode_fork
from localfirst.change import APPEND, Admitted, Change, decode_change, encode_change
from localfirst.checkpoint import State, decode_state, encode_state, merge_states
from localfirst.codec import Vault
from localfirst.damage import read_note
from localfirst.errors import DecryptionError, LocalFirstError, MalformedChange, RemoteRejected, StoreCorrupt
from localfirst.fold import check
from localfirst.history import Item, encode_clear, encode_removal
from localfirst.identity import Identity
from localfirst.keys import KeyRing
from localfirst.lifetime import Lifetime, Wish
from localfirst.log import Log
from localfirst.metadata import encode_delete, encode_increment, encode_put
from localfirst.records import Aside, Foreign, Head, Here, OwnRange, Page, session_key
from localfirst.rows import Rows
from localfirst.salvage import is_whole, recovered
from localfirst.turns import Turns, nobodys_turn
from localfirst.view import View
from sync.central.base import Want
from sync.central.postgres import hints as postgres_hints
from sync.central.postgres.batch import data as of_columns
from sync.central.postgres.store import _page as postgres_page
from sync.central.redis import hints as redis_hints
from sync.central.redis import replies
from sync.status import published
from tests.simulation.rows import Disk, Life, MemoryRows
from tests.unit.mutants import altered, mangled, mutants, of_json, of_msgpack

SOAK = bool(os.environ.get("LOCALFIRST_SOAK"))
ROWS = 100_000 * (50 if SOAK else 1)
"""In all kinds together."""
SEED = int.from_bytes(os.urandom(4), "big") if SOAK else 7
SECONDS = 2.0
"""For one row, on a machine that does other things too; most take microseconds."""
MEGABYTES = 400
"""That the process may grow by, through all rows of a kind."""

KEY = session_key("n", "s")
CHANGE = Change("r1", 1, 1 << 16, 0, "main", APPEND, b'[{"role":"user","content":"Hello"}]')
BODIES: list[tuple[str, bytes]] = [
    (APPEND, b'[{"role":"user","content":"Hello"},[1,2.5,null,true],"text"]'),
    ("remove", encode_removal(Item("r1", 1, 0, 1, 1, b"1"))),
    ("clear", encode_clear({"r1": 1, "r2": 7})),
    ("put", encode_put("key", "merge", b'{"a":1,"b":[2]}', ["gone"], ask=True)),
    ("put", encode_put("key", "last", b'"value"')),
    ("put", encode_put("key", "union", b"[1,1.0,true,{}]")),
    ("put", encode_put("key", "max", b"5")),
    ("delete", encode_delete("key", ask=True)),
    ("increment", encode_increment("key", 2.5)),
    ("end", b"{}"),
    ("begin", b"{}"),
    ("fork", encode_fork("draft", {"r1": 1}, {"r1": (1, 0)})),
    ("drop", encode_drop("r1:7")),
    ("touch", lifetime.encode_touch(Wish(1000, 2000, True))),
]
CHANGES = [
    encode_change(msgspec.structs.replace(CHANGE, counter=place, kind=kind, body=body))
    for place, (kind, body) in enumerate(BODIES, 1)
]


def state() -> bytes:
    """A checkpoint with something of everything in it."""
    fold = State()
    log = [
        (APPEND, b'["a","b",{"c":[1]}]'),
        ("put", encode_put("k", "merge", b'{"a":1}')),
        ("put", encode_put("l", "last", b"1")),
        ("increment", encode_increment("n", 2)),
        ("fork", encode_fork("draft", {"r1": 4}, {})),
        (APPEND, b'["d"]'),
        ("remove", b'{"origin":"r2","counter":9,"index":0}'),
        ("touch", lifetime.encode_touch(Wish(1000, 10**9, True))),
        (APPEND, b'["e"]'),
    ]
    fold.admit(
        Admitted(seq, 5, Change("r1", seq, 1 << 20, 0, "r1:5" if seq == 6 else "main", kind, body))
        for seq, (kind, body) in enumerate(log, 1)
    )
    fold.admit([Admitted(10, 6, Change("r2", 1, 2 << 20, 0, "main", "put", encode_put("l", "last", b"2")))])
    return encode_state(fold)


STATE = state()
VAULT = Vault("n", KeyRing(bytes(range(32))))
CODEC = VAULT.codec("s")
SEALED_CHANGES = [CODEC.encode(decode_change(each)) for each in CHANGES]
SEALED_STATE = CODEC.encode_state(decode_state(STATE))
HEAD = Head("n", "s", "r1", offset=2, first=1, generation="g", seq=9, acked=4, lifetime=Lifetime(5, 6, True))
PAGE = Page([OwnRange(1, 5, 1, 2)], [Foreign(3, 5, CHANGES[0]), Foreign(4, 5, b"", bytes(8))])
LOCKED = msgspec.structs.replace(HEAD, seen={"r1": 3, "r2": 4}, locked="0" * 8)
SEALED_PAGE = Page(PAGE.own, [Foreign(3, 5, SEALED_CHANGES[0]), Foreign(4, 5, b"", bytes(8))])


class Bench:
    """A log in memory, in which one row is not what it was."""

    def __init__(self, changes: list[bytes], vault: Vault | None = None) -> None:
        self.rows: Rows = MemoryRows(Disk(), Life())
        self.log = Log(self.rows, vault)
        self.log.rows.put(b"h" + KEY, msgspec.msgpack.encode(HEAD))
        for slot in (1, 2):
            self.log.rows.put(b"c" + KEY + records.number(slot), changes[slot - 1])

    def look(self) -> None:
        """All that is read of a session."""
        view = View(self.log, _CLOCK, KEY, HEAD, lambda: True)
        calls: list[Callable[[], object]] = [
            view.refresh,
            lambda: self.log.heads("n"),
            lambda: outbox.waiting(self.log, "n"),
            lambda: outbox.backlog(self.log, "n"),
            lambda: is_whole(self.log, KEY, self.log.head(KEY) or HEAD),
            lambda: volumes.pages(self.log, KEY, records.NO_VOLUME),
            lambda: volumes.page_ends(self.log, KEY, HEAD),
            lambda: volumes.newest(self.log, KEY, HEAD),
        ]
        for call in calls:
            with suppress(LocalFirstError):
                call()


class _Clock:
    """Stands still."""

    def now(self) -> int:
        return 1 << 30

    def observe(self, time: int) -> None:
        """Nothing is learnt."""


_CLOCK: Any = _Clock()


def row(key: bytes, read: Callable[[Bench], object], *, sealed: bool = False) -> Callable[[bytes], object]:
    """Reads what is in a row of a store."""
    bench = Bench(SEALED_CHANGES, VAULT) if sealed else Bench(CHANGES)

    def look(data: bytes) -> None:
        bench.rows.put(key, data)
        read(bench)

    return look


def fold_change(data: bytes) -> None:
    check(decode_change(data))


def open_change(data: bytes) -> None:
    check(CODEC.decode(data))


def open_without_a_key(data: bytes) -> None:
    with suppress(DecryptionError):
        check(Vault("n").codec("s").decode(data))


def fold_state(data: bytes) -> None:
    found = decode_state(data)
    encode_state(found)
    with suppress(MalformedChange):
        found.admit([Admitted(found.fold.seq + 1, 9, msgspec.structs.replace(CHANGE, origin="r9"))])
    merge_states(decode_state(data), decode_state(STATE))
    merge_states(decode_state(STATE), decode_state(data))


def forged_page(bench: Bench) -> None:
    for page in volumes.pages(bench.log, KEY, records.NO_VOLUME):
        volumes.entries(bench.log, KEY, page)


def offset_row(namespace: str) -> bytes:
    return b"s:offset:" + blake2b(namespace.encode(), digest_size=16).digest()


ASIDE = Aside("n", "s", "push", "why", 5.0, "1", place=3, mark="0" * 16, ring="none", key_id="0" * 8)
REPORT = (
    b'{"aside":"data.broken-1","at":5.0,"reason":"why","lost_changes":1,"damaged_rows":2,"incomplete":0,"nameless":0}'
)
IN_VOLUME = KEY + records.NO_VOLUME
PACKED_HEAD, PACKED_PAGE = msgspec.msgpack.encode(HEAD), msgspec.msgpack.encode(PAGE)
PACKED_HERE = msgspec.msgpack.encode(Here("r1:5", 7))
HEAD_ROW, CHANGE_ROW = b"h" + KEY, b"c" + KEY + records.number(3)
PAGE_ROW, PART_ROW = b"p" + IN_VOLUME + records.number(1), b"k" + IN_VOLUME + records.number(0)
Shape = Callable[[Random, bytes], bytes] | None


def unpack(data: bytes) -> None:
    jsonvalue.check_depth(jsonvalue.decode(data))


def quarantined(bench: Bench) -> None:
    Quarantine(bench.rows).all("n")


def left_behind(bench: Bench) -> None:
    list(Turns(bench.log).left_behind(Path("/nowhere"), "n"))


LOCAL: dict[str, tuple[list[bytes], Shape, Callable[[bytes], object]]] = {
    "change": (CHANGES, of_msgpack, fold_change),
    "item": ([b'{"a":[1,2.5e3,"x\\u00e9",null,true,{"b":{}}]}'], of_json, unpack),
    "items": ([b'[{"a":[1]},"b",3]'], of_json, jsonvalue.split),
    "checkpoint": ([STATE], of_json, fold_state),
    "head row": ([PACKED_HEAD], of_msgpack, row(HEAD_ROW, lambda bench: bench.log.head(KEY))),
    "head row, used": ([PACKED_HEAD], of_msgpack, row(HEAD_ROW, Bench.look)),
    "change row": (CHANGES, of_msgpack, row(CHANGE_ROW, Bench.look)),
    "page row": ([PACKED_PAGE], of_msgpack, row(PAGE_ROW, forged_page)),
    "page row, used": ([PACKED_PAGE], of_msgpack, row(PAGE_ROW, Bench.look)),
    "part row": ([STATE], of_json, row(PART_ROW, Bench.look)),
    "sealed change": (SEALED_CHANGES, of_msgpack, open_change),
    "sealed change without a key": (SEALED_CHANGES, of_msgpack, open_without_a_key),
    "sealed checkpoint": ([SEALED_STATE], None, CODEC.take_state),
    "sealed head row": ([msgspec.msgpack.encode(LOCKED)], of_msgpack, row(HEAD_ROW, Bench.look, sealed=True)),
    "sealed change row": (SEALED_CHANGES, of_msgpack, row(CHANGE_ROW, Bench.look, sealed=True)),
    "sealed page row": ([msgspec.msgpack.encode(SEALED_PAGE)], of_msgpack, row(PAGE_ROW, Bench.look, sealed=True)),
    "sealed part row": ([SEALED_STATE], None, row(PART_ROW, Bench.look, sealed=True)),
    "garbage row": ([b"", b"making"], None, row(b"g" + IN_VOLUME, lambda bench: volumes.sweep(bench.log))),
    "quarantine row": ([msgspec.msgpack.encode(ASIDE)], of_msgpack, row(b"q" + KEY + b"push", quarantined)),
    "turn row": ([nobodys_turn()], of_msgpack, row(b"t" + KEY + bytes(8), left_behind)),
    "here row": ([PACKED_HERE], of_msgpack, row(b"b" + KEY, lambda bench: bench.log.here(KEY))),
    "replica row": (
        [b"0123456789abcdef0123"],
        None,
        row(b"s:replica", lambda bench: Identity(bench.rows).replica_id()),
    ),
    "clock row": ([b"5 6 7"], None, row(offset_row("n"), lambda bench: Identity(bench.rows).reckoning("n"))),
    "settled row": ([bytes(8)], None, row(b"s:settled", lambda bench: outbox.waiting(bench.log, "n"))),
    "report row": ([REPORT], of_json, row(b"s:recovered", lambda bench: recovered(bench.rows))),
}


REDIS: dict[str, tuple[Any, Callable[[Any], object]]] = {
    "identify": ([b"id", b"3", 5], replies.identity),
    "push": ([b"ok", b"g", 1, 1, 1, 5, 6, 7, 0, b""], replies.pushed),
    "several": ([[b"g", 1, 5, 6], None], lambda reply: replies.several(reply, 2)),
    "head": ([b"g", 1, 5, 6], replies.head),
    "checkpoint": ([b"g", 1, 5, 6, STATE], replies.checkpoint),
    "page": (
        [
            *[b"g", 2, 5, 6, 0, b"", 0],
            b"".join((10 + len(each)).to_bytes(4, "big") for each in CHANGES),
            b"".join(b"7:12345678" + each for each in CHANGES),
        ],
        lambda reply: replies.pulled(reply, 0),
    ),
    "count": (1, replies.count),
    "members": ([b"a", b"b"], replies.members),
}  # fmt: skip


def resp(value: Any) -> bytes:
    """A reply as Redis sends it."""
    if isinstance(value, (list, tuple)):
        return b"*%d\r\n%b" % (len(value), b"".join(map(resp, value)))
    if isinstance(value, bytes):
        return b"$%d\r\n%b\r\n" % (len(value), value)
    return b"$-1\r\n" if value is None else b":%d\r\n" % value


def through_hiredis(read: Callable[[Any], object]) -> Callable[[bytes], object]:
    def look(data: bytes) -> None:
        reader = hiredis.Reader()
        reader.feed(data[: 1 << 16])
        for _ in range(3):
            try:
                reply = reader.gets()
            except (hiredis.HiredisError, TypeError, MemoryError):  # Which close the connection.
                return
            if reply is not False:
                read(reply)

    return look


WANT = Want("s", "g", 1, 5)
COLUMNS = [CHANGE.origin, CHANGE.counter, CHANGE.time, CHANGE.base, CHANGE.branch, CHANGE.kind, CHANGE.body, 0]
PAGE_ROWS = [[1, "g", 3, 5, True, 3, 0, None, seq, 7, *COLUMNS] for seq in (2, 3)]


def seeded(name: str) -> Random:
    print(f"seed {SEED}")
    return Random(f"{SEED} {name}")


def bounded(make: Callable[[], Any], read: Callable[[Any], object], count: int) -> None:
    """Nothing but our errors, soon."""
    before, refused = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, 0
    for _ in range(count):
        made = make()
        began = time.perf_counter()
        try:
            read(made)
        except (MalformedChange, StoreCorrupt, RemoteRejected, DecryptionError):
            refused += 1
        except BaseException:
            print(f"it was: {made!r:.2000}")
            raise
        assert time.perf_counter() - began < SECONDS, f"{made!r:.2000}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    assert grown < MEGABYTES, f"{grown} MB"


EACH = ROWS // (len(LOCAL) + 2 * len(REDIS) + 4)


@pytest.mark.parametrize("kind", LOCAL)
def test_rows_on_this_disk(kind: str) -> None:
    seeds, shape, read = LOCAL[kind]
    bounded(mutants(seeded(kind), seeds, shape), read, EACH)


@pytest.mark.parametrize("kind", REDIS)
def test_replies_of_redis(kind: str) -> None:
    seed, read = REDIS[kind]
    chance = seeded(kind)
    bounded(lambda: altered(chance, seed), read, EACH)
    bounded(mutants(chance, [resp(seed)], None), through_hiredis(read), EACH)


def test_rows_of_postgres() -> None:
    """Of a hand in the tables, as far as their types let it."""
    chance = seeded("postgres")
    assert len(postgres_page(WANT, PAGE_ROWS).entries) == 2

    def mutated() -> list[list[Any]]:
        found = [list(each) for each in PAGE_ROWS]
        for _ in range(chance.choice((1, 1, 2))):
            each = chance.choice(found)
            place = chance.randrange(1, len(each))
            kinds: dict[type, list[Any]] = {
                int: [None, 0, -1, 1, 2**63 - 1],
                str: [None, "", "x\0"],
                bytes: [b"", mangled(chance, CHANGE.body, CHANGES)],
            }
            each[place] = chance.choice(kinds.get(type(each[place]), [None]))
        return found[: chance.choice((1, 2, 2))]

    def read(rows: list[list[Any]]) -> None:
        for entry in postgres_page(WANT, rows).entries:
            fold_change(entry.data)

    bounded(mutated, read, EACH)
    bounded(
        lambda: [*COLUMNS[:6], mangled(chance, CHANGE.body, CHANGES), 0],
        lambda columns: fold_change(of_columns(columns)),
        EACH,
    )


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_hints(kind: str) -> None:
    hint = b'["s","g",5]'
    if kind == "redis":
        make = mutants(seeded(kind), [hint], of_json)
        bounded(make, lambda data: redis_hints._hint([b"message", b"c", data]), EACH)
    else:
        make = mutants(seeded(kind), [b"[%b,%b]" % (hint, hint)], of_json)
        bounded(make, lambda data: postgres_hints.parse_payload(data.decode(errors="surrogateescape")), EACH)


# What is built to blow up.

DEEP = 200_000
BOMBS: dict[str, bytes] = {
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep dicts": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "just too deep": b"[" * 513 + b"]" * 513,
    "too deep for msgspec alone": b"[" * 900 + b"NaN" + b"]" * 900,
    "a long integer": b"9" * 10**6,
    "a long integer, in the long way": b"[NaN," + b"9" * 10**6 + b"]",
    "a long fraction": b"0." + b"3" * 10**6,
    "a huge exponent": b"1e" + b"9" * 1000,
    "a tiny exponent": b"1e-" + b"9" * 1000,
    "an endless text": b'"' + b"a" * 10**6,
    "many escapes": b'"' + b"\\ud83d" * 10**5 + b'"',
    "many keys": b"{" + b",".join(b'"%d":1' % n for n in range(50_000)) + b"}",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_json_that_is_built_to_blow_up(bomb: str) -> None:
    data = BOMBS[bomb]
    escaped = json.dumps(data.decode()).encode()

    bodies = [
        data,
        *(each % data for each in (b"[%b]", b'{"key":"k","rule":"last","value":%b}', b'{"key":"k","by":%b}')),
    ]
    for body in (*bodies, b'{"seen":%b}' % data, b'{"name":%b}' % data):
        for kind, _ in BODIES:
            bounded(partial(msgspec.structs.replace, CHANGE, kind=kind, body=body), check, 1)
    for checkpoint in (data, STATE.replace(b'"\\"a\\""', escaped), STATE.replace(b'"2"', escaped)):
        bounded(partial(bytes, checkpoint), decode_state, 1)
    for read in (unpack, jsonvalue.split):
        bounded(partial(bytes, data), read, 1)


def test_numbers_that_grow_have_an_end() -> None:
    """Each is fine, their sum is not: on every replica alike."""
    for by in (b"9" * 4300, b"1.7e308", b"-" + b"9" * 4300):
        found = State()
        for seq in range(1, 20):
            body = b'{"key":"k","by":%b}' % by
            found.admit([Admitted(seq, 1, Change("r1", seq, seq << 16, 0, "main", "increment", body))])
        decode_state(encode_state(found))


def test_a_checkpoint_of_branches_that_blow_up() -> None:
    """A megabyte that would be billions of items."""
    items = [["r1", 1, place, 1, 1, "1"] for place in range(20_000)]
    branch = {
        "time": 1, "parent": "main", "seen": {}, "upto": {}, "barred": {}, "forked": True, "deleted": False,
        "items": [[0, 20_000]], "removed": [], "cleared": {},
    }  # fmt: skip
    branches = [{"id": f"r1:{n}", "name": f"b{n}", **branch} for n in range(1, 4000)]
    data = {"format": 1, "seq": 1, "time": 1, "seen": {"r1": 1}, "items": items, "metadata": [], "branches": branches}
    bounded(lambda: json.dumps(data).encode(), decode_state, 1)
    with pytest.raises(MalformedChange, match="more than 40,000,000 items"):
        decode_state(json.dumps(data).encode())
    data["branches"] = branches[:100]
    assert len(decode_state(json.dumps(data).encode()).fold.branches.shown()) == 101


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff" + b"\xc0" * 100,
        b"\x99\xdb\xff\xff\xff\xffr1",
        b"\x92\xdd\x7f\xff\xff\xff\x94\x01\x01\x01\x01\x90",
        b"\x92\x90\xdd\x7f\xff\xff\xff",
        b"\x92\x90\x91\x93\x01\x01\xc6\xff\xff\xff\xff",
        b"\x91" * 10**6,
        encode_change(CHANGE)[:-1] + b"\x00" + b"\x81\xa1a" * 10**5,
    ],
    ids=["array", "text", "own", "foreign", "bytes", "deep", "beyond"],
)
def test_msgpack_that_announces_more_than_it_has(data: bytes) -> None:
    for read in (
        fold_change,
        *(LOCAL[kind][2] for kind in ("head row, used", "page row, used", "quarantine row", "turn row")),
    ):
        bounded(lambda: data, read, 1)


# Whatever.

_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@settings(deadline=None, max_examples=300)
@given(_VALUES)
def test_any_value_where_a_reply_belongs(value: Any) -> None:
    for _, read in REDIS.values():
        bounded(lambda: value, read, 1)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=200) | _VALUES.map(lambda value: json.dumps(value, default=repr).encode()))
def test_any_bytes_where_a_row_belongs(data: bytes) -> None:
    for _, _, read in LOCAL.values():
        bounded(lambda: data, read, 1)


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=100) | _VALUES.map(lambda value: json.dumps(value, default=repr).encode()))
def test_any_bytes_where_a_file_belongs(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    place = tmp_path_factory.getbasetemp()
    (place / "sync-0.json").write_bytes(data)
    (place / "data.damaged").write_bytes(data)
    assert read_note(place / "data") is not None
    published(place, "n")


def test_the_rows_were_valid_before() -> None:
    """Else nothing of the above tests much."""
    for seeds, _, read in LOCAL.values():
        for seed in seeds:
            read(seed)
    for seed, read in REDIS.values():
        read(seed)
        through_hiredis(read)(resp(seed))


@pytest.mark.parametrize("length", range(7))
def test_notes_of_what_was_cut_off_can_be_read(length: int) -> None:
    """Also where less than the whole id of its key is left."""
    change = msgspec.structs.replace(CHANGE, body=(b"\x01" + bytes(range(160, 166)))[: 1 + length])
    with pytest.raises(DecryptionError) as caught:
        CODEC.opened(change)
    found = caught.value.key_id
    bench = Bench(CHANGES)
    bench.log.lock(KEY, found)
    Quarantine(bench.rows).put(KEY, msgspec.structs.replace(ASIDE, key_id=found))
    assert (bench.log.head(KEY) or HEAD).locked == found
    assert [aside.key_id for aside in Quarantine(bench.rows).all("n").values()] == [found]
