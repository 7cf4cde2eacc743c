"""Which of the processes on one directory syncs it: the one that holds an operating-system lock on a file in it.

The lock goes with the process, however that ends, so a killed leader is replaced at the next try of another.
"""

from __future__ import annotations

import os
from pathlib import Path

from filelock import FileLock, Timeout


class Leadership:
    """A try for the lock, and the lock."""

    def __init__(self, directory: Path) -> None:
        # Not a singleton: two stores of one process are two candidates. Not per thread: the store that closes it may
        # be closed in another thread than the one that took it.
        self._lock = FileLock(directory / "sync.lock", timeout=0, thread_local=False, mode=0o600)
        self._pid = os.getpid()

    def take(self) -> bool:
        """Whether this process leads now; never waits."""
        if self.held:
            return True
        try:
            self._lock.acquire()
        except Timeout:
            return False
        return True

    @property
    def held(self) -> bool:
        """Whether this process leads."""
        return self._lock.is_locked and self._pid == os.getpid()

    def release(self) -> None:
        """Let another process lead."""
        if self.held:
            self._lock.release()


def is_led(directory: Path) -> bool:
    """Whether some process leads."""
    leadership = Leadership(directory)
    if not leadership.take():
        return True
    leadership.release()
    return False
