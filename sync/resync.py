"""When the central log is not the one that was followed: take it as it is, and add whatever of any origin it lacks.

It was lost, restored from a backup, rewritten, folded beyond where this replica was, or belongs to another store. What
it lacks is sent before anything changes here, so a crash loses nothing, and the next round begins again. The log is
copied into a volume aside, page by page, and taken at once at the end: neither memory nor local calls feel its length.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import NamedTuple

import msgspec

from localfirst import volumes
from localfirst.change import (
    EMPTY_DIGEST,
    Change,
    decode_change,
    extend_digest,
    new_id,
)
from localfirst.checkpoint import State, hash_of, merge_states
from localfirst.errors import DecryptionError, MalformedChange, RemoteRejected, RemoteUnavailable
from localfirst.holes import first_hole, slots_above
from localfirst.lifetime import Lifetime
from localfirst.records import Head, Kept, Rename, SessionKey
from sync.central.base import Checkpoint, Pulled, PushStatus, Run, Want
from sync.central.base import Head as RemoteHead
from sync.central.digests import digest_after
from sync.compact import admit, load_state, stage_checkpoint
from sync.lives import how_ended, with_pending
from sync.retry import patiently
from sync.site import Site
from sync.stretch import Stretch, read_stretch
from sync.twins import rename_of, twin_below
from sync.unsent import Unsent


class Changed(Exception):
    """The central log changed while it was copied: begin again."""


class Stubborn(RemoteUnavailable):
    """The central store takes what its log lacks, and does not show it."""


class Lacking(RemoteRejected):
    """The central store lacks what it had, and nothing is to be sent now."""


class Unreadable(Exception):
    """An entry of the central log can't be read."""

    def __init__(self, error: MalformedChange | DecryptionError, seq: int, mark: str) -> None:
        super().__init__(str(error))
        self.error, self.seq, self.mark = error, seq, mark


class Resynced(NamedTuple):
    """What the session is to become."""

    head: Head
    rename: Rename | None


async def resync(site: Site, key: SessionKey, head: Head) -> Resynced:
    """Make a session agree with the central log, and the other way round. The result is ready to be settled."""
    stubborn = False
    for _ in range(site.limits.tries):
        copy = _Copy(site, key, head, await patiently(partial(volumes.begin, site.log, key)))
        try:
            if await copy.complete():
                return await copy.result()
        except Changed:
            pass
        except Stubborn:
            stubborn = True
        except BaseException:
            await patiently(partial(volumes.forget, site.log, key, copy.volume))
            raise
        await patiently(partial(volumes.forget, site.log, key, copy.volume))
    raise (Stubborn if stubborn else RemoteUnavailable)(
        f"session {head.session_id!r}: the central log changes faster than it can be filled again; it is tried anew"
    )


