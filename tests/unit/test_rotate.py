"""What a rotation does with sessions that are not simply there: evicted, refused, given up, waiting."""

from __future__ import annotations

from pathlib import Path

import pytest

from localfirst import volumes
from localfirst.aside import Quarantine
from localfirst.checkpoint import hash_of
from localfirst.codec import Vault
from localfirst.keys import KeyRing
from localfirst.records import VOID, session_key
from localfirst.rotation import Rotation
from localfirst.testing.memory import MemoryServer
from sync.rotate import rotate
from tests.unit.replica import Replica

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
KEY = session_key("default", "s")


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


def device(path: Path, server: MemoryServer, *ring: bytes) -> Replica:
    return Replica(path, server, vault=Vault("default", KeyRing(ring)))


async def rotated(replica: Replica) -> dict[str, str]:
    rotation = Rotation(None)
    await rotate(replica.site, replica.replicator, [KEY], rotation)
    assert rotation.done == {KEY}
    return rotation.left


async def filled(path: Path, server: MemoryServer) -> Replica:
    """A device that has sealed with the old key, and now has both."""
    before = device(path, server, OLD)
    before.add("s", "one")
    before.add("s", "two")
    await before.sync("s")
    before.rows.close()
    return device(path, server, NEW, OLD)


async def test_a_session_that_was_evicted_is_fetched_for_it(tmp_path: Path, server: MemoryServer) -> None:
    a = await filled(tmp_path / "a", server)
    head = a.head("s")
    assert a.log.evict(KEY, head, volumes.newest(a.log, KEY, head))
    assert await rotated(a) == {}
    reader = device(tmp_path / "reader", server, NEW)
    await reader.sync("s")
    assert reader.items("s") == ["one", "two"]


async def test_what_waits_is_told_and_stays_as_it_is(tmp_path: Path, server: MemoryServer) -> None:
    a = await filled(tmp_path / "a", server)
    a.rows.close()
    old = device(tmp_path / "a", server, OLD)
    old.add("s", "waits")
    waiting = old.log.run(KEY, old.head("s").acked, 10)
    old.rows.close()
    a = device(tmp_path / "a", server, NEW, OLD)
    assert "older key: 1 of what waits" in (await rotated(a))["s"]
    assert a.log.run(KEY, a.head("s").acked, 10) == waiting
    await a.sync("s")
    assert await rotated(a) == {}
    assert a.items("s") == ["one", "two", "waits"]


async def test_what_was_given_up_here_is_not_taken_from_all(tmp_path: Path, server: MemoryServer) -> None:
    a = await filled(tmp_path / "a", server)
    a.rows.put(VOID + KEY + hash_of(b"something").encode(), b"")
    assert Quarantine(a.rows).skipped(KEY)
    assert "given up here" in (await rotated(a))["s"]
    reader = device(tmp_path / "reader", server, OLD)
    await reader.sync("s")
    assert reader.items("s") == ["one", "two"]


async def test_what_can_t_be_read_is_told(tmp_path: Path, server: MemoryServer) -> None:
    await filled(tmp_path / "a", server)
    lacking = device(tmp_path / "b", server, NEW)
    await lacking.replicator.know("s")
    assert "sealed with key" in (await rotated(lacking))["s"]


async def test_what_was_folded_to_its_end_is_sealed_anew_too(tmp_path: Path, server: MemoryServer) -> None:
    a = await filled(tmp_path / "a", server)
    assert await rotated(a) == {}
    a.rows.close()
    a = device(tmp_path / "a", server, OLD, NEW)
    assert await rotated(a) == {}, "back again: the checkpoint takes the place of one at the same seq"
    reader = device(tmp_path / "reader", server, OLD)
    await reader.sync("s")
    assert reader.items("s") == ["one", "two"]
