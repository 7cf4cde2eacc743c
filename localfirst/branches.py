"""The branches of a session: what a fork takes over, and what becomes of it afterwards. Pure.

A fork copies pointers to the items that its author saw. From then on what happens on one branch concerns no other, but
for a log that was rebuilt after a loss: there a change may come after the fork whose author had seen it. So whatever
happens on a branch happens, too, on those of its forks whose authors had seen it; in every other log there are none.
A change may even come before the fork that made its branch. It waits for it.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Annotated, Final

import msgspec

from localfirst.change import MAIN_BRANCH, Change, branch_id, fork_of
from localfirst.errors import MalformedChange
from localfirst.history import History, Item, Number, Undo, cleared_by, decode_body, greatest, items_in
from localfirst.limits import MOST_PLACES

MAX_NAME: Final = 200
"""Characters in the name of a branch."""

_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_NAME)]


class Fork(msgspec.Struct):
    """Body of a fork."""

    name: _Name
    seen: dict[str, Number]
    """The last change of each replica that its author had folded; that of the author itself need not be told."""
    upto: dict[str, tuple[Number, Number]] = {}
    """By origin, counter and place of the first item that the branch leaves out, where it does not take all that its
    author saw. By origin, for the one item where the branch parts may be taken away before the fork comes."""


class Drop(msgspec.Struct):
    """Body of a drop."""

    branch: str


_fork_decoder = msgspec.json.Decoder(Fork)
_drop_decoder = msgspec.json.Decoder(Drop)


def encode_fork(name: str, seen: Mapping[str, int], upto: Mapping[str, tuple[int, int]]) -> bytes:
    """Body of a fork."""
    return msgspec.json.encode(Fork(name, dict(seen), dict(upto)))


def encode_drop(branch: str) -> bytes:
    """Body of a drop, by the branch's id."""
    return msgspec.json.encode(Drop(branch))


def decode_fork(body: bytes) -> Fork:
    """What a fork takes over."""
    return decode_body(_fork_decoder, body, "a fork does not tell what it takes over")


def decode_drop(body: bytes) -> str:
    """The id of the branch that is deleted."""
    branch = decode_body(_drop_decoder, body, "a drop names no branch").branch
    fork_of(branch)
    return branch


class Line(msgspec.Struct, frozen=True, eq=False):
    """One branch."""

    id: str
    history: History
    heirs: list[str]
    """The ids of the branches that were forked from it."""
    name: str = ""
    """As it is shown; empty: it isn't."""
    time: int = 0
    """Of the fork: hybrid logical clock. With it, the branch is known when its id became another one."""
    parent: str = ""
    """The branch from which it was forked, by its id; empty: none that ever was."""
    seen: Mapping[str, int] = {}
    upto: Mapping[str, tuple[int, int]] = {}
    barred: Mapping[str, int] = {}
    """By origin, the counter up to which its parent was cleared when it was forked."""
    forked: bool = False
    """Its fork has come. Else what is here waits for it."""
    deleted: bool = False
    """Shows nothing any more, and takes nothing; its forks may still get what comes late."""

    def inherited(self, items: list[Item]) -> list[Item]:
        """Which of its parent's items it takes over."""
        seen, barred, upto = self.seen, self.barred, self.upto
        return [
            item
            for item in items
            if barred.get(item.origin, 0) < item.counter <= seen.get(item.origin, 0)
            and (item.origin not in upto or (item.counter, item.place) < upto[item.origin])
        ]

    def inherits(self, item: Item) -> bool:
        """Whether it takes over an item of its parent."""
        return bool(self.inherited([item]))

    def split(self) -> int:
        """Where in its items its own begin: they follow all that it took over."""
        items = self.history.items
        return next((place for place, item in enumerate(items) if not self.inherits(item)), len(items))


