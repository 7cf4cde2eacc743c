"""What it costs to have nothing to do: a store that knows many sessions, in a process of its own.

Processor time is all that the process takes, in rounds. Round trips are counted by a proxy over all rounds together:
polls come 1.0 to 1.5 intervals apart, and once a minute the connection for hints is tried. So a minute is measured.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final, NamedTuple

import localfirst
from benchmarks.processes import ANSWER_SECONDS, answer, started
from localfirst.testing.servers import ServerProcess
from sync.worker import CALM_AFTER, CALM_INTERVAL, Options
from tests.faults.proxy import Proxy

_NAMESPACE: Final = "idle"
_SLOW_LINE: Final = 0.02
"""Seconds each way, so that the proxy can tell round trips apart."""
_WAKES: Final = 4
"""Of the bare loop, in a round."""


class Rest(NamedTuple):
    """Which store is watched, and for how long."""

    known: int
    """Sessions."""
    rounds: int
    seconds: float
    """Of a round."""
    poll_interval: float
    begins: float
    """Seconds after the last change until it is calm; not measured."""


LONG: Final = Rest(1000, 6, 10.0, Options().poll_interval, 1.2 * CALM_AFTER)
SHORT: Final = Rest(100, 2, 1.0, 0.5, 0.5)


class Idle(NamedTuple):
    """What was measured."""

    known: int
    """Sessions."""
    share: list[float]
    """Percent of a core, of each round."""
    bare: list[float]
    """The same of a loop that wakes as often and does nothing."""
    requests: float
    """Round trips per poll interval, over all rounds."""


class Idler:
    """A store that has nothing to do."""

    def __init__(self, pipe: Connection, proxy: Proxy, rest: Rest) -> None:
        self._pipe = pipe
        self._proxy = proxy
        self._rest = rest
        self._bare: list[float] = []

    def wait(self) -> None:
        """Until it knows all sessions and is calm."""
        self._bare = answer(self._pipe, self._rest.begins)

    def measure(self) -> Idle:
        """Let it rest, which is watched from within its process."""
        before = self._proxy.traffic.requests
        self._pipe.send("measure")
        share, seconds = answer(self._pipe, self._rest.rounds * self._rest.seconds)
        requests = self._proxy.traffic.requests - before
        return Idle(self._rest.known, share, self._bare, requests * self._rest.poll_interval / seconds)


@contextmanager
def idler(directory: Path, server: ServerProcess, rest: Rest) -> Iterator[Idler]:
    """A store that gets to know all the sessions of another."""
    with localfirst.open(directory / "author", remote=server.url, namespace=_NAMESPACE) as store:
        for number in range(rest.known):
            store.session(f"s{number}").add_message("user", "hello")
        store.flush(ANSWER_SECONDS)
    with Proxy(server.port) as proxy:
        proxy.delay(_SLOW_LINE)
        with started(_rest, directory / "idle", proxy.url(server.url), rest) as pipe:
            yield Idler(pipe, proxy, rest)


def _rest(directory: Path, url: str, rest: Rest, pipe: Connection) -> None:
    """In a process: know all sessions, do nothing, and tell how much of a core that took."""
    bare = asyncio.run(_wake(rest.rounds))
    with localfirst.open(directory, remote=url, namespace=_NAMESPACE, poll_interval=rest.poll_interval) as store:
        store.refresh(ANSWER_SECONDS)
        time.sleep(rest.begins)
        pipe.send(bare)
        pipe.recv()
        start = time.monotonic()
        share = [_rest_once(rest.seconds) for _ in range(rest.rounds)]
        seconds = time.monotonic() - start
        if len(list(store.sessions())) != rest.known or store.status().state != "online":
            raise AssertionError(f"this store did not know all, or did more than nothing: {store.status()}")
        pipe.send((share, seconds))
        pipe.recv()  # To be killed: what closing costs is not asked here.


async def _wake(rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        share = _shares()
        for _ in range(_WAKES):
            await asyncio.sleep(CALM_INTERVAL)
        found.append(share())
    return found


def _rest_once(seconds: float) -> float:
    share = _shares()
    time.sleep(seconds)
    return share()


def _shares() -> Callable[[], float]:
    """Tells what percent of a core this process has taken since."""
    start, used = time.monotonic(), time.process_time()
    return lambda: 100 * (time.process_time() - used) / (time.monotonic() - start)
