"""What is really in a central store, past what replicas make of it: they drop what they are given twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from sync.central import connect


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
