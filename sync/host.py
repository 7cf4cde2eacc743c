"""Where a worker runs: in a thread of its own, as a task on the running loop, or only inside flush and refresh."""

from __future__ import annotations

import asyncio
import contextlib
import os
import stat
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from concurrent.futures import Future, InvalidStateError
from typing import Any, Final

from localfirst.errors import ConfigurationError, StoreClosed
from localfirst.threads import Threads
from sync.status import SyncStatus
from sync.tasks import end
from sync.worker import Worker

_PATIENCE: Final = 5.0
"""Seconds that closing waits for what runs to end."""

_LONGEST_PACE: Final = 0.02
"""Seconds: a worker that is woken more often takes the interpreter from the agent for nothing."""

Request = Callable[[Worker], Awaitable[None]]

_inherited: Final[list[object]] = []
"""What a parent process was at when it forked: nothing of it may ever be ended here, so it is kept."""


class Host(ABC):
    """Runs a worker, and requests to it from any thread."""

    def __init__(self) -> None:
        self._requests: weakref.WeakSet[Future[None]] = weakref.WeakSet()
        self._submitting = threading.Lock()
        self._closing = False

    def submit(self, request: Request) -> Future[None]:
        """Start a request. Cancelling the future stops it."""
        with self._submitting:
            if self._closing:
                raise StoreClosed("the store is being closed: open it again")
            future = self._begin(request)
            self._requests.add(future)
            return future

    @abstractmethod
    def _begin(self, request: Request) -> Future[None]: ...

    def cancel_requests(self) -> None:
        """Take no more, and let nobody wait for what will not come."""
        with self._submitting:
            self._closing = True
        for future in list(self._requests):
            future.cancel()

    @property
    @abstractmethod
    def status(self) -> SyncStatus:
        """How the last contact with the central store went."""

    fetches = True
    """Whether a session that was never here can be fetched in the background."""

    @property
    def leads(self) -> bool:
        """Whether this process syncs the directory."""
        return False

    def wake(self) -> None:  # noqa: B027 - a host without a worker has nothing to wake, stop or start anew
        """Something was written here. Costs next to nothing, and never waits."""

    def nudge(self) -> None:
        """Try to reach the central store now, whatever keeps the worker waiting."""
        if self.runs:
            self.submit(lambda worker: worker.nudge())

    def may_wait_here(self) -> bool:
        """Whether the calling thread can wait for a request without stopping it."""
        return True

    @property
    def runs(self) -> bool:
        """Whether requests can be served."""
        return True

    def close(self) -> None:  # noqa: B027
        """Stop, and close the connections to the central store."""

    async def aclose(self) -> None:
        """As `close`, from a coroutine."""
        await asyncio.to_thread(self.close)

    def drop(self) -> None:
        """As `close`, where nobody may wait."""
        self.close()

    def forked(self) -> None:
        """This is a child process now: what ran in the parent's threads does not run here."""
        self._submitting = threading.Lock()
        self._requests = weakref.WeakSet()


class ThreadHost(Host):
    """A daemon thread with an event loop."""

    def __init__(self, make: Callable[[], Worker], pace: float) -> None:
        super().__init__()
        self._make = make
        self._pace = min(pace, _LONGEST_PACE)
        self._start()

    def _start(self) -> None:
        self._forked = self._awake = False
        self._worker = self._make()
        started = threading.Event()
        failed: list[Exception] = []
        self._thread = threading.Thread(target=self._main, args=(started, failed), name="localfirst-sync", daemon=True)
        self._thread.start()
        started.wait()
        if failed:
            raise ConfigurationError(f"the sync worker can't be started: {failed[0]}") from failed[0]

    def _main(self, started: threading.Event, failed: list[Exception]) -> None:
        serving = self._serve(started)
        try:
            asyncio.run(serving)
        except Exception as error:
            failed.append(error)
            if started.is_set() and threading.main_thread().is_alive():
                raise  # As the interpreter ends, all is done, but Python 3.12 has no more threads to end an executor.
        finally:
            serving.close()  # If there is no loop for it.
            started.set()

    async def _serve(self, started: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._loop.set_default_executor(Threads())
        self._stop = asyncio.Event()
        life = asyncio.create_task(self._worker.run())
        started.set()
        await self._stop.wait()
        await _end(self._worker, life)

    def _begin(self, request: Request) -> Future[None]:
        self._revive()
        return asyncio.run_coroutine_threadsafe(_awaited(request(self._worker)), self._loop)

    @property
    def status(self) -> SyncStatus:
        return self._worker.status.stopped() if self._forked else self._worker.status

    @property
    def leads(self) -> bool:
        return self._worker.leads

    def wake(self) -> None:
        self._revive()
        if not self._awake:  # The first of a burst of writes wakes it at once, the others together.
            self._awake = True
            with contextlib.suppress(RuntimeError):  # It is being closed: the next open finds what was written.
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._worker.wake()
        self._loop.call_later(self._pace, self._wake_again)

    def _wake_again(self) -> None:
        self._awake = False
        self._worker.wake()

    def may_wait_here(self) -> bool:
        return threading.current_thread() is not self._thread

    def close(self) -> None:
        if self._forked or not self._thread.is_alive():
            return
        self.cancel_requests()
        with contextlib.suppress(RuntimeError):  # It has ended by itself.
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_PATIENCE)
        self.cancel_requests()  # What the loop had not begun when it ended.

    def forked(self) -> None:
        super().forked()
        self._forked = True
        _inherited.append((self._loop, self._worker))
        _disown(self._loop)

    def _revive(self) -> None:
        """In a child process, a new thread starts when it is first needed: most children never sync."""
        if self._forked:
            self._start()


