"""A limit to what is read of one reply. redis-py has none: it reads for as long as a server sends."""

from __future__ import annotations

from typing import Any, Final

from redis import exceptions as redis
from redis.asyncio.connection import DefaultParser

from localfirst.limits import MAX_CHECKPOINT_BYTES

MAX_REPLY_BYTES = MAX_CHECKPOINT_BYTES + (64 << 20)
"""Greater than any reply to what is asked: a checkpoint, or a page with one change, and what stands around them."""
MAX_PARTS: Final = 10_000_000
"""Of the lists in a reply, all together. hiredis makes room for as many as are announced."""

_HEADER_BYTES: Final = 32
_STRINGS: Final = b"$=!"
_LISTS: Final = b"*%~>|"


class TooMuch(redis.RedisError):
    """A reply that has no end, or is far greater than anything that was asked for."""


class Announced:
    """Counts the parts that lists announce, before anything is made of them. What is in strings is passed over,
    whatever it looks like.

    >>> announced = Announced()
    >>> for piece in (b"*2\\r\\n$4\\r\\n*7\\r", b"\\n\\r\\n*1", b"2\\r\\n"):
    ...     announced.follow(piece)
    >>> announced.parts
    14
    """

    def __init__(self) -> None:
        self.parts = 0
        self._skip = 0
        self._line = b""
        self._return = b""

    def follow(self, piece: bytes) -> None:
        """Look at the next bytes."""
        piece, place, size = self._return + piece, 0, len(self._return) + len(piece)
        self._return = b""
        while place < size:
            if self._skip:
                step = min(self._skip, size - place)
                self._skip -= step
                place += step
                continue
            end = piece.find(b"\r\n", place)
            if end < 0:  # It may be long: an error, or a number of any size.
                end = size - (piece[-1:] == b"\r")
                self._line, self._return = self._header(piece, place, end), piece[end:]
                return
            self._take(self._header(piece, place, end))
            self._line = b""
            place = end + 2

    def _header(self, piece: bytes, start: int, end: int) -> bytes:
        return (self._line + piece[start : min(end, start + _HEADER_BYTES)])[:_HEADER_BYTES]

    def _take(self, line: bytes) -> None:
        kind, digits = line[:1], line[1:]
        if kind and digits.isdigit():
            if kind in _STRINGS:
                self._skip = int(digits) + 2
            elif kind in _LISTS:
                self.parts += int(digits)


class BoundedParser(DefaultParser):  # type: ignore[misc, valid-type]
    """Of hiredis, which is fed piece by piece. The connection is closed by whatever is raised here."""

    _taken = 0
    _announced = Announced()

    def on_connect(self, connection: Any) -> None:
        self._taken, self._announced = 0, Announced()
        super().on_connect(connection)

    async def read_from_socket(self) -> bool:
        buffer = await self._stream.read(self._read_size)
        if not buffer:
            raise redis.ConnectionError("Connection closed by server.")
        self._taken += len(buffer)
        self._announced.follow(buffer)
        if self._taken > MAX_REPLY_BYTES or self._announced.parts > MAX_PARTS:
            raise TooMuch(f"a reply of more than {MAX_REPLY_BYTES:,} bytes, or of millions of parts")
        self._reader.feed(buffer)
        return True

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        response = await super().read_response(*arguments, **options)
        self._taken = self._announced.parts = 0
        return response


PARSER: Final[dict[str, Any]] = {"parser_class": BoundedParser} if hasattr(DefaultParser, "read_from_socket") else {}
"""Options of a connection. Without hiredis, which is a dependency, redis-py's own parser is left as it is."""
