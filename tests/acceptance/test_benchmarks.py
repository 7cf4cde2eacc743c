"""The benchmarks run and report; how fast anything was is not for a test to judge."""

from __future__ import annotations

import json
import subprocess
import sys
from inspect import signature
from pathlib import Path
from typing import Any

import pytest

import localfirst
from benchmarks.checks import Check
from benchmarks.idle import LONG
from benchmarks.report import as_markdown, verdict
from benchmarks.timing import Series, measure, percentile
from sync.worker import CALM_AFTER

pytestmark = pytest.mark.xdist_group("benchmarks")  # One run is enough for all.

ROOT = Path(__file__).parents[2]
SYSTEMS = {"localfirst", "localfirst-full", "sqlite"}
WORK = {"add_1", "add_10", "get_100", "get_1000", "last_20", "pop", "turn", "open"}

LATENCY = ["≤ 10", "≤ 50", "≤ 0.5", "≤ 1", "≤ 1.3", "≤ 50"]
CROWD = ["≤ 1.5", "≤ 1.5"]
WANTED = {
    "Redis": [*LATENCY, "≥ 0.5", "≥ 5", "≥ 0.7", "≤ 1.2", "≥ 0.4", "≤ 2", *CROWD],
    "Postgres": [*LATENCY, "≤ 50", "≥ 0.4", "≥ 5", "≥ 0.7", "≤ 1.2", "≥ 0.4", "≤ 2", *CROWD],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A quick run in a process of its own: its results, and what it printed."""
    path = tmp_path_factory.mktemp("benchmark") / "new" / "results.json"
    command = [sys.executable, "-m", "benchmarks", "local", "--quick", "--json", str(path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    return path, done.stdout


@pytest.fixture(scope="module")
def report(run: tuple[Path, str]) -> dict[str, Any]:
    """The results of a quick run."""
    path, _ = run
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def test_names_machine_and_versions(report: dict[str, Any]) -> None:
    assert set(report["machine"]) >= {"cpu", "cores", "python", "sqlite", "file_system"}
    assert set(report["versions"]) >= {"localfirst", "openai-agents", "diskcache", "msgspec"}
    assert report["settings"]["quick"]
    assert 250 <= report["settings"]["message_bytes"] <= 350


def test_measures_all_work_of_all_systems(report: dict[str, Any]) -> None:
    assert set(report["work"]) == WORK
    assert set(report["systems"]) >= SYSTEMS
    assert len(report["systems"]) + len(report["missing"]) == 8
    for system in report["systems"].values():
        assert system["durability"].startswith("fsync")
    for name in report["systems"]:
        assert set(report["results"][name]) == WORK
        for times in report["results"][name].values():
            assert_is_measured(times, report["settings"]["rounds"])


def test_measures_the_limits(report: dict[str, Any]) -> None:
    assert set(report["results"]) == {*report["systems"], *report["limits"]}
    assert set(report["results"]["bare-normal"]) == set(report["results"]["bare-full"]) == {"add_1"}
    assert set(report["results"]["bare-decode"]) == {"get_100", "get_1000"}


def test_measures_those_who_write_at_once(report: dict[str, Any]) -> None:
    found = report["together"]
    assert set(found["adds_per_second"]) == {"localfirst-full", "sqlite"}
    assert all(min(rounds) > 0 for rounds in found["adds_per_second"].values())
    crowd = found["crowd"]
    for name in ("localfirst", "sqlite"):
        assert_is_measured(found["one_session"][name], crowd["rounds"])
        assert found["one_session"][name]["calls"] == crowd["rounds"] * crowd["processes"] * crowd["adds"]


def test_measures_stores_of_many_sessions(report: dict[str, Any]) -> None:
    found = report["many"]
    for work in ("open", "add_1"):
        for size in ("few", "many"):
            assert_is_measured(found[work][size], found["counts"]["rounds"])
    assert 1 < found["disk"] < 3


def test_measures_beside_replication(report: dict[str, Any]) -> None:
    found = report["beside"]
    assert found["remote"] in ("Redis", "directory")
    assert found["backlog_changes_per_second"] > 0
    for name in ("alone", "idle", "busy"):
        assert_is_measured(found[name], report["settings"]["beside_rounds"])
    assert [size for size, _ in report["sizes"]] == ["10 items", "20,000 items"]


def test_measures_replication_itself(report: dict[str, Any]) -> None:
    settings = report["settings"]["replication"]
    assert {*report["replication"], *report["missing"]} >= {"Redis", "Postgres"}
    for found in report["replication"].values():
        for name in ("add", "message"):
            assert_is_measured(found[name], settings["rounds"])
            assert found[name]["calls"] == settings["rounds"] * settings["adds"]
        assert found["add"]["median"] > found["message"]["median"]
        assert len(found["idle"]["share"]) == settings["rest"]["rounds"]
        assert found["idle"]["requests"] > 0
        assert len(found["wire"]) == settings["rounds"]
        assert min(found["wire"]) > 1
        for name in ("evict", "fetch"):
            assert_is_measured(found["room"][name], settings["rounds"])
    assert_is_measured(report["replication"]["Postgres"]["sweep"], settings["rounds"])


def test_measures_bulk_and_crowds(report: dict[str, Any]) -> None:
    settings = report["settings"]["replication"]
    for name, found in report["replication"].items():
        bulk, crowd = dict(found["bulk"]), found["crowd"]
        assert bulk.pop("items") == 100 * settings["bulk"]["sessions"]
        assert (bulk.pop("best_push") == []) == (name == "Postgres")
        for rates in bulk.values():
            assert len(rates) == settings["bulk"]["rounds"]
            assert min(rates) > 0
        for times in crowd.values():
            assert set(times) == {str(settings["crowd"]["few"]), str(settings["crowd"]["many"])}
            for each in times.values():
                assert_is_measured(each, settings["crowd"]["rounds"])


def test_idle_stores_rest_for_a_minute_with_the_default_poll_interval() -> None:
    assert LONG.known == 1000
    assert LONG.rounds * LONG.seconds >= 60
    assert LONG.poll_interval == signature(localfirst.open).parameters["poll_interval"].default
    assert LONG.begins > CALM_AFTER


def test_says_of_every_figure_whether_it_is_met(report: dict[str, Any]) -> None:
    wanted = [check["wanted"] for check in report["checks"] if check["bound"] is not None]
    assert wanted == [
        "≤ 2.5",
        "≤ 1.15",
        "≤ 1.15",
        "≤ 1.4",
        "≤ 2",
        "≥ 10",
        "≥ 8",
        "≥ 4",
        "≥ 10",
        "≥ 8",
        "≥ 10",
        "≥ 4",
        "≥ 5",
        "≤ 20",
        "≤ 1.2",
        "≤ 50",
        "≤ 1.2",
        "≤ 96",
        "≤ 1.6",
        "≤ 2",
    ] + [bound for name in report["replication"] for bound in WANTED[name]]
    for check in report["checks"]:
        assert 0 < check["lowest"] <= check["seen"] <= check["highest"]
        if check["bound"] is None:
            assert check["met"] is None
        else:
            far = check["seen"] - check["bound"]
            assert check["met"] == (far <= 0 if check["at_most"] else far >= 0)


def test_shows_the_same_as_a_page_and_on_the_terminal(run: tuple[Path, str], report: dict[str, Any]) -> None:
    path, printed = run
    page = path.with_suffix(".md").read_text(encoding="utf-8")
    assert page == as_markdown(report)
    for text in (page, printed):
        assert "SQLiteSession" in text
        assert "bare msgspec decoding of one array" in text
        assert "From one process to another" in text
    assert verdict(report)[:40] in printed
    assert f"Written: {path}" in printed


def test_verdict_names_what_is_missed() -> None:
    missed, met = Check("slow", True, 2.0, [1.0, 3.0, 4.0]), Check("fast", False, 2.0, [2.0])
    report = {"settings": {"quick": False}, "checks": [missed.summary(), met.summary()]}
    assert verdict(report) == "Measured. 1 of 2 figures aimed at were seen on this machine; not: slow."
    assert verdict({**report, "checks": [met.summary()]}) == "Measured. Every figure aimed at was seen on this machine."


def test_results_are_ignored_and_cleaned_away() -> None:
    assert "benchmarks/results/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert "benchmarks/results" in (ROOT / "Makefile").read_text(encoding="utf-8").split("\nclean:")[1].split("find")[0]


async def test_measure_stops_in_time_but_not_before_a_few_calls() -> None:
    called = []

    async def call() -> None:
        called.append(1)

    assert len(await measure(call, 10, seconds=60.0)) == 10
    assert len(await measure(call, 10, seconds=0.0)) == 3
    assert len(called) == 10 + 3 + 2 * 2


def test_percentiles_and_medians() -> None:
    assert percentile(list(range(1, 101)), 0.99) == 99
    assert percentile([7], 0.99) == 7
    series = Series()
    series.rounds = [[1000, 2000, 3000], [4000]]
    assert series.medians == [2.0, 4.0]
    assert series.summary() == {"median": 2.5, "p99": 4.0, "calls": 4, "round_medians": [2.0, 4.0]}


def assert_is_measured(times: dict[str, Any], rounds: int) -> None:
    assert 0 < times["median"] <= times["p99"]
    assert times["calls"] >= rounds
    assert len(times["round_medians"]) == rounds
