"""How the demo takes the replicas offline, and back. What happens is what the screen says: nothing is pretended."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol

from localfirst.cli.demo.replica import Replica
from localfirst.testing.servers import ServerProcess

_NOTICE_SECONDS = 10.0
_LOOK_SECONDS = 0.02


class Outage(Protocol):
    """Something that keeps both replicas from the central store for a while."""

    beginning: str
    ending: str

    async def begin(self, replicas: tuple[Replica, ...]) -> None: ...
    async def end(self, replicas: tuple[Replica, ...]) -> None: ...


class ServerStopped:
    """The server process really ends, and starts again on the same port with the same data."""

    def __init__(self, server: ServerProcess) -> None:
        self._server = server
        self.beginning = f"The {server.title} server is shut down. Both stores stay open, and both agents write on."
        self.ending = f"The {server.title} server is started again. Nobody touches the stores: the workers find it."

    async def begin(self, replicas: tuple[Replica, ...]) -> None:
        """Stop the server, and wait until both workers have noticed."""
        await asyncio.to_thread(self._server.stop)
        deadline = time.monotonic() + _NOTICE_SECONDS
        while time.monotonic() < deadline:
            if all(replica.facts.state == "offline" for replica in replicas):
                return
            await asyncio.sleep(_LOOK_SECONDS)

    async def end(self, replicas: tuple[Replica, ...]) -> None:
        """Start the server."""
        del replicas  # They are not told.
        await asyncio.to_thread(self._server.start)


class StoresDetached:
    """For a central store that is not ours to stop: the stores are closed, and opened without it."""

    beginning = "Both stores are closed and opened again without the central store: nothing written now can leave."
    ending = "Both stores are closed and opened again with the central store."

    def __init__(self, remote: str) -> None:
        self._remote = remote

    async def begin(self, replicas: tuple[Replica, ...]) -> None:
        """Reopen both without the central store."""
        for replica in replicas:
            await replica.close()
            replica.open_offline()

    async def end(self, replicas: tuple[Replica, ...]) -> None:
        """Reopen both with it."""
        for replica in replicas:
            await replica.close()
            replica.open(self._remote)
