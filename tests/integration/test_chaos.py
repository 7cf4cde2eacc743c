"""Four processes write to the same sessions while the network and the server fail at random; then all is healed.

After that, all show the same within a bounded time, nothing whose call returned is missing, nothing is there twice.
Twenty seconds for each kind of server in CI. `LOCALFIRST_SOAK=1` makes it ten times as long; `LOCALFIRST_SEED=…`
repeats the writes and the faults of a run that failed, though not the moments at which they meet.
"""

from __future__ import annotations

import random
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pytest

import localfirst
from localfirst.testing.servers import PostgresServer, RedisServer, ServerProcess
from tests.faults.central import changes_in
from tests.faults.chance import TIMES, seed
from tests.faults.proxy import Proxy
from tests.faults.replica import SESSIONS, Ledger, Replica, Sight, replica, show
from tests.polling import eventually

REPLICAS: Final = 4
SECONDS: Final = 16.0 * TIMES
"""How long things fail."""
CONVERGED_AFTER: Final = 30.0
"""Seconds after the last fault: the longest backoff, a request that waits for its timeout, and the work itself."""


class DurableRedis(RedisServer):
    """Loses nothing when it is killed. By default Redis may lose what it has told within the last two seconds."""

    def _settings(self) -> dict[str, str]:
        return super()._settings() | {"appendfsync": "always"}


SERVERS: Final[dict[str, Callable[[], ServerProcess]]] = {
    "redis": DurableRedis,
    "redis-cache": lambda: RedisServer(persistent=False),
    "postgres": PostgresServer,
}


@pytest.fixture(params=list(SERVERS))
def server(request: pytest.FixtureRequest) -> Iterator[ServerProcess]:
    with SERVERS[request.param]() as server:
        yield server


class Weather:
    """Faults in random order, each for a random time; every kind of them again and again."""

    def __init__(self, proxy: Proxy, server: ServerProcess, chance: random.Random) -> None:
        self._proxy = proxy
        self._server = server
        self._chance = chance
        self._faults = (
            self._cut,
            self._refuse,
            self._delay,
            self._throttle,
            self._truncate,
            self._swallow,
            self._kill,
        )

    def rage(self, seconds: float) -> None:
        """Until so much time has passed, and nothing is wrong any more."""
        deadline = time.monotonic() + seconds
        faults: list[Callable[[], None]] = []
        while (left := deadline - time.monotonic()) > 0:
            faults = faults or self._chance.sample(self._faults, len(self._faults))
            fault = faults.pop()
            print(f"{left:6.2f} s left: {fault.__name__}")
            fault()
            self._pass(0.8)
            self._server.start()
            self._proxy.heal()
            self._pass(0.5)

    def _pass(self, longest: float) -> None:
        """How long a fault lasts is part of the chance, not something waited for."""
        time.sleep(self._chance.uniform(0.0, longest))

    def _cut(self) -> None:
        for _ in range(self._chance.randint(1, 5)):
            self._proxy.cut()
            self._pass(0.1)

    def _refuse(self) -> None:
        self._proxy.refuse()
        self._proxy.cut()

    def _delay(self) -> None:
        self._proxy.delay(self._chance.uniform(0.0, 0.2), jitter=self._chance.uniform(0.0, 0.2))

    def _throttle(self) -> None:
        self._proxy.throttle(self._chance.uniform(1_000, 50_000))

    def _truncate(self) -> None:
        for _ in range(self._chance.randint(1, 5)):
            self._proxy.truncate(self._chance.randint(1, 2_000))
            self._pass(0.1)

    def _swallow(self) -> None:
        self._proxy.swallow()
        self._pass(1.0)
        if self._chance.random() < 0.5:
            self._proxy.cut()  # Else what was swallowed arrives late, when it was sent again long since.

    def _kill(self) -> None:
        self._server.kill()


@pytest.mark.timeout(SECONDS + 2 * CONVERGED_AFTER + 60.0)
def test_replicas_converge_whatever_fails(server: ServerProcess, tmp_path: Path) -> None:
    chance = random.Random(seed())
    namespace = f"test-{uuid.uuid4()}"
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.port))
        replicas = [
            stack.enter_context(
                replica(name, tmp_path / name, proxy.url(server.url), namespace, chance.getrandbits(32))
            )
            for name in (f"r{number}" for number in range(REPLICAS))
        ]
        Weather(proxy, server, chance).rage(SECONDS)
        ledgers = [each.ledger() for each in replicas]
        converge(replicas)
        sessions = replicas[0].sessions()
    check(sessions, ledgers)
    with localfirst.open(tmp_path / "new", remote=server.url, namespace=namespace) as store:
        store.refresh(30)
        assert show(store) == sessions, "the central store has something else"
    changes = {name: sum(ledger.changes[name] for ledger in ledgers) for name in SESSIONS}
    assert changes_in(server.url, namespace, SESSIONS) == changes, "a change is there twice"


def converge(replicas: list[Replica]) -> None:
    """Wait until all show the same and have nothing left to send. Nobody tells them to."""
    began = time.monotonic()
    sights: list[Sight] = []

    def agree() -> bool:
        sights[:] = [each.sight() for each in replicas]
        return len({sight.digest for sight in sights}) == 1 and not any(sight.pending for sight in sights)

    try:
        eventually(agree, CONVERGED_AFTER)
    finally:
        print(f"after {time.monotonic() - began:.1f} s:", *sights, sep="\n")


def check(sessions: dict[str, Any], ledgers: list[Ledger]) -> None:
    """What every replica shows is what all of them did."""
    assert sum(len(ledger.added) for ledger in ledgers) > 100, "too little was written to test anything"
    check_items(sessions, ledgers)
    for name in SESSIONS:
        metadata = sessions[name]["metadata"]
        assert metadata.get("count", 0) == sum(ledger.increments[name] for ledger in ledgers)
        values = {value for ledger in ledgers for value in ledger.values.get(name, ())}
        assert metadata.get("last") in (values or {None})


def check_items(sessions: dict[str, Any], ledgers: list[Ledger]) -> None:
    """Nothing lost, nothing twice, nothing back again; what one call added together, calls of a replica in order."""
    items = Counter(tuple(item) for name in SESSIONS for item in sessions[name]["items"])
    added = {(*call, place) for ledger in ledgers for call, size in ledger.added.items() for place in range(size)}
    popped = {(*call, place) for ledger in ledgers for call, place in ledger.popped}
    assert set(items.values()) <= {1}, "an item is there twice"
    assert not popped & items.keys(), "an item that was popped came back"
    assert items.keys() == added - popped, "an item is lost"
    for name in SESSIONS:
        check_calls(name, sessions[name]["items"])


def check_calls(session: str, items: list[list[Any]]) -> None:
    latest: dict[str, int] = {}
    for (place, author, number), call in groupby(items, key=lambda item: tuple(item[:3])):
        parts = [part for *_, part in call]
        assert place == session
        assert parts == sorted(parts)
        assert latest.get(author, -1) < number, "a call was torn apart, or came before an earlier one"
        latest[author] = number
