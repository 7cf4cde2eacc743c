"""Tables of the OpenAI Agents SDK's SQLAlchemySession in Postgres, read by a server-side cursor in one snapshot."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeVar
from urllib.parse import parse_qsl, urlencode

import asyncpg

from localfirst.errors import ConfigurationError
from localfirst.migration.readonly import quoted
from localfirst.migration.source import PART, Conversation, Row, only_main
from localfirst.secret import Url
from sync.central.postgres.address import Address, parse_address
from sync.central.postgres.errors import connecting, our_errors

T = TypeVar("T")
_SCHEME: Final = re.compile(r"^postgres(ql)?(\+\w+)?://")
_SQLALCHEMYS: Final = {"ssl": "sslmode", "prepared_statement_cache_size": "", "async_fallback": ""}
"""Options that only SQLAlchemy knows, by what asyncpg calls them; empty: nothing."""


class PostgresSource:
    """The sessions in one pair of tables. A name may have a schema before it: `"app.agent_messages"`."""

    def __init__(self, url: Url, sessions_table: str, messages_table: str) -> None:
        self._address = address_of(url)
        self.name = self._address.server
        self.kind = f"openai-agents/postgres/{messages_table}"
        self._sessions, self._messages = _table(sessions_table), _table(messages_table)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="localfirst-import", daemon=True)
        self._thread.start()
        try:
            self._connection = self._wait(_connect(self._address))
            self._check(messages_table, ("id", "session_id", "message_data", "created_at"), self._messages)
            self._check(sessions_table, ("session_id", "created_at"), self._sessions)
        except BaseException:
            self._stop()
            raise

    def session_ids(self) -> list[str]:
        """All, in the order of their ids."""
        query = f"SELECT session_id FROM {self._sessions} UNION SELECT session_id FROM {self._messages}"
        return sorted(str(row[0]) for row in self._wait(self._fetch(query)))

    @contextmanager
    def conversation(self, session_id: str) -> Iterator[Conversation]:
        """One of them, as it was when the block began."""
        transaction = self._connection.transaction(isolation="repeatable_read", readonly=True)
        self._wait(self._guard(transaction.start()))
        try:
            ((count,),) = self._wait(
                self._fetch(f"SELECT count(*) FROM {self._messages} WHERE session_id = $1", session_id)
            )
            query = f"SELECT created_at FROM {self._sessions} WHERE session_id = $1"
            times = [row[0].isoformat() for row in self._wait(self._fetch(query, session_id)) if row[0] is not None]
            known = {"created_at": times[0]} if times else {}
            created_at = times[0] if times else ""
            yield Conversation(session_id, lambda _: self._rows(session_id), only_main(count), created_at, known)
        finally:
            if not self._connection.is_closed():
                self._wait(self._guard(transaction.rollback()))

    def close(self) -> None:
        """Close the connection."""
        try:
            self._wait(self._guard(self._connection.close(timeout=5.0)))
        finally:
            self._stop()

    def _rows(self, session_id: str) -> Iterator[Row]:
        query = (
            f"SELECT id, convert_to(message_data::text, 'UTF8') FROM {self._messages} WHERE session_id = $1"
            " ORDER BY created_at, id"
        )
        cursor = self._wait(self._guard(self._cursor(query, session_id)))
        while page := self._wait(self._guard(cursor.fetch(PART))):
            for number, data in page:
                yield Row(str(number), data or b"")

    def _check(self, name: str, needed: tuple[str, ...], table: str) -> None:
        try:
            self._wait(self._fetch(f"SELECT {', '.join(needed)} FROM {table} LIMIT 0"))
        except ConfigurationError as error:
            raise ConfigurationError(f"{error}; the table {name!r} is to be one that SQLAlchemySession made") from None

    async def _cursor(self, query: str, *values: Any) -> Any:
        return await self._connection.cursor(query, *values)

    async def _fetch(self, query: str, *values: Any) -> Any:
        with our_errors(self._address):
            return await self._connection.fetch(query, *values)

    async def _guard(self, call: Any) -> Any:
        with our_errors(self._address):
            return await call

    def _wait(self, call: Coroutine[Any, Any, T]) -> T:
        """In a thread of its own: the caller's may have a loop that runs."""
        return asyncio.run_coroutine_threadsafe(call, self._loop).result()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def address_of(url: Url) -> Address:
    """A URL as asyncpg or SQLAlchemy takes it. Raises `ConfigurationError`.

    >>> address_of(Url("postgresql+psycopg2://me:secret@db/app?ssl=require"))
    <Address postgresql://db/app>
    """
    before, mark, query = map(Url, _SCHEME.sub("postgresql://", url).partition("?"))  # Which no traceback shows.
    return parse_address(Url(before + mark + urlencode(list(_options(query)))))


def _options(query: str) -> Iterator[tuple[str, str]]:
    for name, value in parse_qsl(query, keep_blank_values=True):
        if known := _SQLALCHEMYS.get(name, name):
            yield known, value


async def _connect(address: Address) -> Any:
    with connecting(address):
        return await asyncpg.connect(
            address.dsn, statement_cache_size=address.statement_cache_size, timeout=10.0, command_timeout=300.0
        )


def _table(name: str) -> str:
    return ".".join(quoted(part) for part in name.split("."))
