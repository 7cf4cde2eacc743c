"""Every central store passes the conformance suite."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from localfirst.errors import ConfigurationError, RemoteRejected, RemoteVersionError

pytest.register_assert_rewrite("localfirst.testing.conformance")

from localfirst.testing.conformance import CASES, HINT_CASES, Case, Connect, check  # noqa: E402
from localfirst.testing.conformance.harness import GENERATION, end_of, run, whole_log  # noqa: E402
from localfirst.testing.memory import MemoryServer, MemoryStore  # noqa: E402
from sync.central.base import FORMAT_VERSION, Checkpoint  # noqa: E402
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
    clock = iter([1_000, 400, 2_000, 300, 200])
    store = MemoryStore(MemoryServer(now=lambda: next(clock)))
    for counter in (1, 2, 3):
        await store.push([run("s", "r1", counter, 1)])
    assert [entry.admitted_at for entry in await whole_log(store, "s")] == [1_000, 1_000, 2_000]
    assert await store.put_checkpoint("s", await end_of(store, "s"), Checkpoint("other", 1, 0, b""), {})
    [pushed] = await store.push([run("s", "r1", 1, 1)])
    assert pushed.admitted_at == 2_000


async def test_a_directory_drops_what_a_checkpoint_stands_for(tmp_path: Path) -> None:
    store = DirectoryStore((tmp_path / "central").as_uri(), "n")
    await store.identify()
    await store.push([run("s", "r1", 1, 10), run("t", "r1", 1, 3)])
    assert len(_log_rows(store)) == 13
    assert await store.put_checkpoint("s", await end_of(store, "s"), Checkpoint(GENERATION, 7, 0, b"folded"), {})
    assert len(_log_rows(store)) == 6
    assert await store.put_checkpoint("s", await end_of(store, "s"), Checkpoint("other", 4, 0, b"made"), {})
    assert len(_log_rows(store)) == 3
    assert len(store._rows.range(b"k", b"l")) == 1
    await store.close()


def _log_rows(store: DirectoryStore) -> list[tuple[bytes, bytes]]:
    return store._rows.range(b"l", b"m")


async def test_a_directory_without_its_checkpoint_is_damaged(tmp_path: Path) -> None:
    store = DirectoryStore((tmp_path / "central").as_uri(), "n")
    await store.identify()
    assert await store.put_checkpoint("s", None, Checkpoint("made", 4, 0, b"made"), {})
    with store._rows.transaction():
        store._rows.delete_range(b"k", b"l")
    with pytest.raises(RemoteRejected, match="'s'"):
        await store.checkpoint("s")
    await store.close()


@pytest.mark.parametrize(("found", "error"), [(2, ConfigurationError), (4, RemoteVersionError)])
async def test_a_directory_or_memory_of_another_format(tmp_path: Path, found: int, error: type[Exception]) -> None:
    assert FORMAT_VERSION == 3
    store = DirectoryStore((tmp_path / "central").as_uri(), "n")
    store._rows.put(b"store", msgspec.msgpack.encode((found, "abc")))
    memory = MemoryStore()
    memory.server.namespace("default").format = found
    for each in (store, memory):
        with pytest.raises(error, match=f"has format {found}"):
            await each.identify()
    assert store._rows.get(b"store") == msgspec.msgpack.encode((found, "abc"))
    await store.close()
