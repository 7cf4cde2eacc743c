"""What a session object has beside its content: its place, how long it lives, how it stands, and events."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from localfirst import jsonvalue, plans
from localfirst.access import Access
from localfirst.change import TOUCH, check_session_id
from localfirst.clock import moment, pack, utc
from localfirst.events import SessionEvent
from localfirst.lifetime import Wish, encode_touch
from localfirst.options import milliseconds
from localfirst.owner import OWNER, Claim, checked_owner
from localfirst.records import session_key
from localfirst.turn import Turn

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from localfirst.store import Store


class Handle:
    """Of one object to one session: `Session` is one."""

    def __init__(
        self,
        store: Store,
        session_id: str,
        *,
        hydrate_timeout: float = 2.0,
        session_settings: Any = None,
        whole_turns: bool = False,
        branch: str | None = None,
        wish: Wish | None = None,
        owner: str | None = None,
    ) -> None:
        self.session_id = check_session_id(session_id)
        self.session_settings = session_settings
        """The OpenAI Agents SDK's `SessionSettings`, or a dict like it: `limit` is the default of `get_items`."""
        self.whole_turns = whole_turns
        """Whether that limit cuts between turns only."""
        self._store = store
        self._key = session_key(store.namespace, session_id)
        self._access = Access(
            store._local,
            store._link,
            self._key,
            session_id,
            hydrate_timeout=hydrate_timeout,
            branch=branch,
            wish=wish,
            claim=None if owner is None else self._claim(owner),
        )

    # Turns.

    def turn(self) -> Turn:
        """`async with session.turn():` (or plain `with`): what is written inside reaches other replicas together.

        Until the block ends, no part of it is sent; then it goes as one unit. Here it is visible and on disk at once,
        call by call. A block that raises ends its turn all the same: what it wrote is kept. If the process is killed
        inside, what was written goes up as soon as another worker of the directory notices (at its next poll); a turn
        that its process does not end goes up when nothing was written in the session for ten minutes. Calls of other
        tasks are not part of the turn, but what they write to this session meanwhile waits for its end.

        >>> with session.turn():
        ...     _ = session.add_message("assistant", "Let me look.")
        ...     session.set("looked", True)
        """
        return Turn(self._store._local, self._key, self.session_id)

    # How long it lives.

    def touch(self, ttl: timedelta | float | None = None) -> None:
        """Renew the session's time to live, without writing anything else. `ttl` (seconds or a timedelta): and set it,
        for this session, on every replica; `math.inf`: it never expires. Raises `ConfigurationError` for others.

        >>> session.touch(ttl=3600); session.expires_at is None
        False
        """
        wish = None if ttl is None else Wish(milliseconds("ttl", ttl), own=True)
        before = self._access.wish
        if wish is not None and before is not None:
            self._access.wish = before._replace(ttl=wish.ttl, own=True)
        self._access.write(plans.always((TOUCH, encode_touch(wish))))

    @property
    def expires_at(self) -> datetime | None:
        """When the session expires if nothing is written to it until then (UTC); None: never, or it has already.

        >>> session.expires_at is None
        True
        """
        self._access.hydrate()
        expires_at = self._access.read(lambda _: self._access.view.expires_at)
        return moment(pack(expires_at)) if expires_at > self._store._local.time.now() else None

    # How it stands with the central store.

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything written to this session before is in the central store. Raises `SyncTimeout`, and
        `SessionDeleted` if another replica has deleted the session, and what was written is dropped.

        `timeout` in seconds; None: for ever. At once if there is no central store.

        >>> session.flush(timeout=5)
        """
        self._store.flush(timeout, session_id=self.session_id)

    async def aflush(self, timeout: float | None = None) -> None:
        """As `flush`, without blocking the event loop."""
        await self._store.aflush(timeout, session_id=self.session_id)

    def refresh(self, timeout: float | None = None) -> None:
        """Return when everything in the central store now is visible in this session. Raises `SyncTimeout`.

        `timeout` in seconds; None: for ever. At once if there is no central store.

        >>> session.refresh(timeout=5)
        """
        self._store.refresh(timeout, session_id=self.session_id)

    async def arefresh(self, timeout: float | None = None) -> None:
        """As `refresh`, without blocking the event loop."""
        await self._store.arefresh(timeout, session_id=self.session_id)

    @property
    def pending(self) -> int:
        """How many changes made here are not known to be in the central store.

        >>> session.set("name", "Alice"); session.pending
        1
        """
        view = self._access.view
        return self._access.glance(lambda _: view.unsent)

    @property
    def synced_at(self) -> datetime | None:
        """When this session was last known to agree with the central store (UTC); None: not since it was opened.

        >>> session.synced_at is None
        True
        """
        link = self._store._link
        return utc(link.synced.get(self._key)) if link else None

    def on(self, event: SessionEvent, callback: Callable[..., object]) -> Callable[[], None]:
        """Call back when something happens to this session, see `SessionEvent`. Returns how to stop that.

        >>> stop = session.on(localfirst.SessionEvent.MESSAGE_ADDED, lambda item: print("new:", item["content"]))
        >>> _ = session.add_message("user", "Hello"); stop()
        new: Hello
        """
        self._access.follow()
        return self._store._listeners.add(self._key, event, callback)

    # Python's own protocols.

    def __bool__(self) -> bool:
        return True  # An empty session is a session: frameworks test for one with `session or default`.

    def __repr__(self) -> str:
        if not hasattr(self, "_access"):  # Tracebacks show what could not be made, too.
            return f"<{type(self).__name__} that was not made>"
        return f"<Session {self.session_id!r} of {self._store!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store._flush_session(self.session_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store._aflush_session(self.session_id)

    # Inside.

    def _claim(self, owner: str, *, made: bool = False) -> Claim:
        wanted, _ = self._store._local.resolvers.rule(OWNER)
        rule = plans.checked_rule(OWNER, checked_owner(owner), wanted)
        return Claim(owner, rule, partial(self._emit_changed, OWNER), made=made)

    def _emit(self, event: SessionEvent, *arguments: Any) -> None:
        self._store._listeners.emit(self._key, self.session_id, event, *arguments)

    def _emit_each(self, event: SessionEvent, encoded: list[bytes]) -> None:
        if self._store._listeners.any_for(self._key):
            for item in jsonvalue.decode_each(encoded):
                self._emit(event, item)

    def _emit_changed(self, key: str) -> None:
        if self._store._listeners.any_for(self._key):
            look = partial(plans.value_of, key=key)
            value = self._access.glance(look)  # It is there, even if nothing else is.
            self._emit(SessionEvent.METADATA_CHANGED, key, None if value is None else jsonvalue.decode(value))
