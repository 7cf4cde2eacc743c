"""What is to be done with the central store.

Hints come here, from the agents' calls on the directory and from the central store. What is due is taken from here, and
leaves when it is done.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Final

from localfirst import outbox
from localfirst.records import SessionKey, session_key
from sync.asides import Asides
from sync.central.base import Hint
from sync.retry import patiently
from sync.site import Site

_MOST_HINTED: Final = 10_000
"""Sessions that are known to have moved; of more, all are asked for."""


class Agenda:
    """Of one directory and one namespace. Times are of the monotonic clock."""

    def __init__(self, site: Site, asides: Asides) -> None:
        self.changed = asyncio.Event()
        """There may be more to do. Whoever looks clears it."""
        self.dirty: set[SessionKey] = set()
        """There is something to push."""
        self.asked: set[SessionKey] = set()
        """Somebody began to use them, and as far as is known here the central store never had them."""
        self.hinted: dict[SessionKey, Hint] = {}
        """The central store told that there is something to pull."""
        self.poll_at = -math.inf
        """When it is asked what else there is."""
        self.pushed_at = -math.inf
        self.seen_at = -math.inf
        """When it was noticed last that something was done on the directory."""
        self.seen_row = 0
        """The last row of those that were looked at."""
        self._log = site.log
        self._namespace = site.namespace
        self._asides = asides
        self._version: tuple[int, tuple[int, int]] | None = None

    async def begin(self) -> None:
        """Find what is pending since before anybody looked."""
        self.seen_row = await patiently(self._log.rows.last_row)
        self.dirty = await patiently(self.waiting)

    def waiting(self) -> set[SessionKey]:
        """The sessions of which something waits for the central store."""
        return outbox.waiting(self._log, self._namespace)

    def wake(self) -> None:
        """Something was written here: look now. (On one connection, no version tells.)"""
        self._version = None
        self.changed.set()

    def hear(self, hint: Hint | None) -> None:
        """The central store told something; None: it may have told more, which did not come through."""
        if hint is None or len(self.hinted) >= _MOST_HINTED:
            self.hinted.clear()  # The poll finds what they told.
            self.poll_at = time.monotonic()
        else:
            self.hinted[session_key(self._namespace, hint.session_id)] = hint
        self.changed.set()

    def look(self) -> None:
        """What did any process do on this directory since the last look?"""
        version = self._log.rows.version()
        if version != self._version:
            self.seen_at = time.monotonic()
            touched, self.seen_row = outbox.touched_since(self._log, self.seen_row, self._namespace)
            self.dirty |= touched.written
            self.asked |= touched.asked
            self.look_aside()
            self._version = version

    def look_aside(self) -> None:
        """Find what is put aside now; what somebody let go on is due."""
        for key, direction in self._asides.load():
            self.dirty.add(key)
            if direction == "pull":
                self.poll_at = -math.inf

    async def is_news(self, key: SessionKey, hint: Hint) -> bool:
        """Hints also come for what was pushed from here."""
        head = await patiently(lambda: self._log.head(key))
        if head is None or head.stub:  # What was evicted comes when somebody wants it.
            return False
        return head.generation != hint.generation or head.seq < hint.seq

    async def is_unknown(self, key: SessionKey) -> bool:
        """Whether it was not in the central store as far as is known here: somebody asked for it, so ask there."""
        head = await patiently(lambda: self._log.head(key))
        return head is not None and head.generation is None

    def done(self, pushed: set[SessionKey], asked: set[SessionKey], hinted: Mapping[SessionKey, Hint]) -> None:
        """This need not be done again, unless there is a newer hint."""
        self.dirty -= pushed
        self.asked -= asked
        for key, hint in hinted.items():
            if self.hinted.get(key) == hint:
                del self.hinted[key]
