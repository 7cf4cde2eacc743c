"""The demo: it plays to the end on every kind of central store, and only success is called success."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst.cli.demo.command import _conclusion
from localfirst.cli.demo.direct import Direct
from localfirst.cli.demo.play import Result
from localfirst.cli.demo.script import load

ROOT = Path(__file__).parents[2]


def demo(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The demo in a process of its own, with a directory for temporary files that must be empty afterwards."""
    scratch = tmp_path / "scratch"
    scratch.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "localfirst.cli", "demo", *arguments],
        env=os.environ | {"TMPDIR": str(scratch), "LOCALFIRST_REMOTE": "redis://:hunter2@127.0.0.1:1/0"},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert list(scratch.iterdir()) == []
    return done


def assert_equal_at_the_end(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "replicas are equal" in done.stdout.splitlines()[-1]
    assert done.stderr == ""
    assert "\x1b" not in done.stdout


def test_in_a_directory(tmp_path: Path) -> None:
    done = demo(tmp_path)
    assert_equal_at_the_end(done)
    assert "a directory on this machine" in done.stdout
    assert "fsynced SQLite INSERT" in done.stdout
    assert "10 pending" in done.stdout


@pytest.mark.integration
def test_on_redis(redis_url: str, tmp_path: Path) -> None:
    done = demo(tmp_path, "--remote", redis_url)
    assert_equal_at_the_end(done)
    assert "RPUSH to the same Redis" in done.stdout
    assert "not measured" not in done.stdout


@pytest.mark.integration
def test_on_postgres_again_and_again(postgres_url: str, tmp_path: Path) -> None:
    for _ in range(2):
        done = demo(tmp_path, "--remote", postgres_url)
        assert_equal_at_the_end(done)
        assert "INSERT into the same Postgres" in done.stdout
        assert "not measured" not in done.stdout
    with localfirst.open(tmp_path / "look", remote=postgres_url, namespace="localfirst-demo", worker="none") as store:
        store.refresh(10)
        assert [info.items for info in store.sessions()] == [40, 40]


@pytest.mark.integration
def test_on_servers_of_its_own(tmp_path: Path) -> None:
    done = demo(tmp_path, "--servers")
    assert_equal_at_the_end(done)
    assert done.stdout.splitlines()[-1].endswith("on Redis and on Postgres")
    for title in ("Redis", "Postgres"):
        assert f"The {title} server is shut down" in done.stdout
    assert "offline" in done.stdout


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "remote").write_text("redis://:hunter2@127.0.0.1:1/0")
    done = demo(tmp_path, "--remote", f"@{tmp_path / 'remote'}")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("localfirst: redis://127.0.0.1:1: ")
    assert "hunter2" not in done.stdout + done.stderr


def test_servers_and_a_remote_exclude_each_other(tmp_path: Path) -> None:
    assert demo(tmp_path, "--servers", "--remote", "redis://host").returncode == 2


@pytest.mark.parametrize("flaw", ["same_items", "same_metadata", "complete"])
def test_a_difference_is_not_called_equal(flaw: str) -> None:
    def result(same_items: bool = True, same_metadata: bool = True, complete: bool = True) -> Result:
        return Result("id", 40, 40, same_items, same_metadata, complete, 1e-5, 1e-5, Direct("a write", None))

    assert result().equal
    assert not result(**{flaw: False}).equal
    assert "NOT equal" in _conclusion(result(**{flaw: False})).plain


def test_the_conversation_is_a_real_one() -> None:
    turns = load()
    items: list[Any] = [item for turn in turns for item in turn.items]
    calls = [item for item in items if item["type"] == "function_call"]
    outputs = [item for item in items if item["type"] == "function_call_output"]
    assert 6 <= len(turns) <= 8
    assert Counter(call["call_id"] for call in calls) == Counter(output["call_id"] for output in outputs)
    for item in calls:
        assert isinstance(json.loads(item["arguments"]), dict)
    for turn in turns:
        assert [turn.items[0]["role"], turn.items[-1]["role"]] == ["user", "assistant"]


def test_the_wheel_will_bring_the_conversation() -> None:
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert '"examples/data/conversation.json" = "localfirst/cli/demo/conversation.json"' in project
