"""SQLite files of openstackai: what its SQLiteSessionStore saves."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from localfirst import jsonvalue
from localfirst.errors import MalformedChange
from localfirst.migration.from_sqlite import in_utc
from localfirst.migration.readonly import open_read_only, reading
from localfirst.migration.source import PART, Conversation, Row, only_main

_TIMES: Final = ("created_at", "updated_at")
_TEXTS: Final = ("user_id", "agent_id", "state")


class OpenstackaiSource:
    """The sessions in one file. A message becomes an item with all that was kept of it; fields that say nothing are
    left out."""

    kind = "openstackai/sqlite"

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        with reading(self.name):
            self._connection = open_read_only(file)

    def session_ids(self) -> list[str]:
        """All, in the order of their ids. Messages of sessions that were deleted are none of theirs."""
        return sorted(str(found) for (found,) in self._all("SELECT id FROM sessions"))

    @contextmanager
    def conversation(self, session_id: str) -> Iterator[Conversation]:
        """One of them."""
        ((count,),) = self._all("SELECT count(*) FROM messages WHERE session_id = ?", session_id)
        names = (*_TEXTS, "metadata", "context", *_TIMES)
        found = self._all(f"SELECT {', '.join(names)} FROM sessions WHERE id = ?", session_id)
        session = dict(zip(names, found[0], strict=True)) if found else {}
        metadata, notes = _known(session)
        created_at = str(session.get("created_at") or "")
        yield Conversation(
            session_id, lambda _: self._rows(session_id), only_main(count), created_at, metadata, notes=notes
        )

    def close(self) -> None:
        """Let go of the file."""
        self._connection.close()

    def _rows(self, session_id: str) -> Iterator[Row]:
        query = (
            "SELECT id, role, content, timestamp, metadata, tool_calls, tool_call_id, ifnull(position, -1) AS place"
            " FROM messages WHERE session_id = ?"
        )
        after: tuple[Any, ...] = ()
        while True:
            further = " AND (place, id) > (?, ?)" if after else ""
            page = self._all(f"{query}{further} ORDER BY place, id LIMIT {PART}", session_id, *after)
            for number, *fields, _ in page:
                yield Row(str(number), _item(number, *fields))
            if len(page) < PART:
                return
            after = page[-1][-1], page[-1][0]

    def _all(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with reading(self.name):
            return self._connection.execute(query, values).fetchall()


def _item(number: Any, role: Any, content: Any, time: Any, metadata: Any, calls: Any, call: Any) -> bytes:
    """A message as JSON; what was no JSON there makes it none here."""
    fields = {"role": _text(role), "content": _text(content), "tool_calls": _raw(calls), "tool_call_id": _text(call)}
    fields |= {"id": _text(number), "timestamp": _text(time), "metadata": _raw(metadata)}
    needed = ("role", "content")
    told = {name: value for name, value in fields.items() if name in needed or value not in (b"null", b"{}", b"[]")}
    return b"{%b}" % b",".join(b'"%b":%b' % (name.encode(), value) for name, value in told.items())


def _text(value: Any) -> bytes:
    if isinstance(value, str):
        return jsonvalue.encode(value)
    return jsonvalue.encode(value) if isinstance(value, (int, float)) else b"null"


def _raw(text: Any) -> bytes:
    return str(text).encode(errors="surrogateescape") if text else b"null"


def _known(session: dict[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What is known of a session: its own metadata by their keys, the rest by the names of its columns, unless a key is
    called so."""
    notes, own = list[str](), dict[str, Any]()
    metadata = _object(session, "metadata", notes)
    context = _object(session, "context", notes)
    for name in _TEXTS:
        if session.get(name) is not None:
            own[name] = str(session[name])
    own |= {name: in_utc(str(session[name])) for name in _TIMES if session.get(name)}
    own |= {"context": context} if context else {}
    taken = {name if name not in metadata else f"session.{name}": value for name, value in own.items()}
    return taken | metadata, tuple(notes)


def _object(session: dict[str, Any], name: str, notes: list[str]) -> dict[str, Any]:
    try:
        found = jsonvalue.decode(_raw(session.get(name)))
    except MalformedChange:
        found = name
    if found is not None and not isinstance(found, dict):
        notes.append(f"its {name} was no JSON object, and was left out")
    return found if isinstance(found, dict) else {}
