"""The ends of lives, as replication meets them: what expired or was deleted is dropped here, what was deleted here is
deleted in the central store."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import partial

import msgspec

from localfirst.lives import end_life, is_spent, last_life, touched
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
    """Drop what is here of a life that ended. If it expired, what is pending and has not is the next life's; and so is
    what was written after it had expired here, however it ended. False: the session moved meanwhile."""
    keep = await patiently(partial(last_life, site.log, key, head, site.time, deleted=how == "deleted"))
    if await patiently(partial(end_life, site.log, key, head, keep=keep)) is None:
        return False
    _logger.info("session %r: %s; what was here of it is dropped", head.session_id, how)
    site.tell(Over(key, head.session_id, how))
    return True


async def with_pending(site: Site, key: SessionKey, head: Head) -> Head:
    """A head that tells what was set by what was admitted, with what is pending on top."""
    lifetime, after, more = head.lifetime, max(head.acked, head.bottom), True
    while more:
        pending = await patiently(partial(site.log.run, key, after, site.limits.run_changes))
        lifetime, after = touched(site.codec(head), lifetime, pending), after + len(pending)
        more = len(pending) == site.limits.run_changes
    return msgspec.structs.replace(head, lifetime=lifetime)


async def drop_spent(site: Site, key: SessionKey, head: Head) -> None:
    """Drop what is here of a session that expired, when the central store can't be asked. If others have renewed it, it
    comes back from there."""
    if await patiently(partial(is_spent, site.log, key, head, site.time, alone=True)):
        await drop_life(site, key, head, "expired")


async def is_over(site: Site, key: SessionKey, head: Head) -> bool:
    """Whether all that is pending in a session that was never in the central store has expired."""
    if head.generation is not None or not head.ttl:
        return False
    return await patiently(partial(last_life, site.log, key, head, site.time)) > head.acked + 1


async def send_deletions(site: Site, keys: Sequence[SessionKey]) -> None:
    """Delete in the central store what was deleted here, of some sessions."""
    if not (known := await _to_delete(site, keys)):
        return
    await _name_lives(site, known)
    heads = [(key, head) for key, head in await _to_delete(site, keys) if head.ending != ANY_LIFE]
    if not heads:
        return
    await site.central.delete([Ending(head.session_id, head.ending) for _, head in heads])
    for key, head in heads:
        found: Head | None = head
        while found is not None and found.ending == head.ending:  # Else it was deleted once more meanwhile.
            after = msgspec.structs.replace(found, ending="")
            if await patiently(partial(site.log.settle, key, found, after)) is not None:
                break
            found = await site.head(key)


async def _to_delete(site: Site, keys: Sequence[SessionKey]) -> list[tuple[SessionKey, Head]]:
    return [(key, head) for key in keys if (head := await site.head(key)) is not None and head.ending]


async def _name_lives(site: Site, heads: Iterable[tuple[SessionKey, Head]]) -> None:
    """Where it is not known which life is to be deleted, find out: a request that comes late, or again, must not delete
    the next one."""
    unnamed = [(key, head) for key, head in heads if head.ending == ANY_LIFE]
    if not unnamed:
        return
    remotes = await site.central.heads([head.session_id for _, head in unnamed])
    for (key, head), remote in zip(unnamed, remotes, strict=True):
        after = msgspec.structs.replace(head, ending=remote.generation if remote else "")
        await patiently(partial(site.log.settle, key, head, after))
