"""What one round of replication does, against the interfaces of log and central store only.

A round over some sessions: push what is pending, pull what is new, store it and move the cursor in one local
transaction. A crash between any two steps repeats the round and changes nothing: the push is deduplicated by counter,
the pull by cursor. Nothing here knows when a round is due, or retries one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, TypeVar

import msgspec

from localfirst.change import decode_change, extend_digest_by, new_id
from localfirst.checkpoint import hash_of
from localfirst.errors import LocalFirstError, MalformedChange, RemoteRejected, StoreCorrupt
from localfirst.lives import touched, ttl_set_by
from localfirst.records import Direction, Head, OwnRange, Page, Rename, SessionKey, session_key
from localfirst.turns import whole
from sync.central.base import Ended, Pulled, Pushed, PushStatus, Run, Want
from sync.central.base import Head as RemoteHead
from sync.central.digests import digest_after
from sync.compact import compact, fold_expired
from sync.lives import drop_life, drop_spent, how_ended, is_over, send_deletions, with_pending
from sync.resync import Lacking, Stubborn, Unreadable, rename_of, resync
from sync.retry import patiently
from sync.site import Lost, Settled, Site
from sync.stretch import MOST_MS, Stretch, has_all, read_stretch, spent_by

_MOST_ROOM: Final = 1 << 30
"""Bytes of one turn that is taken from the central store."""
_HOPELESS: Final = 5
"""How often in a row a gap is found in a log that was read anew."""

_RENAMES: Final = 10
"""How often another process may rename what is pending while it is read."""

T = TypeVar("T")

_logger = logging.getLogger("localfirst.sync")


class Refusal(NamedTuple):
    """Why a session can't be synced in one direction."""

    error: LocalFirstError
    place: int = 0
    """push: the slot of the change that is refused; pull: the seq of the one that can't be read."""
    changes: int = 1
    """push: how many are refused from there on; more than one if they are a turn. 0: none, the log can't be read."""
    mark: str = ""
    """pull: of that one, see `localfirst.checkpoint.hash_of`."""
    lost: bool = False
    """The central store has lost it, and somebody is to say what becomes of it."""


@dataclass
class Round:
    """What became of the sessions of a round."""

    push: set[SessionKey] = field(default_factory=set)
    """There is more to push."""
    pull: set[SessionKey] = field(default_factory=set)
    """There is more to pull."""
    refused: dict[tuple[SessionKey, Direction], Refusal] = field(default_factory=dict)
    """Can't be synced until somebody acts; the others went on."""


class _Batch(NamedTuple):
    """Bytes that are ready to go, and the head that they follow."""

    key: SessionKey
    head: Head
    run: Run
    size: int
    more: bool
    """There may be more changes than these."""


