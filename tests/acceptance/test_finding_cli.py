"""`localfirst ls --owner --where` and `localfirst search`."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import localfirst
from localfirst.cli.app import app

Invoke = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Invoke:
    """Run a command on a store with three sessions, in this process."""
    with localfirst.open(tmp_path / "store") as store:
        for session_id, owner, stars in (("a1", "alice", 1), ("a2", "alice", "1"), ("b1", "bob", 1)):
            session = store.session(session_id, owner=owner)
            session.add_message("user", f"Where is the Luggage of {owner}?")
            session.set("stars", stars)

    def invoke(*arguments: object, **options: Any) -> Result:
        where = {"LOCALFIRST_HOME": str(tmp_path / "store")}
        return CliRunner().invoke(app, [str(argument) for argument in arguments], env=where, **options)

    return invoke


def listed(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split()[0] for line in result.output.splitlines()[1:]]


def test_ls_by_owner_and_metadata(run: Invoke) -> None:
    heading, first, *_ = run("ls").output.splitlines()
    assert heading.split()[:3] == ["session", "owner", "items"]
    assert first.split()[:3] == ["a1", "alice", "1"]
    assert listed(run("ls", "--owner", "alice")) == ["a1", "a2"]
    assert listed(run("ls", "--where", "stars=1")) == ["a1", "b1"]
    assert listed(run("ls", "--where", 'stars="1"')) == ["a2"]
    assert listed(run("ls", "--where", "stars=1", "--where", "owner=bob")) == ["b1"]
    assert run("ls", "--owner", "carol").output == "no sessions\n"
    (info,) = json.loads(run("ls", "--owner", "bob", "--json").output)
    assert (info["owner"], info["metadata"]) == ("bob", {"owner": "bob", "stars": 1})


def test_where_without_a_value(run: Invoke) -> None:
    result = run("ls", "--where", "stars")
    assert result.exit_code == 2
    assert "has no =" in result.output


def test_ls_of_sessions_without_owners_has_no_column_for_them(run: Invoke, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "other") as store:
        store.session("s").add_message("user", "Hello")
    assert "owner" not in run("ls", "--store", tmp_path / "other").output


def test_search(run: Invoke) -> None:
    result = run("search", "luggage of")
    assert result.exit_code == 0
    assert result.output.splitlines() == [
        "b1 0 user: Where is the Luggage of bob?",
        "a2 0 user: Where is the Luggage of alice?",
        "a1 0 user: Where is the Luggage of alice?",
    ]
    assert len(run("search", "luggage", "--limit", "2").output.splitlines()) == 2
    assert len(run("search", "luggage", "--owner", "alice").output.splitlines()) == 2
    assert len(run("search", "luggage", "--prefix", "b").output.splitlines()) == 1
    assert run("search", "nowhere").output == "nothing found\n"
    assert run("search", "nowhere").exit_code == 0
    assert run("search", "").exit_code == 2
    assert run("search", "x", "--limit", "0").exit_code == 2


def test_search_as_json(run: Invoke) -> None:
    (match,) = json.loads(run("search", "LUGGAGE", "--owner", "bob", "--json").output)
    assert match == {
        "session_id": "b1",
        "index": 0,
        "item": {"role": "user", "content": "Where is the Luggage of bob?"},
        "excerpt": "Where is the Luggage of bob?",
        "branch": "main",
    }
    assert json.loads(run("search", "nowhere", "--json").output) == []


def test_what_is_found_can_not_control_the_terminal(run: Invoke, tmp_path: Path) -> None:
    with localfirst.open(tmp_path / "store") as store:
        session = store.session("evil\x1b[2J")
        session.add_message("user\x1b]0;title\x07", "[bold]not markup[/bold] \x1b[31mred\r\n \ud800", owner="\x1b")
        session.branch("\x1b[1m")
        session.owner = "\x1b[2J"
        session.switch("\x1b[1m")
        session.add_message("user", "markup on a branch")
    for command in (["search", "markup"], ["ls"]):
        text = run(*command).output
        assert not set("\x1b\x07\x9b\r\u202e\ud800") & set(text)
    assert "[bold]not markup[/bold]" in run("search", "markup").output
    assert len(run("search", "markup").output.splitlines()) == 2


def test_a_terminal_shows_what_was_found_in_colour(run: Invoke, tmp_path: Path) -> None:
    parent, child = pty.openpty()
    subprocess.run(
        [sys.executable, "-m", "localfirst", "search", "luggage", "--limit", "1"],
        env={"PATH": os.environ["PATH"], "LOCALFIRST_HOME": str(tmp_path / "store"), "TERM": "xterm-256color"},
        stdout=child,
        check=True,
        timeout=60,
    )
    os.close(child)
    shown = os.read(parent, 10_000).decode()
    os.close(parent)
    assert re.search(r"Where is the \x1b\[[0-9;]+mLuggage\x1b\[0m of bob\?", shown), shown
