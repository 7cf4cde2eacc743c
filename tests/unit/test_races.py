"""Others who are faster, in the very moment: whoever comes too late looks again, and has lost nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from localfirst import volumes
from localfirst.change import PUT, decode_change
from localfirst.errors import RemoteUnavailable, StoreBusy
from localfirst.metadata import encode_put
from localfirst.records import CHANGE, Rename, number, session_key
from localfirst.testing.memory import MemoryServer
from sync.central.base import Checkpoint
from sync.retry import patiently
from sync.site import Limits
from tests.unit.replica import Replica

KEY = session_key("default", "s")


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def a(tmp_path: Path, server: MemoryServer) -> Replica:
    return Replica(tmp_path / "a", server)


# Other processes on the directory.


async def test_what_another_process_renames_while_it_is_read_goes_under_its_new_name(
    tmp_path: Path, a: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    a.add("s", "x")
    other, run = Replica(tmp_path / "a", server), a.log.run

    def run_late(*arguments: Any) -> list[bytes]:
        monkeypatch.undo()
        assert other.log.settle(KEY, a.head("s"), a.head("s"), rename=Rename(1, "renamed", 1))
        return run(*arguments)

    monkeypatch.setattr(a.log, "run", run_late)
    assert (await a.sync("s")).refused == {}
    [entry] = server.namespace("default").sessions["s"].log
    change = decode_change(entry.data)
    assert (change.origin, change.counter) == ("renamed", 1)
    assert a.items("s") == ["x"]
    assert a.pending("s") == 0


async def test_a_change_whose_content_is_gone_is_given_up_and_stops_nothing(a: Replica) -> None:
    """Invariant 9. It looks as if another process were renaming it, but nobody does."""
    for name in ("s", "fine"):
        a.add(name, "x")
    a.rows.put(CHANGE + KEY + number(1), b"")
    outcome = await a.sync("s", "fine")
    assert outcome.refused == {}
    assert a.pending("s") == a.pending("fine") == 0
    a.add("s", "y")
    await a.sync("s")
    assert a.items("s") == ["y"]
    assert a.pending("s") == 0


async def test_a_lock_that_is_never_free_is_not_waited_for_for_ever() -> None:
    tries = 0

    def fail() -> None:
        nonlocal tries
        tries += 1
        raise StoreBusy("it is locked")

    with pytest.raises(StoreBusy):
        await patiently(fail, patience=0.05)
    assert tries > 1


# Other replicas.


async def test_a_log_that_is_filled_step_by_step_is_left_for_the_next_round(
    tmp_path: Path, server: MemoryServer
) -> None:
    a = Replica(tmp_path / "a", server, Limits(tries=1))
    a.add("s", "x")
    await a.sync("s")
    server.wipe()
    before = a.head("s")
    with pytest.raises(RemoteUnavailable, match="changes faster than it can be filled"):
        await a.sync("s")  # It was sent, and whether it is there is not known yet.
    assert a.head("s") == before
    assert volumes.sweep(a.log)  # What was copied of it.
    assert not volumes.sweep(a.log)
    assert (await a.sync("s")).refused == {}
    assert a.head("s").generation != before.generation
    assert a.items("s") == ["x"]


async def test_a_log_that_is_made_anew_while_its_checkpoint_is_fetched_is_read_again(
    tmp_path: Path, a: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folding = Replica(tmp_path / "b", server, Limits(compact_after=1, compact_bytes=-(1 << 20), keep=1))
    for value in (b"1", b"2", b"3"):
        body = encode_put("k", "last", value)
        folding.write("s", lambda _, body=body: [(PUT, body)])  # type: ignore[misc]
        await folding.sync("s")
    fetch = a.central.checkpoint

    async def fetch_late(session_id: str) -> Checkpoint | None:
        monkeypatch.undo()
        server.wipe()
        folding.add("s", "later")
        await folding.sync("s")
        return await fetch(session_id)

    monkeypatch.setattr(a.central, "checkpoint", fetch_late)
    assert (await a.sync("s")).refused == {}
    assert a.items("s") == folding.items("s") == ["later"]
