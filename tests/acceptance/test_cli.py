"""The command line: what it prints, what it exits with, and that looking at a store leaves it alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import localfirst
from localfirst.cli.app import app
from tests.polling import eventually

UNREACHABLE = "redis://:hunter2@127.0.0.1:1/0"
COMMANDS = (
    "demo",
    "status",
    "sync",
    "ls",
    "show",
    "search",
    "verify",
    "quarantine",
    "delete",
    "cleanup",
    "reseed",
    "export",
    "import",
    "bench",
)

Invoke = Callable[..., Result]


@pytest.fixture
def run() -> Invoke:
    """Run a command in this process."""

    def invoke(*arguments: object, **options: Any) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments], **options)

    return invoke


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with two sessions, that never met a central store."""
    directory = tmp_path / "store"
    with localfirst.open(directory) as store:
        first = store.session("user-1")
        first.add_message("user", "Hello")
        first.add_message("assistant", [{"type": "output_text", "text": "Good morning"}])
        first.set("language", "en")
        store.session("other").add_message("user", "Hi")
    return directory


@pytest.fixture
def worker(home: Path, central: str) -> Iterator[subprocess.Popen[str]]:
    """`localfirst sync`, in a process of its own, once it is online."""
    with sync_process("--store", str(home), "--remote", central) as process:
        until_told(process, "online")
        yield process
        process.kill()


