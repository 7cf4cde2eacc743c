"""A central store that contradicts itself: what is told of it, that nothing of it is taken, and that it has an end."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from localfirst import volumes
from localfirst.change import PUT
from localfirst.errors import LocalFirstError, MalformedChange, RemoteRejected
from localfirst.metadata import encode_put
from localfirst.records import session_key
from localfirst.testing.memory import MemoryServer
from sync.central.base import Pulled, Pushed, PushStatus, Run, Want
from sync.round import Round
from sync.site import Limits
from sync.verify import Verifier
from tests.unit.replica import Replica

KEY = session_key("default", "s")
FOLDING = Limits(compact_after=1, compact_bytes=-(1 << 20), keep=1)
"""Whatever was admitted is folded at once, but for the last."""


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def a(tmp_path: Path, server: MemoryServer) -> Replica:
    return Replica(tmp_path / "a", server)


@pytest.fixture
def b(tmp_path: Path, server: MemoryServer) -> Replica:
    return Replica(tmp_path / "b", server)


def pulling(replica: Replica, alter: Callable[[Pulled], Pulled]) -> None:
    """What the central store gives is altered on its way."""
    pull = replica.central.pull

    async def pull_altered(wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        return [alter(pulled) for pulled in await pull(wants, max_bytes)]

    replica.central.pull = pull_altered  # type: ignore[method-assign]


def pushing(replica: Replica, answer: Callable[[Run], Pushed]) -> list[Run]:
    """Pushes are answered, and nothing else is done. Returns what was pushed."""
    runs: list[Run] = []

    async def push(these: Sequence[Run]) -> list[Pushed]:
        runs.extend(these)
        return [answer(run) for run in these]

    replica.central.push = push  # type: ignore[assignment, method-assign]
    return runs


def refusals(outcome: Round) -> dict[str, tuple[type[LocalFirstError], str]]:
    return {direction: (type(refusal.error), str(refusal.error)) for (_, direction), refusal in outcome.refused.items()}


def further(pulled: Pulled) -> Pulled:
    """As if the log had one entry more."""
    assert pulled.head is not None
    return pulled._replace(head=pulled.head._replace(seq=pulled.head.seq + 1))


# What is pulled.


async def test_an_entry_that_is_not_the_next_is_not_taken(a: Replica, b: Replica) -> None:
    a.add("s", "x")
    await a.sync("s")
    pulling(b, lambda pulled: pulled._replace(entries=[entry._replace(seq=2) for entry in pulled.entries]))
    error, text = refusals(await b.sync("s"))["pull"]
    assert (error, "seq 2 where 1 belongs" in text) == (MalformedChange, True)
    assert b.items("s") == []


async def test_a_log_that_ends_before_its_head_is_not_asked_for_ever(a: Replica, b: Replica) -> None:
    a.add("s", "x")
    await a.sync("s")
    pulling(b, further)
    assert refusals(await b.sync("s"))["pull"] == (RemoteRejected, "the central log ends before its head 2")
    assert b.items("s") == ["x"]


async def test_a_log_that_is_read_anew_and_ends_before_its_head_is_not_taken(a: Replica, b: Replica) -> None:
    a.add("s", "x")
    await a.sync("s")
    await b.sync("s")
    a.add("s", "y")
    await a.sync("s")
    before, first = b.head("s"), iter([True])
    pulling(b, lambda pulled: further(pulled)._replace(resync=next(first, False)))
    assert refusals(await b.sync("s"))["pull"] == (RemoteRejected, "the central log ends before its head 3")
    assert b.head("s") == before
    assert not volumes.sweep(b.log)  # What was read of it is gone, too.


async def test_a_log_whose_entries_are_not_those_of_its_digest_is_not_taken(
    a: Replica, b: Replica, server: MemoryServer
) -> None:
    a.add("s", "x")
    await a.sync("s")
    await b.sync("s")
    a.add("s", "y")
    await a.sync("s")
    log = server.namespace("default").sessions["s"].log
    log[1] = log[1]._replace(data=log[1].data.replace(b"y", b"z"))
    error, text = refusals(await b.sync("s"))["pull"]
    assert (error, "disagree" in text) == (RemoteRejected, True)
    assert b.items("s") == ["x"]


# What is pushed.


async def test_a_store_that_lacks_what_its_log_has_is_not_filled_for_ever(a: Replica) -> None:
    a.add("s", "x")
    await a.sync("s")
    runs = pushing(a, lambda run: Pushed(PushStatus.GAP, run.generation, 0, 0, 1, 0, 0))
    a.add("s", "y")
    assert refusals(await a.sync("s")) == dict.fromkeys(
        ("push", "pull"), (RemoteRejected, "the central store lacks changes that its log has")
    )
    assert 1 < len(runs) < 10
    assert a.items("s") == ["x", "y"]
    assert a.pending("s") == 1


async def test_a_store_that_took_a_run_and_knows_of_none_proves_nothing(a: Replica) -> None:
    """Of a session that can't be read, for then its own word is all that there is."""
    a.add("s", "x")
    await a.sync("s", stopped=[(KEY, "pull")])
    assert (a.head("s").acked, a.head("s").sent) == (0, 1)
    runs = pushing(a, lambda run: Pushed(PushStatus.OK, run.generation, 0, 0, 1, 0, 0))
    a.add("s", "y")
    assert (await a.sync("s", stopped=[(KEY, "pull")])).refused == {}
    assert len(runs) == 1
    assert (a.head("s").acked, a.head("s").sent) == (0, 1)


