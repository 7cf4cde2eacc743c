"""One session of a source is written to a session here, branch by branch and a part at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Final, TypeVar

import msgspec

from localfirst import plans
from localfirst.change import MAIN_BRANCH, PUT
from localfirst.errors import ConfigurationError, InvalidItem, ItemTooLarge, LocalFirstError, SourceUnreadable
from localfirst.events import SessionEvent
from localfirst.fold import Fold
from localfirst.metadata import encode_put
from localfirst.migration.forking import Take, beginning, lines_in
from localfirst.migration.marks import Advance, Chain, Mark, mark_in, place_of
from localfirst.migration.report import MigratedSession
from localfirst.migration.source import Conversation, Damaged, Row, Source, item_of
from localfirst.migration.verifying import difference
from localfirst.session import Session
from localfirst.store import Store
from localfirst.usage import taken_over
from localfirst.view import Step

Told = Callable[[int, int], object]
"""Is told how many rows of how many are done."""

T = TypeVar("T")
_BATCH_ITEMS: Final = 500
_BATCH_BYTES: Final = 1 << 20
_NOTES: Final = 100
_PATIENCE: Final = 30.0
"""Seconds to wait for a session that the central store may have: another replica may have imported it."""


class Problem(LocalFirstError):
    """Why a session is left alone from here on."""


class Import:
    """Of one session."""

    def __init__(self, store: Store, source: Source, conversation: Conversation, told: Told, *, append: bool) -> None:
        self._store = store
        self._source = source
        self._conversation = conversation
        self._append = append
        self._told = told
        self.imported = self.skipped = self.damaged = 0
        self.notes = list(conversation.notes)

    @property
    def found(self) -> int:
        """Rows that the source had when this began, or more if more came."""
        return max(sum(self._conversation.branches.values()), self.imported + self.skipped + self.damaged)

    def run(self, *, dry: bool) -> None:
        """Write what is not here yet; `dry`: only look. Raises `Problem`."""
        self._told(0, self.found)
        for branch in self._conversation.branches:
            self._branch(branch, dry=dry)
        if not dry:
            self._know()

    def verify(self) -> None:
        """Read back what no run has verified yet, and compare it with the source. Raises `Problem`."""
        for branch in self._conversation.branches:
            session, place = self._session(branch), self._place(branch)
            mark = self._look(self._session(MAIN_BRANCH), partial(mark_in, place=place))
            if mark is None or mark.verified == mark.rows:
                continue
            on_branch = session._access.branch()
            items = session._access.read_anew(partial(plans.last, limit=None, branch=on_branch))
            found = difference(self._conversation.rows(branch), mark, items)
            if found is not None:
                raise Problem(f"{_on(branch)}{found}")
            self._write(session, Advance(place, mark, msgspec.structs.replace(mark, verified=mark.rows)))

    # A branch.

    def _branch(self, branch: str, *, dry: bool) -> None:
        session, place = self._session(branch), self._place(branch)
        mark = self._look(self._session(MAIN_BRANCH), partial(mark_in, place=place))
        if mark is None:
            self._check_free(branch)
        chain, rows = Chain(), self._conversation.rows(branch)
        if mark is None and branch != MAIN_BRANCH and not dry:
            mark = self._fork(branch, place)
            self.imported += self._pass(rows, chain, mark)
        elif mark is not None:
            self.skipped += self._pass(rows, chain, mark)
        for items, upto in self._batches(rows, chain):
            if not dry:
                self._write(session, Advance(place, mark, upto, items))
                session._emit_each(SessionEvent.MESSAGE_ADDED, items)
                mark = upto
            self.imported += len(items)
            self._told(self.imported + self.skipped + self.damaged, self.found)
        if chain.rows < (counted := self._conversation.branches[branch]):
            raise Problem(
                f"{_on(branch)}the source has {counted} rows, of which {chain.rows} could be read: others were removed"
                " meanwhile, or lack what would tell their place. Run it again"
            )

    def _check_free(self, branch: str) -> None:
        """Raise `Problem` where there is something that is not from this source."""
        if branch == MAIN_BRANCH:
            if not self._append and self._look(self._session(branch), lambda fold: len(fold.on(MAIN_BRANCH))):
                raise Problem(
                    "there are other items here already, which are not from this source: delete the session first, or"
                    " say that the items are to be appended (append=True, or --append)"
                )
            return
        plans.checked_name(branch)
        if self._look(self._session(MAIN_BRANCH), lambda fold: fold.branches.named(branch) is not None):
            raise Problem(f"there is a branch {branch!r} here already, which is not from this source: delete it first")

    def _fork(self, branch: str, place: str) -> Mark:
        while True:
            begins = beginning(self._look(self._session(MAIN_BRANCH), lines_in), self._conversation.rows(branch))
            parent, take = self._session(begins.parent), Take(branch, place, begins)
            with parent.turn():
                parent._access.write(take, fresh=True)
            if take.done:
                return begins.mark
            self._check_free(branch)

    def _pass(self, rows: Iterator[Row], chain: Chain, mark: Mark) -> int:
        """Go over the rows that are here; how many hold an item. Raises `Problem` if they are not what was imported."""
        count = 0
        while chain.rows < mark.rows:
            row = next(rows, None)
            if row is None:
                raise Problem(
                    f"the source has {chain.rows} rows of it, and {mark.rows} were imported before: it was cleared or"
                    " shortened since. Nothing was changed here"
                )
            chain.add(row)
            count += self._item(row) is not None
        if chain.mark() != mark.unverified():
            raise Problem(
                f"the first {mark.rows} rows of the source are not those that were imported before: it was changed"
                " since. Nothing was changed here"
            )
        return count

    def _batches(self, rows: Iterable[Row], chain: Chain) -> Iterator[tuple[list[bytes], Mark]]:
        items, size, before = list[bytes](), 0, chain.rows
        for row in rows:
            item = self._item(row)
            if item is not None and items and size + len(item) > _BATCH_BYTES:
                yield items, chain.mark()
                items, size, before = [], 0, chain.rows
            chain.add(row)
            if item is not None:
                items.append(item)
                size += len(item)
            if len(items) == _BATCH_ITEMS:
                yield items, chain.mark()
                items, size, before = [], 0, chain.rows
        if chain.rows > before:
            yield items, chain.mark()

    def _item(self, row: Row) -> bytes | None:
        try:
            return item_of(row)
        except Damaged as error:
            self.damaged += 1
            if len(self.notes) < _NOTES:
                self.notes.append(f"row {row.id} holds no item: {error}")
            return None

    # What is known beside the items.

    def _know(self) -> None:
        """Set what is not set here, and the usage of turns of which none is known here."""
        metadata, usage = self._conversation.metadata, self._conversation.usage
        if not metadata and not usage:
            return

        def plan(fold: Fold) -> list[Step]:
            steps: list[Step] = []
            for key, value in metadata.items():
                if plans.value_of(fold, plans.checked_key(key)) is None:
                    steps.append((PUT, encode_put(key, "first", plans.encode_value(key, value))))
            return steps + taken_over(fold, usage)

        session = self._session(MAIN_BRANCH)
        if self._look(session, plan):
            session._access.write(plan, fresh=True)

    # Reaching the session.

    def _session(self, branch: str) -> Session:
        return self._store.session(self._conversation.session_id, branch=branch, hydrate_timeout=_PATIENCE)

    def _place(self, branch: str) -> str:
        return place_of(self._source, self._conversation, branch)

    def _look(self, session: Session, look: Callable[[Fold], T]) -> T:
        session._access.hydrate()
        return session._access.read(look)

    def _write(self, session: Session, plan: Advance) -> None:
        """Items and mark, for this disk and for others in one piece. Raises `Problem`."""
        with session.turn():
            session._access.write(plan, fresh=True)
        if not plan.done:
            raise Problem("somebody else imports the same at the same time: run it again when that has ended")


def import_one(
    store: Store, source: Source, session_id: str, told: Told, *, append: bool, dry: bool, verify: bool
) -> MigratedSession:
    """A session of a source, and what came of it."""
    done, problem, verified = None, None, None
    try:
        store.session(session_id)  # Can there be one of this id?
        with source.conversation(session_id) as conversation:
            done = Import(store, source, conversation, told, append=append)
            done.run(dry=dry)
            if verify and not dry:
                verified = False
                done.verify()
                verified = True
    except (Problem, SourceUnreadable, ConfigurationError, InvalidItem, ItemTooLarge) as error:
        problem = str(error)
    if done is None:
        return MigratedSession(session_id, 0, 0, 0, 0, problem=problem)
    return MigratedSession(
        session_id,
        done.found,
        done.imported,
        done.skipped,
        done.damaged,
        tuple(done.notes),
        tuple(conversation.branches),
        problem,
        verified,
    )


def _on(branch: str) -> str:
    return "" if branch == MAIN_BRANCH else f"on branch {branch!r}: "
