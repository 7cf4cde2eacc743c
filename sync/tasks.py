"""Waiting and ending on an event loop, such that no cancellation is lost.

`asyncio.wait_for` swallows a cancellation that comes in the moment its inner call ends (before Python 3.12), and so do
libraries that use it. A worker that misses its end would never end.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Any, Final

_AGAIN: Final = 0.1
"""Seconds after which a task that should have ended is told again."""
_MOMENT: Final = 0.5
"""Seconds that others may go on when one has failed."""


async def wait_for_event(event: asyncio.Event, seconds: float) -> None:
    """Return when the event is set, or the time has passed."""
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait([waiting], timeout=seconds)
    finally:
        waiting.cancel()


async def end(task: asyncio.Task[Any]) -> None:
    """Cancel a task until it has ended; how it ended is its own affair."""
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=_AGAIN)
    if not task.cancelled():
        task.exception()


async def overlap(steps: AsyncGenerator[Coroutine[Any, Any, None], None], most: Callable[[], int]) -> None:
    """Run steps as they come, so many at once at `most`. What one raises ends the others, and is raised; those that are
    nearly done get a moment: what a server has answered is not to be lost."""
    running: set[asyncio.Task[None]] = set()
    try:
        async with aclosing(steps):
            async for step in steps:
                if not running and most() == 1:
                    await step
                    continue
                running.add(asyncio.create_task(step))
                while len(running) >= most():
                    running = await _after_one(running)
        while running:
            running = await _after_one(running)
    except Exception:
        if running:
            await asyncio.wait(running, timeout=_MOMENT)
        raise
    finally:
        for task in running:
            await end(task)


async def _after_one(running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
    """Those that run on when one has ended. Raises what it raised."""
    done, left = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
    return left