def sync_process(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "localfirst.cli", "sync", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until_told(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    for line in process.stdout:  # The end of the test is its deadline.
        if word in line:
            return line
    raise AssertionError(f"the process ended before it told of {word!r}")


def deaf(*arguments: str) -> list[str]:
    """A command that inherits SIGINT as ignored, as the jobs of a shell script do."""
    return ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", sys.executable, "-m", "localfirst", *arguments]


def error_of(result: Result) -> str:
    """The one line on stderr of a command that failed."""
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("localfirst: ")
    return line


# Help.


def test_help_lists_the_commands_there_are_and_their_exit_codes(run: Invoke) -> None:
    text = run("--help").output
    for name in COMMANDS:
        assert name in text
        assert "Exit codes: 0 it went well" in " ".join(run(name, "--help").output.split())
    for later in ("doctor",):
        assert later not in text


def test_version(run: Invoke) -> None:
    assert run("--version").output == f"localfirst {localfirst.__version__}\n"


def test_is_a_module_too() -> None:
    command = [sys.executable, "-m", "localfirst", "--version"]
    assert subprocess.check_output(command, text=True) == f"localfirst {localfirst.__version__}\n"


def test_help_names_what_an_option_takes_in_words(run: Invoke) -> None:
    for command, taken in (("ls", "--prefix TEXT"), ("show", "--limit N"), ("status", "--interval SECONDS")):
        assert taken in run(command, "--help").output
    assert "--timeout SECONDS" in run("sync", "--help").output


def test_without_the_extra_it_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("raise ImportError('no typer')\n")
    done = subprocess.run(
        [sys.executable, "-m", "localfirst.cli", "--help"],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'localfirst[cli]'" in done.stderr
    assert "Traceback" not in done.stderr


# A store that is not there, a session that is not there.


@pytest.mark.parametrize(
    "command", [["ls"], ["status"], ["show", "user-1"], ["export", "user-1"], ["delete", "user-1"], ["cleanup"]]
)
def test_looking_makes_no_store(command: list[str], run: Invoke, tmp_path: Path) -> None:
    result = run(*command, "--store", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "there is no store in" in error_of(result)
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("command", ["show", "export", "delete"])
@pytest.mark.parametrize("session_id", ["user", "user-12", "zzz"])
def test_no_such_session(command: str, session_id: str, run: Invoke, home: Path) -> None:
    result = run(command, session_id, "--store", home)
    assert result.exit_code == 4
    assert session_id in error_of(result)


# Looking.


def test_ls(run: Invoke, home: Path) -> None:
    lines = run("ls", "--store", home).output.splitlines()
    assert [line.split()[0] for line in lines] == ["session", "other", "user-1"]
    assert len(run("ls", "--store", home, "--prefix", "user-").output.splitlines()) == 2
    assert run("ls", "--store", home, "--namespace", "empty").output == "no sessions\n"


def test_ls_as_json(run: Invoke, home: Path, central: str) -> None:
    other, first = json.loads(run("ls", "--store", home, "--json").output)
    assert (first["session_id"], first["items"], first["pending"], first["state"]) == ("user-1", 2, 3, "local")
    assert other["session_id"] == "other"
    with_remote = json.loads(run("ls", "--store", home, "--remote", central, "--json").output)
    assert {info["state"] for info in with_remote} == {"pending"}


def test_options_come_from_the_environment_too(run: Invoke, home: Path, central: str) -> None:
    environment = {"LOCALFIRST_HOME": str(home), "LOCALFIRST_REMOTE": central}
    found = json.loads(run("status", "--json", env=environment).output)
    assert (found["path"], found["remote"]) == (str(home), central)


def test_branches(run: Invoke, home: Path) -> None:
    with localfirst.open(home) as store:
        session = store.session("user-1")
        session.branch("draft\x1b[2J", at_turn=1)
        session.branch("other")
        session.switch("other")
        session.add_message("user", "On the other")
    text = run("show", "user-1", "--store", home).output
    assert "branches: main (2 items), draft\\x1b[2J (0 items), other (3 items, shown here)" in text
    assert "On the other" in text
    text = run("show", "user-1", "--store", home, "--branch", "main").output
    assert "main (2 items, shown here)" in text
    assert "On the other" not in text
    told = json.loads(run("show", "user-1", "--store", home, "--json").output)
    assert [(branch["name"], branch["current"]) for branch in told["branches"]][::2] == [
        ("main", False),
        ("other", True),
    ]
    for branch, expected in ((["--branch", "main"], 2), ([], 3)):
        exported = json.loads(run("export", "user-1", "--store", home, *branch).output)
        assert len(exported["items"]) == expected
    failed = run("show", "user-1", "--store", home, "--branch", "none")
    assert failed.exit_code == 1
    assert "there is no branch 'none': there are 'main', " in error_of(failed)
    assert "branches" not in run("show", "other", "--store", home).output


def test_show(run: Invoke, home: Path) -> None:
    text = run("show", "user-1", "--store", home).output
    assert text.index("Hello") < text.index("Good morning")
    assert 'language "en"' in text
    assert "Hello" not in run("show", "user-1", "--store", home, "--limit", 1).output


@pytest.fixture
def contested(tmp_path: Path, central: str) -> Path:
    """A store with a session on whose metadata there is a conflict."""
    for name, shop in (("one", "market"), ("other", "\x1b[31mstore")):
        with localfirst.open(tmp_path / name, remote="") as store:
            store.session("s").set("shop\n", shop)
    for name in ("one", "other", "one"):
        with localfirst.open(tmp_path / name, remote=central, worker="none") as store:
            store.flush(10)
            store.refresh(10)
    return tmp_path / "one"


def test_show_with_conflicts(run: Invoke, home: Path, contested: Path) -> None:
    text = run("show", "s", "--store", contested, "--conflicts").output
    (line,) = [line for line in text.splitlines() if line.startswith("conflict ")]
    assert line.startswith('conflict shop\\n "market" and "\\u001b[31mstore" -> "\\u001b[31mstore"  last, ')
    with localfirst.open(contested, remote="") as store:
        (conflict,) = store.session("s").conflicts()
    assert line.endswith(" and ".join(conflict.origins))
    assert "conflict" not in run("show", "s", "--store", contested).output
    assert "no conflicts" in run("show", "user-1", "--store", home, "--conflicts").output


def test_show_with_conflicts_as_json(run: Invoke, home: Path, contested: Path) -> None:
    found = json.loads(run("show", "s", "--store", contested, "--conflicts", "--json").output)
    with localfirst.open(contested, remote="") as store:
        (conflict,) = store.session("s").conflicts()
    assert found["conflicts"] == [
        {
            "key": "shop\n",
            "rule": "last",
            "current": "market",
            "incoming": "\x1b[31mstore",
            "winner": "\x1b[31mstore",
            "origins": list(conflict.origins),
            "seq": 2,
        }
    ]
    assert found["metadata"] == {"shop\n": "\x1b[31mstore"}
    assert json.loads(run("show", "user-1", "--store", home, "--conflicts", "--json").output)["conflicts"] == []
    assert "conflicts" not in json.loads(run("show", "s", "--store", contested, "--json").output)


def test_show_as_json(run: Invoke, home: Path) -> None:
    found = json.loads(run("show", "user-1", "--store", home, "--json", "--limit", 1).output)
    assert found["items"] == [{"role": "assistant", "content": [{"type": "output_text", "text": "Good morning"}]}]
    assert found["metadata"] == {"language": "en"}
    assert found["session"]["items"] == 2


def test_what_sessions_hold_can_not_control_the_terminal(run: Invoke, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store") as store:
        session = store.session("evil\x1b[2J")
        session.add_message("user\x1b]0;title\x07", "[bold]not markup[/bold] \x1b[31mred \ud800")
        session.set("key\r", {"\x9b": "\u202e"})
    for command in (["ls"], ["show", "evil\x1b[2J"]):
        text = run(*command, "--store", tmp_path / "store").output
        assert not set("\x1b\x07\x9b\r\u202e\ud800") & set(text)
    assert "[bold]not markup[/bold]" in text


def test_no_two_ids_look_the_same_and_none_takes_two_lines(run: Invoke, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store") as store:
        for session_id in ("a\nb", "a\tb", "a\x01b", "a\u2028b"):
            store.session(session_id).set("k\n", 1)
    _, *lines = run("ls", "--store", tmp_path / "store").output.splitlines()
    assert {line.split()[0] for line in lines} == {r"a\nb", r"a\tb", r"a\x01b", r"a\u2028b"}
    title, metadata = run("show", "a\nb", "--store", tmp_path / "store").output.splitlines()
    assert title.startswith(r"a\nb  0 items")
    assert metadata == r"k\n 1"


def test_one_of_a_thing_is_not_many(run: Invoke, home: Path, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "one") as store:
        store.session("s").add_message("user", "Hi")
    assert "1 item, " in run("show", "s", "--store", tmp_path / "one").output
    assert "1 change, " in run("status", "--store", tmp_path / "one").output
    assert "4 changes, " in run("status", "--store", home).output


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("command", [["show", "user-1"], ["ls"], ["ls", "--json"], ["export", "user-1"], ["--help"]])
def test_output_that_nobody_can_take(command: list[str], home: Path) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "localfirst", *command],
            env=os.environ | {"LOCALFIRST_HOME": str(home)},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert (done.returncode, done.stderr) == (1, "localfirst: input or output failed: No space left on device\n")


def test_a_reader_that_has_seen_enough(home: Path) -> None:
    command = [sys.executable, "-m", "localfirst", "show", "user-1", "--store", str(home)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait(10) == 1


def test_looking_sends_nothing_even_on_closing(run: Invoke, home: Path, tmp_path: Path, central: str) -> None:
    environment = {"LOCALFIRST_REMOTE": central}
    for command in (["ls"], ["status"], ["show", "user-1"], ["export", "user-1"]):
        run(*command, "--store", home, env=environment)
    assert not (tmp_path / "central").exists()


# Status.


def test_status_of_a_store_without_a_central_store(run: Invoke, home: Path) -> None:
    result = run("status", "--store", home)
    assert result.exit_code == 0
    assert "local" in result.output
    assert json.loads(run("status", "--store", home, "--json").output)["pending_changes"] == 4


def test_status_of_a_store_that_nobody_syncs(run: Invoke, home: Path, central: str) -> None:
    result = run("status", "--store", home, "--remote", central, "--json")
    assert json.loads(result.output)["state"] == "stopped"
    assert result.exit_code == 3
    assert run("sync", "--once", "--store", home, "--remote", central).exit_code == 0
    assert run("status", "--store", home, "--remote", central).exit_code == 0


def test_status_tells_what_the_process_that_syncs_knows(run: Invoke, home: Path, central: str) -> None:
    with localfirst.open(home, remote=central) as store:
        store.flush(10)
        found = json.loads(run("status", "--store", home, "--remote", central, "--json").output)
        assert store.status().leader
    assert (found["state"], found["pending_changes"], found["leader"]) == ("online", 0, False)
    assert found["last_synced_at"].endswith("+00:00")


def test_status_tells_when_it_was_synced_after_the_process_that_did_has_ended(
    run: Invoke, home: Path, central: str
) -> None:
    with localfirst.open(home, remote=central) as store:
        store.flush(10)
        synced = store.status().last_synced_at
    found = json.loads(run("status", "--store", home, "--json").output)
    assert synced is not None
    assert (found["state"], found["pending_changes"]) == ("stopped", 0)
    assert abs((datetime.fromisoformat(found["last_synced_at"]) - synced).total_seconds()) < 10
    assert "never" not in run("status", "--store", home).output


def test_status_while_the_central_store_is_away_shows_no_password(run: Invoke, home: Path) -> None:
    with localfirst.open(home, remote=UNREACHABLE) as store:
        eventually(lambda: store.status().state == "offline", 15)
        result = run("status", "--store", home, "--remote", UNREACHABLE)
    assert result.exit_code == 3
    assert "offline" in result.output
    assert "hunter2" not in result.output + result.stderr


def test_status_watch_ends_by_an_interrupt(home: Path) -> None:
    command = deaf("status", "--watch", "--interval", "0.1", "--json", "--store", str(home))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
    assert [status["pending_changes"] for status in found] == [4, 4, 4]


def test_demo_ends_by_an_interrupt_and_leaves_nothing(tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    pipe = subprocess.PIPE
    with subprocess.Popen(deaf("demo"), stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        until_told(process, "A talks")
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert (process.returncode, errors) == (130, "")
    assert list(tmp_path.iterdir()) == []


# Sync.


def test_sync_needs_a_central_store(run: Invoke, home: Path) -> None:
    result = run("sync", "--store", home)
    assert result.exit_code == 2
    assert "LOCALFIRST_REMOTE" in result.stderr


@pytest.mark.parametrize("command", ["sync", "status"])
def test_a_remote_that_is_none(command: str, run: Invoke, home: Path) -> None:
    result = run(command, "--store", home, "--remote", "user:hunter2@host/db")
    assert result.exit_code == 1
    assert "redis://" in error_of(result)
    assert "hunter2" not in result.output + result.stderr


def test_sync_once_sends_and_fetches(run: Invoke, home: Path, central: str, tmp_path: Path) -> None:
    assert run("sync", "--once", "--store", home, "--remote", central).exit_code == 0
    result = run("sync", "--once", "--store", tmp_path / "second", "--remote", central, "--json")
    assert json.loads(result.output)["pending_changes"] == 0
    infos = json.loads(run("ls", "--store", tmp_path / "second", "--json").output)
    assert [(info["session_id"], info["state"]) for info in infos] == [("other", "synced"), ("user-1", "synced")]


def test_sync_once_that_reaches_nobody(run: Invoke, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCALFIRST_REMOTE", UNREACHABLE)
    result = run("sync", "--once", "--timeout", "0.5", "--store", home)
    assert result.exit_code == 3
    assert "4 changes of 2 sessions" in error_of(result)
    assert "hunter2" not in result.output + result.stderr


def test_sync_serves_an_application_without_a_worker(
    worker: subprocess.Popen[str], home: Path, central: str, tmp_path: Path
) -> None:
    with (
        localfirst.open(home) as application,
        localfirst.open(tmp_path / "second", remote=central, worker="none") as second,
    ):
        session = application.session("user-1")
        session.add_message("user", "sent by the other process")
        eventually(lambda: session.pending == 0, 15)
        second.refresh(10)
        assert second.session("user-1").get_messages()[-1]["content"] == "sent by the other process"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_sync_ends_by_a_signal_and_sends_what_is_left(
    number: signal.Signals, worker: subprocess.Popen[str], home: Path, run: Invoke
) -> None:
    with localfirst.open(home) as application:
        application.session("user-1").add_message("user", "at the last moment")
    worker.send_signal(number)
    _, errors = worker.communicate(timeout=15)
    assert (worker.returncode, errors) == (0, "")
    assert json.loads(run("status", "--store", home, "--json").output)["pending_changes"] == 0


def test_sync_once_ends_by_an_interrupt(home: Path, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        remote = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        command = deaf("sync", "--once", "--timeout", "60", "--store", str(home), "--remote", remote)
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            connection, _ = silent.accept()
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=20)
            connection.close()
    assert process.returncode == 130
    assert "Traceback" not in errors


def test_sync_that_ends_with_changes_left_says_so(home: Path) -> None:
    with sync_process("--store", str(home), "--remote", UNREACHABLE, "--timeout", "1", "--json") as process:
        told = until_told(process, '"offline"')
        process.terminate()
        _, errors = process.communicate(timeout=15)
    assert json.loads(told)["pending_changes"] == 4
    assert process.returncode == 3
    assert "4 changes pending" in errors
    assert "hunter2" not in told + errors


# Export and import.


def test_an_export_comes_back_exactly(run: Invoke, home: Path, tmp_path: Path) -> None:
    content: list[Any] = [{"n": 2**70, "f": 0.1}, "\ud800", ["é", None, True], "\ud83d" + "\ude00"]
    with localfirst.open(home) as store:
        session = store.session("odd")
        for item in content:
            session.add_message("user", item)
        expected = session.export()
    file = tmp_path / "odd.json"
    result = run("export", "odd", "--store", home, "-o", file)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"4 items and 0 metadata keys of odd written to {file}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    result = run("import", file, "--session", "copy", "--store", tmp_path / "new", "--json")
    assert json.loads(result.output) == {"session_id": "copy", "items": 4, "metadata": 0}
    with localfirst.open(tmp_path / "new") as store:
        assert store.session("copy").export() == {**expected, "session_id": "copy"}


def test_export_to_stdout_and_import_from_stdin(run: Invoke, home: Path, tmp_path: Path) -> None:
    document = run("export", "user-1", "--store", home).stdout
    assert json.loads(document)["metadata"] == {"language": "en"}
    assert run("import", "-", "--store", tmp_path / "new", input=document).exit_code == 0
    assert run("export", "user-1", "--store", tmp_path / "new").stdout == document


@pytest.mark.parametrize(
    "document", ["", "{", "[]", '{"format":"other"}', '{"format":"localfirst.session","version":9}', "\x00", "[" * 9999]
)
def test_what_is_no_export_is_refused(document: str, run: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "bad.json"
    file.write_text(document)
    result = run("import", file, "--store", tmp_path / "new")
    assert result.exit_code == 1
    assert "nothing was imported" in error_of(result)
    assert not (tmp_path / "new").exists()


def test_empty_stdin_is_named(run: Invoke, tmp_path: Path) -> None:
    result = run("import", "-", "--store", tmp_path / "new", input="")
    assert result.exit_code == 1
    assert error_of(result) == "localfirst: stdin is empty; nothing was imported"


def test_export_overwrites_only_what_it_is_told_to(run: Invoke, home: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text("mine")
    refused = run("export", "user-1", "--store", home, "-o", file)
    assert refused.exit_code == 1
    assert "--force" in error_of(refused)
    assert file.read_text() == "mine"
    assert run("export", "user-1", "--store", home, "-o", file, "--force").exit_code == 0
    assert json.loads(file.read_text())["session_id"] == "user-1"
    assert run("export", "user-1", "--store", home, "-o", "/dev/null").exit_code == 0  # Nothing is lost in there.


def test_files_that_can_not_be_read_or_written(run: Invoke, home: Path, tmp_path: Path) -> None:
    missing = run("import", tmp_path / "missing.json", "--store", home)
    assert missing.exit_code == 1
    assert "can't be read" in error_of(missing)
    no_directory = run("export", "user-1", "--store", home, "-o", tmp_path / "no" / "file")
    assert no_directory.exit_code == 1
    assert "can't be written" in error_of(no_directory)


@pytest.fixture
def synced(home: Path, central: str, run: Invoke) -> Path:
    """The same store, in sync with a central store."""
    run("sync", "--once", "--store", home, "--remote", central)
    return home


def test_delete_asks(run: Invoke, home: Path) -> None:
    asked = run("delete", "user-1", "--store", home, input="n\n")
    assert asked.exit_code == 1
    assert "Delete user-1 (2 items, 3 pending)?" in asked.stderr
    assert "user-1" in run("ls", "--store", home).stdout
    assert run("delete", "user-1", "--store", home, input="y\n").exit_code == 0
    assert "user-1" not in run("ls", "--store", home).stdout


def test_a_deletion_goes_up_with_the_next_sync(run: Invoke, synced: Path, central: str, tmp_path: Path) -> None:
    deleted = run("delete", "user-1", "--yes", "--store", synced, "--json")
    assert (deleted.exit_code, json.loads(deleted.stdout)) == (0, {"deleted": ["user-1"]})
    with localfirst.open(tmp_path / "other", remote=central, worker="none") as other:
        other.refresh(20)
        assert len(other.session("user-1")) == 2, "nobody synced yet"
        assert run("sync", "--once", "--store", synced, "--remote", central).exit_code == 0
        other.refresh(20)
        assert [info.session_id for info in other.sessions()] == ["other"]
    assert [info["session_id"] for info in json.loads(run("ls", "--store", synced, "--json").stdout)] == ["other"]


def test_cleanup_tells_what_it_deletes_and_asks(run: Invoke, home: Path) -> None:
    assert run("cleanup", "--store", home).stdout == "0 sessions deleted here; elsewhere with the next sync\n"
    looked = run("cleanup", "--idle-for", "0s", "--dry-run", "--store", home)
    assert looked.exit_code == 0
    assert [line.split(" ")[0] for line in looked.stdout.splitlines()] == ["other", "user-1"]
    asked = run("cleanup", "--idle-for", "0s", "--store", home, input="n\n")
    assert asked.exit_code == 1
    assert "Delete 2 sessions?" in asked.stderr
    assert len(run("ls", "--store", home).stdout.splitlines()) == 3
    done = run("cleanup", "--idle-for", "0s", "--yes", "--json", "--store", home)
    assert json.loads(done.stdout) == {"deleted": ["other", "user-1"]}
    assert run("ls", "--store", home).stdout == "no sessions\n"


@pytest.mark.parametrize("length", ["", "30", "d", "-1d", "1y", "999999999w", "1.5h"])
def test_what_is_no_length_of_time(length: str, run: Invoke, home: Path) -> None:
    result = run("cleanup", "--idle-for", length, "--store", home)
    assert result.exit_code == 2
    assert "30d" in result.stderr


def test_ls_and_show_tell_when_a_session_expires(run: Invoke, home: Path) -> None:
    assert "expires" not in run("ls", "--store", home).stdout
    with localfirst.open(home) as store:
        store.session("other", ttl=7205).add_message("user", "Hi again")
    heading, *lines = run("ls", "--store", home).stdout.splitlines()
    assert heading.split()[-1] == "expires"
    assert [line.split()[-2:] for line in lines] == [["2", "h"], ["ago", "never"]]
    assert "expires in 2 h" in run("show", "other", "--store", home).stdout
    assert json.loads(run("show", "other", "--store", home, "--json").stdout)["session"]["expires_at"]
