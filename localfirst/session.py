"""The session: one conversation and its metadata, as an agent sees it.

Every call works on local disk alone and takes microseconds; replication happens behind. Most calls are plain
functions; the four of the OpenAI Agents SDK's `Session` protocol are coroutines, and a `Session` passes for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

from localfirst import jsonvalue, plans, windows
from localfirst.change import APPEND, PUT
from localfirst.clock import moment
from localfirst.errors import InvalidItem
from localfirst.events import SessionEvent
from localfirst.export import read_export, write_export
from localfirst.fold import Fold
from localfirst.handle import Handle
from localfirst.history import Item
from localfirst.metadata import (
    OWN,
    Conflict,
    Rule,
    encode_put,
    is_number,
)
from localfirst.owner import OWNER, as_owner
from localfirst.replacing import Replace, Snapshot
from localfirst.search import Finder, Match, first, search_session
from localfirst.status import Branch
from localfirst.view import Step


class Session(Handle):
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

    # The OpenAI Agents SDK's protocol.

    async def add_items(self, items: Sequence[Any]) -> None:
        """Add items at the end, all of them or none. Raises `InvalidItem` for what JSON can't hold, and `ItemTooLarge`
        for more than 16 MiB in one item or 64 MiB in one call or turn, as JSON; so does whatever writes.

        As all coroutines that write: if it is cancelled before it began to write, nothing is stored; else the write is
        finished first, events tell of it, and then `CancelledError` is raised. If the disk refuses it then, nothing is
        stored, and that error is its `__cause__`.

        >>> asyncio.run(session.add_items([{"role": "user", "content": "Hello"}, "any JSON value"]))
        """
        encoded = plans.encode_items(items)
        steps = [(APPEND, jsonvalue.join(encoded))] if encoded else []
        then = partial(self._emit_each, SessionEvent.MESSAGE_ADDED, encoded)
        await self._access.write_soon(plans.always(*steps), then=then)

    async def get_items(self, limit: int | None = None, *, whole_turns: bool | None = None) -> list[Any]:
        """The items, oldest first, as fresh objects. `limit`: only the last so many; 0: none; negative: all.

        `whole_turns`: as many of the newest turns as have so many items between them, and the newest at least, however
        long: never an output without its call, nor an answer without its question. None: as the session was made, where
        the limit is that of its settings; else no.

        >>> asyncio.run(session.add_items([{"role": "user", "content": "2 + 3?"}, "a call", "its output"]))
        >>> asyncio.run(session.get_items(limit=1))
        ['its output']
        >>> asyncio.run(session.get_items(limit=1, whole_turns=True))
        [{'role': 'user', 'content': '2 + 3?'}, 'a call', 'its output']
        """
        if self._access.replicates:
            await self._access.hydrate_soon()
        whole = whole_turns
        if self.session_settings is not None:
            own = self._default_limit()
            limit = own if limit is None else limit
            whole = self.whole_turns and limit == own if whole is None else whole
        if limit is None or limit < 0:
            whole = limit = None
        look = partial(plans.last, limit=None if whole else limit, branch=await self._access.branch_soon())
        found = await self._access.read_soon(look)
        return windows.whole_turns(found, limit) if whole and limit is not None else jsonvalue.decode_each(found)

    async def pop_item(self) -> Any | None:
        """Remove the last item and return it; None if there is none.

        Concurrent calls of tasks, threads and processes on one directory never return one item. Two devices that do not
        know of each other may: then it is removed once. If a call is cancelled while it writes, the item is removed
        (see `add_items`), and `MESSAGE_REMOVED` is told with it.

        >>> asyncio.run(session.add_items(["a", "b"]))
        >>> asyncio.run(session.pop_item()), len(session)
        ('b', 1)
        """
        return await self._pop(plans.is_item)

    async def _pop(self, fits: Callable[[Any], bool]) -> Any | None:
        """The last item that fits. What `fits` raises leaves everything as it is."""
        await self._access.hydrate_soon()
        popped = plans.Pop(fits, await self._access.branch_soon())
        await self._access.write_soon(popped, fresh=True, then=partial(self._emit_popped, popped))
        return popped.item

    async def clear_session(self) -> None:
        """Remove all items that are visible here; metadata stays. What others added unseen survives.

        >>> asyncio.run(session.clear_session()); len(session)
        0
        """
        plan = partial(plans.clear, branch=await self._access.branch_soon())
        await self._access.write_soon(plan, fresh=True, then=partial(self._emit, SessionEvent.SESSION_CLEARED))

    async def _get_compaction_snapshot(
        self, limit: int, *, prune_prefix: Callable[[Any], bool] | None = None
    ) -> Snapshot | None:
        """What the OpenAI Agents SDK looks for to compact a history in one step; None where a subclass has items of
        its own making, which it would pass by. `prune_prefix`: which of the oldest items are removed on the way."""
        if not self._keeps_items_as_they_are():
            return None
        await self._access.hydrate_soon()
        branch = await self._access.branch_soon()
        items = await self._access.read_soon(lambda fold: list(fold.on(branch(fold))))
        seen = items[max(0, len(items) - limit) :]

        async def replace_suffix(start: int, output: list[Any]) -> bool:
            return start < len(seen) and await self._replace(seen[start:], output, prune_prefix)

        return Snapshot(jsonvalue.decode_each([item.data for item in seen]), len(seen) == len(items), replace_suffix)

    async def _atomic_replace_items(self, items: list[Any]) -> bool:
        """Replace the whole history in one step; False where a subclass has items of its own making."""
        return self._keeps_items_as_they_are() and await self._replace(None, items)

    async def _replace(
        self, seen: Sequence[Item] | None, new: Sequence[Any], expired: Callable[[Any], bool] | None = None
    ) -> bool:
        encoded = plans.encode_items(new)
        plan = Replace(seen, encoded, await self._access.branch_soon(), expired)
        async with self.turn():
            await self._access.write_soon(plan, fresh=True)
        if plan.done:
            self._emit_each(SessionEvent.MESSAGE_ADDED, encoded)
        return plan.done

    def _keeps_items_as_they_are(self) -> bool:
        kind = type(self)
        return kind.get_items is Session.get_items and kind.add_items is Session.add_items

    # Messages: the items that have a role and a content.

    def add_message(self, role: str, content: Any, **extra: Any) -> dict[str, Any]:
        """Add the item `{"role": role, "content": content, **extra}` and return it. Raises `InvalidItem`.

        >>> session.add_message("user", "Hello", channel="web")
        {'role': 'user', 'content': 'Hello', 'channel': 'web'}
        """
        item = {"role": role, "content": content, **extra}
        encoded = plans.encode_items([item])
        self._access.write(plans.always((APPEND, jsonvalue.join(encoded))))
        self._emit_each(SessionEvent.MESSAGE_ADDED, encoded)
        return item

    def get_messages(self, limit: int | None = None) -> list[dict[str, Any]]:
        """The items that have a role and a content, oldest first. `limit`: only the last so many; 0: none.

        >>> _ = session.add_message("user", "Hello")
        >>> session.get_messages()
        [{'role': 'user', 'content': 'Hello'}]
        """
        messages = [item for item in self._items() if plans.is_message(item)]
        return messages if limit is None or limit < 0 else messages[len(messages) - min(limit, len(messages)) :]

    def pop_message(self) -> dict[str, Any] | None:
        """Remove the last message and return it; None if there is none. Items that are no messages stay.

        >>> _ = session.add_message("user", "Helo")
        >>> session.pop_message()
        {'role': 'user', 'content': 'Helo'}
        """
        self._access.hydrate()
        popped = plans.Pop(plans.is_message, self._access.branch())
        self._access.write(popped, fresh=True)
        self._emit_popped(popped)
        message: dict[str, Any] | None = popped.item
        return message

    def clear(self) -> None:
        """As `clear_session`, as a plain function.

        >>> session.clear(); list(session)
        []
        """
        self._access.write(partial(plans.clear, branch=self._access.branch()), fresh=True)
        self._emit(SessionEvent.SESSION_CLEARED)

    # Metadata.

    def get(self, key: str, default: Any = None) -> Any:
        """The value of a metadata key, as a fresh object, or the default.

        >>> session.get("name", "nobody")
        'nobody'
        """
        self._access.hydrate()
        value = self._access.read(lambda fold: plans.value_of(fold, key))
        return default if value is None else jsonvalue.decode(value)

    def set(self, key: str, value: Any, merge: Rule | None = None) -> None:
        """Set a metadata key. `merge` says what becomes of writes made elsewhere without knowledge of this one:

        `"last"`: the later one stands. `"first"`: sets only what is not set. `"merge"`: dicts, field by field, the
        later write of a field stands. `"union"`: lists as sets. `"max"`, `"min"`: the greater, the lesser. None: what
        `resolvers` of `localfirst.open` says of the key, else `"last"`. Raises `InvalidItem` for what JSON can't hold,
        and for a value that the rule can't merge. `docs/metadata.md` has each rule in detail.

        >>> session.set("preferences", {"theme": "dark"}, merge="merge")
        >>> session.get("preferences")
        {'theme': 'dark'}
        """
        key = plans.checked_key(key)
        wanted, ask = self._store._local.resolvers.rule(key) if merge is None else (merge, False)
        rule = plans.checked_rule(key, value, wanted)
        if rule == "merge":
            self._access.write(plans.merge(key, value), fresh=True)
        else:
            put = plans.always((PUT, encode_put(key, rule, plans.encode_value(key, value), ask=ask)))
            self._access.write(put, fresh=rule != "last")  # What the others make of it depends on what is there.
        self._emit_changed(key)

    def delete(self, key: str) -> None:
        """Delete a metadata key; fine if there is none.

        >>> session.delete("name"); session.metadata()
        {}
        """
        _, ask = self._store._local.resolvers.rule(plans.checked_key(key))
        self._access.write(plans.delete(key, ask=ask), fresh=True)
        self._emit_changed(key)

    def increment(self, key: str, by: float = 1) -> Any:
        """Add to a number, from 0 if the key is not set, and return the sum. Increments made elsewhere add up.

        Raises `InvalidItem` if the key holds something else.

        >>> session.increment("turns"), session.increment("turns", by=2)
        (1, 3)
        """
        if not is_number(by):
            raise InvalidItem(f"increment adds a number, not {type(by).__name__}")
        self._access.hydrate()
        self._access.write(plans.increment(plans.checked_key(key), by), fresh=True)
        self._emit_changed(key)
        return self.get(key)

    @property
    def owner(self) -> str | None:
        """Whose the session is; None: nobody's, as far as is known here.

        It is the metadata key "owner", so it replicates, merges and is exported as any other. `store.session(owner=)`
        sets it with the first write of that object, unless it is the owner already, and again when a write finds none.
        Setting it raises `ConfigurationError` for what is no string; `delete("owner")` takes it away.

        >>> session.owner = "alice"
        >>> session.owner, [info.session_id for info in store.sessions(owner="alice")]
        ('alice', ['user-123'])
        """
        return as_owner(self.get(OWNER))

    @owner.setter
    def owner(self, owner: str) -> None:
        claim = self._claim(owner, made=True)
        if self._access.claim is not None:
            self._access.claim = claim
        self.set(OWNER, owner)

    def metadata(self) -> dict[str, Any]:
        """All metadata, as fresh objects, in the order of the keys.

        >>> session.set("name", "Alice"); session.metadata()
        {'name': 'Alice'}
        """
        self._access.hydrate()
        return {key: jsonvalue.decode(value) for key, value in self._access.read(plans.metadata).items()}

    def conflicts(self) -> list[Conflict]:
        """The newest conflicts on metadata (100 at most), oldest first: both values, the winner, the rule.

        >>> session.conflicts()
        []
        """
        self._access.hydrate()
        return self._access.read(lambda fold: [each for each in fold.conflicts if not each.key.startswith(OWN)])

    # Branches.

    def branch(self, name: str, at_turn: int | None = None) -> str:
        """Fork the current branch: make another with the same items, that goes on by itself. Returns its name.

        Nothing is copied, whatever the length. `at_turn`: with the items before that turn only; turns begin with the
        messages of the user, the first is 1. The session stays on its branch: `switch` to go to the new one. Metadata
        is of all branches alike. If another replica has a branch of this name, made without knowledge of this one, that
        of the two which reaches the central store later is called `name@` and the first 6 characters of its replica's
        id. Raises `ConfigurationError` if there is a branch of this name here, or no such turn.

        >>> _ = session.add_message("user", "Hello"), session.add_message("assistant", "Hi!")
        >>> session.branch("draft"), session.branch("from scratch", at_turn=1)
        ('draft', 'from scratch')
        >>> session.switch("draft"); _ = session.add_message("user", "Another question"); len(session)
        3
        >>> session.switch("main"); len(session)
        2
        """
        self._access.hydrate()
        plan = plans.fork(plans.checked_name(name), plans.checked_turn(at_turn), self._access.branch())
        self._access.write(plan, fresh=True)
        return name

    def branches(self) -> list[Branch]:
        """All branches, main first, then the oldest.

        >>> _ = session.branch("draft")
        >>> [(branch.name, branch.items, branch.current) for branch in session.branches()]
        [('main', 0, True), ('draft', 0, False)]
        """
        self._access.hydrate()
        on_branch = self._access.branch()

        def look(fold: Fold) -> list[Branch]:
            here = on_branch(fold)
            return [
                Branch(line.name, len(line.history.items), moment(line.time), line.id == here)
                for line in fold.branches.shown()
            ]

        return self._access.read(look)

    def switch(self, name: str) -> None:
        """Go to a branch: from here on, all calls for items and messages mean that one.

        This object goes, and it is remembered in this directory where the next one for this session begins; others that
        live stay where they are. Raises `ConfigurationError` if there is no such branch. If another replica deletes the
        branch on which an object is, its calls raise that, too, until it is switched; a new object begins on main then.

        >>> _ = session.branch("draft"); session.switch("draft"); _ = session.add_message("user", "Hello")
        >>> len(session), len(store.session("user-123")), len(store.session("user-123", branch="main"))
        (1, 1, 0)
        """
        self._access.hydrate()
        self._access.standing.switch(*self._access.read(lambda fold: plans.branch_of(fold, name)))

    def delete_branch(self, name: str) -> None:
        """Delete a branch, everywhere. Those that were forked from it stay as they are.

        What others write on it without knowing that is gone with it. Raises `ConfigurationError` for main, the current
        branch, and one that is not there.

        >>> _ = session.branch("draft"); session.delete_branch("draft"); len(session.branches())
        1
        """
        self._access.hydrate()
        self._access.write(plans.drop(name, self._access.branch()), fresh=True)

    # Everything at once.

    def export(self) -> dict[str, Any]:
        """Items of the current branch and metadata as a JSON-ready dict, for `import_data` of any session or store.

        >>> sorted(session.export())
        ['format', 'items', 'metadata', 'session_id', 'version']
        """
        self._access.hydrate()
        branch = self._access.branch()
        items, values = self._access.read(lambda fold: (plans.last(fold, None, branch), plans.metadata(fold)))
        return write_export(self.session_id, jsonvalue.decode_each(items), values)

    def import_data(self, data: Any) -> None:
        """Add the items (to the current branch) and set the metadata of an export, all or nothing; what is here stays.

        Raises `InvalidItem` for anything but an export, and stores nothing then.

        >>> _ = session.add_message("user", "Hello")
        >>> copy = store.session("copy"); copy.import_data(session.export()); copy.get_messages()
        [{'role': 'user', 'content': 'Hello'}]
        """
        items, metadata = read_export(data)
        encoded = plans.encode_items(items)
        steps: list[Step] = [(APPEND, jsonvalue.join(encoded))] if encoded else []
        for key, value in metadata.items():
            steps.append((PUT, encode_put(plans.checked_key(key), "last", plans.encode_value(key, value))))
        self._access.write(plans.always(*steps))
        self._emit_each(SessionEvent.MESSAGE_ADDED, encoded)
        for key in metadata:
            self._emit_changed(key)

    def search(self, text: str, limit: int | None = None) -> Iterator[Match]:
        """The items of the current branch in which a text stands, the newest first. `limit`: so many at most.

        Upper and lower case are alike (`str.casefold`). What is looked through are the contents of messages, and names,
        arguments and outputs of tool calls. Raises `ConfigurationError` for an empty text. See also `Store.search`.

        >>> _ = session.add_message("user", "Where is my Luggage?")
        >>> [(match.index, match.excerpt) for match in session.search("luggage")]
        [(0, 'Where is my Luggage?')]
        """
        finder = Finder(text)
        self._access.hydrate()
        look = partial(search_session, finder, self.session_id, self._access.branch())
        return first(self._access.read(look), limit)

    # Python's own protocols.

    def __len__(self) -> int:
        self._access.hydrate()
        branch = self._access.branch()
        return self._access.read(lambda fold: len(fold.on(branch(fold))))

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items())

    # Inside.

    def _items(self) -> list[Any]:
        self._access.hydrate()
        return jsonvalue.decode_each(self._access.read(partial(plans.last, limit=None, branch=self._access.branch())))

    def _default_limit(self) -> int | None:
        settings = self.session_settings
        found = settings.get("limit") if isinstance(settings, dict) else settings.limit
        return found if found is None else int(found)

    def _emit_popped(self, popped: plans.Pop) -> None:
        if popped.item is not None:
            self._emit(SessionEvent.MESSAGE_REMOVED, popped.item)
