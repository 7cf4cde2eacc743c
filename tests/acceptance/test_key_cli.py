"""The command line of a store that is sealed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

import localfirst
from localfirst import KeyRing
from localfirst.cli.app import app

OLD, NEW = KeyRing.generate(), KeyRing.generate()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A sealed store, in sync with a directory."""
    directory = tmp_path / "store"
    with localfirst.open(directory, remote=(tmp_path / "central").as_uri(), encryption_key=OLD) as store:
        store.session("user-1").add_message("user", "a secret")
        store.flush(60)
    return directory


def run(*arguments: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), env=env)


def test_a_key_comes_from_a_file_or_the_environment(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# the newest first\n\n  # another remark\n{NEW}\n{OLD}\n")
    show = ["show", "user-1", "--store", str(home)]
    for done in (
        run("--key-file", str(file), *show),
        run(*show, env={"LOCALFIRST_KEY_FILE": str(file)}),
        run(*show, env={"LOCALFIRST_KEY": OLD}),
    ):
        assert done.exit_code == 0, done.output
        assert "a secret" in done.output


def test_a_key_file_may_begin_as_some_editors_have_it(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{OLD}\r\n", encoding="utf-8-sig")
    done = run("--key-file", str(file), "show", "user-1", "--store", str(home))
    assert done.exit_code == 0, done.output


@pytest.mark.parametrize("env", [{}, {"LOCALFIRST_KEY": NEW}])
def test_without_it_that_is_told(home: Path, env: dict[str, str]) -> None:
    done = run("show", "user-1", "--store", str(home), env=env)
    assert done.exit_code == 1
    assert "sealed with key" in done.output
    assert "a secret" not in done.output
    listed = run("ls", "--store", str(home), "--json", env=env)
    assert [each["state"] for each in json.loads(listed.stdout)] == ["sealed"]
    assert run("status", "--store", str(home), env=env).exit_code == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [("", "there is no key in"), ("short", "at least 8"), (None, "can't be read"), ("\udcff", "no key file")],
)
def test_a_file_that_is_none_is_refused(home: Path, tmp_path: Path, text: str | None, problem: str) -> None:
    file = tmp_path / "keys"
    if text is not None:
        file.write_bytes(text.encode(errors="surrogateescape"))
    done = run("--key-file", str(file), "ls", "--store", str(home))
    assert done.exit_code == 1
    assert problem in done.output
    assert "short" not in done.output


def test_rotates(home: Path, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text(f"{NEW}\n{OLD}\n")
    remote = (tmp_path / "central").as_uri()
    rotate = ["rotate", "--store", str(home), "--remote", remote]
    done = run("--key-file", str(file), *rotate)
    assert (done.exit_code, done.stdout) == (0, "1 session is sealed with the newest key\n")
    assert "a secret" in run("show", "user-1", "--store", str(home), env={"LOCALFIRST_KEY": NEW}).output
    again = run(*rotate, "--json", env={"LOCALFIRST_KEY": NEW})
    assert json.loads(again.stdout) == {"ok": True, "sessions": 1, "left": {}}
    with localfirst.open(tmp_path / "other", remote=remote, encryption_key=NEW) as other:
        other.refresh(60)
        assert other.session("user-1").get_messages() == [{"role": "user", "content": "a secret"}]


def test_tells_what_it_could_not_rotate(home: Path, tmp_path: Path) -> None:
    done = run("rotate", "--store", str(home), "--remote", (tmp_path / "central").as_uri(), env={"LOCALFIRST_KEY": NEW})
    assert done.exit_code == 3
    assert "user-1" in done.stderr
    assert "sealed with key" in done.stderr
    none = run("rotate", "--store", str(home))
    assert (none.exit_code, "no key" in none.output) == (1, True)


def test_sync_needs_the_key_to_fetch(home: Path, tmp_path: Path) -> None:
    remote, other = (tmp_path / "central").as_uri(), tmp_path / "other"
    sync = ["sync", "--once", "--store", str(other), "--remote", remote]
    done = run(*sync)
    assert done.exit_code == 5, done.output
    assert "a secret" not in done.output
    assert run(*sync, env={"LOCALFIRST_KEY": OLD}).exit_code == 0
    assert "a secret" in run("show", "user-1", "--store", str(other), env={"LOCALFIRST_KEY": OLD}).output
