"""What is written in the rows of a local store, beside the changes themselves, and how their keys are made."""

from __future__ import annotations

from hashlib import blake2b
from typing import Annotated, Final, Literal, NamedTuple

import msgspec

from localfirst.change import EMPTY_DIGEST, MAIN_BRANCH, derived_id, extend_digest_by, hash_changes
from localfirst.lifetime import FOR_EVER, Lifetime

SessionKey = bytes
Whole = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Signed = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]
Direction = Literal["push", "pull"]

KEY_BYTES: Final = 16
VOLUME_BYTES: Final = 8
NO_VOLUME: Final = bytes(VOLUME_BYTES)
KeyId = Annotated[str, msgspec.Meta(pattern="^(?:[0-9a-f]{2}){0,4}$")]
"""Of a key; shorter, if what is sealed with it was cut off; empty: of none."""
Volume = Annotated[bytes, msgspec.Meta(min_length=VOLUME_BYTES, max_length=VOLUME_BYTES)]

ANY_LIFE: Final = "*"

HEAD, CHANGE, PAGE, PART, GARBAGE, ASIDE, VOID, TURN, HERE = b"h", b"c", b"p", b"k", b"g", b"q", b"v", b"t", b"b"
USED: Final = b"u"
SETTLED: Final = b"s:settled"
"""The row up to which nothing is pending."""
BEYOND: Final = b"\xff" * 9
"""As the end of a key: behind every number."""


def session_key(namespace: str, session_id: str) -> SessionKey:
    """16 bytes that stand for a session in the keys of its rows."""
    return blake2b(f"{namespace}\0{session_id}".encode(), digest_size=KEY_BYTES).digest()


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Where a session stands; one row, replaced by each round of replication.

    Changes made here are kept in slots: 1, 2, 3, … as long as the directory lives. Their counters are slots less
    `offset`, for an origin may change: a directory that was copied becomes another one.
    """

    namespace: str
    session_id: str
    origin: str = ""
    """By which changes are made here."""
    offset: Signed = 0
    """Slot less counter, of the changes of `origin`."""
    first: Whole = 1
    """The lowest counter of `origin` that is in a slot. What was made before is in pages, whoever made it."""
    store: str = ""
    """The central store in which the session was last seen, by its id."""
    generation: str | None = None
    """Of the central log that the pages follow. None: never seen one."""
    seq: Whole = 0
    """The last entry of the central log that is here."""
    digest: Whole = EMPTY_DIGEST
    """Of the central log up to `seq`."""
    acked: Whole = 0
    """The slot of our last change in the central log. What is above is pending."""
    sent: Whole = 0
    """The slot of the last change that the central store took while its log could not be read. Proves nothing."""
    epoch: Whole = 0
    """Changes when what was read before is no longer true."""
    volume: Volume = NO_VOLUME
    """Names the rows that hold the central log: they are made aside, and taken by changing this."""
    floor: Whole = 0
    """The entries up to this seq are folded into a checkpoint; 0: into none."""
    floor_digest: Whole = EMPTY_DIGEST
    """Of the central log up to the floor."""
    floor_hash: str = ""
    """Of the checkpoint, see `localfirst.checkpoint.hash_of`."""
    bottom: Whole = 0
    """The changes in slots up to this one are folded in the checkpoint, or given up."""
    spent: Whole = 0
    """How many entries since the floor made others needless, roughly."""
    lifetime: Lifetime = FOR_EVER
    """What is set for the session, by what was admitted and what was touched here."""
    expires_at: Whole = 0
    """When it does, as the central store told last, by its clock; 0: it does not, or was never there."""
    ending: str = ""
    """The generation that was deleted here, and is still to be deleted in the central store; `ANY_LIFE`: whichever is
    there."""
    stub: bool = False
    """It was evicted: what is up to the floor is in the central store, and not on this disk, nor is a checkpoint."""
    time: Whole = 0
    """Of a stub: the timestamp of the newest change that it had."""
    seen: dict[str, Whole] | None = None
    """Where there is a key: the last change of each origin in the central log up to `seq`, so that none can be left
    out. None: that is not known."""
    locked: KeyId = ""
    """The id of the key that is needed for what comes next in the central log, and was not here."""

    @property
    def ttl(self) -> int:
        """Milliseconds after which the session expires, if nothing is written to it; 0: it does not."""
        return self.lifetime.ttl

    def counter(self, slot: int) -> int:
        """The counter of a change of `origin`."""
        return slot - self.offset

    def slot(self, counter: int) -> int:
        """Where the change of `origin` with this counter is."""
        return self.offset + counter

    def is_by(self, replica_id: str) -> bool:
        """Whether `origin` is the name of this directory, or one that follows from it: each life of a session has
        another, so that nothing in it can be taken for something of the last one."""
        return self.origin in (replica_id, derived_id(replica_id, number(self.offset)))


class Here(msgspec.Struct, frozen=True, array_like=True):
    """The branch on which somebody stands."""

    branch: str = MAIN_BRANCH
    """Its id, as it was when that was noted."""
    time: int = 0
    """Of its fork. The id of a branch changes if its fork is renamed, this doesn't."""


