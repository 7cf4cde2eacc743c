"""SQLite files of the OpenAI Agents SDK and of openstackai come along, whole, once, and as they are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession
from agents.extensions.memory import AdvancedSQLiteSession, AsyncSQLiteSession, EncryptedSession, SQLAlchemySession

import localfirst
from localfirst.errors import ConfigurationError, SourceUnreadable
from localfirst.integrations import openai_agents
from tests.polling import eventually


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    """An empty one, without a central store."""
    with localfirst.open(tmp_path / "store") as opened:
        yield opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where the SDK writes."""
    return tmp_path / "conversations.db"


def messages(count: int, first: int = 0) -> list[Any]:
    """A conversation, alternately of both sides."""
    return [
        {"role": "assistant" if number % 2 else "user", "content": f"Message {number} ünïcode"}
        for number in range(first, first + count)
    ]


async def written(file: Path, session_id: str, items: list[Any]) -> None:
    """Written by the SDK."""
    session = SQLiteSession(session_id, file)
    await session.add_items(items)
    session.close()


def execute(file: Path, statement: str, *values: Any) -> None:
    """Behind the SDK's back."""
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(statement, values)
        connection.commit()


async def items_of(store: localfirst.Store, session_id: str, branch: str | None = None) -> list[Any]:
    """What is here."""
    return await store.session(session_id, branch=branch).get_items()


def test_the_source_stays_as_it_is(file: Path, store: localfirst.Store) -> None:
    asyncio.run(written(file, "user-123", messages(1203)))
    before = file.read_bytes()
    localfirst.migrate(file, store)
    assert file.read_bytes() == before


async def test_all_sessions_come_along_and_once(file: Path, store: localfirst.Store) -> None:
    long, short = messages(1203), [{"type": "function_call", "call_id": "1", "arguments": "{}"}, {"n": 2**70}]
    await written(file, "long", long)
    await written(file, "short", short)

    told = list[tuple[str, int, int]]()
    report = localfirst.migrate(file, store, progress=lambda *now: told.append(now))

    assert (report.ok, report.verified, report.found, report.imported, report.skipped) == (True, True, 1205, 1205, 0)
    assert [session.session_id for session in report.sessions] == ["long", "short"]
    assert told == [("long", n, 1203) for n in (0, 500, 1000, 1203)] + [("short", 0, 2), ("short", 2, 2)]
    assert await items_of(store, "long") == long
    assert await items_of(store, "short") == short
    assert str(store.session("long").get("created_at")).endswith("+00:00")

    again = localfirst.migrate(file, store)
    assert (again.ok, again.imported, again.skipped, again.verified) == (True, 0, 1205, True)
    assert await items_of(store, "long") == long


async def test_only_what_is_new_comes_when_the_source_has_grown(file: Path, store: localfirst.Store) -> None:
    await written(file, "user-123", messages(3))
    localfirst.migrate(file, store)
    store.session("user-123").add_message("user", "Written here")
    await written(file, "user-123", messages(2, first=3))

    report = localfirst.migrate(file, store)

    assert (report.imported, report.skipped, report.verified) == (2, 3, True)
    here = {"role": "user", "content": "Written here"}
    assert await items_of(store, "user-123") == [*messages(3), here, *messages(2, first=3)]


async def test_while_its_owner_writes(file: Path, store: localfirst.Store) -> None:
    owner = SQLiteSession("user-123", file)
    await owner.add_items(messages(2000))
    await owner.add_items(messages(1, first=2000))  # In the write-ahead log.
    count = 2001

    async def write_on() -> None:
        nonlocal count
        while not imported.done():
            await owner.add_items(messages(1, first=count))
            count += 1

    imported = asyncio.create_task(localfirst.amigrate(file, store))
    await write_on()
    assert (await imported).ok
    localfirst.migrate(file, store)
    assert await items_of(store, "user-123") == messages(count)
    owner.close()


