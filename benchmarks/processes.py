"""Processes of a benchmark: what they take is their own, and what they tell comes through a pipe."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

ANSWER_SECONDS: Final = 60.0
"""How long anything may take that nobody measures."""


@contextmanager
def started(target: Callable[..., None], *arguments: Any) -> Iterator[Connection]:
    """A process that is given the other end of a pipe after its arguments; killed on exit."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
    process.start()
    theirs.close()  # So that the pipe ends when the process does.
    try:
        yield ours
    finally:
        process.kill()
        process.join()
        ours.close()


def answer(pipe: Connection, seconds: float = 0.0) -> Any:
    """What the process tells next, after so many seconds of work. Raises `EOFError` if it has died."""
    if not pipe.poll(seconds + ANSWER_SECONDS):
        raise TimeoutError("a process of the benchmark does not answer")
    return pipe.recv()
