"""How long a session and its items live: settings that travel in its log, and what they mean. Pure; times are given.

A session expires when nothing was written to it for its `ttl`. Its items expire one by one, each `item_ttl` after it
was added. Milliseconds throughout; 0 is for ever.
"""

from __future__ import annotations

from typing import Annotated, Final, NamedTuple

import msgspec

from localfirst.errors import MalformedChange

_Milliseconds = Annotated[int, msgspec.Meta(ge=0, le=(1 << 53) - 1)]


class Lifetime(NamedTuple):
    """What is set for a session."""

    ttl: int = 0
    item_ttl: int = 0
    own: bool = False
    """It was set for this session; else it is the default of a store, which gives way to that."""


FOR_EVER: Final = Lifetime()


class Wish(NamedTuple):
    """What is to be set; None: as it is."""

    ttl: int | None = None
    item_ttl: int | None = None
    own: bool = False

    def differs(self, standing: Lifetime) -> bool:
        """Whether it is to be written, where something stands."""
        return (self.own or not standing.own) and self.applied(standing) != standing

    def applied(self, standing: Lifetime) -> Lifetime:
        """What stands when it was written."""
        return Lifetime(
            standing.ttl if self.ttl is None else self.ttl,
            standing.item_ttl if self.item_ttl is None else self.item_ttl,
            self.own or standing.own,
        )


class _Touch(msgspec.Struct, omit_defaults=True):
    ttl: _Milliseconds | None = None
    item_ttl: _Milliseconds | None = None
    own: bool = False


_decoder = msgspec.json.Decoder(_Touch)


def encode_touch(wish: Wish | None = None) -> bytes:
    """Body of a touch; None: it sets nothing, it only counts as a write.

    >>> encode_touch(Wish(ttl=60_000))
    b'{"ttl":60000}'
    """
    return msgspec.json.encode(_Touch(*(wish or Wish())))


def decode_touch(body: bytes) -> Wish:
    """What a touch sets. Raises `MalformedChange`.

    >>> decode_touch(encode_touch(Wish(ttl=60_000))).ttl
    60000
    """
    try:
        found = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedChange(f"a touch sets what can't be set: {error}") from error
    return Wish(found.ttl, found.item_ttl, found.own)
