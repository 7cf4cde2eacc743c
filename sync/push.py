"""The half of a round that sends: what is pending here goes to the central store, as runs of one session each."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Coroutine, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec

from localfirst.change import decode_change, derived_id, extend_digest_by, new_id
from localfirst.errors import DecryptionError, RemoteRejected
from localfirst.lifetime import Lifetime
from localfirst.lives import touched, ttl_set_by
from localfirst.records import Head, OwnRange, Page, Rename, SessionKey, number
from localfirst.turns import whole
from sync.central.base import Pushed, PushStatus, Run
from sync.lives import how_ended, is_over
from sync.retry import patiently
from sync.round import Refusal, Round
from sync.settle import UNKNOWN_OURS, Settler
from sync.site import Site
from sync.stretch import MOST_MS, has_all, seen_after, spent_by
from sync.tasks import overlap

_HOPELESS: Final = 5
"""How often in a row a gap is found in a log that was read anew."""

_RENAMES: Final = 10
"""How often another process may rename what is pending while it is read."""

_QUICK_SECONDS: Final = 1.0
"""In which a batch gets through where there is room for more: all of them together stay far below any timeout."""


class _Batch(NamedTuple):
    """Bytes that are ready to go, and the head that they follow."""

    key: SessionKey
    head: Head
    run: Run
    size: int
    more: bool
    """There may be more changes than these."""


class Pusher:
    """Sends the changes of one directory and one namespace."""

    def __init__(self, site: Site, settler: Settler) -> None:
        self._site = site
        self._settler = settler
        self._gaps: dict[SessionKey, int] = {}
        self._quick = False

    async def push(self, keys: AsyncGenerator[SessionKey, None], result: Round) -> list[SessionKey]:
        """Push what is pending in some sessions. Returns those that only a pull can settle."""
        behind: list[SessionKey] = []
        await overlap(self._steps(keys, result, behind), self._most)
        return behind

    def _most(self) -> int:
        """A slow line has no room for more than one batch, if that is to be there in time."""
        return self._site.limits.in_flight if self._quick else 1

    async def _steps(
        self, keys: AsyncGenerator[SessionKey, None], result: Round, behind: list[SessionKey]
    ) -> AsyncGenerator[Coroutine[Any, Any, None], None]:
        """Batches, each to be sent while the next is read."""
        limits, size = self._site.limits, 0
        batches: list[_Batch] = []
        async for key in keys:
            await asyncio.sleep(0)  # The loop may be an application's.
            head = await self._site.head(key)
            if head is None:
                continue
            batch = await self._settler.guarded(key, head, "push", result, self._pending(key, head, result))
            if batch is None:
                continue
            if batches and (size + batch.size > limits.push_bytes or len(batches) == limits.batch_sessions):
                yield self._step(batches, size, result, behind)
                batches, size = [], 0
            batches.append(batch)
            size += batch.size
        if batches:
            yield self._step(batches, size, result, behind)

    async def _step(self, batches: list[_Batch], size: int, result: Round, behind: list[SessionKey]) -> None:
        start = time.monotonic()
        try:
            sent = await self._send(batches, result)
        except BaseException:
            self._quick = False
            raise
        if 2 * size >= self._site.limits.push_bytes:  # What is small tells nothing.
            self._quick = time.monotonic() - start < _QUICK_SECONDS
        for batch, outcome in sent:
            settled = await self._settler.guarded(
                batch.key, batch.head, "push", result, self._settle_push(batch, outcome, result)
            )
            if settled is False:
                behind.append(batch.key)
            if batch.more:
                result.push.add(batch.key)

    async def _pending(self, key: SessionKey, head: Head | None, result: Round) -> _Batch | None:
        for again in reversed(range(_RENAMES)):
            if head is None:
                return None
            if head.ending:  # It was deleted just now. That goes first, or it would take what was written since.
                result.push.add(key)
                return None
            if await is_over(self._site, key, head):
                await self._settler.end(key, head, "expired", result)
                return None
            after = max(head.acked, head.sent) if key in result.one_way else head.acked
            found = await self._run(key, after)
            if found is not None:
                return await self._batch(key, head, after, *found)
            if not again:
                await self._go_around(key, head, result)
            await asyncio.sleep(0)
            head = await self._site.head(key)
        return None

    async def _go_around(self, key: SessionKey, head: Head, result: Round) -> None:
        """A change made here is missing on this disk, and what stands behind it can't be sent under its number."""
        (remote,) = await self._site.central.heads([head.session_id])
        if remote is None and head.generation is not None:
            await self._settler.lost(key, head, result)
        else:
            await self._settler.resync(key, head, result, "a change made here is missing on this disk")

    async def _batch(self, key: SessionKey, head: Head, after: int, changes: list[bytes], more: bool) -> _Batch | None:
        if not changes:
            await self._adopt(key, head)
            return None
        fresh, generation = head.generation is None, head.generation or new_id()
        ttl = self._ttl(head, changes)
        run = Run(head.session_id, generation, fresh, head.origin, head.counter(after + 1), changes, ttl)
        run.hashes  # noqa: B018 - here, session by session: the agent's thread gets its turn between them
        return _Batch(key, head, run, sum(map(len, changes)), more)

    def _ttl(self, head: Head, changes: Sequence[bytes]) -> int | None:
        try:
            return ttl_set_by(self._site.codec(head), changes)
        except DecryptionError:
            return head.lifetime.ttl  # What is pending goes up without its key, too: it is noted in the head.

    def _lifetime(self, head: Head, changes: Sequence[bytes]) -> Lifetime:
        try:
            return touched(self._site.codec(head), head.lifetime, changes)
        except DecryptionError:
            return head.lifetime

    async def _run(self, key: SessionKey, start: int) -> tuple[list[bytes], bool] | None:
        """What may go of what is in the slots above: no part of a turn. And whether there may be more.

        None: another process renamed it since the head was read; look again.
        """
        limits = self._site.limits
        changes: list[bytes] = []
        while True:
            after, room = start + len(changes), limits.run_bytes - sum(map(len, changes))
            found = await patiently(partial(self._site.log.run, key, after, limits.run_changes, max(room, 1)))
            if b"" in found:
                return None
            changes += found
            more = bool(found) and (len(found) == limits.run_changes or sum(map(len, found)) >= room)
            if (safe := whole(changes)) or not more:
                return changes[:safe], more
            await asyncio.sleep(0)  # A turn that is larger than a run goes whole.

    async def _adopt(self, key: SessionKey, head: Head) -> None:
        """Nothing is pending: if this directory has got another name, from here on it is used."""
        current = await patiently(self._site.identity.replica_id)
        if head.is_by(current) or (last := await patiently(partial(self._site.log.last_slot, key))) > head.acked:
            return
        taken = max(head.bottom, head.slot(head.first) - 1)
        async for page in self._site.pages(key, head.volume):
            taken = max([taken] + [own.slot + own.count - 1 for own in page.own])
        if taken == head.acked:  # Else some that were admitted are not in the pages yet, and only their old name tells.
            rename = Rename(head.acked + 1, derived_id(current, number(last + 1)), 1)
            await patiently(partial(self._site.log.settle, key, head, head, (), rename))

    async def _send(self, batches: Sequence[_Batch], result: Round) -> list[tuple[_Batch, Pushed]]:
        """What became of each. What the store refuses together is taken apart, until it is known what it refuses."""
        if not batches:
            return []
        try:
            outcomes = await self._site.central.push([batch.run for batch in batches])
        except RemoteRejected as error:
            if len(batches) == 1:
                return await self._send_part(batches[0], error, result)
            middle = len(batches) // 2
            return await self._send(batches[:middle], result) + await self._send(batches[middle:], result)
        return list(zip(batches, outcomes, strict=True))

    async def _send_part(self, batch: _Batch, error: RemoteRejected, result: Round) -> list[tuple[_Batch, Pushed]]:
        """The first half of a run that is refused; the other half has its turn in the next round."""
        changes = batch.run.changes
        unit = next(count for count in range(1, len(changes) + 1) if whole(changes[:count]))
        if unit == len(changes):
            result.refused[batch.key, "push"] = Refusal(error, batch.head.slot(batch.run.first), unit)
            return []
        half = whole(changes[: len(changes) // 2]) or unit
        run = replace(batch.run, changes=changes[:half])
        return await self._send([batch._replace(run=run, size=sum(map(len, run.changes)), more=True)], result)

    async def _settle_push(self, batch: _Batch, outcome: Pushed, result: Round) -> bool:
        """Record what became of a run. False: others were admitted too, or it was admitted before; a pull will tell."""
        key, head = batch.key, batch.head
        if outcome.status is PushStatus.GAP:
            return await self._fill_gap(key, head, result)
        if outcome.status in (PushStatus.GENERATION, PushStatus.MISSING):
            return await self._settle_refused(key, head, outcome, result)
        self._gaps.pop(key, None)
        if outcome.status is PushStatus.OVERLAP:
            result.push.add(key)
        if key in result.one_way:
            return await self._note_sent(key, head, batch.run, outcome, result)
        there, here = (outcome.generation, outcome.head, outcome.digest), (head.generation, head.seq, head.digest)
        if not outcome.admitted and there == here:
            await self._settler.resync(key, head, result, UNKNOWN_OURS)
            return True
        if await self._settle_alone(key, head, batch.run, outcome, result):
            return True
        if head.generation is None:
            await self._join(key, head, outcome, result)
        return False

    async def _settle_refused(self, key: SessionKey, head: Head, outcome: Pushed, result: Round) -> bool:
        """The life that the run was for is not there."""
        if how := how_ended(self._site, head, outcome.generation or None, outcome.ended):
            await self._settler.end(key, head, how, result)
        elif key not in result.one_way:
            return False
        elif outcome.status is PushStatus.MISSING:
            await self._settler.lost(key, head, result)
        else:
            await self._settler.resync(key, head, result, "the central log, which could not be read, was replaced")
        return True

    async def _settle_alone(self, key: SessionKey, head: Head, run: Run, outcome: Pushed, result: Round) -> bool:
        """Record a run that was admitted right behind the cursor. False: it was not, or something else is different."""
        count = len(run.changes)
        alone = (
            outcome.admitted == count
            and outcome.head == head.seq + count
            and head.generation in (None, outcome.generation)
            and 0 <= outcome.admitted_at < MOST_MS
            and outcome.digest == extend_digest_by(head.digest, outcome.admitted_at, run.hashes)
        )
        if not alone:
            return False
        page = Page([OwnRange(head.seq + 1, outcome.admitted_at, head.slot(run.first), count)], [])
        after = msgspec.structs.replace(
            head,
            generation=outcome.generation,
            seq=outcome.head,
            digest=outcome.digest,
            acked=head.acked + count,
            spent=head.spent + sum(map(spent_by, map(decode_change, run.changes))),
            lifetime=self._lifetime(head, run.changes),
            expires_at=outcome.expires_at,
            seen=seen_after(self._site, head, {run.origin: run.first + count - 1}),
        )
        await self._settler.settle(key, head, after, result, page)
        return True

    async def _join(self, key: SessionKey, head: Head, outcome: Pushed, result: Round) -> None:
        """Follow the life that took a run, from its beginning: it may end before it is read, and what was sent with
        it."""
        after = msgspec.structs.replace(
            head, generation=outcome.generation, expires_at=outcome.expires_at, store=result.store_id
        )
        if await patiently(partial(self._site.log.settle, key, head, after)) is None:
            result.push.add(key)  # Another process was faster: look again.

    async def _fill_gap(self, key: SessionKey, head: Head, result: Round) -> bool:
        """The central store has fewer of our changes than it had."""
        if self._gaps.get(key, 0) == _HOPELESS:
            del self._gaps[key]
            raise RemoteRejected("the central store lacks changes that its log has")
        await self._settler.resync(key, head, result, "the central store has fewer of our changes than it had")
        self._gaps[key] = self._gaps.get(key, 0) + 1  # Only now: it came to its end, and should have helped.
        return True

    async def _note_sent(self, key: SessionKey, head: Head, run: Run, outcome: Pushed, result: Round) -> bool:
        """The central log can't be taken, so what it has of ours stays pending; only go on behind it."""
        last = head.slot(run.first) + len(run.changes) - 1
        sent = min(head.slot(outcome.acked), last)
        if not outcome.admitted and not await self._is_ours(head, run.changes[: outcome.acked - run.first + 1]):
            reason = "the central log, which could not be read, may have a twin's changes"
            await self._settler.resync(key, head, result, reason)
        elif sent > max(head.acked, head.sent):
            after = msgspec.structs.replace(head, sent=sent, expires_at=outcome.expires_at)
            await self._settler.settle(key, head, after, result)
        return True

    async def _is_ours(self, head: Head, changes: Sequence[bytes]) -> bool:
        """Whether the central log has these of our changes: an answer was lost. Else a twin was faster."""
        try:
            return await has_all(self._site, head, changes)
        except RemoteRejected:
            return False