async def test_a_dry_run_writes_nothing(file: Path, store: localfirst.Store) -> None:
    await written(file, "user-123", messages(3))
    report = localfirst.migrate(file, store, dry_run=True)
    assert (report.ok, report.dry_run, report.found, report.imported, report.verified) == (True, True, 3, 3, None)
    assert list(store.sessions()) == []


async def test_sessions_by_id_and_by_glob(file: Path, store: localfirst.Store) -> None:
    for session_id in ("user-1", "user-2", "other"):
        await written(file, session_id, messages(1))
    assert [each.session_id for each in localfirst.migrate(file, store, sessions="user-*").sessions] == [
        "user-1",
        "user-2",
    ]
    report = localfirst.migrate(file, store, sessions=["other", "missing"])
    assert [(each.session_id, each.imported, bool(each.problem)) for each in report.sessions] == [
        ("other", 1, False),
        ("missing", 0, True),
    ]


async def test_damaged_rows_are_left_out_and_told(file: Path, store: localfirst.Store) -> None:
    await written(file, "user-123", messages(5))
    execute(file, "UPDATE agent_messages SET message_data = '{\"role\": ' WHERE id = 2")
    execute(file, "UPDATE agent_messages SET message_data = ? WHERE id = 4", b"\xff\xfe")

    report = localfirst.migrate(file, store)

    assert (report.ok, report.found, report.imported, report.damaged, report.verified) == (True, 5, 3, 2, True)
    assert [note.partition(" holds")[0] for note in report.sessions[0].notes] == ["row 2", "row 4"]
    assert await items_of(store, "user-123") == [messages(5)[place] for place in (0, 2, 4)]
    assert localfirst.migrate(file, store).imported == 0


async def test_a_session_with_other_items_is_left_alone(file: Path, store: localfirst.Store) -> None:
    await written(file, "user-123", messages(2))
    store.session("user-123").add_message("user", "Written here")
    report = localfirst.migrate(file, store)
    assert not report.ok
    assert "other items" in str(report.problems[0].problem)
    assert len(store.session("user-123")) == 1

    assert localfirst.migrate(file, store, append=True).imported == 2
    assert len(store.session("user-123")) == 3
    assert localfirst.migrate(file, store).ok


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("UPDATE agent_messages SET message_data = '\"else\"' WHERE id = 2", "changed"),
        ("DELETE FROM agent_messages WHERE id > 1", "shortened"),
    ],
)
async def test_a_source_that_was_changed_is_left_alone(
    file: Path, store: localfirst.Store, statement: str, why: str
) -> None:
    await written(file, "changed", messages(3))
    await written(file, "whole", messages(3))
    localfirst.migrate(file, store)
    execute(file, statement.replace("WHERE", "WHERE session_id = 'changed' AND"))
    await written(file, "whole", messages(1, first=3))

    report = localfirst.migrate(file, store)

    assert [each.session_id for each in report.problems] == ["changed"]
    assert why in str(report.problems[0].problem)
    assert await items_of(store, "changed") == messages(3)
    assert await items_of(store, "whole") == messages(4)


async def test_what_is_altered_meanwhile_is_not_verified(file: Path, store: localfirst.Store) -> None:
    await written(file, "user-123", messages(600))

    def alter(session_id: str, done: int, rows: int) -> None:
        if done == rows:
            store.session(session_id).pop_message()

    report = localfirst.migrate(file, store, progress=alter)
    assert (report.ok, report.verified, report.imported) == (False, False, 600)
    assert "not read back" in str(report.problems[0].problem)


