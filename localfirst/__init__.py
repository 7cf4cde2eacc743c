"""Local-first sessions for AI agents: a fast local store, replicated in the background to Redis or Postgres.

>>> import localfirst, tempfile
>>> with localfirst.open(tempfile.mkdtemp()) as store:
...     session = store.session("user-123")
...     _ = session.add_message("user", "Hello")
...     session.get_messages()
[{'role': 'user', 'content': 'Hello'}]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from localfirst.errors import (
    ConfigurationError,
    DecryptionError,
    InvalidItem,
    ItemTooLarge,
    LocalFirstError,
    MalformedChange,
    RemoteLost,
    RemoteRejected,
    RemoteUnavailable,
    RemoteVersionError,
    SessionDeleted,
    SourceUnreadable,
    StoreBusy,
    StoreClosed,
    StoreCorrupt,
    StoreFull,
    StoreMoved,
    StoreUnwritable,
    SyncTimeout,
)
from localfirst.version import VERSION

if TYPE_CHECKING:
    from localfirst.events import SessionEvent
    from localfirst.keys import KeyRing
    from localfirst.metadata import Conflict
    from localfirst.migration.report import MigratedSession, MigrateReport
    from localfirst.migration.run import amigrate, migrate
    from localfirst.opening import open  # noqa: A004
    from localfirst.search import Match
    from localfirst.session import Session
    from localfirst.status import Branch, Quarantined, Recovered, SessionCheck, SessionInfo, StoreStatus, VerifyReport
    from localfirst.store import Store

__version__ = VERSION

__all__ = [
    "Branch",
    "ConfigurationError",
    "Conflict",
    "DecryptionError",
    "InvalidItem",
    "ItemTooLarge",
    "KeyRing",
    "LocalFirstError",
    "MalformedChange",
    "Match",
    "MigrateReport",
    "MigratedSession",
    "Quarantined",
    "Recovered",
    "RemoteLost",
    "RemoteRejected",
    "RemoteUnavailable",
    "RemoteVersionError",
    "Session",
    "SessionCheck",
    "SessionDeleted",
    "SessionEvent",
    "SessionInfo",
    "SourceUnreadable",
    "Store",
    "StoreBusy",
    "StoreClosed",
    "StoreCorrupt",
    "StoreFull",
    "StoreMoved",
    "StoreStatus",
    "StoreUnwritable",
    "SyncTimeout",
    "VerifyReport",
    "amigrate",
    "migrate",
    "open",
]

# Found when first used: sync imports the modules below `localfirst`, and the store imports sync.
_HOMES = {
    "Branch": "localfirst.status",
    "Conflict": "localfirst.metadata",
    "KeyRing": "localfirst.keys",
    "Match": "localfirst.search",
    "MigrateReport": "localfirst.migration.report",
    "MigratedSession": "localfirst.migration.report",
    "Quarantined": "localfirst.status",
    "Recovered": "localfirst.status",
    "Session": "localfirst.session",
    "SessionCheck": "localfirst.status",
    "SessionEvent": "localfirst.events",
    "SessionInfo": "localfirst.status",
    "Store": "localfirst.store",
    "StoreStatus": "localfirst.status",
    "VerifyReport": "localfirst.status",
    "amigrate": "localfirst.migration.run",
    "migrate": "localfirst.migration.run",
    "open": "localfirst.opening",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(import_module(_HOMES[name]), name)
    return value
