"""docs/migrating.md: its snippet runs and prints what it says, and its options are there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from localfirst.cli.app import app

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "migrating.md").read_text()


def test_snippet(tmp_path: Path) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
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
    promised = re.findall(r"print\(.*\)  # (.*)", code)
    assert run.stdout.splitlines() == promised


def test_its_options_are_there() -> None:
    told = CliRunner().invoke(app, ["import", "--help"]).output
    named = {option for line in PAGE.splitlines() for option in re.findall(r"--[a-z][a-z-]+", line)}
    assert named
    assert {option for option in named if option not in told} == set()
