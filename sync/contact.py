"""The central store as it is met: which one it is, whether it can be reached, and what others are told of that."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from functools import partial
from pathlib import Path

from localfirst.errors import LocalFirstError, RemoteLost, RemoteUnavailable
from localfirst.records import SessionKey
from sync.agenda import Agenda
from sync.asides import Asides
from sync.leader import Leadership
from sync.retry import patiently
from sync.site import Lost, Notice, Over, Site
from sync.status import SyncStatus, publish, published

_logger = logging.getLogger("localfirst.sync")


class Contact:
    """With one central store, for one directory."""

    def __init__(self, directory: Path, site: Site, leadership: Leadership, agenda: Agenda, asides: Asides) -> None:
        self.status = SyncStatus("connecting")
        self.reachable = asyncio.Event()
        """Set while the last contact was one."""
        self.identified = False
        """Whether it is known which store it is; asked again after whatever failed."""
        self.store_id = ""
        """Which it is, once that is known."""
        self.deletions = Counter[SessionKey]()
        """How often each session was deleted elsewhere."""
        self._directory = directory
        self._site = site
        self._leadership = leadership
        self._agenda = agenda
        self._asides = asides
        self._told: tuple[object, ...] = ()

    async def identify(self, *, looks: bool = False) -> bool:
        """Which store is it? If it is not the one that was followed, what is here is to be sent to it again.

        `looks`: only tell; False: it is another one.
        """
        asked_at = time.time()
        found = await self._site.central.identify()
        identity, namespace = self._site.identity, self._site.namespace
        followed = await patiently(partial(identity.followed, namespace))
        if followed not in (None, found.store_id):
            if looks:
                return False
            await patiently(partial(identity.offer, namespace, found.store_id))
            self._agenda.poll_at = -math.inf  # Also once somebody has agreed to it.
            if self._site.ask:
                raise RemoteLost
            _logger.warning(
                "sync of %s: the central store is another one than before, or was emptied; what is here is sent to it",
                self._directory,
            )
        if followed != found.store_id or await patiently(partial(identity.is_offered, namespace)):
            await patiently(partial(identity.follow, namespace, found.store_id))
        self.store_id = found.store_id
        self.status.reached(found.now, asked_at)
        self._site.time.measured(found.now, asked_at)
        await patiently(partial(identity.note_reckoning, namespace, self._site.time.reckoning))
        self.tell()
        self.identified = True
        return True

    def hear(self, notice: Notice) -> bool | None:
        """A session that was lost may be one of many: the store may have been emptied, and be another one now."""
        if isinstance(notice, Lost):
            self.identified, self._agenda.poll_at = False, -math.inf
        if isinstance(notice, Over) and notice.how == "deleted":
            self.deletions[notice.key] += 1
        return self._site.tell(notice)

    def went_well(self) -> None:
        """Something was done with it."""
        self.status.went_well()
        self.tell()

    def failed(self, error: BaseException) -> None:
        """Something could not be done."""
        self.reachable.clear()
        self.identified = False
        before = self.status.last_error
        self.status.failed(error)
        self.tell()
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

    def makes_room(self, makes_room: bool) -> None:
        """Whether sessions can be evicted."""
        if self._leadership.held and self.status.makes_room != makes_room:
            self.status.makes_room = makes_room
            self.tell()

    def take_over(self) -> None:
        """This process leads from now on: what the leader before told is not true any more, but for one thing."""
        told = published(self._directory, self._site.namespace)
        if told is not None and self.status.last_synced_at is None:
            self.status.last_synced_at = told.last_synced_at
        self.tell()

    def tell(self) -> None:
        """Tell the other processes on the directory, if there is something new."""
        self.status.quarantined = len({key for key, _ in self._asides.stopped})
        status = self.status
        told = (status.state, status.last_error, status.quarantined, status.makes_room, int(time.monotonic()))
        if self._leadership.held and told != self._told:  # At most once a second while nothing changes.
            publish(self._directory, self._site.namespace, self.status)
            self._told = told
