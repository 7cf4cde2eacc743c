"""A session with 200,000 pending changes: bounded pieces, bounded memory, short locks, and on from where it stopped."""

from __future__ import annotations

import threading
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from redis.asyncio import Redis

from localfirst.change import APPEND, MAIN_BRANCH, Change, encode_change
from localfirst.identity import Identity
from localfirst.log import Log
from localfirst.records import Head, SessionKey, session_key
from localfirst.rows import Rows
from localfirst.testing.servers import RedisServer
from sync.central import connect
from sync.central.base import CentralStore, Pushed, Run
from sync.replicate import Replicator
from sync.site import Limits, Site

CHANGES = 200_000
BODY = b'[{"role":"user","content":"%b"}]' % (b"x" * 200)


class Timed(Rows):
    """Knows how long its write transactions took."""

    def __init__(self, directory: Path) -> None:
        self.held: list[float] = []
        self._depth = threading.local()
        super().__init__(directory)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with super().transaction():
            began = time.perf_counter()
            yield
        self.held.append(time.perf_counter() - began)


@pytest.fixture
def rows(tmp_path: Path) -> Timed:
    return Timed(tmp_path / "data")


def fill(log: Log, key: SessionKey, count: int) -> None:
    """As an agent writes them, in transactions of 5,000."""
    origin = Identity(log.rows).replica_id()
    log.create(key, Head("default", "large", origin))
    for start in range(1, count + 1, 5_000):
        changes = [
            Change(origin, counter, counter << 16, 0, MAIN_BRANCH, APPEND, BODY)
            for counter in range(start, min(start + 5_000, count + 1))
        ]
        assert log.append(key, start, [encode_change(change) for change in changes])


async def push_all(replicator: Replicator, key: SessionKey, rounds: int = 1 << 30) -> int:
    """Rounds until nothing is left, or so many."""
    push, pull, done = {key}, {key}, 0
    while (push or pull) and done < rounds:
        outcome = await replicator.round(push, pull)
        assert outcome.refused == {}
        push, pull, done = outcome.push, outcome.pull, done + 1
    return done


def watched(central: CentralStore, pieces: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    push = central.push

    async def note(runs: Sequence[Run]) -> list[Pushed]:
        pieces.extend((len(run.changes), sum(map(len, run.changes))) for run in runs)
        return await push(runs)

    monkeypatch.setattr(central, "push", note)


@pytest.mark.integration
async def test_it_goes_up_in_bounded_pieces_and_comes_back_after_a_loss(
    own_redis: object, rows: Timed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: RedisServer = own_redis()  # type: ignore[operator]
    key, limits, pieces = session_key("default", "large"), Limits(), list[tuple[int, int]]()
    log = Log(rows)
    fill(log, key, CHANGES)
    rows.held.clear()
    central = connect(server.url, "default")
    watched(central, pieces, monkeypatch)
    await push_all(Replicator(Site(log, central, "default", lambda _: None)), key, rounds=100)
    stopped_at = log.head(key)
    assert stopped_at is not None
    assert 0 < stopped_at.acked < CHANGES
    await push_all(Replicator(Site(log, central, "default", lambda _: None)), key)  # As after a restart.
    assert sum(count for count, _ in pieces) == CHANGES  # Nothing was sent twice: it went on from where it stopped.
    assert max(count for count, _ in pieces) <= limits.run_changes
    assert max(size for _, size in pieces) <= limits.run_bytes + len(BODY) + 100
    assert sorted(rows.held)[int(len(rows.held) * 0.99)] < 0.01

    async with Redis.from_url(server.url) as client:
        await client.flushall()
    rows.held.clear()
    await central.identify()
    tracemalloc.start()
    await push_all(Replicator(Site(log, central, "default", lambda _: None)), key)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    head = log.head(key)
    assert head is not None
    assert (head.seq, head.acked, head.generation == stopped_at.generation) == (CHANGES, CHANGES, False)
    assert peak < 16 << 20
    assert sorted(rows.held)[int(len(rows.held) * 0.99)] < 0.01
    await central.close()
