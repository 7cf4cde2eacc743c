"""The command line for what needs somebody to act: quarantine, verify, and a central store that lost what it had."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from typer.testing import CliRunner, Result

import localfirst
from localfirst.cli.app import app
from localfirst.errors import RemoteRejected
from localfirst.rows import Rows
from sync.central import connect
from sync.central.base import Pushed, Run
from sync.central.directory import DirectoryStore
from sync.central.directory.lives import Lives
from tests.integration.stores import push_foreign
from tests.polling import eventually

UNREACHABLE = "redis://:hunter2@127.0.0.1:1/0"
REPAIRS = (["quarantine"], ["quarantine", "retry"], ["quarantine", "discard"], ["verify"], ["reseed"])

Invoke = Callable[..., Result]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A store with two sessions, that never met a central store."""
    directory = tmp_path / "store"
    with localfirst.open(directory) as store:
        for session_id in ("good", "user-1"):
            store.session(session_id).add_message("user", "Hello")
    return directory


@pytest.fixture
def run(home: Path) -> Invoke:
    """Run a command in this process, on that store."""

    def invoke(*arguments: object, **options: Any) -> Result:
        environment = {"LOCALFIRST_HOME": str(home)}
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=environment, **options)

    return invoke


def error_of(result: Result) -> str:
    """The one line on stderr of a command that failed."""
    assert isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert line.startswith("localfirst: ")
    return line


