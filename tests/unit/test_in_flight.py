"""Several batches on their way at once: as many as a line has room for, and none that is forgotten."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Final

import pytest

import sync.push
from localfirst.errors import RemoteUnavailable
from localfirst.records import SessionKey
from localfirst.testing.memory import MemoryServer
from sync.central.base import Pulled, Pushed, Run, Want
from sync.site import Limits
from sync.tasks import overlap
from tests.unit.replica import Replica

NAMES: Final = [f"s{number}" for number in range(8)]
ONE_BY_ONE: Final = Limits(batch_sessions=1, push_bytes=1, in_flight=3)
SECONDS: Final = 20.0


class Crowd:
    """Counts what is under way at once, and can hold it until there is enough of it."""

    def __init__(self) -> None:
        self.now = self.most = self.begun = 0
        self._changed = asyncio.Condition()

    async def join(self, wanted: int) -> None:
        """Until so many were here at once."""
        async with self._changed:
            self.now, self.begun = self.now + 1, self.begun + 1
            self.most = max(self.most, self.now)
            self._changed.notify_all()
            await asyncio.wait_for(self._changed.wait_for(lambda: self.most >= wanted), SECONDS)
            self.now -= 1

    async def linger(self) -> None:
        """Long enough that others would come if they could."""
        self.now, self.begun = self.now + 1, self.begun + 1
        self.most = max(self.most, self.now)
        for _ in range(100):
            await asyncio.sleep(0)
        self.now -= 1


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def a(tmp_path: Path, server: MemoryServer) -> Replica:
    return Replica(tmp_path / "a", server, ONE_BY_ONE)


@pytest.fixture
def keys(a: Replica) -> list[SessionKey]:
    return [a.add(name, "x") for name in NAMES]


def before_each(replica: Replica, patch: pytest.MonkeyPatch, wait: Callable[[int], Awaitable[None]]) -> None:
    """Wait before each push, which is told its number."""
    push, count = replica.central.push, 0

    async def waiting(runs: Sequence[Run]) -> list[Pushed]:
        nonlocal count
        count += 1
        await wait(count)
        return await push(runs)

    patch.setattr(replica.central, "push", waiting)


async def test_after_a_quick_batch_several_are_on_their_way(
    a: Replica, keys: list[SessionKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd()
    before_each(a, monkeypatch, lambda count: crowd.join(1 if count == 1 else 3))
    await a.replicator.round(keys, [])
    assert (crowd.begun, crowd.most) == (len(NAMES), 3)
    assert not any(a.pending(name) for name in NAMES)


async def test_a_slow_line_gets_one_batch_at_a_time(
    a: Replica, keys: list[SessionKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd()
    monkeypatch.setattr(sync.push, "_QUICK_SECONDS", 0.0)
    before_each(a, monkeypatch, lambda _: crowd.linger())
    await a.replicator.round(keys, [])
    assert (crowd.begun, crowd.most) == (len(NAMES), 1)
    assert not any(a.pending(name) for name in NAMES)


async def test_what_ends_one_batch_ends_the_others_and_all_go_again_one_by_one(
    a: Replica, keys: list[SessionKey], monkeypatch: pytest.MonkeyPatch
) -> None:
    crowd = Crowd()

    async def fail(count: int) -> None:
        await crowd.join(1 if count == 1 else 3)
        if count == 3:
            raise RemoteUnavailable("the line broke")
        if count > 1:
            await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        before_each(a, patch, fail)
        with pytest.raises(RemoteUnavailable, match="the line broke"):
            await a.replicator.round(keys, [])
    assert asyncio.all_tasks() == {asyncio.current_task()}
    again = Crowd()

    async def first_alone(count: int) -> None:
        await again.linger()
        assert count > 1 or again.begun == 1

    before_each(a, monkeypatch, first_alone)
    await a.sync(*NAMES)
    assert not any(a.pending(name) for name in NAMES)


async def test_a_page_is_fetched_while_another_is_taken(
    a: Replica, keys: list[SessionKey], tmp_path: Path, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await a.sync(*NAMES)
    b, crowd = Replica(tmp_path / "b", server, ONE_BY_ONE), Crowd()
    pull = b.central.pull

    async def waiting(wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        await crowd.join(2)
        return await pull(wants, max_bytes)

    monkeypatch.setattr(b.central, "pull", waiting)
    await b.sync(*NAMES)
    assert crowd.most == 2
    assert [b.items(name) for name in NAMES] == [["x"]] * len(NAMES)


async def test_what_is_nearly_done_when_another_fails_is_done() -> None:
    done = list[int]()

    async def step(number: int) -> None:
        if number:
            raise RemoteUnavailable("the line broke")
        for _ in range(10):
            await asyncio.sleep(0)
        done.append(number)

    async def steps() -> AsyncGenerator[Coroutine[Any, Any, None], None]:
        for number in range(2):
            yield step(number)

    with pytest.raises(RemoteUnavailable):
        await overlap(steps(), lambda: 2)
    assert done == [0]


async def test_who_is_ended_leaves_no_step_behind() -> None:
    begun, ended = asyncio.Semaphore(0), list[int]()

    async def step(number: int) -> None:
        try:
            begun.release()
            await asyncio.Event().wait()
        finally:
            ended.append(number)

    async def steps() -> AsyncGenerator[Coroutine[Any, Any, None], None]:
        for number in range(5):
            yield step(number)

    task = asyncio.create_task(overlap(steps(), lambda: 3))
    for _ in range(3):
        await asyncio.wait_for(begun.acquire(), SECONDS)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(task, SECONDS)
    assert sorted(ended) == [0, 1, 2]
    assert asyncio.all_tasks() == {asyncio.current_task()}
