"""Ways to break the product, each of which the simulation has to find: what it can't find it can't claim to check."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from functools import wraps
from itertools import count
from typing import Any, Final, NamedTuple
from unittest.mock import patch

import msgspec

import localfirst.codec
import localfirst.log
import localfirst.testing.memory
import sync.compact
import sync.push
import sync.stretch
from localfirst.branches import Line
from localfirst.change import Change, decode_change, encode_change
from localfirst.checkpoint import State, encode_state
from localfirst.history import History, ItemId
from localfirst.log import Log
from localfirst.records import CHANGE, PAGE, Head, Page, Rename, SessionKey, number, span
from localfirst.testing.memory import MemoryStore
from sync.asides import Asides
from sync.central.base import Pulled, Pushed, Run, Want
from sync.central.digests import digest_after
from sync.push import Pusher
from sync.resync import _Copy
from sync.round import Round
from sync.stretch import _Reader
from tests.simulation.rows import MemoryRows

Mutation = Callable[[], AbstractContextManager[object]]


class Known(NamedTuple):
    """A mutation, and the invariant that notices it."""

    invariant: int
    begin: Mutation
    seeds: Sequence[int]


MUTATIONS: dict[str, Known] = {}
"""By what they do."""


ALL_FAULTS: Final = [seed for seed in range(3000) if seed % 3 != 1]
"""The universes in which everything goes wrong, but no life ends. Where few notice a mutation, it has its own, and the
first of them does."""


def mutation(name: str, invariant: int, seeds: Sequence[int] = ALL_FAULTS) -> Callable[[Mutation], Mutation]:
    """Registers what begins a mutation. `seeds`: universes that may notice it."""

    def register(begin: Mutation) -> Mutation:
        MUTATIONS[name] = Known(invariant, begin, seeds)
        return begin

    return register


# The central store.


@mutation("the server admits again what it has", 10)
def _no_dedupe() -> AbstractContextManager[object]:
    push = MemoryStore._push

    def mutated(store: MemoryStore, session_id: str, run: Run) -> Pushed:
        session = store._state.sessions.get(session_id)
        if session is not None and run.first <= session.acked.get(run.origin, 0):
            session.acked[run.origin] = run.first - 1
        return push(store, session_id, run)

    return patch.object(MemoryStore, "_push", mutated)


@mutation("the server admits the end of a run whose beginning it has", 1, ALL_FAULTS[403:])
def _overlap_in_part() -> AbstractContextManager[object]:
    push = MemoryStore._push

    def mutated(store: MemoryStore, session_id: str, run: Run) -> Pushed:
        session = store._state.sessions.get(session_id)
        known = session.acked.get(run.origin, 0) - run.first + 1 if session is not None else 0
        if not 0 < known < len(run.changes):
            return push(store, session_id, run)
        pushed = push(store, session_id, replace(run, first=run.first + known, changes=run.changes[known:]))
        return pushed._replace(admitted=len(run.changes))

    return patch.object(MemoryStore, "_push", mutated)


@mutation("a checkpoint takes the place of changes that are not in it", 9)
def _too_much_folded() -> AbstractContextManager[object]:
    put = MemoryStore.put_checkpoint

    async def mutated(store: MemoryStore, session_id: str, expected: Any, checkpoint: Any, *rest: Any) -> bool:
        session = store._state.sessions.get(session_id)
        if session is not None and session.generation == checkpoint.generation:
            checkpoint = checkpoint._replace(seq=max(checkpoint.seq, session.seq), digest=session.digest)
        return await put(store, session_id, session.head if session else None, checkpoint, *rest)

    return patch.object(MemoryStore, "put_checkpoint", mutated)


@mutation("the digests of two logs are not compared", 1)
def _digest_not_compared() -> AbstractContextManager[object]:
    pull = MemoryStore._pull

    def mutated(store: MemoryStore, want: Want, max_bytes: int) -> Pulled:
        session = store._state.sessions.get(want.session_id)
        if session is None or want.generation is None or not session.floor <= want.after <= session.seq:
            return pull(store, want, max_bytes)
        pulled = pull(store, want._replace(digest=session._digest_at(want.after)), max_bytes)
        if pulled.head is None or pulled.resync:
            return pulled
        digest = digest_after(want.digest, pulled.entries)
        return pulled._replace(head=pulled.head._replace(digest=digest))

    return patch.object(MemoryStore, "_pull", mutated)


# What is on disk.


@mutation("the cursor is committed before the pages", 10)
def _cursor_first() -> AbstractContextManager[object]:
    settle = Log.settle

    def mutated(
        log: Log, key: SessionKey, before: Head, after: Head, pages: Sequence[Page] = (), rename: Rename | None = None
    ) -> Head | None:
        settled = settle(log, key, before, after, (), rename)
        if settled is not None:
            with log.rows.transaction():
                for page in filter(None, pages):
                    log.rows.put(PAGE + key + after.volume + number(page.first), msgspec.msgpack.encode(page))
        return settled

    return patch.object(Log, "settle", mutated)


@mutation("a page is lost now and then", 10)
def _page_lost() -> AbstractContextManager[object]:
    settle, calls = Log.settle, count(1)

    def mutated(
        log: Log, key: SessionKey, before: Head, after: Head, pages: Sequence[Page] = (), rename: Rename | None = None
    ) -> Head | None:
        return settle(log, key, before, after, () if next(calls) % 10 == 0 else pages, rename)

    return patch.object(Log, "settle", mutated)


@mutation("a page holds other bytes than the log", 14)
def _other_bytes() -> AbstractContextManager[object]:
    settle = Log.settle

    def mutated(
        log: Log, key: SessionKey, before: Head, after: Head, pages: Sequence[Page] = (), rename: Rename | None = None
    ) -> Head | None:
        for page in pages:
            page.foreign[:] = [
                msgspec.structs.replace(each, data=each.data.replace(b"main\xa3put", b"mine\xa3put"))
                for each in page.foreign
            ]
        return settle(log, key, before, after, pages, rename)

    return patch.object(Log, "settle", mutated)


@mutation("one change too many is taken for admitted", 7)
def _acked_too_far() -> AbstractContextManager[object]:
    settle = Log.settle

    def mutated(
        log: Log, key: SessionKey, before: Head, after: Head, pages: Sequence[Page] = (), rename: Rename | None = None
    ) -> Head | None:
        if before.acked < after.acked < log.last_slot(key):
            after = msgspec.structs.replace(after, acked=after.acked + 1)
        return settle(log, key, before, after, pages, rename)

    return patch.object(Log, "settle", mutated)


@mutation("a change is written over one that took its place", 7)
def _no_compare_and_swap() -> AbstractContextManager[object]:
    def mutated(rows: MemoryRows, key: bytes, value: bytes, upper: bytes) -> None:
        rows.put(key, value)

    return patch.object(MemoryRows, "insert_last", mutated)


@mutation("what is renamed stays where it was", 10)
def _rename_in_place() -> AbstractContextManager[object]:
    rename_rows = Log._rename

    def mutated(log: Log, key: SessionKey, head: Head, rename: Rename) -> Head:
        after = rename_rows(log, key, head, rename)
        moved = log.rows.range(*span(CHANGE + key, after.acked))
        log.rows.delete_range(*span(CHANGE + key, rename.start - 1))
        for slot, (_, value) in enumerate(moved, start=rename.start):
            log.rows.put(CHANGE + key + number(slot), value)
        return msgspec.structs.replace(after, acked=rename.start - 1, offset=rename.start - rename.first)

    return patch.object(Log, "_rename", mutated)


@mutation("a renamed removal names what it named before", 6)
def _names_kept() -> AbstractContextManager[object]:
    def mutated(changes: Sequence[Change], origin: str, first: int, *_: Any) -> list[Change]:
        return [
            msgspec.structs.replace(change, origin=origin, counter=counter)
            for counter, change in enumerate(changes, start=first)
        ]

    return patch.object(localfirst.log, "renumber", mutated)


# Replication.


@mutation("a copied directory is not noticed", 7)
def _twin_unnoticed() -> AbstractContextManager[object]:
    place = _Reader._place

    def mutated(reader: _Reader, entry: Any, change: Change, rows: dict[int, bytes]) -> None:
        slot = reader._head.slot(change.counter)
        place(reader, entry, change, {**rows, slot: entry.data} if slot in rows else rows)

    return patch.object(_Reader, "_place", mutated)


@mutation("nothing is sent to a store that lost something", 1)
def _nothing_sent() -> AbstractContextManager[object]:
    async def mutated(copy: _Copy) -> bool:
        return False

    return patch.object(_Copy, "_send_lacking", mutated)


@mutation("what a store lost is sent in another order", 5)
def _sent_in_another_order() -> AbstractContextManager[object]:
    lacking = _Copy._lacking

    async def mutated(copy: _Copy, generation: str) -> Any:
        runs = [run async for run in lacking(copy, generation)]
        for run in sorted(runs, key=lambda run: run.origin):
            yield run

    return patch.object(_Copy, "_lacking", mutated)


@mutation("a push that got no answer is tried again under new counters", 2)
def _new_counters() -> AbstractContextManager[object]:
    pending = Pusher._pending
    tried: set[tuple[int, SessionKey, int]] = set()

    @wraps(pending)
    async def mutated(pusher: Pusher, key: SessionKey, head: Head | None, result: Round) -> Any:
        batch = await pending(pusher, key, head, result)
        if batch is None:
            return None
        place = (id(pusher), key, batch.run.first)
        if place not in tried:
            tried.add(place)
            return batch
        by = len(batch.run.changes)
        changes = [_shifted(data, by) for data in batch.run.changes]
        return batch._replace(run=replace(batch.run, first=batch.run.first + by, changes=changes))

    return patch.object(Pusher, "_pending", mutated)


def _shifted(data: bytes, by: int) -> bytes:
    change = decode_change(data)
    return encode_change(msgspec.structs.replace(change, counter=change.counter + by))


@mutation("a session that can't be read is not pushed either", 9, ALL_FAULTS[112:])
def _stopped_both_ways() -> AbstractContextManager[object]:
    def mutated(asides: Asides, keys: set[SessionKey], direction: str) -> set[SessionKey]:
        return keys - {key for key, _ in asides.stopped}

    return patch.object(Asides, "free", mutated)


# Turns.


@mutation("a turn is sent in parts", 13)
def _turn_in_parts() -> AbstractContextManager[object]:
    return patch.object(sync.push, "whole", len)


@mutation("a turn is taken in parts", 13)
def _turn_taken_in_parts() -> AbstractContextManager[object]:
    take = _Reader.take

    def mutated(reader: _Reader, *arguments: Any) -> None:
        take(reader, *arguments)
        reader.stretch.whole = reader.stretch.count

    return patch.object(_Reader, "take", mutated)


# Folding.


@mutation("a removal takes the last item, whichever it names", 6)
def _removal_by_place() -> AbstractContextManager[object]:
    def mutated(history: History, target: ItemId) -> int | None:
        return len(history.items) - 1 if history.items else None

    return patch.object(History, "_find", mutated)


@mutation("a clear takes what was admitted before it", 6, ALL_FAULTS[182:])
def _clear_by_base() -> AbstractContextManager[object]:
    def mutated(history: History, change: Change) -> tuple[int, Callable[[], None]]:
        before = history.items
        history.items = [item for item in before if item.seq > change.base and item.origin != change.origin]
        return len(before) - len(history.items), lambda: setattr(history, "items", before)

    return patch.object(History, "clear", mutated)


@mutation("an append is put before the last item", 4)
def _append_between() -> AbstractContextManager[object]:
    append = History.append

    def mutated(history: History, change: Change, seq: int, expires: int = 0) -> Any:
        items, undo = append(history, change, seq, expires)
        last = len(history.items) - len(items) - 1
        if items and last >= 0:
            history.items.append(history.items.pop(last))
        return items, undo

    return patch.object(History, "append", mutated)


@mutation("a checkpoint forgets a value", 3)
def _value_forgotten() -> AbstractContextManager[object]:
    def mutated(state: State) -> bytes:
        state.fold.metadata.pop("max", None)
        return encode_state(state)

    return patch.object(localfirst.codec, "encode_state", mutated)


@mutation("folding drops the last page", 9)
def _tail_dropped() -> AbstractContextManager[object]:
    take = sync.compact.take

    async def mutated(site: Any, key: SessionKey, head: Head, upto: int, *rest: Any) -> bool:
        return await take(site, key, head, head.seq, *rest)

    return patch.object(sync.compact, "take", mutated)


# Branches.


@mutation("a fork takes over what its author had not seen", 15)
def _unseen_taken_over() -> AbstractContextManager[object]:
    return patch.object(Line, "inherited", lambda line, items: list(items))


@mutation("a checkpoint forgets the branches", 3)
def _branches_forgotten() -> AbstractContextManager[object]:
    def mutated(state: State) -> bytes:
        branches = state.fold.branches
        branches._lines = {branches.main.id: branches.main}
        return encode_state(state)

    return patch.object(localfirst.codec, "encode_state", mutated)


@contextmanager
def broken(name: str) -> Iterator[None]:
    """The product, broken in one way."""
    with ExitStack() as stack:
        stack.enter_context(MUTATIONS[name].begin())
        yield
