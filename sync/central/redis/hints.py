"""Hints that sessions moved: pub/sub on a connection of its own.

Not redis-py's PubSub, which connects and subscribes again by itself: nobody would know that hints were missed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any, Final

import msgspec
from redis.asyncio.connection import AbstractConnection

from localfirst.errors import RemoteUnavailable
from sync.central.base import Hint
from sync.central.redis.errors import Server, translate

QUIET_SECONDS = 60.0
"""After so long without a message the server is asked whether it is still there."""
ANSWER_SECONDS = 10.0
"""It has so long to answer."""

_decode: Final = msgspec.json.Decoder(Hint).decode


async def watch(connection: AbstractConnection, channel: str, server: Server) -> AsyncGenerator[Hint | None, None]:
    """None once subscribed, then hints; ends with `RemoteUnavailable`."""
    try:
        with translate(server):
            await connection.connect()  # type: ignore[no-untyped-call]
            await connection.send_command("SUBSCRIBE", channel)
        while True:
            message = await _next_message(connection, server)
            if message[0] == b"subscribe":
                yield None
            elif message[0] == b"message" and (hint := _hint(message)):
                yield hint
    finally:
        await connection.disconnect(nowait=True)


async def _next_message(connection: AbstractConnection, server: Server) -> list[Any]:
    """The next message, of whatever kind; a connection that is only half open is noticed."""
    with translate(server):
        message = await connection.read_response(timeout=QUIET_SECONDS, push_request=True)
        if message is None:
            await connection.send_command("PING", check_health=False)
            message = await connection.read_response(timeout=ANSWER_SECONDS, push_request=True)
    if message is None:
        raise RemoteUnavailable(f"{server.name}: no answer within {ANSWER_SECONDS:g} s")
    return message if isinstance(message, list) and message else [message]  # RESP3 answers PING with a bare PONG


def _hint(message: list[Any]) -> Hint | None:
    try:
        return _decode(message[2])
    except (IndexError, TypeError, UnicodeDecodeError, RecursionError, msgspec.DecodeError):
        return None  # anybody may publish anything, and a hint may be lost
