"""Sessions that can't be synced until somebody acts: they stop in one direction, and nothing else does."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import asyncpg
import pytest

import localfirst
from localfirst import RemoteRejected, SessionEvent, SyncTimeout
from sync.central import connect
from sync.central.base import Want
from tests.integration.stores import Open, contents, push_foreign
from tests.polling import eventually

POISON = b"\xc1 of a later version"


def log_of(url: str, namespace: str, session_id: str) -> list[bytes]:
    """What is in a session's central log."""

    async def pull() -> list[bytes]:
        central = connect(url, namespace)
        await central.identify()
        (pulled,) = await central.pull([Want(session_id, None, 0, 0)], 1 << 30)
        await central.close()
        return [entry.data for entry in pulled.entries]

    return asyncio.run(pull())


@pytest.fixture
def poisoned(remote_url: str, namespace: str, opened: Open) -> localfirst.Store:
    """A store with a session `bad`, which holds "1" and then in the central store what nobody can read, and `good`."""
    store = opened("a", remote_url)
    for session_id in ("bad", "good"):
        store.session(session_id).add_message("user", "1")
    store.flush(10)
    push_foreign(remote_url, namespace, "bad", [POISON])
    eventually(store.quarantined)
    return store


# What is in the central store can't be read here.


def test_a_change_that_can_not_be_read_stops_its_session_in_that_direction(
    remote_url: str, namespace: str, opened: Open
) -> None:
    a = opened("a", remote_url)
    bad, told = a.session("bad"), list[str]()
    bad.on(SessionEvent.QUARANTINED, told.append)
    bad.add_message("user", "1")
    a.session("good").add_message("user", "1")
    a.flush(10)
    before = datetime.now(timezone.utc)
    push_foreign(remote_url, namespace, "bad", [POISON])
    eventually(lambda: told)
    (found,) = a.quarantined()
    assert (found.session_id, found.direction, found.reason) == ("bad", "pull", told[0])
    assert found.reason.startswith("session 'bad': change 2")
    assert found.reason.count("session") == 1
    assert "change 2" in found.reason
    assert before <= found.since <= datetime.now(timezone.utc)
    assert a.status().quarantined == 1
    assert a.status().state == "online"
    assert {info.session_id: info.state for info in a.sessions()} == {"bad": "quarantined", "good": "synced"}
    assert contents(bad) == ["1"]


def test_other_sessions_go_on_and_so_does_its_other_direction(
    remote_url: str, namespace: str, opened: Open, poisoned: localfirst.Store
) -> None:
    a, b = poisoned, opened("b", remote_url)
    a.session("good").add_message("user", "2")
    b.session("good").add_message("user", "3")
    a.session("bad").add_message("user", "pushed")
    a.flush(10)
    b.flush(10)
    eventually(lambda: sorted(contents(a.session("good"))) == ["1", "2", "3"])
    eventually(lambda: sorted(contents(b.session("good"))) == ["1", "2", "3"])
    eventually(lambda: a.session("bad").pending == 0)
    assert b"pushed" in log_of(remote_url, namespace, "bad")[2]
    assert contents(a.session("bad")) == ["1", "pushed"]
    assert {found.direction for found in a.quarantined()} == {"pull"}


def test_calls_that_wait_tell_what_can_not_be_had(poisoned: localfirst.Store) -> None:
    for refresh in (poisoned.refresh, poisoned.session("bad").refresh):
        with pytest.raises(RemoteRejected, match="change 2"):
            refresh(10)
    poisoned.session("good").refresh(10)
    poisoned.session("bad").add_message("user", "2")
    for flush in (poisoned.session("bad").flush, poisoned.session("good").flush, poisoned.flush):
        flush(10)
    assert poisoned.status().state == "online"


def test_without_a_repair_it_comes_back(poisoned: localfirst.Store) -> None:
    told: list[str] = []
    poisoned.session("bad").on(SessionEvent.QUARANTINED, told.append)
    assert poisoned.retry("bad")
    eventually(lambda: told)
    assert len(poisoned.quarantined()) == 1
    assert not poisoned.retry("good")
    assert not poisoned.discard("good")


def test_what_is_given_up_is_passed_over_and_what_comes_after_it_arrives(
    remote_url: str, namespace: str, opened: Open, poisoned: localfirst.Store
) -> None:
    a, b = poisoned, opened("b", remote_url)
    a.session("bad").add_message("user", "2")
    a.flush(10)
    for number in range(3, 6):
        b.session("bad").add_message("user", f"{number}")
    push_foreign(remote_url, namespace, "bad", [b"\xc1 another"])
    b.flush(10)
    b.session("bad").set("key", "value")
    b.flush(10)
    eventually(b.quarantined)
    for store in (a, b):
        assert store.discard("bad")
        eventually(store.quarantined)  # Only what was told is given up: the other one is told of, too.
        assert store.discard("bad")
        store.refresh(10)
        assert store.quarantined() == []
        assert store.session("bad").get("key") == "value"
    assert contents(a.session("bad")) == contents(b.session("bad"))
    assert sorted(contents(a.session("bad"))) == ["1", "2", "3", "4", "5"]
    for store in (a, b):
        assert store.verify(10, full=True).problems == []


