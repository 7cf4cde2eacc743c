"""Signals for whole process trees, and the watchdog that ends a server whose Python parent has died.

Run as a script (by path, so only the standard library may be imported here) it waits for its parent to
go away, then kills the server and removes the server's directory.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PARENT_CHECK_SECONDS = 0.5
_GONE_POLL_SECONDS = 0.01
_ZOMBIE = "Z"
_PROC = Path("/proc")


class Watchdog:
    """A small process that outlives us just long enough to clean up a server we left behind."""

    def __init__(self, pid: int, directory: Path) -> None:
        # A pipe tells of our death at once, whichever thread started the server: the kernel's parent
        # death signal fires when the starting *thread* ends, and exists on Linux only.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(pid), str(directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # who reads our output must not have to wait for the watchdog
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C in a terminal must not take it down before us
        )

    def dismiss(self) -> None:
        """End the watch without harm to the server."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate(b"x")


def freeze_tree(pid: int) -> list[int]:
    """SIGSTOP a process and all its descendants; returns their pids, parents before children."""
    frozen: list[int] = []
    waiting = [pid]
    while waiting:
        # A stopped parent neither forks nor reaps, so the children listed next stay exactly these.
        current = waiting.pop(0)
        _send(current, signal.SIGSTOP)
        frozen.append(current)
        waiting.extend(_children(current))
    return frozen


def thaw_tree(pid: int) -> None:
    """SIGCONT a process and all its descendants."""
    for child in _children(pid):
        thaw_tree(child)
    _send(pid, signal.SIGCONT)


def kill_tree(pid: int) -> list[int]:
    """SIGKILL a process and all its descendants, as a crash would; returns their pids."""
    doomed = freeze_tree(pid)
    for victim in reversed(doomed):
        _send(victim, signal.SIGKILL)
    return doomed


def wait_until_gone(pids: list[int], seconds: float) -> list[int]:
    """Wait until none of the pids runs any more; returns those that still do at the deadline."""
    deadline = time.monotonic() + seconds
    while True:
        table = _process_table()
        # A zombie holds no memory, file or socket; it only waits for a parent to take note.
        left = [pid for pid in pids if pid in table and table[pid][1] != _ZOMBIE]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(_GONE_POLL_SECONDS)


def _send(pid: int, signum: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _children(pid: int) -> list[int]:
    return [child for child, (parent, _) in _process_table().items() if parent == pid]


def _process_table() -> dict[int, tuple[int, str]]:
    """Every process: pid to (parent's pid, state)."""
    return _table_from_proc() if _PROC.joinpath("self", "stat").exists() else _table_from_ps()


def _table_from_proc() -> dict[int, tuple[int, str]]:
    table: dict[int, tuple[int, str]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):  # it ended while we looked
                # The name, in brackets, may itself hold blanks and brackets.
                _, _, after_name = (entry / "stat").read_text("latin-1").rpartition(")")
                state, parent = after_name.split()[:2]
                table[int(entry.name)] = (int(parent), state)
    return table


def _table_from_ps() -> dict[int, tuple[int, str]]:
    lines = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    rows = (line.split() for line in lines)
    return {int(pid): (int(parent), state[0]) for pid, parent, state in rows}


def _parent_is_gone(parent: int) -> bool:
    """Wait for the end of the watch; false when we were dismissed."""
    while os.getppid() == parent:
        # Forked children of our parent hold the pipe open as well, hence the look at the parent too.
        readable, _, _ = select.select([sys.stdin], [], [], _PARENT_CHECK_SECONDS)
        if readable:
            return not os.read(sys.stdin.fileno(), 1)
    return True


def main(parent: int, server: int, directory: str) -> None:
    """Watch over one server until its parent has gone or has dismissed us."""
    if _parent_is_gone(parent):
        wait_until_gone(kill_tree(server), 10.0)
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
