"""`localfirst import` of what other programs kept: beside it, and in its place."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from agents import SQLiteSession
from agents.extensions.memory import RedisSession, SQLAlchemySession
from typer.testing import CliRunner, Result

import localfirst
from localfirst.cli.app import app
from tests.conftest import OwnRedis

Invoke = Callable[..., Result]


@pytest.fixture
def run() -> Invoke:
    """Run a command in this process."""

    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    return invoke


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of the SDK with two sessions, that nobody has open."""
    found = tmp_path / "conversations.db"
    write(found, "user-1", 700)
    write(found, "user-2", 2)
    return found


def write(file: Path, session_id: str, count: int) -> None:
    """Written by the SDK."""

    async def add() -> None:
        session = SQLiteSession(session_id, file)
        await session.add_items(messages(count))
        session.close()

    asyncio.run(add())


def messages(count: int) -> list[Any]:
    """A conversation."""
    return [{"role": "user", "content": f"Message {number}"} for number in range(count)]


def held(path: Path, session_id: str) -> list[Any]:
    """What a store holds of a session."""
    with localfirst.open(path) as store:
        return list(store.session(session_id))


def test_a_file_is_imported_and_a_table_tells_it(run: Invoke, file: Path, tmp_path: Path) -> None:
    result = run("import", file, "--store", tmp_path / "store")
    assert (result.exit_code, result.stderr) == (0, "")
    lines = [line.split() for line in result.stdout.splitlines()]
    assert lines[0] == ["session", "rows", "imported", "before", "damaged"]
    assert lines[1:3] == [["user-1", "700", "700", "0", "0"], ["user-2", "2", "2", "0", "0"]]
    assert result.stdout.endswith("702 items of 2 sessions imported; all of it read back and compared\n")
    assert held(tmp_path / "store", "user-1") == messages(700)

    again = json.loads(run("import", file, "--store", tmp_path / "store", "--json").stdout)
    assert (again["ok"], again["imported"], again["skipped"], again["verified"]) == (True, 0, 702, True)
    assert [session["session_id"] for session in again["sessions"]] == ["user-1", "user-2"]


def test_a_dry_run_makes_no_store(run: Invoke, file: Path, tmp_path: Path) -> None:
    result = run("import", file, "--store", tmp_path / "store", "--dry-run")
    assert result.exit_code == 0
    assert "702 items of 2 sessions would be imported" in result.stdout
    assert not (tmp_path / "store").exists()


def test_some_sessions(run: Invoke, file: Path, tmp_path: Path) -> None:
    arguments = ("import", file, "--store", tmp_path / "store", "--session")
    assert "2 items of 1 session imported" in run(*arguments, "*-2").stdout
    missing = run(*arguments, "other*")
    assert missing.exit_code == 4
    assert "no session 'other*'" in missing.stderr


def test_what_is_left_alone_and_what_is_damaged(run: Invoke, file: Path, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store") as store:
        store.session("user-2").add_message("user", "Written here")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("UPDATE agent_messages SET message_data = '{' WHERE id = 7")
        connection.commit()
    result = run("import", file, "--store", tmp_path / "store")
    assert result.exit_code == 1
    assert "there are other items here already" in result.stdout
    assert "1 row left out that hold no item; 1 problem" in result.stdout
    assert result.stderr.startswith("localfirst: user-1: row 7 holds no item")
    result = run("import", file, "--store", tmp_path / "store", "--append", "--no-verify")
    assert result.exit_code == 0
    assert len(held(tmp_path / "store", "user-2")) == 3


def test_a_file_that_holds_nothing_known(run: Invoke, tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "other.db")) as made:
        made.execute("CREATE TABLE other (id)")
    result = run("import", tmp_path / "other.db", "--store", tmp_path / "store")
    assert result.exit_code == 1
    assert "no table 'agent_messages'" in result.stderr


