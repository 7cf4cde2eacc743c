"""Processes on one directory, killed at any moment, also while they open it: what was told is there, once, in order.

A life is a directory with its central store in which a writing and a syncing process are killed twenty times over,
most often without anybody having closed anything in between. CI has ten lives on a directory as the central store and
one on Redis, in a quarter of a minute. `LOCALFIRST_SOAK=1` makes it ten times as many. `LOCALFIRST_SEED=…` repeats the
writes and the moments of a life that failed, as nearly as a machine can (choose it with `-k directory-3`).

Invariants 1, 4 and 7.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import uuid
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pytest

import localfirst
from tests.faults.central import changes_in
from tests.faults.chance import TIMES, seed
from tests.faults.nursery import Life, Nursery, nursery

KILLS: Final = 20
"""Rounds of a life."""
SESSIONS: Final = 2
_CALLS: Final = 1_000_000
"""No writer comes so far."""


@pytest.fixture(scope="module")
def processes() -> Iterator[Nursery]:
    with nursery() as found:
        yield found


def write(directory: Path, remote: str, namespace: str, told: Path, first: int, seed: int) -> None:
    """Add runs of items, and tell the number of each call that returned. What was told survives the process."""
    out = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    chance = random.Random(seed)
    longest_rest = chance.choice([0.0, 0.001, 0.005])

    async def add_for_ever(store: localfirst.Store) -> None:
        number = first
        while True:
            size = chance.randint(1, 3)
            items = [[number, place, size] for place in range(size)]
            await store.session(f"s{number % SESSIONS}").add_items(items)
            os.write(out, b"%d\n" % number)
            number += 1
            if longest_rest:
                await asyncio.sleep(chance.uniform(0.0, longest_rest))  # Agents think between two calls.

    asyncio.run(add_for_ever(localfirst.open(directory, remote=remote, namespace=namespace)))


def sync(directory: Path, remote: str, namespace: str) -> None:
    """What `localfirst sync` does."""
    with localfirst.open(directory, remote=remote, namespace=namespace, poll_interval=0.02):
        while True:
            signal.pause()


class History:
    """One life: what was told in it, and what must be found of it."""

    def __init__(self, path: Path, remote: str, seed: int) -> None:
        self.path = path
        self.remote = remote
        self.namespace = f"test-{uuid.uuid4()}"
        self.told: list[range] = []
        """Of each writer: the numbers of the calls that returned."""
        self._chance = random.Random(seed)
        self._slowness = 1.0

    def go_on(self, processes: Nursery) -> None:
        """A writer and a syncing process start, and are killed."""
        chance, directory = self._chance, self.path / "a"
        told = self.path / f"told-{len(self.told)}"
        first = len(self.told) * _CALLS
        own_worker = chance.choice([self.remote, ""])  # The two may also compete for the sync.
        processes.kill_all(
            [
                Life(
                    write,
                    (directory, own_worker, self.namespace, told, first, chance.getrandbits(32)),
                    self._moment(),
                ),
                Life(sync, (directory, self.remote, self.namespace), self._moment()),
            ]
        )
        numbers = [int(line) for line in told.read_text().split()] if told.exists() else []
        assert numbers == list(range(first, first + len(numbers)))
        self.told.append(range(first, first + len(numbers)))
        self._slowness = 1.0 if numbers else self._slowness * 1.2  # Where all were killed too soon, they live longer.

    def _moment(self) -> float:
        """Often while the directory is being opened."""
        return self._slowness * self._chance.uniform(0.0, self._chance.choice([0.01, 0.03, 0.1]))

    def look_sometimes(self) -> None:
        """Reopen and look; often not, as closing puts in order what the next process should find in disorder."""
        if self._chance.random() < 0.5:
            with localfirst.open(self.path / "a", namespace=self.namespace, remote="") as store:
                self.check(store)

    def check(self, store: localfirst.Store) -> list[list[Any]]:
        """Every call that returned is there, once, whole, in order. The items of each session."""
        sessions = [list(store.session(f"s{number}")) for number in range(SESSIONS)]
        for place, items in enumerate(sessions):
            assert all(number % SESSIONS == place for number, _, _ in items)
            check_calls(items)
        found = {number for items in sessions for number, _, _ in items}
        told = {number for numbers in self.told for number in numbers}
        assert told <= found, f"lost: {sorted(told - found)[:10]}"
        killed_within = {numbers.stop for numbers in self.told}  # On disk, but the call could not return any more.
        assert found - told <= killed_within, f"nobody wrote: {sorted(found - told - killed_within)[:10]}"
        return sessions

    def check_central(self) -> None:
        """All of it is in the central store, too, once."""
        with localfirst.open(self.path / "a", namespace=self.namespace, remote=self.remote) as store:
            store.flush(30)
            assert store.status().pending_changes == 0
            sessions = self.check(store)
        with localfirst.open(self.path / "b", namespace=self.namespace, remote=self.remote) as other:
            other.refresh(30)
            assert self.check(other) == sessions
        calls = {f"s{place}": len({number for number, _, _ in items}) for place, items in enumerate(sessions)}
        assert changes_in(self.remote, self.namespace, calls) == calls, "a change is there twice"


def check_calls(items: list[list[Any]]) -> None:
    """Each call's items stand together and are complete, and calls are in the order in which they were made."""
    numbers = []
    for number, call in groupby(items, key=lambda item: item[0]):
        parts = [tuple(rest) for _, *rest in call]
        assert parts == [(place, len(parts)) for place in range(len(parts))]
        numbers.append(number)
    assert numbers == sorted(set(numbers))


def live(history: History, processes: Nursery) -> None:
    for _ in range(KILLS):
        history.go_on(processes)
        history.look_sometimes()
    history.check_central()
    assert any(history.told), "the writers were killed before they wrote: nothing was tested"


@pytest.mark.parametrize("life", range(10 * TIMES), ids=lambda life: f"directory-{life}")
def test_killed_processes_lose_and_double_nothing(life: int, processes: Nursery, tmp_path: Path) -> None:
    live(History(tmp_path, (tmp_path / "central").as_uri(), seed()), processes)


@pytest.mark.parametrize("life", range(1 * TIMES), ids=lambda life: f"redis-{life}")
def test_killed_processes_lose_and_double_nothing_on_the_way_to_redis(
    life: int, processes: Nursery, redis_url: str, tmp_path: Path
) -> None:
    live(History(tmp_path, redis_url, seed()), processes)
