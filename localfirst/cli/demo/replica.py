"""One of the two replicas: a store directory, the session in it, and what calls to it took."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import localfirst
from localfirst.cli import stores
from localfirst.cli.demo.script import Turn
from localfirst.errors import RemoteUnavailable

T = TypeVar("T")

SYNC_SECONDS = 20.0
"""How long a flush or refresh may take before the demo has failed."""
_CONNECT_SECONDS = 10.0
_LOOK_SECONDS = 0.02
_POLL_SECONDS = 0.5
"""Directories have no hints, and a demo is short."""


class Facts(NamedTuple):
    """What the screen shows of a replica."""

    state: str
    pending: int
    items: list[Any]
    metadata: dict[str, Any]


class Replica:
    """A device with a store of its own, and an agent that talks on it."""

    def __init__(self, name: str, device: str, directory: Path, namespace: str, session_id: str) -> None:
        self.name = name
        self.device = device
        self.writes: list[float] = []
        """Seconds that each `add_items` took."""
        self.reads: list[float] = []
        """Seconds that each `get_items` took."""
        self._directory = directory
        self._namespace = namespace
        self._session_id = session_id
        self._open = False
        self._facts = Facts("closed", 0, [], {})

    def open(self, remote: str) -> None:
        """Open the store with a worker that syncs in the background."""
        self._use(
            localfirst.open(self._directory, remote=remote, namespace=self._namespace, poll_interval=_POLL_SECONDS)
        )

    def open_offline(self) -> None:
        """Open the store without any central store: nothing can leave this directory."""
        self._use(stores.open_local(self._directory, self._namespace))

    def _use(self, store: localfirst.Store) -> None:
        self._store = store
        self._session = store.session(self._session_id)
        self._shown = store.session(self._session_id, hydrate_timeout=0)  # Drawing a replica must not fetch for it.
        self._open = True

    async def close(self) -> None:
        """Close the store; the directory stays."""
        self._open = False
        await self._store.aclose()

    async def say(self, turn: Turn, pause: Callable[[], Awaitable[None]]) -> None:
        """Play one turn as an agent would: read the history, then add item by item."""
        await _timed(self._session.get_items(), self.reads)
        for item in turn.items:
            await _timed(self._session.add_items([item]), self.writes)
            await pause()
        self._session.increment("turns")
        self._session.increment("tool_calls", len(turn.tools))
        self._session.set("tools", sorted(set(turn.tools)), merge="union")
        self._session.set("last_device", self.device)

    async def connect(self) -> None:
        """Return when the worker has reached the central store. Raises `RemoteUnavailable` when it can't."""
        deadline = time.monotonic() + _CONNECT_SECONDS
        status = self._store.status()
        while status.state == "connecting" and time.monotonic() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            status = self._store.status()
        if status.state != "online":
            raise RemoteUnavailable(status.last_error or f"{status.remote} did not answer in {_CONNECT_SECONDS:.0f} s")

    async def send(self) -> None:
        """Return when everything written here is in the central store."""
        await self._store.aflush(SYNC_SECONDS)

    async def fetch(self) -> None:
        """Return when everything in the central store is here."""
        await self._store.arefresh(SYNC_SECONDS)

    async def content(self) -> tuple[list[Any], dict[str, Any]]:
        """Items and metadata, to compare."""
        return await self._session.get_items(), self._session.metadata()

    @property
    def facts(self) -> Facts:
        """What there is to show; the last known while the store is closed."""
        if self._open:
            status, content = self._store.status(), self._shown.export()
            self._facts = Facts(status.state, status.pending_changes, content["items"], content["metadata"])
        return self._facts


async def _timed(call: Awaitable[T], spent: list[float]) -> T:
    started = time.perf_counter()
    result = await call
    spent.append(time.perf_counter() - started)
    return result
