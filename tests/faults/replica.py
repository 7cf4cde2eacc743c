"""Replicas as processes of their own, each on its own directory, writing at random to sessions that all share."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import localfirst
from localfirst.change import decode_change
from localfirst.errors import ConfigurationError, RemoteUnavailable
from localfirst.holes import slots_above
from localfirst.records import TURN, span
from tests.faults.author import Author
from tests.faults.ledger import BRIEF, FLEETING, SESSIONS, Ledger, ending_sessions

POLL_INTERVAL: Final = 0.2
_LONGEST_REST: Final = 0.04
"""Seconds between two calls."""
_ANSWER_SECONDS: Final = 60.0
_FETCH_SECONDS: Final = 30.0


class Sight(NamedTuple):
    """What a replica shows."""

    digest: str
    """Of all sessions but the bulky ones: items, branches and metadata."""
    pending: int
    mortal: int
    """How many sessions and items are shown that are to expire."""
    state: str
    last_error: str | None


class Life(NamedTuple):
    """Where a replica lives, and among whom."""

    name: str
    names: Sequence[str]
    directory: Path
    remote: str
    namespace: str
    size_limit: int | None
    seed: int


class Replica:
    """The other end of a replica's process. Asking it anything but `sight` ends its writing."""

    def __init__(self, name: str, process: Any, pipe: Connection) -> None:
        self.name = name
        self._process = process
        self._pipe = pipe

    def sight(self) -> Sight:
        """What it shows now."""
        sight: Sight = self._ask("sight")
        return sight

    def ledger(self) -> Ledger:
        """What it did. It does no more."""
        ledger: Ledger = self._ask("ledger")
        return ledger

    def evicted(self) -> int:
        """How many sessions were evicted from its disk, and did not come back."""
        evicted: int = self._ask("evicted")
        return evicted

    def sessions(self) -> dict[str, Any]:
        """All that it shows, also of what it has to fetch."""
        sessions: dict[str, Any] = self._ask("sessions")
        return sessions

    def left(self) -> list[str]:
        """What it could not settle with the central store, for whoever is to find out why."""
        left: list[str] = self._ask("left")
        return left

    def _ask(self, question: str) -> Any:
        self._pipe.send(question)
        assert self._pipe.poll(_ANSWER_SECONDS), f"{self.name} does not answer"
        return self._pipe.recv()

    def end(self) -> None:
        """At once, whatever it does."""
        self._process.kill()
        self._process.join(10)
        self._pipe.close()


@contextmanager
def replica(life: Life) -> Iterator[Replica]:
    """A replica that writes until it is asked what it did."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_live, args=(life, theirs), daemon=True)
    process.start()
    theirs.close()
    found = Replica(life.name, process, ours)
    try:
        found.sight()
        yield found
    finally:
        found.end()


def _live(life: Life, pipe: Connection) -> None:
    chance = random.Random(life.seed)
    with localfirst.open(
        life.directory,
        remote=life.remote,
        namespace=life.namespace,
        poll_interval=POLL_INTERVAL,
        size_limit=life.size_limit,
    ) as store:
        author = Author(life.name, life.names, store, chance)
        answers: dict[str, Callable[[], Any]] = {
            "sight": lambda: _sight(store, life.names),
            "ledger": lambda: author.ledger,
            "evicted": lambda: sum(info.state == "evicted" for info in store.sessions()),
            "sessions": lambda: show(store),
            "left": lambda: _left(store),
        }
        writes = True
        while True:
            if pipe.poll(chance.uniform(0.0, _LONGEST_REST) if writes else None):
                question = pipe.recv()  # Raises EOFError when nobody is left to ask.
                writes = writes and question == "sight"
                pipe.send(answers[question]())
            elif writes:
                author.act()


def _sight(store: localfirst.Store, names: Sequence[str]) -> Sight:
    status = store.status()
    try:
        shown = _shown(store, (*SESSIONS, *_all_ending(names)))
        mortal = sum(1 for _ in store.sessions(BRIEF)) + len(_session(store, FLEETING))
    except RemoteUnavailable as error:  # What was evicted can't be fetched just now: nobody else shows this.
        return Sight(store.replica_id, status.pending_changes, 0, status.state, str(error))
    digest = blake2b(json.dumps(shown).encode(), digest_size=8).hexdigest()
    return Sight(digest, status.pending_changes, mortal, status.state, status.last_error)


def _left(store: localfirst.Store) -> list[str]:
    """What waits, what is put aside, and what the worker has still to do."""
    log, worker = store._local.log, store._link.host._worker  # type: ignore[union-attr]
    agenda = worker._agenda
    told = [f"worker {worker.state}", *map(str, store.quarantined())]
    for kind, keys in (("push", agenda.dirty), ("asked", agenda.asked), ("hinted", agenda.hinted)):
        told += [f"{kind}: {head.session_id}" for key in list(keys) if (head := log.head(key))]
    for key, backlog in store._local.backlog().items():
        head, rows = log.head(key), slots_above(log.rows, key, -1)
        changes = [(slot, decode_change(data) if data else None) for slot, data in sorted(rows.items())[-5:]]
        turns = log.rows.keys(*span(TURN + key))
        told += [f"{backlog} of {head}", f"of turns: {turns}", *map(str, changes)]
    return told


def show(store: localfirst.Store) -> dict[str, Any]:
    """All that this store shows when it has all that is in the central store."""
    store.refresh(_FETCH_SECONDS)
    return _shown(store, [info.session_id for info in store.sessions()])


def _shown(store: localfirst.Store, session_ids: Sequence[str]) -> dict[str, Any]:
    return {session_id: _content(store, session_id) for session_id in session_ids}


def _content(store: localfirst.Store, session_id: str) -> dict[str, Any]:
    session = _session(store, session_id)
    branches: dict[str, Any] = {}
    for branch in session.branches():
        with suppress(ConfigurationError):  # Another replica's deletion of it has come just now.
            branches[branch.name] = list(_session(store, session_id, branch=branch.name))
    return {
        "metadata": session.metadata(),
        "branches": branches,
        "expires": session.expires_at is not None,
    }


def _session(store: localfirst.Store, session_id: str, **options: Any) -> localfirst.Session:
    return store.session(session_id, hydrate_timeout=_FETCH_SECONDS, **options)


def _all_ending(names: Sequence[str]) -> list[str]:
    return [session_id for name in names for session_id in ending_sessions(name)]
