"""When replication happens: the state machine of one store's sync, as coroutines of one event loop.

Two things run. `run` is the life of the background worker, which leads or waits to lead. Requests (flush, refresh,
fetch) work in every process, also in one that does not lead: the log itself refuses a cursor that another process has
moved. One lock keeps the rounds of a process apart, and is never held while waiting to try again. After every wait the
durable state is looked at anew; hints, from the agent's calls or from the central store, only make that sooner.
"""

from __future__ import annotations

import asyncio
import logging
import math
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from localfirst.errors import LocalFirstError, RemoteUnavailable
from localfirst.log import Head, Log, SessionKey, session_key
from sync.central.base import CentralStore, Hint
from sync.leader import Leadership
from sync.replicate import Replicator, Settled
from sync.retry import LONGEST_WAIT, for_ever, patiently
from sync.status import SyncStatus, publish
from sync.tasks import end, wait_for_event

LOOK_INTERVAL: Final = 0.05
"""Seconds between looks for changes that other processes made on this directory."""
LEAD_INTERVAL: Final = 0.1
"""Seconds between tries to become the leader."""
CHECKPOINT_BYTES: Final = 4 << 20
"""Size of the write-ahead log from which it is moved into the database."""
SETTLE_ROWS: Final = 1000
"""How many rows later it is noted again that nothing is pending."""

_logger = logging.getLogger("localfirst.sync")


class Options(NamedTuple):
    """How often, in seconds."""

    poll_interval: float = 5.0
    sync_interval: float = 0.02


