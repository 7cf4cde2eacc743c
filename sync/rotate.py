"""Sealing anew with the newest key what older ones sealed, session by session, on this disk and in the central store.

A log is folded as far as it goes, and what comes of it takes its place: here, and there by compare-and-set. So others
read all the time, and a crash leaves each session as it was or as it shall be. What is pending is not touched: if an
answer was lost, it is in the central log as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Final

from localfirst import volumes
from localfirst.errors import DecryptionError, MalformedChange, RemoteRejected, StoreCorrupt
from localfirst.records import Head, SessionKey
from localfirst.rotation import Rotation
from sync.central.base import Want
from sync.central.digests import digest_after
from sync.compact import fold, share, take
from sync.replicate import Replicator
from sync.retry import patiently
from sync.site import Site

_TRIES: Final = 10
"""How often it is begun again, if others write meanwhile."""


async def rotate(site: Site, replicator: Replicator, keys: Sequence[SessionKey], rotation: Rotation) -> None:
    """Seal sessions anew, but for those that are done."""
    for key in keys:
        if key in rotation.done or (head := await site.head(key)) is None:
            continue
        try:
            left = await _seal_anew(site, replicator, key)
        except (DecryptionError, MalformedChange, StoreCorrupt, RemoteRejected) as error:
            left = str(error)
        rotation.note(key, head.session_id, left, len(keys))


async def _seal_anew(site: Site, replicator: Replicator, key: SessionKey) -> str:
    """Returns why something still needs an older key; empty: nothing does."""
    for _ in range(_TRIES):
        if (refused := await _caught_up(replicator, key)) is not None:
            return refused
        if (head := await site.head(key)) is None or head.generation is None:
            return await _what_waits(site, key)
        if head.stub:
            continue
        there, here = await _is_new_there(site, head), await _is_new_here(site, key, head)
        if there and here:
            return await _what_waits(site, key)
        if await patiently(partial(site.quarantine.skipped, key)):
            return "changes that can't be read were given up here, and would be for all: rotate where they can be read"
        await _fold_anew(site, key, head, shared=there)
    return "others write to it all the time"


async def _fold_anew(site: Site, key: SessionKey, head: Head, *, shared: bool) -> None:
    """If others write meanwhile, nothing is changed."""
    folded = await fold(site, key, head, head.seq)
    data = site.codec(head).encode_state(folded.state)
    if not shared and not await share(site, head, head.seq, folded.digest, data):
        return
    if await take(site, key, head, head.seq, folded, data):
        await patiently(site.log.must_scrub)


async def _caught_up(replicator: Replicator, key: SessionKey) -> str | None:
    """Take what is new in the central store; why not, if it can't be taken."""
    pull = {key}
    while pull:
        result = await replicator.round((), pull)
        for refusal in result.refused.values():
            return str(refusal.error)
        pull = result.pull
    return None


async def _what_waits(site: Site, key: SessionKey) -> str:
    head = await site.head(key)
    if head is None:
        return ""
    codec, after, old = site.codec(head), max(head.acked, head.bottom), 0
    while pending := await patiently(partial(site.log.run, key, after, site.limits.run_changes)):
        old += sum(bool(data) and not codec.is_newest(data) for data in pending)
        after += len(pending)
    return f"not in the central store yet, and sealed with an older key: {old} of what waits" if old else ""


async def _is_new_here(site: Site, key: SessionKey, head: Head) -> bool:
    codec = site.codec(head)
    data = await patiently(partial(volumes.checkpoint, site.log, key, head.volume))
    if data is not None and not codec.is_newest_state(data):
        return False
    async for entries in site.kept(key, head.volume):
        if not all(codec.is_newest(entry.data) for entry in entries if entry.data):
            return False
    return True


async def _is_new_there(site: Site, head: Head) -> bool:
    """Whether the central log is, up to where it was followed."""
    codec, checkpoint = site.codec(head), await site.central.checkpoint(head.session_id)
    seq, digest = (checkpoint.seq, checkpoint.digest) if checkpoint else (0, 0)
    if checkpoint is not None and not codec.is_newest_state(checkpoint.data):
        return False
    while seq < head.seq:
        want = Want(head.session_id, head.generation, seq, digest)
        (pulled,) = await site.central.pull([want], site.limits.pull_bytes)
        entries = pulled.entries[: head.seq - seq]
        if not entries:
            return False  # It moved meanwhile: look again.
        if not all(codec.is_newest(entry.data) for entry in entries):
            return False
        digest, seq = digest_after(digest, entries), seq + len(entries)
    return True
