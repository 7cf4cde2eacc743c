"""The digest of a log at each of its entries, by which a store tells whether a puller has that log or another."""

from __future__ import annotations

from localfirst.change import extend_digest_by

_SIZE = 8


def running_digests(digest: int, hashes: bytes) -> list[int]:
    """The digest of a log after each of some more changes, by what they add (`Run.hashes`).

    >>> from localfirst.change import extend_digest, hash_changes
    >>> running_digests(5, hash_changes([b"a", b"b"])) == [extend_digest(5, [b"a"]), extend_digest(5, [b"a", b"b"])]
    True
    """
    parts = (hashes[at : at + _SIZE] for at in range(0, len(hashes), _SIZE))
    return [digest := extend_digest_by(digest, part) for part in parts]
