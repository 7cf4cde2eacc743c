"""A directory and a server, with rounds between them by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from localfirst import jsonvalue
from localfirst.aside import Quarantine
from localfirst.change import APPEND
from localfirst.clock import CentralTime, HybridClock, wall_time
from localfirst.codec import Vault
from localfirst.identity import Identity
from localfirst.log import Log
from localfirst.records import Direction, Head, SessionKey, session_key
from localfirst.rows import Rows
from localfirst.testing.memory import MemoryServer, MemoryStore
from localfirst.view import Plan, View
from sync.replicate import Replicator
from sync.round import Refusal, Round
from sync.site import Limits, Lost, Notice, Over, Settled, Site


class Replica:
    """A log, and rounds of it with a server."""

    def __init__(
        self,
        path: Path,
        server: MemoryServer,
        limits: Limits | None = None,
        *,
        ask: bool = False,
        wall: Callable[[], int] = wall_time,
        vault: Vault | None = None,
    ) -> None:
        self.clock = HybridClock(wall)
        self.rows = Rows(path / "data")
        self.log = Log(self.rows, vault)
        self.identity = Identity(self.rows)
        self.quarantine = Quarantine(self.rows)
        self.central = MemoryStore(server)
        self.told: list[Notice] = []
        self.time = CentralTime(wall)
        self.site = Site(self.log, self.central, "default", self.told.append, limits or Limits(), ask, time=self.time)
        self.replicator = Replicator(self.site)

    @property
    def origin(self) -> str:
        return self.identity.replica_id()

    @property
    def settled(self) -> list[Settled]:
        return [notice for notice in self.told if isinstance(notice, Settled)]

    @property
    def lost(self) -> list[Lost]:
        return [notice for notice in self.told if isinstance(notice, Lost)]

    @property
    def over(self) -> list[str]:
        return [notice.how for notice in self.told if isinstance(notice, Over)]

    def view(self, name: str) -> View:
        head = Head("default", name, self.origin)
        return View(self.log, self.clock, session_key("default", name), head, lambda: False, self.time)

    def write(self, name: str, plan: Plan, turn: int = 0) -> SessionKey:
        self.view(name).write(plan, fresh=True, turn=lambda: turn)
        return session_key("default", name)

    def add(self, name: str, *items: Any, turn: int = 0) -> SessionKey:
        body = jsonvalue.join([jsonvalue.encode(item) for item in items])
        return self.write(name, lambda _: [(APPEND, body)], turn)

    def items(self, name: str) -> list[Any]:
        return jsonvalue.decode_each([item.data for item in self.view(name).refresh().items])

    def head(self, name: str) -> Head:
        head = self.log.head(session_key("default", name))
        assert head is not None
        return head

    def pending(self, name: str) -> int:
        return self.log.last_slot(session_key("default", name)) - self.head(name).acked

    async def sync(self, *names: str, stopped: Iterable[tuple[SessionKey, Direction]] = ()) -> Round:
        """Rounds until there is nothing more to do; the refusals of all."""
        push = pull = {await self.replicator.know(name) for name in names}
        refused: dict[tuple[SessionKey, Direction], Refusal] = {}
        held = set(stopped)
        while True:
            push = {key for key in push if (key, "push") not in held}
            pull = {key for key in pull if (key, "pull") not in held}
            if not push and not pull:
                break
            outcome = await self.replicator.round(push, pull, {key for key in push if (key, "pull") in held})
            refused |= outcome.refused
            held |= outcome.refused.keys()
            push, pull = outcome.push, outcome.pull
        await self.replicator.tidy()
        return Round(refused=refused)