def test_a_process_that_is_killed_goes_on_where_it_was(file: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        asyncio.run(written(file, name, messages(3000)))
    program = (
        "import localfirst, sys, os\n"
        "def told(session_id, done, rows):\n"
        "    open(sys.argv[3], 'w').write(f'{session_id} {done}')\n"
        "    if session_id == 'two' and done >= 1500: os.kill(os.getpid(), 9)\n"
        "with localfirst.open(sys.argv[2]) as store:\n"
        "    localfirst.migrate(sys.argv[1], store, progress=told)\n"
    )
    arguments = [sys.executable, "-c", program, str(file), str(tmp_path / "store"), str(tmp_path / "told")]
    killed = subprocess.run(arguments, check=False, timeout=60, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr

    with localfirst.open(tmp_path / "store") as store:
        assert len(store.session("two")) == 1500
        report = localfirst.migrate(file, store)
        assert (report.ok, report.skipped, report.imported, report.verified) == (True, 4500, 1500, True)
        assert list(store.session("one")) == list(store.session("two")) == messages(3000)


def test_killed_at_any_moment(file: Path, tmp_path: Path) -> None:
    asyncio.run(written(file, "user-123", messages(6000)))
    program = (
        "import localfirst, sys\n"
        "with localfirst.open(sys.argv[2]) as store:\n"
        "    localfirst.migrate(sys.argv[1], store, progress=lambda *_: print(flush=True))\n"
    )
    for lines in range(2, 6):
        with subprocess.Popen(
            [sys.executable, "-c", program, str(file), str(tmp_path / "store")], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            for _ in range(lines):
                process.stdout.readline()
            os.kill(process.pid, signal.SIGKILL)
    with localfirst.open(tmp_path / "store") as store:
        assert localfirst.migrate(file, store).verified
        assert list(store.session("user-123")) == messages(6000)


def test_two_at_once_import_everything_once(file: Path, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        asyncio.run(written(file, name, messages(2500)))
    program = (
        "import localfirst, sys\n"
        "with localfirst.open(sys.argv[2]) as store:\n"
        "    localfirst.migrate(sys.argv[1], store)\n"
    )
    arguments = [sys.executable, "-c", program, str(file), str(tmp_path / "store")]
    with localfirst.open(tmp_path / "store") as store:
        running = [subprocess.Popen(arguments) for _ in range(2)]
        localfirst.migrate(file, store)
        assert [process.wait(60) for process in running] == [0, 0]
        report = localfirst.migrate(file, store)
        assert (report.ok, report.verified) == (True, True)
        for name in ("one", "two", "three"):
            assert list(store.session(name)) == messages(2500)


async def test_another_replica_imports_nothing_twice(file: Path, tmp_path: Path, central: str) -> None:
    await written(file, "user-123", messages(1200))
    with localfirst.open(tmp_path / "a", remote=central) as store:
        localfirst.migrate(file, store)
        store.flush(timeout=30)
    await written(file, "user-123", messages(2, first=1200))
    with localfirst.open(tmp_path / "b", remote=central) as store:
        report = localfirst.migrate(file, store)
        assert (report.ok, report.skipped, report.imported, report.verified) == (True, 1200, 2, True)
        assert await items_of(store, "user-123") == messages(1202)


async def test_sealed_items_pass_as_they_are(file: Path, store: localfirst.Store) -> None:
    sealed = EncryptedSession("user-123", SQLiteSession("user-123", file), encryption_key="secret", ttl=600)
    await sealed.add_items(messages(2))
    assert localfirst.migrate(file, store).verified
    assert all(item["__enc__"] for item in await items_of(store, "user-123"))
    here: Any = store.session("user-123")
    opened = EncryptedSession("user-123", here, encryption_key="secret", ttl=600)
    assert await opened.get_items() == messages(2)


async def test_other_tables(file: Path, store: localfirst.Store) -> None:
    session = SQLiteSession("user-123", file, sessions_table="mine", messages_table="of_mine")
    await session.add_items(messages(2))
    session.close()
    with pytest.raises(ConfigurationError, match="messages_table: of_mine"):
        localfirst.migrate(file, store)
    report = localfirst.migrate(file, store, sessions_table="mine", messages_table="of_mine")
    assert (report.ok, report.imported) == (True, 2)


async def test_the_other_classes_on_sqlite(tmp_path: Path, store: localfirst.Store) -> None:
    session = AsyncSQLiteSession("async", tmp_path / "async.db")
    await session.add_items(messages(700))
    await session.close()
    assert localfirst.migrate(tmp_path / "async.db", store).verified
    assert await items_of(store, "async") == messages(700)

    url = f"sqlite+aiosqlite:///{tmp_path / 'alchemy.db'}"
    alchemy = SQLAlchemySession.from_url("alchemy", url=url, create_tables=True)
    await alchemy.add_items(messages(700))
    execute(tmp_path / "alchemy.db", "UPDATE agent_messages SET created_at = '2001-01-01 00:00:00' WHERE id = 700")
    expected = await alchemy.get_items()
    await alchemy.engine.dispose()
    assert expected[0] == messages(700)[-1]  # Its own order.
    assert localfirst.migrate(url, store).verified
    assert await items_of(store, "alchemy") == expected


# Branches.


async def branched(file: Path) -> AdvancedSQLiteSession:
    """A session with three turns on main, a branch from the second, and one of that."""
    session = AdvancedSQLiteSession(session_id="user-123", db_path=file, create_tables=True)
    await session.add_items(messages(6))
    await session.create_branch_from_turn(2, "second")
    await session.add_items(messages(4, first=100))
    await session.create_branch_from_turn(3, "of second")
    await session.add_items(messages(2, first=200))
    return session


async def test_branches_come_along(file: Path, store: localfirst.Store) -> None:
    session = await branched(file)
    await session.switch_to_branch("main")
    await session.pop_item()  # What the branches took over stays there.
    await session.create_branch_from_turn(1, "from scratch")
    await session.add_items(messages(1, first=300))
    names = ["main", "second", "of second", "from scratch"]
    expected = {name: await session.get_items(branch_id=name) for name in names}
    execute(file, "INSERT INTO turn_usage (session_id, branch_id, user_turn_number, requests) VALUES (?, 'main', 1, 7)",
            "user-123")  # fmt: skip

    report = localfirst.migrate(file, store)

    assert (report.ok, report.verified) == (True, True)
    assert report.sessions[0].branches == tuple(names)
    assert [branch.name for branch in store.session("user-123").branches()] == names
    for name in names:
        assert await items_of(store, "user-123", name) == expected[name]
    ours = openai_agents.AdvancedSQLiteSession(session_id="user-123", store=store)
    used: Any = await ours.get_turn_usage(1)
    assert used["requests"] == 7
    assert used == await session.get_turn_usage(1, "main")

    await session.switch_to_branch("second")
    await session.add_items(messages(2, first=400))
    await session.create_branch_from_turn(4, "later")
    again = localfirst.migrate(file, store)
    assert (again.ok, again.verified) == (True, True)
    for name in [*names, "later"]:
        assert await items_of(store, "user-123", name) == await session.get_items(branch_id=name)
    assert localfirst.migrate(file, store).imported == 0
    session.close()


async def test_nothing_of_a_fork_is_copied(file: Path, store: localfirst.Store) -> None:
    (await branched(file)).close()
    localfirst.migrate(file, store)
    shared = store.session("user-123")._access.read(
        lambda fold: [[item.id for item in line.history.items] for line in fold.branches.shown()]
    )
    assert shared[1][:2] == shared[0][:2]
    assert shared[2][:4] == shared[1][:4]


async def test_a_branch_that_was_made_here_is_left_alone(file: Path, store: localfirst.Store) -> None:
    (await branched(file)).close()
    store.session("user-123").branch("second")
    report = localfirst.migrate(file, store)
    assert "branch 'second'" in str(report.problems[0].problem)
    assert len(store.session("user-123", branch="second")) == 0
    store.session("user-123").delete_branch("second")
    assert localfirst.migrate(file, store).verified


async def test_rows_on_no_branch_are_told(file: Path, store: localfirst.Store) -> None:
    (await branched(file)).close()
    execute(file, "INSERT INTO agent_messages (session_id, message_data) VALUES ('user-123', '1')")
    report = localfirst.migrate(file, store)
    assert report.ok
    assert "1 rows stand on no branch" in report.sessions[0].notes[0]


# What can't be read.


def test_what_is_no_source(tmp_path: Path, store: localfirst.Store) -> None:
    (tmp_path / "notes.txt").write_text("Hello")
    with pytest.raises(ConfigurationError, match="no conversations"):
        localfirst.migrate(tmp_path / "notes.txt", store)
    with pytest.raises(ConfigurationError, match="there is no file"):
        localfirst.migrate(tmp_path / "missing.db", store)
    with pytest.raises(ConfigurationError, match="mysql://"):
        localfirst.migrate("mysql://me:secret@host/app", store)


def test_a_damaged_file_is_told_and_what_can_be_read_is_here(file: Path, store: localfirst.Store) -> None:
    asyncio.run(written(file, "user-123", messages(5000)))
    data = bytearray(file.read_bytes())
    middle = len(data) // 2 // 4096 * 4096
    data[middle : middle + 8 * 4096] = os.urandom(8 * 4096)
    file.write_bytes(data)
    report = localfirst.migrate(file, store)
    assert not report.ok
    assert "can't be read" in str(report.problems[0].problem)
    here = list(store.session("user-123"))
    assert here == messages(len(here))


def test_a_file_whose_owner_was_stopped_while_it_wrote(file: Path, store: localfirst.Store) -> None:
    asyncio.run(written(file, "user-123", messages(2000)))
    program = (
        "import os, sqlite3, sys\n"
        "opened = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "opened.execute('PRAGMA journal_mode=DELETE'); opened.execute('PRAGMA cache_size=1')\n"
        "opened.execute('BEGIN'); opened.execute(\"UPDATE agent_messages SET message_data = '1'\")\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(file)], check=False)
    with pytest.raises(SourceUnreadable, match="start that once"):
        localfirst.migrate(file, store)
    asyncio.run(written(file, "user-123", messages(1, first=2000)))  # As its owner does.
    assert localfirst.migrate(file, store).verified
    assert list(store.session("user-123")) == messages(2001)


def test_an_id_that_can_be_none_is_told(file: Path, store: localfirst.Store) -> None:
    asyncio.run(written(file, "x" * 2000, messages(1)))
    asyncio.run(written(file, "user-123", messages(1)))
    report = localfirst.migrate(file, store)
    assert [(each.session_id[:4], bool(each.problem)) for each in report.sessions] == [
        ("user", False),
        ("xxxx", True),
    ]


# openstackai, and exports.


def test_what_openstackai_keeps(tmp_path: Path, store: localfirst.Store) -> None:
    file = tmp_path / "pyai_sessions.db"
    with closing(sqlite3.connect(file)) as made:
        made.executescript("""
            CREATE TABLE sessions (id TEXT PRIMARY KEY, user_id TEXT, agent_id TEXT, state TEXT DEFAULT 'active',
                metadata TEXT DEFAULT '{}', context TEXT DEFAULT '{}', created_at TEXT, updated_at TEXT);
            CREATE TABLE messages (id TEXT PRIMARY KEY, session_id TEXT, role TEXT, content TEXT, timestamp TEXT,
                metadata TEXT DEFAULT '{}', tool_calls TEXT, tool_call_id TEXT, position INTEGER,
                FOREIGN KEY (session_id) REFERENCES sessions(id) ON DELETE CASCADE);
            INSERT INTO sessions VALUES ('user-123', 'alice', NULL, 'active', '{"theme": "dark"}', '{"step": 2}',
                '2030-01-02T03:04:05.678', '2030-01-03T03:04:05.678');
            INSERT INTO messages VALUES
                ('m-b', 'user-123', 'user', 'Hello', '2030-01-02T03:04:06', '{}', NULL, NULL, 0),
                ('m-a', 'user-123', 'assistant', '', '2030-01-02T03:04:07', '{"a": "x"}', '[{"id": "c1"}]', NULL, 1),
                ('m-d', 'user-123', 'tool', '42', '2030-01-02T03:04:08', '{}', '[{', 'c1', 2),
                ('m-c', 'user-123', 'tool', '42', '2030-01-02T03:04:08', '{}', NULL, 'c1', 3),
                ('gone', 'deleted', 'user', 'Hello', '2030-01-02T03:04:08', '{}', NULL, NULL, 0);
        """)
    report = localfirst.migrate(file, store)
    assert [each.session_id for each in report.sessions] == ["user-123"]
    assert (report.ok, report.imported, report.damaged, report.verified) == (True, 3, 1, True)
    session = store.session("user-123")
    assert [json.dumps({key: each[key] for key in ("role", "content", "id")}) for each in session] == [
        '{"role": "user", "content": "Hello", "id": "m-b"}',
        '{"role": "assistant", "content": "", "id": "m-a"}',
        '{"role": "tool", "content": "42", "id": "m-c"}',
    ]
    assert session.get_messages()[1]["tool_calls"] == [{"id": "c1"}]
    assert session.get_messages()[2]["tool_call_id"] == "c1"
    metadata = session.metadata()
    assert metadata == {
        "context": {"step": 2},
        "created_at": "2030-01-02T03:04:05.678000+00:00",
        "state": "active",
        "theme": "dark",
        "updated_at": "2030-01-03T03:04:05.678000+00:00",
        "user_id": "alice",
    }


async def test_an_export_comes_along_once(tmp_path: Path, store: localfirst.Store) -> None:
    session = store.session("user-123")
    await session.add_items(messages(3))
    session.set("name", "Alice")
    file = tmp_path / "export.json"
    file.write_text(json.dumps(session.export()))
    with localfirst.open(tmp_path / "other") as other:
        assert localfirst.migrate(file, other).verified
        assert localfirst.migrate(file, other).imported == 0
        assert await items_of(other, "user-123") == messages(3)
        assert other.session("user-123").get("name") == "Alice"


async def test_listeners_hear_what_comes(file: Path, store: localfirst.Store) -> None:
    await written(file, "user-123", messages(2))
    heard = list[Any]()
    store.on(localfirst.SessionEvent.MESSAGE_ADDED, lambda session_id, item: heard.append((session_id, item)))
    localfirst.migrate(file, store)
    eventually(lambda: heard == [("user-123", item) for item in messages(2)])


async def test_rows_without_a_time_or_a_place_come_along(tmp_path: Path, store: localfirst.Store) -> None:
    """More of them than are asked for at once."""
    file, items = tmp_path / "conversations.db", messages(1203)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE agent_sessions (session_id VARCHAR PRIMARY KEY, created_at)")
        connection.execute(
            "CREATE TABLE agent_messages (id INTEGER PRIMARY KEY, session_id VARCHAR, message_data, created_at)"
        )
        connection.executemany(
            "INSERT INTO agent_messages VALUES (?, 's', ?, ?)",
            [(number, json.dumps(item), None if number < 1000 else "2030") for number, item in enumerate(items)],
        )
        connection.commit()
    report = localfirst.migrate(file, store)
    assert (report.ok, report.imported, report.verified) == (True, 1203, True)
    assert await items_of(store, "s") == items


async def test_rows_that_can_not_be_reached_are_told(file: Path, store: localfirst.Store) -> None:
    (await branched(file)).close()
    execute(file, "UPDATE message_structure SET branch_id = x'00' WHERE branch_id <> 'main'")
    report = localfirst.migrate(file, store, verify=False)
    assert not report.ok
    assert "of which 0 could be read" in str(report.problems)


def test_a_table_that_lacks_what_is_needed_is_no_source(file: Path, store: localfirst.Store) -> None:
    execute(file, "CREATE TABLE agent_messages (message_data TEXT)")
    with pytest.raises(ConfigurationError, match="no table 'agent_messages'"):
        localfirst.migrate(file, store)
