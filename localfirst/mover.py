"""Moves the write-ahead log into the database behind the back of those who write: it takes milliseconds."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from localfirst.errors import LocalFirstError

MOVE_WRITES: Final = 350
"""After how many writes of this process: before SQLite has one of them do it."""

_logger = logging.getLogger("localfirst")


class Mover:
    """Calls `move` in a thread of its own, which is there once it is needed."""

    def __init__(self, move: Callable[[], object]) -> None:
        self._move = move
        self._writes = 0
        self._moving = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._closed = False

    def wrote(self) -> None:
        """Something was written."""
        self._writes += 1
        if self._writes >= MOVE_WRITES and self._moving.acquire(blocking=False):
            self._writes = 0
            try:
                self._begin()
            except RuntimeError:  # The store, or the interpreter, was closed meanwhile.
                self._moving.release()

    def close(self) -> None:
        """Finish what is under way."""
        self._closed = True
        if self._executor is not None:
            self._executor.shutdown(wait=True)

    def _begin(self) -> None:
        if self._closed:
            raise RuntimeError("closed")
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="localfirst-move")
        self._executor.submit(self._run)

    def _run(self) -> None:
        try:
            self._move()
        except (
            LocalFirstError
        ) as error:  # Nobody's call fails for it. What is wrong with the disk, they meet themselves.
            _logger.debug("the write-ahead log was not moved: %s", error)
        finally:
            self._moving.release()
