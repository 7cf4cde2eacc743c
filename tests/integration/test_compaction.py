"""Logs are folded: what changes made needless is not kept, here or in the central store, and nobody can tell."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import pytest
import redis

import localfirst
from localfirst.records import GARBAGE, span
from localfirst.rows import Rows
from tests.integration.stores import Open, contents, settle
from tests.polling import eventually

ENOUGH = 100_000
"""Bytes: less than this is left of megabytes."""


def all_of(session: localfirst.Session) -> tuple[Any, ...]:
    """Everything that is seen of a session."""
    return session.export()["items"], session.metadata(), session.conflicts()


def is_folded(session: localfirst.Session) -> bool:
    """Whether the beginning of the session's log is not kept on this disk."""
    head = session._store._local.log.head(session._key)
    return head is not None and head.floor > 0


def churn(session: localfirst.Session, key: str = "churn") -> None:
    """Enough writes that each make the one before needless."""
    for number in range(1000):
        session.set(key, f"{number} ".ljust(100, "x"))


# What is kept.


class Held(NamedTuple):
    """What a central store keeps of a namespace."""

    bytes: int
    entries: int


def held_by(url: str, namespace: str) -> Held:
    if url.startswith("redis"):
        return _held_by_redis(url, namespace)
    return asyncio.run(_held_by_postgres(url)) if url.startswith("postgres") else _held_by_directory(url)


def _held_by_redis(url: str, namespace: str) -> Held:
    with redis.Redis.from_url(url) as client:
        keys: Any = client.keys(f"localfirst:{namespace}:*")
        logs = [key for key in keys if key.endswith(b":log")]
        return Held(sum(client.memory_usage(key) or 0 for key in keys), sum(client.llen(key) for key in logs))


async def _held_by_postgres(url: str) -> Held:
    connection = await asyncpg.connect(url)
    row = await connection.fetchrow(
        "SELECT (SELECT coalesce(sum(octet_length(body) + 100), 0) FROM localfirst.changes)"
        " + (SELECT coalesce(sum(octet_length(data)), 0) FROM localfirst.checkpoints) AS bytes,"
        " (SELECT count(*) FROM localfirst.changes) AS entries"
    )
    await connection.close()
    return Held(int(row["bytes"]), row["entries"])


def _held_by_directory(url: str) -> Held:
    rows = Rows(Path(urlsplit(url).path))
    entries, size, _ = rows.measure(b"l", b"m")
    size += rows.measure(b"h", b"l")[1]
    rows.close()
    return Held(size, entries)


def size_of(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())


def is_tidy(store: localfirst.Store) -> bool:
    """Whether nothing is left to be removed in the background."""
    rows = store._local.log.rows
    return not rows.keys(*span(GARBAGE))


def sets(session: localfirst.Session) -> None:
    for number in range(10_000):
        session.set("key", number)


def pops(session: localfirst.Session) -> None:
    for number in range(5_000):
        session.add_message("user", f"message {number}")
        session.pop_message()


def clears(session: localfirst.Session) -> None:
    for _ in range(20):
        for number in range(200):
            session.add_message("user", f"message {number}")
        session.clear()


@pytest.mark.parametrize("work", [sets, pops, clears])
def test_what_changes_made_needless_is_not_kept(
    remote_url: str, namespace: str, opened: Open, tmp_path: Path, work: Callable[[localfirst.Session], None]
) -> None:
    a = opened("a", remote_url)
    session = a.session("s")
    session.add_message("user", "stays")
    session.set("stays", True)
    work(session)
    if work is clears:
        session.add_message("user", "stays")
    a.flush(30)
    eventually(lambda: is_tidy(a))
    eventually(lambda: held_by(remote_url, namespace).bytes < ENOUGH)
    assert held_by(remote_url, namespace).entries < 1000
    seen = all_of(session)
    assert [item["content"] for item in seen[0]] == ["stays"]
    a.close()
    assert size_of(tmp_path / "a") < 1.5 * ENOUGH  # Pages that are free go back a few at a time.
    assert all_of(opened("a", remote_url).session("s")) == seen
    c = opened("c", remote_url)
    c.refresh(10)
    assert all_of(c.session("s")) == seen
    assert is_folded(c.session("s"))  # It never had the changes.
    assert c.verify(10, full=True).ok
    c.close()
    assert size_of(tmp_path / "c") < ENOUGH


