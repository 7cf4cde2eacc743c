"""One who writes at random, calls of every kind, and keeps a ledger of what has returned."""

from __future__ import annotations

import asyncio
import math
import random
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final

import localfirst
from localfirst.errors import ConfigurationError, RemoteUnavailable, StoreFull
from tests.faults.ledger import (
    BRIEF,
    BULKY,
    FLEETING,
    SESSIONS,
    Call,
    Ledger,
    branch_place,
    ending_sessions,
    item_of,
)

_BRIEFLY: Final = 1.0
"""Seconds to live, of sessions and of items."""
_LONG: Final = 3600.0
_BULK: Final = "x" * 20_000
_MOST: Final = 30
"""Calls that add so much, or begin a session that lives briefly."""
_PATIENCE: Final = 0.3
"""Seconds that a call waits for what was evicted."""


class Author:
    """Does what agents do, in a store that it shares with nobody. `names`: of all authors, with stores of their own."""

    def __init__(self, name: str, names: Sequence[str], store: localfirst.Store, chance: random.Random) -> None:
        self.ledger = Ledger()
        self._name = name
        self._store = store
        self._chance = chance
        self._all_ending = [session_id for each in names for session_id in ending_sessions(each)]
        self._acts = {
            self._add: 50,
            self._pop: 8,
            self._set: 8,
            self._increment: 10,
            self._set_by_rule: 12,
            self._set_own: 4,
            self._touch: 2,
            self._fork: 2,
            self._add_to_branch: 6,
            self._drop_branch: 2,
            self._write_to_what_ends: 8,
            self._end: 3,
            self._add_briefly: 3,
            self._add_bulk: 4,
            self._read_bulk: 2,
        }

    def act(self) -> None:
        """One call, whatever it is. One that raises has done nothing."""
        (act,) = self._chance.choices(list(self._acts), list(self._acts.values()))
        with suppress(RemoteUnavailable, StoreFull):  # What was evicted can't be fetched now; there is no room now.
            act()

    def _session(self, session_id: str, **options: Any) -> localfirst.Session:
        return self._store.session(session_id, hydrate_timeout=0.0, **options)

    def _any(self) -> localfirst.Session:
        return self._session(self._chance.choice(SESSIONS))

    def _changed(self, session: localfirst.Session) -> None:
        self.ledger.changes[session.session_id] += 1

    def _add_to(self, session: localfirst.Session, place: str, *more: str) -> Call:
        call: Call = (place, self._name, len(self.ledger.added))
        size = self._chance.randint(1, 3)
        asyncio.run(session.add_items([[*call, part, *more] for part in range(size)]))
        self.ledger.added[call] = size
        self._changed(session)
        return call

    # Sessions that stay.

    def _add(self) -> None:
        session = self._any()
        self._add_to(session, session.session_id)

    def _pop(self) -> None:
        session = self._any()
        item = asyncio.run(session.pop_item())
        if item is not None:
            self.ledger.popped.add(item_of(item))
            self._changed(session)

    def _increment(self) -> None:
        session, step = self._any(), self._chance.randint(1, 5)
        session.increment("count", step)
        self.ledger.increments[session.session_id] += step
        self._changed(session)

    def _set(self) -> None:
        self._put(self._any(), "last", f"{self._name} at {time.time()}")

    def _put(self, session: localfirst.Session, rule: Any, value: Any) -> None:
        """Under a key that is named for the rule."""
        session.set(rule, value, merge=rule)
        self.ledger.values.setdefault((session.session_id, rule), []).append(value)
        self._changed(session)

    def _set_by_rule(self) -> None:
        session, number = self._any(), self._chance.randrange(1_000_000)
        values: dict[str, Any] = {
            "first": f"{self._name} {number}",
            "union": [f"{self._name} {number}"],
            "max": number,
            "min": number,
        }
        rule = self._chance.choice(["merge", *values])
        if rule == "merge":
            values["merge"] = {**session.get("merge", {}), self._name: number}
        self._put(session, rule, values[rule])

    def _set_own(self) -> None:
        """Under a key that nobody else writes to; sometimes deleted."""
        session, value = self._any(), self._chance.choice((None, self._chance.random()))
        if value is not None:
            session.set(self._name, value)
        elif session.get(self._name) is not None:
            session.delete(self._name)
        else:
            return
        self.ledger.values.setdefault((session.session_id, self._name), []).append(value)
        self._changed(session)

    def _touch(self) -> None:
        session = self._any()
        session.touch(_LONG)
        self.ledger.touched.add(session.session_id)
        self._changed(session)

    # Branches of them. Everybody writes to every branch, and deletes only branches of his own.

    def _fork(self) -> None:
        session = self._any()
        kind = self._chance.choice(("kept", "dropped"))
        place = branch_place(session.session_id, f"{kind} {self._name}")
        if place not in self.ledger.forked:
            session.branch(f"{kind} {self._name}")
            self.ledger.forked.add(place)
            self._changed(session)

    def _add_to_branch(self) -> None:
        session = self._any()
        branch = self._chance.choice([branch.name for branch in session.branches()])
        if branch != "main":
            with suppress(ConfigurationError):  # It was deleted just now.
                on_branch = self._session(session.session_id, branch=branch)
                self._add_to(on_branch, branch_place(session.session_id, branch))

    def _drop_branch(self) -> None:
        session, branch = self._any(), f"dropped {self._name}"
        place = branch_place(session.session_id, branch)
        if place in self.ledger.forked - self.ledger.dropped:
            session.delete_branch(branch)
            self.ledger.dropped.add(place)
            self._changed(session)

    # Sessions that end.

    def _write_to_what_ends(self) -> None:
        """Also to what others delete, who may have done so already, or do so before this arrives."""
        session_id = self._chance.choice(self._all_ending)
        call = self._add_to(self._session(session_id), session_id)
        if session_id in ending_sessions(self._name):
            self.ledger.begun.setdefault(session_id, set()).add(call)

    def _end(self) -> None:
        session_id = self._chance.choice(ending_sessions(self._name))
        shown = {item_of(item) for item in self._session(session_id)}
        self._store.delete(session_id)
        self.ledger.deleted |= shown
        self.ledger.begun.pop(session_id, None)

    def _add_briefly(self) -> None:
        """A session that expires, and an item."""
        if sum(call[0].startswith(BRIEF) for call in self.ledger.added) < _MOST:
            brief = f"{BRIEF}{self._name}-{len(self.ledger.added)}"
            self._add_to(self._session(brief, ttl=_BRIEFLY), brief)
        self._add_to(self._session(FLEETING, item_ttl=_BRIEFLY, ttl=math.inf), FLEETING)

    # Sessions that are evicted.

    def _add_bulk(self) -> None:
        if sum(call[0] in BULKY for call in self.ledger.added) < _MOST:
            session_id = self._chance.choice(BULKY)
            self._add_to(self._session(session_id), session_id, _BULK)

    def _read_bulk(self) -> None:
        """It is whole, or it says that it can't be read."""
        session_id = self._chance.choice(BULKY)
        shown = [item_of(item) for item in self._store.session(session_id, hydrate_timeout=_PATIENCE)]
        assert len(shown) == len(set(shown)), "an item is shown twice"
        assert self.ledger.items(session_id) <= set(shown), "what was written here is not shown"
