"""Changes that the central log lacks, gathered to runs: of one origin each, consecutive, and no turn in parts."""

from __future__ import annotations

from localfirst.codec import Codec
from localfirst.lives import ttl_set_by
from localfirst.turns import OpenTurns
from sync.central.base import Run
from sync.site import Limits


class Unsent:
    """Consecutive changes of one origin that are to be pushed together."""

    def __init__(self, limits: Limits, codec: Codec) -> None:
        self._limits = limits
        self._codec = codec
        self.changes: list[bytes] = []
        self._origin = ""
        self._first = 0
        self._size = 0
        self._turns = OpenTurns()
        self._whole = True

    def must_go(self, origin: str, counter: int) -> bool:
        """Whether what there is must be pushed before this change is added."""
        if not self.changes:
            return False
        if origin != self._origin or counter != self._first + len(self.changes):
            return True
        full = len(self.changes) >= self._limits.run_changes or self._size >= self._limits.run_bytes
        return full and self._whole

    def add(self, origin: str, counter: int, data: bytes) -> None:
        """One more change."""
        if not self.changes:
            self._origin, self._first, self._turns = origin, counter, OpenTurns()
        self.changes.append(data)
        self._size += len(data)
        self._whole = self._turns.follow(data)

    def last(self, origin: str) -> int:
        """The counter of the last of them, if they are of an origin; else 0."""
        return self._first + len(self.changes) - 1 if origin == self._origin and self.changes else 0

    def run(self, session_id: str, generation: str, *, fresh: bool) -> Run:
        """All of them, to be pushed; then there are none."""
        ttl = ttl_set_by(self._codec, self.changes)
        run = Run(session_id, generation, fresh, self._origin, self._first, self.changes, ttl)
        self.changes, self._size = [], 0
        return run
