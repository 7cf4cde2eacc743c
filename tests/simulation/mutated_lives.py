"""Ways to break how lives end, and what is evicted. They show in universes in which lives end only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final
from unittest.mock import patch

import msgspec

import sync.lives
import sync.resync
from localfirst.change import hash_changes
from localfirst.lives import last_life
from localfirst.log import Log
from localfirst.records import GARBAGE, Head, SessionKey
from localfirst.testing.memory import MemoryStore
from localfirst.view import View
from sync.central.base import Pushed, Run
from sync.evict import Evictor
from sync.site import Site
from sync.stretch import Stretch, read_stretch
from tests.simulation.mutations import mutation

_SEEDS: Final = range(1, 3000, 3)


@mutation("the pages of a life that ended stay", 6, _SEEDS)
def _pages_stay() -> AbstractContextManager[object]:
    restart = Log.restart

    def mutated(log: Log, key: SessionKey, before: Head, *rest: Any) -> Head:
        after = restart(log, key, before, *rest)
        row = GARBAGE + key + before.volume
        log.rows.delete_range(row, row + b"\0")
        return after

    return patch.object(Log, "restart", mutated)


@mutation("a push to a life that ended begins another", 6, _SEEDS[44:])
def _late_push_revives() -> AbstractContextManager[object]:
    push = MemoryStore._push

    def mutated(store: MemoryStore, session_id: str, run: Run) -> Pushed:
        return push(store, session_id, replace(run, fresh=run.fresh or store._session(session_id) is None))

    return patch.object(MemoryStore, "_push", mutated)


@mutation("what expired is shown", 6, _SEEDS)
def _expiry_not_checked() -> AbstractContextManager[object]:
    return patch.object(View, "visible", lambda view: view.fold)


@mutation("eviction takes what is pending", 7, _SEEDS)
def _pending_evicted() -> AbstractContextManager[object]:
    evict = Log.evict

    def mutated(log: Log, key: SessionKey, before: Head, newest: int) -> bool:
        after = msgspec.structs.replace(before, acked=max(before.acked, log.last_slot(key)))
        return log.settle(key, before, after) is not None and evict(log, key, after, newest)

    async def every(evictor: Evictor) -> list[tuple[SessionKey, Head]]:
        heads = [(key, await evictor._site.head(key)) for key in evictor._queue]
        evictor._queue.clear()
        return [(key, head) for key, head in heads if head is not None and head.generation and not head.ending]

    return _both(patch.object(Log, "evict", mutated), patch.object(Evictor, "_next", every))


@mutation("what was evicted comes back without what others wrote", 3, _SEEDS)
def _less_comes_back() -> AbstractContextManager[object]:
    async def mutated(site: Site, key: SessionKey, head: Head, *rest: Any) -> Stretch:
        stretch = await read_stretch(site, key, head, *rest)
        if head.stub:
            stretch.page.foreign[:] = [
                msgspec.structs.replace(each, data=b"", add=hash_changes([each.data])) for each in stretch.page.foreign
            ]
        return stretch

    return patch.object(sync.resync, "read_stretch", mutated)


@mutation("others are not told of a deletion", 6, _SEEDS)
def _deletion_untold() -> AbstractContextManager[object]:
    ended = MemoryStore._ended

    def mutated(store: MemoryStore, *life: Any) -> Any:
        return "expired" if ended(store, *life) == "expired" else None

    return patch.object(MemoryStore, "_ended", mutated)


@mutation("what is pending goes on after its session was deleted", 6, _SEEDS)
def _pending_goes_on() -> AbstractContextManager[object]:
    def mutated(*arguments: Any, deleted: bool) -> int:
        return last_life(*arguments)

    return patch.object(sync.lives, "last_life", mutated)


@contextmanager
def _both(*patches: AbstractContextManager[object]) -> Iterator[None]:
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        yield
