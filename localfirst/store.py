"""The store: a directory of sessions, and the worker that syncs it."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_data_path

from localfirst.change import check_session_id
from localfirst.codec import Vault
from localfirst.errors import ConfigurationError, LocalFirstError
from localfirst.events import Listeners, SessionEvent
from localfirst.giving_up import give_up
from localfirst.keys import Key, KeyRing, key_ring
from localfirst.lifetime import Wish
from localfirst.link import Link, connector
from localfirst.listing import fitting, listed
from localfirst.local import Local
from localfirst.options import Durability, RemoteLoss, WorkerKind, check_options, check_size_limit, length, milliseconds
from localfirst.overview import in_quarantine, store_status
from localfirst.records import Aside, Direction, SessionKey, session_key
from localfirst.resealing import seal_here_anew
from localfirst.resolvers import Resolver, Resolvers
from localfirst.rotation import Progress, Rotation
from localfirst.rows import patiently
from localfirst.search import Finder, Match, search_store
from localfirst.secret import given
from localfirst.session import Session
from localfirst.status import Quarantined, RotateReport, SessionCheck, SessionInfo, StoreStatus, VerifyReport
from localfirst.threads import Threads
from localfirst.turn import check_no_turn

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

_stores: weakref.WeakSet[Store] = weakref.WeakSet()


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
        resolvers: Mapping[str, Resolver] | None,
        poll_interval: float,
        sync_interval: float,
        on_remote_loss: RemoteLoss,
        ttl: timedelta | float | None,
        item_ttl: timedelta | float | None,
        size_limit: int | None,
        encryption_key: Key | KeyRing | None,
    ) -> None:
        home = path or os.environ.get("LOCALFIRST_HOME") or user_data_path("localfirst")
        self._link: Link | None = None
        self.path = Path(home).expanduser().absolute()
        if self.path.is_file():
            raise ConfigurationError(
                f"{self.path} is a file, and localfirst keeps sessions in a directory: `localfirst import --in-place"
                f" {self.path}` takes over the conversations of a database of the OpenAI Agents SDK or of openstackai;"
                " or take another path"
            )
        remote = os.environ.get("LOCALFIRST_REMOTE") if remote is None else remote
        check_options(remote, namespace, worker, durability, poll_interval, sync_interval, on_remote_loss)
        check_size_limit(size_limit)
        remote = given(remote) if remote else None
        checked, vault = Resolvers(resolvers), Vault(namespace, key_ring(encryption_key))
        self.namespace = namespace
        self._seals = encryption_key is not None
        self._listeners = Listeners()
        self._closed = False
        self._ttls = milliseconds("ttl", ttl), milliseconds("item_ttl", item_ttl)
        found = connector(remote, namespace) if remote else None
        self._local = Local(
            self.path,
            namespace,
            fsync=durability == "full",
            listeners=self._listeners,
            resolvers=checked,
            size_limit=size_limit,
            vault=vault,
        )
        self._link = found and Link(
            self.path,
            namespace,
            self._local,
            self._listeners,
            *found,
            worker=worker,
            poll_interval=poll_interval,
            sync_interval=sync_interval,
            ask=on_remote_loss == "ask",
            size_limit=size_limit,
        )
        if self._local.room is not None and self._link is not None:
            self._local.room.makes_room = self._link.makes_room
        self._local.wrote = self._link.host.wake if self._link else None
        self._local.put_in_order(alone=self._link is None)
        _stores.add(self)

    # Sessions.

    def session(
        self,
        session_id: str,
        *,
        hydrate_timeout: float = 2.0,
        session_settings: Any = None,
        whole_turns: bool = False,
        branch: str | None = None,
        ttl: timedelta | float | None = None,
        item_ttl: timedelta | float | None = None,
        owner: str | None = None,
    ) -> Session:
        """The session with this id. Nothing is read or written until it is used.

        On a replica that has never seen it, the first read waits for the central store, `hydrate_timeout` seconds at
        most, then goes on with what is here. A plain call can't wait on the loop of a `worker="task"`, and without a
        worker nothing is fetched: there, `await get_items()` or `arefresh()` first, or `refresh()`.

        `session_settings`: see `Session`. `whole_turns`: the limit in these settings never cuts a turn, see
        `Session.get_items`. `branch`: the name of the branch to begin on; None: the one to which this
        session was switched last in this directory, main at first; calls raise `ConfigurationError` if there is no such
        branch. `ttl`, `item_ttl`: as for `open`, for this session on every replica, from the next write on; they count
        more than those of any store. `owner`: set with the next write, see `Session.owner`. Raises `ConfigurationError`
        for an owner that is no string, and for an id that is no string, is empty or longer than 1,024 bytes, or has a
        NUL.

        >>> store.session("user-123").get_messages()
        []
        """
        self._local.check_open()
        return Session(
            self,
            session_id,
            hydrate_timeout=hydrate_timeout,
            session_settings=session_settings,
            whole_turns=whole_turns,
            branch=branch,
            wish=self._wish(milliseconds("ttl", ttl), milliseconds("item_ttl", item_ttl)),
            owner=owner,
        )

    def _wish(self, ttl: int | None, item_ttl: int | None) -> Wish | None:
        """What is to be set for a session, whose own settings win."""
        own = ttl is not None or item_ttl is not None
        both = self._ttls[0] if ttl is None else ttl, self._ttls[1] if item_ttl is None else item_ttl
        return None if both == (None, None) else Wish(*both, own)

    def delete(self, session_id: str) -> None:
        """Delete a session everywhere: here at once, then in the central store, and from there on other replicas.

        When this returns, no byte of its items is on this disk; if another process reads for longer than a second, or
        a worker is just folding the session, soon after that. A damaged database that was put aside keeps its bytes:
        it is never written to, see `StoreStatus.recovered`. Other replicas drop what they have of it, also what they
        could not send yet, when they hear of it, within 30 days. What is written to it later begins it anew. Works
        offline; a session that is not there is fine.

        >>> _ = session.add_message("user", "Hello"); store.delete("user-123"); len(session)
        0
        """
        key = session_key(self.namespace, check_session_id(session_id))
        self._local.delete(key, session_id, everywhere=self._link is not None)

    def cleanup(self, idle_for: timedelta | float = timedelta(days=30)) -> list[str]:
        """Delete the sessions whose newest change is at least so old (seconds or a timedelta); returns their ids.

        Those that were evicted are fetched first; they stay if that can't be done. Raises `ConfigurationError` for what
        is no length of time.

        >>> store.cleanup(idle_for=30 * 86_400)
        []
        """
        least = length("idle_for", idle_for)
        session_ids = [info.session_id for info in self.sessions(idle_for=least) if self._is_idle(info, least)]
        for session_id in session_ids:
            self.delete(session_id)
        return session_ids

    def _is_idle(self, info: SessionInfo, idle_for: timedelta | float) -> bool:
        """Whether a session is as idle as it looks: one that was evicted may have gone on elsewhere."""
        if info.state != "evicted":
            return True
        if self._link is None:
            return False
        try:
            self._link.bring_back(info.session_id, 5.0)
        except LocalFirstError:
            return False
        now = next((each for each in self.sessions(info.session_id, idle_for=idle_for)), None)
        return now is not None and now.session_id == info.session_id and now.state != "evicted"

    def sessions(
        self,
        prefix: str = "",
        *,
        idle_for: timedelta | float | None = None,
        owner: str | None = None,
        where: Mapping[str, Any] | None = None,
    ) -> Iterator[SessionInfo]:
        """The sessions that are known here and whose id begins with a prefix, in the order of their ids.

        `idle_for` (seconds or a timedelta): only those whose newest change is at least so old. `owner`: only those of
        this owner. `where`: only those whose metadata has all these keys with values that are equal as JSON. What is
        not known of a session (see `SessionInfo`) is equal to nothing. Raises `ConfigurationError` for what is no
        length of time, no owner, or no dict with strings for keys.

        >>> _ = session.add_message("user", "Hello")
        >>> [(info.session_id, info.items) for info in store.sessions("user-")]
        [('user-123', 1)]
        >>> session.set("topic", "travel")
        >>> [info.metadata for info in store.sessions(where={"topic": "travel"})]
        [{'topic': 'travel'}]
        """
        fits = fitting(owner, where)
        least = None if idle_for is None else length("idle_for", idle_for)
        return listed(self._local, self._link, self._stopped(), prefix, least, fits)

    def search(
        self, text: str, *, prefix: str = "", owner: str | None = None, limit: int | None = None
    ) -> Iterator[Match]:
        """The items of all sessions in which a text stands, as `Session.search` has it; of the newest session first.

        Sessions are read one by one as the iterator goes on: what is found early comes early, and memory stays as it
        is. All branches are searched, and an item that several of them show is found once. `prefix`, `owner`: only
        sessions whose id begins so, or that are this owner's. `limit`: so many items at most. Only what is on this
        disk is searched: sessions that were evicted are left out, and those whose keys are not here, of which a warning
        is logged. Raises `ConfigurationError` for an empty text.

        >>> _ = session.add_message("user", "Where is my Luggage?")
        >>> [(match.session_id, match.excerpt) for match in store.search("luggage", limit=10)]
        [('user-123', 'Where is my Luggage?')]
        """
        finder = Finder(text)
        self._local.check_open()
        return search_store(self._local, finder, prefix, owner, limit)

    def on(self, event: SessionEvent, callback: Callable[..., object]) -> Callable[[], None]:
        """As `Session.on`, for all sessions: the callback's first argument is the session id.

        >>> stop = store.on(localfirst.SessionEvent.MESSAGE_ADDED, lambda session_id, item: print(session_id))
        >>> _ = session.add_message("user", "Hello"); stop()
        user-123
        """
        return self._listeners.add(None, event, callback)

    # Sync.

    @property
    def replica_id(self) -> str:
        """The name of this directory among the replicas; another one after it was copied or restored.

        >>> len(store.replica_id)
        20
        """
        self._local.check_open()
        return self._local.replica_id

    def flush(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """Return when everything written before the call (to one session, or all) is in the central store.

        `timeout` in seconds, None: for ever; `SyncTimeout` says what is left. `ConfigurationError` and the like when
        somebody must act first. `SessionDeleted` when all is done, but something was dropped in the meantime, because
        another replica had deleted its session; what a worker had dropped before the call, `SESSION_DELETED` told. At
        once without a central store.

        >>> store.flush(timeout=5)
        """
        link = self._waitable_link("flush")
        check_no_turn(self._local, "flush")
        if link is not None:
            link.ask(link.flushing(session_id), timeout, link.what_is_left)

    async def aflush(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """As `flush`, without blocking the event loop."""
        link = self._open_link()
        check_no_turn(self._local, "aflush")
        if link is not None:
            await link.ask_soon(link.flushing(session_id), timeout, link.what_is_left)

    def refresh(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """Return when everything in the central store at the time of the call is visible here.

        Also sessions that were never used here. Times and errors as for `flush`.

        >>> store.refresh(timeout=5)
        """
        link = self._waitable_link("refresh")
        if link is not None:
            link.ask(link.refreshing(session_id), timeout, link.what_is_missing)

    async def arefresh(self, timeout: float | None = None, *, session_id: str | None = None) -> None:
        """As `refresh`, without blocking the event loop."""
        link = self._open_link()
        if link is not None:
            await link.ask_soon(link.refreshing(session_id), timeout, link.what_is_missing)

    def status(self) -> StoreStatus:
        """How this store and the central store stand to each other now.

        >>> store.status().state
        'local'
        """
        return store_status(self._local, self._link, self.path, self._stopped())

    # What needs somebody to act.

    def quarantined(self) -> list[Quarantined]:
        """The sessions that can't be synced in one direction until somebody acts, and why. All others go on.

        >>> store.quarantined()
        []
        """
        return in_quarantine(self._stopped())

    def retry(self, session_id: str) -> bool:
        """Let a session out of quarantine, and try again. One that the central store has lost is sent again.

        False if it was not in there.

        >>> store.retry("user-123")
        False
        """
        return self._act(session_id, self._local.quarantine.retry)

    def discard(self, session_id: str) -> bool:
        """Let a session out of quarantine, and give up what it is there for.

        What the central store refuses to take is dropped here, and nothing else of the session; what can't be read
        there is passed over; a session that it has lost is dropped here too. False if the session was not in there.
        Raises `ConfigurationError` for a central log that is damaged as a whole: it can be repaired only there.

        >>> store.discard("user-123")
        False
        """
        local = self._local
        return self._act(session_id, partial(give_up, local.log, local.identity, local.quarantine))

    def reseed(self) -> bool:
        """Go on with a central store that is another one than before, or was emptied: send it what is here.

        For `on_remote_loss="ask"`, when `status().state` is `"blocked"` for that. False if there is no such store.

        >>> store.reseed()
        False
        """
        self._local.check_open()
        accepted = patiently(partial(self._local.identity.accept, self.namespace))
        if accepted and self._link is not None:
            self._link.host.nudge()
        return accepted

    def verify(
        self, timeout: float | None = None, *, session_id: str | None = None, full: bool = False
    ) -> VerifyReport:
        """Compare what is here with the central store, by digest: one session, or all.

        Takes what is new first, so that only what is wrong is left. Sends nothing, and puts nothing in quarantine: what
        the central store has lost is only told. `full`: read the logs in the central store, too, rather than only
        their digests. Times and errors as for `refresh`. Without a central store, nothing is found.

        >>> store.verify(timeout=5).ok
        True
        """
        link, found = self._waitable_link("verify"), list[Any]()
        if link is not None:
            link.ask(lambda worker: worker.verify(found, session_id, full=full), timeout, link.what_is_missing)
        return VerifyReport([SessionCheck(*difference) for difference in found])

    async def averify(
        self, timeout: float | None = None, *, session_id: str | None = None, full: bool = False
    ) -> VerifyReport:
        """As `verify`, without blocking the event loop."""
        link, found = self._open_link(), list[Any]()
        if link is not None:
            await link.ask_soon(
                lambda worker: worker.verify(found, session_id, full=full), timeout, link.what_is_missing
            )
        return VerifyReport([SessionCheck(*difference) for difference in found])

    def rotate(self, timeout: float | None = None, *, progress: Progress | None = None) -> RotateReport:
        """Seal everything with the newest key: what older keys sealed, and what was written without one.

        On this disk and in the central store, online: others go on reading and writing. Each device does it for its own
        disk, once all of them have the new key in their rings; when all reports are `ok`, the old key is needed for
        nothing. What is pending is sent first; `progress(done, total)` counts sessions. Can be repeated, and goes on
        where it was interrupted. Times and errors as for `refresh`; `ConfigurationError` without a key, or if the
        central store that this directory follows is not named.

        >>> import tempfile
        >>> with localfirst.open(tempfile.mkdtemp(), encryption_key=localfirst.KeyRing.generate()) as sealed:
        ...     sealed.rotate().ok
        True
        """
        link, rotation = self._waitable_link("rotate"), self._rotation(progress)
        if link is not None:
            link.ask(lambda worker: worker.rotate(rotation), timeout, link.what_is_missing)
        else:
            seal_here_anew(self._local, self.namespace, rotation)
        return RotateReport(len(rotation.done), rotation.left)

    async def arotate(self, timeout: float | None = None, *, progress: Progress | None = None) -> RotateReport:
        """As `rotate`, without blocking the event loop."""
        link, rotation = self._open_link(), self._rotation(progress)
        if link is not None:
            await link.ask_soon(lambda worker: worker.rotate(rotation), timeout, link.what_is_missing)
        else:
            await asyncio.to_thread(seal_here_anew, self._local, self.namespace, rotation)
        return RotateReport(len(rotation.done), rotation.left)

    def _rotation(self, progress: Progress | None) -> Rotation:
        if not self._seals:
            raise ConfigurationError(
                "there is no key to seal with: open the store with one (encryption_key=, or localfirst --key-file)"
            )
        return Rotation(progress)

    def _act(self, session_id: str, act: Callable[[SessionKey], bool]) -> bool:
        self._local.check_open()
        acted = patiently(partial(act, session_key(self.namespace, check_session_id(session_id))))
        if acted and self._link is not None:
            self._link.host.wake()
        return acted

    def _stopped(self) -> dict[tuple[SessionKey, Direction], Aside]:
        self._local.check_open()
        found = patiently(partial(self._local.quarantine.all, self.namespace))
        return {place: aside for place, aside in found.items() if not aside.consent}

    # The end.

    def close(self, timeout: float = 5.0) -> None:
        """Send what is pending (`timeout` seconds at most), stop the worker, release the directory.

        What could not be sent stays on disk and goes up when the store is opened again. Every call after this raises
        `StoreClosed`; closing twice is fine. With `worker="task"`, `await aclose()` instead.

        >>> store.close(); store.close()
        """
        if self._closed:
            return
        link = self._waitable_link("close")
        if link is not None:
            link.flush_gently(timeout)
            link.host.close()
        self._release()

    async def aclose(self, timeout: float = 5.0) -> None:
        """As `close`, without blocking the event loop."""
        if self._closed:
            return
        if self._link is not None:
            await self._link.flush_gently_soon(timeout)
            await self._link.host.aclose()
        if self._local.is_idle:
            self._release()
        else:
            await asyncio.get_running_loop().run_in_executor(Threads(1), self._release)

    def _flush_session(self, session_id: str, timeout: float = 5.0) -> None:
        """Send what is pending in a session if that can be done now; log it if not."""
        link = self._waitable_link("flush")
        if link is not None:
            link.flush_gently(timeout, session_id)

    async def _aflush_session(self, session_id: str, timeout: float = 5.0) -> None:
        """As `_flush_session`, without blocking the event loop."""
        link = self._open_link()
        if link is not None:
            await link.flush_gently_soon(timeout, session_id)

    def __enter__(self) -> Self:
        if self._link is not None and not self._link.host.may_wait_here():
            self._link.host.drop()
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
        return f"<Store {str(self.path)!r} with {self._link.remote if self._link else 'no central store'}>"

    # Inside.

    def _open_link(self) -> Link | None:
        self._local.check_open()
        return self._link

    def _waitable_link(self, call: str) -> Link | None:
        link = self._open_link()
        if link is not None:
            link.check_waitable(call)
        return link

    def _is_there(self) -> bool:
        """Whether it is open, and its files are where they were."""
        return not self._closed and self._local.is_there()

    def _release(self) -> None:
        self._closed = True
        _stores.discard(self)
        self._local.close()

    def _forked(self) -> None:
        """In a child process: threads did not come along, and locks may have been held by them."""
        self._local.forked()
        self._listeners.forked()
        if self._link is not None:
            self._link.host.forked()


def _forked() -> None:
    for store in list(_stores):
        store._forked()  # noqa: SLF001 - of this module


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
