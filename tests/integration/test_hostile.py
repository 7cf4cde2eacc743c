"""Central stores in the wrong hands: whatever they send, memory has an end, and errors are ours."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from localfirst import limits
from localfirst.errors import LocalFirstError, RemoteRejected
from sync.central.base import CentralStore, Want
from sync.central.redis import RedisStore, bounded
from tests.integration.stores import Open

PIECE = b"x" * (1 << 18)
MOST = 8 << 20
"""What is read of a reply here; in truth it is more."""
WANTS = [Want("s", None, 0, 0)]


async def _first_hints(store: CentralStore) -> None:
    async for _ in store.watch():
        pass


CALLS: dict[str, Callable[[CentralStore], Any]] = {
    "identify": lambda store: store.identify(),
    "pull": lambda store: store.pull(WANTS, 1000),
    "heads": lambda store: store.heads(["s"]),
    "sessions": lambda store: store.sessions("", 10),
    "checkpoint": lambda store: store.checkpoint("s"),
    "watch": _first_hints,
}
ENDLESS = {
    "a string": (b"$400000000\r\n", PIECE),
    "a string in a list": (b"*3\r\n$400000000\r\n", PIECE),
    "a list of strings": (b"*9000000\r\n", b"$100000\r\n" + b"x" * 100_000 + b"\r\n"),
    "a list of numbers": (b"*9000000\r\n", b":1\r\n" * 65_000),
    "lists in lists": (b"*1\r\n*1\r\n*1\r\n*9000000\r\n", b"*1\r\n:1\r\n" * 30_000),
    "a line": (b"+", PIECE),
    "an error": (b"-ERR ", PIECE),
}


@asynccontextmanager
async def endless(start: bytes, piece: bytes) -> AsyncIterator[int]:
    """A port that greets a client, and then sends without an end."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            await reader.read(65_536)
            writer.write(b"+OK\r\n+OK\r\n")  # To what redis-py says of itself.
            await reader.read(65_536)
            writer.write(start)
            while True:
                writer.write(piece)
                await writer.drain()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("reply", ENDLESS)
async def test_what_redis_sends_without_an_end_is_cut_off(
    reply: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounded, "MAX_REPLY_BYTES", MOST)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    async with endless(*ENDLESS[reply]) as port:
        store = RedisStore(f"redis://127.0.0.1:{port}", "n")
        with pytest.raises(RemoteRejected, match="a reply of more than"):
            await asyncio.wait_for(CALLS[call](store), 20)
        await store.close()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20 * MOST / 1024, "KiB"


@pytest.mark.parametrize(
    "header", [b"*4294967295\r\n", b"*1000000000\r\n" * 9, b"*-5\r\n", b"$99999999999999999999\r\n", b"*1\r\n" * 5000]
)
async def test_what_redis_only_announces_takes_no_memory(header: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded, "MAX_REPLY_BYTES", MOST)
    async with endless(header, PIECE) as port:
        store = RedisStore(f"redis://127.0.0.1:{port}?socket_timeout=2", "n")
        with pytest.raises(LocalFirstError):
            await asyncio.wait_for(store.pull(WANTS, 1000), 20)
        await store.close()


def test_no_reply_that_is_asked_for_is_too_great() -> None:
    assert bounded.MAX_REPLY_BYTES > limits.MAX_CHECKPOINT_BYTES
    assert bounded.MAX_REPLY_BYTES > 2 * limits.MAX_CALL_BYTES + limits.MAX_CHANGE_BYTES, "a page with a large turn"


def test_ids_that_look_like_a_protocol_are_ids(remote_url: str, opened: Open) -> None:
    names = {"s\r\n*99999999\r\n", "\r\n%99999999\r\n$99999999\r\n"}
    a, b = (opened(name, remote_url, worker="none") for name in "ab")
    for name in names:
        a.session(name).set(name, name)
    a.flush(20)
    b.refresh(20)
    assert {found.session_id for found in b.sessions()} == names
    assert [b.session(name).metadata() for name in names] == [{name: name} for name in names]
    assert not a.quarantined() + b.quarantined()


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "sealed"])
def test_all_central_stores_take_what_may_be_written(remote_url: str, opened: Open, key: bytes | None) -> None:
    """The largest items, in the largest call; and they come back."""
    largest = "x" * (limits.MAX_ITEM_BYTES - 2)
    items = [largest] * 3 + [largest[:-5]]  # The brackets and commas of the call.
    a, b = (opened(name, remote_url, worker="none", encryption_key=key) for name in "ab")
    asyncio.run(a.session("s").add_items(items))
    a.flush(100)
    assert not a.quarantined()
    b.refresh(100)
    assert list(b.session("s")) == items
