"""Who this directory is among the replicas, and which central store it follows: a few rows for all sessions."""

from __future__ import annotations

import platform
from contextlib import suppress
from functools import cache
from hashlib import blake2b
from pathlib import Path
from typing import Final

from localfirst.change import new_id
from localfirst.clock import Reckoning
from localfirst.rows import RowExists, Rows

_REPLICA: Final = b"s:replica"
HOST: Final = b"s:host"
_FOLLOWED: Final = b"s:followed:"
_OFFERED: Final = b"s:offered:"
_MOVING: Final = b"s:moving:"
_OFFSET: Final = b"s:offset:"
_MACHINE_ID: Final = Path("/etc/machine-id")


class Identity:
    """The names in one directory."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def replica_id(self) -> str:
        """The random id of this directory among the replicas, made at the first call."""
        found = self._rows.get(_REPLICA)
        if found is None:
            with suppress(RowExists):  # Another process opened the directory at the same time.
                self._rows.insert(_REPLICA, new_id().encode())
            found = self._rows.get(_REPLICA)
        if not found or not found.isascii():
            raise self._rows.damaged("holds no replica id")
        return found.decode()

    def renew(self, known: str) -> str:
        """Another replica id, unless it is not `known` any more; then the one that was made meanwhile."""
        with self._rows.transaction():
            if self.replica_id() == known:
                self._rows.put(_REPLICA, new_id().encode())
            return self.replica_id()

    def check_host(self, fingerprint: str) -> bool:
        """Note where this directory is. If it was elsewhere, or is a copy, it becomes another replica: False."""
        if self._rows.get(HOST) == fingerprint.encode():
            return True
        with self._rows.transaction():
            before = self._rows.get(HOST)
            if before == fingerprint.encode():
                return True
            self._rows.put(HOST, fingerprint.encode())
            if before is not None:
                self._rows.put(_REPLICA, new_id().encode())
            else:
                self.replica_id()  # So that the first call needs no lock for it, for which an event loop would wait.
            return before is None

    def followed(self, namespace: str) -> str | None:
        """The id of the central store that a namespace follows; None: none yet."""
        return self._text(_FOLLOWED, namespace)

    def follow(self, namespace: str, store_id: str) -> None:
        """From now on, a namespace follows this central store. If it followed another, it is `moving` there."""
        offered = _row(_OFFERED, namespace)
        with self._rows.transaction():
            if self.followed(namespace) not in (None, store_id):
                self._rows.put(_row(_MOVING, namespace), b"")
            self._rows.put(_row(_FOLLOWED, namespace), store_id.encode())
            self._rows.delete_range(offered, offered + b"\0")

    def offer(self, namespace: str, store_id: str) -> None:
        """Another central store was found; to follow it is for somebody to say."""
        self._rows.put(_row(_OFFERED, namespace), store_id.encode())

    def accept(self, namespace: str) -> bool:
        """Follow the central store that was found last. False: there is no other."""
        offered = self._text(_OFFERED, namespace)
        if offered is None:
            return False
        self.follow(namespace, offered)
        return True

    def is_moving(self, namespace: str) -> bool:
        """Whether sessions of which nothing is pending may still not be in the central store that is followed now."""
        return self._rows.get(_row(_MOVING, namespace)) is not None

    def arrived(self, namespace: str) -> None:
        """They are there, all of them."""
        moving = _row(_MOVING, namespace)
        with self._rows.transaction():
            self._rows.delete_range(moving, moving + b"\0")

    def reckoning(self, namespace: str) -> Reckoning:
        """What is known of the central store's clock, as it was last measured."""
        found = self._text(_OFFSET, namespace)
        try:
            return Reckoning(*map(int, (found or "").split()))
        except (ValueError, TypeError):
            raise self._rows.damaged("holds no clock offset where one belongs") from None

    def note_reckoning(self, namespace: str, reckoning: Reckoning) -> None:
        """For other processes, and for those who open this directory when the central store can't be reached."""
        if self.reckoning(namespace) != reckoning:
            self._rows.put(_row(_OFFSET, namespace), b"%d %d %d" % reckoning)

    def is_offered(self, namespace: str) -> bool:
        """Whether somebody is to say whether another central store is to be followed."""
        return self._text(_OFFERED, namespace) is not None

    def _text(self, kind: bytes, namespace: str) -> str | None:
        found = self._rows.get(_row(kind, namespace))
        return None if found is None else found.decode(errors="replace")


def _row(kind: bytes, namespace: str) -> bytes:
    return kind + blake2b(namespace.encode(), digest_size=16).digest()


def fingerprint(file: Path) -> str:
    """Tells a file on this machine from a copy of it, here or elsewhere. No secret, and no promise: the central log
    shows what this misses."""
    return blake2b(f"{_machine(_MACHINE_ID)}\0{file.stat().st_ino}".encode(), digest_size=8).hexdigest()


@cache
def _machine(file: Path) -> str:
    with suppress(OSError):
        return file.read_text().strip() or platform.node()
    return platform.node()
