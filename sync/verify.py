"""Whether what is here is what the central store has: by digest, session by session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, NamedTuple

from localfirst import volumes
from localfirst.change import EMPTY_DIGEST
from localfirst.checkpoint import hash_of
from localfirst.errors import DecryptionError, LocalFirstError, MalformedChange, RemoteRejected
from localfirst.records import Head, SessionKey, digest_after_kept, session_key
from sync.central.base import Head as RemoteHead
from sync.central.base import Want
from sync.central.digests import digest_after
from sync.replicate import Replicator
from sync.retry import patiently
from sync.round import Refusal
from sync.site import Site

_TRIES: Final = 5
_LOST: Final = "it is not in the central store any more; the next sync sends it again"
_ANOTHER: Final = "the central store is another one than before, or was emptied; the next sync sends it there"
_UNKNOWN: Final = "there is no such session, here or in the central store"

_Remote = RemoteHead | RemoteRejected | None


class Difference(NamedTuple):
    """One session, and what is wrong with it; an empty text: nothing."""

    session_id: str
    problem: str
    pending: int
    """Changes made here that are not in the central store yet: no difference, they are on their way."""
    lost: bool = False
    """The central store does not have what it had; a sync sends it again, or asks whether it shall."""


class Verifier:
    """Compares sessions with the central store. Sends nothing, puts nothing aside; only what is new there is taken."""

    def __init__(self, site: Site, store_id: str | None, stuck: Mapping[SessionKey, Refusal], *, full: bool) -> None:
        """`store_id` None: the central store is another one than is followed. `stuck`: what can't be taken, and why."""
        self._site = site
        self._full = full
        self._another = store_id is None
        self._stuck = dict(stuck)
        self._replicator = Replicator(replace(site, looks=True))
        self._replicator.store_id = store_id or ""

    async def unknown(self, session_id: str) -> Difference | None:
        """Make one session known here that the central store has; if it does not either, that is what is wrong."""
        if await self._site.head(session_key(self._site.namespace, session_id)) is None:
            if self._another or await self._remotes([session_id]) == [None]:
                return Difference(session_id, _UNKNOWN, 0)
            await self._replicator.know(session_id)
        return None

    async def catch_up(self, keys: Iterable[SessionKey]) -> None:
        """Take what is new in some sessions."""
        pull = set(keys)
        while pull := pull - self._stuck.keys():
            result = await self._replicator.round((), sorted(pull))
            self._stuck |= {key: refusal for (key, _), refusal in result.refused.items()}
            pull = result.pull

    async def differences(self, heads: Sequence[tuple[SessionKey, Head]]) -> AsyncIterator[Difference]:
        """Of some sessions, which were caught up just before.

        What is on this disk is read again and its digest computed anew. Of the central store its digest is taken;
        `full`: its log is read, too.
        """
        remotes = await self._remotes([head.session_id for _, head in heads])
        for (key, head), remote in zip(heads, remotes, strict=True):
            problem = await self._problem(key, head, remote)
            for _ in range(_TRIES if problem and not self._another else 0):
                problem = await self._problem_now(key, head.session_id)
                if not problem:
                    break
                await asyncio.sleep(0)
            last = await patiently(partial(self._site.log.last_slot, key))
            now = await self._site.head(key) or head
            pending = max(0, last - max(now.acked, now.sent))
            yield Difference(head.session_id, problem, pending, self._is_lost(key, problem))

    async def _problem_now(self, key: SessionKey, session_id: str) -> str:
        """What is seen when it is looked at again: it may have moved, if others write meanwhile."""
        [remote] = await self._remotes([session_id])
        await self.catch_up({key})
        head = await self._site.head(key)
        if head is None:
            return ""
        if key not in self._stuck and _is_before(remote, head):  # What was taken was compared with where it is now.
            remote = RemoteHead(head.generation or "", head.seq, head.digest)
        return await self._problem(key, head, remote)

    async def _problem(self, key: SessionKey, head: Head, remote: _Remote) -> str:
        if problem := await _problem_here(self._site, key, head):
            return problem
        if not (problem := await _problem_there(self._site, head, remote, full=self._full)):
            return ""
        if self._another:
            return _ANOTHER
        return str(self._stuck[key].error) if key in self._stuck else problem

    def _is_lost(self, key: SessionKey, problem: str) -> bool:
        stuck = self._stuck.get(key)
        return problem in (_LOST, _ANOTHER) or (stuck is not None and stuck.lost and problem == str(stuck.error))

    async def _remotes(self, session_ids: Sequence[str]) -> list[_Remote]:
        """Where the central logs end; of one that can't be told, why."""
        if not session_ids:
            return []
        try:
            return list(await self._site.central.heads(session_ids))
        except RemoteRejected as error:
            if len(session_ids) == 1:
                return [error]
        return [remote for session_id in session_ids for remote in await self._remotes([session_id])]


