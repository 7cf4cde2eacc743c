"""Waiting for a request to the worker, from threads and from coroutines, with the errors that users see."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from concurrent.futures import TimeoutError as FutureTimeout

from localfirst.errors import StoreClosed, SyncTimeout


def wait(future: Future[None], timeout: float | None, what: Callable[[], str]) -> None:
    """Return or raise as the request does; after `timeout` seconds cancel it, and raise `SyncTimeout`."""
    try:
        future.result(timeout)
    except CancelledError:
        raise StoreClosed("the store was closed while a call waited for the central store") from None
    except FutureTimeout:
        if future.done():
            raise
        future.cancel()
        raise SyncTimeout(f"after {timeout} s, {what()}") from None
    except KeyboardInterrupt:
        future.cancel()
        raise


async def wait_soon(future: Future[None], timeout: float | None, what: Callable[[], str]) -> None:
    """As `wait`, without blocking the event loop."""
    waiting = asyncio.wrap_future(future)
    try:
        done, _ = await asyncio.wait([waiting], timeout=timeout)
    except asyncio.CancelledError:
        waiting.cancel()
        raise
    if waiting.cancelled():
        raise StoreClosed("the store was closed while a call waited for the central store")
    if not done:
        waiting.cancel()
        raise SyncTimeout(f"after {timeout} s, {what()}")
    waiting.result()