class TaskHost(Host):
    """A task on the loop that was running when the store was opened."""

    def __init__(self, make: Callable[[], Worker]) -> None:
        super().__init__()
        try:
            self._loop = asyncio.get_running_loop()
        except RuntimeError:
            raise ConfigurationError(
                'worker="task" needs a running event loop: open the store in a coroutine, or take worker="thread"'
            ) from None
        self._pid = os.getpid()
        self._worker = make()
        self._life = self._loop.create_task(self._worker.run(), name="localfirst-sync")

    def _begin(self, request: Request) -> Future[None]:
        if not self.runs:
            raise ConfigurationError(
                'the event loop that syncs this store (worker="task") has ended: close the store and open it again'
            )
        return asyncio.run_coroutine_threadsafe(_awaited(request(self._worker)), self._loop)

    @property
    def status(self) -> SyncStatus:
        return self._worker.status if self.runs else self._worker.status.stopped()

    @property
    def leads(self) -> bool:
        return self._worker.leads

    def wake(self) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._worker.wake)

    def may_wait_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is not self._loop
        except RuntimeError:
            return True

    @property
    def runs(self) -> bool:
        return self._loop.is_running() and self._pid == os.getpid()

    def close(self) -> None:
        self.cancel_requests()
        if self.runs:
            asyncio.run_coroutine_threadsafe(_end(self._worker, self._life), self._loop).result(_PATIENCE)
        else:
            self._worker.abandon()  # Nothing of it will ever run again.

    async def aclose(self) -> None:
        self.cancel_requests()
        await _end(self._worker, self._life)

    def drop(self) -> None:
        self._life.cancel()
        self._worker.abandon()


class RequestHost(Host):
    """No worker: every request makes one, with connections of its own, and ends it."""

    fetches = False

    def __init__(self, make: Callable[[], Worker]) -> None:
        super().__init__()
        self._make = make
        self._last = SyncStatus("stopped")
        self._serving: Worker | None = None
        self._threads: weakref.WeakSet[threading.Thread] = weakref.WeakSet()
        self._loops: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()

    def _begin(self, request: Request) -> Future[None]:
        future: Future[None] = Future()
        thread = threading.Thread(target=self._run, args=(request, future), name="localfirst-request", daemon=True)
        thread.start()
        self._threads.add(thread)
        return future

    def close(self) -> None:
        self.cancel_requests()
        for thread in list(self._threads):
            thread.join(_PATIENCE)

    def _run(self, request: Request, future: Future[None]) -> None:
        try:
            asyncio.run(self._serve(request, future))
        except BaseException as error:  # It belongs to the one who waits for the future
            with contextlib.suppress(InvalidStateError):  # Cancelled: nobody waits.
                future.set_exception(error)
        else:
            with contextlib.suppress(InvalidStateError):
                future.set_result(None)

    async def _serve(self, request: Request, future: Future[None]) -> None:
        self._loops.add(asyncio.get_running_loop())
        asyncio.get_running_loop().set_default_executor(Threads())
        worker = self._serving = self._make()
        task = asyncio.ensure_future(_awaited(request(worker)))
        future.add_done_callback(_canceller(asyncio.get_running_loop(), task))
        try:
            await task
        finally:
            self._last = self.status
            self._serving = None
            await worker.close()

    @property
    def status(self) -> SyncStatus:
        """Of the request that is served now, once it has tried; else of the last that has."""
        serving = self._serving
        return self._last if serving is None or serving.status.state == "connecting" else serving.status

    def forked(self) -> None:
        super().forked()
        for loop in self._loops:
            _inherited.append((loop, self._serving))
            _disown(loop)
        self._serving = None


def _canceller(loop: asyncio.AbstractEventLoop, task: asyncio.Future[None]) -> Callable[[Future[None]], None]:
    def cancel(future: Future[None]) -> None:
        if future.cancelled() and not loop.is_closed():
            with contextlib.suppress(RuntimeError):  # The loop ended meanwhile.
                loop.call_soon_threadsafe(task.cancel)

    return cancel


async def _awaited(request: Awaitable[None]) -> None:
    await request


async def _end(worker: Worker, life: asyncio.Task[Any]) -> None:
    await end(life)
    await worker.close()


def _disown(loop: Any) -> None:
    """In a child process: let go of the parent's connections (but for one that is being made in this very moment).

    They are its own to read, to write, and to end: a server sees the end of a connection only when nobody has it open
    any more. The numbers of the files stay taken, for the objects that the parent had would close them once more; and
    its selector, which the child shares, hears of none of this.
    """
    selector = getattr(loop, "_selector", None)
    if selector is None:
        return  # It is closed, or of another kind that has ways of its own.
    transports = [transport.get_extra_info("socket") for transport in list(loop._transports.values())]  # noqa: SLF001
    opened = {*(selector.get_map() or ()), *(each.fileno() for each in (*transports, loop._csock) if each)}  # noqa: SLF001
    null = os.open(os.devnull, os.O_RDWR)
    for number in [number for number in opened if _is_socket(number)] + [selector.fileno()]:
        os.dup2(null, number, inheritable=False)
    os.close(null)


def _is_socket(number: int) -> bool:
    with contextlib.suppress(OSError):
        return stat.S_ISSOCK(os.fstat(number).st_mode)
    return False
