"""Waiting and ending on an event loop, such that no cancellation is lost.

`asyncio.wait_for` swallows a cancellation that comes in the moment its inner call ends (before Python 3.12), and so do
libraries that use it. A worker that misses its end would never end.
"""

from __future__ import annotations

import asyncio
from typing import Any, Final

_AGAIN: Final = 0.1
"""Seconds after which a task that should have ended is told again."""


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
