"""The store: a directory of sessions, and the worker that syncs it. The only module that wires localfirst to sync."""

from __future__ import annotations

import asyncio
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_data_path

from localfirst.errors import ConfigurationError, LocalFirstError
from localfirst.events import Listeners, SessionEvent
from localfirst.fold import Fold
from localfirst.local import Local
from localfirst.log import SessionKey
from localfirst.options import Durability, WorkerKind, check_options
from localfirst.session import Session
from localfirst.status import SessionInfo, StoreStatus
from localfirst.view import View
from localfirst.waiting import wait, wait_soon

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from sync.central.base import CentralStore
    from sync.host import Host
    from sync.replicate import Settled
    from sync.status import SyncStatus

_logger = logging.getLogger("localfirst")
_stores: weakref.WeakSet[Store] = weakref.WeakSet()


def open(  # noqa: A001 - localfirst.open() is how it is called
    path: str | os.PathLike[str] | None = None,
    *,
    remote: str | None = None,
    namespace: str = "default",
    worker: WorkerKind = "thread",
    durability: Durability = "normal",
    poll_interval: float = 5.0,
    sync_interval: float = 0.02,
) -> Store:
    """Open the store in a directory, made with mode 0700 if it is missing.

    - `path`: None: `$LOCALFIRST_HOME`, else the platform's directory for user data.
    - `remote`: the central store: `redis://`, `rediss://`, `unix://`, `postgresql://` or `file:///directory`. None:
      `$LOCALFIRST_REMOTE`, else there is none; `""`: there is none. A server that can't be reached is no error: see
      `Store.status`.
    - `namespace`: tenant or application. Sessions of different namespaces never meet.
    - `worker`: `"thread"`: sync runs in a thread of its own. `"task"`: on the running asyncio loop. `"none"`: only
      inside `flush`, `refresh` and `close`.
    - `durability`: `"normal"`: a killed process loses nothing, a power cut may lose the last moments. `"full"`: every
      call is on the disk when it returns.
    - `poll_interval`: seconds between looks at the central store when no hint comes.
    - `sync_interval`: at most one push in so many seconds; the first write after a quiet time goes at once.

    Raises `ConfigurationError` for what can't work, whatever the network does.

    >>> import tempfile
    >>> with open(tempfile.mkdtemp()) as store:
    ...     store.session("user-123").add_message("user", "Hello")
    {'role': 'user', 'content': 'Hello'}
    """
    return Store(
        path,
        remote=remote,
        namespace=namespace,
        worker=worker,
        durability=durability,
        poll_interval=poll_interval,
        sync_interval=sync_interval,
    )