def test_an_export_has_a_dry_run_too(run: Invoke, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store") as store:
        store.session("user-1").add_message("user", "Hello")
        (tmp_path / "export.json").write_text(json.dumps(store.session("user-1").export()))
    result = run("import", tmp_path / "export.json", "--store", tmp_path / "new", "--dry-run")
    assert result.stdout == "1 item and 0 metadata keys would be added to user-1\n"
    assert not (tmp_path / "new").exists()


def test_redis_and_no_password_is_shown(run: Invoke, own_redis: OwnRedis, tmp_path: Path) -> None:
    url = own_redis(password="hunter2").url

    async def fill() -> None:
        session = RedisSession.from_url("user-1", url=url)
        await session.add_items(messages(3))
        await session.close()

    asyncio.run(fill())
    result = run("import", url, "--store", tmp_path / "store", "--json")
    assert json.loads(result.stdout)["imported"] == 3
    assert result.stderr.startswith("localfirst: warning: all users of this machine can see the password in SOURCE")
    (tmp_path / "address").write_text(url)
    quiet = run("import", f"@{tmp_path / 'address'}", "--store", tmp_path / "store", "--json")
    assert (quiet.exit_code, quiet.stderr) == (0, "")
    none = run("import", f"@{tmp_path / 'address'}", "--store", tmp_path / "store", "--key-prefix", "mine")
    assert none.stdout.startswith(
        "0 items of 0 sessions imported\nno key there begins with mine: --key-prefix names other"
    )
    refused = run("import", url.replace("hunter2", "hunter3"), "--store", tmp_path / "store")
    assert refused.exit_code == 1
    assert "hunter" not in result.output + quiet.output + refused.output


async def test_postgres(run: Invoke, postgres_url: str, tmp_path: Path) -> None:
    url = postgres_url.replace("postgresql://", "postgresql+asyncpg://")
    session = SQLAlchemySession.from_url("user-1", url=url, create_tables=True)
    await session.add_items(messages(3))
    await session.engine.dispose()
    result = run("import", url, "--store", tmp_path / "store", "--json")
    assert json.loads(result.stdout)["verified"]


# In place.


def test_a_store_takes_the_place_of_a_file(run: Invoke, file: Path) -> None:
    result = run("import", file, "--in-place")
    assert result.exit_code == 0, result.output
    assert result.stdout.endswith(f"{file} is a store now, and the file is {file}.before-localfirst\n")
    assert held(file, "user-1") == messages(700)
    with closing(sqlite3.connect(f"{file}.before-localfirst")) as kept:
        assert kept.execute("SELECT count(*) FROM agent_messages").fetchone() == (702,)
    assert sorted(each.name.removeprefix(file.name) for each in file.parent.glob(f"{file.name}*")) in (
        ["", ".before-localfirst"],
        ["", ".before-localfirst", ".before-localfirst-shm", ".before-localfirst-wal"],
    )
    again = run("import", file, "--in-place")
    assert again.exit_code == 1
    assert "is a directory already" in again.stderr


def test_what_is_in_the_write_ahead_log_moves_too(run: Invoke, file: Path) -> None:
    program = (
        "import sys, os, sqlite3\n"
        "opened = sqlite3.connect(sys.argv[1])\n"
        "opened.execute(\"INSERT INTO agent_messages (session_id, message_data) VALUES ('user-2', '3')\")\n"
        "opened.commit()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, file], check=False)
    assert Path(f"{file}-wal").stat().st_size
    assert run("import", file, "--in-place").exit_code == 0
    assert held(file, "user-2") == [*messages(2), 3]
    with closing(sqlite3.connect(f"{file}.before-localfirst")) as kept:
        assert kept.execute("SELECT count(*) FROM agent_messages").fetchone() == (703,)


def test_nothing_moves_while_another_program_has_the_file_open(run: Invoke, file: Path) -> None:
    program = (
        "import sys, asyncio, agents\n"
        "session = agents.SQLiteSession('user-1', sys.argv[1])\n"
        "asyncio.run(session.get_items())\n"
        "print(flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        owner.stdout.readline()
        refused = run("import", file, "--in-place")
        assert refused.exit_code == 1
        assert "is open in another program" in refused.stderr
        assert file.is_file()
        owner.communicate()
    assert run("import", file, "--in-place").exit_code == 0


def test_nothing_moves_if_not_all_can_come(run: Invoke, file: Path) -> None:
    write(file, "x" * 2000, 1)
    result = run("import", file, "--in-place")
    assert result.exit_code == 1
    assert f"{file} stays as it was" in result.stdout
    assert file.is_file()


def test_only_files_of_sqlite_are_replaced(run: Invoke, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("Hello")
    assert "is no SQLite file" in run("import", tmp_path / "notes.txt", "--in-place").stderr
    assert "there is no file" in run("import", tmp_path / "missing.db", "--in-place").stderr
    assert run("import", "redis://host", "--in-place").exit_code == 2
    assert [each.name for each in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("call", ["rename", "sync", "bring", "write"])
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_killed_at_any_step_it_is_finished_by_doing_it_again(file: Path, call: str, nth: int) -> None:
    Path(f"{file}-wal").touch()
    program = (
        "import os, sys, pathlib\n"
        "from localfirst.migration import importing, inplace\n"
        "call, nth = sys.argv[1], int(sys.argv[2])\n"
        "def deadly(found):\n"
        "    def wrapped(*arguments, **named):\n"
        "        global nth\n"
        "        nth -= 1\n"
        "        if not nth: os.kill(os.getpid(), 9)\n"
        "        return found(*arguments, **named)\n"
        "    return wrapped\n"
        "if call == 'rename': pathlib.Path.rename = deadly(pathlib.Path.rename)\n"
        "elif call == 'sync': inplace._sync = deadly(inplace._sync)\n"
        "elif call == 'bring': inplace._bring = deadly(inplace._bring)\n"
        "else: importing.Import._write = deadly(importing.Import._write)\n"
        "sys.argv[1:] = ['import', sys.argv[3], '--in-place']\n"
        "from localfirst.cli import main; main()\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, call, str(nth), file], check=False, capture_output=True)
    if killed.returncode != -signal.SIGKILL:
        assert (killed.returncode, nth > 2) == (0, True), killed.stderr
        return
    done = subprocess.run([sys.executable, "-m", "localfirst", "import", file, "--in-place"], check=False)
    assert done.returncode == (1 if file.is_dir() and call == "sync" and nth == 2 else 0)
    assert held(file, "user-1") == messages(700)
    assert held(file, "user-2") == messages(2)
    assert os.path.exists(f"{file}.before-localfirst")  # noqa: PTH110 - a name with more to it
