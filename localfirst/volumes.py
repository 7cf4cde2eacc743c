"""Volumes: the central log of a session as it is kept on disk, pages above a checkpoint.

A session has one volume; its head names it. What takes more than one small transaction is put into another one row by
row, and taken by changing the head. A volume that is no longer used, or was never finished, is swept in small steps.
"""

from __future__ import annotations

import os
import time
from typing import Final

from localfirst.change import decode_change
from localfirst.clock import clamp
from localfirst.decoding import decode_page, encode
from localfirst.log import Log
from localfirst.records import (
    CHANGE,
    GARBAGE,
    KEY_BYTES,
    PAGE,
    PART,
    VOLUME_BYTES,
    Head,
    Kept,
    Page,
    SessionKey,
    exactly,
    number,
    slot_key,
    span,
)

PART_BYTES: Final = 1 << 18
"""Of a checkpoint, in one row and one transaction."""
SWEEP_ROWS: Final = 200
"""How many rows are removed in one transaction."""
STALE_SECONDS: Final = 3600.0
"""After which a volume that was never finished is removed."""

_MAKING: Final = b"making"
_PAGES_AT_ONCE: Final = 8


def begin(log: Log, key: SessionKey) -> bytes:
    """Begin a new volume for a session, and return its name."""
    volume = os.urandom(VOLUME_BYTES)
    log.rows.insert(GARBAGE + key + volume, _MAKING)
    return volume


def add_page(log: Log, key: SessionKey, volume: bytes, page: Page) -> None:
    """Put a page into a volume that is being made."""
    if page:
        log.rows.insert(PAGE + key + volume + number(page.first), encode(page))


def add_checkpoint(log: Log, key: SessionKey, volume: bytes, part: int, data: bytes) -> None:
    """Put a part of a checkpoint (at most `PART_BYTES`) into a volume that is being made."""
    log.rows.insert(PART + key + volume + number(part), data)


def forget(log: Log, key: SessionKey, volume: bytes) -> None:
    """Give up a volume that was begun."""
    log.rows.put(GARBAGE + key + volume, b"")


def pages(log: Log, key: SessionKey, volume: bytes, after: int = -1, limit: int = _PAGES_AT_ONCE) -> list[Page]:
    """The next pages of a volume, that begin after a seq: a few, none at the end."""
    rows = log.rows.range(*span(PAGE + key + volume, after), limit)
    return [decode_page(log.rows, value) for _, value in rows]


def page_ends(log: Log, key: SessionKey, head: Head) -> list[int]:
    """The seqs of the last entries of a session's pages."""
    firsts = [int.from_bytes(row_key[-8:], "big") for row_key in log.rows.keys(*span(PAGE + key + head.volume))]
    return [first - 1 for first in firsts[1:]] + [head.seq] if firsts else []


def entries(log: Log, key: SessionKey, page: Page) -> list[Kept]:
    """The entries in a page, in order, with those of ours from their own rows."""
    entries = [Kept(each.seq, each.admitted_at, each.data, each.add) for each in page.foreign]
    for own in page.own:
        changes = log.run(key, own.slot - 1, own.count)
        if len(changes) < own.count:
            raise log.rows.damaged(f"lacks a change made here, which was admitted at {own.seq}")
        entries += [Kept(own.seq + place, own.admitted_at, data, b"") for place, data in enumerate(changes)]
    return sorted(entries)


def newest(log: Log, key: SessionKey, head: Head) -> int:
    """The timestamp of the last change in the pages of a session; 0 if it has none."""
    rows = log.rows.range(*span(PAGE + key + head.volume), limit=1, reverse=True)
    last = entries(log, key, decode_page(log.rows, rows[0][1]))[-1] if rows else None
    return clamp(decode_change(last.data).time, last.admitted_at) if last is not None and last.data else 0


def checkpoint(log: Log, key: SessionKey, volume: bytes) -> bytes | None:
    """The checkpoint in a volume; None if it has none."""
    parts = log.rows.range(*span(PART + key + volume))
    return b"".join(value for _, value in parts) if parts else None


def sweep(log: Log, limit: int = SWEEP_ROWS) -> bool:
    """Remove some rows of volumes that are no longer used, in one small transaction. False: there are none."""
    for row_key, value in log.rows.range(*span(GARBAGE), 16):
        key, volume = row_key[1 : 1 + KEY_BYTES], row_key[1 + KEY_BYTES :]
        if value == _MAKING and not _is_stale(log, row_key):
            continue
        _sweep(log, key, volume, limit)
        return True
    return False


def _is_stale(log: Log, row_key: bytes) -> bool:
    _, _, since = log.rows.measure(*exactly(row_key))
    return time.time() - since > STALE_SECONDS


def _sweep(log: Log, key: SessionKey, volume: bytes, limit: int) -> None:
    with log.rows.transaction():
        log.rows.put(GARBAGE + key + volume, b"")  # From here on, nobody takes it.
        head = log.head(key)
        if head is not None and head.volume == volume:
            log.rows.delete_range(*exactly(GARBAGE + key + volume))
            return
        spans = [span(kind + key + volume) for kind in (PART, PAGE)]
        if head is not None:
            last = log.last_slot(key)
            spans.append(span(CHANGE + key, last=min(head.bottom, last - 1)))
            if 0 < last <= min(head.bottom, head.acked) and log.change(key, last) is not None:
                log.rows.put(slot_key(key, last), b"")  # It is folded, too; only its place is needed.
        for lower, upper in spans:
            limit -= log.rows.delete_range(lower, upper, limit)
            if limit <= 0:
                return
        log.rows.delete_range(*exactly(GARBAGE + key + volume))
