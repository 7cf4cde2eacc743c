"""Replies of the scripts, decoded. What comes from a server is data: anything unexpected is a `RemoteRejected`."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Annotated, Any, Final, NamedTuple

import msgspec

from localfirst.errors import RemoteRejected
from sync.central.base import FORMAT_VERSION, Checkpoint, Ended, Head, Identity, LogEntry, Pulled, Pushed, PushStatus

_Whole = Annotated[int, msgspec.Meta(ge=0, lt=1 << 53)]
_Lane = Annotated[int, msgspec.Meta(ge=0, lt=1 << 31)]
_DIGEST_BYTES: Final = 8
_STAMP_BYTES: Final = 32
"""In which a time ends, if it is one."""


class _Identity(NamedTuple):
    store_id: bytes | None
    format: bytes
    now: _Whole


class _Push(NamedTuple):
    status: bytes
    generation: bytes
    acked: _Whole
    admitted: _Whole
    seq: _Whole
    digest0: _Lane
    digest1: _Lane
    now: _Whole
    expires_at: _Whole
    ended: bytes


class _Head(NamedTuple):
    generation: bytes
    seq: _Whole
    digest0: _Lane
    digest1: _Lane


class _Checkpoint(NamedTuple):
    generation: bytes
    seq: _Whole
    digest0: _Lane
    digest1: _Lane
    data: bytes


class _Page(NamedTuple):
    generation: bytes
    seq: _Whole
    digest0: _Lane
    digest1: _Lane
    expires_at: _Whole
    ended: bytes
    resync: _Whole
    lengths: bytes
    elements: bytes


def identity(reply: Any) -> Identity:
    """Of identify.lua."""
    fields: _Identity = _convert(reply, _Identity)
    version = _number(fields.format)
    if fields.store_id is None and version <= FORMAT_VERSION:  # a newer one may keep it elsewhere
        raise RemoteRejected("there is a format, and no store_id")
    return Identity(_text(fields.store_id or b""), version, fields.now)


def pushed(reply: Any) -> Pushed:
    """Of push.lua."""
    fields: _Push = _convert(reply, _Push)
    try:
        status = PushStatus(_text(fields.status))
    except ValueError:
        raise RemoteRejected(f"a push has the unknown status {fields.status!r}") from None
    return Pushed(
        status=status,
        generation=_text(fields.generation),
        acked=fields.acked,
        admitted=fields.admitted,
        head=fields.seq,
        digest=fields.digest0 << 32 | fields.digest1,
        admitted_at=fields.now,
        expires_at=fields.expires_at,
        ended=_ended(fields.ended),
    )


def several(reply: Any, count: int) -> list[Any]:
    """Of a script that replies for each of so many sessions; each may be an error."""
    if not isinstance(reply, list) or len(reply) != count:
        raise RemoteRejected(f"not a list of {count} replies")
    return reply


def head(reply: Any) -> Head | None:
    """Of one session, of heads.lua."""
    if reply is None:
        return None
    fields: _Head = _convert(reply, _Head)
    return Head(_text(fields.generation), fields.seq, fields.digest0 << 32 | fields.digest1)


def checkpoint(reply: Any) -> Checkpoint | None:
    """Of checkpoint.lua."""
    if reply is None:
        return None
    fields: _Checkpoint = _convert(reply, _Checkpoint)
    return Checkpoint(_text(fields.generation), fields.seq, fields.digest0 << 32 | fields.digest1, fields.data)


def pulled(reply: Any, after: int) -> Pulled:
    """Of pull.lua, asked for what comes after `after`."""
    page: _Page = _convert(reply, _Page)
    ended = _ended(page.ended)
    if not page.generation:
        return Pulled(None, False, [], ended=ended)
    end = Head(_text(page.generation), page.seq, page.digest0 << 32 | page.digest1)
    return Pulled(end, page.resync == 1, list(_entries(page, after + 1)), page.expires_at, ended)


def count(reply: Any) -> int:
    """Of a command that counts."""
    whole: int = _convert(reply, _Whole)
    return whole


def members(reply: Any) -> list[bytes]:
    """Of a command that lists."""
    found: list[bytes] = _convert(reply, list[bytes])
    return found


def _entries(page: _Page, first: int) -> Iterator[LogEntry]:
    """What stands in the log from a seq on: `<admitted_at>:<digest><wire bytes>` each, one after the other."""
    elements, end = page.elements, 0
    stamp, admitted_at, before = b":", 0, 0
    for seq, length in enumerate(_lengths(page), first):
        place, end = end, end + length
        if not before or not elements.startswith(stamp, place, end):  # Changes of one push have the same.
            time, separator, _ = elements[place : min(end, place + _STAMP_BYTES)].partition(b":")
            stamp, admitted_at = time + separator, _number(time)
            before = len(stamp) + _DIGEST_BYTES
        if length < before:
            raise RemoteRejected(f"change {seq} in the log has no digest")
        yield LogEntry(seq, admitted_at, elements[place + before : end])


def _lengths(page: _Page) -> tuple[int, ...]:
    """Of the elements of a page."""
    count, rest = divmod(len(page.lengths), 4)
    if not rest and count * _DIGEST_BYTES <= len(page.elements):  # Else it is not worth the memory that they take.
        lengths = struct.unpack(f">{count}I", page.lengths)
        if sum(lengths) == len(page.elements):
            return lengths
    raise RemoteRejected(f"{len(page.elements):,} bytes are not {count:,} changes of a log")


def _ended(reply: bytes) -> Ended | None:
    if reply == b"expired":
        return "expired"
    return "deleted" if reply == b"deleted" else None


def _convert(reply: Any, to: Any) -> Any:
    try:
        return msgspec.convert(reply, to)
    except msgspec.ValidationError as error:
        raise RemoteRejected(f"a reply makes no sense: {error}") from None


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise RemoteRejected(f"not UTF-8: {data[:40]!r}") from None


def _number(data: bytes) -> int:
    if len(data) > 15 or not data.isdigit():
        raise RemoteRejected(f"not a number: {data[:40]!r}")
    return int(data)