def test_what_is_needed_is_kept(remote_url: str, opened: Open) -> None:
    a, c = opened("a", remote_url), opened("c", remote_url)
    session = a.session("s")
    for number in range(700):
        session.add_message("user", f"message {number}")
    churn(session)
    settle(a, c)
    assert is_folded(session)
    assert contents(session) == contents(c.session("s")) == [f"message {number}" for number in range(700)]


# Who was away.


def test_a_device_that_was_away_since_before_brings_its_own_and_nothing_comes_back(
    remote_url: str, opened: Open
) -> None:
    a, b = opened("a", remote_url), opened("b", remote_url)
    for content in ("popped here", "popped there", "cleared", "cleared too"):
        a.session("s").add_message("user", content)
    a.session("s").set("deleted", True)
    settle(a, b)
    b.close()
    with opened("b", None) as away:
        session = away.session("s")
        assert len(session) == 4
        session.add_message("user", "written while away")
        session.set("away", "b")
        session.increment("count")
        session.add_message("user", "a slip")
        session.pop_message()
    here = a.session("s")
    here.clear()
    here.delete("deleted")
    here.increment("count")
    here.add_message("user", "after the clear")
    churn(here)
    a.flush(20)
    assert is_folded(here)
    b = opened("b", remote_url)
    settle(b, a)
    churn(b.session("s"))  # And what came back is folded, too.
    c = opened("c", remote_url)
    settle(b, a, c)
    for store in (a, b, c):
        assert contents(store.session("s")) == ["after the clear", "written while away"]
        assert store.session("s").get("count") == 2
        assert store.session("s").get("away") == "b"
        assert store.session("s").get("deleted") is None
        assert store.verify(10, full=True).ok
    assert all_of(a.session("s")) == all_of(b.session("s")) == all_of(c.session("s"))


def test_a_device_that_was_away_pops_what_is_in_the_checkpoint(remote_url: str, opened: Open) -> None:
    a, b = opened("a", remote_url), opened("b", remote_url)
    for content in ("1", "2", "3"):
        a.session("s").add_message("user", content)
    settle(a, b)
    b.close()
    with opened("b", None) as away:
        assert away.session("s").pop_message() == {"role": "user", "content": "3"}
    churn(a.session("s"))
    a.flush(20)
    assert is_folded(a.session("s"))
    b, c = opened("b", remote_url), opened("c", remote_url)
    settle(b, a, c)
    for store in (a, b, c):
        assert contents(store.session("s")) == ["1", "2"]


def test_a_pop_of_what_is_in_the_checkpoint_works_everywhere(remote_url: str, opened: Open) -> None:
    a = opened("a", remote_url)
    for content in ("1", "2", "3", "4"):
        a.session("s").add_message("user", content)
    churn(a.session("s"))
    a.flush(20)
    b, c = opened("b", remote_url, worker="none"), opened("c", remote_url)
    settle(b, c)
    assert all(is_folded(store.session("s")) for store in (a, b, c))
    for store in (a, b):  # Both pop the same one, without knowledge of each other: b syncs only when it is told to.
        assert store.session("s").pop_message() == {"role": "user", "content": "4"}
    b.session("s").add_message("user", "5")
    settle(b, a, c)
    for store in (a, b, c):
        assert contents(store.session("s")) == ["1", "2", "3", "5"]
    assert c.session("s").pop_message() == {"role": "user", "content": "5"}
    assert c.session("s").pop_message() == {"role": "user", "content": "3"}
    settle(c, a, b)
    for store in (a, b, c):
        assert contents(store.session("s")) == ["1", "2"]


VALUES: list[dict[Any, tuple[Any, Any]]] = [
    {
        "last": ("a", "b"),
        "first": ("a", "b"),
        "merge": ({"x": 1, "y": 1}, {"y": 2, "z": 2}),
        "union": ([1, 2], [2, 3]),
        "max": (1, 2),
        "min": (1, 2),
    },
    {
        "last": ("c", "d"),
        "first": ("c", "d"),
        "merge": ({"x": 3, "y": 3}, {"y": 4, "w": 4}),
        "union": ([3, 4], [5, 1]),
        "max": (9, 0),
        "min": (9, 0),
    },
]


def write_apart(opened: Open, values: dict[Any, tuple[Any, Any]]) -> None:
    """Two devices write to two sessions without knowledge of each other."""
    for place, name in enumerate("ab"):
        with opened(name, None) as offline:
            for session in (offline.session("folded"), offline.session("control")):
                for rule, pair in values.items():
                    session.set(rule, pair[place], merge=rule)
                session.increment("count", by=place + 1)


