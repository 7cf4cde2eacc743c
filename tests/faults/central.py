"""What is really in a central store, past what replicas make of it: they drop what they are given twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from localfirst.change import EMPTY_DIGEST, decode_change
from sync.central import connect
from sync.central.base import Want


def changes_in(remote: str, namespace: str, session_ids: Iterable[str]) -> dict[str, int]:
    """How many changes the central log of each session has ever taken; 0 if there is no such session."""
    return asyncio.run(_changes_in(remote, namespace, list(session_ids)))


async def _changes_in(remote: str, namespace: str, session_ids: list[str]) -> dict[str, int]:
    central = connect(remote, namespace)
    try:
        heads = await central.heads(session_ids)
    finally:
        await central.close()
    return {session_id: head.seq if head else 0 for session_id, head in zip(session_ids, heads, strict=True)}


def bodies_in(remote: str, namespace: str) -> dict[str, bytes]:
    """What the central store has of each session: its checkpoint, and the bodies of its changes."""
    return asyncio.run(_bodies_in(remote, namespace))


async def _bodies_in(remote: str, namespace: str) -> dict[str, bytes]:
    central = connect(remote, namespace)
    found: dict[str, bytes] = {}
    try:
        for session_id in await central.sessions("", 1000):
            checkpoint = await central.checkpoint(session_id)
            after, digest, generation = 0, EMPTY_DIGEST, None
            if checkpoint is not None:
                after, digest, generation = checkpoint.seq, checkpoint.digest, checkpoint.generation
            (pulled,) = await central.pull([Want(session_id, generation, after, digest)], 1 << 30)
            assert pulled.head is not None
            assert not pulled.resync
            bodies = [decode_change(entry.data).body for entry in pulled.entries]
            found[session_id] = b"\n".join([checkpoint.data if checkpoint else b"", *bodies])
    finally:
        await central.close()
    return found
