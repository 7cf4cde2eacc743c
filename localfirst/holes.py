"""Changes made here of which some are missing on disk: their slots are marked, so that all else keeps its place.

A slot without content (an empty row) is one whose change was given up. What stands behind it can't be sent under its
number, for the central store takes no gap. So replication reads the log anew when it meets such a slot, learns there
whether the missing change had been admitted, and gives the rest new numbers: see `sync.resync`.
"""

from __future__ import annotations

import os
from typing import Final

import msgspec

from localfirst.change import Change, decode_change, derived_id
from localfirst.errors import MalformedChange
from localfirst.records import CHANGE, VOLUME_BYTES, Head, Rest, SessionKey, number, span
from localfirst.rows import Rows

MOST_MISSING: Final = 1_000_000
"""Changes between two others. A slot beyond is forged, or was made up by a broken disk."""


def slots_above(rows: Rows, key: SessionKey, after: int) -> dict[int, bytes]:
    """The changes made here in slots above one, in order; empty: the slot was given up."""
    found = rows.range(*span(CHANGE + key, after))
    return {int.from_bytes(row_key[-8:], "big"): value for row_key, value in found}


def first_hole(slots: dict[int, bytes], after: int) -> int | None:
    """The first slot above one whose change is missing, though it or a later one was taken."""
    return next((slot for slot in range(after + 1, max(slots, default=after) + 1) if not slots.get(slot)), None)


def lack_of(rest: Rest, head: Head, after_seq: int, after_slot: int) -> str:
    """What an index must have hidden of a session that is read after a seq and a slot; empty: nothing, as far as its
    numbers tell. They don't tell of the last changes that wait."""
    if rest.whole and head.floor and not head.stub and rest.checkpoint is None:
        return "the checkpoint"
    for page in rest.pages:
        if page.first != after_seq + 1:
            break
        after_seq += page.count
    if after_seq != head.seq:
        return f"entry {after_seq + 1} of the central log"
    base = max(head.bottom, head.slot(head.first) - 1, after_slot)
    slots = [slot for slot, _ in rest.changes if slot > base]
    last = max(slots[-1] if slots else base, head.acked)
    return f"a change up to {last} made here" if last - base != len(slots) else ""


def mark_holes(rows: Rows, key: SessionKey, after: int) -> int:
    """Mark the slots above one that have no row; returns how many. In a transaction."""
    slots = slots_above(rows, key, after)
    before = after
    for slot in sorted(slots):
        if slot - before > MOST_MISSING:  # Nothing that was written here: it would take all that is left of the disk.
            rows.delete_range(*span(CHANGE + key, slot - 1))
            slots = {each: value for each, value in slots.items() if each < slot}
            break
        before = slot
    missing = [slot for slot in range(after + 1, max(slots, default=after)) if slot not in slots]
    for slot in missing:
        rows.insert(CHANGE + key + number(slot), b"")
    return len(missing)


def head_of_changes(rows: Rows, key: SessionKey, head: Head) -> Head | None:
    """The head of a session that has lost it, made from what its changes tell; None if it has none.

    `head`: what a new one would be. Whatever was admitted is to be found out, and how long the session is to live: what
    is pending may be all that expired, or others may have renewed it.
    """
    slots = slots_above(rows, key, 0)
    last = max(slots, default=0)
    if last and not slots[last]:  # What is below was given up: its life ended, or all that was pending was dropped.
        return unread(msgspec.structs.replace(head, origin=derived_id(head.origin, number(last)), offset=last))
    changes = {slot: change for slot, value in slots.items() if (change := _decoded(value)) is not None}
    if not changes:
        return None
    last = max(changes)
    origin, offset = changes[last].origin, last - changes[last].counter
    first = min(slot for slot, change in changes.items() if (change.origin, slot - change.counter) == (origin, offset))
    head = msgspec.structs.replace(head, origin=origin, offset=offset, first=first - offset)
    return unread(head)


def unread(head: Head) -> Head:
    """The head of a session that is to be read anew: the same changes made here, and nothing of the central log."""
    base = max(head.bottom, head.slot(head.first) - 1)
    return msgspec.structs.replace(
        Head(head.namespace, head.session_id),
        origin=head.origin,
        offset=head.offset,
        first=head.first,
        store=head.store,
        generation=head.generation,
        acked=base,
        epoch=head.epoch + 1,
        volume=os.urandom(VOLUME_BYTES),
        bottom=base,
        lifetime=head.lifetime,
        expires_at=head.expires_at,
        ending=head.ending,
    )


def _decoded(value: bytes) -> Change | None:
    try:
        return decode_change(value) if value else None
    except MalformedChange:
        return None
