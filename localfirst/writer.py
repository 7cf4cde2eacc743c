"""Writes that must wait: for the lock of another process, or for the disk. They do so off the event loop, in order."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar

from localfirst.errors import StoreBusy
from localfirst.group import Call, Together, Unsettled, Write, run_together
from localfirst.rows import patiently
from localfirst.threads import Threads

HELD_SECONDS: Final = 0.001
"""How long calls that wait for the disk may hold an event loop, one after the other, before others have their turn."""
SLOW_SECONDS: Final = 0.002
"""What such a call takes that is not made on an event loop any more."""

P = ParamSpec("P")
T = TypeVar("T")


def nothing() -> None:
    """Tells nobody."""


class Writer:
    """Runs small local calls for coroutines: at once if that is possible, else in a thread, first come first served.

    `together`: where each commit waits for the disk.
    """

    def __init__(self, together: Together | None = None) -> None:
        self.waits = together is not None
        """Whether each commit waits for the disk."""
        self._together = together
        self._executor = Threads(1, thread_name_prefix="localfirst-write")
        self._lock = threading.RLock()  # Work may be done where it is brought, see `Threads`.
        self._queued = 0
        self._group: list[Call[Any]] | None = None
        self._task = 0
        self._yielding = 0
        self._yielded_at = 0.0
        self._seconds = 0.0

    @property
    def is_free(self) -> bool:
        """Whether a call may be made at once, and comes after none that waits."""
        return not self._queued

    async def is_alone(self) -> bool:
        """Whether a call that waits for the disk may do so on the event loop: if that is short, and no other task
        writes, which could share the commit."""
        if self._yielding or time.monotonic() - self._yielded_at > HELD_SECONDS:
            self._yielding += 1  # Whoever comes now goes on after this one.
            try:
                await asyncio.sleep(0)
            finally:
                self._yielding -= 1
            self._yielded_at = time.monotonic()
        before, self._task = self._task, id(asyncio.current_task())
        return before in (0, self._task) and not self._queued and self._seconds < SLOW_SECONDS

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Around a call that waits for the disk."""
        begun = time.monotonic()
        yield
        self._seconds = time.monotonic() - begun

    async def run(self, call: Callable[[], T], then: Callable[[], None] = nothing) -> T:
        """Run a call that may raise `StoreBusy`, and `then` what tells of it, if it went well.

        If the caller is cancelled, however often, the call is finished first. What it raised then is the cause of the
        `CancelledError`.
        """
        if not self._queued:
            try:
                found = call()
            except StoreBusy:
                pass  # Somebody else is writing. The loop must not wait for that.
            else:
                then()
                return found
        return await self.run_aside(call, then)

    async def run_aside(self, call: Callable[[], T], then: Callable[[], None] = nothing) -> T:
        """As `run`, in the thread at once: for calls that take long. `then` runs on the loop."""
        with self._lock:
            self._group = None  # What is written after it comes after it.
            future = self._submit(patiently, call)
        future.add_done_callback(self._done)
        return await _finished(future, then)

    async def run_with_others(
        self, write: Write[T], view: Unsettled, after: Callable[[T], None], then: Callable[[], None] = nothing
    ) -> T:
        """As `run_aside`, for a small call that writes: those that wait share a commit. See `Call`."""
        call = Call(write, view, after)
        future: Future[None] | None = None
        with self._lock:
            if self._group is None:
                self._group = [call]
                future = self._submit(self._run_group, self._group)
            else:
                self._group.append(call)
        if future is not None:
            future.add_done_callback(self._done)
        return await call.finished(then)

    def close(self) -> None:
        """Finish what is queued."""
        self._executor.shutdown(wait=True)

    def _submit(self, work: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> Future[T]:
        """Hold the lock. Let `_done` follow, without it."""
        future = self._executor.submit(work, *arguments, **keywords)
        self._queued += 1
        return future

    def _done(self, _: Future[Any]) -> None:
        with self._lock:
            self._queued -= 1

    def _run_group(self, group: list[Call[Any]]) -> None:
        with self._lock:
            if self._group is group:
                self._group = None
        if self._together is not None:
            begun = time.monotonic()
            run_together(group, self._together)
            self._seconds = (time.monotonic() - begun) / len(group)


async def _finished(future: Future[T], then: Callable[[], None]) -> T:
    waiting, cancelled = asyncio.wrap_future(future), None
    while not waiting.done():
        try:
            await asyncio.wait([waiting])
        except asyncio.CancelledError as error:
            cancelled = error
    if waiting.exception() is None:
        then()
    if cancelled is not None:
        raise cancelled from waiting.exception()
    return waiting.result()
