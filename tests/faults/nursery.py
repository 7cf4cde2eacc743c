"""A process that starts others in milliseconds and kills them after a given time.

A new interpreter takes most of a second to start. Here one process imports everything once and never opens a store;
its forks are as good as new processes, and are there at once.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final, NamedTuple

_IMPORTS: Final = ("localfirst.store", "sync.host", "sync.central.directory", "sync.central.redis")
_LONGEST_LIFE: Final = 20
"""Seconds, should nobody be left to kill a process."""
_ANSWER_SECONDS: Final = 60.0


class Life(NamedTuple):
    """What a process does until it is killed."""

    target: Callable[..., None]
    """Of a module: it does not end by itself."""
    arguments: tuple[Any, ...]
    seconds: float
    """From its start to its end."""


class Nursery:
    """Made by `nursery`."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def kill_all(self, lives: Sequence[Life]) -> None:
        """Start them together, kill each when its time has come; return when all are gone."""
        self._pipe.send(list(lives))
        assert self._pipe.poll(_ANSWER_SECONDS), "the nursery does not answer"
        ends = self._pipe.recv()
        assert ends == [-signal.SIGKILL] * len(lives), f"a process ended by itself: {ends}"


@contextmanager
def nursery() -> Iterator[Nursery]:
    """A nursery with everything imported."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs,))
    process.start()
    theirs.close()
    try:
        assert ours.poll(_ANSWER_SECONDS), "the nursery did not start"
        assert ours.recv() == "ready"
        yield Nursery(ours)
    finally:
        ours.close()
        process.join(10)
        process.kill()
        process.join(10)


def _serve(pipe: Connection) -> None:
    for module in _IMPORTS:
        importlib.import_module(module)
    pipe.send("ready")
    while True:
        try:
            lives = pipe.recv()
        except EOFError:
            return
        pipe.send(_live_and_die(lives))


def _live_and_die(lives: Sequence[Life]) -> list[int]:
    """The exit codes."""
    pids = [_fork(life) for life in lives]
    began = time.monotonic()
    for place in sorted(range(len(lives)), key=lambda place: lives[place].seconds):
        time.sleep(max(0.0, began + lives[place].seconds - time.monotonic()))  # The moment is what is tested.
        os.kill(pids[place], signal.SIGKILL)  # It can't be another's pid: nobody has waited for it.
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]


def _fork(life: Life) -> int:
    pid = os.fork()
    if pid == 0:
        signal.alarm(_LONGEST_LIFE)
        try:
            life.target(*life.arguments)
        except BaseException:
            traceback.print_exc()
        os._exit(1)
    return pid
