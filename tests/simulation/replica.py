"""A directory, and the processes that work on it: agents with their views, and the worker that replicates."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

from localfirst.aside import Quarantine
from localfirst.change import new_id
from localfirst.clock import CentralTime, HybridClock, Reckoning
from localfirst.identity import Identity
from localfirst.local import Local
from localfirst.log import Log
from localfirst.records import Head, SessionKey, session_key
from localfirst.turn import Turn
from localfirst.turns import Turns
from localfirst.view import View
from sync.central.base import CentralStore
from sync.replicate import Replicator
from sync.round import Round
from sync.site import Limits, Site
from sync.worker import Options, Worker
from tests.simulation.rows import Disk, Life, MemoryRows
from tests.simulation.server import NAMESPACE
from tests.simulation.world import WORLD, SimulatedClock, wall

_OPTIONS: Final = Options(poll_interval=20.0, sync_interval=0.0)


class Clock:
    """Of the machine that a directory is on."""

    def __init__(self, skew: float) -> None:
        self.skew = skew
        self.stepped = False
        """It was set: what is known of how far it is off may be wrong."""

    def __call__(self) -> float:
        return self.skew


class Directory:
    """One local store."""

    def __init__(self, number: int, disk: Disk, clock: Clock) -> None:
        self.number = number
        self.disk = disk
        self.clock = clock
        self.processes: list[Process] = []
        self.driven: Process | None = None
        """Whose job is going on at this moment."""
        self.open_observer()

    def open_observer(self) -> None:
        """Somebody who looks at everything and changes nothing."""
        self.log = Log(MemoryRows(self.disk, Life()), WORLD.vault)
        self.observed: dict[str, View] = {}
        self.disk.touched.clear()

    @property
    def identity(self) -> Identity:
        """Its names."""
        return Identity(self.log.rows)

    @property
    def quarantine(self) -> Quarantine:
        """What of it is stopped."""
        return Quarantine(self.log.rows)

    def head(self, session: str) -> Head | None:
        """Where a session stands."""
        return self.log.head(session_key(NAMESPACE, session))

    def view(self, session: str) -> View:
        """A session, as the observer sees it."""
        if session not in self.observed:
            self.observed[session] = self.fresh_view(session)
        return self.observed[session]

    def fresh_view(self, session: str) -> View:
        """A session, read from nothing."""
        key = session_key(NAMESPACE, session)
        head = Head(NAMESPACE, session)
        return View(self.log, HybridClock(lambda: 0), key, head, lambda: False, _Now(self.clock, self._reckoning))

    def now(self) -> int:
        """Unix milliseconds by the central store's clock, as far as that is known here."""
        return _Now(self.clock, self._reckoning).now()

    def _reckoning(self) -> Reckoning:
        return self.identity.reckoning(NAMESPACE)

    def kill(self) -> None:
        """All of its processes."""
        for process in list(self.processes):
            process.kill()


class _Now(CentralTime):
    """As a process knows it that begins just now."""

    def __init__(self, skew: Clock, known: Callable[[], Reckoning]) -> None:
        super().__init__(wall(skew))
        self._newest = known

    def now(self) -> int:
        self.reckoning = self._newest()
        return super().now()


class OrderedReplicator(Replicator):
    """Takes sessions in one order: that of a set is another in each process that simulates."""

    async def round(
        self, push: Iterable[SessionKey], pull: Iterable[SessionKey], one_way: Iterable[SessionKey] = ()
    ) -> Round:
        return await super().round(sorted(push), sorted(pull), one_way)


class Process:
    """One process on a directory."""

    def __init__(
        self, directory: Directory, link: CentralStore, limits: Limits, tell: Any, *, ask: bool, reckons: bool
    ) -> None:
        """`reckons`: its clock follows that of the central store, as in the product; else it goes as it likes."""
        self.directory = directory
        self.life = Life()
        self.name = new_id()
        WORLD.alive.add(self.name)
        self.log = Log(MemoryRows(directory.disk, self.life), WORLD.vault)
        time = CentralTime(wall(directory.clock), partial(Identity(self.log.rows).reckoning, NAMESPACE))
        self.time = time
        self.clock = SimulatedClock(time.timestamp if reckons else wall(directory.clock))
        one_loop = WORLD.random.random() < 0.3
        log = self.log if one_loop else Log(MemoryRows(directory.disk, self.life), WORLD.vault)
        self.site = Site(log, link, NAMESPACE, tell, limits, ask, time=time)
        self.worker = Worker(Path("simulated"), self.site, _OPTIONS)
        self.worker._work.replicator = OrderedReplicator(self.site)
        self.turns = Turns(self.log)
        self.owner = SimpleNamespace(name=lambda: self.name)
        self.open_turns: dict[str, Turn] = {}
        self.task: Coroutine[Any, Any, None] | None = None
        self.begun = False
        self.wanted: set[str] = set()
        """Sessions that were evicted, and that somebody asked for."""
        self._views: dict[str, View] = {}
        directory.processes.append(self)

    def view(self, session: str) -> View:
        """A session, as the agents of this process see it."""
        if session not in self._views:
            head = self.new_head(session)
            self._views[session] = View(self.log, self.clock, self.key(session), head, lambda: False, self.time)
        return self._views[session]

    def new_head(self, session: str) -> Head:
        """Of a session that was never here."""
        return Head(NAMESPACE, session, origin=Identity(self.log.rows).replica_id())

    @staticmethod
    def key(session: str) -> SessionKey:
        """Of the rows of a session."""
        return session_key(NAMESPACE, session)

    def new_turn(self) -> int:
        """A number for a turn."""
        return self.clock.now() | 1

    def begin_turn(self, session: str) -> Turn:
        """Of one session, as `Session.turn` does it, without the context."""
        turn = self.open_turns[session] = Turn(cast(Local, self), self.key(session), session)
        return turn

    def kill(self) -> None:
        """It ends here: nothing of it is done any more, not even what stands in a `finally`."""
        self.life.dead = True
        WORLD.alive.discard(self.name)
        if self.task is not None:
            with suppress(BaseException):
                self.task.close()
            self.task = None
        if self in self.directory.processes:
            self.directory.processes.remove(self)