class _Copy:
    """The central log of a session, on its way into a volume."""

    def __init__(self, site: Site, key: SessionKey, head: Head, volume: bytes) -> None:
        self.volume = volume
        self._site = site
        self._key = key
        self._head = head
        self._codec = site.codec(head)
        self._remote: RemoteHead | None = None
        self._seq = 0
        self._digest = self._floor_digest = EMPTY_DIGEST
        self._floor = 0
        self._floor_hash = ""
        self._checkpoint: State | None = None
        self._seen: dict[str, int] = {}
        self._spent = 0
        self._lifetime = Lifetime()
        self._expires_at = 0
        self._twin: int | None = None
        self._same: set[int] = set()

    async def complete(self) -> bool:
        """Copy all, and send what it lacks, until it lacks nothing. False: begin again."""
        sent_at = -1
        for _ in range(self._site.limits.tries):
            await self._advance()
            if self._seq == sent_at:
                raise Stubborn
            if await self._lacks_folded():
                await self._replace()
                return False
            if not await self._send_lacking():
                return True
            sent_at = self._seq
        return False

    # Copying.

    async def _advance(self) -> None:
        """Copy what is not here yet."""
        while True:
            generation = self._remote.generation if self._remote else None
            want = Want(self._head.session_id, generation, self._seq, self._digest)
            (pulled,) = await self._site.central.pull([want], self._site.limits.pull_bytes)
            if pulled.head is None or pulled.resync:
                if generation is not None:
                    raise Changed
                if pulled.head is None:
                    return
                await self._begin_folded(pulled.head)
                continue
            self._remote = pulled.head
            self._expires_at = pulled.expires_at
            await self._take(pulled)
            if self._seq == pulled.head.seq:
                self._check(pulled.head)
                return
            if not pulled.entries:
                raise RemoteRejected(f"the central log ends before its head {pulled.head.seq}")

    async def _begin_folded(self, remote: RemoteHead) -> None:
        checkpoint = await self._site.central.checkpoint(self._head.session_id)
        if checkpoint is None or checkpoint.generation != remote.generation:
            raise Changed
        state = self._codec.take_state(checkpoint.data)
        self._checkpoint, self._remote = state, remote
        self._seq = self._floor = checkpoint.seq
        self._digest = self._floor_digest = checkpoint.digest
        self._floor_hash = hash_of(checkpoint.data)
        if state.fold.seq != checkpoint.seq:
            raise MalformedChange(f"the checkpoint at {checkpoint.seq} is one of {state.fold.seq}")
        self._seen = dict(state.fold.counters)
        self._lifetime = state.fold.lifetime
        same_life = remote.generation == self._head.generation
        self._twin = await patiently(partial(twin_below, self._site, self._key, self._head, state, same_life=same_life))
        await stage_checkpoint(self._site, self._key, self.volume, checkpoint.data)

    async def _take(self, pulled: Pulled) -> None:
        stretch = await read_stretch(
            self._site, self._key, self._head, self._seq, pulled.entries, self._twin, self._lifetime, self._seen
        )
        if stretch.poison is not None:
            entry = pulled.entries[stretch.count]
            raise Unreadable(stretch.poison, entry.seq, hash_of(entry.data))
        await patiently(partial(volumes.add_page, self._site.log, self._key, self.volume, stretch.page))
        self._note(stretch, pulled)

    def _note(self, stretch: Stretch, pulled: Pulled) -> None:
        self._seq += stretch.count
        self._digest = digest_after(self._digest, pulled.entries)
        for origin, counter in stretch.seen.items():
            self._seen[origin] = max(counter, self._seen.get(origin, 0))
        self._spent += stretch.spent
        self._lifetime = stretch.lifetime
        self._twin = stretch.twin
        self._same |= stretch.same

    def _check(self, remote: RemoteHead) -> None:
        if self._digest != remote.digest:  # Reading it again would end the same way, for ever.
            raise RemoteRejected("the central log and its own digest disagree")

    # What the central log lacks.

    async def _lacks_folded(self) -> bool:
        """Whether something that is folded here, and not to be had change by change, is not in the central log."""
        if not self._head.floor or self._head.stub:
            return False
        state = await load_state(self._site, self._key, self._head)
        return any(counter > self._seen.get(origin, 0) for origin, counter in state.fold.counters.items())

    async def _replace(self) -> None:
        """Put all that is known on either side into the central store at once, as a checkpoint."""
        await self._check_sending()
        ours = await self._folded_here()
        theirs = self._checkpoint
        if theirs is None or all(each <= ours.fold.counter(origin) for origin, each in theirs.fold.counters.items()):
            await self._fold_on(ours)
        else:
            await self._fold_on(theirs)
            ours = merge_states(ours, theirs)
        data = self._codec.encode_state(ours)
        checkpoint = Checkpoint(new_id(), ours.fold.seq, extend_digest(EMPTY_DIGEST, 0, [data]), data)
        fold = ours.fold
        await self._site.central.put_checkpoint(
            self._head.session_id, self._remote, checkpoint, fold.counters, fold.lifetime.ttl
        )

    async def _folded_here(self) -> State:
        state = await load_state(self._site, self._key, self._head)
        async for entries in self._site.kept(self._key, self._head.volume):
            for entry in entries:
                if not self._is_anothers(entry):
                    admit(self._codec, state, [entry._replace(seq=state.fold.seq + 1)])
        return state

    def _is_adrift(self, change: Change, stretch: Unsent) -> bool:
        """Whether the central log lacks what was before a change, and what was evicted here: others may have that."""
        return (
            self._head.stub and change.counter > max(self._seen.get(change.origin, 0), stretch.last(change.origin)) + 1
        )

    def _is_anothers(self, entry: Kept) -> bool:
        """Whether the central log has something else under the name of a change of ours, which gets another."""
        if self._twin is None or not entry.data:
            return False
        change = decode_change(entry.data)
        return change.origin == self._head.origin and change.counter >= self._head.counter(self._twin)

    async def _fold_on(self, state: State) -> None:
        """Fold the entries of the central log that a state lacks on top of it."""
        async for entries in self._site.kept(self._key, self.volume):
            for entry in entries:
                if entry.data:
                    admit(self._codec, state, [entry._replace(seq=state.fold.seq + 1)])

    async def _send_lacking(self) -> bool:
        """Push what is known here and not there, in the order in which it was known."""
        sent = False
        generation = self._remote.generation if self._remote else new_id()
        async for run in self._lacking(generation):
            if not sent:
                await self._check_sending()
            (outcome,) = await self._site.central.push([run])
            if outcome.status is not PushStatus.OK:
                raise Changed
            sent = True
        return sent

    async def _check_sending(self) -> None:
        if self._site.looks:
            raise Lacking("the central log lacks changes that it had; the next sync sends them again")
        head = self._head
        if head.generation is None or (self._remote and self._remote.generation == head.generation):
            return
        (pulled,) = await self._site.central.pull([Want(head.session_id, head.generation, head.seq, head.digest)], 1)
        if how_ended(self._site, head, pulled.head and pulled.head.generation, pulled.ended):
            raise Changed  # What was in a life that ended since is not sent into another.

    async def _lacking(self, generation: str) -> AsyncIterator[Run]:
        stretch = Unsent(self._site.limits, self._codec)
        async for entries in self._site.kept(self._key, self._head.volume):
            for entry in entries:
                if not entry.data:
                    continue
                change = decode_change(entry.data)
                seen = self._seen.get(change.origin, 0)
                if change.counter <= seen or self._is_anothers(entry) or self._is_adrift(change, stretch):
                    continue
                if stretch.must_go(change.origin, change.counter):
                    yield stretch.run(self._head.session_id, generation, fresh=self._remote is None)
                stretch.add(change.origin, change.counter, entry.data)
        if stretch.changes:
            yield stretch.run(self._head.session_id, generation, fresh=self._remote is None)

    # The end.

    async def result(self) -> Resynced:
        """The head that makes the volume the session's."""
        head, seen = self._head, self._seen.get(self._head.origin, 0)
        acked = head.slot(max(seen, head.first - 1))
        if self._twin is None and await patiently(partial(self._has_hole, acked)):
            self._twin = acked + 1  # What was not sent can't go under its number.
        bottom = max(head.bottom, head.slot(head.first) - 1)
        if self._checkpoint is not None:
            bottom = max(bottom, head.slot(self._checkpoint.fold.counter(head.origin)))
        if self._twin is not None:
            bottom = min(bottom, self._twin - 1)
        elif head.stub and seen < head.first - 1:
            # It has lost changes of ours that were evicted here: what is pending can't follow them under our name.
            if self._site.looks:
                raise Lacking("the central log lacks changes that it had, and that were evicted from this disk")
            self._twin, bottom = head.acked + 1, head.acked
        after = msgspec.structs.replace(
            head,
            generation=self._remote.generation if self._remote else None,
            seq=self._seq,
            digest=self._digest,
            acked=acked,
            sent=0,
            epoch=head.epoch + 1,
            volume=self.volume,
            floor=self._floor,
            floor_digest=self._floor_digest,
            floor_hash=self._floor_hash,
            bottom=bottom,
            spent=self._spent,
            lifetime=self._lifetime,
            expires_at=self._expires_at,
            seen=dict(self._seen) if self._codec.seals else None,
            locked="",
            stub=False,
            time=0,
        )
        after = await with_pending(self._site, self._key, after)
        return Resynced(after, await rename_of(self._site, self._key, head, self._twin, self._same))

    def _has_hole(self, after: int) -> bool:
        """Whether a change made here that was not admitted is missing."""
        return first_hole(slots_above(self._site.log.rows, self._key, after), after) is not None
