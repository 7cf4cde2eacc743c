"""The digest of a log at each of its entries, by which a store tells whether a puller has that log or another."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from operator import attrgetter

from localfirst.change import extend_digest, extend_digest_by
from sync.central.base import LogEntry

_SIZE = 8


def running_digests(digest: int, admitted_at: int, hashes: bytes) -> list[int]:
    """The digest of a log after each of some more changes that are admitted at once, by what they add (`Run.hashes`).

    >>> from localfirst.change import hash_changes
    >>> one, both = extend_digest(5, 1_000, [b"a"]), extend_digest(5, 1_000, [b"a", b"b"])
    >>> running_digests(5, 1_000, hash_changes([b"a", b"b"])) == [one, both]
    True
    """
    parts = (hashes[at : at + _SIZE] for at in range(0, len(hashes), _SIZE))
    return [digest := extend_digest_by(digest, admitted_at, part) for part in parts]


def digest_after(digest: int, entries: Iterable[LogEntry]) -> int:
    """The digest of a log after more entries.

    >>> log = [LogEntry(1, 1_000, b"a"), LogEntry(2, 1_000, b"b"), LogEntry(3, 2_000, b"c")]
    >>> digest_after(5, log) == extend_digest(extend_digest(5, 1_000, [b"a", b"b"]), 2_000, [b"c"])
    True
    """
    for admitted_at, together in groupby(entries, key=attrgetter("admitted_at")):
        digest = extend_digest(digest, admitted_at, [entry.data for entry in together])
    return digest
