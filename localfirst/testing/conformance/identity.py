"""Which store it is."""

from __future__ import annotations

import asyncio

from localfirst.testing.conformance.harness import Bench, Case, run
from sync.central.base import FORMAT_VERSION


async def identity_is_stable(bench: Bench) -> None:
    """A store is the same store for everyone, before and after it is used."""
    store = await bench.open()
    before = await store.identify()
    await store.push([run("s", "r1", 1, 1)])
    after = await (await bench.open()).identify()
    assert before.store_id
    assert after.store_id == before.store_id
    assert before.format == after.format == FORMAT_VERSION
    assert 0 < before.now <= after.now + 1_000, "the store's clock is in Unix milliseconds"


async def eight_identify_at_once(bench: Bench) -> None:
    """Whoever comes first makes the store, and all find that one."""
    found = await asyncio.gather(*(bench.open() for _ in range(8)))
    identities = await asyncio.gather(*(store.identify() for store in found))
    assert len({each.store_id for each in identities}) == 1


async def closing_twice_is_fine(bench: Bench) -> None:
    """`close` may be called again."""
    store = await bench.open()
    await store.close()
    await store.close()


CASES: tuple[Case, ...] = (identity_is_stable, eight_identify_at_once, closing_twice_is_fine)
