"""The session: one conversation and its metadata, as an agent sees it.

Every call works on local disk alone and takes microseconds; replication happens behind. Most calls are plain
functions; the four of the OpenAI Agents SDK's `Session` protocol are coroutines, and a `Session` passes for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from localfirst import jsonvalue
from localfirst.change import APPEND, CLEAR, DELETE, INCREMENT, PUT, REMOVE, check_session_id
from localfirst.errors import InvalidItem
from localfirst.events import SessionEvent
from localfirst.export import read_export, write_export
from localfirst.fold import Fold
from localfirst.history import encode_removal
from localfirst.log import session_key
from localfirst.metadata import (
    RULES,
    Conflict,
    Rule,
    encode_delete,
    encode_increment,
    encode_put,
    is_number,
)
from localfirst.view import Plan, Step

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

    from localfirst.store import Store

T = TypeVar("T")


class Session:
    """One conversation. `Store.session` makes it; nothing is read or written until it is used.

    >>> import localfirst, tempfile
    >>> store = localfirst.open(tempfile.mkdtemp())
    >>> session = store.session("user-123")
    >>> session.add_message("user", "Hello")
    {'role': 'user', 'content': 'Hello'}
    >>> session.set("name", "Alice")
    >>> session.get_messages(), session.get("name")
    ([{'role': 'user', 'content': 'Hello'}], 'Alice')
    >>> store.close()
    """

    def __init__(
        self, store: Store, session_id: str, *, hydrate_timeout: float = 2.0, session_settings: Any = None
    ) -> None:
        self.session_id = check_session_id(session_id)
        self.session_settings = session_settings
        """The OpenAI Agents SDK's `SessionSettings`, or a dict like it: `limit` is the default of `get_items`."""
        self._store = store
        self._key = session_key(store.namespace, session_id)
        self._hydrate_timeout = hydrate_timeout

    # The OpenAI Agents SDK's protocol.

    async def add_items(self, items: Sequence[Any]) -> None:
        """Add items at the end, all of them or none. Raises `InvalidItem` for what JSON can't hold."""
        encoded = _encode_items(items)
        steps = [(APPEND, jsonvalue.join(encoded))] if encoded else []
        await self._store.local.write_soon(self._key, self.session_id, _always(*steps))
        self._emit_each(SessionEvent.MESSAGE_ADDED, encoded)

    async def get_items(self, limit: int | None = None) -> list[Any]:
        """The items, oldest first, as fresh objects. `limit`: only the last so many; 0: none; negative: all."""
        if self._store.replicates:
            await self._hydrate_soon()
        if self.session_settings is not None and limit is None:
            limit = self._default_limit()
        encoded = await self._store.local.read_soon(self._key, self.session_id, lambda fold: _last(fold, limit))
        return jsonvalue.decode_each(encoded)

    async def pop_item(self) -> Any | None:
        """Remove the last item and return it; None if there is none."""
        await self._hydrate_soon()
        popped = _Pop(_is_item)
        await self._store.local.write_soon(self._key, self.session_id, popped, fresh=True)
        return self._popped(popped)

    async def clear_session(self) -> None:
        """Remove all items that are visible here; metadata stays."""
        await self._store.local.write_soon(self._key, self.session_id, _plan_clear, fresh=True)
        self._emit(SessionEvent.SESSION_CLEARED)

    # Messages: the items that have a role and a content.

    def add_message(self, role: str, content: Any, **extra: Any) -> dict[str, Any]:
        """Add the item `{"role": role, "content": content, **extra}` and return it."""
        item = {"role": role, "content": content, **extra}
        encoded = _encode_items([item])
        self._write(_always((APPEND, jsonvalue.join(encoded))))
        self._emit_each(SessionEvent.MESSAGE_ADDED, encoded)
        return item

    def get_messages(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The items that have a role and a content, oldest first. `limit`: only the last so many."""
        messages = [item for item in self._items() if _is_message(item)]
        return messages if limit is None or limit < 0 else messages[len(messages) - min(limit, len(messages)) :]

    def pop_message(self) -> dict[str, Any] | None:
        """Remove the last message and return it; None if there is none."""
        self._hydrate()
        popped = _Pop(_is_message)
        self._write(popped, fresh=True)
        return self._popped(popped)

    def clear(self) -> None:
        """As `clear_session`, as a plain function."""
        self._write(_plan_clear, fresh=True)
        self._emit(SessionEvent.SESSION_CLEARED)

    # Metadata.

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, as a fresh object, or the default."""
        self._hydrate()
        value = self._read(lambda fold: _value(fold, key))
        return default if value is None else jsonvalue.decode(value)

    def set(self, key: str, value: Any, merge: Rule | None = None) -> None:
        """Set a metadata key. `merge` says what becomes of writes made elsewhere without knowledge of this one:

        `"last"` (default): the later one stands. `"first"`: sets only what is not set. `"merge"`: dicts, field by
        field, the later write of a field stands. `"union"`: lists as sets. `"max"`, `"min"`: the greater, the lesser.
        """
        rule = _checked_rule(_checked_key(key), value, "last" if merge is None else merge)
        encoded = jsonvalue.encode(value)
        if rule == "merge":
            self._write(lambda fold: [(PUT, _encode_fields(fold, key, value))], fresh=True)
        else:
            self._write(_always((PUT, encode_put(key, rule, encoded))))
        self._emit_changed(key)

    def delete(self, key: str) -> None:
        """Delete a metadata key; fine if there is none."""
        body = encode_delete(_checked_key(key))
        self._write(lambda fold: [(DELETE, body)] if _value(fold, key) is not None else [], fresh=True)
        self._emit_changed(key)

    def increment(self, key: str, by: float = 1) -> Any:
        """Add to a number, from 0 if the key is not set, and return the sum. Increments made elsewhere add up."""
        if not is_number(by):
            raise InvalidItem(f"increment adds a number, not {type(by).__name__}")
        self._hydrate()
        body = encode_increment(_checked_key(key), by)
        self._write(lambda fold: [(INCREMENT, body)] if _countable(fold, key) else [], fresh=True)
        self._emit_changed(key)
        return self.get(key)

    def metadata(self) -> dict[str, Any]:
        """All metadata, as fresh objects."""
        self._hydrate()
        values = self._read(lambda fold: {key: register.value for key, register in fold.metadata.items()})
        return {key: jsonvalue.decode(value) for key, value in sorted(values.items()) if value is not None}

    def conflicts(self) -> list[Conflict]:
        """The newest conflicts on metadata (100 at most), oldest first: both values, the winner, the rule."""
        self._hydrate()
        return self._read(lambda fold: list(fold.conflicts))

    # Everything at once.

    def export(self) -> dict[str, Any]:
        """Items and metadata as a JSON-ready dict, for `import_data` of any session or store."""
        self._hydrate()
        items, registers = self._read(lambda fold: (_last(fold, None), dict(fold.metadata)))
        values = {key: register.value for key, register in registers.items() if register.value is not None}
        return write_export(self.session_id, jsonvalue.decode_each(items), values)

    def import_data(self, data: Any) -> None:
        """Add the items and set the metadata of an export, all or nothing; what is here already stays.

        Raises `InvalidItem` for anything but an export, and stores nothing then.
        """
        items, metadata = read_export(data)
        encoded = _encode_items(items)
        steps: list[Step] = [(APPEND, jsonvalue.join(encoded))] if encoded else []
        steps += [
            (PUT, encode_put(_checked_key(key), "last", jsonvalue.encode(value))) for key, value in metadata.items()
        ]
        self._write(_always(*steps))
        self._emit_each(SessionEvent.MESSAGE_ADDED, encoded)
        for key in metadata:
            self._emit_changed(key)

    # How it stands with the central store.

    def flush(self, timeout: float | None = None) -> None:
        """Return when everything written to this session before is in the central store. Raises `SyncTimeout`."""
        self._store.flush(timeout, session_id=self.session_id)

    async def aflush(self, timeout: float | None = None) -> None:
        """As `flush`, without blocking the event loop."""
        await self._store.aflush(timeout, session_id=self.session_id)

    def refresh(self, timeout: float | None = None) -> None:
        """Return when everything in the central store now is visible in this session. Raises `SyncTimeout`."""
        self._store.refresh(timeout, session_id=self.session_id)

    async def arefresh(self, timeout: float | None = None) -> None:
        """As `refresh`, without blocking the event loop."""
        await self._store.arefresh(timeout, session_id=self.session_id)

    @property
    def pending(self) -> int:
        """How many changes made here are not known to be in the central store."""
        return self._read(lambda fold: fold.pending)

    @property
    def synced_at(self) -> datetime | None:
        """When this session was last known to agree with the central store (UTC); None: not since it was opened."""
        return self._store.synced_at(self._key)

    def on(self, event: SessionEvent, callback: Callable[..., object]) -> Callable[[], None]:
        """Call back when something happens to this session, see `SessionEvent`. Returns how to stop that."""
        self._store.follow(self._key, self.session_id)
        return self._store.listeners.add(self._key, event, callback)

    # Python's own protocols.

    def __len__(self) -> int:
        self._hydrate()
        return self._read(lambda fold: len(fold.items))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    def __bool__(self) -> bool:
        return True  # An empty session is a session: frameworks test for one with `session or default`.

    def __repr__(self) -> str:
        return f"<Session {self.session_id!r} of {self._store!r}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._store.flush_gently(self.session_id)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._store.aflush_gently(self.session_id)

    # Inside.

    def _items(self) -> list[Any]:
        self._hydrate()
        return jsonvalue.decode_each(self._read(lambda fold: _last(fold, None)))

    def _read(self, look: Callable[[Fold], T]) -> T:
        return self._store.local.read(self._key, self.session_id, look)

    def _write(self, plan: Plan, *, fresh: bool = False) -> None:
        self._store.local.write(self._key, self.session_id, plan, fresh=fresh)

    def _hydrate(self) -> None:
        self._store.hydrate(self._key, self.session_id, self._hydrate_timeout)

    async def _hydrate_soon(self) -> None:
        await self._store.hydrate_soon(self._key, self.session_id, self._hydrate_timeout)

    def _default_limit(self) -> int | None:
        settings = self.session_settings
        found = settings.get("limit") if isinstance(settings, dict) else settings.limit
        return found if found is None else int(found)

    def _popped(self, popped: _Pop) -> Any | None:
        if popped.item is None:
            return None
        self._emit(SessionEvent.MESSAGE_REMOVED, popped.item)
        return popped.item

    def _emit(self, event: SessionEvent, *arguments: Any) -> None:
        self._store.listeners.emit(self._key, self.session_id, event, *arguments)

    def _emit_each(self, event: SessionEvent, encoded: list[bytes]) -> None:
        if self._store.listeners.any_for(self._key):
            for item in jsonvalue.decode_each(encoded):
                self._emit(event, item)

    def _emit_changed(self, key: str) -> None:
        if self._store.listeners.any_for(self._key):
            self._emit(SessionEvent.METADATA_CHANGED, key, self.get(key))


class _Pop:
    """Plans the removal of the last item that fits, and keeps it."""

    def __init__(self, fits: Callable[[Any], bool]) -> None:
        self.item: Any = None
        self._fits = fits

    def __call__(self, fold: Fold) -> list[Step]:
        for item in reversed(fold.items):
            self.item = jsonvalue.decode(item.data)
            if self._fits(self.item):
                return [(REMOVE, encode_removal(item))]
        self.item = None
        return []


def _always(*steps: Step) -> Plan:
    return lambda _: steps


def _plan_clear(fold: Fold) -> list[Step]:
    return [(CLEAR, b"{}")] if fold.items else []


def _encode_items(items: Sequence[Any]) -> list[bytes]:
    if not isinstance(items, (list, tuple)):
        raise InvalidItem(f"items come as a list, not as {type(items).__name__}")
    encoded = []
    for place, item in enumerate(items):
        try:
            encoded.append(jsonvalue.encode(item))
        except InvalidItem as error:
            raise InvalidItem(f"item {place} of {len(items)}: {error}; nothing was stored") from None
    return encoded


def _last(fold: Fold, limit: int | None) -> list[bytes]:
    items = fold.items
    if limit is not None and limit >= 0:
        items = items[max(0, len(items) - limit) :]
    return [item.data for item in items]


def _is_item(_: Any) -> bool:
    return True


def _is_message(item: Any) -> bool:
    return isinstance(item, dict) and "role" in item and "content" in item


def _value(fold: Fold, key: str) -> bytes | None:
    register = fold.metadata.get(key)
    return None if register is None else register.value


def _countable(fold: Fold, key: str) -> bool:
    value = _value(fold, key)
    if value is not None and not is_number(jsonvalue.decode(value)):
        raise InvalidItem(f"metadata key {key!r} holds no number, so it can't be incremented")
    return True


def _checked_key(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidItem(f"a metadata key is a string, not {type(key).__name__}")
    return key


def _checked_rule(key: str, value: Any, rule: str) -> Rule:
    for known in RULES:
        if rule == known:
            break
    else:
        raise InvalidItem(f"no merge rule {rule!r}: take one of {', '.join(RULES)}")
    wanted = {"merge": dict, "union": list}.get(known, object)
    if not isinstance(value, wanted):
        raise InvalidItem(f"rule {known} of key {key!r} takes a {wanted.__name__}, not {type(value).__name__}")
    return known


def _encode_fields(fold: Fold, key: str, value: dict[str, Any]) -> bytes:
    """Only the fields that differ from what is visible: the others are left to whoever changed them."""
    standing = _value(fold, key)
    before = jsonvalue.decode(standing) if standing is not None else None
    fields = {field: jsonvalue.encode(content) for field, content in jsonvalue.decode(jsonvalue.encode(value)).items()}
    if not isinstance(before, dict):
        changed, gone = list(fields), []
    else:
        known = {field: jsonvalue.encode(content) for field, content in before.items()}
        changed = [field for field in fields if known.get(field) != fields[field]]
        gone = [field for field in known if field not in fields]
    body = b"{%b}" % b",".join(b"%b:%b" % (jsonvalue.encode(field), fields[field]) for field in changed)
    return encode_put(key, "merge", body, gone)
