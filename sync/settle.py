"""How a session comes out of a round: its head moves, it is read anew, its life is over, or it is put aside."""

from __future__ import annotations

import logging
from collections.abc import Coroutine
from functools import partial
from typing import Final, TypeVar

import msgspec

from localfirst import volumes
from localfirst.errors import DecryptionError, MalformedChange, RemoteRejected, StoreCorrupt, of_session
from localfirst.records import Direction, Head, Page, Rename, SessionKey
from sync.central.base import Ended
from sync.compact import compact
from sync.lives import drop_life
from sync.resync import Lacking, Stubborn, Unreadable, resync
from sync.retry import patiently
from sync.round import Refusal, Round
from sync.site import Lost, Settled, Site

UNKNOWN_OURS: Final = "changes of ours are in what was read, and were not known for ours"
"""Why a log is read anew: it has changes made here of which this replica was never told that they were admitted."""
_HOPELESS: Final = 5
"""How often in a row the central store may take what its log lacks, and not show it."""

T = TypeVar("T")

_logger = logging.getLogger("localfirst.sync")


class Settler:
    """Records what a push or a pull found of a session."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._stubborn: dict[SessionKey, int] = {}
        self._looked: dict[SessionKey, int] = {}

    async def settle(
        self,
        key: SessionKey,
        before: Head,
        after: Head,
        result: Round,
        page: Page | None = None,
        rename: Rename | None = None,
    ) -> None:
        """Take what is new into the session, and move its head."""
        pages = () if page is None else (page,)
        sent = after.sent if key in result.one_way else 0
        after = msgspec.structs.replace(after, store=result.store_id, sent=sent)
        settled = await patiently(partial(self._site.log.settle, key, before, after, pages, rename))
        if settled is None:
            if after.volume != before.volume:
                await patiently(partial(volumes.forget, self._site.log, key, after.volume))
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
        done = await self.guarded(key, head, "pull", result, compact(self._site, key, head))
        self._looked[key] = 0 if done else head.spent

    async def end(self, key: SessionKey, head: Head, how: Ended, result: Round) -> None:
        """The life that was followed is over. There may be another one already."""
        await drop_life(self._site, key, head, how)
        result.push.add(key)
        result.pull.add(key)

    async def lost(self, key: SessionKey, head: Head, result: Round) -> None:
        """The central store does not have the session any more. Sending it again may need somebody's consent."""
        if head.generation is None:  # It never had: neither side knows more than what is pending here.
            if head.locked:  # What could not be read is not there any more.
                await self.settle(key, head, msgspec.structs.replace(head, locked=""), result)
            return
        if self._site.looks or (head.stub and not await self._is_pending(key, head)):
            return  # There is nothing here to send. Whoever reads it is told.
        reason = "the central store has lost this session"
        if self._site.ask and head.store == result.store_id:  # Else the store is another one, and consent is given.
            aside = await patiently(partial(self._site.quarantine.get, key, "push"))
            if aside is None or not aside.consent:
                told = f"session {head.session_id!r}: {reason}; a retry sends it again, a discard drops it here too"
                result.refused[key, "pull"] = result.refused[key, "push"] = Refusal(RemoteRejected(told), lost=True)
                return
        self._site.tell(Lost(key, head.session_id, reason))
        await self.resync(key, head, result, reason)

    async def _is_pending(self, key: SessionKey, head: Head) -> bool:
        return await patiently(partial(self._site.log.last_slot, key)) > head.acked

    async def resync(self, key: SessionKey, head: Head, result: Round, reason: str, *, expected: bool = False) -> None:
        """Read the central log anew. `expected`: there is nothing wrong with it."""
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
        await self.settle(key, head, after, result, None, rename)
        await patiently(partial(self._site.quarantine.heal, key))
        result.push.add(key)

    async def guarded(
        self, key: SessionKey, head: Head, direction: Direction, result: Round, step: Coroutine[None, None, T]
    ) -> T | None:
        """One bad session stops no other."""
        try:
            return await step
        except Unreadable as error:
            refusal = _of_change(head, error)
        except (MalformedChange, DecryptionError, StoreCorrupt, RemoteRejected) as error:
            refusal = Refusal(error, lost=isinstance(error, Lacking))
        if isinstance(refusal.error, StoreCorrupt) and await self._site.head(key) != head:
            result.pull.add(key)  # Another process replaced what was being read.
            result.push.add(key)
            return None
        result.refused[key, "pull"] = refusal
        if direction == "push":  # To push, the central log would have to be read first.
            result.refused[key, "push"] = refusal._replace(place=0, changes=0, mark="")
        return None


def _of_change(head: Head, error: Unreadable) -> Refusal:
    """What is wrong with one change. Of one that only lacks its key nothing is to be given up: it is to be had."""
    told = f"change {error.seq} in the central log: {str(error).removeprefix(of_session(head.session_id, ''))}"
    found = error.error
    if isinstance(found, DecryptionError):
        return Refusal(
            DecryptionError(of_session(head.session_id, told), found.key_id),
            error.seq,
            mark="" if found.key_id else error.mark,
        )
    return Refusal(MalformedChange(of_session(head.session_id, told)), error.seq, mark=error.mark)
