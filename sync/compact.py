"""Folding a log, so that what changes made needless need not be kept: here, and in the central store.

Every replica folds its own copy when it pays. The author of the last change that is folded, who is there and has all of
it, puts the same checkpoint into the central store by compare-and-set; one author, so that not all of them send it.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import Final

import msgspec

from localfirst import volumes
from localfirst.change import Admitted, decode_change
from localfirst.checkpoint import State, hash_of
from localfirst.codec import Codec
from localfirst.errors import RemoteRejected, of_session
from localfirst.fold import VOID
from localfirst.log import Log
from localfirst.records import Head, Kept, SessionKey, digest_after_kept
from sync.central.base import Checkpoint
from sync.central.base import Head as RemoteHead
from sync.retry import patiently
from sync.site import Site

EXPIRED_MS: Final = 600_000
"""Milliseconds for which an expired item may stay on a disk, unseen, before it is folded away; a quarter of its time to
live, if that is less."""

_logger: Final = logging.getLogger("localfirst.sync")


async def load_state(site: Site, key: SessionKey, head: Head) -> State:
    """What the checkpoint of a session holds; an empty state if it has none."""
    data = await patiently(partial(volumes.checkpoint, site.log, key, head.volume))
    return State() if data is None else site.codec(head).decode_state(data)


def admit(codec: Codec, state: State, entries: list[Kept]) -> None:
    """Fold entries into a state."""
    state.admit(
        Admitted(entry.seq, entry.admitted_at, codec.decode(entry.data) if entry.data else VOID) for entry in entries
    )


async def stage_checkpoint(site: Site, key: SessionKey, volume: bytes, data: bytes) -> None:
    """Put a checkpoint into a volume that is being made, part by part."""
    size = volumes.PART_BYTES
    for part, start in enumerate(range(0, len(data), size)):
        await patiently(partial(volumes.add_checkpoint, site.log, key, volume, part, data[start : start + size]))


class Folded:
    """What folding a log up to some seq gives."""

    def __init__(self, state: State, digest: int) -> None:
        self.state = state
        self.digest = digest
        """Up to there."""
        self.bytes = 0
        """What the entries that were folded take."""
        self.author = ""
        """Of the last of them."""
        self.bottom = 0
        """The highest slot among them."""


async def compact(site: Site, key: SessionKey, head: Head) -> bool:
    """Fold a session's log as far as its end is not needed by replicas that are just behind. False: not worth it.

    Nothing that is seen changes. If the central log does not end at `head`, it is folded here only.
    """
    ends = await patiently(partial(volumes.page_ends, site.log, key, head))
    upto = next((end for end in ends if end >= head.seq - site.limits.keep), head.seq)
    folded = await fold(site, key, head, upto)
    data = site.codec(head).encode_state(folded.state)
    if len(data) + site.limits.compact_bytes > folded.bytes:
        return False
    if folded.author == head.origin:
        await share(site, head, upto, folded.digest, data)
    return await take(site, key, head, upto, folded, data)


async def fold_expired(site: Site, key: SessionKey, head: Head, *, alone: bool = False) -> bool:
    """Fold a session's log as far as its items expired, so that they leave this disk and the central store. False: none
    did. `alone`: that one can't be reached.

    Any replica does it, for the author may be gone; of the same log, only the first is taken.
    """
    upto = await patiently(partial(_expired_up_to, site.log, key, head, site.time.now()))
    if upto <= head.floor:
        return False
    folded = await fold(site, key, head, upto, site.time.now())
    data = site.codec(head).encode_state(folded.state)
    if not alone:
        await share(site, head, upto, folded.digest, data)
    if not await take(site, key, head, upto, folded, data):
        return False
    await patiently(site.log.must_scrub)
    return True


def _expired_up_to(log: Log, key: SessionKey, head: Head, now: int) -> int:
    """The last seq up to which all that was added has expired, if that is worth folding; 0: nothing is."""
    ttl, upto, after, patience = head.lifetime.item_ttl, 0, -1, 0
    if not ttl or head.seq <= head.floor:
        return 0
    patience = min(ttl // 4, EXPIRED_MS)  # So that one who adds all the time does not fold all the time.
    while pages := volumes.pages(log, key, head.volume, after, limit=1):
        page, after = pages[0], pages[0].first
        newest = max([own.admitted_at for own in page.own] + [each.admitted_at for each in page.foreign])
        if newest + ttl + patience > now:
            break
        upto = max([own.seq + own.count - 1 for own in page.own] + [each.seq for each in page.foreign])
        patience = 0
    return upto


async def fold(site: Site, key: SessionKey, head: Head, upto: int, now: int = 0) -> Folded:
    """Fold what is here of a session's log, up to a seq at which a page ends. `now`: to be trusted; what has expired by
    then is left out. If it is not known, that goes by the times of admission, for it can't be undone."""
    folded = Folded(await load_state(site, key, head), head.floor_digest)
    folded.bottom = head.bottom
    digest = head.floor_digest
    async for page in site.pages(key, head.volume):
        entries = await patiently(partial(volumes.entries, site.log, key, page))
        digest = digest_after_kept(digest, entries)
        if entries[-1].seq > upto:
            continue
        admit(site.codec(head), folded.state, entries)
        now = max(now, entries[-1].admitted_at)
        folded.digest = digest
        folded.bytes += sum(len(entry.data) for entry in entries)
        folded.author = decode_change(entries[-1].data).origin if entries[-1].data else ""
        folded.bottom = max([folded.bottom] + [own.slot + own.count - 1 for own in page.own])
    folded.state.fold.expire(now)
    if digest != head.digest:
        raise site.log.rows.damaged(f"holds another log of session {head.session_id!r} than was written")
    return folded


async def share(site: Site, head: Head, upto: int, digest: int, data: bytes) -> bool:
    """Put a checkpoint into the central store. False: if others were admitted meanwhile, it is refused."""
    expected = RemoteHead(head.generation or "", head.seq, head.digest)
    checkpoint = Checkpoint(expected.generation, upto, digest, data)
    try:
        return await site.central.put_checkpoint(head.session_id, expected, checkpoint, {})
    except RemoteRejected as error:
        _logger.warning("the central store takes no checkpoint: %s", of_session(head.session_id, str(error)))
        return False


async def take(site: Site, key: SessionKey, head: Head, upto: int, folded: Folded, data: bytes) -> bool:
    """Keep a checkpoint here, and no more than what is behind it. False: the session moved meanwhile."""
    volume = await patiently(partial(volumes.begin, site.log, key))
    await stage_checkpoint(site, key, volume, data)
    async for page in site.pages(key, head.volume):
        if page.first > upto:
            await patiently(partial(volumes.add_page, site.log, key, volume, page))
    after = msgspec.structs.replace(
        head,
        volume=volume,
        floor=upto,
        floor_digest=folded.digest,
        floor_hash=hash_of(data),
        bottom=folded.bottom,
        spent=0,
    )
    if await patiently(partial(site.log.settle, key, head, after)) is None:
        await patiently(partial(volumes.forget, site.log, key, volume))
        return False
    return True
