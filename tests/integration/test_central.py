"""Every central store passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.register_assert_rewrite("localfirst.testing.conformance")

from localfirst.testing.conformance import CASES, HINT_CASES, Case, Connect, check  # noqa: E402
from localfirst.testing.conformance.harness import run, whole_log  # noqa: E402
from localfirst.testing.memory import MemoryServer, MemoryStore  # noqa: E402
from sync.central.directory import DirectoryStore  # noqa: E402
from sync.central.postgres import PostgresStore  # noqa: E402
from sync.central.redis import RedisStore  # noqa: E402


@pytest.fixture
def memory() -> Connect:
    server = MemoryServer()
    return lambda namespace: MemoryStore(server, namespace)


@pytest.fixture
def directory(tmp_path: Path) -> Connect:
    return lambda namespace: DirectoryStore((tmp_path / "central").as_uri(), namespace)


@pytest.fixture
def redis(redis_url: str) -> Connect:
    return lambda namespace: RedisStore(redis_url, namespace)


@pytest.fixture
def postgres(postgres_url: str) -> Connect:
    return lambda namespace: PostgresStore(postgres_url, namespace)


@pytest.fixture
def connect(backend: str, request: pytest.FixtureRequest) -> Connect:
    """By a fixture of its own, as an asynchronous one can't be asked for within a test."""
    made: Connect = request.getfixturevalue(backend)
    return made


BACKENDS = ("memory", "directory", "redis", "postgres")
WITH_HINTS = ("memory", "redis", "postgres")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
async def test_conformance(case: Case, connect: Connect) -> None:
    await check(case, connect)


@pytest.mark.parametrize("backend", WITH_HINTS)
@pytest.mark.parametrize("case", HINT_CASES, ids=lambda case: case.__name__)
async def test_hints(case: Case, connect: Connect) -> None:
    await check(case, connect)


async def test_a_servers_clock_that_steps_back_is_held() -> None:
    clock = iter([1_000, 400, 2_000])
    store = MemoryStore(MemoryServer(now=lambda: next(clock)))
    for counter in (1, 2, 3):
        await store.push([run("s", "r1", counter, 1)])
    assert [entry.admitted_at for entry in await whole_log(store, "s")] == [1_000, 1_000, 2_000]
