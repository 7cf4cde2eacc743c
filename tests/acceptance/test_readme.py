"""Every Python and SQL snippet of the README runs as it stands; only the address of the server is put in."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

import localfirst

README = Path(__file__).parents[2] / "README.md"


def snippets(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("code", snippets("python"), ids=range(len(snippets("python"))))
@pytest.mark.parametrize("server", ["redis_url", "postgres_url"])
def test_python(code: str, server: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    url = request.getfixturevalue(server)
    (tmp_path / "snippet.py").write_text(code.replace("file:///tmp/localfirst-central", url))
    run = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "snippet.py"],
        cwd=tmp_path,
        env={"PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert "OPENAI" not in run.stderr
    if "aflush" in code:
        assert "online" in run.stdout


async def test_sql(postgres_url: str, tmp_path: Path) -> None:
    async with localfirst.open(tmp_path, remote=postgres_url) as store:
        session = store.session("user-123")
        session.add_message("user", "Hello")
        session.set("name", "Alice")
        await store.aflush(10)
    connection = await asyncpg.connect(postgres_url)
    try:
        statements = [statement for block in snippets("sql") for statement in block.strip().split("\n")]
        rows = [[tuple(row) for row in await connection.fetch(statement)] for statement in statements]
    finally:
        await connection.close()
    assert rows == [[("user", "Hello")], [("name", '"Alice"')]]


def test_the_files_it_names_exist() -> None:
    for name in re.findall(r"\]\(([^)#:]+)\)", README.read_text()):
        assert (README.parent / name).exists(), name


def test_the_calls_it_names_exist() -> None:
    named = re.findall(r"`(?:await )?(\w+)(?:\([^`]*\))?`", README.read_text().split("| call | |")[1].split("\n\n")[0])
    assert len(named) > 15
    for name in named:
        assert hasattr(localfirst.Session, name) or name in ("pending", "synced_at"), name