def test_it_survives_a_restart_and_other_processes_see_it(
    remote_url: str, namespace: str, opened: Open, tmp_path: Path, poisoned: localfirst.Store
) -> None:
    (before,) = poisoned.quarantined()
    (seen,) = json.loads(in_another_process(tmp_path / "a", namespace, "quarantine", "--json", code=5))
    assert (seen["session_id"], seen["reason"]) == ("bad", before.reason)
    poisoned.close()
    again = opened("a", remote_url)
    again.session("good").add_message("user", "2")
    again.flush(10)
    assert again.quarantined() == [before]
    in_another_process(tmp_path / "a", namespace, "quarantine", "discard", "bad", "--yes", code=0)
    again.refresh(10)
    assert again.quarantined() == []


def in_another_process(path: Path, namespace: str, *command: str, code: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "localfirst", *command, "--store", path, "--namespace", namespace],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return done.stdout


def test_what_another_process_lets_go_on_goes_on_by_itself(
    remote_url: str, namespace: str, opened: Open, tmp_path: Path, poisoned: localfirst.Store
) -> None:
    """Nobody calls the store that leads: it notices what is said in another one of its directory."""
    b = opened("b", remote_url)
    b.session("bad").add_message("user", "2")
    b.flush(10)
    push_foreign(remote_url, namespace, "good", [b"\xc1"])
    eventually(lambda: len(poisoned.quarantined()) == 2)
    with localfirst.open(tmp_path / "a", namespace=namespace) as other:
        assert other.discard("bad")
        assert [found.session_id for found in other.quarantined()] == ["good"]
    eventually(lambda: contents(poisoned.session("bad")) == ["1", "2"])


# What is written here is refused there.


class Guard:
    """A Postgres that takes no change with a certain word in it."""

    def __init__(self, url: str) -> None:
        self._url = url

    def raise_(self) -> None:
        self._execute("ALTER TABLE localfirst.changes ADD CONSTRAINT words CHECK (position('forbidden' in body) = 0)")

    def lower(self) -> None:
        self._execute("ALTER TABLE localfirst.changes DROP CONSTRAINT words")

    def _execute(self, statement: str) -> None:
        async def execute() -> None:
            connection = await asyncpg.connect(self._url)
            await connection.execute(statement)
            await connection.close()

        asyncio.run(execute())


@pytest.fixture
def guard(postgres_url: str, namespace: str) -> Guard:
    async def create() -> None:
        central = connect(postgres_url, namespace)
        await central.identify()
        await central.close()

    asyncio.run(create())
    guard = Guard(postgres_url)
    guard.raise_()
    return guard


