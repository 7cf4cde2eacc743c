"""Whether what is here is what the central store has: by digest, session by session."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import NamedTuple

from localfirst.change import extend_digest
from localfirst.errors import LocalFirstError, RemoteRejected
from localfirst.records import Head, SessionKey
from sync.central.base import Head as RemoteHead
from sync.central.base import Want
from sync.retry import patiently
from sync.site import Site, digest_after


class Difference(NamedTuple):
    """One session, and what is wrong with it; an empty text: nothing."""

    session_id: str
    problem: str
    pending: int
    """Changes made here that are not in the central store yet: no difference, they are on their way."""


async def verify(site: Site, heads: Sequence[tuple[SessionKey, Head]], *, full: bool) -> AsyncIterator[Difference]:
    """Compare some sessions, which were pulled just before.

    What is on this disk is read again and its digest computed anew. Of the central store its digest is taken; `full`:
    its log is read, too.
    """
    remotes = await site.central.heads([head.session_id for _, head in heads]) if heads else []
    for (key, head), remote in zip(heads, remotes, strict=True):
        problem = await _problem(site, key, head, remote, full=full)
        if problem:
            problem = await _problem_now(site, key, head, problem, full=full)
        last = await patiently(partial(site.log.last_slot, key))
        yield Difference(head.session_id, problem, max(0, last - head.acked))


async def _problem_now(site: Site, key: SessionKey, before: Head, problem: str, *, full: bool) -> str:
    """The problem, unless the session moved while it was looked at; then what is seen now."""
    head = await site.head(key)
    if head is None or head == before:
        return problem
    [remote] = await site.central.heads([head.session_id])
    return await _problem(site, key, head, remote, full=full)


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
    return digest if seq == head.seq else -1


async def _problem_there(site: Site, head: Head, remote: RemoteHead) -> str:
    try:
        found = await _digest_there(site, head, remote)
    except RemoteRejected as error:
        return f"the central log can't be read: {error}"
    return "" if found == remote.digest else "the central log is not what its own digest says"


async def _digest_there(site: Site, head: Head, remote: RemoteHead) -> int:
    checkpoint = await site.central.checkpoint(head.session_id)
    digest, seq = (checkpoint.digest, checkpoint.seq) if checkpoint else (0, 0)
    while seq < remote.seq:
        want = Want(head.session_id, remote.generation, seq)
        (pulled,) = await site.central.pull([want], site.limits.pull_bytes)
        entries = [entry.data for entry in pulled.entries if entry.seq <= remote.seq]
        if not entries:
            raise RemoteRejected(f"it ends at {seq}, before its head {remote.seq}")
        digest, seq = extend_digest(digest, entries), seq + len(entries)
    return digest
