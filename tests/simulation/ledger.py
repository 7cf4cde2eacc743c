"""Which changes are in the bytes that move around. A change is named by its time: no two have the same.

Of a checkpoint the bytes don't tell what was folded into it. So folding is watched: what goes into a state is noted,
and goes with it when it is encoded, decoded or merged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any
from unittest.mock import patch

import msgspec

import sync.resync
from localfirst.change import TOUCH, Admitted, Change
from localfirst.checkpoint import State, merge_states
from localfirst.codec import Codec
from localfirst.errors import DecryptionError, MalformedChange
from localfirst.lifetime import decode_touch
from tests.simulation.world import WORLD

_SESSIONS = [f"s{number}" for number in range(4)]


class Ledger:
    """Of one universe."""

    def __init__(self) -> None:
        self._changes: dict[bytes, Change | None] = {}
        self._folded: dict[bytes, frozenset[int]] = {}
        self.merged = False
        """States were merged: then counters and the order of items are no longer exact."""

    def change(self, data: bytes) -> Change | None:
        """The change in bytes; None: they can't be read."""
        try:
            return self._changes[data]
        except KeyError:
            pass
        try:
            change: Change | None = _named(_opened(data))
        except (MalformedChange, DecryptionError):
            change = None
        self._changes[data] = change
        return change

    def folded(self, checkpoint: bytes) -> frozenset[int]:
        """The times of the changes in a checkpoint."""
        return self._folded[checkpoint]

    def note(self, checkpoint: bytes, times: Iterable[int]) -> None:
        """A checkpoint was made of some changes."""
        self._folded[checkpoint] = frozenset(times)


def _opened(data: bytes) -> Change:
    """Of whichever session it is."""
    for session in _SESSIONS:
        with suppress(DecryptionError):
            return WORLD.vault.codec(session).decode(data)
    raise DecryptionError


def _named(change: Change) -> Change:
    """But for what says in a next life of a session what was set in the last: that has the time of what comes after it,
    and is nobody's."""
    wish = decode_touch(change.body) if change.kind == TOUCH and change.counter == 1 else None
    if wish is None or wish.ttl is None or wish.item_ttl is None:
        return change
    return msgspec.structs.replace(change, time=0)


def _times(state: State) -> set[int]:
    found: set[int] = state.__dict__.setdefault("times", set())
    return found


def _new_in(state: State, entries: Iterable[Admitted]) -> Iterator[int]:
    """The times of the changes that are not folded yet."""
    known = dict(state.fold.counters)
    for _, _, change in entries:
        if change.origin and change.counter > known.get(change.origin, 0):
            known[change.origin] = change.counter
            yield _named(change).time


@contextmanager
def watched_folding(ledger: Ledger) -> Iterator[None]:
    """Inside, all checkpoints are noted."""
    admit = State.admit

    def admit_and_note(state: State, entries: Iterable[tuple[int, int, Change]]) -> None:
        admitted = [Admitted(*entry) for entry in entries]
        new = list(_new_in(state, admitted))
        admit(state, admitted)
        _times(state).update(new)

    encode_state, decode_state = Codec.encode_state, Codec.decode_state

    def encode(codec: Codec, state: State) -> bytes:
        data = encode_state(codec, state)
        ledger.note(data, _times(state))
        return data

    def decode(codec: Codec, data: bytes) -> State:
        state = decode_state(codec, data)
        _times(state).update(ledger.folded(data))
        return state

    def merge(ours: State, theirs: State) -> State:
        merged = merge_states(ours, theirs)
        _times(merged).update(_times(ours) | _times(theirs))
        ledger.merged = True
        return merged

    fakes: list[tuple[Any, str, Any]] = [(State, "admit", admit_and_note), (sync.resync, "merge_states", merge)]
    fakes += [(Codec, "encode_state", encode), (Codec, "decode_state", decode)]
    with ExitStack() as stack:
        for module, name, fake in fakes:
            stack.enter_context(patch.object(module, name, fake))
        yield
