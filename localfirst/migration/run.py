"""Conversations of other programs, brought into a store."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import closing
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

from localfirst.migration.importing import import_one
from localfirst.migration.report import MigratedSession, MigrateReport
from localfirst.migration.source import Source
from localfirst.migration.sources import open_source
from localfirst.secret import Url
from localfirst.store import Store

Progress = Callable[[str, int, int], object]
"""Is told a session's id, and how many of its rows are done, of how many."""


def migrate(
    source: str | os.PathLike[str],
    store: Store,
    *,
    sessions: str | Iterable[str] | None = None,
    dry_run: bool = False,
    verify: bool = True,
    append: bool = False,
    progress: Progress | None = None,
    key_prefix: str = "agents:session",
    sessions_table: str = "agent_sessions",
    messages_table: str = "agent_messages",
) -> MigrateReport:
    """Import the conversations of another program into sessions of the same ids. The source is only read.

    - `source`: a file: SQLite of the OpenAI Agents SDK (SQLiteSession, AsyncSQLiteSession, AdvancedSQLiteSession,
      SQLAlchemySession) or of openstackai, or an export of a session. Or a URL: `redis://` (the SDK's RedisSession) or
      `postgresql://` (SQLAlchemySession); or `@` and the path of a file that holds it.
    - `sessions`: a glob, or the ids of those that are wanted. None: all.
    - `dry_run`: write nothing, and tell what would be.
    - `verify`: read back from disk what was imported, and compare it with the source.
    - `append`: add to sessions that hold other items already. Without it, they are left alone, and reported.
    - `progress(session_id, done, rows)`: called before a session, and after every 500 rows or 1 MiB of it.
    - `key_prefix`; `sessions_table`, `messages_table`: as the SDK's classes were given them.

    Can be run again: after it was cut off, after the source has grown, on another replica that has synced. Only what is
    not here yet is written, for what was imported is noted in the session's metadata, key `"localfirst:imported"`, in
    one commit with the items. (With `worker="none"`, `store.refresh()` first: it tells what others imported.)
    A session whose first rows have changed since is left alone, and reported.

    Items are kept as they are, sealed ones too. Rows that hold no JSON are left out and reported. Metadata is set where
    nothing is set: `"created_at"` (ISO 8601); of openstackai, the session's own, `"user_id"`, `"agent_id"`, `"state"`,
    `"updated_at"` and `"context"`. Branches of AdvancedSQLiteSession become branches, forked where they parted from
    another one, and the one of `localfirst.integrations.openai_agents` tells what it counted.

    Raises `ConfigurationError` for what can't be a source, `SourceUnreadable`, `RemoteUnavailable` and the like for one
    that can't be read, and whatever writing to the store raises; what was imported before that stays.

    >>> import sqlite3
    >>> with sqlite3.connect(directory / "old.db") as old:  # As SQLiteSession writes it.
    ...     _ = old.executescript('''
    ...         CREATE TABLE agent_sessions (session_id TEXT PRIMARY KEY, created_at, updated_at);
    ...         CREATE TABLE agent_messages (id INTEGER PRIMARY KEY, session_id TEXT, message_data TEXT, created_at);
    ...         INSERT INTO agent_messages VALUES (1, 'user-456', '{"role": "user", "content": "Hello"}', '2030-01-02');
    ...     ''')
    >>> report = localfirst.migrate(directory / "old.db", store)
    >>> report.ok, report.imported, report.verified, store.session("user-456").get_messages()
    (True, 1, True, [{'role': 'user', 'content': 'Hello'}])
    >>> localfirst.migrate(directory / "old.db", store).imported
    0
    """
    source = Url(source) if isinstance(source, str) else source  # Which no traceback shows with its password.
    names: dict[str, Any] = {
        "key_prefix": key_prefix,
        "sessions_table": sessions_table,
        "messages_table": messages_table,
    }
    with closing(open_source(source, **names)) as opened:
        done = []
        for session_id, is_there in _chosen(opened, sessions):
            if not is_there:
                done.append(MigratedSession(session_id, 0, 0, 0, 0, problem=f"it is not in {opened.name}"))
                continue
            told = partial(progress or _nobody, session_id)
            done.append(import_one(store, opened, session_id, told, append=append, dry=dry_run, verify=verify))
        return MigrateReport(opened.name, dry_run, tuple(done))


async def amigrate(source: str | os.PathLike[str], store: Store, **options: Any) -> MigrateReport:
    """As `migrate`, without blocking the event loop; `progress` is called in another thread.

    >>> asyncio.run(localfirst.amigrate(directory / "old.db", store))
    Traceback (most recent call last):
    localfirst.errors.ConfigurationError: there is no file ...old.db
    """
    source = Url(source) if isinstance(source, str) else source
    return await asyncio.to_thread(migrate, source, store, **options)


def _chosen(source: Source, sessions: str | Iterable[str] | None) -> list[tuple[str, bool]]:
    """Those that are wanted, and whether they are there."""
    known = source.session_ids()
    if sessions is None or isinstance(sessions, str):
        return [(found, True) for found in known if sessions is None or fnmatchcase(found, sessions)]
    there = set(known)
    return [(wanted, wanted in there) for wanted in dict.fromkeys(sessions)]


def _nobody(_: str, __: int, ___: int) -> None:
    return None
