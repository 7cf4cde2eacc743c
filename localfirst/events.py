"""What a session tells those who listen. A callback that raises is logged and stops nothing."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from enum import Enum
from typing import Any

from localfirst import jsonvalue
from localfirst.errors import ConfigurationError
from localfirst.fold import Effect, Fold
from localfirst.metadata import OWN

_logger = logging.getLogger("localfirst")

Callback = Callable[..., object]


class SessionEvent(Enum):
    """Things that happen to a session, with what the callback is given.

    Callbacks for calls made here run in the calling thread, after the commit; those for changes of other replicas,
    and for `SYNCED`, in the worker's, where they must be short and can't `flush` or `refresh`. Registered on a store, a
    callback is given the session id first. What happens on one branch is told like what happens on another.
    """

    MESSAGE_ADDED = "message_added"
    """(item): an item was added by a call here."""
    MESSAGE_REMOVED = "message_removed"
    """(item): an item was popped, here or by another replica."""
    SESSION_CLEARED = "session_cleared"
    """(): the items were cleared, here or by another replica."""
    METADATA_CHANGED = "metadata_changed"
    """(key, value): a metadata key was set, here (also by a function of `resolvers`) or by another replica; None: it
    was deleted."""
    CONFLICT_RESOLVED = "conflict_resolved"
    """(conflict): two replicas wrote one metadata key without knowledge of each other; a `localfirst.Conflict`. Told on
    each replica once; `problem` if a function of `resolvers` failed here."""
    REMOTE_CHANGED = "remote_changed"
    """(items): items that other replicas added have come."""
    SYNCED = "synced"
    """(): everything written here is in the central store now."""
    QUARANTINED = "quarantined"
    """(reason): the session can't be synced until somebody acts; `Store.quarantined` tells in which direction."""
    STORE_CORRUPT = "store_corrupt"
    """(reason), on a store only: its database turned out to be damaged while it was open. Calls that meet the damage
    raise `StoreCorrupt`; to open the store again saves what can be read, see `StoreStatus.recovered`. Told once, in a
    thread of its own."""
    SESSION_EXPIRED = "session_expired"
    """(): nothing was written to the session for its `ttl`, and what was here of it is dropped."""
    SESSION_DELETED = "session_deleted"
    """(): it was deleted, by another replica, and what was here of it is dropped, what was pending too."""
    STORE_FILLING = "store_filling"
    """(bytes, limit): what the directory takes on disk is above 80 % of its `size_limit`, and no session can be
    evicted. For callbacks of a store only; they run in a thread that writes, and are given no session id."""
    REMOTE_LOST = "remote_lost"
    """(reason): the central store has lost the session; what is here is sent again, see `on_remote_loss`."""


class Listeners:
    """Who listens to which event, of one session or (key None) of all of them."""

    def __init__(self) -> None:
        self._callbacks: dict[tuple[bytes | None, SessionEvent], list[Callback]] = {}
        self._lock = threading.Lock()

    def add(self, key: bytes | None, event: SessionEvent, callback: Callback) -> Callable[[], None]:
        """Register a callback; returns how to take it away again."""
        try:
            place = (key, SessionEvent(event))
        except ValueError:
            known = ", ".join(f"SessionEvent.{known.name}" for known in SessionEvent)
            raise ConfigurationError(f"there is no event {event!r}: take one of {known}") from None
        if key is not None and place[1] is SessionEvent.STORE_CORRUPT:
            raise ConfigurationError("STORE_CORRUPT is no event of a session: register it with store.on()")
        with self._lock:
            self._callbacks[place] = [*self._callbacks.get(place, []), callback]
        return lambda: self._remove(place, callback)

    def _remove(self, place: tuple[bytes | None, SessionEvent], callback: Callback) -> None:
        with self._lock:
            callbacks = self._callbacks.get(place, [])
            kept = list(callbacks)
            if callback in kept:
                kept.remove(callback)
            if kept:
                self._callbacks[place] = kept
            else:
                self._callbacks.pop(place, None)

    def any_for(self, key: bytes) -> bool:
        """Whether anybody would hear of this session."""
        return bool(self._callbacks) and any(place[0] in (None, key) for place in list(self._callbacks))

    def forked(self) -> None:
        """In a child process, where nobody will release the lock if it was held."""
        self._lock = threading.Lock()

    def emit(self, key: bytes, session_id: str, event: SessionEvent, *arguments: Any) -> None:
        """Call those who listen to this session, then those who listen to all."""
        for callback in self._callbacks.get((key, event), ()):
            _call(callback, event, arguments)
        for callback in self._callbacks.get((None, event), ()):
            _call(callback, event, (session_id, *arguments))

    def emit_soon(self, event: SessionEvent, *arguments: Any) -> None:
        """Tell of the store as a whole, in a thread of its own: whoever met it may hold locks."""
        for callback in self._callbacks.get((None, event), ()):
            threading.Thread(
                target=_call, args=(callback, event, arguments), name="localfirst-event", daemon=True
            ).start()

    def emit_of_store(self, event: SessionEvent, *arguments: Any) -> None:
        """Call those who listen to all sessions, for what is of none."""
        for callback in self._callbacks.get((None, event), ()):
            _call(callback, event, arguments)


def _call(callback: Callback, event: SessionEvent, arguments: tuple[Any, ...]) -> None:
    try:
        callback(*arguments)
    except Exception:
        _logger.exception("a callback for %s raised; it is ignored", event.name)


News = list[tuple[SessionEvent, tuple[Any, ...]]]
"""Events with their arguments."""


def news_of(effects: list[Effect], fold: Fold) -> News:
    """What tells of changes of other replicas, and of the conflicts that ours met."""
    news: News = []
    added = [item.data for effect in effects for item in effect.added]
    if added:
        news.append((SessionEvent.REMOTE_CHANGED, (jsonvalue.decode_each(added),)))
    for effect in effects:
        if _is_of_own_record(effect):
            continue
        if effect.removed is not None:
            news.append((SessionEvent.MESSAGE_REMOVED, (jsonvalue.decode(effect.removed.data),)))
        if effect.cleared:
            news.append((SessionEvent.SESSION_CLEARED, ()))
        if effect.key is not None:
            register = fold.metadata.get(effect.key)
            value = None if register is None or register.value is None else jsonvalue.decode(register.value)
            news.append((SessionEvent.METADATA_CHANGED, (effect.key, value)))
        if effect.conflict is not None:
            news.append((SessionEvent.CONFLICT_RESOLVED, (effect.conflict,)))
    return news


def _is_of_own_record(effect: Effect) -> bool:
    key = effect.key if effect.conflict is None else effect.conflict.key
    return key is not None and key.startswith(OWN)