class Store:
    """The sessions of one directory and namespace; `localfirst.open` makes it. Safe to use from any thread."""

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        *,
        remote: str | None,
        namespace: str,
        worker: WorkerKind,
        durability: Durability,
        poll_interval: float,
        sync_interval: float,
    ) -> None:
        remote = os.environ.get("LOCALFIRST_REMOTE") if remote is None else remote
        check_options(remote, namespace, worker, durability, poll_interval, sync_interval)
        self.path = Path(path or os.environ.get("LOCALFIRST_HOME") or user_data_path("localfirst")).absolute()
        self.namespace = namespace
        self._listeners = Listeners()
        self._remote: str | None = None
        connect = self._connector(remote)
        self._local = Local(self.path, namespace, fsync=durability == "full", listeners=self._listeners)
        self.replica_id = self._local.replica_id
        self._synced: dict[SessionKey, float] = {}
        self._closed = False
        self._host = self._make_host(connect, worker, poll_interval, sync_interval) if connect else None
        self._local.wrote = self._host.wake if self._host else None
        _stores.add(self)

    # Sessions.

    def session(self, session_id: str, *, hydrate_timeout: float = 2.0, session_settings: Any = None) -> Session:
        """The session with this id. Nothing is read or written until it is used.

        On a replica that has never seen it, the first read waits for the central store, `hydrate_timeout` seconds at
        most, then goes on with what is here. A plain call can't wait on the loop of a `worker="task"`, and without a
        worker nothing is fetched: there, `await get_items()` or `arefresh()` first, or `refresh()`.

        `session_settings`: see `Session`. Raises `ConfigurationError` for an id that is empty, not a string, longer
        than 1,024 bytes, or has a NUL.

        >>> store.session("user-123").get_messages()
        []
        """
        self._local.check_open()
        return Session(self, session_id, hydrate_timeout=hydrate_timeout, session_settings=session_settings)

    def sessions(self, prefix: str = "", *, idle_for: timedelta | float | None = None) -> Iterator[SessionInfo]:
        """The sessions that are known here and whose id begins with a prefix, in the order of their ids.

        `idle_for` (seconds or a timedelta): only those whose newest change is at least so old.

        >>> _ = session.add_message("user", "Hello")
        >>> [(info.session_id, info.items) for info in store.sessions("user-")]
        [('user-123', 1)]
        """
        least = idle_for if isinstance(idle_for, (timedelta, type(None))) else timedelta(seconds=idle_for)
        for key, session_id in self._local.sessions(prefix):
            info = self._info(key, session_id)
            if info.updated_at is None:
                continue  # It was only asked for.
            if least is None or datetime.now(timezone.utc) - info.updated_at >= least:
                yield info

    def on(self, event: SessionEvent, callback: Callable[..., object]) -> Callable[[], None]:
        """As `Session.on`, for all sessions: the callback's first argument is the session id.

        >>> stop = store.on(localfirst.SessionEvent.MESSAGE_ADDED, lambda session_id, item: print(session_id))
        >>> _ = session.add_message("user", "Hello"); stop()
        user-123
        """
        return self._listeners.add(None, event, callback)

    # Sync.

    def flush(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """Return when everything written before the call (to one session, or all) is in the central store.

        `timeout` in seconds, None: for ever; `SyncTimeout` says what is left. `ConfigurationError` and the like when
        somebody must act first. At once without a central store.

        >>> store.flush(timeout=5)
        """
        host = self._waitable_host("flush")
        if host is not None:
            wait(host.submit(lambda worker: worker.flush(session_id)), timeout, self._what_is_left)

    async def aflush(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """As `flush`, without blocking the event loop."""
        host = self._open_host()
        if host is not None:
            await wait_soon(host.submit(lambda worker: worker.flush(session_id)), timeout, self._what_is_left)

    def refresh(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """Return when everything in the central store at the time of the call is visible here.

        Also sessions that were never used here. Times and errors as for `flush`.

        >>> store.refresh(timeout=5)
        """
        host = self._waitable_host("refresh")
        if host is not None:
            wait(host.submit(lambda worker: worker.refresh(session_id)), timeout, self._what_is_missing)

    async def arefresh(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """As `refresh`, without blocking the event loop."""
        host = self._open_host()
        if host is not None:
            await wait_soon(host.submit(lambda worker: worker.refresh(session_id)), timeout, self._what_is_missing)

    def status(self) -> StoreStatus:
        """How this store and the central store stand to each other now.

        >>> store.status().state
        'local'
        """
        waiting = list(self._local.backlog().values())
        oldest = min((backlog.oldest for backlog in waiting), default=None)
        sync = self._sync_status()
        synced_at = sync.last_synced_at if sync else None
        return StoreStatus(
            state=sync.state if sync else "local",
            pending_changes=sum(backlog.changes for backlog in waiting),
            pending_bytes=sum(backlog.bytes for backlog in waiting),
            oldest_pending_seconds=None if oldest is None else max(0.0, time.time() - oldest),
            last_synced_at=_utc(synced_at),
            last_error=sync.last_error if sync else None,
            clock_offset=sync.clock_offset if sync else None,
            quarantined=sync.quarantined if sync else 0,
            leader=bool(self._host and self._host.leads),
            remote=self._remote,
            replica_id=self.replica_id,
            path=str(self.path),
        )

    def _synced_at(self, key: SessionKey) -> datetime | None:
        """See `Session.synced_at`."""
        return _utc(self._synced.get(key))

    # The end.

    def close(self, timeout: float = 5.0) -> None:
        """Send what is pending (`timeout` seconds at most), stop the worker, release the directory.

        What could not be sent stays on disk and goes up when the store is opened again. Every call after this raises
        `StoreClosed`; closing twice is fine. With `worker="task"`, `await aclose()` instead.

        >>> store.close(); store.close()
        """
        if self._closed:
            return
        host = self._waitable_host("close")
        if host is not None:
            self._flush_gently(host, timeout)
            host.close()
        self._release()

    async def aclose(self, timeout: float = 5.0) -> None:
        """As `close`, without blocking the event loop."""
        if self._closed:
            return
        if self._host is not None:
            await self._aflush_gently(self._host, timeout)
            await self._host.aclose()
        await asyncio.to_thread(self._release)

    def _flush_session(self, session_id: str, timeout: float = 5.0) -> None:
        """Send what is pending in a session if that can be done now; log it if not."""
        host = self._waitable_host("flush")
        if host is not None:
            self._flush_gently(host, timeout, session_id)

    async def _aflush_session(self, session_id: str, timeout: float = 5.0) -> None:
        """As `_flush_session`, without blocking the event loop."""
        host = self._open_host()
        if host is not None:
            await self._aflush_gently(host, timeout, session_id)

    def __enter__(self) -> Self:
        if self._host is not None and not self._host.may_wait_here():
            self._host.drop()
            self._release()
            raise ConfigurationError('with worker="task", a store is opened by "async with", so that it can be closed')
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def __repr__(self) -> str:
        return f"<Store {str(self.path)!r} with {self._remote or 'no central store'}>"

    # What sessions are made of.

    @property
    def _replicates(self) -> bool:
        """Whether there is a central store."""
        return self._host is not None

    def _hydrate(self, key: SessionKey, session_id: str, timeout: float) -> None:
        """Before the first read of a session that was never here: ask the central store, if it can be reached."""
        view, host = self._local.view(key, session_id), self._host
        if host is None or view.hydrated:
            return
        self._local.read(key, session_id, lambda fold: fold.seq)
        if not view.exists:
            self._local.follow(key, session_id)
        if _must_ask(view, host, timeout) and host.may_wait_here():
            try:
                wait(host.submit(lambda worker: worker.fetch(session_id)), timeout, self._what_is_missing)
            except LocalFirstError as error:
                _logger.debug("session %r was not fetched: %s", session_id, error)
            view.hydrated = True

    async def _hydrate_soon(self, key: SessionKey, session_id: str, timeout: float) -> None:
        """As `_hydrate`, without blocking the event loop."""
        view, host = self._local.view(key, session_id), self._host
        if host is None or view.hydrated:
            return
        await self._local.read_soon(key, session_id, lambda fold: fold.seq)
        if not view.exists:
            await self._local.follow_soon(key, session_id)
        if _must_ask(view, host, timeout):
            try:
                await wait_soon(host.submit(lambda worker: worker.fetch(session_id)), timeout, self._what_is_missing)
            except LocalFirstError as error:
                _logger.debug("session %r was not fetched: %s", session_id, error)
            view.hydrated = True

    def _follow(self, key: SessionKey, session_id: str) -> None:
        """Let a session come when another replica writes to it, also if none did yet."""
        if self._host is not None:
            self._local.follow(key, session_id)

    def _info(self, key: SessionKey, session_id: str) -> SessionInfo:
        view = self._local.view(key, session_id)

        def look(fold: Fold) -> SessionInfo:
            never = view.head.generation is None and (self._host is None or not fold.pending)
            return SessionInfo(
                session_id=session_id,
                items=len(fold.items),
                bytes=sum(len(item.data) for item in fold.items),
                updated_at=view.updated_at,
                expires_at=None,
                pending=fold.pending,
                state="local" if never else "pending" if fold.pending else "synced",
            )

        return self._local.read(key, session_id, look)

    # What the worker tells.

    def _on_settled(self, settled: Settled) -> None:
        """In the worker's thread: changes of others have come, or ours were admitted."""
        key, before, after = settled
        self._synced[key] = time.time()
        if not self._listeners.any_for(key):
            return
        news = self._local.news(key, before)
        if after.acked > before.acked and after.acked >= self._local.log.last_counter(key):
            news.append((SessionEvent.SYNCED, ()))
        for event, arguments in news:
            try:
                self._listeners.emit(key, after.session_id, event, *arguments)
            except BaseException:  # Of a callback; an exit that it asks for can't be had in this thread.
                _logger.exception("a callback for %s raised in the sync worker; it is ignored", event.name)

    # Inside.

    def _open_host(self) -> Host | None:
        self._local.check_open()
        return self._host

    def _waitable_host(self, call: str) -> Host | None:
        host = self._open_host()
        if host is not None and not host.may_wait_here():
            raise ConfigurationError(
                f"{call}() can't wait in the thread that syncs: in a coroutine, await a{call}() instead; in a callback"
                " of the worker, leave it to another thread"
            )
        return host

    def _connector(self, remote: str | None) -> Callable[[], CentralStore] | None:
        if not remote:
            return None
        from sync.central import connect, describe

        connect(remote, self.namespace)  # Connects to nothing yet, but tells now if the URL can't work.
        self._remote = describe(remote)
        return partial(connect, remote, self.namespace)

    def _make_host(self, connect: Callable[[], CentralStore], kind: WorkerKind, poll: float, pace: float) -> Host:
        from sync.host import RequestHost, TaskHost, ThreadHost
        from sync.worker import Options, Worker

        options = Options(poll_interval=poll, sync_interval=pace)

        def make() -> Worker:
            return Worker(self.path, self._local.log, connect(), self.namespace, options, self._on_settled)

        if kind == "none":
            return RequestHost(make)
        return TaskHost(make) if kind == "task" else ThreadHost(make, pace)

    def _sync_status(self) -> SyncStatus | None:
        """What this process knows, or what the one that leads tells."""
        if self._host is None:
            return None
        from sync.leader import is_led
        from sync.status import published

        told, own = published(self.path, self.namespace), self._host.status
        if told is None or self._host.leads:
            return own
        if is_led(self.path, self.namespace):
            return told
        return own if own.last_synced_at is not None else own.as_of(told.last_synced_at)

    def _what_is_left(self) -> str:
        waiting = self._local.backlog().values()
        return (
            f"{_count(sum(backlog.changes for backlog in waiting), 'change')} of {_count(len(waiting), 'session')}"
            f" not in {self._remote} yet{self._why()}; they stay on disk and are sent when it can be reached"
        )

    def _what_is_missing(self) -> str:
        return f"not everything in {self._remote} is here yet{self._why()}"

    def _why(self) -> str:
        status = self._host.status if self._host else None
        return f" ({status.last_error})" if status and status.last_error else ""

    def _flush_gently(self, host: Host, timeout: float, session_id: str | None = None) -> None:
        if timeout <= 0 or not host.runs:
            return
        try:
            wait(host.submit(lambda worker: worker.flush(session_id, once=True)), timeout, self._what_is_left)
        except LocalFirstError as error:
            _logger.warning("%s was not flushed: %s", self.path, error)

    async def _aflush_gently(self, host: Host, timeout: float, session_id: str | None = None) -> None:
        if timeout <= 0 or not host.runs:
            return
        try:
            await wait_soon(
                host.submit(lambda worker: worker.flush(session_id, once=True)), timeout, self._what_is_left
            )
        except LocalFirstError as error:
            _logger.warning("%s was not flushed: %s", self.path, error)

    def _release(self) -> None:
        self._closed = True
        _stores.discard(self)
        self._local.close()

    def _forked(self) -> None:
        """In a child process: threads did not come along, and locks may have been held by them."""
        self._local.forked()
        self._listeners.forked()
        if self._host is not None:
            self._host.forked()


def _forked() -> None:
    for store in list(_stores):
        store._forked()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _must_ask(view: View, host: Host, timeout: float) -> bool:
    """Whether a session that is read for the first time may be in the central store, and could be had from there."""
    view.hydrated = view.head.generation is not None or not host.fetches
    return not view.hydrated and timeout > 0 and host.status.state not in ("offline", "blocked")


def _utc(timestamp: float | None) -> datetime | None:
    return None if timestamp is None else datetime.fromtimestamp(timestamp, timezone.utc)


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
