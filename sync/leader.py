"""Which of the processes on one directory syncs a namespace of it: the one that holds an operating-system lock.

The lock is on a file in the directory. It goes with the process, however that ends, so a killed leader is replaced at
the next try of another.
"""

from __future__ import annotations

import os
from hashlib import blake2b
from pathlib import Path

from filelock import FileLock, Timeout


class Leadership:
    """A try for the lock, and the lock."""

    def __init__(self, directory: Path, namespace: str) -> None:
        # Not a singleton: two stores of one process are two candidates. Not per thread: the store that closes it may
        # be closed in another thread than the one that took it.
        self._lock = FileLock(directory / f"{file_stem(namespace)}.lock", timeout=0, thread_local=False, mode=0o600)
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


def file_stem(namespace: str) -> str:
    """How the files of a namespace's sync are called: each namespace of a directory has a leader of its own."""
    return f"sync-{blake2b(namespace.encode(), digest_size=8).hexdigest()}"


def is_led(directory: Path, namespace: str) -> bool:
    """Whether some process leads. Makes no file: who only looks may be another user."""
    if not (directory / f"{file_stem(namespace)}.lock").exists():
        return False
    leadership = Leadership(directory, namespace)
    if not leadership.take():
        return True
    leadership.release()
    return False