@pytest.fixture
def poisoned(run: Invoke, central: str, tmp_path: Path) -> str:
    """A session that can't be read in the central store beyond its second change, and a third change behind that."""
    assert run("sync", "--once", "--remote", central).exit_code == 0
    push_foreign(central, "default", "user-1", [b"\xc1 of a later version"])
    with localfirst.open(tmp_path / "other", remote=central, worker="none") as other:
        other.session("user-1").add_message("user", "behind it")
        other.flush(5)
        with pytest.raises(RemoteRejected):
            other.refresh(5)
    return "user-1"


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The central store takes no change with a certain word in it."""
    push = DirectoryStore.push

    async def picky(store: DirectoryStore, runs: Sequence[Run]) -> list[Pushed]:
        if any(b"forbidden" in change for each in runs for change in each.changes):
            raise RemoteRejected("that word is not taken here")
        return await push(store, runs)

    monkeypatch.setattr(DirectoryStore, "push", picky)


# Help.


@pytest.mark.parametrize("command", REPAIRS, ids=" ".join)
def test_help_tells_the_exit_codes(command: list[str], run: Invoke) -> None:
    text = " ".join(run(*command, "--help").output.split())
    assert "5 something is in quarantine and no other code holds" in text
    assert "6 here and central store differ" in text
    assert "--json" in text
    assert "--store PATH" in text


@pytest.mark.parametrize("command", [["quarantine"], ["quarantine", "retry", "--all"], ["verify"], ["reseed"]])
def test_none_of_them_makes_a_store(command: list[str], run: Invoke, tmp_path: Path, central: str) -> None:
    remote = ["--remote", central] if command == ["verify"] else []
    result = run(*command, *remote, "--store", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "there is no store in" in error_of(result)
    assert not (tmp_path / "nowhere").exists()


# What is in quarantine.


def test_nothing_is_in_quarantine(run: Invoke) -> None:
    result = run("quarantine")
    assert (result.exit_code, result.output) == (0, "nothing is in quarantine\n")
    assert run("quarantine", "--json").output == "[]\n"
    result = run("quarantine", "retry", "--all")
    assert (result.exit_code, result.output) == (0, "0 sessions to be tried again at the next sync\n")


def test_sync_once_goes_on_with_all_others_and_says_so(run: Invoke, central: str, poisoned: str) -> None:
    with localfirst.open(run_home(run)) as store:
        store.session("good").add_message("user", "also this")
        store.session(poisoned).add_message("user", "pushed though it can't be pulled")
    result = run("sync", "--once", "--remote", central)
    assert result.exit_code == 5
    assert "1 session in quarantine: see `localfirst quarantine`" in error_of(result)
    found = json.loads(run("sync", "--once", "--remote", central, "--json").stdout)
    assert (found["pending_changes"], found["quarantined"]) == (0, 1)


def test_sync_once_fetches_also_when_something_is_refused(
    run: Invoke, home: Path, central: str, tmp_path: Path, refusing: None
) -> None:
    with localfirst.open(home) as store:
        store.session("user-1").add_message("user", "forbidden")
    with localfirst.open(tmp_path / "other", remote=central, worker="none") as other:
        other.session("new").add_message("user", "from elsewhere")
    assert run("sync", "--once", "--remote", central).exit_code == 5
    assert "from elsewhere" in run("show", "new").output


def run_home(run: Invoke) -> Path:
    return Path(json.loads(run("status", "--json").stdout)["path"])


def test_quarantine_tells_session_direction_since_and_reason(run: Invoke, central: str, poisoned: str) -> None:
    run("sync", "--once", "--remote", central)
    result = run("quarantine")
    title, row, *_ = result.output.splitlines()
    assert result.exit_code == 5
    assert title.split() == ["session", "direction", "since", "reason"]
    assert row.startswith("user-1   pull       0 s ago")
    assert "change 2 in the central log" in row
    (told,) = json.loads(run("quarantine", "--json").output)
    assert (told["session_id"], told["direction"]) == ("user-1", "pull")
    assert told["since"].endswith("+00:00")
    assert "change 2" in told["reason"]


def test_ls_and_status_show_it(run: Invoke, central: str, poisoned: str) -> None:
    with localfirst.open(run_home(run)) as store:
        store.session(poisoned).add_message("user", "waits")
    run("sync", "--once", "--remote", central)
    with localfirst.open(run_home(run)) as store:
        store.session(poisoned).add_message("user", "waits again")  # Pending does not hide it.
    for remote in ([], ["--remote", central]):
        infos = json.loads(run("ls", "--json", *remote).output)
        assert {info["session_id"]: info["state"] for info in infos} == {"good": "synced", "user-1": "quarantined"}
    result = run("status")
    assert result.exit_code == 3
    assert "1 session (user-1): see `localfirst quarantine`" in result.output
    assert json.loads(run("status", "--json").output)["quarantined"] == 1
    assert "quarantined" in run("show", "user-1").output


def test_what_is_in_quarantine_has_one_exit_code_everywhere(
    run: Invoke, home: Path, central: str, refusing: None
) -> None:
    """5 where all else is well, in every command that tells how things stand; else what is wrong beside it."""
    run("sync", "--once", "--remote", central)
    with localfirst.open(home) as store:
        store.session("user-1").add_message("user", "forbidden")
    remote = ["--remote", central]
    telling = (["status", *remote], ["verify", *remote], ["quarantine"], ["sync", "--once", *remote])
    assert [run(*command).exit_code for command in telling] == [3, 0, 0, 5]
    assert [run(*command).exit_code for command in telling] == [5, 5, 5, 5]
    assert run("status").exit_code == 5
    assert run("verify", "good", "--remote", central).exit_code == 0
    assert json.loads(run("status", "--json").output)["quarantined_changes"] == 1
    with localfirst.open(home) as store:
        store.session("good").add_message("user", "waits, and could go")
    assert run("status").exit_code == 3
    assert run("sync", "--once", "--remote", UNREACHABLE, "--timeout", "0.3").exit_code == 3
    lose(central, "good")
    assert run("verify", "--remote", central).exit_code == 6
    for command in (["ls"], ["show", "user-1"], ["reseed"]):  # They tell something else.
        assert run(*command).exit_code == 0


def test_sync_that_ends_with_nothing_left_but_what_is_in_quarantine(home: Path, central: str, poisoned: str) -> None:
    command = [sys.executable, "-m", "localfirst", "sync", "--store", str(home), "--remote", central, "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while not json.loads(process.stdout.readline())["quarantined"]:
            pass
        process.terminate()
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 5
    assert errors.endswith("1 session in quarantine: see `localfirst quarantine`\n")


def test_retry_without_a_repair_comes_back(run: Invoke, central: str, poisoned: str) -> None:
    run("sync", "--once", "--remote", central)
    for command in (["quarantine", "retry", poisoned], ["quarantine", "retry", "--all"]):
        result = run(*command)
        assert (result.exit_code, result.output) == (0, "1 session to be tried again at the next sync\n")
        assert run("quarantine").exit_code == 0
        assert run("sync", "--once", "--remote", central).exit_code == 5
    assert json.loads(run("quarantine", "retry", poisoned, "--json").output) == {"retried": [poisoned]}


def test_retry_wants_sessions_or_all(run: Invoke) -> None:
    for arguments in ([], ["user-1", "--all"]):
        result = run("quarantine", "retry", *arguments)
        assert result.exit_code == 2
        assert "--all" in result.stderr


def test_what_is_not_in_quarantine_is_told_before_anything_is_done(run: Invoke, central: str, poisoned: str) -> None:
    run("sync", "--once", "--remote", central)
    for command in (["retry", poisoned, "good"], ["discard", "good", "--yes"], ["retry", "nobody"]):
        result = run("quarantine", *command)
        assert result.exit_code == 4
        assert "not in the quarantine" in error_of(result)
    assert run("quarantine").exit_code == 5


@pytest.mark.parametrize("option", [["--store", "/tmp"], ["--namespace", "other"], ["--json"]])
def test_an_option_before_the_command_is_not_lost_in_silence(option: list[str], run: Invoke) -> None:
    """`quarantine --store A discard S` must not discard in another store."""
    result = run("quarantine", *option, "discard", "user-1", "--yes")
    assert result.exit_code == 2
    assert "put it behind" in result.stderr


def test_discard_asks_and_says_what_is_passed_over(run: Invoke, central: str, poisoned: str) -> None:
    run("sync", "--once", "--remote", central)
    refused = run("quarantine", "discard", poisoned, input="n\n")
    assert refused.exit_code == 1
    assert "Change 2 of the central log" in refused.stderr
    assert run("quarantine").exit_code == 5
    result = run("quarantine", "discard", poisoned, input="y\n")
    assert result.exit_code == 0
    assert result.stdout.endswith("\nuser-1 goes on at the next sync\n")
    assert run("quarantine").exit_code == 0
    assert run("sync", "--once", "--remote", central).exit_code == 0
    assert "behind it" in run("show", poisoned).output


def test_discard_says_exactly_which_changes_are_dropped(run: Invoke, home: Path, central: str, refusing: None) -> None:
    with localfirst.open(home) as store:
        session = store.session("user-1")
        session.set("before", 1)
        session.add_message("user", "a forbidden\n\x1b[31mword")
        session.set("after", 2)
    assert run("sync", "--once", "--remote", central).exit_code == 5
    result = run("quarantine", "discard", "user-1", input="n\n")
    first, second, _ = result.stderr.splitlines()
    assert first == "1 change of 2 that wait for the central store, which refuses it:"
    assert re.fullmatch(r"  add user: a forbidden .?\[31mword", second)
    result = run("quarantine", "discard", "user-1", "--yes", "--json")
    assert json.loads(result.stdout)["discarded"][0] == first
    assert run("sync", "--once", "--remote", central).exit_code == 0
    told = json.loads(run("show", "user-1", "--json").output)
    assert [item["content"] for item in told["items"]] == ["Hello"]
    assert told["metadata"] == {"after": 2, "before": 1}


def test_discard_describes_every_kind_of_change(run: Invoke, home: Path, central: str, refusing: None) -> None:
    with localfirst.open(home) as store, store.session("user-1").turn():
        session = store.session("user-1")
        session.add_message("user", "forbidden")
        session.pop_message()
        session.clear()
        session.set("key", [1])
        session.increment("number", by=3)
        session.delete("key")
        for number in range(5):
            session.add_message("user", f"word {number}")
    run("sync", "--once", "--remote", central)
    lines = run("quarantine", "discard", "user-1", input="n\n").stderr.splitlines()
    assert lines[0] == "12 changes for the central store, which refuses it:"
    assert [line.strip() for line in lines[1:12]] == [
        "add user: forbidden",
        "remove an item",
        "remove all items that were there",
        'set "key" to [1]',
        'add 3 to "number"',
        'delete "key"',
        *(f"add user: word {number}" for number in range(4)),
        "…",
    ]


@pytest.fixture
def damaged(run: Invoke, home: Path, central: str, tmp_path: Path) -> Path:
    """A second store, of which `user-1` is in quarantine: its central log is not what its own digest says."""
    assert run("sync", "--once", "--remote", central).exit_code == 0
    alter(central)
    second = tmp_path / "second"
    assert run("sync", "--once", "--remote", central, "--store", second).exit_code == 5
    return second


def test_a_log_that_is_damaged_as_a_whole_can_not_be_given_up_and_advice_says_so(
    run: Invoke, home: Path, central: str, damaged: Path
) -> None:
    where = ["--store", damaged]
    listed = run("quarantine", *where)
    assert "discard" not in listed.output
    assert "delete the session there" in listed.output
    assert not any(each["can_discard"] for each in json.loads(run("quarantine", "--json", *where).output))
    result = run("quarantine", "discard", "user-1", "--yes", *where)
    assert result.exit_code == 1
    assert "delete the session there" in error_of(result)
    lose(central, "user-1")  # As it says: and whoever has it, sends it again.
    for store in (home, damaged):
        run("quarantine", "retry", "--all", "--store", store)
        assert run("sync", "--once", "--remote", central, "--store", store).exit_code == 0
    assert run("verify", "--full", "--remote", central, *where).exit_code == 0
    assert "Hello" in run("show", "user-1", *where).output


def test_advice_is_for_each_that_it_helps(run: Invoke, home: Path, central: str, damaged: Path, refusing: None) -> None:
    with localfirst.open(damaged) as store:
        store.session("good").add_message("user", "forbidden")
    run("sync", "--once", "--remote", central, "--store", damaged)
    found = json.loads(run("quarantine", "--json", "--store", damaged).output)
    assert {each["session_id"]: each["can_discard"] for each in found} == {"good": True, "user-1": False}
    output = " ".join(run("quarantine", "--store", damaged).output.split())
    assert "`localfirst quarantine discard` gives up" in output
    assert "Not user-1. " in output


def test_ls_shows_what_is_in_quarantine_though_nothing_of_it_is_here(run: Invoke, damaged: Path) -> None:
    infos = json.loads(run("ls", "--json", "--store", damaged).output)
    assert [(info["session_id"], info["items"], info["state"]) for info in infos] == [
        ("good", 1, "synced"),
        ("user-1", 0, "quarantined"),
    ]
    assert "quarantined" in run("ls", "--store", damaged).output
    assert "quarantined" in run("show", "user-1", "--store", damaged).output
    with localfirst.open(damaged) as store:
        assert [info.session_id for info in store.sessions(idle_for=0)] == ["good"]


# Verify.


def alter(central: str, session_id: str = "user-1") -> None:
    """In a directory as central store, change the first change of a session, and not the digest beside it."""
    store = DirectoryStore(central, "default")
    key = store._keys.entry(session_id, 1)
    value = store._rows.get(key)
    assert value is not None
    assert b"Hello" in value
    store._rows.put(key, value.replace(b"Hello", b"Jello"))
    store._rows.close()


def test_verify_when_all_agree(run: Invoke, home: Path, central: str) -> None:
    run("sync", "--once", "--remote", central)
    for options in ([], ["--full"], ["user-1"], ["user-1", "--full"]):
        result = run("verify", *options, "--remote", central)
        assert result.exit_code == 0
        assert "compared, no difference\n" in result.output
    found = json.loads(run("verify", "--remote", central, "--json").output)
    assert found == {
        "ok": True,
        "sessions": [
            {"session_id": name, "problem": "", "pending": 0, "lost": False}
            for name in sorted(("good", "user-1"), key=order_of(home))
        ],
    }


def order_of(home: Path) -> Callable[[str], bytes]:
    from localfirst.records import session_key

    return lambda session_id: session_key("default", session_id)


def test_verify_sends_nothing_and_tells_what_waits(run: Invoke, home: Path, central: str, tmp_path: Path) -> None:
    run("sync", "--once", "--remote", central)
    with localfirst.open(home) as store:
        store.session("user-1").add_message("user", "waits")
    result = run("verify", "--remote", central)
    assert (result.exit_code, result.output) == (0, "2 sessions compared, no difference; 1 change not sent yet\n")
    with localfirst.open(tmp_path / "other", remote=central, worker="none") as other:
        other.refresh(5)
        assert len(other.session("user-1")) == 1


def test_verify_finds_what_was_altered_behind_the_back_of_the_central_store(run: Invoke, central: str) -> None:
    run("sync", "--once", "--remote", central)
    alter(central)
    assert run("verify", "--remote", central).exit_code == 0  # Its digest is as it was.
    result = run("verify", "--remote", central, "--full")
    assert result.exit_code == 6
    title, row, _, summary = result.output.splitlines()
    assert title.split() == ["session", "pending", "problem"]
    assert "not what its own digest says" in row
    assert summary == "1 problem in 2 sessions"
    found = json.loads(run("verify", "--remote", central, "--full", "--json").output)
    assert not found["ok"]
    assert sorted(bool(check["problem"]) for check in found["sessions"]) == [False, True]


def test_verify_finds_a_session_that_is_lost_and_changes_nothing(run: Invoke, home: Path, central: str) -> None:
    run("sync", "--once", "--remote", central)
    lose(central, "user-1")
    before = rows_of(home)
    for _ in range(2):
        result = run("verify", "--remote", central)
        assert result.exit_code == 6
        assert "it is not in the central store any more" in result.output
        assert "`localfirst sync` sends" in result.output
        assert run("quarantine").exit_code == 0
    assert rows_of(home) == before
    assert asyncio.run(sessions_in(central)) == ["good"]
    found = json.loads(run("verify", "user-1", "--remote", central, "--json").output)
    assert [(check["session_id"], check["lost"]) for check in found["sessions"]] == [("user-1", True)]
    assert run("sync", "--once", "--remote", central).exit_code == 0
    assert run("verify", "--remote", central).exit_code == 0


def test_a_lost_session_that_somebody_is_asked_about(run: Invoke, central: str) -> None:
    run("sync", "--once", "--remote", central)
    lose(central, "user-1")
    assert run("sync", "--once", "--remote", central, "--on-remote-loss", "ask").exit_code == 5
    (told, _) = json.loads(run("quarantine", "--json").output)
    assert "lost" in told["reason"]
    result = run("verify", "--remote", central)
    assert result.exit_code == 6
    assert told["reason"] in result.output
    assert run("quarantine").exit_code == 5  # A look releases nothing either.
    lines = run("quarantine", "discard", "user-1", input="n\n").stderr.splitlines()
    assert lines[0] == "Everything of this session is dropped here: the central store has lost it."
    assert run("quarantine", "retry", "user-1").exit_code == 0
    assert run("sync", "--once", "--remote", central, "--on-remote-loss", "ask").exit_code == 0
    assert run("verify", "--remote", central).exit_code == 0


def test_verify_finds_that_the_central_store_is_another_one_and_changes_nothing(
    run: Invoke, home: Path, central: str, tmp_path: Path
) -> None:
    run("sync", "--once", "--remote", central)
    with localfirst.open(home) as store:
        store.session("new").add_message("user", "never sent")
    other, before = (tmp_path / "other central").as_uri(), rows_of(home)
    result = run("verify", "--remote", other)
    assert result.exit_code == 6
    assert result.output.count("was emptied") == 2
    assert "`localfirst reseed`" in result.output
    assert "2 problems in 3 sessions; 1 change not sent yet" in result.output
    assert (rows_of(home), asyncio.run(sessions_in(other))) == (before, [])
    assert json.loads(run("reseed", "--json").output) == {"accepted": False}
    assert run("verify", "--remote", central).exit_code == 0  # A wrong URL, put right.
    assert run("sync", "--once", "--remote", other).exit_code == 0
    assert run("verify", "--remote", other).exit_code == 0


def rows_of(home: Path) -> list[tuple[bytes, bytes]]:
    """All that is on the disk of a store."""
    with closing(Rows(home / "data")) as rows:
        return rows.range(b"", b"\xff")


def lose(central: str, session_id: str) -> None:
    """What of a session is in a directory as central store goes."""
    store = DirectoryStore(central, "default")
    lives = Lives(store._rows, store._keys)
    with store._rows.transaction():
        assert lives.session(session_id) is not None
        lives.clear(session_id)
    store._rows.close()


def test_verify_of_what_can_not_be_verified(run: Invoke, central: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("verify").exit_code == 2
    for unknown in (["nobody"], ["--namespace", "nobody"], ["user-1", "--namespace", "nobody"]):
        nobody = run("verify", *unknown, "--remote", central)
        assert nobody.exit_code == 4
        assert "nobody" in error_of(nobody)
    assert not Path(urlsplit(central).path).exists()
    monkeypatch.setenv("LOCALFIRST_REMOTE", UNREACHABLE)
    away = run("verify", "--timeout", "0.3")
    assert away.exit_code == 3
    assert "after 0.3 s" in error_of(away)
    assert "hunter2" not in away.output + away.stderr


# A central store that is another one.


def test_reseed_when_nobody_asks(run: Invoke, central: str) -> None:
    run("sync", "--once", "--remote", central)
    result = run("reseed")
    assert result.exit_code == 0
    assert "nobody asks" in result.output
    assert json.loads(run("reseed", "--json").output) == {"accepted": False}


def test_sync_once_asks_before_it_fills_another_central_store(run: Invoke, central: str, tmp_path: Path) -> None:
    assert run("sync", "--once", "--remote", central, "--on-remote-loss", "ask").exit_code == 0
    other = (tmp_path / "other central").as_uri()
    for _ in range(2):
        result = run("sync", "--once", "--remote", other, "--on-remote-loss", "ask")
        assert result.exit_code == 3
        assert "`localfirst reseed`" in error_of(result)
    assert run("verify", "--remote", other).exit_code == 6
    assert asyncio.run(sessions_in(other)) == []
    result = run("reseed")
    assert (result.exit_code, result.output[:6]) == (0, "agreed")
    assert run("sync", "--once", "--remote", other, "--on-remote-loss", "ask").exit_code == 0
    assert asyncio.run(sessions_in(other)) == ["good", "user-1"]
    assert json.loads(run("reseed", "--json").output) == {"accepted": False}


async def sessions_in(url: str) -> list[str]:
    store = connect(url, "default")
    try:
        return await store.sessions("", 100)
    finally:
        await store.close()


def test_sync_once_fills_another_central_store_unless_told_otherwise(run: Invoke, central: str, tmp_path: Path) -> None:
    assert run("sync", "--once", "--remote", central).exit_code == 0
    other = (tmp_path / "other central").as_uri()
    assert run("sync", "--once", "--remote", other).exit_code == 0
    assert asyncio.run(sessions_in(other)) == ["good", "user-1"]


def test_on_remote_loss_takes_two_words(run: Invoke, central: str) -> None:
    result = run("sync", "--once", "--remote", central, "--on-remote-loss", "perhaps")
    assert result.exit_code == 2


def test_status_says_what_to_do_and_a_process_that_waits_goes_on(
    run: Invoke, home: Path, central: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sync.worker.LONGEST_WAIT", 0.2)
    run("sync", "--once", "--remote", central)
    other = (tmp_path / "other central").as_uri()
    with localfirst.open(home, remote=other, on_remote_loss="ask") as store:
        eventually(lambda: store.status().state == "blocked")
        result = run("status", "--remote", other)
        assert result.exit_code == 3
        assert "blocked" in result.output
        assert "()" not in json.loads(run("status", "--remote", other, "--json").output)["last_error"]
        assert "`localfirst reseed`" in " ".join(result.output.split())
        assert run("reseed").exit_code == 0
        eventually(lambda: store.status().state == "online")
        store.flush(5)
        assert run("status", "--remote", other).exit_code == 0
