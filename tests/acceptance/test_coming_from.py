"""The pages for those who come from elsewhere: every snippet runs, prints what it says, and what tables name exists."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import localfirst

ROOT = Path(__file__).parents[2]
PAGES = {path.stem: path.read_text("utf-8") for path in (ROOT / "docs" / "coming-from").glob("*.md")}
SNIPPETS = [
    pytest.param(code, id=f"{name}-{number}")
    for name, page in sorted(PAGES.items())
    for number, code in enumerate(re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE))
]
FACES = {"fastapi": "fastapi", "langchain": "langchain", "pyai": "pyai", "pydantic-ai": "pydantic_ai"}


@pytest.mark.integration
@pytest.mark.parametrize("code", SNIPPETS)
def test_snippet(code: str, redis_url: str, postgres_url: str, tmp_path: Path) -> None:
    code = code.replace("port=6379", f"port={urlsplit(redis_url).port}, namespace={tmp_path.name!r}")
    code = code.replace("postgresql://user:password@host:5432/db", postgres_url)
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        cwd=tmp_path,
        env={
            "PATH": "",
            "HOME": str(tmp_path),
            "TMPDIR": str(tmp_path),
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    for promised in re.findall(r"print\(.*\)  # (.*)", code):
        assert promised in run.stdout.splitlines()


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", PAGES[name]):
        assert (ROOT / "docs" / "coming-from" / target).exists(), target


@pytest.mark.parametrize("name", FACES)
def test_what_the_table_names_exists(name: str) -> None:
    """Every call in the right column (for pyai, whose calls are the same here, the left) is one of ours."""
    face = import_module(f"localfirst.integrations.{FACES[name]}")
    rows = [line.strip("| ").split(" | ") for line in PAGES[name].split("|---|---|\n")[1].split("\n\n")[0].splitlines()]
    cells = " ".join(row[0 if name == "pyai" else 1] for row in rows)
    called = set(re.findall(r"(\w+)\(|`(\w+)`", cells)) - {("Agent", ""), ("FastAPI", ""), ("Depends", "")}
    assert len(called) > 1
    for call in map("".join, called):
        homes = (face, localfirst, localfirst.Store, localfirst.Session)
        assert any(hasattr(home, call) for home in homes) or call == "with", call
