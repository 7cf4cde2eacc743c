"""Twins: directories that make changes under one name, because one is a copy of the other.

Which changes made here have a name that a twin's has in the central log, and how they are named instead.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

from localfirst import jsonvalue
from localfirst.change import APPEND, FORK, Change, branch_id, derived_id, encode_change
from localfirst.checkpoint import MARKED, State, hash_of
from localfirst.fold import Fold
from localfirst.history import Item, ItemId
from localfirst.records import Head, Rename, SessionKey
from sync.retry import patiently
from sync.site import Site


def twin_below(site: Site, key: SessionKey, head: Head, state: State, *, same_life: bool) -> int | None:
    """The first slot above what is known to be admitted whose change is not surely the one that was folded into a
    state. `same_life`: what is folded is of the life of the session that is followed here."""
    log, codec = site.log, site.codec(head)
    counter, mark = state.fold.counter(head.origin), state.marks.get(head.origin)
    # What another life of the log took proves nothing of this one: a copy of this directory may have begun it.
    acked = head.acked if same_life else 0
    known = max(acked, head.bottom, head.slot(head.first) - 1)
    if head.slot(counter) <= known:
        return None
    # Twins have the same changes up to some place: the last that is the same proves all before it.
    for each in range(counter, max(head.counter(known), counter - MARKED), -1):
        found = log.change(key, head.slot(each))
        if found is not None and mark is not None and mark.hash_at(each) == hash_of(encode_change(codec.decode(found))):
            return None if each == counter else head.slot(each + 1)
    shown = state.fold.each_item()
    for slot in range(known + 1, head.slot(counter) + 1):
        found = log.change(key, slot)
        if found is None or not _is_shown(codec.decode(found), state.fold, shown):
            return slot
    return None


def _is_shown(change: Change, fold: Fold, items: dict[ItemId, Item]) -> bool:
    """Whether an item of a change is among those that are shown, or the branch that it made."""
    if change.kind == FORK:
        line = fold.branches.get(branch_id(change.origin, change.counter))
        return line is not None and line.time == change.time
    if change.kind != APPEND:
        return False
    for place, data in enumerate(jsonvalue.split(change.body)):
        item = items.get(ItemId(change.origin, change.counter, place))
        if item is not None and item.data == data:
            return True
    return False


async def rename_of(site: Site, key: SessionKey, head: Head, twin: int | None, same: Collection[int]) -> Rename | None:
    """How the changes from a slot on are to be named, because another directory has taken their counters.

    The new name follows from the first of them: if this directory was copied with them in it, the copy gives them the
    same names, and they are there once.
    """
    if twin is None:
        return None
    current = await patiently(site.identity.replica_id)
    if current == head.origin:
        current = await patiently(partial(site.identity.renew, current))
    first = await patiently(partial(site.log.change, key, twin))
    name = current if first is None else derived_id(head.origin, first)
    return Rename(twin, name, 1, same=frozenset(same))
