"""Every example runs as its users would run it, with no arguments, and does what it says."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

import localfirst

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.append(str(EXAMPLES))

from fastapi_app import create_app  # noqa: E402 - examples are programs, not a package


def output_of(name: str, *arguments: str, remote: str | None = None) -> str:
    """What an example prints."""
    environment = {key: value for key, value in os.environ.items() if key not in ("OPENAI_API_KEY", "LOCALFIRST_HOME")}
    environment["LOCALFIRST_REMOTE"] = remote or ""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_every_example_is_tested_and_listed() -> None:
    names = {path.name for path in EXAMPLES.glob("*.py")}
    tests = Path(__file__).read_text(encoding="utf-8")
    readme = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    for name in names:
        assert name.removesuffix(".py") in tests
        assert f"({name})" in readme


def test_quickstart() -> None:
    text = output_of("quickstart.py")
    assert "pending:  0" in text
    assert "there:    Willow" in text


@pytest.mark.integration
def test_quickstart_again_and_again_on_redis(redis_url: str) -> None:
    for _ in range(2):
        assert "there:    Willow" in output_of("quickstart.py", remote=redis_url)


def test_two_devices() -> None:
    text = output_of("two_devices.py")
    assert "apart:     1 item on the phone, 1 on the laptop" in text
    assert text.count("'notes': 2") == 2
    assert "conflict:  shop" in text
    assert text.endswith("equal:     True\n")


@pytest.mark.integration
def test_two_devices_on_postgres(postgres_url: str) -> None:
    assert output_of("two_devices.py", remote=postgres_url).endswith("equal:     True\n")


def test_openai_agents() -> None:
    text = output_of("openai_agents.py")
    assert "server:  It was 212 cm" in text
    assert text.endswith("['user', 'function_call', 'function_call_output', 'message', 'user', 'message']\n")


def test_openstackai_agent() -> None:
    assert output_of("openstackai_agent.py") == "laptop: Hello Alice!\nserver: You are Alice.\n"


@pytest.mark.integration
def test_openstackai_agent_on_postgres(postgres_url: str) -> None:
    assert "server: You are Alice." in output_of("openstackai_agent.py", remote=postgres_url)


def test_langchain_chat() -> None:
    lines = output_of("langchain_chat.py").splitlines()
    assert lines[0] == "user: How high is the Drava?"
    assert lines[-1] == "assistant: Fine for canoes."


def test_pydantic_ai_agent() -> None:
    text = output_of("pydantic_ai_agent.py")
    assert "(4 new messages of 4)" in text
    assert text.endswith("(2 new messages of 6)\n")


def test_periodic_replicator_sends_at_the_interval() -> None:
    lines = output_of("periodic_replicator.py").splitlines()
    assert "0 pending here, 1 in the central store" in lines[0]
    assert "5 pending here, 1 in the central store" in lines[1]
    assert "0 pending here, 6 in the central store" in lines[2]
    assert lines[-1].endswith(" 7 in the central store")


def test_periodic_replicator_sends_nothing_within_the_interval() -> None:
    lines = output_of("periodic_replicator.py", "--interval", "300").splitlines()
    assert [line.split(":")[1].strip() for line in lines[1:4]] == [
        "5 pending here, 1 in the central store",
        "5 pending here, 1 in the central store",
        "6 pending here, 1 in the central store",
    ]
    assert lines[-1].endswith(" 7 in the central store")


def test_fastapi_app_runs_by_itself() -> None:
    text = output_of("fastapi_app.py")
    assert "ben: You said 'Good morning', after 0 earlier messages." in text
    assert "ann: You said 'Me again', after 2 earlier messages." in text


def test_fastapi_app_serves_without_the_packages_of_test_clients() -> None:
    code = "import sys; sys.modules |= dict.fromkeys(['httpx', 'httpx2']); from fastapi_app import app; app"
    subprocess.run([sys.executable, "-c", code], cwd=EXAMPLES, timeout=60, check=True)


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the FastAPI example, with its lifespan around it."""
    service = create_app(tmp_path / "store", remote=(tmp_path / "central").as_uri())
    transport = httpx.ASGITransport(app=service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://service") as opened,
    ):
        yield opened
    with pytest.raises(localfirst.StoreClosed):
        service.state.localfirst.status()


async def test_fastapi_app_keeps_users_apart(client: httpx.AsyncClient) -> None:
    for user in ("ann", "ben", "ann"):
        answer = await client.post(f"/users/{user}/messages", json={"content": f"I am {user}"})
        assert answer.status_code == 200
    ann = (await client.get("/users/ann/messages")).json()
    ben = (await client.get("/users/ben/messages", params={"limit": 1})).json()
    assert (len(ann), len(ben)) == (4, 1)
    assert "ann" not in str(ben)
    assert (await client.get("/health")).json()["sync"] in ("connecting", "online")


async def test_fastapi_app_sends_what_is_left_when_it_ends(tmp_path: Path) -> None:
    remote = (tmp_path / "central").as_uri()
    service = create_app(tmp_path / "store", remote=remote, sync_interval=600)
    transport = httpx.ASGITransport(app=service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://service") as opened,
    ):
        for _ in range(3):
            await opened.post("/users/ann/messages", json={"content": "Hello"})
    with localfirst.open(tmp_path / "other", remote=remote, worker="none") as other:
        other.refresh(10)
        assert len(other.session("user-ann")) == 6
