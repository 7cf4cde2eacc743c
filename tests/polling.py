"""Waiting for what is about to happen: by looking again until a deadline, never by sleeping and hoping."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def eventually(holds: Callable[[], Any], timeout: float = 10.0, what: str = "it happens") -> Any:
    """Poll until something holds; what it gave."""
    deadline = time.monotonic() + timeout
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(0.005)
    return found
