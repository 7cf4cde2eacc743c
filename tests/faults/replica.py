"""Replicas as processes of their own, each on its own directory, writing at random to sessions that all share."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import blake2b
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final, NamedTuple

import localfirst

SESSIONS: Final = ("s0", "s1", "s2", "s3")
POLL_INTERVAL: Final = 0.2
_LONGEST_REST: Final = 0.04
"""Seconds between two calls."""
_ANSWER_SECONDS: Final = 60.0

Call = tuple[str, str, int]
"""Session, name of the replica, number of the call."""


@dataclass
class Ledger:
    """What one replica did; every call in it has returned."""

    changes: Counter[str] = field(default_factory=Counter)
    """How many calls changed each session."""
    added: dict[Call, int] = field(default_factory=dict)
    """How many items each call added."""
    popped: Counter[tuple[Call, int]] = field(default_factory=Counter)
    """Calls, and places in them."""
    increments: Counter[str] = field(default_factory=Counter)
    """By session."""
    values: dict[str, set[Any]] = field(default_factory=dict)
    """What was set, by session."""


class Sight(NamedTuple):
    """What a replica shows."""

    digest: str
    """Of all sessions: items and metadata."""
    pending: int
    state: str
    last_error: str | None


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

    def sessions(self) -> dict[str, Any]:
        """All that it shows now."""
        sessions: dict[str, Any] = self._ask("sessions")
        return sessions

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
def replica(name: str, directory: Path, remote: str, namespace: str, seed: int) -> Iterator[Replica]:
    """A replica that writes until it is asked what it did."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_live, args=(name, directory, remote, namespace, seed, theirs), daemon=True)
    process.start()
    theirs.close()
    found = Replica(name, process, ours)
    try:
        found.sight()
        yield found
    finally:
        found.end()


def _live(name: str, directory: Path, remote: str, namespace: str, seed: int, pipe: Connection) -> None:
    chance = random.Random(seed)
    with localfirst.open(directory, remote=remote, namespace=namespace, poll_interval=POLL_INTERVAL) as store:
        author = _Author(name, store, chance)
        writes = True
        while True:
            if pipe.poll(chance.uniform(0.0, _LONGEST_REST) if writes else None):
                question = pipe.recv()  # Raises EOFError when nobody is left to ask.
                writes = writes and question == "sight"
                pipe.send(author.answer(question))
            elif writes:
                author.act()


class _Author:
    """Does what agents do."""

    def __init__(self, name: str, store: localfirst.Store, chance: random.Random) -> None:
        self._name = name
        self._store = store
        self._chance = chance
        self._ledger = Ledger()
        self._acts = {self._add: 65, self._pop: 10, self._set: 10, self._increment: 15}

    def act(self) -> None:
        """One call. Each returns how many changes it made."""
        (act,) = self._chance.choices(list(self._acts), list(self._acts.values()))
        session = self._store.session(self._chance.choice(SESSIONS), hydrate_timeout=0.0)
        self._ledger.changes[session.session_id] += act(session)

    def _add(self, session: localfirst.Session) -> int:
        call: Call = (session.session_id, self._name, len(self._ledger.added))
        size = self._chance.randint(1, 3)
        asyncio.run(session.add_items([[*call, place] for place in range(size)]))
        self._ledger.added[call] = size
        return 1

    def _pop(self, session: localfirst.Session) -> int:
        item = asyncio.run(session.pop_item())
        if item is None:
            return 0
        *call, place = item
        self._ledger.popped[tuple(call), place] += 1
        return 1

    def _set(self, session: localfirst.Session) -> int:
        value = f"{self._name} at {time.time()}"
        session.set("last", value)
        self._ledger.values.setdefault(session.session_id, set()).add(value)
        return 1

    def _increment(self, session: localfirst.Session) -> int:
        step = self._chance.randint(1, 5)
        session.increment("count", step)
        self._ledger.increments[session.session_id] += step
        return 1

    def answer(self, question: str) -> Any:
        """See `Replica`."""
        return {"sight": self._sight, "ledger": lambda: self._ledger, "sessions": self._sessions}[question]()

    def _sight(self) -> Sight:
        status = self._store.status()
        digest = blake2b(json.dumps(self._sessions()).encode(), digest_size=8).hexdigest()
        return Sight(digest, status.pending_changes, status.state, status.last_error)

    def _sessions(self) -> dict[str, Any]:
        return show(self._store)


def show(store: localfirst.Store) -> dict[str, Any]:
    """Items and metadata of the shared sessions, as this store has them now."""
    return {name: store.session(name, hydrate_timeout=0.0).export() for name in SESSIONS}
