"""The views that a process keeps in memory, one of each session that was used lately."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from localfirst.records import SessionKey
from localfirst.view import View

DEFAULT_VIEWS_BYTES: Final = 64 * 2**20
_NEW: Final = 8
"""Calls for views that are here, which may make as much larger as a new one."""


class Views:
    """The views of a store; the least recently used ones go when they take more memory than allowed."""

    def __init__(self, make: Callable[[SessionKey, str], View], limit: int = DEFAULT_VIEWS_BYTES) -> None:
        self._make = make
        self._limit = limit
        self._views: OrderedDict[SessionKey, View] = OrderedDict()
        self._lock = threading.Lock()
        self._growth = 0

    def get(self, key: SessionKey, session_id: str) -> View:
        """The view of a session. Use it for one call and get it again for the next."""
        with self._lock:
            view = self._views.get(key)
            if view is None:
                view = self._views[key] = self._make(key, session_id)
                self._growth += _NEW
            else:
                self._views.move_to_end(key)
                self._growth += 1
            if self._growth >= max(256, len(self._views)):  # It looks at each of them.
                self._growth = 0
                self._shrink()
            return view

    def peek(self, key: SessionKey, session_id: str) -> View:
        """The view of a session for one look: if it is not in memory, it does not come there, and drives none out."""
        with self._lock:
            view = self._views.get(key)
        return self._make(key, session_id) if view is None else view

    def loaded(self) -> list[tuple[SessionKey, str]]:
        """The sessions whose views were used."""
        with self._lock:
            return [(key, view.head.session_id) for key, view in self._views.items() if view.loaded]

    def _shrink(self) -> None:
        total = sum(view.weight for view in self._views.values())
        while total > self._limit and len(self._views) > 1:
            _, view = self._views.popitem(last=False)
            total -= view.weight
