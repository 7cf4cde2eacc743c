"""The half of a round that fetches: what is new in the central store is checked, and taken up to where it is whole."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import msgspec

from localfirst.checkpoint import hash_of
from localfirst.errors import RemoteRejected
from localfirst.limits import MAX_CALL_BYTES
from localfirst.records import Head, SessionKey
from sync.central.base import Head as RemoteHead
from sync.central.base import Pulled, Want
from sync.central.digests import digest_after
from sync.lives import how_ended, with_pending
from sync.resync import Unreadable
from sync.round import Refusal, Round
from sync.settle import UNKNOWN_OURS, Settler
from sync.site import Site
from sync.stretch import Stretch, read_stretch
from sync.twins import rename_of

_MOST_ROOM: Final = 2 * MAX_CALL_BYTES
"""Bytes of one turn that is taken from the central store."""


class Puller:
    """Fetches the changes of others for one directory and one namespace."""

    def __init__(self, site: Site, settler: Settler) -> None:
        self._site = site
        self._settler = settler
        self._room: dict[SessionKey, int] = {}

    async def pull(self, keys: Sequence[SessionKey], result: Round) -> None:
        """Fetch what is new in some sessions: a page of each."""
        found = [(key, head) for key in keys if (head := await self._site.head(key)) is not None]
        heads = [(key, head) for key, head in found if not head.ending]
        if not heads:
            return
        wants = [Want(head.session_id, head.generation, head.seq, head.digest) for _, head in heads]
        room = max([self._site.limits.pull_bytes] + [self._room.pop(key, 0) for key, _ in heads])
        try:
            pages = await self._site.central.pull(wants, room)
        except RemoteRejected as error:
            if len(heads) == 1:
                result.refused[heads[0][0], "pull"] = Refusal(error)
                return
            middle = len(heads) // 2
            for half in (heads[:middle], heads[middle:]):
                await self.pull([key for key, _ in half], result)
            return
        for (key, head), pulled in zip(heads, pages, strict=True):
            await asyncio.sleep(0)  # The loop may be an application's.
            await self._settler.guarded(key, head, "pull", result, self._settle_pull(key, head, pulled, room, result))

    async def _settle_pull(self, key: SessionKey, head: Head, pulled: Pulled, room: int, result: Round) -> None:
        remote = pulled.head
        if how := how_ended(self._site, head, remote and remote.generation, pulled.ended):
            await self._settler.end(key, head, how, result)
        elif remote is None:
            await self._settler.lost(key, head, result)
        else:
            await self._follow(key, head, remote, pulled, room, result)

    async def _follow(
        self, key: SessionKey, head: Head, remote: RemoteHead, pulled: Pulled, room: int, result: Round
    ) -> None:
        if pulled.resync or head.stub:
            behind = head.generation in (None, remote.generation) and remote.seq >= head.seq
            reason = "is folded beyond where this replica was" if behind else "does not go on where this replica was"
            reason = "is wanted again" if behind and head.stub else reason
            await self._settler.resync(key, head, result, f"the central log {reason}", expected=behind)
            return
        stretch = await read_stretch(self._site, key, head, head.seq, pulled.entries)
        if stretch.first not in (None, head.acked + 1):
            await self._settler.resync(key, head, result, UNKNOWN_OURS)
            return
        digest = digest_after(head.digest, pulled.entries[: stretch.count])
        if stretch.poison is None and head.seq + stretch.count == remote.seq:
            if digest != remote.digest:
                await self._settler.resync(key, head, result, "the central log is not the one that was followed")
                return
        elif stretch.poison is None and stretch.whole < stretch.count:
            stretch = await read_stretch(self._site, key, head, head.seq, pulled.entries[: stretch.whole])
            if stretch.count == 0:  # It holds a part of a turn only.
                if room >= _MOST_ROOM:
                    raise RemoteRejected(f"the central log has a turn of more than {room:,} bytes after {head.seq}")
                self._room[key] = min(room * 4, _MOST_ROOM)
            digest = digest_after(head.digest, pulled.entries[: stretch.count])
        await self._take(key, head, pulled, stretch, digest, result)

    async def _take(
        self, key: SessionKey, head: Head, pulled: Pulled, stretch: Stretch, digest: int, result: Round
    ) -> None:
        assert pulled.head is not None
        after = msgspec.structs.replace(
            head,
            generation=pulled.head.generation,
            seq=head.seq + stretch.count,
            digest=digest,
            acked=max(head.acked, stretch.acked),
            spent=head.spent + stretch.spent,
            lifetime=stretch.lifetime,
            expires_at=pulled.expires_at,
            seen=stretch.known,
            locked="",
        )
        if after.lifetime != head.lifetime:
            after = await with_pending(self._site, key, after)
        if after != head:
            rename = await rename_of(self._site, key, head, stretch.twin, stretch.same)
            await self._settler.settle(key, head, after, result, stretch.page, rename)
        if stretch.poison is not None:
            entry = pulled.entries[stretch.count]
            raise Unreadable(stretch.poison, entry.seq, hash_of(entry.data))
        if after.seq < pulled.head.seq:
            if not pulled.entries:
                raise RemoteRejected(f"the central log ends before its head {pulled.head.seq}")
            result.pull.add(key)