def seen_in(session: localfirst.Session) -> tuple[Any, ...]:
    """What must be the same in a session that was folded and in one that was not."""
    _, metadata, conflicts = all_of(session)
    metadata.pop("churn", None)
    told = [(each.key, each.rule, each.current, each.incoming, each.winner, each.origins) for each in conflicts]
    return metadata, told


def test_conflicts_and_the_metadata_of_every_rule_survive_it(remote_url: str, opened: Open) -> None:
    with opened("a", remote_url) as a, opened("b", remote_url) as b:
        for name in ("folded", "control"):
            a.session(name).set("here", True)
        settle(a, b)
    for values in VALUES:
        write_apart(opened, values)
        for name in "ba":  # In one order for both sessions.
            with opened(name, remote_url) as store:
                settle(store)
        with opened("a", remote_url) as a:
            churn(a.session("folded"))
            settle(a)
    a, b, c = (opened(name, remote_url) for name in "abc")
    settle(a, b, c)
    assert is_folded(c.session("folded"))
    assert not is_folded(c.session("control"))
    expected = seen_in(a.session("control"))
    assert len(expected[1]) >= 8
    for store in (a, b, c):
        assert seen_in(store.session("folded")) == seen_in(store.session("control")) == expected
        assert store.session("folded").get("count") == 6


# While it happens.


class Writer(threading.Thread):
    """Writes to a session, pops, flushes and refreshes, for a while, and until that is enough to be folded."""

    def __init__(self, store: localfirst.Store, name: str, deadline: float) -> None:
        super().__init__(name=name)
        self.count = 0
        self.error: BaseException | None = None
        self._store = store
        self._deadline = deadline
        self.start()

    def run(self) -> None:
        try:
            while time.monotonic() < self._deadline or self.count < 400:
                self._write(self._store.session("s"))
                self._store.flush(10)
                self._store.refresh(10)
        except BaseException as error:
            self.error = error

    def _write(self, session: localfirst.Session) -> None:
        for _ in range(40):
            self.count += 1
            session.set(self.name, self.count)
        session.add_message("user", "popped")
        assert session.pop_message() is not None


def test_nobody_notices_while_it_happens(remote_url: str, opened: Open, namespace: str, tmp_path: Path) -> None:
    """Two devices write; a second store on the directory of one of them looks all the time."""
    a, b, beside = opened("a", remote_url), opened("b", remote_url), opened("a", None)
    a.session("s").add_message("user", "stays")
    settle(a, b)
    deadline = time.monotonic() + 1.5
    writers = [Writer(store, name, deadline) for name, store in (("a", a), ("b", b))]
    seen = [0]
    while time.monotonic() < deadline:
        seen.append(beside.session("s").metadata().get("a", 0))
        assert "stays" in contents(beside.session("s"))
    for writer in writers:
        writer.join(30)
        assert writer.error is None
    settle(a, b)
    assert is_folded(a.session("s"))
    assert seen == sorted(seen)
    assert seen[-1] > 0
    assert all_of(beside.session("s")) == all_of(a.session("s")) == all_of(b.session("s"))
    assert a.session("s").metadata() == {writer.name: writer.count for writer in writers}
    assert contents(a.session("s"))[0] == "stays"
    for store in (a, b):
        assert store.verify(10, full=True).ok


LOOK = """
import sys
import localfirst
path, namespace = sys.argv[1:]
with localfirst.open(path, namespace=namespace) as store:
    session = store.session("s")
    print(len(session), flush=True)
    for _ in sys.stdin:
        print(len(session), session.get("churn")[:4], session.pop_message()["content"], flush=True)
"""


def test_a_process_that_has_not_looked_since_before_sees_and_writes_as_before(
    opened: Open, namespace: str, tmp_path: Path
) -> None:
    a = opened("a", (tmp_path / "central").as_uri())
    for content in ("1", "2", "3"):
        a.session("s").add_message("user", content)
    a.flush(10)
    command = [sys.executable, "-c", LOOK, str(tmp_path / "a"), namespace]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "3\n"
        churn(a.session("s"))
        a.flush(20)
        assert is_folded(a.session("s"))
        eventually(lambda: is_tidy(a))
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.readline() == "3 999  3\n"
    assert process.returncode == 0
    a.flush(10)
    assert contents(a.session("s")) == ["1", "2"]
    assert contents(opened("c", (tmp_path / "central").as_uri()).session("s")) == ["1", "2"]
    assert a.verify(10, full=True).ok
