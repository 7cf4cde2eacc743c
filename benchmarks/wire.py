"""What goes over the wire, both ways, when many items that were written offline go up."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

import localfirst
from benchmarks.messages import messages
from benchmarks.processes import ANSWER_SECONDS
from localfirst.testing.servers import ServerProcess
from tests.faults.proxy import Proxy

SESSIONS: Final = 10

_supply: Final = messages(997, seed=2)


async def measure_wire(directory: Path, server: ServerProcess, items: int) -> float:
    """Bytes on the wire per byte of items as JSON. Each item is added by a call of its own."""
    namespace = directory.name
    written = [_supply[number % len(_supply)] for number in range(items)]
    async with localfirst.open(directory, remote="", namespace=namespace) as store:
        for number, item in enumerate(written):
            await store.session(f"s{number % SESSIONS}").add_items([item])
    with Proxy(server.port) as proxy:
        async with localfirst.open(directory, remote=proxy.url(server.url), namespace=namespace) as store:
            await store.aflush(ANSWER_SECONDS)
        moved = proxy.traffic.up + proxy.traffic.down
    return moved / sum(len(msgspec.json.encode(item)) for item in written)
