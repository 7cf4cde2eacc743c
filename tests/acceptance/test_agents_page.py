"""docs/coming-from/openai-agents.md: its snippets run, and its table names what there is."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import agents.extensions.memory
import pytest

from localfirst.integrations import openai_agents

PATH = Path(__file__).parents[2] / "docs" / "coming-from" / "openai-agents.md"
PAGE = PATH.read_text()
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
TABLE = PAGE.split("## Old and new", 1)[1].split("## ", 1)[0]


@pytest.mark.parametrize("code", SNIPPETS, ids=range(len(SNIPPETS)))
def test_snippet(code: str, tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path), "PYTHONPATH": str(PATH.parents[2])},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    for promised in re.findall(r"print\(.*\)  # (.*)", code):
        assert promised in run.stdout.splitlines()


def test_every_session_of_the_sdk_is_in_the_table() -> None:
    for name in (*agents.extensions.memory.__all__, "SQLiteSession", "SessionABC"):
        assert not name.endswith(("Session", "ABC")) or f"`{name}" in TABLE, name


def test_every_class_of_ours_is_in_the_table() -> None:
    for name in openai_agents.__all__:
        assert f"`{name}" in TABLE or f"={name}(" in TABLE, name


def test_its_links_lead_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE):
        assert (PATH.parent / target).resolve().exists(), target
