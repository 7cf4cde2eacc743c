"""What one round of replication does, against the interfaces of log and central store only.

A round over some sessions: push what is pending, pull what is new, store it and move the cursor in one local
transaction. A crash between any two steps repeats the round and changes nothing: the push is deduplicated by counter,
the pull by cursor. Nothing here knows when a round is due, or retries one.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby, islice
from typing import Final, NamedTuple, TypeVar

import msgspec

from localfirst.change import EMPTY_DIGEST, Admitted, decode_change, extend_digest, extend_digest_by, new_id
from localfirst.errors import LocalFirstError, MalformedChange, RemoteRejected, RemoteUnavailable, StoreCorrupt
from localfirst.fold import check
from localfirst.log import Foreign, Head, Log, OwnRange, Page, SessionKey, session_key
from sync.central.base import CentralStore, LogEntry, Pulled, Pushed, PushStatus, Run, Want
from sync.central.base import Head as RemoteHead
from sync.retry import patiently

RESYNC_TRIES: Final = 5
"""How often a log is filled again, if others change it meanwhile."""
RUN_CHANGES: Final = 500
"""Changes of one session in one push."""
BATCH_SESSIONS: Final = 100
"""Sessions in one push or pull."""
RUN_BYTES: Final = 1 << 20
"""Bytes of changes of one session in one push, unless one change is larger."""
PUSH_BYTES: Final = 1 << 20
"""Bytes of changes in one push."""
PULL_BYTES: Final = 1 << 18
"""Bytes of changes of one session in one pull."""

T = TypeVar("T")

MOST_MS: Final = 1 << 45
"""Unix milliseconds in the year 3084: no clock shows more."""

_logger = logging.getLogger("localfirst.sync")


class Settled(NamedTuple):
    """A session's cursor has moved."""

    key: SessionKey
    before: Head
    after: Head