# Checkpoints.


async def overwrite(replica: Replica, *values: int) -> None:
    """Each makes the one before needless."""
    for value in values:
        body = encode_put("k", "last", b"%d" % value)
        replica.write("s", lambda _, body=body: [(PUT, body)])  # type: ignore[misc]
        assert (await replica.sync("s")).refused == {}


async def put_another_checkpoint(replica: Replica, server: MemoryServer) -> int:
    """Have a log folded, and what stands for it replaced by what stood for its beginning. Returns its place."""
    session = server.namespace("default").sessions["s"]
    await overwrite(replica, 1, 2)
    earlier = session.checkpoint
    await overwrite(replica, 3)
    assert earlier
    assert session.checkpoint
    assert earlier.seq < session.checkpoint.seq
    session.checkpoint = session.checkpoint._replace(data=earlier.data)
    return session.checkpoint.seq


async def test_a_checkpoint_of_another_place_is_not_taken(tmp_path: Path, b: Replica, server: MemoryServer) -> None:
    a = Replica(tmp_path / "a", server, FOLDING)
    await overwrite(a, 0)
    place = await put_another_checkpoint(a, server)
    error, text = refusals(await b.sync("s"))["pull"]
    assert (error, f"at {place} is one of" in text) == (MalformedChange, True)
    assert b.head("s").floor == 0
    assert not volumes.sweep(b.log)


async def test_a_checkpoint_that_is_refused_is_folded_here_only(
    tmp_path: Path, server: MemoryServer, caplog: pytest.LogCaptureFixture
) -> None:
    a = Replica(tmp_path / "a", server, FOLDING)

    async def refuse(*_: object) -> bool:
        raise RemoteRejected("it is too large")

    a.central.put_checkpoint = refuse  # type: ignore[assignment, method-assign]
    with caplog.at_level(logging.WARNING, "localfirst.sync"):
        await overwrite(a, 1, 2, 3)
    assert "the central store takes no checkpoint: session 's': it is too large" in caplog.text
    assert a.head("s").floor > 0
    session = server.namespace("default").sessions["s"]
    assert (session.checkpoint, len(session.log)) == (None, 3)


# What is told of it.


async def difference(replica: Replica, *, full: bool = False) -> str:
    """What is wrong with the session."""
    verifier = Verifier(replica.site, replica.replicator.store_id, {}, full=full)
    found = [each async for each in verifier.differences([(KEY, replica.head("s"))])]
    assert [each.session_id for each in found] == ["s"]
    return found[0].problem


async def test_a_log_that_went_back_is_told(a: Replica, server: MemoryServer) -> None:
    a.add("s", "x")
    await a.sync("s")
    assert await difference(a, full=True) == ""
    server.namespace("default").sessions["s"].digest = 5
    told = "the central log and its own digest disagree"
    assert await difference(a) == told


@pytest.mark.parametrize("length", [0, 1])
async def test_a_log_without_its_end_is_told(a: Replica, length: int) -> None:
    for text in ("x", "y"):
        a.add("s", text)
        await a.sync("s")
    pulling(a, lambda pulled: pulled._replace(entries=[entry for entry in pulled.entries if entry.seq <= length]))
    assert await difference(a) == ""
    told = f"the central log can't be read: it ends at {length}, before its head 2"
    assert await difference(a, full=True) == told


async def test_a_checkpoint_of_another_place_is_told(tmp_path: Path, server: MemoryServer) -> None:
    a = Replica(tmp_path / "a", server, FOLDING)
    await overwrite(a, 0)
    place = await put_another_checkpoint(a, server)
    told = f"the central log can't be read: its checkpoint is not one of change {place}"
    assert await difference(a) == ""
    assert await difference(a, full=True) == told
