"""`SQLAlchemySession`: sessions on local disk, with a Postgres database as their central store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from typing_extensions import Self

from localfirst.errors import ConfigurationError
from localfirst.integrations.face import place
from localfirst.integrations.openai_agents.base import (
    MESSAGES_TABLE,
    SESSIONS_TABLE,
    AgentsSession,
    Settings,
    namespace_of,
)
from localfirst.integrations.openai_agents.postgres_address import of_engine, of_url
from localfirst.secret import Url

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine
    from sqlalchemy.ext.asyncio import AsyncEngine


class SQLAlchemySession(AgentsSession):
    """In the place of the SDK's session in SQL tables: what it writes is on local disk when a call returns, and in
    Postgres soon.

    - `engine`: an engine of SQLAlchemy for Postgres, sync or async. It is asked for its URL, and not used.
    - `db_url`: in its place, the URL: `postgresql://`, with or without `+asyncpg`, `+psycopg2` or `+psycopg`.
    - `create_tables`: makes no difference; the first store that connects makes what is missing.
    - `sessions_table`, `messages_table`: other names than the usual ones mean another namespace,
      `<sessions_table>.<messages_table>`, and so other data.
    - `session_settings`: the SDK's, or a dict.
    - `ensure_ascii`: makes no difference; items come back as they were.
    - `path`: the directory of the store. None: one for each database, see `$LOCALFIRST_HOME`.
    - `ttl`: seconds or a timedelta after which the session expires if nothing is written to it.
    - `whole_turns`: the limit of the settings cuts between turns, see `localfirst.Session.get_items`.

    Raises `ConfigurationError`, also for other databases.
    """

    def __init__(
        self,
        session_id: str,
        *,
        engine: Engine | AsyncEngine | None = None,
        db_url: str | URL | None = None,
        create_tables: bool = False,  # noqa: ARG002 - it is the SDK's
        sessions_table: str = SESSIONS_TABLE,
        messages_table: str = MESSAGES_TABLE,
        session_settings: Settings = None,
        ensure_ascii: bool = True,  # noqa: ARG002
        path: str | os.PathLike[str] | None = None,
        ttl: timedelta | float | None = None,
        whole_turns: bool = False,
    ) -> None:
        if (engine is None) == (db_url is None):
            raise ConfigurationError("SQLAlchemySession takes either engine= or db_url=")
        db_url = Url(db_url) if isinstance(db_url, str) else db_url  # Which no traceback shows with its password.
        remote = of_url(db_url) if engine is None else of_engine(engine)
        self._engine, self._db_url = engine, db_url
        borrowed = place(path, remote, namespace_of(sessions_table, messages_table))
        super().__init__(session_id, borrowed, ttl=ttl, session_settings=session_settings, whole_turns=whole_turns)

    @classmethod
    def from_url(
        cls,
        session_id: str,
        *,
        url: str,
        engine_kwargs: Mapping[str, Any] | None = None,
        session_settings: Settings = None,
        **kwargs: Any,
    ) -> Self:
        """A session by the URL of its database. `kwargs`: as for the class.

        `engine_kwargs`: what an engine would be given. Most is about its pool; `connect_args` and others that say how
        to connect raise `ConfigurationError`: options of the URL say that here.
        """
        url = Url(url)
        for name in ("connect_args", "creator", "async_creator", "pool"):
            if (engine_kwargs or {}).get(name):
                raise ConfigurationError(
                    f"{name} is not understood by localfirst: options of the URL say how to connect"
                )
        return cls(session_id, db_url=url, session_settings=session_settings, **kwargs)

    @property
    def engine(self) -> Any:
        """An engine for queries of your own: the one that was given, or a new one for the URL. The session does not
        use it."""
        if self._engine is None:
            from sqlalchemy.ext.asyncio import create_async_engine

            self._engine = create_async_engine(self._db_url or "")
        return self._engine
