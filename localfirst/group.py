"""Calls of coroutines that share one commit: where a commit waits for the disk, many cost little more than one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Generic, Protocol, TypeVar

from localfirst.errors import StoreBusy
from localfirst.rows import patiently

_logger = logging.getLogger("localfirst")

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
Together = Callable[[Iterable[Callable[[], None]]], None]
"""Carries out small calls as one commit. What it raises leaves nothing of any of them."""


class Write(Protocol[T_co]):
    """Writes one thing, with others or by itself."""

    def __call__(self, *, shared: bool) -> T_co: ...


class Unsettled(Protocol):
    """What is in memory of what was written with others, and is not committed yet."""

    def settle(self) -> None: ...

    def retreat(self) -> None: ...


class Call(Generic[T]):
    """One that is carried out in a thread, for a coroutine of the running loop, and what it changes in memory. `after`:
    what follows from its result, once that is on disk."""

    def __init__(self, write: Write[T], view: Unsettled, after: Callable[[T], None]) -> None:
        self.loop = asyncio.get_running_loop()
        self._write = write
        self._view = view
        self._after = after
        self._waiting = self.loop.create_future()
        self._finished = False
        self._results: list[T] = []
        self._error: Exception | None = None

    async def finished(self, then: Callable[[], None]) -> T:
        """Return or raise as it did, after `then`, if it went well. A coroutine that is cancelled waits for it all the
        same; what went wrong is the cause of its `CancelledError`."""
        cancelled: asyncio.CancelledError | None = None
        while not self._finished:
            try:
                await self._waiting
            except asyncio.CancelledError as error:
                cancelled, self._waiting = error, self.loop.create_future()
        if self._error is None:
            then()
        if cancelled is not None:
            raise cancelled from self._error
        if self._error is not None:
            raise self._error
        return self._results[0]

    # In the thread.

    @property
    def is_done(self) -> bool:
        """Whether it was carried out, or failed."""
        return bool(self._results) or self._error is not None

    def attempt(self, left: set[Unsettled]) -> None:
        """Carry it out with others, unless somebody is in the way, and keep what came of it. `left`: where that was so,
        which nobody may pass."""
        if self._view not in left:
            with suppress(StoreBusy):
                return self._keep(partial(self._write, shared=True))
            left.add(self._view)
        return None

    def alone(self) -> None:
        """Carry it out as a commit of its own, patiently, and keep what came of it."""
        try:
            self._keep(partial(patiently, partial(self._write, shared=False)))
        except StoreBusy as error:
            self._error = error

    def _keep(self, call: Callable[[], T]) -> None:
        try:
            self._results = [call()]
        except StoreBusy:
            raise
        except Exception as error:
            self._error = error

    def settle(self) -> None:
        """Whatever came of it is on disk, or forgotten."""
        self._view.settle()

    def fail(self, error: Exception) -> None:
        """It was not carried out."""
        self._error = error

    def retreat(self) -> None:
        """Nothing of it is on disk, whatever came of it."""
        if self.is_done:
            self._results, self._error = [], None
            self._view.retreat()

    def follow(self) -> None:
        """Do what follows from it."""
        try:
            for result in self._results:
                self._after(result)
        except Exception as error:
            self._error = error

    # On the loop.

    def tell(self) -> None:
        """Let whoever waits go on."""
        self._finished = True
        if not self._waiting.done():
            self._waiting.set_result(None)


def run_together(calls: Sequence[Call[object]], together: Together) -> None:
    """Carry out calls and tell what came of them. If they can't be done as one commit, each is done by its own: what is
    wrong may be wrong with one of them."""
    if len(calls) > 1:
        _commit(calls, together)
    for call in calls:
        if not call.is_done:
            call.alone()
    for call in calls:
        call.follow()
    for loop in {call.loop for call in calls}:
        with suppress(RuntimeError):  # It was closed; nobody waits.
            loop.call_soon_threadsafe(_tell, [call for call in calls if call.loop is loop])


def _commit(calls: Sequence[Call[object]], together: Together) -> None:
    def attempt() -> None:
        left = set[Unsettled]()
        try:
            together([partial(call.attempt, left) for call in calls])
        except Exception:
            for call in calls:
                call.retreat()
            raise
        finally:
            for call in calls:
                call.settle()

    try:
        patiently(attempt)
    except StoreBusy as error:
        for call in calls:
            call.fail(error)
    except Exception:
        _logger.debug("several calls could not be committed at once, so each is by itself", exc_info=True)


def _tell(calls: Sequence[Call[object]]) -> None:
    for call in calls:
        call.tell()
