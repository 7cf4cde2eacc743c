"""An export of a session, as `Session.export` and `localfirst export` make it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from localfirst import jsonvalue
from localfirst.errors import InvalidItem, MalformedChange, SourceUnreadable
from localfirst.export import read_export
from localfirst.migration.source import Conversation, Row, only_main


class ExportSource:
    """The one session in a file."""

    kind = "localfirst/export"

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        try:
            data: Any = jsonvalue.decode(file.read_bytes())
            self._items, self._metadata = read_export(data)
        except OSError as error:
            raise SourceUnreadable(f"{file} can't be read: {error.strerror}") from error
        except (MalformedChange, InvalidItem) as error:
            raise SourceUnreadable(f"{file} holds no export: {error}") from error
        self._session_id = data.get("session_id")

    def session_ids(self) -> list[str]:
        """The one that was exported."""
        return [str(self._session_id)]

    @contextmanager
    def conversation(self, session_id: str) -> Iterator[Conversation]:
        """All of it."""
        yield Conversation(session_id, self._rows, only_main(len(self._items)), metadata=self._metadata)

    def _rows(self, _: str) -> Iterator[Row]:
        for place, item in enumerate(self._items):
            yield Row(str(place), jsonvalue.encode(item))

    def close(self) -> None:
        """Nothing is open."""
