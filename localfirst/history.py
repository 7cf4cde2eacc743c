"""The items of a session in order: the rules of append, remove and clear. Pure; nothing here knows of metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Final, TypeVar

import msgspec

from localfirst import jsonvalue
from localfirst.change import Change
from localfirst.errors import MalformedChange

PENDING: Final = 1 << 62
"""The `seq` of what is not admitted yet: after everything that is."""

Undo = Callable[[], None]
Number = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
"""In what comes from elsewhere: a counter, or a place."""

T = TypeVar("T")


class ItemId(msgspec.Struct, frozen=True):
    """What names an item everywhere: the change that appended it, and its place in that change."""

    origin: str
    counter: Number
    place: Number = msgspec.field(name="index")


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
    expires: int = 0
    """Unix milliseconds; 0: never."""

    @property
    def id(self) -> ItemId:
        return ItemId(self.origin, self.counter, self.place)


class _Cut(msgspec.Struct, frozen=True, gc=False):
    """Undoes an append. Each pending change keeps what undoes it: this is smaller than a function, and made sooner."""

    items: list[Item]
    start: int
    end: int

    def __call__(self) -> None:
        del self.items[self.start : self.end]


class Clear(msgspec.Struct):
    """Body of a clear."""

    seen: dict[str, Number]
    """The last change of each replica that its author had folded; that of the author itself need not be told."""


_id_decoder = msgspec.json.Decoder(ItemId)
_clear_decoder = msgspec.json.Decoder(Clear)


def encode_removal(item: Item) -> bytes:
    """Body of a remove."""
    return msgspec.json.encode(item.id)


def encode_clear(seen: Mapping[str, int]) -> bytes:
    """Body of a clear."""
    return msgspec.json.encode(Clear(dict(seen)))


def decode_removal(body: bytes) -> ItemId:
    """The item that a remove names."""
    return decode_body(_id_decoder, body, "a remove names no item")


def decode_clear(body: bytes) -> dict[str, int]:
    """What the author of a clear had seen."""
    return decode_body(_clear_decoder, body, "a clear does not tell what it clears").seen


def items_in(change: Change, seq: int, expires: int = 0) -> list[Item]:
    """The items of an append."""
    origin, counter, time = change.origin, change.counter, change.time
    bodies = jsonvalue.split(change.body)
    return [Item(origin, counter, place, seq, time, data, expires) for place, data in enumerate(bodies)]


def cleared_by(change: Change) -> dict[str, int]:
    """What a clear clears: by origin, the counter of the last change that its author had seen."""
    return greatest(decode_clear(change.body), {change.origin: change.counter - 1})


def greatest(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The greater of two counters of each origin."""
    return {origin: max(one.get(origin, 0), other.get(origin, 0)) for origin in (*one, *other)}


class History:
    """Items that can be appended, removed and cleared. Every step returns how to undo it exactly.

    A log that was rebuilt after a loss may hold a remove or a clear before what it takes away. Both are remembered, so
    that this is hidden as soon as it comes.
    """

    def __init__(self) -> None:
        self.items: list[Item] = []
        self.removed_early: set[ItemId] = set()
        """Items that were removed and have not come yet."""
        self.cleared: Mapping[str, int] = {}
        """By origin, the counter up to which all items are cleared, those too that have not come yet."""

    def append(self, change: Change, seq: int, expires: int = 0) -> tuple[list[Item], Undo]:
        """Add the items of an append; returns those that became visible."""
        items = items_in(change, seq, expires)
        if self.cleared and change.counter <= self.cleared.get(change.origin, 0):
            items = []
        if self.removed_early:
            items = [item for item in items if item.id not in self.removed_early]
        start = len(self.items)
        self.items += items
        return items, _Cut(self.items, start, start + len(items))

    def insert(self, place: int, items: list[Item]) -> Undo:
        """Put items before the one that is at a place, but for those that were taken away before they came."""
        cleared, removed = self.cleared, self.removed_early
        if cleared or removed:
            items = [item for item in items if item.counter > cleared.get(item.origin, 0) and item.id not in removed]
        self.items[place:place] = items
        return partial(self.items.__delitem__, slice(place, place + len(items)))

    def remove(self, change: Change, appended: Callable[[str], int]) -> tuple[Item | None, Undo]:
        """Remove the item that a remove names; None if it is gone already.

        `appended(origin)` is the highest counter of that origin that was folded.
        """
        target = decode_removal(change.body)
        index = self._find(target)
        if index is not None:
            item = self.items.pop(index)
            return item, partial(self.items.insert, index, item)
        if appended(target.origin) >= target.counter or target in self.removed_early:
            return None, _nothing
        self.removed_early.add(target)
        return None, partial(self.removed_early.discard, target)

    def clear(self, change: Change) -> tuple[int, Undo]:
        """Remove what the author of a clear had seen; returns how many."""
        before, cleared_before = self.items, self.cleared
        cleared = greatest(cleared_before, cleared_by(change))
        self.items = [item for item in before if item.counter > cleared.get(item.origin, 0)]
        self.cleared = cleared
        return len(before) - len(self.items), partial(self._put_back, before, cleared_before)

    def keep(self, fits: Callable[[Item], bool]) -> Undo:
        """Remove the items that don't fit."""
        before = self.items
        self.items = [item for item in before if fits(item)]
        return partial(self._put_back, before, self.cleared)

    def _put_back(self, items: list[Item], cleared: Mapping[str, int]) -> None:
        self.items, self.cleared = items, cleared

    def _find(self, target: ItemId) -> int | None:
        """Nearly every removed item is near the end, so look from there."""
        for index in range(len(self.items) - 1, -1, -1):
            item = self.items[index]
            if item.counter == target.counter and item.place == target.place and item.origin == target.origin:
                return index
        return None


def decode_body(decoder: msgspec.json.Decoder[T], body: bytes, problem: str) -> T:
    """The body of a change. Raises `MalformedChange`, which says what the problem is."""
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedChange(f"{problem}: {error}") from error


def _nothing() -> None:
    return None
