"""What a store tells of itself: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal["local", "connecting", "online", "offline", "blocked", "stopped"]


@dataclass(frozen=True)
class Recovered:
    """What became of a database that was damaged. What could be read was saved when the store was opened."""

    path: str | None
    """The broken database, kept as it was: a directory. It is yours to look into and to remove; then this is gone. What
    is deleted from the store later is still in there."""
    at: datetime
    """UTC."""
    reason: str
    lost_changes: int
    """Changes made here that are missing for certain. More may be, of which nothing is left that tells of them. Those
    that had been sent come back from the central store."""
    damaged_rows: int
    """Rows that are not what was written, or can't be read at all."""
    incomplete_sessions: int
    """Sessions of which something is missing; they are read anew from the central store."""
    nameless_sessions: int
    """Sessions whose names are lost. What was written to them here and could be read comes back when they are next used
    by name."""


@dataclass(frozen=True)
class StoreStatus:
    """How a store and its central store stand to each other."""

    state: State
    """local: there is no central store. connecting: not reached yet. online: the last contact went well. offline: the
    last did not, it is tried again and again. blocked: somebody must act (credentials, version, see `last_error`).
    stopped: no worker runs."""
    pending_changes: int
    """Changes made here that are not known to be in the central store."""
    pending_bytes: int
    oldest_pending_seconds: float | None
    """Age of the oldest of them; None if there is none."""
    last_synced_at: datetime | None
    """When the central store last answered (UTC)."""
    last_error: str | None
    """Why the last contact failed; None after one that went well."""
    clock_offset: float | None
    """Seconds by which the central store's clock is ahead of this one's; None before the first contact."""
    quarantined: int
    """Sessions that can't be synced until somebody acts; every other one goes on."""
    quarantined_changes: int
    """Of the pending changes, those that the central store refuses until somebody acts."""
    leader: bool
    """Whether this process runs the sync of the directory."""
    remote: str | None
    """The central store, without credentials."""
    replica_id: str
    path: str
    disk_bytes: int
    """What the directory takes on disk, with the write-ahead log."""
    size_limit: int | None
    """What it may take; None: no limit."""
    recovered: Recovered | None = None
    """That the database was damaged, and what could be saved; None: it never was, or `recovered.path` was removed."""


@dataclass(frozen=True)
class SessionInfo:
    """One session of a store."""

    session_id: str
    items: int
    """Of the main branch."""
    bytes: int
    """Of these items, as JSON."""
    updated_at: datetime | None
    """When its newest change was made, by its author's clock (UTC)."""
    expires_at: datetime | None
    """If nothing is written to it until then (UTC); None: never."""
    pending: int
    """Changes made here that are not known to be in the central store."""
    state: Literal["local", "pending", "synced", "evicted", "quarantined", "sealed"]
    """local: never in a central store. pending: changes wait for it. synced: none does. evicted: it is fetched at the
    next access, see `size_limit`; `items` and `bytes` count what was added since. quarantined: see
    `Store.quarantined`. sealed: its key is not here, so nothing of it is counted, nor what is pending."""
    owner: str | None = None
    """See `Session.owner`. Not known of a session that is sealed or was evicted, unless it was set here since."""
    metadata: dict[str, Any] = field(default_factory=dict, hash=False)
    """As fresh objects. Of a session that was evicted, what was set here since; of one that is sealed, nothing."""


@dataclass(frozen=True)
class Branch:
    """One branch of a session, see `Session.branches`."""

    name: str
    items: int
    created_at: datetime | None
    """When it was forked, by its author's clock (UTC); None: it is the main branch."""
    current: bool
    """Whether the session object that was asked is on it."""


@dataclass(frozen=True)
class Quarantined:
    """A session that can't be synced in one direction until somebody acts. In the other it goes on."""

    session_id: str
    direction: Literal["push", "pull"]
    """push: the central store refuses what was written here. pull: what is there can't be read here."""
    reason: str
    since: datetime
    """UTC."""
    can_discard: bool
    """Whether `Store.discard` lets the session go on. Else what the reason names is to be repaired; a central log that
    is damaged may be deleted, and is sent again after a `retry`."""


@dataclass(frozen=True)
class SessionCheck:
    """What `Store.verify` found of one session."""

    session_id: str
    problem: str
    """Empty: the digests agree."""
    pending: int
    """Changes made here that are not in the central store yet; they are on their way, and no problem."""
    lost: bool = False
    """The problem is that the central store does not have what it had. A sync sends it again, or asks whether it shall:
    see `on_remote_loss`."""


@dataclass(frozen=True)
class RotateReport:
    """What `Store.rotate` came to."""

    sessions: int
    """That it looked at."""
    left: dict[str, str]
    """Those of which something is still sealed with an older key, or not at all, and why. Rotate again."""

    @property
    def ok(self) -> bool:
        """Whether nothing needs an older key any more, here and in the central store."""
        return not self.left


@dataclass(frozen=True)
class VerifyReport:
    """What `Store.verify` found."""

    sessions: list[SessionCheck]

    @property
    def ok(self) -> bool:
        """Whether there is no problem."""
        return not self.problems

    @property
    def problems(self) -> list[SessionCheck]:
        """The sessions that have one."""
        return [check for check in self.sessions if check.problem]
