"""A store's link to its central store: where the worker runs, what is asked of it, what it tells.

The only module that wires localfirst to sync.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localfirst.asking import Resolution, resolve_conflicts
from localfirst.errors import (
    ConfigurationError,
    DecryptionError,
    LocalFirstError,
    RemoteRejected,
    RemoteUnavailable,
    StoreFull,
    StoreUnwritable,
    SyncTimeout,
    of_session,
)
from localfirst.events import Listeners, News, SessionEvent
from localfirst.local import Local
from localfirst.options import WorkerKind
from localfirst.records import SessionKey, session_key
from localfirst.room import Evicted
from localfirst.view import View
from localfirst.waiting import wait, wait_soon

if TYPE_CHECKING:
    from sync.central.base import CentralStore
    from sync.host import Host, Request
    from sync.site import Notice, Settled
    from sync.status import SyncStatus
    from sync.worker import Worker

Connect = Callable[[], "CentralStore"]

_logger = logging.getLogger("localfirst")

_KEPT: Final = "not all of %s was sent; the rest stays on this disk until it can be: %s"


def connector(remote: str, namespace: str) -> tuple[Connect, str]:
    """How to connect to a central store, and what people may be told of its URL. Raises `ConfigurationError`."""
    from sync.central import connect, describe

    connect(remote, namespace)  # Connects to nothing yet, but tells now if the URL can't work.
    return partial(connect, remote, namespace), describe(remote)


class Link:
    """The link of a store that has a central store."""

    def __init__(
        self,
        path: Path,
        namespace: str,
        local: Local,
        listeners: Listeners,
        connect: Connect,
        remote: str,
        *,
        worker: WorkerKind,
        poll_interval: float,
        sync_interval: float,
        ask: bool,
        size_limit: int | None,
    ) -> None:
        self.remote = remote
        """Without credentials."""
        self.synced: dict[SessionKey, float] = {}
        """When sessions were last known to agree with the central store, Unix time."""
        self._path = path
        self._namespace = namespace
        self._local = local
        self._listeners = listeners
        self._ask = ask
        self.host = self._make_host(connect, worker, poll_interval, sync_interval, size_limit)

    # What is asked of the worker.

    def check_waitable(self, call: str) -> None:
        """Raise `ConfigurationError` where waiting for the worker would stop it."""
        if not self.host.may_wait_here():
            raise ConfigurationError(
                f"{call}() can't wait in the thread that syncs: in a coroutine, await a{call}() instead; in a callback"
                " of the worker, leave it to another thread"
            )

    def ask(self, request: Request, timeout: float | None, what: Callable[[], str]) -> None:
        """Wait for a request to the worker."""
        wait(self.host.submit(request), timeout, what)

    async def ask_soon(self, request: Request, timeout: float | None, what: Callable[[], str]) -> None:
        """As `ask`, without blocking the event loop."""
        await wait_soon(self.host.submit(request), timeout, what)

    def flushing(self, session_id: str | None) -> Request:
        """Send what is pending in one session, or all; and what functions said of conflicts in it."""

        async def request(worker: Worker) -> None:
            await worker.flush(session_id)
            if self._resolve_known(session_id):
                await worker.flush(session_id)

        return request

    def refreshing(self, session_id: str | None) -> Request:
        """Fetch what is new in one session, or all; then functions are asked about conflicts in it."""

        async def request(worker: Worker) -> None:
            await worker.refresh(session_id)
            self._resolve_known(session_id)

        return request

    def flush_gently(self, timeout: float, session_id: str | None = None) -> None:
        """Send what is pending if that can be done now; log it if not."""
        if timeout <= 0 or not self.host.runs:
            return
        try:
            self.ask(lambda worker: worker.flush(session_id, once=True), timeout, self.what_is_left)
        except LocalFirstError as error:
            _logger.warning(_KEPT, self._path, error)

    async def flush_gently_soon(self, timeout: float, session_id: str | None = None) -> None:
        """As `flush_gently`, without blocking the event loop."""
        if timeout <= 0 or not self.host.runs:
            return
        try:
            await self.ask_soon(lambda worker: worker.flush(session_id, once=True), timeout, self.what_is_left)
        except LocalFirstError as error:
            _logger.warning(_KEPT, self._path, error)

    def hydrate(self, key: SessionKey, session_id: str, timeout: float) -> None:
        """Before the first read of a session that was never here: ask the central store, if it can be reached."""
        view = self._local.view(key, session_id)
        if view.hydrated:
            return
        self._local.glance(key, session_id, lambda fold: fold.seq)
        if not view.exists:
            try:
                self._local.follow(key, session_id)
            except (StoreFull, StoreUnwritable) as error:
                _logger.debug("not fetched: %s", of_session(session_id, str(error)))
                return  # What is here can be read all the same.
        if self._must_ask(view, timeout) and self.host.may_wait_here():
            try:
                self.ask(lambda worker: worker.fetch(session_id), timeout, self.what_is_missing)
            except LocalFirstError as error:
                _logger.debug("not fetched: %s", of_session(session_id, str(error)))
            view.hydrated = True

    async def hydrate_soon(self, key: SessionKey, session_id: str, timeout: float) -> None:
        """As `hydrate`, without blocking the event loop."""
        view = self._local.view(key, session_id)
        if view.hydrated:
            return
        await self._local.glance_soon(key, session_id, lambda fold: fold.seq)
        if not view.exists:
            try:
                await self._local.follow_soon(key, session_id)
            except (StoreFull, StoreUnwritable) as error:
                _logger.debug("not fetched: %s", of_session(session_id, str(error)))
                return
        if self._must_ask(view, timeout):
            try:
                await self.ask_soon(lambda worker: worker.fetch(session_id), timeout, self.what_is_missing)
            except LocalFirstError as error:
                _logger.debug("not fetched: %s", of_session(session_id, str(error)))
            view.hydrated = True

    def bring_back(self, session_id: str, timeout: float) -> None:
        """Fetch a session that was evicted. Raises `Evicted` if that can't be done in time."""
        if not self.host.fetches or not self.host.may_wait_here():
            raise Evicted(of_session(session_id, "it was evicted from this disk: refresh() it, or await arefresh()"))
        with _not_fetched(session_id):
            self.ask(lambda worker: worker.fetch(session_id), timeout, self.what_is_missing)

    async def bring_back_soon(self, session_id: str, timeout: float) -> None:
        """As `bring_back`, without blocking the event loop."""
        if not self.host.fetches:
            raise Evicted(of_session(session_id, "it was evicted from this disk: refresh() it, or await arefresh()"))
        with _not_fetched(session_id):
            await self.ask_soon(lambda worker: worker.fetch(session_id), timeout, self.what_is_missing)

    def makes_room(self) -> bool:
        """Whether the process that leads can evict sessions, or does not know yet."""
        status = self.status()
        return status.makes_room or status.state == "connecting"

    def _must_ask(self, view: View, timeout: float) -> bool:
        """Whether a session that is read for the first time may be in the central store, and could be fetched."""
        view.hydrated = view.head.seq > 0 or not self.host.fetches
        return not view.hydrated and timeout > 0 and self.host.status.state not in ("offline", "blocked")

    # How it stands.

    def status(self) -> SyncStatus:
        """What this process knows, or what the one that leads tells."""
        from sync.leader import is_led
        from sync.status import published

        told, own = published(self._path, self._namespace), self.host.status
        if told is None or self.host.leads:
            return own
        if is_led(self._path, self._namespace):
            return told
        return own if own.last_synced_at is not None else own.as_of(told.last_synced_at)

    def what_is_left(self) -> str:
        """Why a flush took too long, for people."""
        waiting = self._local.backlog().values()
        return (
            f"{_count(sum(backlog.changes for backlog in waiting), 'change')} of {_count(len(waiting), 'session')}"
            f" not in {self.remote} yet{self._why()}; they stay on disk and are sent when it can be reached"
        )

    def what_is_missing(self) -> str:
        """Why a refresh took too long, for people."""
        return f"not everything in {self.remote} is here yet{self._why()}"

    def _why(self) -> str:
        error = self.host.status.last_error
        return f" ({error})" if error else ""

    # What the worker tells.

    def _on_notice(self, notice: Notice) -> bool:
        """In the worker's thread."""
        from sync.site import Lost, Over, Settled

        if isinstance(notice, Settled):
            return self._on_settled(notice)
        if isinstance(notice, Over):
            event = SessionEvent.SESSION_EXPIRED if notice.how == "expired" else SessionEvent.SESSION_DELETED
            self._emit(notice.key, notice.session_id, event)
        elif isinstance(notice, Lost):
            self._emit(notice.key, notice.session_id, SessionEvent.REMOTE_LOST, notice.reason)
        else:
            self._local.view(
                notice.key, notice.aside.session_id
            ).look_again()  # It may be neither read nor written now.
            self._emit(notice.key, notice.aside.session_id, SessionEvent.QUARANTINED, notice.aside.reason)
        return False

    def _on_settled(self, settled: Settled) -> bool:
        """Changes of others have come, or ours were admitted. Tells whether a function had something to add to that."""
        self.synced[settled.key] = time.time()
        try:
            return self._hear(settled)
        except DecryptionError:  # Whoever reads it is told; what was sent needs no key.
            return False

    def _hear(self, settled: Settled) -> bool:
        key, before, after = settled
        heard, admitted = self._listeners.any_for(key), after.acked > before.acked
        news = self._local.news(key, before) if heard else []
        resolved = self._resolve(key, after.session_id, news) if admitted else []
        if heard and admitted and after.acked >= self._local.log.last_slot(key):
            news.append((SessionEvent.SYNCED, ()))
        for event, arguments in news:
            self._emit(key, after.session_id, event, *arguments)
        return bool(resolved)

    def _resolve_known(self, session_id: str | None) -> bool:
        """The same for conflicts that came when another process synced, or just before this one was started."""
        if not self._local.resolvers.has_functions:
            return False
        resolved = False
        one = None if session_id is None else (session_key(self._namespace, session_id), session_id)
        for key, name in self._local.loaded() if one is None else [one]:
            news: News = []
            resolved = bool(self._resolve(key, name, news)) or resolved
            for event, arguments in news:
                self._emit(key, name, event, *arguments)
        return resolved

    def _resolve(self, key: SessionKey, session_id: str, news: News) -> list[Resolution]:
        """Ask functions about the conflicts of a session, and add what came of it to what is to be told."""
        if not self._local.resolvers.has_functions:
            return []
        resolved = resolve_conflicts(self._local, key, session_id)
        for conflict, value, changed in resolved:
            if conflict.problem:
                told = (SessionEvent.CONFLICT_RESOLVED, (conflict._replace(problem=""),))
                news[:] = [each for each in news if each != told]
                news.append((SessionEvent.CONFLICT_RESOLVED, (conflict,)))
            if changed:
                news.append((SessionEvent.METADATA_CHANGED, (conflict.key, value)))
        return resolved

    def _emit(self, key: SessionKey, session_id: str, event: SessionEvent, *arguments: Any) -> None:
        try:
            self._listeners.emit(key, session_id, event, *arguments)
        except BaseException:  # Of a callback; an exit that it asks for can't be had in this thread.
            _logger.exception("a callback for %s raised in the sync worker; it is ignored", event.name)

    # Inside.

    def _make_host(self, connect: Connect, kind: WorkerKind, poll: float, pace: float, limit: int | None) -> Host:
        from sync.central.bounded import Bounded
        from sync.host import RequestHost, TaskHost, ThreadHost
        from sync.site import Site
        from sync.worker import Options, Worker

        options = Options(poll_interval=poll, sync_interval=pace, size_limit=limit)

        def make() -> Worker:
            log, central, time = self._local.log, Bounded(connect()), self._local.time
            site = Site(log, central, self._namespace, self._on_notice, time=time, ask=self._ask)
            return Worker(self._path, site, options)

        if kind == "none":
            return RequestHost(make)
        return TaskHost(make) if kind == "task" else ThreadHost(make, pace)


@contextmanager
def _not_fetched(session_id: str) -> Iterator[None]:
    try:
        yield
    except (SyncTimeout, RemoteUnavailable, RemoteRejected) as error:
        raise Evicted(
            of_session(session_id, f"it was evicted from this disk, and can't be fetched now; nothing is lost: {error}")
        ) from error


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
