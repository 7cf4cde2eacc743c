"""Pending changes under new names: for a directory that turned out to have a twin, or without some of them. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec

from localfirst.branches import decode_drop, decode_fork, encode_drop, encode_fork
from localfirst.change import CLEAR, DROP, END, FORK, MAIN_BRANCH, REMOVE, Change, branch_id, fork_of
from localfirst.history import ItemId, decode_clear, decode_removal, encode_clear

_NOTHING: Final = {"kind": END, "body": b"{}", "branch": MAIN_BRANCH, "turn": 0}


def renumber(changes: Sequence[Change], origin: str, first: int, kept: int, same: Collection[int] = ()) -> list[Change]:
    """The same changes by `origin`, numbered from `first` on, with what they say of each other put right.

    `changes` are of one origin and above `kept`: those up to it stay as they are, and those in `same`. One that is
    missing among the rest was given up, and so is whatever removed its items, or was written on its branch.

    >>> old = [Change("a", 5, 0, 0, "main", "append", b'["x"]'), Change("a", 6, 0, 0, "main", "append", b'["y"]')]
    >>> [(change.origin, change.counter) for change in renumber(old, "b", 1, kept=4)]
    [('b', 1), ('b', 2)]
    """
    renaming = _Renaming(changes, origin, first, kept, same)
    return [renaming.renamed(change) for change in changes]


class _GivenUp(Exception):
    """What a change is about is not there any more."""


class _Renaming:
    def __init__(self, changes: Sequence[Change], origin: str, first: int, kept: int, same: Collection[int]) -> None:
        self._before = changes[0].origin if changes else ""
        self._origin = origin
        self._counters = {change.counter: counter for counter, change in enumerate(changes, start=first)}
        self._kept = kept
        self._same = same

    def renamed(self, change: Change) -> Change:
        """One of the changes."""
        if (self._origin, self._counters[change.counter]) == (change.origin, change.counter):
            return change  # Nothing before it has another name either. It may be in the central log as it is.
        try:
            fields = {"branch": self._branch(change.branch), **self._body(change)}
        except _GivenUp:
            fields = self._without_parent(change) if change.kind == FORK else _NOTHING
        return msgspec.structs.replace(change, origin=self._origin, counter=self._counters[change.counter], **fields)

    def _body(self, change: Change) -> dict[str, Any]:
        if change.kind == REMOVE:
            target = decode_removal(change.body)
            origin, counter = self._name(target.origin, target.counter)
            return {"body": msgspec.json.encode(ItemId(origin, counter, target.place))}
        if change.kind == CLEAR:
            return {"body": encode_clear({**decode_clear(change.body), self._before: self._kept})}
        if change.kind == DROP:
            return {"body": encode_drop(self._branch(decode_drop(change.body)))}
        return {"body": self._fork(change)} if change.kind == FORK else {}

    def _fork(self, change: Change) -> bytes:
        body = decode_fork(change.body)
        stay = [counter for counter in self._same if counter < change.counter]
        upto = dict(body.upto)
        if self._before in upto:
            counter, place = upto[self._before]
            after = [each for each in self._counters if each >= counter]
            if after:
                end = self._counters[after[0]], place if after[0] == counter else 0
                upto[self._origin] = min(end, upto.get(self._origin, end))
        return encode_fork(body.name, {**body.seen, self._before: max([self._kept, *stay])}, upto)

    def _without_parent(self, change: Change) -> dict[str, Any]:
        """A fork that takes over nothing."""
        name = decode_fork(change.body).name
        return {"branch": MAIN_BRANCH, "body": encode_fork(name, {}, {self._origin: (0, 0)})}

    def _branch(self, branch: str) -> str:
        if branch == MAIN_BRANCH:
            return branch
        return branch_id(*self._name(*fork_of(branch)))

    def _name(self, origin: str, counter: int) -> tuple[str, int]:
        if origin != self._before or counter <= self._kept or counter in self._same:
            return origin, counter
        if counter not in self._counters:
            raise _GivenUp
        return self._origin, self._counters[counter]
