"""A worker on a directory, a central store that hangs and fails by command, and a clock that stands still."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from localfirst import jsonvalue, outbox, volumes
from localfirst.aside import Quarantine
from localfirst.change import APPEND
from localfirst.clock import CentralTime, HybridClock
from localfirst.errors import RemoteRejected, RemoteUnavailable
from localfirst.identity import Identity
from localfirst.lifetime import Wish
from localfirst.lives import end_life
from localfirst.log import Log
from localfirst.records import ANY_LIFE, Aside, Direction, Head, session_key
from localfirst.rows import Rows
from localfirst.testing.memory import MemoryServer, MemoryStore
from localfirst.version import VERSION
from localfirst.view import View
from sync.central.base import CentralStore, Hint
from sync.site import Limits, Notice, Site
from sync.tasks import end
from sync.worker import Options, Worker

OPERATIONS: Final = frozenset(
    name for name, member in vars(CentralStore).items() if inspect.iscoroutinefunction(member) and name != "close"
)
"""What may hang and fail: all that a worker can ask for."""
_MISSED: Final = Hint("", "", -1)
_BEGAN: Final = 1000.0

T = TypeVar("T")


class Central(MemoryStore):
    """Calls hang while they are in `hanging`, and raise `error` while they are in `failing`; all are counted."""

    def __init__(self, server: MemoryServer) -> None:
        super().__init__(server)
        self.error: BaseException | None = None
        self.failing = OPERATIONS
        self.hanging: frozenset[str] = frozenset()
        self.losing: frozenset[str] = frozenset()
        """What is done, but not answered."""
        self.deaf = False
        """Whether it gives no hints."""
        self.refusing: set[str] = set()
        """Sessions that it does not take."""
        self.calls: list[str] = []
        self.running = 0
        self.most = 0
        """How many calls ran at once."""
        self.listened = 0
        self._permits = 0
        self._gate = asyncio.Event()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name not in OPERATIONS:
            return found

        async def call(*arguments: Any) -> Any:
            self.calls.append(name)
            self.running += 1
            self.most = max(self.most, self.running)
            try:
                await self._pass(name)
                if self.error is not None and name in self.failing:
                    raise self.error
                if name == "push" and self.refusing & {run.session_id for run in arguments[0]}:
                    raise RemoteRejected("it is not taken")
                answer = await found(*arguments)
                if name in self.losing:
                    raise RemoteUnavailable("the answer was lost")
                return answer
            finally:
                self.running -= 1

        return call

    async def _pass(self, name: str) -> None:
        while name in self.hanging:
            if self._permits:
                self._permits -= 1
                return
            self._gate.clear()
            await self._gate.wait()

    def allow(self, count: int) -> None:
        """Let so many calls go on, and the next hang again."""
        self._permits += count
        self._gate.set()

    def release(self) -> None:
        """Nothing hangs any more."""
        self.hanging = frozenset()
        self._permits = 0
        self._gate.set()

    def heal(self) -> None:
        """Nothing hangs or fails any more."""
        self.error = None
        self.failing = OPERATIONS
        self.losing = frozenset()
        self.refusing.clear()
        self.release()

    async def watch(self) -> AsyncGenerator[Hint | None, None]:
        self.listened += 1
        if self.deaf:
            return
        async for hint in super().watch():
            yield None if hint == _MISSED else hint

    def hint(self, hint: Hint) -> None:
        """Tell this to whoever listens to this store."""
        for queue in self._queues:
            queue.put_nowait(hint)

    def miss_hints(self) -> None:
        """Some did not come through."""
        self.hint(_MISSED)

    def break_hints(self) -> None:
        """The connection for hints breaks."""
        for queue in self._queues:
            queue.put_nowait(None)


class Recorded(Worker):
    """Remembers the states that it went through."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "state" and value != getattr(self, "state", None):
            self.__dict__.setdefault("history", []).append(value)
        super().__setattr__(name, value)

    history: list[str]