class Replicator:
    """Moves the changes of one directory and one namespace both ways."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._room: dict[SessionKey, int] = {}
        self._gaps: dict[SessionKey, int] = {}
        self._stubborn: dict[SessionKey, int] = {}
        self._looked: dict[SessionKey, int] = {}
        self._one_way: frozenset[SessionKey] = frozenset()
        self.store_id = ""
        """The central store, by its id, once it is known."""

    async def round(
        self, push: Iterable[SessionKey], pull: Iterable[SessionKey], one_way: Iterable[SessionKey] = ()
    ) -> Round:
        """Push what is pending in some sessions, then fetch what is new in some. `one_way`: nothing can be pulled."""
        result = Round()
        self._one_way = frozenset(one_way)
        behind = list(pull)
        for keys in self._batched(push):
            await self._send_deletions(keys)
            behind += await self._push_sessions(keys, result)
        for keys in self._batched(dict.fromkeys(behind)):
            await self._send_deletions(keys)  # Else what was deleted here would come back for a while.
            await self._pull([key for key in keys if (key, "pull") not in result.refused], result)
        return result

    async def _send_deletions(self, keys: Iterable[SessionKey]) -> None:
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

    # Push.

    async def _push_sessions(self, keys: Sequence[SessionKey], result: Round) -> list[SessionKey]:
        """Returns those that only a pull can settle."""
        batches: list[_Batch] = []
        for place, key in enumerate(keys):
            await asyncio.sleep(0)  # The loop may be an application's.
            head = await self._site.head(key)
            if head is not None:
                batch = await self._guarded(key, head, "push", result, self._pending(key, result))
                batches += [batch] if batch else []
            if sum(batch.size for batch in batches) >= self._site.limits.push_bytes:
                result.push.update(keys[place + 1 :])
                break
        behind = []
        for batch, outcome in await self._push(batches, result):
            settled = await self._guarded(
                batch.key, batch.head, "push", result, self._settle_push(batch, outcome, result)
            )
            if settled is False:
                behind.append(batch.key)
            if batch.more:
                result.push.add(batch.key)
        return behind

    async def _pending(self, key: SessionKey, result: Round) -> _Batch | None:
        for again in reversed(range(_RENAMES)):
            if (head := await self._site.head(key)) is None:
                return None
            if await is_over(self._site, key, head):
                await self._end(key, head, "expired", result)
                return None
            after = max(head.acked, head.sent) if key in self._one_way else head.acked
            found = await self._run(key, after)
            if found is not None:
                return await self._batch(key, head, after, *found)
            if not again:
                await self._go_around(key, head, result)
            await asyncio.sleep(0)
        return None

    async def _go_around(self, key: SessionKey, head: Head, result: Round) -> None:
        """A change made here is missing on this disk, and what stands behind it can't be sent under its number."""
        (remote,) = await self._site.central.heads([head.session_id])
        if remote is None and head.generation is not None:
            await self._lost(key, head, result)
        else:
            await self._resync(key, head, result, "a change made here is missing on this disk")

    async def _batch(self, key: SessionKey, head: Head, after: int, changes: list[bytes], more: bool) -> _Batch | None:
        if not changes:
            await self._adopt(key, head)
            return None
        fresh, generation = head.generation is None, head.generation or new_id()
        run = Run(
            head.session_id, generation, fresh, head.origin, head.counter(after + 1), changes, ttl_set_by(changes)
        )
        run.hashes  # noqa: B018 - here, session by session: the agent's thread gets its turn between them
        return _Batch(key, head, run, sum(map(len, changes)), more)

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
        if head.origin == current or await patiently(partial(self._site.log.last_slot, key)) > head.acked:
            return
        taken = max(head.bottom, head.slot(head.first) - 1)
        async for page in self._site.pages(key, head.volume):
            taken = max([taken] + [own.slot + own.count - 1 for own in page.own])
        if taken == head.acked:  # Else some that were admitted are not in the pages yet, and only their old name tells.
            await patiently(partial(self._site.log.settle, key, head, head, (), Rename(head.acked + 1, current, 1)))

    async def _push(self, batches: Sequence[_Batch], result: Round) -> list[tuple[_Batch, Pushed]]:
        """What became of each. What the store refuses together is taken apart, until it is known what it refuses."""
        if not batches:
            return []
        try:
            outcomes = await self._site.central.push([batch.run for batch in batches])
        except RemoteRejected as error:
            if len(batches) == 1:
                return await self._push_part(batches[0], error, result)
            middle = len(batches) // 2
            return await self._push(batches[:middle], result) + await self._push(batches[middle:], result)
        return list(zip(batches, outcomes, strict=True))

    async def _push_part(self, batch: _Batch, error: RemoteRejected, result: Round) -> list[tuple[_Batch, Pushed]]:
        """The first half of a run that is refused; the other half has its turn in the next round."""
        changes = batch.run.changes
        unit = next(count for count in range(1, len(changes) + 1) if whole(changes[:count]))
        if unit == len(changes):
            result.refused[batch.key, "push"] = Refusal(error, batch.head.slot(batch.run.first), unit)
            return []
        half = whole(changes[: len(changes) // 2]) or unit
        run = replace(batch.run, changes=changes[:half])
        return await self._push([batch._replace(run=run, size=sum(map(len, run.changes)), more=True)], result)

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
        if key in self._one_way:
            return await self._note_sent(key, head, batch.run, outcome, result)
        if not outcome.admitted and (outcome.generation, outcome.head, outcome.digest) == _cursor(head):
            await self._resync(key, head, result, "changes of ours are in what was read, and were not known for ours")
            return True
        return await self._settle_alone(key, head, batch.run, outcome, result)

    async def _settle_refused(self, key: SessionKey, head: Head, outcome: Pushed, result: Round) -> bool:
        """The life that the run was for is not there."""
        if how := how_ended(self._site, head, outcome.generation or None, outcome.ended):
            await self._end(key, head, how, result)
        elif key not in self._one_way:
            return False
        elif outcome.status is PushStatus.MISSING:
            await self._lost(key, head, result)
        else:
            await self._resync(key, head, result, "the central log, which could not be read, was replaced")
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
            spent=head.spent + sum(spent_by(decode_change(data)) for data in run.changes),
            lifetime=touched(head.lifetime, run.changes),
            expires_at=outcome.expires_at,
        )
        await self._settle(key, head, after, result, page)
        return True

    async def _fill_gap(self, key: SessionKey, head: Head, result: Round) -> bool:
        """The central store has fewer of our changes than it had."""
        if self._gaps.get(key, 0) == _HOPELESS:
            del self._gaps[key]
            raise RemoteRejected("the central store lacks changes that its log has")
        await self._resync(key, head, result, "the central store has fewer of our changes than it had")
        self._gaps[key] = self._gaps.get(key, 0) + 1  # Only now: it came to its end, and should have helped.
        return True

    async def _note_sent(self, key: SessionKey, head: Head, run: Run, outcome: Pushed, result: Round) -> bool:
        """The central log can't be taken, so what it has of ours stays pending; only go on behind it."""
        last = head.slot(run.first) + len(run.changes) - 1
        sent = min(head.slot(outcome.acked), last)
        if not outcome.admitted and not await self._is_ours(head, run.changes[: outcome.acked - run.first + 1]):
            await self._resync(key, head, result, "the central log, which could not be read, may have a twin's changes")
        elif sent > max(head.acked, head.sent):
            await self._settle(key, head, msgspec.structs.replace(head, sent=sent), result)
        return True

    async def _is_ours(self, head: Head, changes: Sequence[bytes]) -> bool:
        """Whether the central log has these of our changes: an answer was lost. Else a twin was faster."""
        try:
            return await has_all(self._site, head, changes)
        except RemoteRejected:
            return False

    # Pull.

    async def _pull(self, keys: Sequence[SessionKey], result: Round) -> None:
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
                await self._pull([key for key, _ in half], result)
            return
        for (key, head), pulled in zip(heads, pages, strict=True):
            await asyncio.sleep(0)  # The loop may be an application's.
            await self._guarded(key, head, "pull", result, self._settle_pull(key, head, pulled, room, result))

    async def _settle_pull(self, key: SessionKey, head: Head, pulled: Pulled, room: int, result: Round) -> None:
        remote = pulled.head
        if how := how_ended(self._site, head, remote and remote.generation, pulled.ended):
            await self._end(key, head, how, result)
        elif remote is None:
            await self._lost(key, head, result)
        else:
            await self._follow(key, head, remote, pulled, room, result)

    async def _follow(
        self, key: SessionKey, head: Head, remote: RemoteHead, pulled: Pulled, room: int, result: Round
    ) -> None:
        if pulled.resync or head.stub:
            behind = head.generation in (None, remote.generation) and remote.seq >= head.seq
            reason = "is folded beyond where this replica was" if behind else "does not go on where this replica was"
            reason = "is wanted again" if behind and head.stub else reason
            await self._resync(key, head, result, f"the central log {reason}", expected=behind)
            return
        stretch = await read_stretch(self._site, key, head, head.seq, pulled.entries)
        if stretch.first not in (None, head.acked + 1):
            await self._resync(key, head, result, "changes of ours are in what was read, and were not known for ours")
            return
        if stretch.poison is None and head.seq + stretch.count == remote.seq:
            if digest_after(head.digest, pulled.entries) != remote.digest:
                await self._resync(key, head, result, "the central log is not the one that was followed")
                return
        elif stretch.poison is None and stretch.whole < stretch.count:
            stretch = await read_stretch(self._site, key, head, head.seq, pulled.entries[: stretch.whole])
            if stretch.count == 0 and room < _MOST_ROOM:
                self._room[key] = room * 4  # It holds a part of a turn only.
        await self._take(key, head, pulled, stretch, result)

    async def _take(self, key: SessionKey, head: Head, pulled: Pulled, stretch: Stretch, result: Round) -> None:
        assert pulled.head is not None
        after = msgspec.structs.replace(
            head,
            generation=pulled.head.generation,
            seq=head.seq + stretch.count,
            digest=digest_after(head.digest, pulled.entries[: stretch.count]),
            acked=max(head.acked, stretch.acked),
            spent=head.spent + stretch.spent,
            lifetime=stretch.lifetime,
            expires_at=pulled.expires_at,
        )
        if after.lifetime != head.lifetime:
            after = await with_pending(self._site, key, after)
        if after != head:
            rename = await rename_of(self._site, key, head, stretch.twin, stretch.same)
            await self._settle(key, head, after, result, stretch.page, rename)
        if stretch.poison is not None:
            entry = pulled.entries[stretch.count]
            raise Unreadable(stretch.poison, entry.seq, hash_of(entry.data))
        if after.seq < pulled.head.seq:
            if not pulled.entries:
                raise RemoteRejected(f"the central log ends before its head {pulled.head.seq}")
            result.pull.add(key)

    async def _end(self, key: SessionKey, head: Head, how: Ended, result: Round) -> None:
        """The life that was followed is over. There may be another one already."""
        await drop_life(self._site, key, head, how)
        result.push.add(key)
        result.pull.add(key)

    async def _lost(self, key: SessionKey, head: Head, result: Round) -> None:
        """The central store does not have the session any more. Sending it again may need somebody's consent."""
        if head.generation is None:
            return  # It never had: neither side knows more than what is pending here.
        if self._site.looks or (head.stub and not await self._is_pending(key, head)):
            return  # There is nothing here to send. Whoever reads it is told.
        reason = "the central store has lost this session"
        if (
            self._site.ask and head.store == self.store_id
        ):  # Else it is the store that is another, and consent is given.
            aside = await patiently(partial(self._site.quarantine.get, key, "push"))
            if aside is None or not aside.consent:
                told = f"session {head.session_id!r}: {reason}; a retry sends it again, a discard drops it here too"
                result.refused[key, "pull"] = result.refused[key, "push"] = Refusal(RemoteRejected(told), lost=True)
                return
        self._site.tell(Lost(key, head.session_id, reason))
        await self._resync(key, head, result, reason)

    async def _is_pending(self, key: SessionKey, head: Head) -> bool:
        return await patiently(partial(self._site.log.last_slot, key)) > head.acked

    async def _resync(self, key: SessionKey, head: Head, result: Round, reason: str, *, expected: bool = False) -> None:
        level = logging.INFO if expected or self._site.looks else logging.WARNING
        what = "" if self._site.looks else ", and what it lacks is sent"
        _logger.log(level, "session %r: %s; it is read anew%s", head.session_id, reason, what)
        try:
            after, rename = await resync(self._site, key, head)
        except Stubborn as error:  # It may have lost its log again meanwhile, once or twice.
            self._stubborn[key] = self._stubborn.get(key, 0) + 1
            if self._stubborn[key] <= _HOPELESS:
                raise
            del self._stubborn[key]
            raise RemoteRejected(str(Stubborn.__doc__)) from error
        self._stubborn.pop(key, None)
        await self._settle(key, head, after, result, None, rename)
        await patiently(partial(self._site.quarantine.heal, key))
        result.push.add(key)

    # Both.

    async def _settle(
        self,
        key: SessionKey,
        before: Head,
        after: Head,
        result: Round,
        page: Page | None = None,
        rename: Rename | None = None,
    ) -> None:
        pages = () if page is None else (page,)
        sent = after.sent if key in self._one_way else 0
        after = msgspec.structs.replace(after, store=self.store_id, sent=sent)
        settled = await patiently(partial(self._site.log.settle, key, before, after, pages, rename))
        if settled is None:
            if after.volume != before.volume:
                await patiently(partial(self._site.log.forget, key, after.volume))
            result.pull.add(key)  # Another process was faster: look again.
            result.push.add(key)
            return
        if rename is not None:
            result.push.add(key)
        if self._site.tell(Settled(key, before, settled)):
            result.push.add(key)
        await self._fold_up(key, settled, result)

    async def _fold_up(self, key: SessionKey, head: Head, result: Round) -> None:
        """Fold the log, if that seems to pay: looked at each time it has doubled."""
        looked = self._looked.get(key, 0)
        due = max(self._site.limits.compact_after, 2 * looked)
        if head.spent < due or self._site.looks or head.stub:
            return
        done = await self._guarded(key, head, "pull", result, compact(self._site, key, head))
        self._looked[key] = 0 if done else head.spent

    async def expire(self, heads: Iterable[tuple[SessionKey, Head]], *, alone: bool = False) -> Round:
        """Remove from this disk what of some sessions has expired. `alone`: the central store can't be reached."""
        result = Round()
        for key, head in heads:
            if alone and head.ttl:
                await drop_spent(self._site, key, head)
            if head.lifetime.item_ttl:
                folding = fold_expired(self._site, key, head, alone=alone)
                await self._guarded(key, head, "pull", result, folding)
        return result

    async def tidy(self, steps: int = 1 << 30) -> None:
        """Remove what is no longer used from this disk, in small steps."""
        for step in (self._site.log.sweep, self._site.log.rows.give_back, self._site.log.scrub):
            while steps > 0 and await patiently(step):
                steps -= 1
                await asyncio.sleep(0)

    async def _guarded(
        self, key: SessionKey, head: Head, direction: Direction, result: Round, step: Coroutine[None, None, T]
    ) -> T | None:
        """One bad session stops no other."""
        try:
            return await step
        except Unreadable as error:
            told = MalformedChange(f"session {head.session_id!r}: change {error.seq} in the central log: {error}")
            refusal = Refusal(told, error.seq, mark=error.mark)
        except (MalformedChange, StoreCorrupt, RemoteRejected) as error:
            refusal = Refusal(error, lost=isinstance(error, Lacking))
        if isinstance(refusal.error, StoreCorrupt) and await self._site.head(key) != head:
            result.pull.add(key)  # Another process replaced what was being read.
            result.push.add(key)
            return None
        result.refused[key, "pull"] = refusal
        if direction == "push":  # To push, the central log would have to be read first.
            result.refused[key, "push"] = refusal._replace(place=0, changes=0, mark="")
        return None

    def _batched(self, keys: Iterable[SessionKey]) -> Iterator[list[SessionKey]]:
        remaining = iter(keys)
        while batch := list(islice(remaining, self._site.limits.batch_sessions)):
            yield batch


def _has_moved(head: Head, remote: RemoteHead | None) -> bool:
    """Whether a session is not where the central store is. A stub does not follow, but it may be over."""
    return remote is None if head.stub else _cursor(head) != (remote or (None, 0, 0))


def _cursor(head: Head) -> tuple[str | None, int, int]:
    return head.generation, head.seq, head.digest
