"""Who has which changes: the central store, and every directory."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from localfirst.records import CHANGE, PAGE, PART, Head, Page, session_key, span
from tests.simulation.ledger import Ledger
from tests.simulation.oracle import Oracle
from tests.simulation.replica import Directory
from tests.simulation.rows import Disk
from tests.simulation.server import NAMESPACE, Server

_pages = msgspec.msgpack.Decoder(Page)


def held(server: Server, directories: Iterable[Directory], sessions: Iterable[str], oracle: Oracle) -> set[int]:
    """The changes that somebody has, by their times."""
    ledger = server.ledger
    found: set[int] = set()
    for session in sessions:
        found |= server.times(session)
        for directory in directories:
            head = directory.head(session)
            if head is not None:
                found |= held_here(directory.disk, session, head, ledger, oracle)
    return found


def held_here(disk: Disk, session: str, head: Head, ledger: Ledger, oracle: Oracle) -> set[int]:
    """The changes of a session that a directory has."""
    key = session_key(NAMESPACE, session)
    parts = [disk.rows[row].value for row in disk.span(*span(PART + key + head.volume))]
    found = set(ledger.folded(b"".join(parts))) if parts else set()
    datas = [disk.rows[row].value for row in disk.span(*span(CHANGE + key, head.bottom))]
    for row in disk.span(*span(PAGE + key + head.volume)):
        datas += [entry.data for entry in _pages.decode(disk.rows[row].value).foreign]
    for data in filter(None, datas):
        record = oracle.record(ledger.change(data))
        if record is not None:
            found.add(record.time)
    return found
