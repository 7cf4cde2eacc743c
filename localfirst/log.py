"""The log of a local store: what every session is made of, as rows on disk.

Three kinds of rows, each key starting with a letter and the session's key (a hash of namespace and id):

    h <session>             head: the session's name, how far it follows the central log, what of ours is in there
    c <session> <counter>   one change made here; written once, never touched again
    p <session> <seq>       one page of the central log: changes of others, and the seqs that ours were given

An agent's call inserts one `c` row. The unique key makes that a compare-and-swap as well: a counter that another
process took meanwhile is refused. Replication writes `p` and `h` rows, in one small transaction a round.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec

from localfirst.change import EMPTY_DIGEST, Change, decode_change, encode_change, new_id
from localfirst.errors import MalformedChange, StoreCorrupt
from localfirst.rows import RowExists, Rows

SessionKey = bytes

_HEAD, _CHANGE, _PAGE = b"h", b"c", b"p"
_REPLICA, _SETTLED = b"s:replica", b"s:settled"
_KEY_BYTES = 16
_ROWS_AT_ONCE = 64


class Head(msgspec.Struct, frozen=True, array_like=True):
    """Where a session stands; one row, replaced by each round of replication."""

    namespace: str
    session_id: str
    generation: str | None = None
    """Of the central log that the pages follow. None: never seen one."""
    seq: int = 0
    """The last entry of the central log that is here."""
    digest: int = EMPTY_DIGEST
    """Of the central log up to `seq`."""
    acked: int = 0
    """The highest counter of ours in the central log. What is above is pending."""
    epoch: int = 0
    """Changes when pages that were read before are no longer true."""


class OwnRange(msgspec.Struct, frozen=True, array_like=True):
    """Consecutive changes of ours that were admitted at consecutive seqs."""

    seq: int
    admitted_at: int
    counter: int
    count: int


class Foreign(msgspec.Struct, frozen=True, array_like=True):
    """One admitted change that is kept in the page itself; wire encoding."""

    seq: int
    admitted_at: int
    data: bytes


class Page(msgspec.Struct, frozen=True, array_like=True):
    """A stretch of the central log; the two lists cover consecutive seqs between them."""

    own: list[OwnRange]
    foreign: list[Foreign]

    @property
    def first(self) -> int:
        """The lowest seq in it."""
        return min([entry.seq for entry in self.own] + [entry.seq for entry in self.foreign])


class Rest(NamedTuple):
    """What of a session was not read yet."""

    head: Head | None
    pages: list[Page]
    changes: list[Change]


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


_encode = msgspec.msgpack.Encoder().encode
_head_decoder = msgspec.msgpack.Decoder(Head)
_page_decoder = msgspec.msgpack.Decoder(Page)


def session_key(namespace: str, session_id: str) -> SessionKey:
    """16 bytes that stand for a session in the keys of its rows."""
    return blake2b(f"{namespace}\0{session_id}".encode(), digest_size=_KEY_BYTES).digest()


class Log:
    """The sessions of one directory. Calls raise `StoreBusy` rather than wait, see `localfirst.rows.patiently`."""

    def __init__(self, directory: Path, *, fsync: bool = False) -> None:
        self.rows = Rows(directory, fsync=fsync)

    def replica_id(self) -> str:
        """The random id of this store among the replicas, made at the first call."""
        found = self.rows.get(_REPLICA)
        if found is None:
            with suppress(RowExists):  # Another process opened the directory at the same time.
                self.rows.insert(_REPLICA, new_id().encode())
            found = self.rows.get(_REPLICA)
        if not found or not found.isascii():
            raise StoreCorrupt(f"{self.rows.directory} holds no replica id")
        return found.decode()

    # What an agent's calls need.

    def head(self, key: SessionKey) -> Head | None:
        """The head of a session; None if it was never written here."""
        value = self.rows.get(_HEAD + key)
        return None if value is None else self._decode_head(value)

    def create(self, key: SessionKey, head: Head) -> None:
        """Make a session known here; fine if it is already."""
        with suppress(RowExists):
            self.rows.insert(_HEAD + key, _encode(head))

    def append(self, key: SessionKey, changes: Sequence[Change]) -> bool:
        """Store changes of this replica, all or none. False: a counter is taken, read the rest first."""
        try:
            if len(changes) == 1:
                self.rows.insert(_change_key(key, changes[0].counter), encode_change(changes[0]))
                return True
            with self.rows.transaction():
                for change in changes:
                    self.rows.insert(_change_key(key, change.counter), encode_change(change))
        except RowExists:
            return False
        return True

    def rest(self, key: SessionKey, after_seq: int, after_counter: int, epoch: int) -> Rest:
        """What was written since; everything, if `epoch` is no longer the session's."""
        with self.rows.snapshot():
            head = self.head(key)
            if head is not None and head.epoch != epoch:
                after_seq = after_counter = 0
            pages = self.rows.range(*_span(_PAGE, key, after_seq))
            changes = self.rows.range(*_span(_CHANGE, key, after_counter))
        return Rest(
            head,
            [self._decode_page(value) for _, value in pages],
            [self._decode_change(value) for _, value in changes],
        )

    def is_long(self, key: SessionKey, rows: int = 500) -> bool:
        """Whether a session has more than so many rows of one kind; cheap."""
        return any(self.rows.has_more(*_span(kind, key, 0), rows) for kind in (_CHANGE, _PAGE))

    def heads(
        self, namespace: str, after: SessionKey = b"", limit: int = 1000
    ) -> tuple[list[tuple[SessionKey, Head]], SessionKey | None]:
        """A page of the sessions that are known here, and where the next begins; None at the end."""
        rows = self.rows.range(_HEAD + after, bytes([_HEAD[0] + 1]), limit)
        heads = [(row_key[1:], self._decode_head(value)) for row_key, value in rows]
        following = rows[-1][0][1:] + b"\0" if len(rows) == limit else None
        return [(key, head) for key, head in heads if head.namespace == namespace], following

    # What replication needs.

    def last_counter(self, key: SessionKey) -> int:
        """The counter of the newest change made here; 0 if there is none."""
        rows = self.rows.range(*_span(_CHANGE, key, 0), limit=1, reverse=True)
        return int.from_bytes(rows[0][0][-8:], "big") if rows else 0

    def run(self, key: SessionKey, after: int, limit: int, max_bytes: int = 1 << 62) -> list[bytes]:
        """Changes made here with counters above `after`: wire encoding, consecutive, at least one if there is any."""
        changes: list[bytes] = []
        size = 0
        while len(changes) < limit and size < max_bytes:
            rows = self.rows.range(*_span(_CHANGE, key, after + len(changes)), min(limit - len(changes), _ROWS_AT_ONCE))
            for _, value in rows:
                changes.append(value)
                size += len(value)
                if size >= max_bytes:
                    return changes
            if len(rows) < _ROWS_AT_ONCE:
                break
        return changes

    def settle(self, key: SessionKey, before: Head, after: Head, pages: Sequence[Page]) -> bool:
        """Take stretches of the central log into the session, and move its head, in one transaction.

        False, and nothing is written, if the head is not `before` any more: another process was faster. With another
        epoch, the pages of the old one go.
        """
        with self.rows.transaction():
            if self.head(key) != before:
                return False
            if after.epoch != before.epoch:
                self.rows.delete_range(*_span(_PAGE, key, 0))
            for page in pages:
                if page.own or page.foreign:
                    self.rows.insert(_page_key(key, page.first), _encode(page))
            self.rows.put(_HEAD + key, _encode(after))
            return True

    def pages(self, key: SessionKey) -> list[Page]:
        """The central log of a session as it is known here."""
        return [self._decode_page(value) for _, value in self.rows.range(*_span(_PAGE, key, 0))]

    def touched_since(self, rowid: int, namespace: str) -> tuple[Touched, int]:
        """What any process did in a namespace after a row; and the last row now."""
        prefixes, last = self._prefixes_since(rowid, _CHANGE, _HEAD)
        written = self._of((prefix[1:] for prefix in prefixes if prefix[:1] == _CHANGE), namespace)
        asked = self._of((prefix[1:] for prefix in prefixes if prefix[:1] == _HEAD), namespace)
        return Touched(set(written), {key for key, head in asked.items() if head.generation is None}), last

    def waiting(self, namespace: str) -> set[SessionKey]:
        """The sessions of a namespace of which something waits for the central store."""
        heads = self._of(self._unsettled(), namespace)
        return {key for key, head in heads.items() if self.last_counter(key) > head.acked}

    def backlog(self, namespace: str) -> dict[SessionKey, Backlog]:
        """What of a namespace waits for the central store, by session."""
        heads = self._of(self._unsettled(), namespace)
        found = {key: Backlog(*self.rows.measure(*_span(_CHANGE, key, head.acked))) for key, head in heads.items()}
        return {key: backlog for key, backlog in found.items() if backlog.changes}

    def mark_settled(self) -> bool:
        """Note that nothing waits, so that nobody need look at what is there now. False: something waits.

        The look may be long and holds no lock: what was admitted stays so, and rows that come meanwhile come later.
        """
        last = self.rows.last_row()
        for key in self._unsettled():
            head = self.head(key)
            if head is None or self.last_counter(key) > head.acked:
                return False
        self.rows.put(_SETTLED, last.to_bytes(8, "big"))
        return True

    def _unsettled(self) -> Iterable[SessionKey]:
        """Sessions with changes of ours that were not seen settled yet."""
        settled = int.from_bytes(self.rows.get(_SETTLED) or b"", "big")
        return [prefix[1:] for prefix in self._prefixes_since(settled, _CHANGE, _CHANGE)[0]]

    def _prefixes_since(self, rowid: int, first: bytes, last: bytes) -> tuple[set[bytes], int]:
        """Kind and session of the rows of some kinds that were added after a row; and the last row now."""
        return self.rows.prefixes_since(rowid, first, bytes([last[0] + 1]), 1 + _KEY_BYTES)

    def _of(self, keys: Iterable[SessionKey], namespace: str) -> dict[SessionKey, Head]:
        heads = {key: self.head(key) for key in keys}
        return {key: head for key, head in heads.items() if head is not None and head.namespace == namespace}

    def _decode_head(self, value: bytes) -> Head:
        try:
            return _head_decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreCorrupt(f"{self.rows.directory} holds a head that can't be decoded: {error}") from error

    def _decode_change(self, value: bytes) -> Change:
        try:
            return decode_change(value)
        except MalformedChange as error:
            raise StoreCorrupt(f"{self.rows.directory} holds a change that can't be decoded: {error}") from error

    def _decode_page(self, value: bytes) -> Page:
        try:
            return _page_decoder.decode(value)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise StoreCorrupt(f"{self.rows.directory} holds a page that can't be decoded: {error}") from error


def _change_key(key: SessionKey, counter: int) -> bytes:
    return _CHANGE + key + counter.to_bytes(8, "big")


def _page_key(key: SessionKey, seq: int) -> bytes:
    return _PAGE + key + seq.to_bytes(8, "big")


def _span(kind: bytes, key: SessionKey, after: int) -> tuple[bytes, bytes]:
    """Bounds of the rows of a session with numbers above `after`."""
    return kind + key + (after + 1).to_bytes(8, "big"), kind + key + b"\xff" * 9
