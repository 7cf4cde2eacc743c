"""docs/metadata.md: its snippets run and print what they say, and its table is what the rules do."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst.metadata import RULES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "metadata.md").read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in PAGE.split("| rule | of two", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
]


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(code: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=ROOT,
        env={"PATH": "", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    for promised in re.findall(r"print\(.*\)  # (.*)", code):
        assert promised in run.stdout.splitlines()


def test_the_table_has_every_rule() -> None:
    assert [row[0] for row in ROWS] == [*RULES, "increment()"]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_a_row_of_the_table(row: list[str], tmp_path: Path) -> None:
    rule, _, before, first, second, after = row
    remote = (tmp_path / "central").as_uri()
    stores = [localfirst.open(tmp_path / name, remote=remote, worker="none") for name in ("one", "other")]
    one, other = (store.session("s") for store in stores)
    if before:
        one.set("k", json.loads(before))
        one.flush(10)
        other.refresh(10)
    for session, value in ((one, first), (other, second)):
        write(session, rule, value)
    for store in stores:
        store.flush(10)
    one.refresh(10)
    assert one.get("k") == other.get("k") == json.loads(after)
    assert len(one.conflicts()) == (0 if rule == "increment()" else 1)
    for store in stores:
        store.close()


def write(session: localfirst.Session, rule: Any, value: str) -> None:
    if rule == "increment()":
        session.increment("k", int(value))
    else:
        session.set("k", json.loads(value), merge=rule)


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\((#[^)]+)\)", PAGE):
        assert f"## {target[1:]}" in PAGE.lower()
