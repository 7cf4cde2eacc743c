"""SQLite files of the OpenAI Agents SDK: SQLiteSession, AsyncSQLiteSession, AdvancedSQLiteSession, SQLAlchemySession.

Each part is read by a query of its own, in the order in which the SDK shows it, so that no lock is held while
something else is done: the owner of the file may go on writing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Final

from localfirst import jsonvalue
from localfirst.change import MAIN_BRANCH
from localfirst.errors import ConfigurationError, MalformedChange, SourceUnreadable
from localfirst.migration.readonly import columns, open_read_only, quoted, reading
from localfirst.migration.source import PART, Conversation, Row, only_main

_STRUCTURE: Final = "message_structure"
_NEEDED: Final = {"id", "session_id", "message_data"}
_FIRST: Final = "-9e999"
"""In the place of NULL, which is sorted before everything and compares with nothing."""
_USAGE: Final = ("requests", "input_tokens", "output_tokens", "total_tokens")
_DETAILS: Final = ("input_tokens_details", "output_tokens_details")


class SqliteSource:
    """The sessions in one pair of tables."""

    def __init__(self, file: Path, sessions_table: str, messages_table: str) -> None:
        self.name = str(file)
        self.kind = f"openai-agents/sqlite/{messages_table}"
        with reading(self.name):
            self._connection = open_read_only(file)
            tables = columns(self._connection)
        messages = _table(tables, messages_table)
        if messages is None or not tables[messages].keys() >= _NEEDED:
            self.close()
            raise ConfigurationError(_missing(self.name, messages_table, tables))
        self._messages, self._sessions = quoted(messages), _table(tables, sessions_table)
        # SQLAlchemySession's own order; it alone declares ids of sessions so.
        by_time = tables[messages]["session_id"].upper().startswith("VARCHAR")
        self._order = (f"ifnull(m.created_at, {_FIRST})" if by_time else "m.id", "m.id")
        self._has_branches = _STRUCTURE in tables and self._belongs(messages)
        self._has_usage = self._has_branches and "turn_usage" in tables

    def _belongs(self, messages: str) -> bool:
        """Whether the branches in this file are those of these messages, and not of another pair of tables."""
        keys = self._all(f"SELECT \"table\" FROM pragma_foreign_key_list('{_STRUCTURE}') WHERE \"from\" = 'message_id'")
        return [str(table).lower() for (table,) in keys] == [messages.lower()]

    def session_ids(self) -> list[str]:
        """All, in the order of their ids."""
        found = set[str]()
        if self._sessions is not None:
            found |= {str(name) for (name,) in self._all(f"SELECT session_id FROM {quoted(self._sessions)}")}
        try:
            found |= {str(name) for (name,) in self._all(f"SELECT DISTINCT session_id FROM {self._messages}")}
        except SourceUnreadable:
            if not found:  # Else each of them tells what can't be read of it.
                raise
        return sorted(found)

    @contextmanager
    def conversation(self, session_id: str) -> Iterator[Conversation]:
        """One of them."""
        branches, notes = self._branches(session_id)
        created_at = self._created_at(session_id)
        yield Conversation(
            session_id,
            lambda branch: self._rows(session_id, branch if branches else None),
            branches or only_main(self._count(session_id)),
            created_at,
            {"created_at": in_utc(created_at)} if created_at else {},
            self._usage(session_id) if self._has_usage else {},
            notes,
        )

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _rows(self, session_id: str, branch: str | None) -> Iterator[Row]:
        """Of a branch; None: of a session that has none."""
        found, order, named = f"{self._messages} AS m", self._order, [session_id]
        query = "WHERE m.session_id = ?"
        if branch is not None:
            found, order = (
                f"{_STRUCTURE} AS s JOIN {found} ON m.id = s.message_id",
                (f"ifnull(s.sequence_number, {_FIRST})", "s.id"),
            )
            query, named = f"{query} AND s.branch_id = ?", [session_id, branch]
        first, second = order
        query = f"SELECT m.id, CAST(m.message_data AS BLOB), {first}, {second} FROM {found} {query}"
        after: tuple[Any, ...] = ()
        while True:
            further = f" AND ({first}, {second}) > (?, ?)" if after else ""
            page = self._all(f"{query}{further} ORDER BY {first}, {second} LIMIT {PART}", *named, *after)
            for number, data, *_ in page:
                yield Row(str(number), data or b"")
            if len(page) < PART:
                return
            after = page[-1][2:]

    def _branches(self, session_id: str) -> tuple[dict[str, int], tuple[str, ...]]:
        """None at all for a session that was written without them."""
        if not self._has_branches:
            return {}, ()
        query = (
            f"SELECT s.branch_id, count(*) FROM {_STRUCTURE} AS s JOIN {self._messages} AS m ON m.id = s.message_id"
            " WHERE m.session_id = ? GROUP BY s.branch_id ORDER BY min(s.id)"
        )
        found = {str(branch): int(count) for branch, count in self._all(query, session_id)}
        if not found:
            return {}, ()
        on_none = self._one(
            f"SELECT count(*) FROM {self._messages} WHERE session_id = ? AND id NOT IN"
            f" (SELECT message_id FROM {_STRUCTURE} WHERE session_id = ?)",
            session_id,
            session_id,
        )
        notes = (f"{on_none} rows stand on no branch: they are not shown there, and were left out",) if on_none else ()
        return {MAIN_BRANCH: found.pop(MAIN_BRANCH, 0), **found}, notes

    def _usage(self, session_id: str) -> dict[str, dict[int, Any]]:
        names = ", ".join(("branch_id", "user_turn_number", *_USAGE, *_DETAILS))
        rows = self._all(f"SELECT {names} FROM turn_usage WHERE session_id = ? ORDER BY id", session_id)
        found: dict[str, dict[int, Any]] = {}
        for branch, turn, *values in rows:
            numbers = dict(zip(_USAGE, values, strict=False))
            details = {name: _json(value) for name, value in zip(_DETAILS, values[len(_USAGE) :], strict=True)}
            found.setdefault(branch, {})[turn] = numbers | details
        return found

    def _count(self, session_id: str) -> int:
        try:
            return self._one(f"SELECT count(*) FROM {self._messages} WHERE session_id = ?", session_id)
        except SourceUnreadable:
            return 0  # The reading tells how far it comes.

    def _created_at(self, session_id: str) -> str:
        if self._sessions is None:
            return ""
        query = f"SELECT created_at FROM {quoted(self._sessions)} WHERE session_id = ?"
        return next((str(found) for (found,) in self._all(query, session_id)), "")

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with reading(self.name):
            return self._connection.execute(query, values).fetchall()

    def _one(self, query: str, *values: Any) -> int:
        return int(self._all(query, *values)[0][0])


def in_utc(written: str) -> str:
    """A time as SQLite writes it, in ISO 8601; what is none stays what it is.

    >>> in_utc("2030-01-02 03:04:05"), in_utc("yesterday")
    ('2030-01-02T03:04:05+00:00', 'yesterday')
    """
    try:
        found = datetime.fromisoformat(written)
    except ValueError:
        return written
    return (found if found.tzinfo else found.replace(tzinfo=timezone.utc)).isoformat()


def _json(text: Any) -> Any:
    try:
        return jsonvalue.decode(str(text).encode(errors="surrogateescape")) if text else None
    except MalformedChange:
        return None  # As the SDK takes it.


def _table(tables: dict[str, dict[str, str]], name: str) -> str | None:
    """SQLite does not tell upper from lower case in names."""
    return next((table for table in tables if table.lower() == name.lower()), None)


def _missing(file: str, name: str, tables: dict[str, dict[str, str]]) -> str:
    found = [table for table, fields in tables.items() if fields.keys() >= _NEEDED]
    others = f"name one of these by messages_table: {', '.join(found)}" if found else "it holds no other, either"
    return f"{file} has no table {name!r} of messages: {others}"