class Branches:
    """All branches of a session. Every step returns how to undo it exactly; `counters` are those folded before it."""

    def __init__(self) -> None:
        self.main = Line(MAIN_BRANCH, History(), [], name=MAIN_BRANCH, forked=True)
        self._lines: dict[str, Line] = {MAIN_BRANCH: self.main}

    # Looking.

    def get(self, branch: str) -> Line | None:
        """The branch with an id, if there is one that is shown."""
        line = self._lines.get(branch)
        return line if line is not None and line.name else None

    def find(self, branch: str, time: int) -> Line | None:
        """The branch that had an id, also if its fork was given another counter or origin since."""
        line = self.get(branch)
        if line is not None and (line.time == time or line is self.main):
            return line
        return next((each for each in self.shown() if each.time == time and each is not self.main), None)

    def named(self, name: str) -> Line | None:
        """The branch that is shown by a name, if there is one."""
        return next((line for line in self._lines.values() if line.name == name), None) if name else None

    def shown(self) -> list[Line]:
        """Main, then the others, oldest first."""
        lines = (line for line in self._lines.values() if line.name)
        return sorted(lines, key=lambda line: (line is not self.main, line.time, line.id))

    def others(self, counters: Mapping[str, int]) -> dict[str, Line]:
        """All but main that can still mean something, by their ids."""
        lines = (line for line in self._lines.values() if line is not self.main)
        return {line.id: line for line in lines if line.forked or may_come(line.id, counters)}

    def pointers(self) -> int:
        """How many items the branches but main have, most of them shared: what they cost in memory, in words."""
        return sum(len(line.history.items) for line in list(self._lines.values()) if line is not self.main)

    def is_late(self, change: Change) -> bool:
        """Whether an append to main is also one to a branch."""
        return any(change.counter <= self._lines[heir].seen.get(change.origin, 0) for heir in self.main.heirs)

    # Changes.

    def append(
        self, change: Change, seq: int, counters: Mapping[str, int], expires: int = 0
    ) -> tuple[list[Item], Undo]:
        """Add the items of an append; returns those that became visible on its branch."""
        if change.branch == MAIN_BRANCH and not self.main.heirs:
            return self.main.history.append(change, seq, expires)
        line, undo = self._reach(change.branch, counters)
        if line is None:
            return [], undo
        undos = [undo]
        added: list[Item] = []
        if not line.deleted:
            added, undo = line.history.append(change, seq, expires)
            undos.append(undo)
        if line.heirs and any(self._had_seen(line, change)):
            undos += self._hand_down(line, items_in(change, seq, expires))
        return added, partial(_undo, undos)

    def remove(self, change: Change, counters: Mapping[str, int]) -> tuple[Item | None, Undo]:
        """Remove the item that a remove names; None if it is gone already."""
        line, undo = self._reach(change.branch, counters)
        if line is None:
            return None, undo
        undos = [undo]
        # Main has every item that was folded. A branch may get one later: when its fork comes, or that of its parent.
        removed, undo = line.history.remove(change, partial(_counter, counters) if line is self.main else _never)
        undos.append(undo)
        undos += [heir.history.remove(change, _never)[1] for heir in self._had_seen(line, change)]
        return removed, partial(_undo, undos)

    def clear(self, change: Change, counters: Mapping[str, int]) -> tuple[int, Undo]:
        """Remove what the author of a clear had seen of its branch; returns how many."""
        line, undo = self._reach(change.branch, counters)
        if line is None:
            return 0, undo
        undos = [undo]
        count, undo = line.history.clear(change)
        undos.append(undo)
        undos += [self._bar(heir, cleared_by(change)) for heir in self._had_seen(line, change)]
        return count, partial(_undo, undos)

    def fork(self, change: Change, counters: Mapping[str, int]) -> Undo:
        """Make a branch of what the author of a fork saw of another."""
        body, branch = decode_fork(change.body), branch_id(change.origin, change.counter)
        parent, undo = self._reach(change.branch, counters)
        undos = [undo]
        if parent is None or self._is_under(parent, branch):
            parent = None  # Of what never was, nothing can be taken over.
        early = self._lines.get(branch) or Line(branch, History(), [])
        line = msgspec.structs.replace(
            early,
            name="" if early.deleted else free_name(body.name, branch, {each.name for each in self._lines.values()}),
            time=change.time,
            parent=parent.id if parent else "",
            seen={**body.seen, change.origin: change.counter - 1},
            upto=body.upto,
            barred=parent.history.cleared if parent else {},
            forked=True,
        )
        undos.append(self._put(line))
        if parent is not None:
            parent.heirs.append(branch)
            undos.append(partial(parent.heirs.remove, branch))
            undos += self._take_over(line, parent)
            self._check_places(line)
        return partial(_undo, undos)

    def drop(self, change: Change, counters: Mapping[str, int]) -> Undo:
        """Delete the branch that a drop names. Its forks stay."""
        line, undo = self._reach(decode_drop(change.body), counters)
        if line is None or line.deleted:
            return undo
        history = History()
        history.removed_early, history.cleared = set(line.history.removed_early), line.history.cleared
        deleted = msgspec.structs.replace(line, history=history, name="", deleted=True)
        return partial(_undo, [undo, self._put(deleted)])

    def expire(self, now: int) -> int:
        """Take away the items whose time has come (Unix milliseconds), for good. When the next one's will; 0: never."""
        coming: set[int] = set()
        for line in self._lines.values():
            history = line.history
            if any(item.expires for item in history.items):
                history.items = [item for item in history.items if not 0 < item.expires <= now]
                coming.update(item.expires for item in history.items)
        return min(coming - {0}, default=0)

    # From a checkpoint.

    def restore(self, lines: Iterable[Line]) -> None:
        """Put branches in, but for main, which must be there. Raises `MalformedChange` for what can't have been."""
        for line in lines:
            fork_of(line.id)
            if line.id in self._lines or (line.name and self.named(line.name)):
                raise MalformedChange(f"a checkpoint has two branches {line.id[:60]!r} of the name {line.name!r:.60}")
            if bool(line.name) != (line.forked and not line.deleted) or (line.deleted and line.history.items):
                raise MalformedChange(f"a checkpoint has an impossible branch {line.id[:60]!r}")
            self._lines[line.id] = line
        for line in self._lines.values():
            parent = self._lines.get(line.parent)
            if parent is not None:
                parent.heirs.append(line.id)
        self.from_main_on()

    def from_main_on(self) -> list[Line]:
        """All branches, each after its parent. Raises `MalformedChange` if there is one that was forked from itself."""
        found = [line for line in self._lines.values() if line.parent not in self._lines]
        for line in found:
            found += [self._lines[heir] for heir in line.heirs]
        if len(found) < len(self._lines):
            raise MalformedChange("a checkpoint has a branch that was forked from itself")
        return found

    # Inside.

    def _reach(self, branch: str, counters: Mapping[str, int]) -> tuple[Line | None, Undo]:
        """The branch with an id; if its fork may still come, a place to wait. None: there never was one."""
        line = self._lines.get(branch)
        if line is not None and line.forked:
            return line, _nothing
        if not may_come(branch, counters):
            return None, _nothing
        if line is not None:
            return line, _nothing
        line = self._lines[branch] = Line(branch, History(), [])
        return line, partial(self._lines.__delitem__, branch)

    def _put(self, line: Line) -> Undo:
        before = self._lines.get(line.id)
        self._lines[line.id] = line
        if before is None:
            return partial(self._lines.__delitem__, line.id)
        return partial(self._lines.__setitem__, line.id, before)

    def _check_places(self, line: Line) -> None:
        """Raise `MalformedChange` where forks of many items would take all memory. Counted only where it may be so."""
        if len(self._lines) * len(line.history.items) > MOST_PLACES and self.pointers() > MOST_PLACES:
            raise MalformedChange(f"the branches of a session show more than {MOST_PLACES:,} items between them")

    def _is_under(self, line: Line, branch: str) -> bool:
        """Whether it is a branch, or was forked from it, or from a fork of it, and so on."""
        while line.id != branch:
            parent = self._lines.get(line.parent)
            if parent is None:
                return False
            line = parent
        return True

    def _take_over(self, line: Line, parent: Line) -> list[Undo]:
        removed = parent.history.removed_early - line.history.removed_early
        line.history.removed_early |= removed
        undos: list[Undo] = [partial(line.history.removed_early.difference_update, removed)]
        items = line.inherited(self._visible(parent))
        if not line.deleted:
            undos.append(line.history.insert(0, items))
        if line.heirs:
            undos += self._hand_down(line, items)
        return undos

    def _visible(self, line: Line) -> list[Item]:
        """The items of a branch. Of a deleted one, those that the branches above it still show."""
        deleted = []
        while line.deleted:
            deleted.append(line)
            parent = self._lines.get(line.parent)
            if parent is None or not parent.forked:
                return []
            line = parent
        items = line.history.items
        for each in reversed(deleted):
            items = each.inherited(items)
        return items

    def _had_seen(self, line: Line, change: Change) -> Iterator[Line]:
        """The forks of a branch, and theirs, whose authors had seen a change that comes only now."""
        waiting = list(line.heirs)
        while waiting:
            heir = self._lines[waiting.pop()]
            if change.counter <= heir.seen.get(change.origin, 0):
                waiting += heir.heirs
                yield heir

    def _hand_down(self, line: Line, items: list[Item]) -> list[Undo]:
        """Items that came late go to the end of what the forks took over."""
        undos: list[Undo] = []
        waiting = [(heir, items) for heir in line.heirs]
        while waiting:
            branch, items = waiting.pop()
            heir = self._lines[branch]
            inherited = heir.inherited(items)
            if inherited:
                if not heir.deleted:
                    undos.append(heir.history.insert(heir.split(), inherited))
                waiting += [(each, inherited) for each in heir.heirs]
        return undos

    def _bar(self, line: Line, cleared: Mapping[str, int]) -> Undo:
        """What it took over was cleared before it was forked."""
        undo = line.history.keep(lambda item: item.counter > cleared.get(item.origin, 0))
        barred = msgspec.structs.replace(line, barred=greatest(line.barred, cleared))
        return partial(_undo, [undo, self._put(barred)])


def free_name(name: str, branch: str, taken: Container[str]) -> str:
    """The name by which a branch is shown: its own, or if another has that, one that says whose it is.

    >>> free_name("draft", "replica-a:7", {"main", "draft"})
    'draft@replic'
    """
    origin, _ = fork_of(branch)
    for shown in (name, f"{name}@{origin[:6]}", f"{name}@{branch}"):
        if shown not in taken:
            return shown
    while shown in taken:
        shown += "+"
    return shown


def may_come(branch: str, counters: Mapping[str, int]) -> bool:
    """Whether the fork that makes a branch is not folded yet. Raises `MalformedChange` for what is no branch's id."""
    origin, counter = fork_of(branch)
    return counters.get(origin, 0) < counter


def _undo(undos: list[Undo]) -> None:
    for undo in reversed(undos):
        undo()


def _counter(counters: Mapping[str, int], origin: str) -> int:
    return counters.get(origin, 0)


def _never(_: str) -> int:
    return 0


def _nothing() -> None:
    return None
