"""What tests of stores that share a central store do again and again. The fixtures of this directory go with it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import localfirst
from localfirst.change import new_id
from sync.central import connect
from sync.central.base import PushStatus, Run

Open = Callable[..., localfirst.Store]
"""`opened(name, remote, **options)`: a store in the directory of that name."""


def contents(session: localfirst.Session) -> list[Any]:
    """What its messages say."""
    return [item["content"] for item in session]


def settle(*stores: localfirst.Store) -> None:
    """Everything everywhere."""
    for _ in range(2):
        for store in stores:
            store.flush(20)
            store.refresh(20)


def push_foreign(url: str, namespace: str, session_id: str, changes: Sequence[bytes]) -> None:
    """Put bytes into a session's central log, as another replica would."""

    async def push() -> None:
        central = connect(url, namespace)
        await central.identify()
        (head,) = await central.heads([session_id])
        run = Run(session_id, head.generation if head else new_id(), True, new_id(), 1, changes)
        (pushed,) = await central.push([run])
        assert pushed.status is PushStatus.OK
        await central.close()

    asyncio.run(push())