class Bench:
    """A worker, and what it works on."""

    def __init__(self, path: Path, server: MemoryServer | None = None) -> None:
        self.path = path
        self.log = Log(Rows(path / "data"))
        self.central = Central(server or MemoryServer())
        self.options = Options(poll_interval=0.05, sync_interval=0.0)
        self.limits = Limits()
        self.ask = False
        self.time = CentralTime()
        self.told: list[Notice] = []

    @property
    def identity(self) -> Identity:
        return Identity(self.log.rows)

    @property
    def quarantine(self) -> Quarantine:
        return Quarantine(self.log.rows)

    def make(self) -> Recorded:
        site = Site(self.log, self.central, "default", self.told.append, self.limits, self.ask, time=self.time)
        return Recorded(self.path, site, self.options)

    def add(self, name: str, text: str, turn: int = 0, wish: Wish | None = None) -> None:
        body = jsonvalue.join([jsonvalue.encode(text)])
        head = Head("default", name, self.identity.replica_id())
        view = View(self.log, HybridClock(), session_key("default", name), head, lambda: False)
        view.write(lambda _: [(APPEND, body)], fresh=True, turn=lambda: turn, wish=wish)

    def delete(self, name: str) -> None:
        """As `Store.delete` does it, but for what it removes at once."""
        key, head = session_key("default", name), self.log.head(session_key("default", name))
        assert head is not None
        assert end_life(self.log, key, head, ending=head.generation or ANY_LIFE) is not None

    def evict(self, name: str) -> None:
        """As a worker does it that is given a limit."""
        key, head = session_key("default", name), self.log.head(session_key("default", name))
        assert head is not None
        assert self.log.evict(key, head, volumes.newest(self.log, key, head))

    def use(self, name: str) -> None:
        """As somebody does who reads a session that was never here."""
        self.log.create(session_key("default", name), Head("default", name, self.identity.replica_id()))

    def put_aside(self, name: str, version: str = VERSION, direction: Direction = "push") -> None:
        """Its first change is refused, or can't be read."""
        aside = Aside("default", name, direction, "it is not taken", time.time(), version, place=1)
        self.quarantine.put(session_key("default", name), aside)

    def acked(self, name: str) -> int:
        head = self.log.head(session_key("default", name))
        return head.acked if head else 0

    def seq(self, name: str) -> int:
        head = self.log.head(session_key("default", name))
        return head.seq if head else 0

    def pending(self) -> list[str]:
        """Sessions of which something waits for the central store, but for those that are put aside."""
        stopped = {key for (key, _), aside in self.quarantine.all("default").items() if not aside.consent}
        heads = [self.log.head(key) for key in outbox.waiting(self.log, "default") - stopped]
        return sorted(head.session_id for head in heads if head is not None)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Recorded]:
        made = self.make()
        life = asyncio.create_task(made.run())
        try:
            yield made
        finally:
            await end(life)
            await made.close()


class Clock:
    """Time passes only when it is told to. Stands in for the module `time`."""

    def __init__(self) -> None:
        self.now = _BEGAN
        self._wall = time.time()
        self._sleeping: list[tuple[float, asyncio.Future[None]]] = []

    def monotonic(self) -> float:
        self.now += 1e-6  # No two moments are one.
        return self.now

    def time(self) -> float:
        return self._wall + self.now - _BEGAN

    def wall_ms(self) -> int:
        """As the function of this name in `localfirst.clock`."""
        return int(self.time() * 1000)

    async def sleep(self, seconds: float) -> None:
        if not seconds:  # It only lets others have their turn.
            await asyncio.sleep(0)
            return
        future = asyncio.get_running_loop().create_future()
        self._sleeping.append((self.now + seconds, future))
        await future

    async def wait_for_event(self, event: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.ensure_future(event.wait()), asyncio.ensure_future(self.sleep(seconds))]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waits:
                each.cancel()

    def advance(self, seconds: float) -> None:
        """Let time pass, and wake who has slept for long enough."""
        self.now += seconds
        due = [sleeping for sleeping in self._sleeping if sleeping[0] <= self.now]
        self._sleeping = [sleeping for sleeping in self._sleeping if sleeping[0] > self.now]
        for _, future in due:
            if not future.done():
                future.set_result(None)


class StillAsyncio:
    """`asyncio` with a `sleep` by the clock, and with threads that take no time."""

    def __init__(self, clock: Clock) -> None:
        self.sleep = clock.sleep

    async def to_thread(self, call: Callable[[], T]) -> T:
        return call()

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


async def quiet() -> None:
    """Return when nothing on the loop goes on without time passing, or somebody acting."""
    loop: Any = asyncio.get_running_loop()
    await asyncio.sleep(0)
    while loop._ready:  # noqa: ASYNC110 - an event would be one more thing that goes on
        await asyncio.sleep(0)


async def eventually(holds: Callable[[], Any], timeout: float = 10.0) -> None:
    """Poll until something holds, by the clock on the wall."""
    deadline = asyncio.get_running_loop().time() + timeout
    while not holds():
        assert asyncio.get_running_loop().time() < deadline, "it did not happen in time"
        await asyncio.sleep(0.002)
