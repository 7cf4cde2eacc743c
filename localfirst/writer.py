"""Writes that find the directory locked by another process: waited for off the event loop, and kept in order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from localfirst.errors import StoreBusy
from localfirst.rows import patiently

T = TypeVar("T")


def nothing() -> None:
    """Tells nobody."""


class Writer:
    """Runs small local calls for coroutines: at once if that is possible, else in a thread, first come first served."""

    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="localfirst-write")
        self._lock = threading.Lock()
        self._queued = 0

    @property
    def is_free(self) -> bool:
        """Whether a call may be made at once, and comes after none that waits."""
        return not self._queued

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
        self._count(1)
        future = self._executor.submit(patiently, call)
        future.add_done_callback(lambda _: self._count(-1))
        return await _finished(future, then)

    def close(self) -> None:
        """Finish what is queued."""
        self._executor.shutdown(wait=True)

    def _count(self, by: int) -> None:
        with self._lock:
            self._queued += by


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
