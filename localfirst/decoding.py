"""What stands in the rows of a local store, decoded. What can't be decoded is damage: nobody else writes there."""

from __future__ import annotations

from typing import Final

import msgspec

from localfirst.change import Change
from localfirst.codec import Codec
from localfirst.errors import MalformedChange
from localfirst.records import Head, Here, Page
from localfirst.rows import Rows

encode: Final = msgspec.msgpack.Encoder().encode
"""A `Head`, `Page` or `Here`, as a row."""
_head_decoder = msgspec.msgpack.Decoder(Head)
_page_decoder = msgspec.msgpack.Decoder(Page)
_here_decoder = msgspec.msgpack.Decoder(Here)


def decode_head(rows: Rows, value: bytes) -> Head:
    """The head in a row."""
    try:
        return _head_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise rows.damaged(f"holds a head that can't be decoded ({error})") from error


def decode_page(rows: Rows, value: bytes) -> Page:
    """The page in a row."""
    try:
        page = _page_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise rows.damaged(f"holds a page that can't be decoded ({error})") from error
    if not page:
        raise rows.damaged("holds a page without entries")
    return page


def decode_here(rows: Rows, value: bytes) -> Here:
    """The branch in a row."""
    try:
        return _here_decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise rows.damaged(f"holds a branch that can't be decoded ({error})") from error


def decode_own(rows: Rows, codec: Codec, value: bytes) -> Change:
    """The change made here in a row."""
    try:
        return codec.decode(value)
    except MalformedChange as error:
        raise rows.damaged(f"holds a change that can't be decoded ({error})") from error
