"""Four processes write to the same sessions while the network and the server fail at random; then all is healed.

After that, all show the same within a bounded time, nothing whose call returned is missing, nothing is there twice, and
nothing is there that was deleted or has expired. Their disks are too small for all that they write, so sessions are
evicted and come back; but not where the server may lose everything, for what was evicted would be lost with it. There,
what was deleted may come back, too: nobody remembers that it was.

Twenty seconds for each kind of server in CI. `LOCALFIRST_SOAK=1` makes it ten times as long; `LOCALFIRST_SEED=…`
repeats the writes and the faults of a run that failed, though not the moments at which they meet.
"""

from __future__ import annotations

import json
import random
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import pytest

import localfirst
from localfirst.testing.servers import PostgresServer, RedisServer, ServerProcess
from tests.faults.central import bodies_in, changes_in
from tests.faults.chance import TIMES, seed
from tests.faults.ledger import (
    BRIEF,
    BULKY,
    FLEETING,
    SESSIONS,
    Item,
    Ledger,
    branch_place,
    ending_sessions,
    item_of,
)
from tests.faults.proxy import Proxy
from tests.faults.replica import Life, Replica, Sight, replica, show
from tests.polling import eventually

NAMES: Final = ("r0", "r1", "r2", "r3")
SIZE_LIMIT: Final = 1_000_000
SECONDS: Final = 11.0 * TIMES
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


@pytest.fixture
def keeps(server: ServerProcess, request: pytest.FixtureRequest) -> bool:
    """Whether it loses nothing."""
    return bool(request.node.callspec.params["server"] != "redis-cache")


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

    def slow_down(self) -> None:
        """Until healed, an answer takes so long that much happens meanwhile."""
        self._proxy.delay(0.2, jitter=0.1)
        self._pass(2.0)

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
def test_replicas_converge_whatever_fails(server: ServerProcess, keeps: bool, tmp_path: Path) -> None:
    chance = random.Random(seed())
    namespace = f"test-{uuid.uuid4()}"
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.port))
        url, limit = proxy.url(server.url), SIZE_LIMIT if keeps else None
        replicas = [
            stack.enter_context(
                replica(Life(name, NAMES, tmp_path / name, url, namespace, limit, chance.getrandbits(32)))
            )
            for name in NAMES
        ]
        weather = Weather(proxy, server, chance)
        weather.rage(SECONDS)
        weather.slow_down()  # What they forget now, no later write reminds them of.
        ledgers = {each.name: each.ledger() for each in replicas}
        proxy.heal()
        converge(replicas)
        if keeps:
            eventually(lambda: any(each.evicted() for each in replicas))
        shown = [each.sessions() for each in replicas]
    with localfirst.open(tmp_path / "new", remote=server.url, namespace=namespace) as store:
        shown.append(show(store))
    assert all(each == shown[0] for each in shown), "replicas, or the central store, have something else"
    check(shown[0], ledgers, keeps=keeps)
    check_central(server.url, namespace, ledgers, keeps=keeps)


def converge(replicas: list[Replica]) -> None:
    """Wait until all show the same, have nothing left to send, and nothing that is to expire. Nobody tells them to."""
    began = time.monotonic()
    sights: list[Sight] = []

    def agree() -> bool:
        sights[:] = [each.sight() for each in replicas]
        return len({sight.digest for sight in sights}) == 1 and not any(
            sight.pending or sight.mortal for sight in sights
        )

    try:
        eventually(agree, CONVERGED_AFTER)
    except AssertionError:
        print(*(line for each in replicas for line in (each.name, *each.left())), sep="\n")
        raise
    finally:
        print(f"after {time.monotonic() - began:.1f} s:", *sights, sep="\n")


def check(sessions: dict[str, Any], by_name: dict[str, Ledger], *, keeps: bool) -> None:
    """What every replica shows is what all of them did. `keeps`: the server has lost nothing."""
    ledgers = list(by_name.values())
    assert sum(len(ledger.added) for ledger in ledgers) > 100, "too little was written to test anything"
    assert not any(name.startswith(BRIEF) for name in sessions), "a session has not expired"
    assert all(not branch for branch in sessions.get(FLEETING, {"branches": {}})["branches"].values())
    for name in SESSIONS:
        check_metadata(name, sessions[name], ledgers, keeps=keeps)
        check_branches(name, sessions[name]["branches"], ledgers)
    popped = set[Item]().union(*(ledger.popped for ledger in ledgers))
    for name in (*SESSIONS, *BULKY):
        items = items_of(sessions, name)
        assert not popped & set(items), "an item that was popped came back"
        check_items(items, added(ledgers, name) - popped)
    for name in by_name:
        for session in ending_sessions(name):
            check_ended(session, items_of(sessions, session), name, by_name, keeps=keeps)


