"""Several devices at once, at random, while their server is stopped and killed: one history, and nothing lost."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import localfirst
from tests.conftest import OwnPostgres, OwnRedis

DEVICES = 4
SECONDS = 4.0


class Device(threading.Thread):
    """Writes, pops and sets at random for a while, as fast as it can."""

    def __init__(self, name: str, store: localfirst.Store, seed: int, *, clears: bool) -> None:
        super().__init__(name=name)
        self.store = store
        self.added: Counter[str] = Counter()
        self.popped: Counter[str] = Counter()
        self.increments = 0
        self.failure: BaseException | None = None
        self._chance = random.Random(seed)
        self._clears = clears

    def run(self) -> None:
        try:
            deadline = time.monotonic() + SECONDS
            while time.monotonic() < deadline:
                self._step(self.store.session(f"s{self._chance.randrange(3)}", hydrate_timeout=0.0))
                time.sleep(self._chance.random() * 0.005)
        except BaseException as error:
            self.failure = error

    def _step(self, session: localfirst.Session) -> None:
        what = self._chance.random()
        if what < 0.6:
            for _ in range(self._chance.randint(1, 3)):
                text = f"{self.name}-{sum(self.added.values())}"
                session.add_message("user", text)
                self.added[text] += 1
        elif what < 0.7:
            message = session.pop_message()
            if message is not None:
                self.popped[message["content"]] += 1
        elif what < 0.8:
            session.increment("count")
            self.increments += 1
        elif what < 0.9:
            session.set("who", self.name)
        elif what < 0.95 and self._clears:
            session.clear()
        else:
            session.get_messages(5)


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> Any:
    factory: OwnRedis | OwnPostgres = request.getfixturevalue(f"own_{request.param}")
    return factory()


@pytest.mark.parametrize("clears", [False, True], ids=["without clears", "with clears"])
def test_devices_converge_while_their_server_comes_and_goes(server: Any, tmp_path: Path, clears: bool) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    namespace = f"test-{uuid.uuid4()}"
    with ExitStack() as stack:
        devices = [
            Device(
                f"d{number}",
                stack.enter_context(
                    localfirst.open(tmp_path / f"d{number}", remote=server.url, namespace=namespace, poll_interval=0.2)
                ),
                seed + number,
                clears=clears,
            )
            for number in range(DEVICES)
        ]
        for device in devices:
            device.start()
        for end in (server.stop, server.kill, server.kill):
            time.sleep(SECONDS / 6)  # How long the server lives is part of the chance, not something waited for.
            end()
            server.start()
        for device in devices:
            device.join(60)
            assert device.failure is None, device.failure
        for device in devices:
            device.store.flush(60)
        for device in devices:
            device.store.refresh(60)
        exports = [[device.store.session(f"s{number}").export() for number in range(3)] for device in devices]
    assert all(export == exports[0] for export in exports)
    check_items(exports[0], devices, clears)
    check_order(exports[0], devices)
    counted = sum(session["metadata"].get("count", 0) for session in exports[0])
    assert counted == sum(device.increments for device in devices)


def check_items(sessions: list[Any], devices: list[Device], clears: bool) -> None:
    """Nothing is lost or doubled, and nothing comes back."""
    items = Counter(item["content"] for session in sessions for item in session["items"])
    added = {text for device in devices for text in device.added}
    popped = {text for device in devices for text in device.popped}
    assert set(items.values()) <= {1}, "an item is there twice"
    assert not popped & items.keys(), "an item that was popped came back"
    if not clears:
        assert items.keys() == added - popped, "an item is lost"


def check_order(sessions: list[Any], devices: list[Device]) -> None:
    """What one device wrote to a session is in the order of its writing."""
    for session in sessions:
        texts = [item["content"].split("-") for item in session["items"]]
        for device in devices:
            own = [int(number) for name, number in texts if name == device.name]
            assert own == sorted(own)
