"""The records that everything else moves: a change, its wire encoding, and the digest of a log of changes.

A change is written once and never altered. To all but the fold its body is bytes.
"""

from __future__ import annotations

import secrets
import struct
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from operator import mod
from typing import Annotated, Final, NamedTuple

import msgspec

from localfirst.errors import ConfigurationError, MalformedChange

APPEND: Final = "append"
REMOVE: Final = "remove"
CLEAR: Final = "clear"
PUT: Final = "put"
DELETE: Final = "delete"
INCREMENT: Final = "increment"
END: Final = "end"
FORK: Final = "fork"
DROP: Final = "drop"
TOUCH: Final = "touch"
BEGIN: Final = "begin"

MAIN_BRANCH: Final = "main"
OF_A_BRANCH: Final = frozenset((APPEND, REMOVE, CLEAR, FORK))
"""Kinds that say something of the branch that they are made on."""
MAX_SESSION_ID_BYTES: Final = 1024


_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Whole = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
_Counter = Annotated[int, msgspec.Meta(ge=1, le=(1 << 63) - 1)]


class Change(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One call of one replica on one session.

    >>> change = Change("r1", 1, 1 << 16, 0, MAIN_BRANCH, APPEND, b'[{"role":"user"}]')
    >>> decode_change(encode_change(change)) == change
    True
    """

    origin: _Name
    """The `replica_id` of its author."""
    counter: _Counter
    """1, 2, 3, … without gaps among its author's changes to this session."""
    time: _Whole
    """Hybrid logical clock of the author: Unix milliseconds << 16 | logical count."""
    base: _Whole
    """The highest `seq` that the author had folded: what it had seen."""
    branch: str
    """The id of the branch that it is made on: `MAIN_BRANCH`, or that of the fork that made it (see `branch_id`).
    Metadata and turns are of the whole session: of those, it says nothing."""
    kind: str
    body: bytes
    """JSON, by kind. append: `[item, …]`; remove: `{"origin", "counter", "index"}`; clear: `{"seen": {origin:
    counter}}`, the last change of each replica that its author had seen; put: `{"key", "rule", "value"}`, with `"gone"`
    the fields that a merge takes away, and `"ask": true` if its author has a function for conflicts; delete: `{"key"}`,
    and the same `"ask"`; increment: `{"key", "by"}`; end: `{}`, which ends a turn; fork: `{"name", "seen", "upto"}`,
    see `localfirst.branches.Fork`; drop: `{"branch"}`, the id of the branch that is deleted; touch: `{"ttl",
    "item_ttl", "own"}`, what it sets, see `localfirst.lifetime`; begin: `{}`, what was before had expired, as far as
    its author could tell."""
    turn: _Whole = 0
    """Names the turn that it is part of, among those of its author; 0: none. Until the change that ends the turn is
    there too, it is not pushed, and not shown by other replicas."""


class Admitted(NamedTuple):
    """A change with its place in the central log."""

    seq: int
    admitted_at: int
    """Unix milliseconds by the central store's clock."""
    change: Change


_encoder = msgspec.msgpack.Encoder()
_TOUCHES: Final = _encoder.encode(TOUCH)
_decoder = msgspec.msgpack.Decoder(Change)


def encode_change(change: Change) -> bytes:
    """Wire bytes of a change: one msgpack array, the same bytes for equal changes."""
    return _encoder.encode(change)


def decode_change(data: bytes) -> Change:
    """The change in wire bytes. Raises `MalformedChange` for anything that `encode_change` can't have made."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedChange(f"{len(data)} bytes are not a change: {error}") from error


def in_turn(data: bytes) -> bool:
    """Whether a change (wire bytes, as `encode_change` makes them) is part of a turn, without decoding it.

    The turn is the last field, 0 is one byte, and the names of turns are odd, so their last byte is never 0.

    >>> change = Change("r1", 1, 1 << 16, 0, MAIN_BRANCH, APPEND, b"[]")
    >>> in_turn(encode_change(change)), in_turn(encode_change(msgspec.structs.replace(change, turn=1 << 62 | 1)))
    (False, True)
    """
    return data[-1:] != b"\0"


def branch_id(origin: str, counter: int) -> str:
    """The id of the branch that a fork makes. No two have the same, whatever their names.

    >>> branch_id("r1", 7)
    'r1:7'
    """
    return f"{origin}:{counter}"


def fork_of(branch: str) -> tuple[str, int]:
    """Origin and counter of the fork that made a branch. Raises `MalformedChange` for what is no branch's id.

    >>> fork_of("r1:7")
    ('r1', 7)
    """
    origin, _, digits = branch.rpartition(":")
    if origin and digits.isascii() and digits.isdigit() and digits[0] != "0" and len(digits) < 20:
        return origin, int(digits)
    raise MalformedChange(f"{branch[:60]!r} is no id of a branch")


def may_be_touch(data: bytes) -> bool:
    """Whether a change (wire bytes) may be a touch, without decoding it: never False for one that is.

    >>> may_be_touch(encode_change(Change("r1", 1, 1 << 16, 0, MAIN_BRANCH, TOUCH, b"{}")))
    True
    """
    return _TOUCHES in data


def new_id() -> str:
    """A random id for a replica, a generation or a store: 80 bits in 16 characters."""
    return secrets.token_hex(10)


def derived_id(origin: str, data: bytes) -> str:
    """An id like `new_id`, that follows from an origin and a change (wire bytes)."""
    return blake2b(origin.encode() + data, digest_size=10).hexdigest()


def check_session_id(session_id: object) -> str:
    """The session id, or `ConfigurationError` if no store could hold it."""
    if not isinstance(session_id, str):
        raise ConfigurationError(f"a session id is a string, not {type(session_id).__name__}: pass str(...)")
    if not session_id:
        raise ConfigurationError("a session id can't be empty: pass the id of the user or the conversation")
    if "\0" in session_id:
        raise ConfigurationError("a session id can't hold a NUL character: Postgres has no place for it")
    try:
        size = len(session_id.encode())
    except UnicodeEncodeError:
        raise ConfigurationError("a session id can't hold lone surrogates: it must be valid Unicode") from None
    if size > MAX_SESSION_ID_BYTES:
        raise ConfigurationError(f"a session id has at most {MAX_SESSION_ID_BYTES} bytes in UTF-8, this has {size}")
    return session_id


# The digest of a log is a Rabin-Karp fingerprint in two lanes, of what was admitted and when: lane = lane * factor +
# hash(change) + admitted_at, modulo a prime. Products are below 2.8e15 and times below 2**45, so sums stay below 2**53
# and quotients below 2**21 (even with any time of fifteen digits): Lua's doubles (Redis), SQL's bigint (Postgres) and
# Python agree to the bit. A store can go on from any digest without the changes before it.
DIGEST_PRIMES: Final = (2147483647, 2147483629)
DIGEST_FACTORS: Final = (1299709, 1299721)
EMPTY_DIGEST: Final = 0


_LANES: Final = struct.Struct(">II")


def hash_changes(changes: Iterable[bytes]) -> bytes:
    """What each change (wire bytes) adds to a digest beside its time: 8 bytes each, 4 for each lane."""
    hashes = b"".join([blake2b(data, digest_size=8).digest() for data in changes])
    count = len(hashes) // _LANES.size
    lanes = struct.Struct(f">{2 * count}I")
    return lanes.pack(*map(mod, lanes.unpack(hashes), DIGEST_PRIMES * count))


def split_hashes(hashes: bytes) -> Iterator[tuple[int, int]]:
    """What each change adds beside its time, lane by lane."""
    return _LANES.iter_unpack(hashes)


def extend_digest(digest: int, admitted_at: int, changes: Iterable[bytes]) -> int:
    """The digest of a log after more changes (wire bytes) that were admitted at one time (Unix milliseconds), lane 0 in
    the upper 32 bits.

    >>> whole = extend_digest(EMPTY_DIGEST, 1_000, [b"a", b"b"])
    >>> extend_digest(extend_digest(EMPTY_DIGEST, 1_000, [b"a"]), 1_000, [b"b"]) == whole
    True
    >>> extend_digest(EMPTY_DIGEST, 1_001, [b"a", b"b"]) == whole
    False
    """
    return extend_digest_by(digest, admitted_at, hash_changes(changes))


def extend_digest_by(digest: int, admitted_at: int, hashes: bytes) -> int:
    """As `extend_digest`, when the changes were hashed already."""
    lane0, lane1 = digest >> 32, digest & 0xFFFFFFFF
    for hash0, hash1 in split_hashes(hashes):
        lane0 = (lane0 * DIGEST_FACTORS[0] + hash0 + admitted_at) % DIGEST_PRIMES[0]
        lane1 = (lane1 * DIGEST_FACTORS[1] + hash1 + admitted_at) % DIGEST_PRIMES[1]
    return lane0 << 32 | lane1
