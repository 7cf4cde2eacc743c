"""What a store tells of itself, put together from the disk and from the worker."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from localfirst import jsonvalue, plans
from localfirst.clock import moment, pack, utc
from localfirst.errors import DecryptionError
from localfirst.fold import Fold
from localfirst.link import Link
from localfirst.local import Local
from localfirst.owner import OWNER, as_owner
from localfirst.records import Aside, Direction, SessionKey
from localfirst.status import Quarantined, SessionInfo, StoreStatus

Stopped = Mapping[tuple[SessionKey, Direction], Aside]
"""What is in quarantine."""


def store_status(local: Local, link: Link | None, path: Path, stopped: Stopped) -> StoreStatus:
    """How the store and the central store stand to each other now."""
    backlog = local.backlog()
    waiting = list(backlog.values())
    oldest = min((each.oldest for each in waiting), default=None)
    sync = link.status() if link else None
    return StoreStatus(
        state=sync.state if sync else "local",
        pending_changes=sum(each.changes for each in waiting),
        pending_bytes=sum(each.bytes for each in waiting),
        oldest_pending_seconds=None if oldest is None else max(0.0, time.time() - oldest),
        last_synced_at=utc(sync.last_synced_at) if sync else None,
        last_error=sync.last_error if sync else None,
        clock_offset=sync.clock_offset if sync else None,
        quarantined=len({key for key, _ in stopped}),
        quarantined_changes=sum(each.changes for key, each in backlog.items() if (key, "push") in stopped),
        leader=link.host.leads if link else False,
        remote=link.remote if link else None,
        replica_id=local.replica_id,
        path=str(path),
        recovered=local.recovered(),
        disk_bytes=local.disk_bytes(),
        size_limit=local.room.limit if local.room else None,
    )


def session_info(local: Local, link: Link | None, key: SessionKey, session_id: str, *, stopped: bool) -> SessionInfo:
    """How a session stands, as far as is known here. `stopped`: it is in quarantine."""
    view = local.view(key, session_id)

    def look(fold: Fold) -> SessionInfo:
        pending = view.unsent
        never = view.head.generation is None and (link is None or not pending)
        state: Any = "local" if never else "pending" if pending else "synced"
        state = "evicted" if view.head.stub else state
        metadata = {name: jsonvalue.decode(value) for name, value in plans.metadata(fold).items()}
        return SessionInfo(
            session_id=session_id,
            items=len(fold.items),
            bytes=sum(len(item.data) for item in fold.items),
            updated_at=view.updated_at,
            expires_at=moment(pack(view.expires_at)),
            pending=pending,
            state="quarantined" if stopped else state,
            owner=as_owner(metadata.get(OWNER)),
            metadata=metadata,
        )

    try:
        return local.glance(key, session_id, look)
    except DecryptionError:
        return SessionInfo(session_id, 0, 0, None, None, view.unsent, "sealed")


def in_quarantine(stopped: Stopped) -> list[Quarantined]:
    """What is in quarantine, for people, in the order of the ids."""
    hopeless = {key for (key, _), aside in stopped.items() if aside.is_hopeless}
    found = sorted(stopped.items(), key=lambda each: (each[1].session_id, each[1].direction))
    return [
        Quarantined(
            aside.session_id,
            aside.direction,
            aside.reason,
            datetime.fromtimestamp(aside.since, timezone.utc),
            can_discard=key not in hopeless,
        )
        for (key, _), aside in found
    ]
