"""Stores and central stores in which rows are forged, with checksums that are right: nothing but our errors, and soon.

`tests/unit/test_fuzz.py` asks the decoders; here it is seen what becomes of that.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from diskcache.core import DBNAME

import localfirst
from localfirst.codec import Vault
from localfirst.errors import LocalFirstError
from localfirst.keys import KeyRing
from localfirst.schema import checksum
from localfirst.testing.memory import MemoryServer, MemoryStore
from sync.central.base import Checkpoint, LogEntry, Pulled, Want
from sync.central.bounded import Bounded
from tests.unit.mutants import altered, mangled, of_json, of_msgpack
from tests.unit.replica import Replica

SOAK = bool(os.environ.get("LOCALFIRST_SOAK"))
STORES = 1000 if SOAK else 12
LOGS = 10_000 if SOAK else 1000
SECONDS = 20.0
pytestmark = pytest.mark.timeout(7200 if SOAK else 120)
SEED = int.from_bytes(os.urandom(4), "big") if SOAK else 11


def use(path: Path, central: str, key: bytes | None) -> None:
    """All that a store does; each call by itself."""
    store = localfirst.open(path, remote=central, worker="none", encryption_key=key)
    try:
        session = store.session("s", hydrate_timeout=0.0)
        calls: list[Callable[[], object]] = [
            session.get_messages,
            session.metadata,
            session.branches,
            session.conflicts,
            session.export,
            lambda: session.expires_at,
            lambda: session.add_message("user", "more"),
            lambda: session.increment("n"),
            session.pop_message,
            lambda: list(store.sessions()),
            store.quarantined,
            store.status,
            lambda: store.flush(1.0),
            lambda: store.refresh(1.0),
            lambda: store.verify(1.0),
            lambda: store.retry("s"),
            lambda: store.discard("s"),
            lambda: store.delete("s"),
        ]
        for call in calls:
            with suppress(LocalFirstError):
                call()
    finally:
        store.close(timeout=0)


def fill(path: Path, central: str, key: bytes | None) -> None:
    with localfirst.open(path, remote=central, worker="none", item_ttl=10**6, encryption_key=key) as store:
        session = store.session("s")
        with session.turn():
            session.add_message("user", "Hello")
            session.set("k", {"a": 1}, merge="merge")
        session.branch("draft")
        session.switch("draft")
        session.increment("n")
        store.flush(20)
        session.add_message("user", "pending")


def other(chance: Random, value: bytes, others: Sequence[bytes]) -> bytes:
    """Of the same kind, where it can be told what that is."""
    for shape in (of_msgpack, of_json):
        with suppress(ValueError, TypeError, RecursionError):
            made = shape(chance, value)
            if chance.random() < 0.6:
                return made
    return mangled(chance, value, others)


def forge(chance: Random, database: Path, count: int) -> list[str]:
    """Other values, and here and there another key, for some rows."""
    forged = []
    with closing(sqlite3.connect(database)) as connection, connection:
        rows = connection.execute("SELECT rowid, key, value FROM Cache WHERE length(key) > 1").fetchall()
        for rowid, before, value in chance.sample(rows, min(count, len(rows))):
            key, forgery = before, other(chance, value, [each for _, _, each in rows])
            if chance.random() < 0.15:
                key = before[:1] + mangled(chance, before[1:], [before])[:40]
            with suppress(sqlite3.IntegrityError):
                row = key, forgery, checksum(key, forgery), rowid
                connection.execute("UPDATE Cache SET key = ?, value = ?, tag = ? WHERE rowid = ?", row)
                forged.append(f"{key!r}: {forgery!r:.500}")
    return forged


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "sealed"])
@pytest.mark.parametrize("where", ["local", "central"])
def test_forged_rows_in_a_store(tmp_path: Path, where: str, key: bytes | None) -> None:
    chance = Random(f"{SEED} {where} {key!r}")
    print(f"seed {SEED}")
    for name in ("a", "b"):
        fill(tmp_path / "made" / name, (tmp_path / "made" / "central").as_uri(), key)
    for number in range(STORES):
        place = tmp_path / str(number)
        shutil.copytree(tmp_path / "made", place)
        database = place / "a" / "data" / DBNAME if where == "local" else place / "central" / DBNAME
        forged = forge(chance, database, chance.choice((1, 1, 2, 5)))
        began = time.monotonic()
        try:
            for _ in range(2):
                with suppress(LocalFirstError):
                    use(place / "a", (place / "central").as_uri(), key)
        except BaseException:
            print("forged: ", *forged, sep="\n")
            raise
        assert time.monotonic() - began < SECONDS, forged
        shutil.rmtree(place)


class Forging(MemoryStore):
    """Says something else than it has."""

    def __init__(self, server: MemoryServer, chance: Random) -> None:
        super().__init__(server)
        self._chance = chance
        self.said: list[object] = []

    async def pull(self, wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        pages: Any = await super().pull(wants, max_bytes)
        made = [self._page(page) if self._chance.random() < 0.7 else page for page in pages]
        self.said += made
        return made

    async def checkpoint(self, session_id: str) -> Checkpoint | None:
        found = await super().checkpoint(session_id)
        if found is not None and self._chance.random() < 0.7:
            found = found._replace(data=self._other(found.data, of_json))
        self.said.append(found)
        return found

    def _page(self, page: Pulled) -> Any:
        entries = [self._entry(entry) if self._chance.random() < 0.4 else entry for entry in page.entries]
        page = page._replace(entries=entries)
        if self._chance.random() < 0.6:
            return page
        made = altered(self._chance, [list(page.head or ()), page.resync, entries, page.expires_at, page.ended])
        with suppress(TypeError, LookupError, ValueError):
            return Pulled(made[0] and type(page.head)(*made[0]), *made[1:])  # type: ignore[misc]
        return page

    def _entry(self, entry: LogEntry) -> LogEntry:
        return entry._replace(data=self._other(entry.data, of_msgpack))

    def _other(self, data: bytes, shape: Callable[[Random, bytes], bytes]) -> bytes:
        with suppress(ValueError):  # What is sealed has no shape.
            if self._chance.random() < 0.5:
                return shape(self._chance, data)
        return mangled(self._chance, data, [data])


@pytest.mark.parametrize("vault", [None, Vault("default", KeyRing(bytes(32)))], ids=["plain", "sealed"])
async def test_a_central_store_that_says_anything(tmp_path: Path, vault: Vault | None) -> None:
    """Each session is its own: those that it does not lie about go on."""
    chance = Random(f"{SEED} says")
    print(f"seed {SEED}")
    server = MemoryServer()
    author = Replica(tmp_path / "author", server, vault=vault)
    for name in ("log", "folded", "honest"):
        for number in range(6):
            author.add(name, {"text": f"item {number}"}, number)
        await author.sync(name)
    victim = Replica(tmp_path / "victim", server, vault=vault)
    forging = Forging(server, chance)
    object.__setattr__(victim.site, "central", Bounded(forging))
    for number in range(LOGS // 10):
        for name in ("log", "folded"):
            session = f"{name} {number}"
            author.add(session, {"text": "x"}, number)
            await author.sync(session)
            began = time.monotonic()
            try:
                with suppress(LocalFirstError):
                    await asyncio.wait_for(victim.sync(session), SECONDS)
                with suppress(LocalFirstError):
                    victim.items(session)
                with suppress(LocalFirstError):
                    victim.add(session, "mine")
                    await asyncio.wait_for(victim.sync(session), SECONDS)
            except BaseException:
                print("said: ", *forging.said, sep="\n")
                raise
            assert time.monotonic() - began < SECONDS
            forging.said.clear()
    object.__setattr__(victim.site, "central", MemoryStore(server))
    await victim.sync("honest")
    assert len(victim.items("honest")) == 12
