"""Entries from the central log, checked, and put as they are kept here: what comes from the network is hostile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import msgspec

from localfirst.change import APPEND, CLEAR, DROP, FORK, REMOVE, TOUCH, Change, decode_change, hash_changes
from localfirst.checkpoint import hash_of
from localfirst.codec import Codec
from localfirst.errors import DecryptionError, MalformedChange
from localfirst.fold import check
from localfirst.history import greatest
from localfirst.lifetime import FOR_EVER, Lifetime, decode_touch
from localfirst.records import Foreign, Head, OwnRange, Page, SessionKey
from localfirst.turns import OpenTurns
from sync.central.base import LogEntry, Want
from sync.central.digests import digest_after
from sync.retry import patiently
from sync.site import Site

MOST_MS: Final = 1 << 45
"""Unix milliseconds in the year 3084: no clock shows more."""
_SPENT: Final = {APPEND: 0, FORK: 0, REMOVE: 2, CLEAR: 256, DROP: 256}
"""What a change makes needless of the log, itself included, at most. Of a clear and of a drop nobody knows."""


@dataclass
class Stretch:
    """Consecutive entries of the central log."""

    page: Page = field(default_factory=lambda: Page([], []))
    count: int = 0
    whole: int = 0
    """How many of them, the first ones, part no turn."""
    acked: int = 0
    """The slot of the last change of ours among them."""
    first: int | None = None
    """The slot of the first change among them that is ours, or should be."""
    twin: int | None = None
    """The first slot of which the central log has another change, or which was never used here: another directory has
    our origin, or this one is a copy of an earlier state."""
    same: set[int] = field(default_factory=set)
    """Slots from there on of which it has the same change after all, sent by somebody who knew it."""
    seen: dict[str, int] = field(default_factory=dict)
    """The highest counter of each origin among them."""
    known: dict[str, int] | None = None
    """The same of all up to there, if it matters and is known."""
    spent: int = 0
    """How many entries they made needless, roughly."""
    lifetime: Lifetime = FOR_EVER
    """What is set for the session after them."""
    poison: MalformedChange | DecryptionError | None = None
    """Why the entry after them can't be read."""


async def read_stretch(
    site: Site,
    key: SessionKey,
    head: Head,
    after: int,
    entries: Sequence[LogEntry],
    twin: int | None = None,
    lifetime: Lifetime | None = None,
    seen: Mapping[str, int] | None = None,
) -> Stretch:
    """The entries after a seq, up to the first that can't be read. `twin`, `lifetime`, `seen`: as they are known from
    what came before; None: from the head."""
    reader = _Reader(head, site.codec(head), await patiently(partial(site.quarantine.skipped, key)))
    reader.stretch.twin = twin
    reader.stretch.lifetime = head.lifetime if lifetime is None else lifetime
    if site.codec(head).seals:
        reader.stretch.known = seen_after(site, head, {}) if seen is None else dict(seen)
    decoded: list[tuple[LogEntry, Change | None]] = []
    for place, entry in enumerate(entries, start=after + 1):
        try:
            decoded.append((entry, reader.decode(place, entry)))
        except (MalformedChange, DecryptionError) as error:
            reader.stretch.poison = error
            break
    rows = await patiently(partial(_own_rows, site, key, head, [change for _, change in decoded if change is not None]))
    if site.codec(head).seals:
        await patiently(partial(_take_seals, site, key, head, decoded, rows))
    for entry, change in decoded:
        try:
            reader.take(entry, change, rows)
        except (MalformedChange, DecryptionError) as error:
            reader.stretch.poison = error
            break
    return reader.stretch


def seen_after(site: Site, head: Head, seen: Mapping[str, int]) -> dict[str, int] | None:
    """The last change of each origin behind a head, when some more were seen; None if that does not matter (nothing is
    sealed), or is not known."""
    if not site.codec(head).seals or (head.seen is None and head.seq):
        return None
    return greatest(head.seen or {}, seen)


async def has_all(site: Site, head: Head, changes: Sequence[bytes]) -> bool:
    """Whether the central log has all of some changes behind the cursor, byte for byte. What can't be read there is
    passed over: nothing is taken."""
    missing, generation, seq, digest = set(changes), head.generation, head.seq, head.digest
    while missing:
        (pulled,) = await site.central.pull([Want(head.session_id, generation, seq, digest)], site.limits.pull_bytes)
        if pulled.head is None or not pulled.entries:
            return False
        missing.difference_update(entry.data for entry in pulled.entries)
        generation, seq = pulled.head.generation, pulled.entries[-1].seq
        digest = digest_after(digest, pulled.entries)
    return True


def _own_rows(site: Site, key: SessionKey, head: Head, changes: Sequence[Change]) -> dict[int, bytes]:
    """The changes made here that changes in the central log should be, by slot."""
    slots = [head.slot(change.counter) for change in changes if _is_own(head, change)]
    if not slots:
        return {}
    first = min(slots)
    return dict(enumerate(site.log.run(key, first - 1, max(slots) - first + 1), start=first))


