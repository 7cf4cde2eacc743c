"""Stores that share sessions, and an account of what they wrote, to be held against what they show in the end."""

from __future__ import annotations

import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import localfirst
from tests.faults.central import changes_in

SESSIONS: Final = [f"s{number}" for number in range(20)]


class Devices:
    """Stores by the name of their directory, and what was written with them."""

    def __init__(self, path: Path, remote: str) -> None:
        self.remote = remote
        self.written: dict[str, set[str]] = {name: set() for name in SESSIONS}
        self._changes = Counter[str]()
        self._path = path
        self._namespace = f"test-{uuid.uuid4()}"
        self._open: dict[str, localfirst.Store] = {}

    def __getitem__(self, name: str) -> localfirst.Store:
        if name not in self._open:
            self._open[name] = localfirst.open(
                self._path / name, remote=self.remote, namespace=self._namespace, poll_interval=0.2
            )
        return self._open[name]

    def write(self, name: str, what: str, times: int = 3) -> None:
        """Some more to every session."""
        for session_id in SESSIONS:
            self._write(self[name], session_id, f"{name} {what}", times)

    def write_offline(self, name: str, what: str) -> None:
        """As `write`, in a store that nobody can reach."""
        self._close_if_open(name)
        with localfirst.open(self._path / name, remote="", namespace=self._namespace) as store:
            for session_id in SESSIONS:
                self._write(store, session_id, f"{name} {what}", 3)

    def _write(self, store: localfirst.Store, session_id: str, what: str, times: int) -> None:
        session = store.session(session_id, hydrate_timeout=0.0)
        for number in range(times):
            session.add_message("user", f"{what} {number}")
            self.written[session_id].add(f"{what} {number}")
        session.increment("messages", times)
        self._changes[session_id] += times + 1

    def sync(self, *names: str) -> None:
        """All that one of them has comes to all."""
        for name in names:
            self[name].flush(30)
        for name in names:
            self[name].refresh(30)

    def close(self, *names: str) -> None:
        for name in names or list(self._open):
            self._open.pop(name).close()

    def _close_if_open(self, *names: str) -> None:
        for name in names:
            if name in self._open:
                self.close(name)

    def copy(self, name: str, to: str) -> None:
        """A real copy of a data directory, made while nobody uses it; what was at its place before goes."""
        self._close_if_open(name, to)
        shutil.rmtree(self._path / to, ignore_errors=True)
        shutil.copytree(self._path / name, self._path / to)

    def forget(self, name: str) -> None:
        """The device is lost."""
        self.close(name)
        shutil.rmtree(self._path / name)

    def check(self, *names: str) -> None:
        """They and the central store have everything that was ever written, once, and agree."""
        exports = [self._shown(name) for name in (*names, f"new {uuid.uuid4()}")]
        assert all(export == exports[0] for export in exports), "replicas disagree"
        for session in exports[0]:
            contents = [item["content"] for item in session["items"]]
            written = self.written[session["session_id"]]
            assert len(contents) == len(set(contents)), "something is there twice"
            assert set(contents) == written, f"lost: {sorted(written - set(contents))}"
            assert session["metadata"]["messages"] == len(written)
            check_order(contents)
        assert changes_in(self.remote, self._namespace, SESSIONS) == self._changes, "a change is there twice"

    def _shown(self, name: str) -> list[dict[str, Any]]:
        store = self[name]
        store.refresh(30)
        status = store.status()
        assert (status.pending_changes, status.quarantined) == (0, 0), status
        return [store.session(session_id).export() for session_id in SESSIONS]


def check_order(contents: Sequence[str]) -> None:
    """What was written in one go is still in order."""
    runs: dict[str, list[int]] = {}
    for name, number in (text.rsplit(" ", 1) for text in contents):
        runs.setdefault(name, []).append(int(number))
    assert all(run == sorted(run) for run in runs.values())


Begin = Callable[[str], Devices]
"""Devices for a central store, by its URL."""
