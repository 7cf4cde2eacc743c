"""What is done with the central store: sessions are sent, fetched, compared with it, or given up for want of room.

All of it may be repeated. It is done once: who calls tries again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final

from localfirst.errors import RemoteRejected, of_session
from localfirst.records import Head, SessionKey, session_key
from localfirst.rotation import Rotation
from localfirst.turns import Turns
from sync.agenda import Agenda
from sync.asides import Asides, PutAside
from sync.contact import Contact
from sync.evict import Evictor
from sync.replicate import Replicator
from sync.retry import patiently
from sync.rotate import rotate
from sync.site import Site
from sync.verify import Difference, Verifier

_PULLED_AT_ONCE: Final = 100
"""Sessions that are fetched before it is seen to that there is room for more, where there is a limit."""


class Work:
    """On one directory and one namespace."""

    def __init__(
        self, directory: Path, site: Site, size_limit: int | None, contact: Contact, agenda: Agenda, asides: Asides
    ) -> None:
        self.replicator = Replicator(site)
        self.evictor = Evictor(site, size_limit)
        self._directory = directory
        self._site = site
        self._contact = contact
        self._agenda = agenda
        self._asides = asides
        self._turns = Turns(site.log)

    async def sync(self, push: set[SessionKey], pull: set[SessionKey]) -> None:
        """Rounds until there is no more to push or pull. What can't be synced is put aside."""
        while True:
            push, pull = self._asides.free(push, "push"), self._asides.free(pull, "pull")
            await self._make_room()
            if not push and not pull:
                return
            later: set[SessionKey] = set()
            if self.evictor.limit is not None:
                later = set(islice(pull, _PULLED_AT_ONCE, None))
            one_way = push - self._asides.free(push, "pull")
            self.replicator.store_id = self._contact.store_id
            result = await self.replicator.round(push, pull - later, one_way)
            self._contact.went_well()
            await self._asides.put(result.refused)
            push, pull = result.push, result.pull | later

    async def _make_room(self) -> None:
        await self.evictor.run()
        self._contact.makes_room(self.evictor.makes_room)

    async def expire(self, *, alone: bool = False) -> None:
        """Remove what expired from this disk. `alone`: the central store can't be reached."""
        measured = alone
        async for heads in self._pages():
            free = self._asides.free_to_pull(heads)
            if not measured and any(head.lifetime.item_ttl for _, head in free):
                await self._contact.identify()  # What is removed for good goes by that clock as it is now.
                measured = True
            await self._asides.put((await self.replicator.expire(free, alone=alone)).refused)

    async def send(self, wanted: dict[SessionKey, tuple[Head, int]]) -> None:
        """Send what is up to some slots, each with the head as of which it is one."""
        await self.end_turns()  # Nobody else may: without a worker, there is no poll.
        await self.move()
        unsent = await self.unsent(wanted)
        await self.sync(set(unsent), set())
        await self.replicator.tidy()
        for key in unsent:
            if (key, "push") in self._asides.stopped and key in await self.unsent(wanted):
                self._asides.check(key, "push")

    async def move(self) -> None:
        """If the central store is another one than before, send it all that is here."""
        identity, namespace = self._site.identity, self._site.namespace
        if await patiently(partial(identity.is_moving, namespace)):
            await self.sync(set(), await self.moved())
            await patiently(partial(identity.arrived, namespace))

    async def unsent(self, wanted: dict[SessionKey, tuple[Head, int]]) -> set[SessionKey]:
        """Sessions of which the central store is not known to have what is in the wanted slot."""
        unsent = set()
        for key, (before, _) in list(wanted.items()):
            head = await self._site.head(key)
            if head is None:
                continue
            if head.offset != before.offset:  # It was moved to another slot.
                wanted[key] = (head, await patiently(partial(self._site.log.last_slot, key)))
            one_way = (key, "pull") in self._asides.stopped
            if head.ending or max(head.acked, head.sent if one_way else 0) < wanted[key][1]:
                unsent.add(key)
        return unsent

    async def pull_one(self, session_id: str) -> None:
        """Bring a session here."""
        key = await self.replicator.know(session_id)
        with self.evictor.sparing(key):
            await self.sync(set(), {key})
        self._asides.check(key, "pull")
        head = await self._site.head(key)
        if head is not None and head.stub:
            raise PutAside(RemoteRejected(of_session(session_id, "the central store does not have it now")))

    async def pull_everything(self) -> None:
        """Bring all here that the central store has."""
        await self.replicator.discover()
        await self.sync(set(), await self.moved())
        await self.expire()  # Nobody else may, as for turns.

    async def verify(self, found: list[Difference], session_id: str | None, *, full: bool) -> None:
        """Compare what is here with the central store, see `sync.verify`."""
        found.clear()
        same = await self._contact.identify(looks=True)
        store_id = self._contact.store_id if same else None
        verifier = Verifier(self._site, store_id, await self._asides.stuck(), full=full)
        if session_id is not None:
            if (unknown := await verifier.unknown(session_id)) is not None:
                found.append(unknown)
                return
            await verifier.catch_up({session_key(self._site.namespace, session_id)})
        elif same:
            await self.replicator.discover()
            await verifier.catch_up(await self.moved())
        async for page in self._pages():
            heads = [(key, head) for key, head in page if session_id in (None, head.session_id)]
            found += [difference async for difference in verifier.differences(heads)]

    async def rotate(self, rotation: Rotation) -> None:
        """Seal all with the newest key, see `sync.rotate`."""
        await self.end_turns()
        await self.move()
        await self.sync(await patiently(self._agenda.waiting), set())
        await self.replicator.discover()
        keys = [key async for heads in self._pages() for key, _ in heads]
        await rotate(self._site, self.replicator, keys, rotation)
        await self.replicator.tidy()

    async def end_turns(self) -> None:
        """What a turn wrote whose process is gone goes up."""
        for key, turn in await patiently(lambda: list(self._turns.left_behind(self._directory, self._site.namespace))):
            await patiently(partial(self._turns.end, key, turn))
            self._agenda.wake()

    async def moved(self) -> set[SessionKey]:
        """The sessions known here that are not where the central store is, but for those that can't be pulled."""
        moved: set[SessionKey] = set()
        current, asked = await patiently(self._site.identity.replica_id), False
        async for heads in self._pages():
            if free := self._asides.free_to_pull(heads):
                moved |= await self.replicator.moved(free)
                asked = True
            self._agenda.dirty |= {key for key, head in heads if not head.is_by(current)}
        if not asked:
            await self._contact.identify()  # Nothing is to be asked for, but somebody may ask if it can be reached.
        return moved

    async def _pages(self) -> AsyncIterator[list[tuple[SessionKey, Head]]]:
        after: SessionKey | None = b""
        while after is not None:
            heads, after = await patiently(partial(self._site.log.heads, self._site.namespace, after))
            if heads:
                yield heads
