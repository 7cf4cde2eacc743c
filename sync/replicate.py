"""What one round of replication does, against the interfaces of log and central store only.

A round over some sessions: push what is pending, pull what is new, store it and move the cursor in one local
transaction. A crash between any two steps repeats the round and changes nothing: the push is deduplicated by counter,
the pull by cursor. Nothing here knows when a round is due, or retries one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Any, Final

from localfirst import volumes
from localfirst.errors import RemoteRejected
from localfirst.records import Head, SessionKey, session_key
from sync.central.base import Head as RemoteHead
from sync.compact import fold_expired
from sync.lives import drop_spent, send_deletions
from sync.pull import Puller
from sync.push import Pusher
from sync.retry import patiently
from sync.round import Round
from sync.settle import Settler
from sync.site import Site
from sync.tasks import overlap

_PULLS: Final = 2
"""At most: one is on its way while another is taken, and each may have some MB."""


class Replicator:
    """Moves the changes of one directory and one namespace both ways."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._settler = Settler(site)
        self._pusher = Pusher(site, self._settler)
        self._puller = Puller(site, self._settler)
        self.store_id = ""
        """The central store, by its id, once it is known."""

    async def round(
        self, push: Iterable[SessionKey], pull: Iterable[SessionKey], one_way: Iterable[SessionKey] = ()
    ) -> Round:
        """Push what is pending in some sessions, then fetch what is new in some. `one_way`: nothing can be pulled."""
        result = Round(one_way=frozenset(one_way), store_id=self.store_id)
        behind = list(pull)
        behind += await self._pusher.push(self._each(push), result)
        most = min(_PULLS, self._site.limits.in_flight)
        await overlap(self._pulls(dict.fromkeys(behind), result), lambda: most)
        return result

    async def _each(self, keys: Iterable[SessionKey]) -> AsyncGenerator[SessionKey, None]:
        """Sessions, once what was deleted here of them is deleted in the central store."""
        async for batch in self._cleared(keys):
            for key in batch:
                yield key

    async def _pulls(
        self, keys: Iterable[SessionKey], result: Round
    ) -> AsyncGenerator[Coroutine[Any, Any, None], None]:
        async for batch in self._cleared(keys):  # Else what was deleted here would come back for a while.
            yield self._puller.pull([key for key in batch if (key, "pull") not in result.refused], result)

    async def _cleared(self, keys: Iterable[SessionKey]) -> AsyncGenerator[list[SessionKey], None]:
        for batch in self._batched(keys):
            await self._send_deletions(batch)
            yield batch

    async def _send_deletions(self, keys: Sequence[SessionKey]) -> None:
        if not self._site.looks:
            await send_deletions(self._site, keys)

    async def moved(self, heads: Sequence[tuple[SessionKey, Head]]) -> set[SessionKey]:
        """Which of some sessions are not where the central store is: one round trip, if it refuses none of them."""
        try:
            found = await self._site.central.heads([head.session_id for _, head in heads])
        except RemoteRejected:
            if len(heads) == 1:
                return {heads[0][0]}  # A pull will tell what is wrong with it.
            middle = len(heads) // 2
            return await self.moved(heads[:middle]) | await self.moved(heads[middle:])
        return {key for (key, head), remote in zip(heads, found, strict=True) if _has_moved(head, remote)}

    async def discover(self) -> list[SessionKey]:
        """Make every session of the central store known here, and tell which were not."""
        unknown: list[SessionKey] = []
        after = ""
        while names := await self._site.central.sessions(after, 1000):
            for name in names:
                key = session_key(self._site.namespace, name)
                if await self._site.head(key) is None:
                    await self.know(name)
                    unknown.append(key)
            after = names[-1]
        return unknown

    async def know(self, session_id: str) -> SessionKey:
        """Make one session known here, whether the central store has it or not."""
        key = session_key(self._site.namespace, session_id)
        origin = await patiently(self._site.identity.replica_id)
        await patiently(partial(self._site.log.create, key, Head(self._site.namespace, session_id, origin)))
        return key

    async def expire(self, heads: Iterable[tuple[SessionKey, Head]], *, alone: bool = False) -> Round:
        """Remove from this disk what of some sessions has expired. `alone`: the central store can't be reached."""
        result = Round()
        for key, head in heads:
            if alone and head.ttl:
                await drop_spent(self._site, key, head)
            if head.lifetime.item_ttl and not head.stub:
                folding = fold_expired(self._site, key, head, alone=alone)
                await self._settler.guarded(key, head, "pull", result, folding)
        return result

    async def tidy(self, steps: int = 1 << 30) -> None:
        """Remove what is no longer used from this disk, in small steps."""
        log = self._site.log
        for step in (partial(volumes.sweep, log), log.rows.give_back, log.scrub):
            while steps > 0 and await patiently(step):
                steps -= 1
                await asyncio.sleep(0)

    def _batched(self, keys: Iterable[SessionKey]) -> Iterator[list[SessionKey]]:
        remaining = iter(keys)
        while batch := list(islice(remaining, self._site.limits.batch_sessions)):
            yield batch


def _has_moved(head: Head, remote: RemoteHead | None) -> bool:
    """Whether a session is not where the central store is. A stub does not follow, but it may be over."""
    return remote is None if head.stub else _cursor(head) != (remote or (None, 0, 0))


def _cursor(head: Head) -> tuple[str | None, int, int]:
    return head.generation, head.seq, head.digest
