"""Hints by LISTEN and NOTIFY: names of channels, payloads, and a connection that listens."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from hashlib import blake2b
from typing import Any, Final

import msgspec

from sync.central.base import Hint
from sync.central.postgres.statements import QUERIES

MAX_PAYLOAD: Final = 7999
"""Bytes; Postgres takes less than 8,000."""
PROBE_SECONDS: Final = 60.0
ANSWER_SECONDS: Final = 10.0
"""A server that went away without a word is noticed within the sum of the two."""
MAX_WAITING: Final = 10_000
"""Hints that nobody took yet; of more, only that they were."""
TOO_MUCH: Final = "*"
"""The payload for hints that no payload can hold."""

_decoder: Final = msgspec.json.Decoder(list[Hint])


def channel(namespace: str) -> str:
    """The usual channel of a namespace: a hash, as an identifier has at most 63 bytes. In a database that is parted
    among roles, the schema gives it another, which can't be guessed."""
    return f"localfirst_{blake2b(namespace.encode(), digest_size=16).hexdigest()}"


def payloads(moved: Iterable[Hint]) -> list[str]:
    """Hints as JSON arrays, as few as hold them all. One that is too large becomes `TOO_MUCH`."""
    arrays: list[list[str]] = []
    room = 0
    for encoded in (json.dumps(hint, ensure_ascii=False) for hint in moved):
        size = len(encoded.encode()) + 1  # And a comma, or for the last the closing bracket.
        if size > MAX_PAYLOAD - 1:
            return [TOO_MUCH]
        if size > room:
            arrays.append([])
            room = MAX_PAYLOAD - 1
        arrays[-1].append(encoded)
        room -= size
    return [f"[{','.join(array)}]" for array in arrays]


def parse_payload(payload: str) -> list[Hint] | None:
    """The hints in a payload. None: any session may have moved. Anybody may notify on a channel, so that is what
    everything else means too."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None


class Listener:
    """One connection that listens. What it heard waits here until it is taken, the newest of each session."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._heard: dict[str, Hint] = {}
        self._lost = False
        self._news = asyncio.Event()
        self._broken = False

    async def start(self, name: str) -> None:
        """Begin to listen."""
        self._connection.add_termination_listener(self._end)
        await self._connection.add_listener(name, self._hear)

    async def hints(self) -> AsyncIterator[Hint | None]:
        """What it hears, as it comes; None when some was lost. Ends with the connection; raises when it is silent."""
        while not self._broken:
            try:
                await asyncio.wait_for(self._news.wait(), PROBE_SECONDS)
            except asyncio.TimeoutError:
                await self._connection.execute(QUERIES["probe"], timeout=ANSWER_SECONDS)
            self._news.clear()
            if self._lost:
                self._lost = False
                yield None
            heard, self._heard = self._heard, {}
            for hint in heard.values():
                yield hint

    def _hear(self, _connection: Any, _pid: int, _channel: str, payload: str) -> None:
        heard = parse_payload(payload)
        if heard is None or len(self._heard) + len(heard) > MAX_WAITING:
            self._lost = True
            self._heard.clear()
        else:
            self._heard.update((hint.session_id, hint) for hint in heard)
        self._news.set()

    def _end(self, _connection: Any) -> None:
        self._broken = True
        self._news.set()