async def _problem_here(site: Site, key: SessionKey, head: Head) -> str:
    try:
        here = await _digest_here(site, key, head)
    except LocalFirstError as error:
        return f"what is on this disk can't be read: {error}"
    return "" if here == head.digest else "what is on this disk is not what was written"


async def _problem_there(site: Site, head: Head, remote: _Remote, *, full: bool) -> str:
    if head.ending:
        return ""  # It is to be deleted there.
    if remote is None:
        return "" if head.generation is None else _LOST
    if isinstance(remote, RemoteRejected):
        return f"the central log can't be read: {remote}"
    ahead = head.stub and remote.generation == head.generation and remote.seq > head.seq
    if (head.generation, head.seq, head.digest) != remote and not ahead:  # A stub does not follow.
        return _difference(head, remote)
    return await _problem_in(site, head, remote) if full else ""


def _is_before(remote: _Remote, head: Head) -> bool:
    """Whether a central log ended before a head that follows it."""
    return isinstance(remote, RemoteHead) and remote.generation == head.generation and remote.seq < head.seq


def _difference(head: Head, remote: RemoteHead) -> str:
    if head.generation != remote.generation:
        return "the central store has another life of it"
    if head.seq < remote.seq:
        return f"the central store is {remote.seq - head.seq} changes ahead, and they were not taken"
    return "the central store has another history of it"


async def _digest_here(site: Site, key: SessionKey, head: Head) -> int:
    digest, seq = head.floor_digest, head.floor
    async for entries in site.kept(key, head.volume):
        digest, seq = digest_after_kept(digest, entries), entries[-1].seq
    data = await patiently(partial(volumes.checkpoint, site.log, key, head.volume))
    codec = site.codec(head)
    folded = data is not None and codec.decode_state(data).fold.seq == head.floor and hash_of(data) == head.floor_hash
    if head.stub:  # What was folded is in the central store only.
        return digest if seq == head.seq and data is None else -1
    return digest if seq == head.seq and folded == bool(head.floor) else -1


async def _problem_in(site: Site, head: Head, remote: RemoteHead) -> str:
    try:
        found = await _digest_there(site, head, remote)
    except (MalformedChange, DecryptionError, RemoteRejected) as error:
        return f"the central log can't be read: {error}"
    return "" if found == remote.digest else "the central log is not what its own digest says"


async def _digest_there(site: Site, head: Head, remote: RemoteHead) -> int:
    checkpoint = await site.central.checkpoint(head.session_id)
    digest, seq = (checkpoint.digest, checkpoint.seq) if checkpoint else (EMPTY_DIGEST, 0)
    if checkpoint is not None and site.codec(head).take_state(checkpoint.data).fold.seq != seq:
        raise RemoteRejected(f"its checkpoint is not one of change {seq}")
    while seq < remote.seq:
        want = Want(head.session_id, remote.generation, seq, digest)
        (pulled,) = await site.central.pull([want], site.limits.pull_bytes)
        entries = [entry for entry in pulled.entries if entry.seq <= remote.seq]
        if not entries:
            raise RemoteRejected(f"it ends at {seq}, before its head {remote.seq}")
        digest, seq = digest_after(digest, entries), seq + len(entries)
    return digest
