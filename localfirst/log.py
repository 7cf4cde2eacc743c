"""The log of a local store: what every session is made of, as rows on disk.

Each key starts with a letter and the session's key (a hash of namespace and id):

    h <session>                  head: the session's name, how far it follows the central log, what of ours is in there
    c <session> <slot>           one change made here; written once, never altered
    p <session> <volume> <seq>   one page of the central log: changes of others, and the seqs that ours were given
    k <session> <volume> <part>  a part of the checkpoint that stands for what was before the pages
    g <session> <volume>         that volume is being made, or is to be removed
    b <session>                  the branch on which the next `Session` object here begins; none: main
    u <session>                  when it was read last, roughly, where disk space is limited

An agent's call inserts one `c` row behind all others of its session, or none: a compare-and-swap, by which of two
processes that take the same slot one is refused. So the last `c` row of a session is never deleted. Replication writes
`p` and `h` rows, in one small transaction a round. What takes more than that is put into a new volume row by row, and
taken by changing the head.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

import msgspec

from localfirst.change import END, Change, decode_change
from localfirst.clock import clamp
from localfirst.codec import Codec, Vault
from localfirst.decoding import decode_head, decode_here, decode_own, decode_page, encode
from localfirst.errors import MalformedChange
from localfirst.holes import head_of_changes, lack_of, mark_holes, slots_above
from localfirst.lifetime import Lifetime
from localfirst.records import (
    ASIDE,
    BEYOND,
    CHANGE,
    GARBAGE,
    HEAD,
    HERE,
    PAGE,
    PART,
    SETTLED,
    TURN,
    USED,
    VOID,
    VOLUME_BYTES,
    Head,
    Here,
    Page,
    Rename,
    Rest,
    SessionKey,
    exactly,
    number,
    slot_key,
    span,
)
from localfirst.renumber import renumber
from localfirst.rows import RowExists, Rows

_SCRUB: Final = b"s:scrub"
_ROWS_AT_ONCE: Final = 64
_ROW_BYTES: Final = 128
"""What a row takes in the database, at least."""


class Log:
    """The sessions of one directory. Calls raise `StoreBusy` rather than wait, see `localfirst.rows.patiently`."""

    def __init__(self, rows: Rows, vault: Vault | None = None) -> None:
        self.rows = rows
        self._vault = vault or Vault()

    def codec(self, session_id: str) -> Codec:
        """How the changes of a session are written."""
        return self._vault.codec(session_id)

    # What an agent's calls need.

    def head(self, key: SessionKey) -> Head | None:
        """The head of a session; None if it was never written here."""
        value = self.rows.get(HEAD + key)
        return None if value is None else decode_head(self.rows, value)

    def create(self, key: SessionKey, head: Head) -> bool:
        """Make a session known here. False: it is already, or was, before its head was lost: it has its name again."""
        if self.last_slot(key) and self._name(key, head):
            return False
        try:
            self.rows.insert(HEAD + key, encode(head))
        except RowExists:
            return False
        return True

    def _name(self, key: SessionKey, head: Head) -> bool:
        """Give changes that were saved from a damaged disk the head that they have lost. False: nothing to do."""
        if self.head(key) is not None:
            return False
        with self.rows.transaction():
            made = None if self.head(key) is not None else head_of_changes(self.rows, key, head)
            if made is not None:
                mark_holes(self.rows, key, made.bottom)
                self.rows.put(HEAD + key, encode(made))
        return made is not None

    def append(self, key: SessionKey, slot: int, changes: Sequence[bytes], lifetime: Lifetime | None = None) -> bool:
        """Store changes of this replica (wire encoding) from a slot on, all or none. False: it is taken, read the rest
        first.

        `lifetime`: what they set for the session; None: nothing.
        """
        upper = CHANGE + key + BEYOND
        try:
            if len(changes) == 1 and lifetime is None:
                self.rows.insert_last(slot_key(key, slot), changes[0], upper)
                return True
            with self.rows.transaction():
                if lifetime is not None and (head := self.head(key)) is not None:
                    self.rows.put(HEAD + key, encode(msgspec.structs.replace(head, lifetime=lifetime)))
                for place, change in enumerate(changes, start=slot):
                    self.rows.insert_last(slot_key(key, place), change, upper)
        except RowExists:
            return False
        return True

    def rest(self, key: SessionKey, after_seq: int, after_slot: int, epoch: int) -> Rest:
        """What was written since; everything, if that can't be told any more."""
        with self.rows.snapshot():
            head = self.head(key)
            if head is None:
                for kind in (HEAD, CHANGE):
                    self.rows.check_ends(kind + key, 0)
                return Rest(None, False, None, [], [])
            whole = head.epoch != epoch or after_seq < head.floor
            if whole:
                after_seq, after_slot = head.floor, head.bottom
            parts = self.rows.range(*span(PART + key + head.volume)) if whole and head.floor else []
            pages = self.rows.range(*span(PAGE + key + head.volume, after_seq))
            first_look, after_slot = whole or not (after_slot or after_seq), max(after_slot, head.bottom)
            changes = self._slots(key, after_slot)
            if first_look:
                self.rows.check_ends(span(CHANGE + key, after_slot)[0], len(changes))
        checkpoint = b"".join(value for _, value in parts) if parts else None
        rest = Rest(head, whole, checkpoint, [decode_page(self.rows, value) for _, value in pages], changes)
        if lack := lack_of(rest, head, after_seq, after_slot):
            raise self.rows.damaged(f"lacks {lack} of session {head.session_id!r}")
        return rest

    def here(self, key: SessionKey) -> Here:
        """The branch on which somebody stood last."""
        value = self.rows.get(HERE + key)
        return Here() if value is None else decode_here(self.rows, value)

    def stand(self, key: SessionKey, here: Here) -> None:
        """Note on which branch somebody stands."""
        self.rows.put(HERE + key, encode(here))

    def is_long(self, key: SessionKey, rows: int = 500) -> bool:
        """Whether a session has more than so many rows of one kind; cheap."""
        if self.rows.size() + self.rows.wal_bytes() < _ROW_BYTES * rows:
            return False
        return any(self.rows.has_more(*span(kind + key), rows) for kind in (CHANGE, PAGE))

    def heads(
        self, namespace: str, after: SessionKey = b"", limit: int = 1000
    ) -> tuple[list[tuple[SessionKey, Head]], SessionKey | None]:
        """A page of the sessions that are known here, and where the next begins; None at the end."""
        rows = self.rows.range(HEAD + after, bytes([HEAD[0] + 1]), limit)
        heads = [(row_key[1:], decode_head(self.rows, value)) for row_key, value in rows]
        following = rows[-1][0][1:] + b"\0" if len(rows) == limit else None
        return [(key, head) for key, head in heads if head.namespace == namespace], following

    def newest(self, key: SessionKey, head: Head) -> int:
        """The timestamp of the newest change of a session, as its last rows have it; 0 if they tell of none."""
        own = self.rows.range(*span(CHANGE + key), limit=1, reverse=True)
        pages = self.rows.range(*span(PAGE + key + head.volume), limit=1, reverse=True)
        foreign = [entry for _, page in pages for entry in decode_page(self.rows, page).foreign[-1:] if entry.data]
        try:
            times = [decode_change(data).time for _, data in own if data]
            times += [clamp(decode_change(entry.data).time, entry.admitted_at) for entry in foreign]
        except MalformedChange:
            return 0  # Whoever reads the session is told.
        return max(times, default=0)

    # What replication needs.

    def last_slot(self, key: SessionKey) -> int:
        """The slot of the newest change made here; 0 if there is none."""
        rows = self.rows.range(*span(CHANGE + key), limit=1, reverse=True)
        return int.from_bytes(rows[0][0][-8:], "big") if rows else 0

    def run(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 62) -> list[bytes]:
        """Changes made here in slots above `after`: wire encoding, consecutive, at least one if there is any."""
        changes: list[bytes] = []
        size = 0
        while len(changes) < limit and size < max_bytes:
            rows = self.rows.range(*span(CHANGE + key, after + len(changes)), min(limit - len(changes), _ROWS_AT_ONCE))
            for _, value in rows:
                changes.append(value)
                size += len(value)
                if size >= max_bytes:
                    return changes
            if len(rows) < _ROWS_AT_ONCE:
                break
        return changes

    def change(self, key: SessionKey, slot: int) -> bytes | None:
        """The change in a slot, wire encoding; None if there is none."""
        return self.rows.get(slot_key(key, slot)) or None if slot > 0 else None

    def settle(
        self, key: SessionKey, before: Head, after: Head, pages: Sequence[Page] = (), rename: Rename | None = None
    ) -> Head | None:
        """Take stretches of the central log into the session, and move its head, in one transaction.

        Returns the head as it is then; None, and nothing is written, if it is not `before` any more: another process
        was faster. A new volume must have been begun and be filled; the old one is removed later, see
        `localfirst.volumes.sweep`.
        """
        with self.rows.transaction():
            if self.head(key) != before:
                return None
            if after.volume != before.volume:
                if self.rows.get(GARBAGE + key + after.volume) is None:
                    return None  # It took so long that somebody else took it for forgotten.
                self.rows.delete_range(*exactly(GARBAGE + key + after.volume))
                self.rows.put(GARBAGE + key + before.volume, b"")
            for page in pages:
                if page:
                    self.rows.insert(PAGE + key + after.volume + number(page.first), encode(page))
            if rename is not None:
                after = self._rename(key, after, rename)
            if after.acked < before.acked:
                self.rows.put(SETTLED, number(0))  # What was admitted is not any more.
            self.rows.put(HEAD + key, encode(after))
            return after

    def reseal(self, key: SessionKey, slot: int, before: bytes, after: bytes) -> None:
        """Keep the same change as other bytes: sealed with another key."""
        with self.rows.transaction():
            if self.rows.get(slot_key(key, slot)) == before:
                self.rows.put(slot_key(key, slot), after)

    def lock(self, key: SessionKey, key_id: str) -> None:
        """Note that a key is needed to go on with a session."""
        with self.rows.transaction():
            if (head := self.head(key)) is not None:
                self.rows.put(HEAD + key, encode(msgspec.structs.replace(head, locked=key_id)))

    def _rename(self, key: SessionKey, head: Head, rename: Rename) -> Head:
        """Pending changes move behind all slots that were ever used, so that nobody takes one of the old slots."""
        rows = [(slot, value) for slot, value in self._slots(key, rename.start - 1) if value]
        last = self.last_slot(key)
        codec = self.codec(head.session_id)
        changes = {slot: decode_own(self.rows, codec, value) for slot, value in rows}
        staying = {slot: change for slot, change in changes.items() if slot in rename.drop | rename.same}
        ended = {change.turn for change in staying.values() if change.kind == END}
        moved = [
            msgspec.structs.replace(change, turn=0) if change.turn in ended else change
            for slot, change in changes.items()
            if slot not in staying
        ]
        kept = changes[rows[0][0]].counter - 1 if rows else 0
        same = {change.counter for slot, change in changes.items() if slot in rename.same}
        renamed = renumber(moved, rename.origin, rename.first, kept, same)
        mark = last + 1
        self.rows.insert(slot_key(key, mark), b"")
        for slot, change in enumerate(renamed, start=mark + 1):
            self.rows.insert(slot_key(key, slot), codec.encode(change))
        self.rows.delete_range(*span(CHANGE + key, rename.start - 1, last))
        return msgspec.structs.replace(
            head,
            origin=rename.origin,
            offset=mark - (rename.first - 1),
            sent=0,
            first=rename.first,
            acked=mark,
            epoch=head.epoch + 1,
        )

    def restart(self, key: SessionKey, before: Head, after: Head, pending: Sequence[Change]) -> Head:
        """Begin a session anew: nothing of it stays but what is pending, behind all slots that were ever used. In a
        transaction; the rest is removed later, see `localfirst.volumes.sweep` and `scrub`."""
        after = msgspec.structs.replace(after, volume=os.urandom(VOLUME_BYTES))
        self.rows.put(GARBAGE + key + before.volume, b"")
        self.rows.insert(slot_key(key, after.offset), b"")
        codec = self.codec(after.session_id)
        for slot, change in enumerate(pending, start=after.offset + 1):
            self.rows.insert(slot_key(key, slot), codec.encode(change))
        for kind in (HERE, ASIDE, VOID) if pending else (HERE, ASIDE, VOID, TURN):
            if self.rows.has_more(*span(kind + key), 0):
                self.rows.delete_range(*span(kind + key))
        self.must_scrub()
        self.rows.put(SETTLED, number(0))  # What was admitted is not any more.
        self.rows.put(HEAD + key, encode(after))
        return after

    def must_scrub(self) -> None:
        """What is removed just now is to be removed to the last byte, see `scrub`."""
        self.rows.put(_SCRUB, os.urandom(VOLUME_BYTES))

    def scrub(self) -> bool:
        """Take what was removed from the write-ahead log, too, if that is still to be done. False: it need not be done
        now once more."""
        due = self.rows.get(_SCRUB)
        if due is None or not self.rows.scrub():
            return False
        if not self.rows.has_more(*span(GARBAGE), 0):  # Else a copy may be left of what was removed.
            with self.rows.transaction():
                if self.rows.get(_SCRUB) == due:
                    self.rows.delete_range(*exactly(_SCRUB))
        return False

    def is_scrubbed(self) -> bool:
        """Whether nothing is left of what was to be removed to the last byte."""
        return self.rows.get(_SCRUB) is None

    def evict(self, key: SessionKey, before: Head, newest: int) -> bool:
        """Keep no more of a session than where it stands, and that nobody can take one of its slots again. `newest`:
        the timestamp of its newest change.

        False, and nothing is done, if its head is not `before` any more, or if something is pending.
        """
        with self.rows.transaction():
            if self.head(key) != before or self.last_slot(key) > before.acked:
                return False
            mark = before.acked + 1
            after = msgspec.structs.replace(
                before,
                offset=before.offset + 1,
                first=before.counter(mark),
                acked=mark,
                sent=0,
                epoch=before.epoch + 1,
                volume=os.urandom(VOLUME_BYTES),
                floor=before.seq,
                floor_digest=before.digest,
                floor_hash="",
                bottom=mark,
                spent=0,
                stub=True,
                time=newest,
            )
            self.rows.insert(slot_key(key, mark), b"")
            self.rows.put(GARBAGE + key + before.volume, b"")
            self.rows.delete_range(*exactly(USED + key))
            self.rows.put(HEAD + key, encode(after))
            return True

    def ages(
        self, namespace: str, after: SessionKey = b"", limit: int = 1000
    ) -> tuple[list[tuple[float, SessionKey, Head]], SessionKey | None]:
        """As `heads`, each with the Unix time when something of it last moved here."""
        rows = self.rows.stamped(HEAD + after, bytes([HEAD[0] + 1]), limit)
        heads = [(time, row_key[1:], decode_head(self.rows, value)) for row_key, value, time in rows]
        following = rows[-1][0][1:] + b"\0" if len(rows) == limit else None
        return [each for each in heads if each[2].namespace == namespace], following

    def used(self) -> dict[SessionKey, float]:
        """When sessions were read last, as far as that was noted; Unix time."""
        return {row_key[1:]: time for row_key, _, time in self.rows.stamped(*span(USED))}

    def use(self, key: SessionKey) -> None:
        """Note that a session was read."""
        self.rows.put(USED + key, b"")

    def _slots(self, key: SessionKey, after: int) -> list[tuple[int, bytes]]:
        return list(slots_above(self.rows, key, after).items())