def _take_seals(
    site: Site, key: SessionKey, head: Head, decoded: Sequence[tuple[LogEntry, Change | None]], rows: dict[int, bytes]
) -> None:
    """Take over how changes made here are sealed in the central log, where a copy of this directory sealed the same
    with another key: it is theirs by its bytes."""
    codec = site.codec(head)
    for entry, change in decoded:
        if change is None or not _is_own(head, change):
            continue
        slot = head.slot(change.counter)
        row = rows.get(slot)
        if slot > head.acked and row and row != entry.data and _is_same(codec, entry.data, row):
            site.log.reseal(key, slot, row, entry.data)
            rows[slot] = entry.data


def _is_same(codec: Codec, there: bytes, here: bytes) -> bool:
    try:
        codec.check_sealed(decode_change(there))
        return codec.same(there, here)
    except (DecryptionError, MalformedChange):
        return False


def _is_own(head: Head, change: Change) -> bool:
    """Whether it should be in a slot here. What is folded here is not."""
    return change.origin == head.origin and change.counter >= head.first and head.slot(change.counter) > head.bottom


class _Reader:
    def __init__(self, head: Head, codec: Codec, skipped: frozenset[str]) -> None:
        self.stretch = Stretch()
        self._head = head
        self._codec = codec
        self._skipped = skipped
        self._turns = OpenTurns()
        self._author = ""

    def decode(self, place: int, entry: LogEntry) -> Change | None:
        """The change in an entry; None if it was given up."""
        if entry.seq != place:
            raise MalformedChange(f"the central log has seq {entry.seq} where {place} belongs")
        if not 0 <= entry.admitted_at < MOST_MS:
            raise MalformedChange(f"the central log admitted seq {place} at an impossible time")
        if self._skipped and hash_of(entry.data) in self._skipped:
            return None
        change = decode_change(entry.data)
        if change.origin == self._head.origin:
            return self._codec.opened(change)
        return self._checked(change)

    def _checked(self, change: Change) -> Change:
        """What is in a change that was not made here, whatever it says."""
        self._codec.check_sealed(change)
        opened = self._codec.opened(change)
        try:
            check(opened)
        except MalformedChange:
            if opened is change:
                raise
            raise MalformedChange("what is sealed in it is nothing that can be taken") from None  # Nor told.
        return opened

    def take(self, entry: LogEntry, change: Change | None, rows: dict[int, bytes]) -> None:
        stretch = self.stretch
        if change is not None:
            if change.origin == self._head.origin and not self._is_here(entry, change, rows):
                self._checked(decode_change(entry.data))
            self._check_follows(change)
        stretch.count += 1
        if change is None:
            stretch.page.foreign.append(Foreign(entry.seq, entry.admitted_at, b"", hash_changes([entry.data])))
        else:
            stretch.seen[change.origin] = max(change.counter, stretch.seen.get(change.origin, 0))
            stretch.spent += spent_by(change)
            if change.kind == TOUCH:
                stretch.lifetime = decode_touch(change.body).applied(stretch.lifetime)
            self._place(entry, change, rows)
            if change.origin != self._author:
                self._author, self._turns = change.origin, OpenTurns()
            if not self._turns.follow(entry.data):
                return
        stretch.whole = stretch.count

    def _is_here(self, entry: LogEntry, change: Change, rows: dict[int, bytes]) -> bool:
        return _is_own(self._head, change) and rows.get(self._head.slot(change.counter)) == entry.data

    def _check_follows(self, change: Change) -> None:
        """Nobody can forge what is sealed, but it could be left out."""
        known = self.stretch.known
        if known is None:
            return
        last = known.get(change.origin, 0)
        if change.counter > last + 1 and not self._skipped:
            raise MalformedChange(
                f"it is change {change.counter} of replica {change.origin!r}, and those after {last} are not there:"
                " somebody took them out"
            )
        known[change.origin] = max(last, change.counter)

    def _place(self, entry: LogEntry, change: Change, rows: dict[int, bytes]) -> None:
        stretch, head = self.stretch, self._head
        if change.origin != head.origin:
            stretch.page.foreign.append(Foreign(entry.seq, entry.admitted_at, entry.data))
            return
        slot = head.slot(change.counter)
        own = _is_own(head, change)
        if own and stretch.first is None:
            stretch.first = slot
        same = self._is_here(entry, change, rows)
        if same and (stretch.twin is None or slot < stretch.twin):
            stretch.acked = slot
            _add_own(stretch.page.own, OwnRange(entry.seq, entry.admitted_at, slot, 1))
            return
        if same:
            stretch.same.add(slot)
        elif own and stretch.twin is None:
            stretch.twin = slot
        stretch.page.foreign.append(Foreign(entry.seq, entry.admitted_at, entry.data))


def spent_by(change: Change) -> int:
    """How many entries of the log a change made needless, itself included, roughly."""
    return _SPENT.get(change.kind, 1)


def _add_own(ranges: list[OwnRange], own: OwnRange) -> None:
    if ranges:
        last = ranges[-1]
        follows = last.seq + last.count == own.seq and last.slot + last.count == own.slot
        if follows and last.admitted_at == own.admitted_at:
            ranges[-1] = msgspec.structs.replace(last, count=last.count + 1)
            return
    ranges.append(own)
