"""How large things may be. What is refused when it is written is never in the way of what comes after it. Pure.

All three central stores take what is allowed here: Redis has 512 MB for a value and 1 GB for what a client sends at
once, Postgres 1 GB for either, SQLite 1 GB for a row.
"""

from __future__ import annotations

from typing import Final

from localfirst.errors import ItemTooLarge

MAX_ITEM_BYTES: Final = 16 << 20
"""Of an item or the value of a metadata key, as JSON."""
MAX_CALL_BYTES: Final = 64 << 20
"""Of what one call, or all calls of one turn, write: it reaches the central store in one piece."""
CHANGE_ROOM: Final = 256
"""What a change has beside its body, at most: names, numbers, and what sealing adds."""
MAX_KEY_BYTES: Final = 1024
"""Of a metadata key, in UTF-8."""
MAX_NAMESPACE_BYTES: Final = 512
"""In UTF-8."""
MAX_CHANGE_BYTES: Final = MAX_CALL_BYTES + (1 << 20)
"""Of a change as it travels."""
MAX_CHECKPOINT_BYTES: Final = 256 << 20
"""Of a folded log in the central store. One that would be larger is not folded there."""
MAX_PLACES: Final = 10_000_000
"""Of items on branches, counted on each branch that shows them: each is 8 bytes of memory. No fork is made beyond."""
MOST_PLACES: Final = 4 * MAX_PLACES
"""What is taken from elsewhere: several replicas may have forked without knowledge of each other."""


def check_item(data: bytes, what: str) -> bytes:
    """The JSON of an item or a value, or `ItemTooLarge`.

    >>> check_item(b'"Hello"', "the item")
    b'"Hello"'
    """
    if len(data) > MAX_ITEM_BYTES:
        raise ItemTooLarge(
            f"{what} has {len(data):,} bytes as JSON, and {MAX_ITEM_BYTES:,} are allowed; nothing of this call was"
            " stored: keep the content elsewhere, and store where it is"
        )
    return data


def check_call(size: int, before: int) -> None:
    """Raise `ItemTooLarge` for a call with so many bytes, in a turn that has so many before it."""
    if before + size > MAX_CALL_BYTES:
        turn = f" in a turn that has {before:,} already" if before else ""
        raise ItemTooLarge(
            f"{size:,} bytes in one call{turn}, and {MAX_CALL_BYTES:,} are allowed; nothing of this call was stored:"
            f" {'end the turn first' if before else 'make several calls of it'}"
        )


def check_key(key: str) -> str:
    """The metadata key, or `ItemTooLarge`."""
    size = len(key.encode("utf-8", "surrogatepass"))
    if size > MAX_KEY_BYTES:
        raise ItemTooLarge(
            f"a metadata key has at most {MAX_KEY_BYTES:,} bytes in UTF-8, {key[:40]!r}… has {size:,}; nothing of this"
            " call was stored"
        )
    return key