class Round(NamedTuple):
    """What became of the sessions of a round."""

    push: set[SessionKey]
    """There is more to push."""
    pull: set[SessionKey]
    """There is more to pull."""
    refused: dict[SessionKey, LocalFirstError]
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
    """Moves the changes of one replica and one namespace both ways."""

    def __init__(
        self,
        log: Log,
        central: CentralStore,
        replica_id: str,
        namespace: str,
        on_settled: Callable[[Settled], None],
    ) -> None:
        self._log = log
        self._central = central
        self._replica_id = replica_id
        self._namespace = namespace
        self._on_settled = on_settled

    async def round(self, push: Iterable[SessionKey], pull: Iterable[SessionKey]) -> Round:
        """Push what is pending in some sessions, then fetch what is new in some."""
        result = Round(set(), set(), {})
        behind = list(pull)
        for keys in _batched(push):
            behind += await self._push_sessions(keys, result)
        for keys in _batched(dict.fromkeys(behind)):
            await self._pull([key for key in keys if key not in result.refused], result)
        return result

    async def moved(self, heads: Sequence[tuple[SessionKey, Head]]) -> set[SessionKey]:
        """Which of some sessions are not where the central store is: one round trip."""
        try:
            found = await self._central.heads([head.session_id for _, head in heads])
        except RemoteRejected:
            if len(heads) == 1:
                return {heads[0][0]}  # A pull will tell what is wrong with it.
            return {key for pair in heads for key in await self.moved([pair])}
        return {
            key
            for (key, head), remote in zip(heads, found, strict=True)
            if (head.generation, head.seq, head.digest) != (remote or (None, 0, 0))
        }

    async def discover(self) -> list[SessionKey]:
        """Make every session of the central store known here, and tell which were not."""
        unknown: list[SessionKey] = []
        after = ""
        while names := await self._central.sessions(after, 1000):
            for name in names:
                key = session_key(self._namespace, name)
                if self._log.head(key) is None:
                    await self._know(key, name)
                    unknown.append(key)
            after = names[-1]
        return unknown

    async def know(self, session_id: str) -> SessionKey:
        """Make one session known here, whether the central store has it or not."""
        key = session_key(self._namespace, session_id)
        await self._know(key, session_id)
        return key

    async def _know(self, key: SessionKey, session_id: str) -> None:
        await patiently(lambda: self._log.create(key, Head(self._namespace, session_id)))

    async def _push_sessions(self, keys: Sequence[SessionKey], result: Round) -> list[SessionKey]:
        """Returns those that only a pull can settle."""
        batches: list[_Batch] = []
        for place, key in enumerate(keys):
            await asyncio.sleep(0)  # The loop may be an application's.
            if (batch := await self._pending(key)) is not None:
                batches.append(batch)
            if sum(batch.size for batch in batches) >= PUSH_BYTES:
                result.push.update(keys[place + 1 :])
                break
        behind = []
        for batch, outcome in zip(batches, await self._push(batches, result), strict=True):
            if outcome is None:
                continue
            if not await self._guarded(batch.key, result, self._settle_push(batch, outcome, result)):
                behind.append(batch.key)
            if batch.more:
                result.push.add(batch.key)
        return behind

    async def _pending(self, key: SessionKey) -> _Batch | None:
        head = await patiently(lambda: self._log.head(key))
        if head is None:
            return None
        changes = await patiently(lambda: self._log.run(key, head.acked, RUN_CHANGES, RUN_BYTES))
        size = sum(map(len, changes))
        if not changes:
            return None
        fresh, generation = head.generation is None, head.generation or new_id()
        run = Run(head.session_id, generation, fresh, self._replica_id, head.acked + 1, changes)
        run.hashes  # noqa: B018 - here, session by session: the agent's thread gets its turn between them
        return _Batch(key, head, run, size, len(changes) == RUN_CHANGES or size >= RUN_BYTES)

    async def _push(self, batches: Sequence[_Batch], result: Round) -> list[Pushed | None]:
        """What became of each; None: refused. If the store refuses them together, each is tried alone."""
        if not batches:
            return []
        try:
            return list(await self._central.push([batch.run for batch in batches]))
        except RemoteRejected as error:
            if len(batches) == 1:
                result.refused[batches[0].key] = error
                return [None]
        return [outcome for batch in batches for outcome in await self._push([batch], result)]

    async def _settle_push(self, batch: _Batch, outcome: Pushed, result: Round) -> bool:
        """Record an admitted run. False: others were admitted too, or it was admitted before; only a pull can tell."""
        head, run = batch.head, batch.run
        count = len(run.changes)
        if outcome.status is not PushStatus.OK:
            await self._resync(batch.key, head, result)
            return True
        alone = (
            outcome.admitted == count
            and outcome.head == head.seq + count
            and head.generation in (None, outcome.generation)
            and outcome.digest == extend_digest_by(head.digest, run.hashes)
        )
        if not alone:
            return False
        page = Page([OwnRange(head.seq + 1, outcome.admitted_at, run.first, count)], [])
        after = msgspec.structs.replace(
            head,
            generation=outcome.generation,
            seq=outcome.head,
            digest=outcome.digest,
            acked=head.acked + count,
        )
        await self._settle(batch.key, head, after, [page], result)
        return True

    async def _pull(self, keys: Sequence[SessionKey], result: Round) -> None:
        heads = [(key, head) for key in keys if (head := await patiently(partial(self._log.head, key))) is not None]
        if not heads:
            return
        wants = [Want(head.session_id, head.generation, head.seq) for _, head in heads]
        try:
            pages = await self._central.pull(wants, PULL_BYTES)
        except RemoteRejected as error:
            if len(heads) == 1:
                result.refused[heads[0][0]] = error
                return
            for key, _ in heads:
                await self._pull([key], result)
            return
        for (key, head), pulled in zip(heads, pages, strict=True):
            await asyncio.sleep(0)  # The loop may be an application's.
            await self._guarded(key, result, self._settle_pull(key, head, pulled, result))

    async def _settle_pull(self, key: SessionKey, head: Head, pulled: Pulled, result: Round) -> None:
        remote = pulled.head
        if remote is None and head.generation is None:
            return  # Neither side knows more than what is pending here.
        if remote is None or pulled.resync:
            await self._resync(key, head, result)
            return
        digest = extend_digest(head.digest, [entry.data for entry in pulled.entries])
        seq = head.seq + len(pulled.entries)
        if seq == remote.seq and digest != remote.digest:
            await self._resync(key, head, result)
            return
        page, acked = await self._page(key, head.seq, pulled.entries)
        after = msgspec.structs.replace(
            head, generation=remote.generation, seq=seq, digest=digest, acked=max(head.acked, acked)
        )
        if after != head:
            await self._settle(key, head, after, [page], result)
        if seq < remote.seq:
            result.pull.add(key)

    async def _resync(self, key: SessionKey, head: Head, result: Round) -> None:
        """The central log is not the one that was followed: take it as it is, and add whatever of any origin it lacks.

        What it lacks is pushed before anything changes here, so a crash loses nothing and the next round begins again.
        """
        _logger.warning(
            "session %r: the central store has not the log that was followed (it lost or replaced it, or is another"
            " store); its log is read anew, and what it lacks is sent",
            head.session_id,
        )
        known = await self._admitted(key)
        for _ in range(RESYNC_TRIES):
            entries, remote = await self._pull_all(head.session_id)
            counters = _counters(entries)
            lacking = [change for change in known if change.counter > counters.get(change.origin, 0)]
            if not lacking:
                break
            await self._push_lacking(head.session_id, lacking)
        else:
            raise RemoteRejected(
                f"session {head.session_id!r}: the central store takes what its log lacks and does not show it"
            )
        page, acked = await self._page(key, 0, entries)
        digest = extend_digest(EMPTY_DIGEST, [entry.data for entry in entries])
        if remote is not None and digest != remote.digest:  # Reading it again would end the same way, for ever.
            raise RemoteRejected(f"session {head.session_id!r}: the central log and its own digest disagree")
        generation = remote.generation if remote else None
        after = Head(head.namespace, head.session_id, generation, len(entries), digest, acked, epoch=head.epoch + 1)
        await self._settle(key, head, after, [page], result)
        result.push.add(key)

    async def _admitted(self, key: SessionKey) -> list[_Known]:
        """The central log as it was known here, in its order."""
        known: list[tuple[int, _Known]] = []
        for page in await patiently(lambda: self._log.pages(key)):
            for entry in page.foreign:
                change = decode_change(entry.data)
                known.append((entry.seq, _Known(change.origin, change.counter, entry.data)))
            for own in page.own:
                rows = self._log.run(key, own.counter - 1, own.count)
                known += [
                    (own.seq + place, _Known(self._replica_id, own.counter + place, data))
                    for place, data in enumerate(rows)
                ]
        return [change for _, change in sorted(known)]

    async def _pull_all(self, session_id: str) -> tuple[list[LogEntry], RemoteHead | None]:
        entries: list[LogEntry] = []
        generation: str | None = None
        while True:
            (pulled,) = await self._central.pull([Want(session_id, generation, len(entries))], PULL_BYTES)
            if pulled.head is None:
                return [], None
            if pulled.resync or generation not in (None, pulled.head.generation):
                entries, generation = [], None  # It changed again while it was read.
                continue
            generation = pulled.head.generation
            entries += pulled.entries
            if len(entries) == pulled.head.seq:
                return entries, pulled.head
            if not pulled.entries:
                raise RemoteRejected(f"session {session_id!r}: the log ends before its head {pulled.head.seq}")

    async def _push_lacking(self, session_id: str, lacking: Sequence[_Known]) -> None:
        generation = new_id()
        for origin, changes in groupby(lacking, key=lambda change: change.origin):
            stretch = list(changes)
            for start in range(0, len(stretch), RUN_CHANGES):
                part = stretch[start : start + RUN_CHANGES]
                run = Run(session_id, generation, True, origin, part[0].counter, [change.data for change in part])
                (outcome,) = await self._central.push([run])
                if outcome.status is not PushStatus.OK:  # It lost its log once more: begin again.
                    raise RemoteUnavailable(
                        f"session {session_id!r}: the central log changed while it was filled again; it is tried anew"
                    )

    async def _page(self, key: SessionKey, after: int, entries: Sequence[LogEntry]) -> tuple[Page, int]:
        """Entries from the central store as a page, checked, and the highest counter of ours among them."""
        page, acked = Page([], []), 0
        for place, entry in enumerate(entries, start=after + 1):
            if entry.seq != place:
                raise MalformedChange(f"the central log has seq {entry.seq} where {place} belongs")
            change = decode_change(entry.data)
            if not 0 <= entry.admitted_at < MOST_MS:
                raise MalformedChange(f"the central log admitted seq {place} at an impossible time")
            if change.origin == self._replica_id:
                acked = change.counter
                _add_own(page.own, Admitted(entry.seq, entry.admitted_at, change))
            else:
                check(change)
                page.foreign.append(Foreign(*entry))
        if acked > await patiently(lambda: self._log.last_counter(key)):
            raise StoreCorrupt(
                f"the central store has {acked} changes of this replica, more than were made here: this directory was"
                " copied or restored from a backup; open a new one"
            )
        return page, acked

    async def _settle(self, key: SessionKey, before: Head, after: Head, pages: list[Page], result: Round) -> None:
        if await patiently(lambda: self._log.settle(key, before, after, pages)):
            self._on_settled(Settled(key, before, after))
        else:
            result.pull.add(key)  # Another process was faster: look again.
            result.push.add(key)

    async def _guarded(self, key: SessionKey, result: Round, step: Coroutine[None, None, T]) -> T | None:
        """One bad session stops no other."""
        try:
            return await step
        except (MalformedChange, StoreCorrupt, RemoteRejected) as error:
            result.refused[key] = error
            return None


class _Known(NamedTuple):
    origin: str
    counter: int
    data: bytes


def _batched(keys: Iterable[SessionKey]) -> Iterator[list[SessionKey]]:
    remaining = iter(keys)
    while batch := list(islice(remaining, BATCH_SESSIONS)):
        yield batch


def _counters(entries: Iterable[LogEntry]) -> dict[str, int]:
    counters: dict[str, int] = {}
    for entry in entries:
        change = decode_change(entry.data)
        counters[change.origin] = max(change.counter, counters.get(change.origin, 0))
    return counters


def _add_own(ranges: list[OwnRange], entry: Admitted) -> None:
    seq, admitted_at, change = entry
    if ranges:
        last = ranges[-1]
        follows = last.seq + last.count == seq and last.counter + last.count == change.counter
        if follows and last.admitted_at == admitted_at:
            ranges[-1] = msgspec.structs.replace(last, count=last.count + 1)
            return
    ranges.append(OwnRange(seq, admitted_at, change.counter, 1))
