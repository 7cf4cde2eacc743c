"""`SQLiteSession` and `AsyncSQLiteSession`: sessions on local disk, with or without a central store."""

from __future__ import annotations

import os
from datetime import timedelta

from localfirst.errors import ConfigurationError
from localfirst.integrations.face import place
from localfirst.integrations.openai_agents.base import (
    MESSAGES_TABLE,
    SESSIONS_TABLE,
    AgentsSession,
    Settings,
    namespace_of,
)
from localfirst.integrations.stores import Borrowed, temporary
from localfirst.store import Store

_MEMORY = ":memory:"


class SQLiteSession(AgentsSession):
    """In the place of the SDK's session in an SQLite database.

    - `db_path`: the directory of the store, not a file: an existing database is brought in by `localfirst import
      --in-place`. `":memory:"`: a store of this object's own, gone when it is closed, or with the process.
    - `sessions_table`, `messages_table`: there are no tables; other names than the usual ones mean another namespace,
      `<sessions_table>.<messages_table>`, and so other data.
    - `session_settings`: the SDK's, or a dict.
    - `whole_turns`: the limit of the settings cuts between turns, see `localfirst.Session.get_items`.
    - `remote`: the central store, as for `localfirst.open`; None: `$LOCALFIRST_REMOTE`, else none.
    - `store`: an open store, in the place of `db_path`; it stays open.
    - `ttl`: seconds or a timedelta after which the session expires if nothing is written to it.

    Raises `ConfigurationError`.

    >>> from localfirst.integrations.openai_agents import SQLiteSession
    >>> session = SQLiteSession("user-123", directory / "conversations.db")
    >>> asyncio.run(session.add_items([{"role": "user", "content": "Hello"}]))
    >>> asyncio.run(session.get_items())
    [{'role': 'user', 'content': 'Hello'}]
    >>> session.close()
    """

    def __init__(
        self,
        session_id: str,
        db_path: str | os.PathLike[str] = _MEMORY,
        sessions_table: str = SESSIONS_TABLE,
        messages_table: str = MESSAGES_TABLE,
        session_settings: Settings = None,
        *,
        whole_turns: bool = False,
        remote: str | None = None,
        store: Store | None = None,
        ttl: timedelta | float | None = None,
    ) -> None:
        self.db_path, self.sessions_table, self.messages_table = db_path, sessions_table, messages_table
        borrowed = _store(db_path, remote, namespace_of(sessions_table, messages_table), store)
        super().__init__(session_id, borrowed, ttl=ttl, session_settings=session_settings, whole_turns=whole_turns)


class AsyncSQLiteSession(SQLiteSession):
    """As `SQLiteSession`; its `close` is a coroutine, as the SDK's."""

    async def close(self) -> None:  # type: ignore[override]
        """As `aclose`."""
        await self.aclose()


def _store(path: str | os.PathLike[str], remote: str | None, namespace: str, store: Store | None) -> Borrowed:
    if store is not None or os.fspath(path) != _MEMORY:
        return place(path, remote, namespace, store)
    if remote:
        raise ConfigurationError(f"what is in {_MEMORY} goes to no central store: name a directory as db_path")
    return temporary()
