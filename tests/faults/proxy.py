"""A TCP proxy in front of a real server that does to connections what bad networks do.

    with Proxy(server.port) as proxy:
        store = localfirst.open(path, remote=proxy.url(server.url))
        proxy.swallow()
        ...
        proxy.heal()

It runs in a thread with an event loop of its own, so any test can use it. Bytes are held back or cut off, but never
lost from the middle of a stream: TCP does not do that either.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from localfirst.testing.servers.process import LOOPBACK, free_port

if TYPE_CHECKING:
    from typing_extensions import Self

T = TypeVar("T")

REQUEST_GAP: Final = 0.01
"""Seconds: what a client sends after so long a silence is a new request."""

_CHUNK: Final = 1 << 16
_WAITING_CHUNKS: Final = 16
"""Held back per direction; then the sender has to wait, as with a full window."""
_TICK: Final = 0.02
"""Seconds between two pieces of what is throttled."""
_PATIENCE: Final = 10.0
_RESET: Final = struct.pack("ii", 1, 0)
"""For SO_LINGER: close with a reset, not with a farewell."""


@dataclass
class Traffic:
    """What came through since the proxy began."""

    up: int = 0
    """Bytes to the server."""
    down: int = 0
    """Bytes from the server."""
    connections: int = 0
    requests: int = 0
    """Round trips, if the line is slower than `REQUEST_GAP`; without a delay, quick ones count as one."""


@dataclass
class _Weather:
    """What is wrong at the moment."""

    delay: float = 0.0
    jitter: float = 0.0
    bytes_per_second: float | None = None
    reply_bytes: int | None = None
    """After so many, a connection ends."""

    def due(self) -> float:
        """When bytes that come now go on."""
        return time.monotonic() + self.delay + random.uniform(0.0, self.jitter)


class _Line:
    """Both ends of one connection."""

    def __init__(self, client: asyncio.StreamWriter, server: asyncio.StreamWriter) -> None:
        self._ends = (client, server)
        self.asked_at = 0.0

    def reset(self) -> None:
        for end in self._ends:
            _reset(end)

    def close(self) -> None:
        for end in self._ends:
            end.close()


class Proxy:
    """Listens on a loopback port and leads to another. As a context manager it is closed on exit."""

    def __init__(self, target: int) -> None:
        self.port = free_port()
        self.traffic = Traffic()
        self.heard: bytearray | None = None
        """All that comes, if somebody listens: set it to an empty one."""
        self._target = target
        self._weather = _Weather()
        self._lines: set[_Line] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: asyncio.Server | None = None
        self._passable = asyncio.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.heal()

    def url(self, url: str) -> str:
        """The address of the server, by way of the proxy."""
        return url.replace(f":{self._target}", f":{self.port}")

    # What may go wrong. Faults add up until `heal`.

    def cut(self) -> None:
        """Reset all connections; new ones are welcome."""
        self._do(self._cut())

    def refuse(self) -> None:
        """Refuse new connections; those that are there stay."""
        self._do(self._refuse())

    def delay(self, seconds: float, jitter: float = 0.0) -> None:
        """Let bytes arrive later, each way, by so much and up to `jitter` more; their order stays."""
        self._weather.delay, self._weather.jitter = seconds, jitter

    def throttle(self, bytes_per_second: float) -> None:
        """Let no more through, per connection and direction."""
        self._weather.bytes_per_second = bytes_per_second

    def truncate(self, reply_bytes: int) -> None:
        """Close the connection that brings so many more bytes of replies (of all connections together) after them."""
        self._weather.reply_bytes = reply_bytes

    def swallow(self) -> None:
        """Accept and keep connections, and let nothing through: what is sent arrives after `heal`, if anybody waits."""
        self._do(self._swallow())

    def heal(self) -> None:
        """From now on, nothing is wrong. What was held back goes on its way."""
        self._do(self._heal())

    def lead_to(self, port: int) -> None:
        """Lead to another server, as after a failover: connections to the old one end."""
        self._target = port
        self.cut()

    def close(self) -> None:
        """End all connections, and the thread."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_PATIENCE)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # In the proxy's loop.

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    async def _cut(self) -> None:
        for line in self._lines:
            line.reset()

    async def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _swallow(self) -> None:
        self._passable.clear()

    async def _heal(self) -> None:
        self._weather = _Weather()
        if self._listener is None:
            self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port)
        self._passable.set()

    async def _end(self) -> None:
        await self._refuse()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._connect(reader, writer)
        except (OSError, asyncio.CancelledError):  # The server is not there, or an end has gone.
            _reset(writer)
        finally:
            self._tasks.discard(task)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.traffic.connections += 1
        from_server, to_server = await asyncio.open_connection(LOOPBACK, self._target)
        line = _Line(writer, to_server)
        self._lines.add(line)
        both = [
            asyncio.ensure_future(self._carry(line, reader, to_server, is_reply=False)),
            asyncio.ensure_future(self._carry(line, from_server, writer, is_reply=True)),
        ]
        try:
            await asyncio.gather(*both)
            line.close()
        finally:
            for way in both:
                way.cancel()
            line.reset()
            self._lines.discard(line)

    async def _carry(
        self, line: _Line, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, is_reply: bool
    ) -> None:
        """One direction, until its source ends."""
        waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING_CHUNKS)
        taking = asyncio.ensure_future(self._take(line, source, waiting, is_reply=is_reply))
        try:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - time.monotonic()))
                await self._passable.wait()
                if not data:
                    with contextlib.suppress(OSError):  # The other end has gone as well.
                        sink.write_eof()
                    return
                await self._give(line, sink, data, is_reply=is_reply)
        finally:
            taking.cancel()

    async def _take(
        self,
        line: _Line,
        source: asyncio.StreamReader,
        waiting: asyncio.Queue[tuple[float, bytes]],
        *,
        is_reply: bool,
    ) -> None:
        """What comes, and when it may go on; empty at the end."""
        data = b"more"
        while data:
            try:
                data = await source.read(_CHUNK)
            except OSError:
                line.reset()
                data = b""
            self._count(line, len(data), is_reply=is_reply)
            if self.heard is not None:
                self.heard += data
            await waiting.put((self._weather.due(), data))

    def _count(self, line: _Line, size: int, *, is_reply: bool) -> None:
        if is_reply:
            self.traffic.down += size
        elif size:
            now = time.monotonic()
            self.traffic.up += size
            self.traffic.requests += now - line.asked_at > REQUEST_GAP
            line.asked_at = now

    async def _give(self, line: _Line, sink: asyncio.StreamWriter, data: bytes, *, is_reply: bool) -> None:
        left = self._weather.reply_bytes if is_reply else None
        if left is not None:
            self._weather.reply_bytes = None if len(data) >= left else left - len(data)
            data = data[:left]
        for piece, seconds in self._pieces(data):
            sink.write(piece)
            await sink.drain()
            await asyncio.sleep(seconds)
        if left is not None and len(data) == left:
            line.close()

    def _pieces(self, data: bytes) -> list[tuple[bytes, float]]:
        """Each with the seconds that it takes."""
        rate = self._weather.bytes_per_second
        if rate is None:
            return [(data, 0.0)]
        size = max(1, round(rate * _TICK))
        return [(data[start : start + size], size / rate) for start in range(0, len(data), size)]


def _reset(end: asyncio.StreamWriter) -> None:
    connection = end.get_extra_info("socket")
    if connection is not None and not end.transport.is_closing():
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    end.transport.abort()