class Worker:
    """Sync of one directory and one namespace with one central store. Everything on one event loop."""

    def __init__(
        self,
        directory: Path,
        log: Log,
        central: CentralStore,
        namespace: str,
        options: Options,
        on_settled: Callable[[Settled], None],
    ) -> None:
        self.status = SyncStatus("connecting")
        self.quarantine: dict[SessionKey, LocalFirstError] = {}
        """Sessions that can't be synced, and why. A worker that starts anew tries them again."""
        self._directory = directory
        self._log = log
        self._central = central
        self._namespace = namespace
        self._options = options
        self._leadership = Leadership(directory, namespace)
        self._replicator = Replicator(log, central, log.replica_id(), namespace, on_settled)
        self._rounds = asyncio.Lock()
        self._identified = False
        self._reachable = asyncio.Event()
        self._due = asyncio.Event()
        self._dirty: set[SessionKey] = set()
        self._asked: set[SessionKey] = set()
        self._hinted: dict[SessionKey, Hint] = {}
        self._poll_at = -math.inf
        self._pushed_at = -math.inf
        self._seen_version: tuple[int, tuple[int, int]] | None = None
        self._seen_row = 0
        self._settled_row = 0
        self._watching: asyncio.Task[None] | None = None
        self._told: tuple[object, ...] = ()

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
        while not await self._safely(self._lead):  # noqa: ASYNC110 - no event tells that another process ended
            await asyncio.sleep(LEAD_INTERVAL)
        self._watching = asyncio.create_task(self._watch(), name="localfirst-watch")
        try:
            while not await self._safely(self._begin):
                pass
            while True:
                await self._safely(self._live)
        finally:  # Nothing is awaited here: a second cancellation must not keep the next leader waiting.
            self._watching.cancel()
            self._leadership.release()

    async def flush(self, session_id: str | None = None, *, once: bool = False) -> None:
        """Return when what is pending now (of one session, or all) is in the central store.

        `once`: give up when the central store can't be reached, instead of trying again.
        """
        keys = (
            list(await patiently(self._waiting)) if session_id is None else [session_key(self._namespace, session_id)]
        )
        wanted = {key: counter for key in keys if (counter := self._log.last_counter(key))}
        if await self._unsent(wanted):
            await self._insist(lambda: self._drain(wanted), once=once)

    async def refresh(self, session_id: str | None = None) -> None:
        """Return when what is in the central store now (of one session, or all) is here."""
        if session_id is None:
            await self._insist(self._pull_everything)
            for error in self.quarantine.values():
                raise error
        else:
            await self._insist(lambda: self._pull_one(session_id))

    async def fetch(self, session_id: str) -> None:
        """Try once to bring a session here. Raises `RemoteUnavailable` and the like."""
        await self._insist(lambda: self._pull_one(session_id), once=True)

    def abandon(self) -> None:
        """Let another process lead, from outside of a loop that will not run again."""
        self._leadership.release()

    async def close(self) -> None:
        """Close the connections to the central store. End `run` first."""
        if self._watching is not None:
            await end(self._watching)
        await self._central.close()

    # The life of the leader.

    async def _safely(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """A step, whatever happens in it: nothing but cancellation ends the worker. False: it was not done."""
        try:
            return await step()
        except LocalFirstError as error:
            self._failed(error)  # Somebody must act, or a disk must heal.
        except Exception as error:
            _logger.exception("sync of %s failed; it goes on", self._directory)
            self._failed(error)
        await self._nap(random.uniform(0.5, 1.0) * LONGEST_WAIT)
        return False

    async def _lead(self) -> bool:
        return self._leadership.take()

    async def _begin(self) -> bool:
        """Find what is pending since before this worker began."""
        self._seen_row = await patiently(self._log.rows.last_row)
        self._dirty = await patiently(self._waiting)
        return True

    async def _live(self) -> bool:
        await self._insist(self._turn)
        await self._maintain()
        await self._wait()
        return True

    async def _turn(self) -> None:
        now = time.monotonic()
        due, hinted = self._poll_at, dict(self._hinted)
        poll = now >= due
        pull = await self._moved() if poll else set()
        pull |= {key for key, hint in hinted.items() if await self._is_news(key, hint)}
        pull -= self.quarantine.keys()
        push = set(self._dirty) if now >= self._pushed_at + self._options.sync_interval else set()
        if push:
            self._pushed_at = now
        await self._sync(push, pull)
        asked = set(self._asked)
        await self._sync(set(), {key for key in asked if await self._is_unknown(key)})
        # Only now: what fails is done again as a whole.
        self._dirty -= push
        self._asked -= asked
        for key, hint in hinted.items():
            if self._hinted.get(key) == hint:
                del self._hinted[key]
        if poll and self._poll_at == due:  # Else hints were missed meanwhile: poll once more.
            self._poll_at = now + self._options.poll_interval * random.uniform(0.9, 1.0)

    async def _wait(self) -> None:
        """Until there is something to do: a change made here that may go, a hint, or the next poll."""
        while True:
            await patiently(self._look)
            now, due = time.monotonic(), self._poll_at
            if self._dirty:
                due = min(due, self._pushed_at + self._options.sync_interval)
            if self._hinted or self._asked or now >= due:
                return
            await wait_for_event(self._due, min(due - now, LOOK_INTERVAL))
            self._due.clear()

    def _look(self) -> None:
        """What did any process do on this directory since the last look?"""
        version = self._log.rows.version()
        if version != self._seen_version:
            touched, self._seen_row = self._log.touched_since(self._seen_row, self._namespace)
            self._dirty |= touched.written - self.quarantine.keys()
            self._asked |= touched.asked - self.quarantine.keys()
            self._seen_version = version

    def _waiting(self) -> set[SessionKey]:
        return self._log.waiting(self._namespace)

    async def _is_news(self, key: SessionKey, hint: Hint) -> bool:
        """Hints also come for what was pushed from here."""
        head = await patiently(lambda: self._log.head(key))
        return head is not None and (head.generation != hint.generation or head.seq < hint.seq)

    async def _is_unknown(self, key: SessionKey) -> bool:
        """Whether it was not in the central store as far as is known here: somebody asked for it, so ask there."""
        head = await patiently(lambda: self._log.head(key))
        return head is not None and head.generation is None

    async def _watch(self) -> None:
        """Take hints. When the connection breaks, listen again, and poll, for some were missed."""
        while True:
            try:
                await self._reachable.wait()
                async for hint in self._central.watch():
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
            await asyncio.sleep(random.uniform(0.1, 1.0))

    async def _maintain(self) -> None:
        """What would otherwise be paid for by an agent's call, or by the next start."""
        if self._log.rows.wal_bytes() > CHECKPOINT_BYTES:
            await asyncio.to_thread(self._log.rows.checkpoint)
        if not self._dirty and self._seen_row - self._settled_row > SETTLE_ROWS:
            await patiently(self._log.mark_settled)
            self._settled_row = self._seen_row

    # One try, and many.

    async def _insist(self, work: Callable[[], Awaitable[None]], *, once: bool = False) -> None:
        """Do work with the central store; again and again while it can't be reached, unless `once`."""
        if once:
            await self._attempt(work)
        else:
            await for_ever(self._nap)(self._attempt, work)

    async def _attempt(self, work: Callable[[], Awaitable[None]]) -> None:
        async with self._rounds:
            try:
                if not self._identified:
                    asked_at = time.time()
                    self.status.reached((await self._central.identify()).now, asked_at)
                    self._identified = True
                await work()
            except LocalFirstError as error:
                if not any(error is known for known in self.quarantine.values()):
                    self._failed(error)  # One bad session says nothing of the store.
                raise
            self.status.went_well()
            self._tell()
            self._reachable.set()

    def _failed(self, error: BaseException) -> None:
        self._reachable.clear()
        self._identified = False
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
            error,
        )

    def _tell(self) -> None:
        self.status.quarantined = len(self.quarantine)
        told = (self.status.state, self.status.last_error, self.status.quarantined, int(time.monotonic()))
        if self.leads and told != self._told:  # At most once a second while nothing changes.
            publish(self._directory, self._namespace, self.status)
            self._told = told

    async def _nap(self, seconds: float) -> None:
        """Sleep, unless another try reaches the central store meanwhile."""
        await wait_for_event(self._reachable, seconds)

    # Work with the central store; all of it may be repeated.

    async def _sync(self, push: set[SessionKey], pull: set[SessionKey]) -> None:
        """Rounds until there is no more to push or pull. A session that can't be synced is put aside."""
        while push or pull:
            result = await self._replicator.round(push, pull)
            for key, error in result.refused.items():
                _logger.error("session %s can't be synced: %s", key.hex(), error)
            self.quarantine |= result.refused
            push = result.push - self.quarantine.keys()
            pull = result.pull - self.quarantine.keys()

    async def _drain(self, wanted: dict[SessionKey, int]) -> None:
        while unsent := await self._unsent(wanted):
            for key in unsent & self.quarantine.keys():
                raise self.quarantine[key]
            await self._sync(unsent, set())

    async def _unsent(self, wanted: dict[SessionKey, int]) -> set[SessionKey]:
        """Sessions of which the central store is not known to have the wanted counter."""
        heads = {key: await patiently(partial(self._log.head, key)) for key in wanted}
        return {key for key, head in heads.items() if head is not None and head.acked < wanted[key]}

    async def _pull_one(self, session_id: str) -> None:
        key = await self._replicator.know(session_id)
        await self._sync(set(), {key})
        if key in self.quarantine:
            raise self.quarantine[key]

    async def _pull_everything(self) -> None:
        await self._replicator.discover()
        await self._sync(set(), await self._moved())

    async def _moved(self) -> set[SessionKey]:
        """The sessions known here that are not where the central store is."""
        moved: set[SessionKey] = set()
        async for heads in self._pages():
            moved |= await self._replicator.moved(heads)
        return moved - self.quarantine.keys()

    async def _pages(self) -> AsyncIterator[list[tuple[SessionKey, Head]]]:
        after: SessionKey | None = b""
        while after is not None:
            heads, after = await patiently(partial(self._log.heads, self._namespace, after))
            if heads:
                yield heads
