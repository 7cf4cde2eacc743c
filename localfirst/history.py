"""The items of a session in order: the rules of append, remove and clear. Pure; nothing here knows of metadata."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec

from localfirst import jsonvalue
from localfirst.change import Change
from localfirst.errors import MalformedChange

PENDING: Final = 1 << 62
"""The `seq` of what is not admitted yet: after everything that is."""

Undo = Callable[[], None]


class ItemId(msgspec.Struct, frozen=True):
    """What names an item everywhere: the change that appended it, and its place in that change."""

    origin: str
    counter: int
    place: int = msgspec.field(name="index")


class Item(msgspec.Struct, frozen=True, gc=False):
    """One visible item, still encoded."""

    origin: str
    counter: int
    place: int
    """0, 1, 2, … in its change."""
    seq: int
    time: int
    """Of its change: hybrid logical clock."""
    data: bytes
    """JSON."""

    @property
    def id(self) -> ItemId:
        return ItemId(self.origin, self.counter, self.place)


_id_decoder = msgspec.json.Decoder(ItemId)


def encode_removal(item: Item) -> bytes:
    """Body of a remove."""
    return msgspec.json.encode(item.id)


class History:
    """Items that can be appended, removed and cleared. Every step returns how to undo it exactly."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._removed_early: set[ItemId] = set()

    def append(self, change: Change, seq: int) -> tuple[list[Item], Undo]:
        """Add the items of an append; returns those that became visible."""
        bodies = jsonvalue.split(change.body)
        origin, counter, time = change.origin, change.counter, change.time
        items = [Item(origin, counter, place, seq, time, data) for place, data in enumerate(bodies)]
        if self._removed_early:
            items = [item for item in items if item.id not in self._removed_early]
        start = len(self.items)
        self.items += items
        return items, partial(self.items.__delitem__, slice(start, start + len(items)))

    def remove(self, change: Change, appended: Callable[[str], int]) -> tuple[Item | None, Undo]:
        """Remove the item that a remove names; None if it is gone already.

        `appended(origin)` is the highest counter of that origin that was folded. A log that was rebuilt after a loss
        may hold a remove before its append; then the item is hidden as soon as it comes.
        """
        target = _decode_id(change.body)
        index = self._find(target)
        if index is not None:
            item = self.items.pop(index)
            return item, partial(self.items.insert, index, item)
        if appended(target.origin) >= target.counter or target in self._removed_early:
            return None, _nothing
        self._removed_early.add(target)
        return None, partial(self._removed_early.discard, target)

    def clear(self, change: Change) -> tuple[int, Undo]:
        """Remove what the author of a clear had seen; returns how many."""
        before = self.items
        self.items = [
            item
            for item in before
            if item.seq > change.base and not (item.origin == change.origin and item.counter < change.counter)
        ]
        return len(before) - len(self.items), partial(self._put_back, before)

    def _put_back(self, items: list[Item]) -> None:
        self.items = items

    def _find(self, target: ItemId) -> int | None:
        """Nearly every removed item is near the end, so look from there."""
        for index in range(len(self.items) - 1, -1, -1):
            item = self.items[index]
            if item.counter == target.counter and item.place == target.place and item.origin == target.origin:
                return index
        return None


def _decode_id(body: bytes) -> ItemId:
    try:
        return _id_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise MalformedChange(f"a remove names no item: {error}") from error


def _nothing() -> None:
    return None