class OwnRange(msgspec.Struct, frozen=True, array_like=True):
    """Changes in consecutive slots that were admitted at consecutive seqs."""

    seq: Whole
    admitted_at: Whole
    slot: Whole
    count: Whole


class Foreign(msgspec.Struct, frozen=True, array_like=True):
    """One admitted change that is kept in the page itself; wire encoding."""

    seq: Whole
    admitted_at: Whole
    data: bytes
    """Empty: it can't be read, and was given up."""
    add: bytes = b""
    """What it adds to the digest beside its time, if it was given up: see `localfirst.change.hash_changes`."""


class Page(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of the central log; the two lists cover consecutive seqs between them."""

    own: list[OwnRange]
    foreign: list[Foreign]

    @property
    def first(self) -> int:
        """The lowest seq in it."""
        return min([entry.seq for entry in self.own] + [entry.seq for entry in self.foreign])

    @property
    def count(self) -> int:
        """How many entries are in it."""
        return sum(own.count for own in self.own) + len(self.foreign)

    def __bool__(self) -> bool:
        return bool(self.own or self.foreign)


class Kept(NamedTuple):
    """One entry of the central log as it is known here."""

    seq: int
    admitted_at: int
    data: bytes
    """Wire encoding; empty: it can't be read, and was given up."""
    add: bytes
    """What it adds to the digest beside its time, if `data` does not tell."""


class Aside(msgspec.Struct, frozen=True):
    """Why a session is not synced in one direction. It stays so until somebody acts, or another version comes."""

    namespace: str
    session_id: str
    direction: Direction
    reason: str
    since: float
    """Unix time."""
    version: str
    """Of the localfirst that could not."""
    place: Whole = 0
    """push: the slot of the change that is refused; pull: the seq of the one that can't be read. 0: no single one."""
    count: Whole = 1
    """push: how many changes are refused from there on; more than one if they are a turn. 0: none is, but the central
    log has to be read first, and can't be."""
    mark: str = ""
    """Of the change that can't be read, see `localfirst.checkpoint.hash_of`."""
    lost: bool = False
    """The central store has lost the session, and whether to send it again is for somebody to say."""
    consent: bool = False
    """Somebody said so."""
    ring: str = ""
    """The keys that could not open it, see `localfirst.codec.Codec.ring`. Empty: it is not that."""
    key_id: KeyId = ""
    """Of the key that is missing."""

    @property
    def is_hopeless(self) -> bool:
        """Whether nothing can be given up here that would let it go on: it is to be repaired where it is damaged."""
        return self.direction == "pull" and not self.mark and not self.lost


class Rename(NamedTuple):
    """How pending changes are to be named, see `localfirst.renumber`."""

    start: int
    """The first slot that is renamed; those up to `acked` and below this are kept."""
    origin: str
    first: int
    """Counter of the first of them under the new name."""
    drop: frozenset[int] = frozenset()
    """Slots that are given up."""
    same: frozenset[int] = frozenset()
    """Slots whose changes are in the central log under their old names, and in the pages."""


class Rest(NamedTuple):
    """What of a session was not read yet."""

    head: Head | None
    whole: bool
    """It is all of it: what was read before is to be forgotten."""
    checkpoint: bytes | None
    pages: list[Page]
    changes: list[tuple[int, bytes]]
    """Slots, and the changes in them; wire encoding. Empty: the slot was given up."""


class Touched(NamedTuple):
    """What happened on disk."""

    written: set[SessionKey]
    """Sessions with new changes of ours."""
    asked: set[SessionKey]
    """Sessions that were never in the central store as far as is known here, and that somebody began to use."""


class Backlog(NamedTuple):
    """What of a session waits for the central store."""

    changes: int
    bytes: int
    oldest: float
    """Unix time."""


def digest_after_kept(digest: int, entries: list[Kept]) -> int:
    """The digest of a log after more entries that are kept here."""
    for entry in entries:
        digest = extend_digest_by(digest, entry.admitted_at, hash_changes([entry.data]) if entry.data else entry.add)
    return digest


def number(value: int) -> bytes:
    """As the end of a key: in order."""
    return value.to_bytes(8, "big")


def span(prefix: bytes, after: int = -1, last: int | None = None) -> tuple[bytes, bytes]:
    """Bounds of the rows with a prefix and a number above `after` (default: any), and up to `last`, if given."""
    lower = prefix + (number(after + 1) if after >= 0 else b"")
    return lower, prefix + (BEYOND if last is None else number(last + 1))


def exactly(row_key: bytes) -> tuple[bytes, bytes]:
    """Bounds of one row."""
    return row_key, row_key + b"\0"


def slot_key(key: SessionKey, slot: int) -> bytes:
    """Of the row of a change made here."""
    return CHANGE + key + number(slot)
