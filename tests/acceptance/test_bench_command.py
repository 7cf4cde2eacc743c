"""`localfirst bench`: it measures what it says, and leaves nothing behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import localfirst
from localfirst.cli.app import app
from localfirst.cli.bench import measure as measuring
from localfirst.cli.bench.measure import Series
from localfirst.cli.bench.plot import table
from sync.central import connect

LOCAL = ["add 1", "bare insert", "add 1, full", "bare insert, full", "get 100"]


def bench(*arguments: object) -> Result:
    """Run it, for a moment."""
    found = CliRunner().invoke(app, ["bench", "--seconds", "0.5", *map(str, arguments)])
    assert found.exit_code == 0, found.output
    return found


def test_it_measures_the_disk_and_draws_what_it_found(tmp_path: Path) -> None:
    shown = bench("--store", tmp_path / "store").stdout
    assert all(title in shown for title in LOCAL)
    assert str(tmp_path) in shown
    assert "█" in shown
    assert list(tmp_path.iterdir()) == []


def test_it_measures_the_central_store(tmp_path: Path, remote_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with localfirst.open(tmp_path / "store", remote=remote_url) as store:
        store.session("mine").add_message("user", "Hello")
        before = store.status().disk_bytes
    monkeypatch.setenv("LOCALFIRST_REMOTE", remote_url)
    found: dict[str, Any] = json.loads(bench("--store", tmp_path / "store", "--json").stdout)
    assert [row["name"] for row in found["local"]] == LOCAL
    for row in found["local"] + found["replicated"]:
        times = row["seconds"]
        assert 0 < times["median"] <= times["p99"] <= times["longest"] < 10
        assert row["calls"] >= 1
    assert found["items_per_second"] > 100
    assert bool(found["replicated"]) is not remote_url.startswith("file")
    with localfirst.open(tmp_path / "store", remote="") as store:
        assert [info.session_id for info in store.sessions()] == ["mine"]
        assert store.status().disk_bytes == pytest.approx(before, abs=1 << 20)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".localfirst-bench")]


async def test_nothing_of_it_stays_in_the_central_store(tmp_path: Path, redis_url: str, monkeypatch: Any) -> None:
    namespaces: list[str] = []
    opened = localfirst.open

    def noted(*arguments: Any, **options: Any) -> localfirst.Store:
        namespaces.append(options.get("namespace", ""))
        return opened(*arguments, **options)

    monkeypatch.setattr(localfirst, "open", noted)
    bench("--store", tmp_path / "store", "--remote", redis_url)
    (namespace,) = {name for name in namespaces if name}
    central = connect(redis_url, namespace)
    try:
        assert await central.sessions("", 10) == []
    finally:
        await central.close()


def test_a_server_that_can_not_be_reached_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "_PATIENCE", 0.5)
    result = CliRunner().invoke(
        app, ["bench", "--seconds", "0.1", "--store", str(tmp_path / "s"), "--remote", "redis://:pw@127.0.0.1:1"]
    )
    assert result.exit_code != 0
    assert "127.0.0.1" in result.output
    assert ":pw@" not in result.output


def test_the_plot_has_a_column_for_every_time() -> None:
    drawn = table([Series("short", "", [0.0000123]), Series("long", "", [0.9, 0.00099])], "Times")
    assert drawn.row_count == 2
