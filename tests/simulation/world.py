"""What is the same for all replicas of a universe: chance, time, and the names that are made. All from the seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import localfirst.change
import localfirst.log
import localfirst.turns
import localfirst.volumes
import sync.agenda
import sync.asides
import sync.contact
import sync.evict
import sync.worker
from localfirst.clock import HybridClock
from localfirst.codec import Vault
from localfirst.keys import KeyRing

_RING = KeyRing([bytes(range(32)), bytes(32)])


class World:
    """Of the universe that is simulated now."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, seed: int) -> None:
        """Another universe."""
        self.random = Random(seed)
        self.names = Random(seed + 1)
        self.now = 1_700_000_000.0
        self.alive: set[str] = set()
        """The owners of turns whose processes live."""
        self.machine: Callable[[], float] = lambda: 0.0
        """By how much the clock of the machine is off on which something goes on just now."""
        self.vault = Vault("default", _RING if seed % 4 == 2 else None)
        """In every fourth universe, all is sealed."""
        self._times: set[int] = set()

    def time(self) -> float:
        """Unix seconds by the clock that nobody has: those of replicas and servers are beside it."""
        return self.now

    def time_here(self) -> float:
        """Unix seconds by the clock of the machine on which something goes on just now."""
        return self.now + self.machine()

    def token_bytes(self, size: int) -> bytes:
        """Bytes, as `os.urandom` gives them."""
        return self.names.randbytes(size)

    def token(self, size: int) -> str:
        """A name, as `secrets.token_hex` gives it."""
        return self.names.randbytes(size).hex()

    def take_time(self, time: int) -> int:
        """The same timestamp or a later one, that no change has; nor has any the next, for the ends of turns."""
        while time in self._times or time + 1 in self._times:
            time += 2
        self._times.update((time, time + 1))
        return time


WORLD = World()


def wall(skew: Callable[[], float]) -> Callable[[], int]:
    """The clock of a machine, as a timestamp."""
    return lambda: int((WORLD.now + skew()) * 1000) << 16


class SimulatedClock(HybridClock):
    """The clock of one process, whose times name the changes: no other clock gives the same."""

    def now(self) -> int:
        """A timestamp of its own."""
        with self._lock:
            self._last = WORLD.take_time(max(self._wall(), self._last + 1))
            return self._last


@contextmanager
def deterministic() -> Iterator[None]:
    """Nothing below asks the machine for time or chance."""
    clock = SimpleNamespace(time=WORLD.time, monotonic=WORLD.time)
    fakes: list[tuple[Any, str, Any]] = [
        (localfirst.change, "secrets", SimpleNamespace(token_hex=WORLD.token)),
        (localfirst.log, "os", SimpleNamespace(urandom=WORLD.token_bytes)),
        (localfirst.volumes, "os", SimpleNamespace(urandom=WORLD.token_bytes)),
        (localfirst.volumes, "time", clock),
        (localfirst.turns, "time", clock),
        (localfirst.turns, "_is_alive", _is_alive),
        (sync.agenda, "time", clock),
        (sync.asides, "time", clock),
        (sync.contact, "time", SimpleNamespace(time=WORLD.time_here, monotonic=WORLD.time)),
        (sync.worker, "time", clock),
        (sync.evict, "time", clock),
        (sync.worker, "random", SimpleNamespace(uniform=lambda lower, upper: (lower + upper) / 2)),
        (sync.worker, "SETTLE_ROWS", 20),
    ]
    with ExitStack() as stack:
        for module, name, fake in fakes:
            stack.enter_context(patch.object(module, name, fake))
        yield


def _is_alive(directory: Path, owner: str) -> bool:
    return owner in WORLD.alive
