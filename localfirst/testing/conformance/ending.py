"""How the life of a session ends: by its ttl, by the store's clock, or because it is deleted."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

from localfirst.testing.conformance.harness import (
    GENERATION,
    PAGE,
    Bench,
    Case,
    bodies,
    changes,
    following,
    nothing_of,
    run,
    whole_log,
)
from sync.central.base import CentralStore, Checkpoint, Ending, Head, PushStatus, Want

SOON = 300
"""Milliseconds."""
LONG = 3_600_000
PATIENCE = 20.0

NEXT = "generation-2"
GONE = Want("s", GENERATION, 1, 0)
"""What a puller asks for that has followed the first life."""


async def _until(done: Callable[[], Awaitable[bool]], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not await done():
        assert time.monotonic() < deadline, f"not within {PATIENCE} s: {what}"
        await asyncio.sleep(0.02)


async def _expired(store: CentralStore, session_id: str = "s") -> None:
    async def is_missing() -> bool:
        return await store.heads([session_id]) == [None]

    await _until(is_missing, f"{session_id} expires")


async def push_tells_when_it_expires(bench: Bench) -> None:
    """By the store's clock; a ttl is remembered, may be changed, and may be taken away. Without one, never."""
    store = await bench.open()
    [plain] = await store.push([run("plain", "r1", 1, 1)])
    assert (plain.expires_at, plain.ended) == (0, None)
    [first] = await store.push([replace(run("s", "r1", 1, 1), ttl=LONG)])
    assert first.expires_at == first.admitted_at + LONG
    [second] = await store.push([following("s", "r1", 2, 1)])
    assert second.expires_at == second.admitted_at + LONG
    [page] = await store.pull([nothing_of("s")], PAGE)
    assert (page.expires_at, page.ended) == (second.expires_at, None)
    [again] = await store.push([following("s", "r1", 2, 1)])
    assert (again.admitted, again.expires_at) == (0, second.expires_at), "renewed by a push that admitted nothing"
    [shorter] = await store.push([replace(following("s", "r1", 3, 1), ttl=LONG // 2)])
    assert shorter.expires_at == shorter.admitted_at + LONG // 2
    [never] = await store.push([replace(following("s", "r1", 4, 1), ttl=0)])
    [page] = await store.pull([nothing_of("s")], PAGE)
    assert never.expires_at == page.expires_at == 0


async def expired_session_is_missing(bench: Bench) -> None:
    """To every call, without anybody sweeping, and those who followed it are told how it ended. Others stay."""
    store = await bench.open()
    await store.push([replace(run("s", "r1", 1, 1), ttl=SOON), run("other", "r1", 1, 1)])
    await _expired(store)
    [page, fresh] = await store.pull([GONE, nothing_of("s")], PAGE)
    assert (page.head, page.entries, page.ended) == (None, [], "expired")
    assert (fresh.head, fresh.ended) == (None, None)
    [missing] = await store.push([following("s", "r1", 2, 1)])
    assert (missing.status, missing.admitted, missing.ended) == (PushStatus.MISSING, 0, "expired")
    assert await store.checkpoint("s") is None
    assert await store.sessions("", 10) == ["other"]
    [gap] = await store.push([run("s", "r1", 2, 1, generation=NEXT)])
    assert gap.status is PushStatus.GAP


async def pushes_renew(bench: Bench) -> None:
    """A session that is written to lives on; once it is not, it expires."""
    store = await bench.open()
    await store.push([replace(run("s", "r1", 1, 1), ttl=2_000)])
    begun = time.monotonic()
    counter = 1
    while time.monotonic() < begun + 2.5:
        counter += 1
        [pushed] = await store.push([following("s", "r1", counter, 1)])
        assert pushed.status is PushStatus.OK, f"it expired {time.monotonic() - begun:.1f} s after it began"
        await asyncio.sleep(0.2)


async def life_after_expiry_is_another(bench: Bench) -> None:
    """It holds only what is pushed then, begins its counters anew, has no ttl but its own, and who followed the one
    before is told."""
    store = await bench.open()
    await store.push([replace(run("s", "r1", 1, 3), ttl=SOON)])
    await _expired(store)
    [pushed] = await store.push([run("s", "r2", 1, 2, generation=NEXT)])
    assert (pushed.status, pushed.generation, pushed.head, pushed.expires_at) == (PushStatus.OK, NEXT, 2, 0)
    assert bodies(await whole_log(store, "s")) == changes("r2", 1, 2)
    [page] = await store.pull([GONE], PAGE)
    assert page.head is not None
    assert (page.head.generation, page.resync, page.ended) == (NEXT, True, "expired")
    [late] = await store.push([following("s", "r1", 4, 1)])
    assert (late.status, late.ended) == (PushStatus.GENERATION, "expired")
    [fresh] = await store.push([run("s", "r1", 1, 1, generation=NEXT)])
    assert (fresh.status, fresh.acked, fresh.head) == (PushStatus.OK, 1, 3)


async def expired_session_gives_way_to_a_checkpoint(bench: Bench) -> None:
    """It counts as missing; what is made of the checkpoint has the ttl that is given."""
    store = await bench.open()
    await store.push([replace(run("s", "r1", 1, 1), ttl=SOON)])
    await _expired(store)
    made = Checkpoint(NEXT, 4, 44, b"folded")
    assert not await store.put_checkpoint("s", Head(GENERATION, 1, 1), made, {"r1": 4})
    assert await store.put_checkpoint("s", None, made, {"r1": 4}, LONG)
    [page] = await store.pull([Want("s", NEXT, 4, 44)], PAGE)
    assert page.head == Head(NEXT, 4, 44)
    assert page.expires_at > LONG
    [pushed] = await store.push([following("s", "r1", 5, 1, generation=NEXT)])
    assert pushed.expires_at == pushed.admitted_at + LONG


async def compaction_does_not_renew(bench: Bench) -> None:
    """A checkpoint of the same life leaves its ttl and its time as they are."""
    store = await bench.open()
    [pushed] = await store.push([replace(run("s", "r1", 1, 4), ttl=LONG)])
    [page] = await store.pull([nothing_of("s")], PAGE)
    assert page.head is not None
    assert await store.put_checkpoint("s", page.head, Checkpoint(GENERATION, 2, 22, b"folded"), {}, 1)
    [page] = await store.pull([Want("s", GENERATION, 4, pushed.digest)], PAGE)
    assert page.expires_at == pushed.expires_at
    [after] = await store.push([following("s", "r1", 5, 1)])
    assert after.expires_at == after.admitted_at + LONG


async def sweep_removes_what_expired(bench: Bench) -> None:
    """Some at a time, and nothing else; that a life expired stays known."""
    store = await bench.open()
    expiring = [replace(run(f"s{number}", "r1", 1, 2), ttl=SOON) for number in range(5)]
    await store.push([*expiring, run("other", "r1", 1, 1), replace(run("long", "r1", 1, 1), ttl=LONG)])
    for number in range(5):
        await _expired(store, f"s{number}")
    for _ in range(20):
        if await store.sweep(2) < 2:
            break
    assert await store.sweep(100) == 0
    assert await store.sessions("", 10) == ["long", "other"]
    [page] = await store.pull([GONE._replace(session_id="s3")], PAGE)
    assert (page.head, page.ended) == (None, "expired")


async def deleted_session_is_missing(bench: Bench) -> None:
    """With its checkpoint, and those who followed it are told; deleting twice is fine, and so is what is not there."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 4), run("other", "r1", 1, 1)])
    [head] = await store.heads(["s"])
    assert await store.put_checkpoint("s", head, Checkpoint(GENERATION, 2, 22, b"folded"), {})
    for _ in range(2):
        await store.delete([Ending("s", GENERATION), Ending("never", None)])
        assert await store.heads(["s", "other"]) == [None, *await store.heads(["other"])]
        assert await store.checkpoint("s") is None
        assert await store.sessions("", 10) == ["other"]
        [page] = await store.pull([GONE], PAGE)
        assert (page.head, page.ended) == (None, "deleted")
        [late] = await store.push([following("s", "r1", 5, 1)])
        assert (late.status, late.ended) == (PushStatus.MISSING, "deleted")


async def life_after_deletion_is_another(bench: Bench) -> None:
    """What is written then is taken, is not what an older deletion names, and who followed the one before is told."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 2)])
    await store.delete([Ending("s", GENERATION)])
    [pushed] = await store.push([run("s", "r1", 1, 1, generation=NEXT)])
    assert (pushed.status, pushed.generation, pushed.head) == (PushStatus.OK, NEXT, 1)
    await store.delete([Ending("s", GENERATION)])
    assert bodies(await whole_log(store, "s")) == changes("r1", 1, 1)
    [late] = await store.push([following("s", "r1", 3, 1)])
    assert (late.status, late.ended) == (PushStatus.GENERATION, "deleted")


async def deletion_without_a_name_takes_what_is_there(bench: Bench) -> None:
    """Of somebody who never followed the session; the life that it ended is remembered."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 2)])
    await store.delete([Ending("s", None)])
    [page] = await store.pull([GONE], PAGE)
    assert (page.head, page.ended) == (None, "deleted")


async def deletion_of_a_lost_or_expired_life_is_remembered(bench: Bench) -> None:
    """Whoever comes late with it is told that it was deleted, also if it was not there any more."""
    store = await bench.open()
    await store.push([replace(run("s", "r1", 1, 1), ttl=SOON)])
    await _expired(store)
    await store.delete([Ending("s", GENERATION), Ending("lost", "generation-9")])
    pages = await store.pull([GONE, Want("lost", "generation-9", 1, 1)], PAGE)
    assert [(page.head, page.ended) for page in pages] == [(None, "deleted")] * 2


async def ended_lives_are_forgotten(bench: Bench) -> None:
    """After the time that is given; then the session is simply missing."""
    store = await bench.open()
    await store.push([run("s", "r1", 1, 1)])
    await store.delete([Ending("s", GENERATION)], SOON)

    async def is_forgotten() -> bool:
        await store.sweep(10)
        [page] = await store.pull([GONE], PAGE)
        return page.ended is None

    await _until(is_forgotten, "the deletion is forgotten")


async def lost_life_is_not_an_expired_one(bench: Bench) -> None:
    """A generation that the store never had is unknown to it, whatever it remembers of others."""
    store = await bench.open()
    await store.push([replace(run("s", "r1", 1, 1), ttl=SOON)])
    await _expired(store)
    pages = await store.pull([Want("s", "generation-7", 1, 1), Want("t", GENERATION, 1, 1)], PAGE)
    assert [(page.head, page.ended) for page in pages] == [(None, None)] * 2


async def namespaces_end_apart(bench: Bench) -> None:
    """A deletion in one is none in another."""
    here, there = await bench.open(), await bench.open("-other")
    for store in (here, there):
        await store.push([run("s", "r1", 1, 1)])
    await here.delete([Ending("s", None)])
    assert await here.heads(["s"]) == [None]
    assert bodies(await whole_log(there, "s")) == changes("r1", 1, 1)
    [page] = await there.pull([GONE._replace(generation="generation-7")], PAGE)
    assert page.ended is None


CASES: tuple[Case, ...] = (
    push_tells_when_it_expires,
    expired_session_is_missing,
    pushes_renew,
    life_after_expiry_is_another,
    expired_session_gives_way_to_a_checkpoint,
    compaction_does_not_renew,
    sweep_removes_what_expired,
    deleted_session_is_missing,
    life_after_deletion_is_another,
    deletion_without_a_name_takes_what_is_there,
    deletion_of_a_lost_or_expired_life_is_remembered,
    ended_lives_are_forgotten,
    lost_life_is_not_an_expired_one,
    namespaces_end_apart,
)
