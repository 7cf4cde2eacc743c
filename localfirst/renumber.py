"""Pending changes under new names: for a directory that turned out to have a twin, or without some of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from localfirst.change import CLEAR, END, REMOVE, Change
from localfirst.history import ItemId, decode_clear, decode_removal, encode_clear


def renumber(changes: Sequence[Change], origin: str, first: int, kept: int, same: Collection[int] = ()) -> list[Change]:
    """The same changes by `origin`, numbered from `first` on, with what they say of each other put right.

    `changes` are of one origin and above `kept`: those up to it stay as they are, and those in `same`. One that is
    missing among the rest was given up, and so is whatever removed its items.

    >>> old = [Change("a", 5, 0, 0, "main", "append", b'["x"]'), Change("a", 6, 0, 0, "main", "append", b'["y"]')]
    >>> [(change.origin, change.counter) for change in renumber(old, "b", 1, kept=4)]
    [('b', 1), ('b', 2)]
    """
    counters = {change.counter: counter for counter, change in enumerate(changes, start=first)}
    return [
        msgspec.structs.replace(
            change,
            origin=origin,
            counter=counters[change.counter],
            **_renamed(change, origin, {**counters, **dict.fromkeys(same, 0)}, kept),
        )
        for change in changes
    ]


def _renamed(change: Change, origin: str, counters: dict[int, int], kept: int) -> dict[str, object]:
    """`counters`: by old ones; 0: it keeps its name."""
    if (origin, counters[change.counter]) == (change.origin, change.counter):
        return {}  # Nothing before it has another name either. It may be in the central log as it is.
    if change.kind == REMOVE:
        target = decode_removal(change.body)
        if target.origin != change.origin or target.counter <= kept or counters.get(target.counter) == 0:
            return {}
        if target.counter not in counters:
            return {"kind": END, "body": b"{}", "turn": 0}
        named = ItemId(origin, counters[target.counter], target.place)
        return {"body": msgspec.json.encode(named)}
    if change.kind == CLEAR:
        seen = decode_clear(change.body)
        return {"body": encode_clear({**seen, change.origin: kept})}
    return {}
