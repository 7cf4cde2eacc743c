"""Whether what is here is what the central store has: by digest, session by session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Final, NamedTuple

from localfirst.change import EMPTY_DIGEST, extend_digest
from localfirst.checkpoint import decode_state, hash_of
from localfirst.errors import LocalFirstError, MalformedChange, RemoteRejected
from localfirst.records import Head, SessionKey
from sync.central.base import Head as RemoteHead
from sync.central.base import Want
from sync.retry import patiently
from sync.site import Site, digest_after

_TRIES: Final = 5


class Difference(NamedTuple):
    """One session, and what is wrong with it; an empty text: nothing."""

    session_id: str
    problem: str
    pending: int
    """Changes made here that are not in the central store yet: no difference, they are on their way."""


async def verify(
    site: Site,
    heads: Sequence[tuple[SessionKey, Head]],
    catch_up: Callable[[SessionKey], Awaitable[None]],
    *,
    full: bool,
) -> AsyncIterator[Difference]:
    """Compare some sessions, which were pulled just before; `catch_up` pulls one again if others wrote meanwhile.

    What is on this disk is read again and its digest computed anew. Of the central store its digest is taken; `full`:
    its log is read, too.
    """
    remotes = await site.central.heads([head.session_id for _, head in heads]) if heads else []
    for (key, head), remote in zip(heads, remotes, strict=True):
        problem = await _problem(site, key, head, remote, full=full)
        for _ in range(_TRIES if problem else 0):
            problem = await _problem_now(site, key, head.session_id, catch_up, full=full)
            if not problem:
                break
            await asyncio.sleep(0)
        last = await patiently(partial(site.log.last_slot, key))
        now = await site.head(key) or head
        yield Difference(head.session_id, problem, max(0, last - max(now.acked, now.sent)))


async def _problem_now(
    site: Site, key: SessionKey, session_id: str, catch_up: Callable[[SessionKey], Awaitable[None]], *, full: bool
) -> str:
    """What is seen when it is looked at again: it may have moved."""
    await catch_up(key)
    head = await site.head(key)
    [remote] = await site.central.heads([session_id])
    return "" if head is None else await _problem(site, key, head, remote, full=full)


async def _problem(site: Site, key: SessionKey, head: Head, remote: RemoteHead | None, *, full: bool) -> str:
    try:
        here = await _digest_here(site, key, head)
    except LocalFirstError as error:
        return f"what is on this disk can't be read: {error}"
    if here != head.digest:
        return "what is on this disk is not what was written"
    if remote is None:
        return "" if head.generation is None else "it is not in the central store"
    if (head.generation, head.seq, head.digest) != remote:
        return _difference(head, remote)
    return await _problem_there(site, head, remote) if full else ""


def _difference(head: Head, remote: RemoteHead) -> str:
    if head.generation != remote.generation:
        return "the central store has another life of it"
    if head.seq < remote.seq:
        return f"the central store is {remote.seq - head.seq} changes ahead, and they were not taken"
    return "the central store has another history of it"


async def _digest_here(site: Site, key: SessionKey, head: Head) -> int:
    digest, seq = head.floor_digest, head.floor
    async for entries in site.kept(key, head.volume):
        digest, seq = digest_after(digest, entries), entries[-1].seq
    data = await patiently(partial(site.log.checkpoint, key, head.volume))
    folded = data is not None and decode_state(data).fold.seq == head.floor and hash_of(data) == head.floor_hash
    return digest if seq == head.seq and folded == bool(head.floor) else -1


async def _problem_there(site: Site, head: Head, remote: RemoteHead) -> str:
    try:
        found = await _digest_there(site, head, remote)
    except (MalformedChange, RemoteRejected) as error:
        return f"the central log can't be read: {error}"
    return "" if found == remote.digest else "the central log is not what its own digest says"


async def _digest_there(site: Site, head: Head, remote: RemoteHead) -> int:
    checkpoint = await site.central.checkpoint(head.session_id)
    digest, seq = (checkpoint.digest, checkpoint.seq) if checkpoint else (EMPTY_DIGEST, 0)
    if checkpoint is not None and decode_state(checkpoint.data).fold.seq != seq:
        raise RemoteRejected(f"its checkpoint is not one of change {seq}")
    while seq < remote.seq:
        want = Want(head.session_id, remote.generation, seq, digest)
        (pulled,) = await site.central.pull([want], site.limits.pull_bytes)
        entries = [entry.data for entry in pulled.entries if entry.seq <= remote.seq]
        if not entries:
            raise RemoteRejected(f"it ends at {seq}, before its head {remote.seq}")
        digest, seq = extend_digest(digest, entries), seq + len(entries)
    return digest