def test_only_the_refused_change_and_what_comes_after_it_waits(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    told: list[tuple[str, str]] = []
    a.on(SessionEvent.QUARANTINED, lambda *arguments: told.append(arguments))
    session = a.session("bad")
    for number in range(150):
        session.add_message("user", number)
    session.add_message("user", "forbidden")
    for number in range(150, 180):
        session.add_message("user", number)
    with pytest.raises(RemoteRejected, match="words"):
        a.flush(10)
    (found,) = a.quarantined()
    assert (found.session_id, found.direction) == ("bad", "push")
    assert ("bad", found.reason) in told
    assert session.pending == 31
    b.refresh(10)
    assert contents(b.session("bad")) == list(range(150))
    assert [info.state for info in a.sessions()] == ["quarantined"]


def test_pull_goes_on_while_push_is_refused(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    a.session("bad").add_message("user", "1")
    a.session("bad").add_message("user", "forbidden")
    eventually(a.quarantined)
    b.session("bad").add_message("user", "2")
    b.flush(10)
    eventually(lambda: contents(a.session("bad")) == ["1", "2", "forbidden"])
    a.refresh(10)
    a.session("bad").refresh(10)
    assert {found.direction for found in a.quarantined()} == {"push"}
    assert a.session("bad").pending == 1


def test_giving_up_drops_exactly_the_refused_change(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    session = a.session("bad")
    for content in ("1", "a forbidden word", "2"):
        session.add_message("user", content)
    session.pop_message()
    session.set("key", "value")
    eventually(a.quarantined)
    session.add_message("user", "3")
    assert a.discard("bad")
    assert contents(session) == ["1", "3"]
    a.flush(10)
    b.refresh(10)
    assert contents(b.session("bad")) == ["1", "3"]
    assert b.session("bad").metadata() == {"key": "value"}
    assert (a.quarantined(), session.pending) == ([], 0)
    assert a.verify(10, full=True).ok
    session.add_message("user", "4")
    a.flush(10)
    b.refresh(10)
    assert contents(b.session("bad")) == ["1", "3", "4"]


def test_a_pop_of_what_was_given_up_removes_nothing_else(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    session = a.session("bad")
    session.add_message("user", "1")
    session.add_message("user", "forbidden")
    session.pop_message()
    session.add_message("user", "2")
    eventually(a.quarantined)
    assert a.discard("bad")
    a.flush(10)
    b.refresh(10)
    assert contents(session) == contents(b.session("bad")) == ["1", "2"]


def test_after_the_repair_a_retry_sends_everything(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    for content in ("1", "forbidden", "2"):
        a.session("bad").add_message("user", content)
    eventually(a.quarantined)
    assert a.retry("bad")
    with pytest.raises(RemoteRejected):
        a.flush(10)
    guard.lower()
    with pytest.raises(RemoteRejected):
        a.flush(10)  # Nobody said that it was repaired.
    assert a.retry("bad")
    a.flush(10)
    b.refresh(10)
    assert contents(b.session("bad")) == ["1", "forbidden", "2"]
    assert a.quarantined() == []


def test_of_many_sessions_in_a_batch_only_the_refused_ones_stop(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url, worker="none"), opened("b", postgres_url, worker="none")
    bad = {f"s{number:03}" for number in (0, 57, 149)}
    names = [f"s{number:03}" for number in range(150)]
    for name in names:
        a.session(name).add_message("user", "forbidden" if name in bad else "fine")
    with pytest.raises(RemoteRejected):
        a.flush(20)
    assert {found.session_id for found in a.quarantined()} == bad
    assert a.status().pending_changes == 3
    b.refresh(20)
    assert {info.session_id for info in b.sessions()} == set(names) - bad
    a.flush(10, session_id="s001")
    with pytest.raises(RemoteRejected):
        a.flush(10, session_id="s057")


def test_a_turn_is_refused_and_given_up_as_a_whole(guard: Guard, postgres_url: str, opened: Open) -> None:
    a, b = opened("a", postgres_url), opened("b", postgres_url)
    session = a.session("bad")
    session.add_message("user", "1")
    with session.turn():
        session.add_message("assistant", "in the turn")
        session.add_message("assistant", "forbidden")
        session.set("looked", True)
    session.add_message("user", "2")
    eventually(a.quarantined)
    b.refresh(10)
    assert contents(b.session("bad")) == ["1"]
    assert a.discard("bad")
    a.flush(10)
    b.refresh(10)
    assert contents(session) == contents(b.session("bad")) == ["1", "2"]
    assert session.metadata() == b.session("bad").metadata() == {}


def test_what_was_given_up_does_not_come_back_after_a_restart(guard: Guard, postgres_url: str, opened: Open) -> None:
    a = opened("a", postgres_url)
    for content in ("1", "forbidden", "2"):
        a.session("bad").add_message("user", content)
    eventually(a.quarantined)
    assert a.discard("bad")
    a.close()
    guard.lower()
    again = opened("a", postgres_url)
    again.flush(10)
    assert contents(again.session("bad")) == ["1", "2"]
    assert contents(opened("b", postgres_url).session("bad")) == ["1", "2"]


async def test_coroutines_tell_it_too(guard: Guard, postgres_url: str, tmp_path: Path, namespace: str) -> None:
    async with localfirst.open(tmp_path, remote=postgres_url, namespace=namespace, worker="task") as store:
        await store.session("bad").add_items([{"role": "user", "content": "forbidden"}])
        with pytest.raises(RemoteRejected, match="words"):
            await store.aflush(10)
        assert store.discard("bad")
        await store.aflush(10)
        assert await store.session("bad").get_items() == []


def test_closing_does_not_wait_for_what_is_in_quarantine(guard: Guard, postgres_url: str, opened: Open) -> None:
    a = opened("a", postgres_url)
    a.session("bad").add_message("user", "forbidden")
    eventually(a.quarantined)
    a.close(timeout=30)  # The test's own timeout would tell.


def test_nothing_is_quarantined_for_a_server_that_is_away(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, remote="redis://127.0.0.1:1/0") as store:
        store.session("s").add_message("user", "1")
        with pytest.raises(SyncTimeout):
            store.flush(0.2)
        assert store.quarantined() == []
        assert not store.retry("s")
