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
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from localfirst import outbox
from localfirst.errors import LocalFirstError, RemoteUnavailable, SessionDeleted, StoreMoved, of_session
from localfirst.records import Head, SessionKey, session_key
from localfirst.rotation import Rotation
from sync.agenda import Agenda
from sync.asides import Asides, PutAside, error_of
from sync.contact import Contact
from sync.leader import Leadership
from sync.retry import LONGEST_WAIT, for_ever, patiently
from sync.site import Site
from sync.status import WorkerState
from sync.tasks import end, wait_for_event
from sync.verify import Difference
from sync.work import Work

LOOK_INTERVAL: Final = 0.05
"""Seconds between looks for changes that other processes made on this directory."""
CALM_INTERVAL: Final = 0.25
"""The same, when there was none for a while. What this process writes is known at once."""
CALM_AFTER: Final = 5.0
LEAD_INTERVAL: Final = 0.1
"""Seconds between tries to become the leader."""
MOVE_ROWS: Final = 100
"""How many rows later the write-ahead log is moved into the database: before an agent's call has to do it."""
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

_SWEEPS: Final = 20
"""Steps of removing, in one turn."""

_logger = logging.getLogger("localfirst.sync")


class Options(NamedTuple):
    """How often, in seconds; and how large the directory may get, in bytes."""

    poll_interval: float = 5.0
    sync_interval: float = 0.02
    size_limit: int | None = None


