"""Copies of a directory and what they meet in the central log: nothing is lost, and nothing is there twice."""

from __future__ import annotations

from pathlib import Path
from shutil import copytree

import pytest

from localfirst.change import PUT
from localfirst.checkpoint import MARKED, State, decode_state, encode_state
from localfirst.giving_up import give_up
from localfirst.metadata import encode_put
from localfirst.records import Aside, session_key
from localfirst.testing.memory import MemoryServer, MemoryStore
from localfirst.version import VERSION
from sync.central.base import Run
from sync.site import Limits
from tests.unit.replica import Replica

KEY = session_key("default", "s")
FOLDING = Limits(compact_after=1, compact_bytes=-(1 << 20), keep=1)
"""Whatever was admitted is folded at once, but for the last."""


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


def copied(path: Path, name: str, to: str, server: MemoryServer, limits: Limits | None = None) -> Replica:
    copytree(path / name, path / to)
    return Replica(path / to, server, limits)


async def overwrite(replica: Replica, *values: int) -> None:
    """Each makes the one before needless."""
    for value in values:
        body = encode_put("k", "last", b"%d" % value)
        replica.write("s", lambda _, body=body: [(PUT, body)])  # type: ignore[misc]
        assert (await replica.sync("s")).refused == {}


async def settle(*replicas: Replica) -> None:
    for _ in range(2):
        for replica in replicas:
            assert (await replica.sync("s")).refused == {}


async def test_two_copies_that_send_what_waited_at_once_send_it_once(tmp_path: Path, server: MemoryServer) -> None:
    """Both give it the same new name, and one of them learns of that only with the first that the other sent."""
    single = Limits(run_changes=1)
    first = Replica(tmp_path / "first", server, single)
    first.add("s", "common")
    await first.sync("s")
    second = copied(tmp_path, "first", "second", server, single)
    first.add("s", "under the number of what waits in the others")
    await first.sync("s")
    for text in ("waits", "waits too"):
        second.add("s", text)
    third = copied(tmp_path, "second", "third", server, single)
    log = server.namespace("default").sessions["s"].log
    await second.replicator.round([KEY], [])  # It meets what it has to rename.
    for length in (3, 4):
        await second.replicator.round([KEY], [])
        assert len(log) == length
        await third.replicator.round([], [KEY])
    await settle(third, second, first)
    expected = ["common", "under the number of what waits in the others", "waits", "waits too"]
    assert first.items("s") == second.items("s") == third.items("s") == expected
    assert len(log) == 4


async def test_what_waited_and_was_folded_long_ago_is_not_sent_again(tmp_path: Path, server: MemoryServer) -> None:
    """The checkpoint tells only of the last changes what they were: that it is shown is the proof."""
    late = Replica(tmp_path / "late", server)
    late.add("s", "waits")
    twin = copied(tmp_path, "late", "twin", server, FOLDING)
    await overwrite(twin, *range(MARKED + 5))
    await settle(late)
    late.add("s", "later")
    await settle(late, twin)
    assert late.items("s") == twin.items("s") == ["waits", "later"]


async def test_a_checkpoint_that_does_not_tell_what_is_in_it_proves_what_it_shows(
    tmp_path: Path, server: MemoryServer
) -> None:
    late, other = Replica(tmp_path / "late", server), Replica(tmp_path / "other", server, FOLDING)
    late.add("s", "waits")
    await copied(tmp_path, "late", "twin", server).sync("s")
    await overwrite(other, 1, 2, 3)
    session = server.namespace("default").sessions["s"]
    assert session.checkpoint
    without_marks = State(decode_state(session.checkpoint.data).fold)
    session.checkpoint = session.checkpoint._replace(data=encode_state(without_marks))
    await settle(late)
    assert late.items("s") == ["waits"]
    assert late.pending("s") == 0


async def test_what_a_copy_sent_to_a_store_that_lost_what_was_folded_is_kept_beside_it(
    tmp_path: Path, server: MemoryServer
) -> None:
    a, b = Replica(tmp_path / "a", server, FOLDING), Replica(tmp_path / "b", server, FOLDING)
    await overwrite(a, 1, 2)
    twin = copied(tmp_path, "a", "twin", server)
    b.add("s", "of another device")
    await overwrite(b, 3, 4)
    await a.sync("s")
    a.add("s", "of the directory")
    await a.sync("s")
    assert a.head("s").seq > a.head("s").floor > 2
    server.wipe()
    twin.add("s", "of its copy")
    await settle(twin)
    await settle(a, twin)
    assert sorted(a.items("s")) == ["of another device", "of its copy", "of the directory"]
    assert a.items("s") == twin.items("s")


async def test_what_was_given_up_does_not_keep_two_sides_apart(tmp_path: Path, server: MemoryServer) -> None:
    """A log that lost what is folded here begins with what nobody can read."""
    a = Replica(tmp_path / "a", server, FOLDING)
    a.add("s", "folded")
    await overwrite(a, 1, 2, 3)
    assert a.head("s").floor > 1
    server.wipe()
    await MemoryStore(server).push([Run("s", "anew", True, "stranger", 1, [b"\xc1"])])
    outcome = await a.sync("s")
    refusal = outcome.refused[KEY, "pull"]
    a.quarantine.put(KEY, Aside("default", "s", "pull", "", 0.0, VERSION, refusal.place, mark=refusal.mark))
    assert give_up(a.log, a.identity, a.quarantine, KEY)
    b = Replica(tmp_path / "b", server)
    await settle(a, b)
    assert a.items("s") == b.items("s") == ["folded"]
