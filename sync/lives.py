"""The ends of lives, as replication meets them: what expired or was deleted is dropped here, what was deleted here is
deleted in the central store."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

import msgspec

from localfirst.lives import end_life, last_life
from localfirst.records import ANY_LIFE, Head, SessionKey
from sync.central.base import Ended, Ending
from sync.retry import patiently
from sync.site import Over, Site

_logger = logging.getLogger("localfirst.sync")


def how_ended(site: Site, head: Head, generation: str | None, ended: Ended | None) -> Ended | None:
    """How the life that a session follows ended, if it did: `generation` is the one that the central store has now, and
    `ended` what it tells.

    It may have forgotten, or have been emptied since: then what it told last decides.
    """
    if head.generation is None or head.generation == generation:
        return None
    return ended or ("expired" if 0 < head.expires_at <= site.time.now() else None)


async def drop_life(site: Site, key: SessionKey, head: Head, how: Ended) -> bool:
    """Drop what is here of a life that ended. If it expired, what is pending and has not is the next life's. False: the
    session moved meanwhile."""
    keep = None
    if how == "expired":
        keep = await patiently(partial(last_life, site.log, key, head, site.time.now()))
    if await patiently(partial(end_life, site.log, key, head, keep=keep, deleted=how == "deleted")) is None:
        return False
    _logger.info("session %r: %s; what was here of it is dropped", head.session_id, how)
    site.tell(Over(key, head.session_id, how))
    return True


async def is_over(site: Site, key: SessionKey, head: Head) -> bool:
    """Whether all that is pending in a session that was never in the central store has expired."""
    if head.generation is not None or not head.ttl:
        return False
    return await patiently(partial(last_life, site.log, key, head, site.time.now())) > head.acked + 1


async def send_deletions(site: Site, keys: Iterable[SessionKey]) -> None:
    """Delete in the central store what was deleted here, of some sessions."""
    heads = [(key, head) for key in keys if (head := await site.head(key)) is not None and head.ending]
    if not heads:
        return
    await site.central.delete(
        [Ending(head.session_id, None if head.ending == ANY_LIFE else head.ending) for _, head in heads]
    )
    for key, head in heads:
        found: Head | None = head
        while found is not None and found.ending == head.ending:  # Else it was deleted once more meanwhile.
            after = msgspec.structs.replace(found, ending="")
            if await patiently(partial(site.log.settle, key, found, after)) is not None:
                break
            found = await site.head(key)
