"""When replication happens: the state machine of one store's sync, as coroutines of one event loop.

Two things run. `run` is the life of the background worker, which leads or waits to lead; `docs/worker.md` has the table
of its states and events. Requests (flush, refresh, fetch, verify) work in every process, also in one that does not
lead: the log itself refuses a cursor that another process has moved. One lock keeps the rounds of a process apart, and
is never held while waiting to try again. After every wait the durable state is looked at anew; hints, from the agent's
calls or from the central store, only make that sooner.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Final, NamedTuple

from localfirst.errors import LocalFirstError, RemoteLost, RemoteRejected, RemoteUnavailable, StoreMoved, of_session
from localfirst.records import Aside, Direction, Head, SessionKey, session_key
from localfirst.turns import Turns
from localfirst.version import VERSION
from sync.central.base import Hint
from sync.evict import Evictor
from sync.leader import Leadership
from sync.replicate import Replicator
from sync.retry import LONGEST_WAIT, for_ever, patiently
from sync.round import Refusal
from sync.site import Lost, Notice, Site, Stopped
from sync.status import SyncStatus, WorkerState, publish, published
from sync.tasks import end, wait_for_event
from sync.verify import Difference, Verifier

LOOK_INTERVAL: Final = 0.05
"""Seconds between looks for changes that other processes made on this directory."""
CALM_INTERVAL: Final = 0.25
"""The same, when there was none for a while. What this process writes is known at once."""
CALM_AFTER: Final = 5.0
LEAD_INTERVAL: Final = 0.1
"""Seconds between tries to become the leader."""
CHECKPOINT_BYTES: Final = 4 << 20
"""Size of the write-ahead log from which it is moved into the database."""
POLL_SPREAD: Final = (1.0, 1.5)
"""Poll intervals between two polls, at random: so that a fleet does not poll together, and so that the polls of an idle
worker, with a probe of the connection for hints each minute, are fewer than one round trip per interval of 5 s."""
SWEEP_SECONDS: Final = 600.0
"""How often what expired is removed from the central store; at random, from half of it on, so that not all do."""
SWEEP_SESSIONS: Final = 1000
CHECK_BYTES: Final = 1 << 20, 256 << 20
"""A database of a size in between is checked as a whole once: below, it was when it was opened, and beyond, it would
take more than a second."""
EXPIRE_SECONDS: Final = 60.0
"""How often, at most, what expired is looked for on this disk."""

SETTLE_ROWS: Final = 1000
"""How many rows later it is noted again that nothing is pending."""

_PULLED_AT_ONCE: Final = 100
"""Sessions that are fetched before it is seen to that there is room for more, where there is a limit."""
_SWEEPS: Final = 20
"""Steps of removing, in one turn."""

_logger = logging.getLogger("localfirst.sync")


class _Quarantined(Exception):
    """What was asked for is put aside."""


class Options(NamedTuple):
    """How often, in seconds; and how large the directory may get, in bytes."""

    poll_interval: float = 5.0
    sync_interval: float = 0.02
    size_limit: int | None = None


class Worker:
    """Sync of one directory and one namespace with one central store. Everything on one event loop."""

    def __init__(self, directory: Path, site: Site, options: Options) -> None:
        self.state: WorkerState = "standby"
        self.status = SyncStatus("connecting")
        self._site = replace(site, tell=self._hear)
        self._listener = site.tell
        self._directory = directory
        self._log = site.log
        self._central = site.central
        self._namespace = site.namespace
        self._options = options
        self._leadership = Leadership(directory, site.namespace)
        self._replicator = Replicator(self._site)
        self._evictor = Evictor(self._site, options.size_limit)
        self._turns = Turns(site.log)
        self._stopped: dict[tuple[SessionKey, Direction], Aside] = {}
        self._rounds = asyncio.Lock()
        self._identified = False
        self._reachable = asyncio.Event()
        self._due = asyncio.Event()
        self._dirty: set[SessionKey] = set()
        self._asked: set[SessionKey] = set()
        self._hinted: dict[SessionKey, Hint] = {}
        self._poll_at = -math.inf
        self._pushed_at = -math.inf
        self._seen_at = -math.inf
        self._seen_version: tuple[int, tuple[int, int]] | None = None
        self._seen_row = 0
        self._settled_row = 0
        self._checked = False
        self._watching: asyncio.Task[None] | None = None
        self._told: tuple[object, ...] = ()
        self._expire_at = -math.inf
        self._sweep_at = time.monotonic() + SWEEP_SECONDS * random.uniform(0.1, 1.5)

    @property
    def leads(self) -> bool:
        """Whether this process syncs the directory."""
        return self._leadership.held

    def wake(self) -> None:
        """Something was written here: look now. (On one connection, no version tells.)"""
        self._seen_version = None
        self._due.set()

    async def run(self) -> None:
        """Lead, or wait to lead, until cancelled."""
        try:
            while not await self._safely(self._lead):  # noqa: ASYNC110 - no event tells that another process ended
                await asyncio.sleep(LEAD_INTERVAL)
            self._watching = asyncio.create_task(self._watch(), name="localfirst-watch")
            while not await self._safely(self._begin):
                pass
            while True:
                await self._safely(self._live)
        finally:  # Nothing is awaited here: a second cancellation must not keep the next leader waiting.
            if self._watching is not None:
                self._watching.cancel()
            self.abandon()

    async def flush(self, session_id: str | None = None, *, once: bool = False) -> None:
        """Return when what is pending now (of one session, or all) is in the central store.

        `once`: give up when the central store can't be reached, or a turn is open, instead of trying again.
        """
        if not self._identified and not once:
            with suppress(RemoteUnavailable):  # Is it the one that has what was sent? If not, there is more to send.
                await self._attempt(_nothing)
        keys = (
            list(await patiently(self._waiting)) if session_id is None else [session_key(self._namespace, session_id)]
        )
        wanted = {key: (head, self._log.last_slot(key)) for key in keys if (head := await self._site.head(key))}
        moving = await patiently(partial(self._site.identity.is_moving, self._namespace))
        while moving or await self._unsent(wanted):
            moving = False
            await self._insist(lambda: self._send(wanted), once=once)
            if once or not await self._unsent(wanted):
                return
            await asyncio.sleep(LOOK_INTERVAL)  # A turn is open: what is in it waits.

    async def refresh(self, session_id: str | None = None) -> None:
        """Return when what is in the central store now (of one session, or all) is here."""
        if session_id is None:
            await self._insist(self._pull_everything)
            for (_, direction), aside in self._stopped.items():
                if direction == "pull":
                    raise RemoteRejected(aside.reason)
        else:
            await self._insist(lambda: self._pull_one(session_id))

    async def fetch(self, session_id: str) -> None:
        """Try once to bring a session here. Raises `RemoteUnavailable` and the like."""
        await self._insist(lambda: self._pull_one(session_id), once=True)

    async def verify(self, found: list[Difference], session_id: str | None, *, full: bool) -> None:
        """Compare what is here with the central store, see `sync.verify`."""
        await self._insist(lambda: self._verify(found, session_id, full), looks=True)

    async def nudge(self) -> None:
        """Try to reach the central store now."""
        with suppress(LocalFirstError):
            await self._attempt(_nothing)

    def abandon(self) -> None:
        """Let another process lead. Also from outside of a loop that will not run again."""
        self.state = "ended"
        self.status.state = "stopped"
        self._leadership.release()

    async def close(self) -> None:
        """Close the connections to the central store. End `run` first."""
        if self._watching is not None:
            await end(self._watching)
        with suppress(LocalFirstError):  # What is left is removed the next time.
            await self._replicator.tidy(_SWEEPS)
        await self._central.close()

    # The life of the leader.

    async def _safely(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """A step, whatever happens in it: nothing but cancellation ends the worker, and that the directory is not in
        its place any more. False: it was not done."""
        try:
            return await step()
        except StoreMoved as error:  # Whoever has it open where it is now is to lead.
            self._failed(error)
            raise
        except Exception as error:  # Somebody must act, or a disk must heal, or it is a bug.
            self._failed(error)
        if self.leads:
            self.state = "blocked"
        await self._nap(random.uniform(0.5, 1.0) * LONGEST_WAIT)
        return False

    async def _lead(self) -> bool:
        self.state = "standby"
        if not self._leadership.take():
            return False
        told = published(self._directory, self._namespace)
        if told is not None and self.status.last_synced_at is None:
            self.status.last_synced_at = told.last_synced_at
        self._tell()  # What the leader before told is not true any more.
        return True

    async def _begin(self) -> bool:
        """Find what is pending since before this worker began."""
        self.state = "turning"
        self._seen_row = await patiently(self._log.rows.last_row)
        self._dirty = await patiently(self._waiting)
        return True

    async def _live(self) -> bool:
        await for_ever(self._back_off)(self._take_turn)
        await self._maintain()
        self.state = "idle"
        await self._wait()
        return True

    async def _take_turn(self) -> None:
        self.state = "turning"
        if not self._reachable.is_set():  # Then no turn may come to its end for weeks.
            await self._move_log()
            if time.monotonic() >= self._expire_at:
                self._expire_at = time.monotonic() + self._options.poll_interval
                async with self._rounds:
                    await self._expire(alone=True)
        await self._attempt(self._turn)

    async def _turn(self) -> None:
        now = time.monotonic()
        due, hinted = self._poll_at, dict(self._hinted)
        poll = now >= due
        if poll:
            await self._end_turns()
            await self._move()
        pull = await self._moved() if poll else set()
        pull |= {key for key, hint in hinted.items() if await self._is_news(key, hint)}
        push = set(self._dirty) if now >= self._pushed_at + self._options.sync_interval else set()
        await self._sync(push, pull)
        asked = set(self._asked)
        await self._sync(set(), {key for key in asked if await self._is_unknown(key)})
        # Only now: what fails is done again as a whole.
        if push:
            self._pushed_at = now
        self._dirty -= push
        self._asked -= asked
        for key, hint in hinted.items():
            if self._hinted.get(key) == hint:
                del self._hinted[key]
        if now >= self._expire_at:
            self._expire_at = now + max(self._options.poll_interval, EXPIRE_SECONDS)
            await self._expire()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS * random.uniform(0.5, 1.5)
            await self._central.sweep(SWEEP_SESSIONS)
        if poll and self._poll_at == due:  # Else hints were missed meanwhile: poll once more.
            self._poll_at = now + self._options.poll_interval * random.uniform(*POLL_SPREAD)

    async def _wait(self) -> None:
        """Until there is something to do: a change made here that may go, a hint, or the next poll."""
        while True:
            await patiently(self._look)
            now, due = time.monotonic(), min(self._poll_at, self._evictor.again_at)
            if self._dirty:
                due = min(due, self._pushed_at + self._options.sync_interval)
            if self._hinted or self._asked or now >= due:
                return
            calm = now - self._seen_at > CALM_AFTER
            await wait_for_event(self._due, min(due - now, CALM_INTERVAL if calm else LOOK_INTERVAL))
            self._due.clear()

    def _look(self) -> None:
        """What did any process do on this directory since the last look?"""
        version = self._log.rows.version()
        if version != self._seen_version:
            self._seen_at = time.monotonic()
            touched, self._seen_row = self._log.touched_since(self._seen_row, self._namespace)
            self._dirty |= touched.written
            self._asked |= touched.asked
            self._load_quarantine()
            self._seen_version = version

    def _waiting(self) -> set[SessionKey]:
        return self._log.waiting(self._namespace)

    async def _is_news(self, key: SessionKey, hint: Hint) -> bool:
        """Hints also come for what was pushed from here."""
        head = await patiently(lambda: self._log.head(key))
        if head is None or head.stub:  # What was evicted comes when somebody wants it.
            return False
        return head.generation != hint.generation or head.seq < hint.seq

    async def _is_unknown(self, key: SessionKey) -> bool:
        """Whether it was not in the central store as far as is known here: somebody asked for it, so ask there."""
        head = await patiently(lambda: self._log.head(key))
        return head is not None and head.generation is None

    async def _watch(self) -> None:
        """Take hints. When the connection breaks, listen again, and poll, for some were missed."""
        longest = 1.0
        while True:
            try:
                await self._reachable.wait()
                async for hint in self._central.watch():
                    longest = 1.0
                    if hint is None:
                        self._poll_at = time.monotonic()
                    else:
                        self._hinted[session_key(self._namespace, hint.session_id)] = hint
                    self._due.set()
                return  # A store without hints: polling it is.
            except LocalFirstError as error:
                _logger.debug("hints from the central store stopped: %s", error)
            except Exception:
                _logger.exception("hints from the central store stopped")
            await asyncio.sleep(random.uniform(0.1, longest))
            longest = min(2 * longest, LONGEST_WAIT)  # Somebody may have to act: not twice a second until then.

    async def _maintain(self) -> None:
        """What would otherwise be paid for by an agent's call, or by the next start."""
        await self._move_log()
        if not self._checked:
            self._checked = True
            await self._check()
        await self._replicator.tidy(_SWEEPS)
        if not self._dirty and self._seen_row - self._settled_row > SETTLE_ROWS:
            await patiently(self._log.mark_settled)
            self._settled_row = self._seen_row

    async def _move_log(self) -> None:
        if self._log.rows.wal_bytes() > CHECKPOINT_BYTES:
            await asyncio.to_thread(self._log.rows.checkpoint)

    async def _check(self) -> None:
        """Look for damage that no read would meet, such as rows that an index hides."""
        rows = self._log.rows
        if CHECK_BYTES[0] < rows.size() <= CHECK_BYTES[1] and (wrong := await asyncio.to_thread(rows.check)):
            raise rows.damaged(f"is damaged ({wrong})")

    # One try, and many.

    async def _insist(self, work: Callable[[], Awaitable[None]], *, once: bool = False, looks: bool = False) -> None:
        """Do work with the central store; again and again while it can't be reached, unless `once`."""
        if once:
            await self._attempt(work)
        else:
            await for_ever(self._nap)(partial(self._attempt, looks=looks), work)

    async def _attempt(self, work: Callable[[], Awaitable[None]], *, looks: bool = False) -> None:
        """Do it once. `looks`: it asks for itself which store that is, and changes nothing that needs an answer."""
        async with self._rounds:
            try:
                if not looks:
                    await patiently(self._load_quarantine)
                    if self._site.ask or not self._identified:
                        await self._identify()
                await work()
            except _Quarantined as error:  # One bad session says nothing of the store.
                raise RemoteRejected(str(error)) from None
            except LocalFirstError as error:
                self._failed(error)
                raise
            self.status.went_well()
            self._tell()
            self._reachable.set()

    async def _identify(self, *, looks: bool = False) -> bool:
        """Which store is it? If it is not the one that was followed, what is here is to be sent to it again.

        `looks`: only tell; False: it is another one.
        """
        asked_at = time.time()
        found = await self._central.identify()
        identity = self._site.identity
        followed = await patiently(partial(identity.followed, self._namespace))
        if followed not in (None, found.store_id):
            if looks:
                return False
            await patiently(partial(identity.offer, self._namespace, found.store_id))
            self._poll_at = -math.inf  # Also once somebody has agreed to it.
            if self._site.ask:
                raise RemoteLost
            _logger.warning(
                "sync of %s: the central store is another one than before, or was emptied; what is here is sent to it",
                self._directory,
            )
        if followed != found.store_id or await patiently(partial(identity.is_offered, self._namespace)):
            await patiently(partial(identity.follow, self._namespace, found.store_id))
        self._replicator.store_id = found.store_id
        self.status.reached(found.now, asked_at)
        self._site.time.measured(found.now, asked_at)
        await patiently(partial(identity.note_reckoning, self._namespace, self._site.time.reckoning))
        self._tell()
        self._identified = True
        return True

    def _hear(self, notice: Notice) -> bool | None:
        """A session that was lost may be one of many: the store may have been emptied, and be another one now."""
        if isinstance(notice, Lost):
            self._identified, self._poll_at = False, -math.inf
        return self._listener(notice)

    def _failed(self, error: BaseException) -> None:
        self._reachable.clear()
        self._identified = False
        if self.state == "idle":  # It was a request: the worker sees for itself, not only when the next poll is due.
            self._poll_at = min(self._poll_at, time.monotonic() + random.uniform(0.5, 1.0) * LONGEST_WAIT)
        before = self.status.last_error
        self.status.failed(error)
        self._tell()
        if self.status.last_error == before:
            return  # One line for one trouble, however often it is tried.
        _logger.log(
            logging.INFO if isinstance(error, RemoteUnavailable) else logging.WARNING,
            "sync of %s is %s: %s",
            self._directory,
            self.status.state,
            self.status.last_error,
            exc_info=None if isinstance(error, LocalFirstError) else error,
        )

    def _tell(self) -> None:
        self.status.quarantined = len({key for key, _ in self._stopped})
        status = self.status
        told = (status.state, status.last_error, status.quarantined, status.makes_room, int(time.monotonic()))
        if self.leads and told != self._told:  # At most once a second while nothing changes.
            publish(self._directory, self._namespace, self.status)
            self._told = told

    async def _back_off(self, seconds: float) -> None:
        self.state = "backing off"
        await self._nap(seconds)

    async def _nap(self, seconds: float) -> None:
        """Sleep, unless another try reaches the central store meanwhile."""
        await wait_for_event(self._reachable, seconds)

    # Work with the central store; all of it may be repeated.

    async def _sync(self, push: set[SessionKey], pull: set[SessionKey]) -> None:
        """Rounds until there is no more to push or pull. What can't be synced is put aside."""
        while True:
            push, pull = self._free(push, "push"), self._free(pull, "pull")
            await self._make_room()
            if not push and not pull:
                return
            later: set[SessionKey] = set()
            if self._evictor.limit is not None:
                later = set(islice(pull, _PULLED_AT_ONCE, None))
            one_way = {key for key in push if (key, "pull") in self._stopped}
            result = await self._replicator.round(push, pull - later, one_way)
            self.status.went_well()
            self._tell()
            await self._put_aside(result.refused)
            push, pull = result.push, result.pull | later

    async def _make_room(self) -> None:
        await self._evictor.run()
        if self.leads and self.status.makes_room != self._evictor.makes_room:
            self.status.makes_room = self._evictor.makes_room
            self._tell()

    async def _expire(self, *, alone: bool = False) -> None:
        """Remove what expired from this disk. `alone`: the central store can't be reached."""
        async for heads in self._pages():
            free = [(key, head) for key, head in heads if (key, "pull") not in self._stopped]
            await self._put_aside((await self._replicator.expire(free, alone=alone)).refused)

    def _free(self, keys: set[SessionKey], direction: Direction) -> set[SessionKey]:
        return {key for key in keys if (key, direction) not in self._stopped}

    async def _put_aside(self, refused: dict[tuple[SessionKey, Direction], Refusal]) -> None:
        """All at once: who sees one direction of a session stopped, and acts, has seen both."""
        asides: dict[tuple[SessionKey, Direction], Aside] = {}
        for (key, direction), refusal in refused.items():
            if (head := await self._site.head(key)) is not None:
                asides[key, direction] = _aside(head, direction, refusal)
        if asides:
            await patiently(partial(self._site.quarantine.put_all, asides))
        self._stopped |= asides
        for (key, _), aside in asides.items():
            why = [each.direction for (other, _), each in asides.items() if (other, each.reason) == (key, aside.reason)]
            if why[0] == aside.direction:  # Of one reason for both directions it is told once.
                _logger.error("can't be synced (%s): %s", " and ".join(why), aside.reason)
                self._site.tell(Stopped(key, aside))

    def _load_quarantine(self) -> None:
        """What is stopped, as any process or an earlier run left it. Another version tries again."""
        stopped = {}
        for place, aside in self._site.quarantine.all(self._namespace).items():
            if (aside.lost and not self._site.ask) or (aside.version != VERSION and not aside.lost):
                self._site.quarantine.release(*place)
            elif not aside.consent:
                stopped[place] = aside
        for key, direction in self._stopped.keys() - stopped.keys():
            self._dirty.add(key)  # Somebody let it go on.
            if direction == "pull":
                self._poll_at = -math.inf
        self._stopped = stopped

    async def _send(self, wanted: dict[SessionKey, tuple[Head, int]]) -> None:
        await self._end_turns()  # Nobody else may: without a worker, there is no poll.
        await self._move()
        unsent = await self._unsent(wanted)
        await self._sync(set(unsent), set())
        await self._replicator.tidy()
        for key in unsent:
            aside = self._stopped.get((key, "push"))
            if aside is not None and key in await self._unsent(wanted):
                raise _Quarantined(aside.reason)

    async def _move(self) -> None:
        """If the central store is another one than before, send it all that is here."""
        identity = self._site.identity
        if await patiently(partial(identity.is_moving, self._namespace)):
            await self._sync(set(), await self._moved())
            await patiently(partial(identity.arrived, self._namespace))

    async def _unsent(self, wanted: dict[SessionKey, tuple[Head, int]]) -> set[SessionKey]:
        """Sessions of which the central store is not known to have what is in the wanted slot."""
        unsent = set()
        for key, (before, _) in list(wanted.items()):
            head = await self._site.head(key)
            if head is None:
                continue
            if head.offset != before.offset:  # It was moved to another slot.
                wanted[key] = (head, await patiently(partial(self._log.last_slot, key)))
            one_way = (key, "pull") in self._stopped
            if head.ending or max(head.acked, head.sent if one_way else 0) < wanted[key][1]:
                unsent.add(key)
        return unsent

    async def _pull_one(self, session_id: str) -> None:
        key = await self._replicator.know(session_id)
        self._evictor.spare(key)
        await self._sync(set(), {key})
        aside = self._stopped.get((key, "pull"))
        if aside is not None:
            raise _Quarantined(aside.reason)
        head = await self._site.head(key)
        if head is not None and head.stub:
            raise _Quarantined(of_session(session_id, "the central store does not have it now"))

    async def _pull_everything(self) -> None:
        await self._replicator.discover()
        await self._sync(set(), await self._moved())
        await self._expire()  # Nobody else may, as for turns.

    async def _verify(self, found: list[Difference], session_id: str | None, full: bool) -> None:
        found.clear()
        same = await self._identify(looks=True)
        verifier = Verifier(self._site, self._replicator.store_id if same else None, await self._stuck(), full=full)
        if session_id is not None:
            if (unknown := await verifier.unknown(session_id)) is not None:
                found.append(unknown)
                return
            await verifier.catch_up({session_key(self._namespace, session_id)})
        elif same:
            await self._replicator.discover()
            await verifier.catch_up(await self._moved())
        async for page in self._pages():
            heads = [(key, head) for key, head in page if session_id in (None, head.session_id)]
            found += [difference async for difference in verifier.differences(heads)]

    async def _stuck(self) -> dict[SessionKey, Refusal]:
        """What of the central store is in quarantine, and why."""
        asides = await patiently(partial(self._site.quarantine.all, self._namespace))
        return {
            key: Refusal(RemoteRejected(aside.reason), lost=aside.lost)
            for (key, direction), aside in asides.items()
            if direction == "pull" and not aside.consent
        }

    async def _end_turns(self) -> None:
        """What a turn wrote whose process is gone goes up."""
        for key, turn in await patiently(lambda: list(self._turns.left_behind(self._directory))):
            await patiently(partial(self._turns.end, key, turn))
            self.wake()

    async def _moved(self) -> set[SessionKey]:
        """The sessions known here that are not where the central store is, but for those that can't be pulled."""
        moved: set[SessionKey] = set()
        current, asked = await patiently(self._site.identity.replica_id), False
        async for heads in self._pages():
            if free := [(key, head) for key, head in heads if (key, "pull") not in self._stopped]:
                moved |= await self._replicator.moved(free)
                asked = True
            self._dirty |= {key for key, head in heads if head.origin != current}
        if not asked:
            await self._identify()  # There is nothing to ask for, but somebody may ask whether it can be reached.
        return moved

    async def _pages(self) -> AsyncIterator[list[tuple[SessionKey, Head]]]:
        after: SessionKey | None = b""
        while after is not None:
            heads, after = await patiently(partial(self._log.heads, self._namespace, after))
            if heads:
                yield heads


async def _nothing() -> None:
    return None


def _aside(head: Head, direction: Direction, refusal: Refusal) -> Aside:
    return Aside(
        namespace=head.namespace,
        session_id=head.session_id,
        direction=direction,
        reason=of_session(head.session_id, str(refusal.error)),
        since=time.time(),
        version=VERSION,
        place=refusal.place,
        count=refusal.changes,
        mark=refusal.mark,
        lost=refusal.lost,
    )
