"""How far it has come to seal everything with the newest key."""

from __future__ import annotations

from collections.abc import Callable

from localfirst.records import SessionKey

Progress = Callable[[int, int], object]
"""Called with how many sessions are done, and of how many."""


class Rotation:
    """What is done is not done again."""

    def __init__(self, progress: Progress | None) -> None:
        self.done: set[SessionKey] = set()
        self.left: dict[str, str] = {}
        """Sessions of which something still needs an older key, and why."""
        self._progress = progress

    def note(self, key: SessionKey, session_id: str, left: str, total: int) -> None:
        """A session is done. `left`: why something of it still needs an older key."""
        self.done.add(key)
        if left:
            self.left[session_id] = left
        if self._progress is not None:
            self._progress(len(self.done), total)
