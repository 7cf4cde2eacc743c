"""When to try again: backoff for the central store, patience for the local one."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from localfirst.errors import RemoteUnavailable, StoreBusy
from localfirst.rows import PATIENCE

FIRST_WAIT: Final = 0.1
"""Seconds: the first wait for the central store is a random part of this, the next of twice as much, and so on."""
LONGEST_WAIT: Final = 10.0

T = TypeVar("T")


def for_ever(sleep: Callable[[float], Awaitable[None]]) -> AsyncRetrying:
    """Try a call again for as long as the central store can't be reached.

    Exponential backoff with full jitter (Marc Brooker, Exponential Backoff And Jitter, AWS Architecture Blog 2015), so
    that a fleet that lost its server together does not come back together. `sleep` may end early.
    """
    return AsyncRetrying(
        retry=retry_if_exception_type(RemoteUnavailable),
        wait=wait_random_exponential(multiplier=FIRST_WAIT, max=LONGEST_WAIT),
        sleep=sleep,
    )


async def patiently(call: Callable[[], T], patience: float = PATIENCE) -> T:
    """Call again until the local store is not busy, letting the event loop run between. Raises `StoreBusy`."""
    deadline = time.monotonic() + patience
    while True:
        try:
            return call()
        except StoreBusy:
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(random.uniform(0.0002, 0.002))
