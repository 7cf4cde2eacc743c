"""Hints only make it sooner: sync is right with hints that are off, dropped, doubled, late, or nonsense."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import localfirst
from sync.central.base import Hint
from sync.central.postgres import PostgresStore
from sync.central.redis import RedisStore
from tests.polling import eventually

Watch = Callable[[Any], AsyncIterator[Hint | None]]


def off(watch: Watch) -> Watch:
    async def silent(store: Any) -> AsyncIterator[Hint | None]:
        return
        yield

    return silent


def dropped(watch: Watch) -> Watch:
    async def deaf(store: Any) -> AsyncIterator[Hint | None]:
        async for hint in watch(store):
            if hint is None or random.random() < 0.3:
                yield hint

    return deaf


def doubled(watch: Watch) -> Watch:
    async def stammering(store: Any) -> AsyncIterator[Hint | None]:
        async for hint in watch(store):
            for _ in range(3):
                yield hint

    return stammering


def late(watch: Watch) -> Watch:
    async def slow(store: Any) -> AsyncIterator[Hint | None]:
        async for hint in watch(store):
            await asyncio.sleep(random.uniform(0.0, 0.3))
            yield hint

    return slow


def nonsense(watch: Watch) -> Watch:
    async def lying(store: Any) -> AsyncIterator[Hint | None]:
        async for hint in watch(store):
            yield Hint("nobody", "x", 1 << 40)
            if hint is not None:
                yield hint._replace(seq=hint.seq + 1000)
                yield hint._replace(generation="another")
                yield hint._replace(seq=0)

    return lying


@pytest.mark.parametrize("spoil", [off, dropped, doubled, late, nonsense], ids=lambda spoil: str(spoil.__name__))
@pytest.mark.parametrize("backend", ["redis", "postgres"])
def test_replicas_converge_whatever_becomes_of_the_hints(
    backend: str,
    spoil: Callable[[Watch], Watch],
    tmp_path: Path,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = request.getfixturevalue(f"{backend}_url")
    kind: Any = {"redis": RedisStore, "postgres": PostgresStore}[backend]
    monkeypatch.setattr(kind, "watch", spoil(kind.watch))
    options: dict[str, Any] = {"remote": url, "namespace": tmp_path.name + spoil.__name__, "poll_interval": 0.2}
    with localfirst.open(tmp_path / "a", **options) as one, localfirst.open(tmp_path / "b", **options) as other:
        mine, theirs = one.session("s"), other.session("s")
        for number in range(20):
            (mine if number % 2 else theirs).add_message("user", str(number))
        eventually(lambda: mine.get_messages() == theirs.get_messages() and len(mine) == 20)
        mine.add_message("user", "last")
        eventually(lambda: len(theirs) == 21)


def test_notify_off_asks_the_server_for_no_hints(tmp_path: Path, postgres_url: str) -> None:
    quiet = postgres_url + ("&" if "?" in postgres_url else "?") + "notify=off&statement_cache_size=0"
    with (
        localfirst.open(tmp_path / "a", remote=quiet, poll_interval=0.2) as one,
        localfirst.open(tmp_path / "b", remote=quiet, poll_interval=0.2) as other,
    ):
        one.session("s").add_message("user", "x")
        eventually(lambda: len(other.session("s")) == 1)
