"""The stores behind session objects that are made one by one: each is opened once in a process, for all that use it."""

from __future__ import annotations

import atexit
import os
import re
import shutil
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from platformdirs import user_data_path

from localfirst.damage import read_note
from localfirst.opening import open as open_store
from localfirst.secret import Url, given, shown
from localfirst.store import Store

_Place = tuple[Path, Url, str]
_PLACES: Final = ("host", "port", "db", "dbname", "database")
"""Options of an address that say which store it is."""
_KEPT: Final = 16
"""Stores that stay open though no session uses them. Each has files open, and a process may have few."""


@dataclass
class _Opened:
    store: Store
    users: int = 0
    left_at: float = 0.0
    """When the last of them left."""


_opened: Final[dict[_Place, _Opened]] = {}
_lock = threading.RLock()
_abandoned: Final[deque[Callable[[], None]]] = deque()
"""What follows from sessions that were dropped. That is noticed wherever memory is collected, in any thread, maybe in
one for which somebody waits who holds the lock. So it is only noted there."""


class Borrowed(NamedTuple):
    """A store, for as long as one session object uses it. One of the two ends that, once."""

    store: Store
    give_back: Callable[[], Store | None]
    """It is not needed any more. What comes back is to be closed."""
    drop: Callable[[], None]
    """As `give_back`, for what is never closed. Takes no time."""


def borrow(path: str | os.PathLike[str], *, remote: str | None = None, namespace: str = "default") -> Borrowed:
    """The store in a directory, opened if nobody in this process has done that. `remote`: as for `localfirst.open`.

    Raises `ConfigurationError`, also if there is a file in the place of the directory.
    """
    directory = Path(path).expanduser().absolute()
    remote = Url(os.environ.get("LOCALFIRST_REMOTE", "") if remote is None else remote)
    place = directory, remote, namespace
    _follow_abandoned()
    with _lock:
        opened = _at(place)
        opened.users += 1

    def leave() -> None:
        with _lock:
            opened.users -= 1
            opened.left_at = time.monotonic()
            unused = not opened.users and _opened.get(place) is not opened
        if unused:
            opened.store.close(0.0)

    def give_back() -> Store | None:
        _follow_abandoned()
        with _lock:
            opened.users -= 1
            if opened.users:
                return None
            if _opened.get(place) is opened:
                del _opened[place]
            return opened.store

    return Borrowed(opened.store, give_back, partial(_abandoned.append, leave))


def _at(place: _Place) -> _Opened:
    """The one that is open there, or is opened now. Hold the lock."""
    opened = _opened.get(place)
    if opened is None or not _serves(opened):
        _opened.pop(place, None)
        _close_some()
        directory, remote, namespace = place
        opened = _opened[place] = _Opened(open_store(directory, remote=remote, namespace=namespace))
    return opened


def _serves(opened: _Opened) -> bool:
    """Whether it will do for one more session. Hold the lock."""
    store = opened.store
    if not store._is_there():  # It was closed, or its directory was moved or removed: there may be another one now.
        if not opened.users:
            store.close(0.0)
        return False
    if not opened.users and read_note(store.path / "data") is not None:
        store.close(0.0)  # It is damaged: what can be read is saved as it is opened again.
        return False
    return True


def _close_some() -> None:
    """Close stores that nobody uses any more, but for those that were used last. Hold the lock."""
    idle = sorted((each for each in list(_opened.items()) if not each[1].users), key=lambda each: each[1].left_at)
    for place, opened in idle[: max(0, len(idle) - _KEPT + 1)]:
        del _opened[place]
        # Not a daemon: what is pending is sent, also if the program ends now.
        threading.Thread(target=opened.store.close, name="localfirst-close").start()


def temporary() -> Borrowed:
    """A store of its own that is gone when it is given back, and replicates nowhere."""
    _follow_abandoned()
    directory, maker = tempfile.mkdtemp(prefix="localfirst-"), os.getpid()
    store = open_store(directory, remote="")

    def remove() -> None:
        atexit.unregister(remove)
        try:
            store.close()
        finally:
            if os.getpid() == maker:  # Else it is that of the process that forked this one, and in use there.
                shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)
    return Borrowed(store, remove, partial(_abandoned.append, remove))


def _follow_abandoned() -> None:
    with suppress(IndexError):  # Another thread may be faster.
        while True:
            _abandoned.popleft()()


def lent(store: Store) -> Borrowed:
    """A store that somebody else has opened, and closes."""
    return Borrowed(store, lambda: None, lambda: None)


def home_of(remote: str) -> Path:
    """The directory for sessions of which nothing is said but the central store: one for each, so that nothing of one
    is sent to another. In `$LOCALFIRST_HOME`, else among the platform's user data; without a central store, that."""
    home = Path(os.environ.get("LOCALFIRST_HOME") or user_data_path("localfirst"))
    if not remote:
        return home
    url = given(remote)
    options = parse_qsl(url.partition("?")[2])
    place = "/".join([shown(url), *(value for name, value in options if name in _PLACES)])
    name = re.sub("[^A-Za-z0-9.]+", "-", place).strip("-.")
    if re.search("[^A-Za-z0-9.:/]", place):  # Others may have this name, too.
        name += f"-{blake2b(place.encode(), digest_size=4).hexdigest()}"
    return home / name


def _close_all() -> None:
    """At exit: many programs never close their sessions."""
    for opened in list(_opened.values()):
        opened.store.close()
    _opened.clear()


def _forked() -> None:
    global _lock  # noqa: PLW0603 - somebody may have held it
    _lock = threading.RLock()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