def check_metadata(name: str, session: dict[str, Any], ledgers: list[Ledger], *, keeps: bool) -> None:
    metadata = session["metadata"]
    values = {rule: written(ledgers, name, rule) for rule in ("last", "first", "merge", "union", "max", "min")}
    assert metadata.get("count", 0) == sum(ledger.increments[name] for ledger in ledgers)
    for rule in ("last", "first"):
        assert metadata.get(rule) in (values[rule] or [None])
    fields = {field for value in values["merge"] for field in value.items()}
    assert set(metadata.get("merge", {}).items()) <= fields
    for author, ledger in zip(NAMES, ledgers, strict=True):
        assert metadata.get(author) == ledger.values.get((name, author), [None])[-1]
    union = metadata.get("union", [])
    assert len(set(union)) == len(union)
    assert set(union) <= {value for each in values["union"] for value in each}
    assert metadata.get("max") in (values["max"] or [None])
    assert metadata.get("min") in (values["min"] or [None])
    if keeps:  # Else two histories that were both folded may have met: of such keys the later write stands.
        assert set(union) == {value for each in values["union"] for value in each}
        assert metadata.get("max") == max(values["max"], default=None)
        assert metadata.get("min") == min(values["min"], default=None)
    assert session["expires"] is any(name in ledger.touched for ledger in ledgers)


def check_branches(name: str, branches: dict[str, list[Any]], ledgers: list[Ledger]) -> None:
    """Those that were deleted are gone, with what anybody wrote on them. The others show what was written on them, and
    of main what was there when they were forked."""
    forked = set[str]().union(*(ledger.forked - ledger.dropped for ledger in ledgers))
    assert {branch_place(name, branch) for branch in branches if branch != "main"} == {
        place for place in forked if place.startswith(branch_place(name, ""))
    }
    for branch in branches.keys() - {"main"}:
        items = [item_of(item) for item in branches[branch]]
        inherited = [item for item in items if item[0] == name]
        assert set(inherited) <= added(ledgers, name), "a branch shows what was never written"
        check_items(inherited, set(inherited))
        check_items([item for item in items if item[0] != name], added(ledgers, branch_place(name, branch)))


def check_ended(session: str, items: list[Item], name: str, by_name: dict[str, Ledger], *, keeps: bool) -> None:
    """What was deleted is gone; what its owner wrote afterwards is there. What others wrote may be there, also what was
    deleted: if the first that they sent got no answer, they send it again, and begin the session anew."""
    owner, ledgers = by_name[name], list(by_name.values())
    begun = {item for item in owner.items(session) if item[:3] in owner.begun.get(session, set())}
    assert begun <= set(items), "what was written after a deletion is lost"
    assert set(items) <= added(ledgers, session)
    assert len(set(items)) == len(items), "an item is there twice"
    if keeps:
        check_items(items, set(items))
        assert not own_deleted(name, owner) & set(items), "what was deleted came back"


def check_central(url: str, namespace: str, by_name: dict[str, Ledger], *, keeps: bool) -> None:
    """Past what replicas make of it."""
    ledgers = list(by_name.values())
    changes = {name: sum(ledger.changes[name] for ledger in ledgers) for name in (*SESSIONS, *BULKY)}
    assert changes_in(url, namespace, changes) == changes, "a change is there twice"
    bodies = bodies_in(url, namespace)
    assert not any(name.startswith(BRIEF) for name in bodies), "a session has not expired"
    assert not keeps or not any(
        json.dumps(item, separators=(",", ":")).encode() in bodies.get(item[0], b"")
        for name, ledger in by_name.items()
        for item in own_deleted(name, ledger)
    ), "what was deleted is in the central store"


def own_deleted(name: str, ledger: Ledger) -> set[Item]:
    """What a replica wrote itself, and deleted."""
    return {item for item in ledger.deleted if item[1] == name}


def check_items(items: list[Item], expected: set[Item]) -> None:
    """Nothing lost, nothing twice; what one call added together, calls of a replica in order."""
    assert len(set(items)) == len(items), "an item is there twice"
    assert set(items) == expected, "an item is lost"
    latest: dict[str, int] = {}
    for (_, author, number), call in groupby(items, key=lambda item: item[:3]):
        parts = [part for *_, part in call]
        assert parts == sorted(parts)
        assert latest.get(author, -1) < number, "a call was torn apart, or came before an earlier one"
        latest[author] = number


def items_of(sessions: dict[str, Any], name: str) -> list[Item]:
    """On main."""
    return [item_of(item) for item in sessions[name]["branches"]["main"]] if name in sessions else []


def added(ledgers: list[Ledger], place: str) -> set[Item]:
    """By anybody."""
    return set[Item]().union(*(ledger.items(place) for ledger in ledgers))


def written(ledgers: list[Ledger], session: str, key: str) -> list[Any]:
    """By anybody, under a key."""
    return [value for ledger in ledgers for value in ledger.values.get((session, key), ())]