class Worker:
    """Sync of one directory and one namespace with one central store. Everything on one event loop."""

    def __init__(self, directory: Path, site: Site, options: Options) -> None:
        self.state: WorkerState = "standby"
        self._log = site.log
        self._central = site.central
        self._namespace = site.namespace
        self._options = options
        self._leadership = Leadership(directory, site.namespace)
        self._rounds = asyncio.Lock()
        self._asides = Asides(site)
        self._agenda = Agenda(site, self._asides)
        self._contact = Contact(directory, site, self._leadership, self._agenda, self._asides)
        self._site = replace(site, tell=self._contact.hear)
        self._work = Work(directory, self._site, options.size_limit, self._contact, self._agenda, self._asides)
        self.status = self._contact.status
        self._settled_row = self._moved_row = 0
        self._checked = False
        self._watching: asyncio.Task[None] | None = None
        self._expire_at = -math.inf
        self._sweep_at = time.monotonic() + SWEEP_SECONDS * random.uniform(0.1, 1.5)

    @property
    def leads(self) -> bool:
        """Whether this process syncs the directory."""
        return self._leadership.held

    def wake(self) -> None:
        """Something was written here: look now."""
        self._agenda.wake()

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
        if not self._contact.identified and not once:
            with suppress(RemoteUnavailable):  # Is it the one that has what was sent? If not, there is more to send.
                await self._attempt(_nothing)
        if session_id is None:
            keys = await patiently(self._agenda.waiting)
        else:
            keys = {session_key(self._namespace, session_id)}
        wanted = {key: (head, self._log.last_slot(key)) for key in keys if (head := await self._site.head(key))}
        waiting, before = dict(wanted), self._contact.deletions.copy()
        await self._flush(wanted, once=once)
        for key, (head, last) in waiting.items():
            if last > head.acked and self._contact.deletions[key] > before[key]:
                raise SessionDeleted(of_session(head.session_id, str(SessionDeleted())))

    async def _flush(self, wanted: dict[SessionKey, tuple[Head, int]], *, once: bool) -> None:
        moving = await patiently(partial(self._site.identity.is_moving, self._namespace))
        while moving or await self._work.unsent(wanted):
            moving = False
            await self._insist(lambda: self._work.send(wanted), once=once)
            if once or not await self._work.unsent(wanted):
                return
            await asyncio.sleep(LOOK_INTERVAL)  # A turn is open: what is in it waits.

    async def refresh(self, session_id: str | None = None) -> None:
        """Return when what is in the central store now (of one session, or all) is here."""
        if session_id is None:
            await self._insist(self._work.pull_everything)
            for (_, direction), aside in self._asides.stopped.items():
                if direction == "pull":
                    raise error_of(aside)
        else:
            await self._insist(lambda: self._work.pull_one(session_id))

    async def fetch(self, session_id: str) -> None:
        """Try once to bring a session here. Raises `RemoteUnavailable` and the like."""
        await self._insist(lambda: self._work.pull_one(session_id), once=True)

    async def verify(self, found: list[Difference], session_id: str | None, *, full: bool) -> None:
        """Compare what is here with the central store, see `sync.verify`."""
        await self._insist(lambda: self._work.verify(found, session_id, full=full), looks=True)

    async def rotate(self, rotation: Rotation) -> None:
        """Seal all with the newest key, see `sync.rotate`."""
        await self._insist(lambda: self._work.rotate(rotation))

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
            await self._work.replicator.tidy(_SWEEPS)
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
        self._contact.take_over()
        return True

    async def _begin(self) -> bool:
        """Find what is pending since before this worker began."""
        self.state = "turning"
        await self._agenda.begin()
        return True

    async def _live(self) -> bool:
        await for_ever(self._back_off)(self._take_turn)
        await self._maintain()
        self.state = "idle"
        await self._wait()
        return True

    async def _take_turn(self) -> None:
        self.state = "turning"
        if not self._contact.reachable.is_set():  # Then no turn may come to its end for weeks.
            await self._move_log()
            if time.monotonic() >= self._expire_at:
                self._expire_at = time.monotonic() + self._options.poll_interval
                async with self._rounds:
                    await self._work.expire(alone=True)
        await self._attempt(self._turn)

    async def _turn(self) -> None:
        agenda = self._agenda
        now = time.monotonic()
        due, hinted = agenda.poll_at, dict(agenda.hinted)
        poll = now >= due
        if poll:
            await self._work.end_turns()
            await self._work.move()
        pull = await self._work.moved() if poll else set()
        pull |= {key for key, hint in hinted.items() if await agenda.is_news(key, hint)}
        push = set(agenda.dirty) if now >= agenda.pushed_at + self._options.sync_interval else set()
        await self._work.sync(push, pull)
        asked = set(agenda.asked)
        await self._work.sync(set(), {key for key in asked if await agenda.is_unknown(key)})
        # Only now: what fails is done again as a whole.
        if push:
            agenda.pushed_at = now
        agenda.done(push, asked, hinted)
        if now >= self._expire_at:
            self._expire_at = now + max(self._options.poll_interval, EXPIRE_SECONDS)
            await self._work.expire()
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_SECONDS * random.uniform(0.5, 1.5)
            await self._central.sweep(SWEEP_SESSIONS)
        if poll and agenda.poll_at == due:  # Else hints were missed meanwhile: poll once more.
            agenda.poll_at = now + self._options.poll_interval * random.uniform(*POLL_SPREAD)

    async def _wait(self) -> None:
        """Until there is something to do: a change made here that may go, a hint, or the next poll."""
        agenda = self._agenda
        while True:
            await patiently(agenda.look)
            now, due = time.monotonic(), min(agenda.poll_at, self._work.evictor.again_at)
            if agenda.dirty:
                due = min(due, agenda.pushed_at + self._options.sync_interval)
            if agenda.hinted or agenda.asked or now >= due:
                return
            calm = now - agenda.seen_at > CALM_AFTER
            await wait_for_event(agenda.changed, min(due - now, CALM_INTERVAL if calm else LOOK_INTERVAL))
            agenda.changed.clear()

    async def _watch(self) -> None:
        """Take hints. When the connection breaks, listen again, and poll, for some were missed."""
        longest = 1.0
        while True:
            try:
                await self._contact.reachable.wait()
                async for hint in self._central.watch():
                    longest = 1.0
                    self._agenda.hear(hint)
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
        await self._work.replicator.tidy(_SWEEPS)
        if not self._agenda.dirty and self._agenda.seen_row - self._settled_row > SETTLE_ROWS:
            await patiently(partial(outbox.mark_settled, self._log))
            self._settled_row = self._agenda.seen_row

    async def _move_log(self) -> None:
        last_row = await patiently(self._log.rows.last_row)
        if last_row - self._moved_row > MOVE_ROWS and self._log.rows.wal_bytes():
            self._moved_row = last_row
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
                    await patiently(self._agenda.look_aside)
                    if self._site.ask or not self._contact.identified:
                        await self._contact.identify()
                await work()
            except PutAside as error:  # One bad session says nothing of the store.
                raise error.error from None
            except LocalFirstError as error:
                self._failed(error)
                raise
            self._contact.went_well()
            self._contact.reachable.set()

    def _failed(self, error: BaseException) -> None:
        if self.state == "idle":  # It was a request: the worker sees for itself, not only when the next poll is due.
            again_at = time.monotonic() + random.uniform(0.5, 1.0) * LONGEST_WAIT
            self._agenda.poll_at = min(self._agenda.poll_at, again_at)
        self._contact.failed(error)

    async def _back_off(self, seconds: float) -> None:
        self.state = "backing off"
        await self._nap(seconds)

    async def _nap(self, seconds: float) -> None:
        """Sleep, unless another try reaches the central store meanwhile."""
        await wait_for_event(self._contact.reachable, seconds)


async def _nothing() -> None:
    return None
