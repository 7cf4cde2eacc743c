"""One round, against an in-memory central store: what it does with everything it may find."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from shutil import copytree
from typing import Any

import msgspec
import pytest

from localfirst import volumes
from localfirst.change import APPEND, MAIN_BRANCH, Change, decode_change, encode_change
from localfirst.errors import MalformedChange, RemoteRejected, RemoteUnavailable
from localfirst.records import Aside, Direction, OwnRange, Page, SessionKey, session_key
from localfirst.testing.memory import MemoryServer, MemoryStore
from localfirst.version import VERSION
from sync.central.base import Head as RemoteHead
from sync.central.base import Pulled, Pushed, PushStatus, Run, Want
from sync.round import Round
from sync.site import Limits
from tests.unit.replica import Replica

RUN_CHANGES = Limits().run_changes


@pytest.fixture
def server() -> MemoryServer:
    return MemoryServer()


@pytest.fixture
def a(tmp_path: Path, server: MemoryServer) -> Replica:
    return Replica(tmp_path / "a", server)


@pytest.fixture
def b(tmp_path: Path, server: MemoryServer) -> Replica:
    return Replica(tmp_path / "b", server)


def log_of(server: MemoryServer, name: str) -> list[Any]:
    return server.namespace("default").sessions[name].log


async def test_a_replica_that_writes_alone_never_pulls(a: Replica, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(a.central, "pull", None)
    for number in range(3):
        key = a.add("s", number)
        assert await a.replicator.round([key], []) == Round()
    assert a.head("s").acked == a.head("s").seq == 3
    assert a.items("s") == [0, 1, 2]


async def test_a_long_run_goes_in_bounded_pieces(a: Replica, server: MemoryServer) -> None:
    for number in range(RUN_CHANGES + 5):
        key = a.add("s", number)
    outcome = await a.replicator.round([key], [])
    assert outcome.push == {key}
    assert len(log_of(server, "s")) == RUN_CHANGES
    await a.sync("s")
    assert len(log_of(server, "s")) == RUN_CHANGES + 5


async def test_interleaved_runs_end_alike(a: Replica, b: Replica) -> None:
    for number in range(3):
        a.add("s", f"a{number}")
        b.add("s", f"b{number}")
        await a.sync("s")
        await b.sync("s")
    await a.sync("s")
    assert a.items("s") == b.items("s") == ["a0", "b0", "a1", "b1", "a2", "b2"]
    assert (a.head("s").seq, a.head("s").digest) == (b.head("s").seq, b.head("s").digest)


class Crash(BaseException):
    """The process ends here."""


async def test_a_crash_between_push_and_settling_repeats_and_changes_nothing(
    a: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = a.add("s", "once")
    with monkeypatch.context() as patched:

        def crash(*_: Any) -> bool:
            raise Crash

        patched.setattr(a.log, "settle", crash)
        with pytest.raises(Crash):
            await a.replicator.round([key], [])
    assert len(log_of(server, "s")) == 1
    assert a.head("s").acked == 0
    await a.sync("s")
    assert len(log_of(server, "s")) == 1
    assert a.items("s") == ["once"]
    assert a.head("s").acked == 1


async def test_a_lost_answer_is_asked_for_again(
    a: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = a.add("s", "once")
    push = a.central.push

    async def push_and_lose_the_answer(runs: Sequence[Run]) -> list[Pushed]:
        await push(runs)
        raise RemoteUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(a.central, "push", push_and_lose_the_answer)
        with pytest.raises(RemoteUnavailable):
            await a.replicator.round([key], [])
    a.add("s", "later")
    await a.sync("s")
    assert a.items("s") == ["once", "later"]
    assert len(log_of(server, "s")) == 2


async def test_a_cursor_that_another_process_moved_is_not_moved_again(
    a: Replica, server: MemoryServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = a.add("s", "x")
    twin, settle = Replica(tmp_path / "a", server), a.log.settle

    def settle_late(*arguments: Any) -> Any:
        monkeypatch.undo()
        session = server.namespace("default").sessions["s"]
        after = msgspec.structs.replace(
            a.head("s"), generation=session.generation, seq=1, digest=session.digest, acked=1
        )
        page = Page([OwnRange(1, session.log[0].admitted_at, 1, 1)], [])
        assert twin.log.settle(key, a.head("s"), after, [page])
        return settle(*arguments)

    monkeypatch.setattr(a.log, "settle", settle_late)
    outcome = await a.replicator.round([key], [])
    assert outcome.pull == {key}
    await a.sync("s")
    assert a.items("s") == ["x"]
    assert a.settled == []


async def test_poison_in_one_session_stops_no_other(a: Replica, b: Replica, server: MemoryServer) -> None:
    """Invariant 9."""
    a.add("bad", "good so far")
    a.add("fine", "x")
    await a.sync("bad", "fine")
    poison = encode_change(Change("evil", 1, 0, 0, MAIN_BRANCH, APPEND, b"{not json"))
    await MemoryStore(server).push([Run("bad", "", True, "evil", 1, [poison])])
    a.add("bad", "still pushed")
    outcome = await a.sync("bad", "fine")
    assert list(outcome.refused) == [(session_key("default", "bad"), "pull")]
    refusal = outcome.refused[session_key("default", "bad"), "pull"]
    assert isinstance(refusal.error, MalformedChange)
    assert refusal.place == 2
    assert a.items("bad") == ["good so far", "still pushed"]
    assert len(log_of(server, "bad")) == 3
    outcome = await b.sync("bad", "fine")
    assert b.items("fine") == ["x"]
    assert b.items("bad") == ["good so far"]


async def poison(server: MemoryServer, name: str) -> tuple[SessionKey, Direction]:
    """Put what nobody can read into a session. Returns what that stops."""
    await MemoryStore(server).push([Run(name, "", True, "evil", 1, [b"\xc1"])])
    return session_key("default", name), "pull"


@pytest.mark.parametrize("later", [[], ["in one run with it"]])
async def test_a_lost_answer_stops_no_push_of_a_session_that_can_not_be_read(
    a: Replica, b: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch, later: list[str]
) -> None:
    """Invariant 9: that what is there is ours can be seen without taking what is before it."""
    a.add("s", "known")
    await a.sync("s")
    stopped = await poison(server, "s")
    assert list((await a.sync("s")).refused) == [stopped]
    push = a.central.push

    async def push_and_lose_the_answer(runs: Sequence[Run]) -> list[Pushed]:
        await push(runs)
        raise RemoteUnavailable

    key = a.add("s", "once")
    with monkeypatch.context() as patched:
        patched.setattr(a.central, "push", push_and_lose_the_answer)
        with pytest.raises(RemoteUnavailable):
            await a.replicator.round([key], [], [key])
    b.add("s", "from another")
    await b.sync("s")
    for text in later:
        a.add("s", text)
    assert (await a.sync("s", stopped=[stopped])).refused == {}
    assert (a.head("s").acked, a.head("s").sent) == (1, 2 + len(later))
    assert len(log_of(server, "s")) == 4 + len(later)


@pytest.mark.parametrize("behind", [0, 1, 2])
async def test_nothing_is_pushed_behind_what_a_twin_sent_before_it_can_be_read(
    a: Replica, b: Replica, server: MemoryServer, tmp_path: Path, behind: int
) -> None:
    """The rest of a turn would go alone, and what the twin sent under our numbers be taken for its beginning."""
    a.add("s", "known")
    await a.sync("s")
    a.add("s", "call", turn=5)
    copytree(tmp_path / "a", tmp_path / "copy")
    copy = Replica(tmp_path / "copy", server)
    copy.write("s", lambda _: [("end", b"{}")], turn=5)
    copy.add("s", "from the copy")
    await copy.sync("s")
    stopped = await poison(server, "s")
    key, _ = stopped
    length = len(log_of(server, "s"))
    for number in range(1 + behind):
        a.add("s", number, turn=5)
    a.write("s", lambda _: [("end", b"{}")], turn=5)
    outcome = await a.sync("s", stopped=[stopped])
    assert (outcome.refused[key, "push"].place, outcome.refused[key, "push"].changes) == (0, 0)
    assert isinstance(outcome.refused[stopped].error, MalformedChange)
    assert (len(log_of(server, "s")), a.head("s").sent) == (length, 0)
    mark = outcome.refused[stopped].mark
    for replica in (a, b):
        replica.quarantine.skip(key, Aside("default", "s", "pull", "it is bad", 1.5, VERSION, mark=mark))
        assert (await replica.sync("s")).refused == {}
    assert a.items("s") == b.items("s") == ["known", "call", "from the copy", *range(1 + behind)]


@pytest.mark.parametrize("data", [b"", b"\xff" * 20, encode_change(Change("r", 0, 0, 0, "main", "append", b"[]"))])
async def test_bytes_that_are_no_change_are_refused(a: Replica, server: MemoryServer, data: bytes) -> None:
    await MemoryStore(server).push([Run("s", "g", True, "evil", 1, [data])])
    outcome = await a.sync("s")
    assert [type(refusal.error) for refusal in outcome.refused.values()] == [MalformedChange]


async def test_a_session_that_the_store_refuses_stops_no_other(
    a: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 9: a batch is taken apart, not dropped."""
    for name in ("one", "bad", "two"):
        a.add(name, name)
    push = a.central.push

    async def refuse(runs: Sequence[Run]) -> list[Pushed]:
        if any(run.session_id == "bad" for run in runs):
            raise RemoteRejected("no")
        return await push(runs)

    monkeypatch.setattr(a.central, "push", refuse)
    outcome = await a.sync("one", "bad", "two")
    assert list(outcome.refused) == [(session_key("default", "bad"), "push")]
    assert a.head("one").acked == a.head("two").acked == 1
    assert a.items("bad") == ["bad"]


async def both_sides(a: Replica, b: Replica) -> None:
    for number in range(3):
        a.add("s", f"a{number}")
        await a.sync("s")
        b.add("s", f"b{number}")
        await b.sync("s")
    await a.sync("s")


ALL = ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_a_store_that_lost_everything_gets_it_again_in_order(
    a: Replica, b: Replica, server: MemoryServer
) -> None:
    await both_sides(a, b)
    server.wipe()
    a.add("s", "after")
    await a.sync("s")
    assert a.items("s") == [*ALL, "after"]
    await b.sync("s")
    assert b.items("s") == [*ALL, "after"]
    assert len(log_of(server, "s")) == 7


async def test_what_only_a_replica_that_is_gone_wrote_is_sent_again_too(
    a: Replica, b: Replica, server: MemoryServer
) -> None:
    await both_sides(a, b)
    server.wipe()
    await a.sync("s")
    assert [entry.seq for entry in log_of(server, "s")] == [1, 2, 3, 4, 5, 6]
    assert a.items("s") == ALL


async def test_two_replicas_that_reseed_at_once_end_with_one_complete_log(
    a: Replica, b: Replica, server: MemoryServer
) -> None:
    await both_sides(a, b)
    server.wipe()
    a.add("s", "from a")
    b.add("s", "from b")
    await asyncio.gather(a.sync("s"), b.sync("s"))
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s")
    assert sorted(a.items("s")) == sorted([*ALL, "from a", "from b"])
    assert len(log_of(server, "s")) == 8


async def restore(server: MemoryServer, name: str, length: int) -> None:
    """The log as a backup had it; the generation is the same."""
    session = server.namespace("default").sessions[name]
    entries, generation = session.log[:length], session.generation
    del server.namespace("default").sessions[name]
    store = MemoryStore(server)
    for entry in entries:
        change = decode_change(entry.data)
        await store.push([Run(name, generation, True, change.origin, change.counter, [entry.data])])


async def test_a_store_restored_from_a_backup_gets_what_it_lacks(a: Replica, b: Replica, server: MemoryServer) -> None:
    await both_sides(a, b)
    await restore(server, "s", 2)
    await a.sync("s")
    await b.sync("s")
    assert a.items("s") == b.items("s") == ALL
    assert len(log_of(server, "s")) == 6


async def test_a_restored_store_that_has_grown_again_is_found_by_its_digest(
    a: Replica, b: Replica, server: MemoryServer, tmp_path: Path
) -> None:
    await both_sides(a, b)
    await restore(server, "s", 2)
    c = Replica(tmp_path / "c", server)
    for number in range(4):
        c.add("s", f"c{number}")
    await c.sync("s")
    assert len(log_of(server, "s")) == 6  # As long as before: only the digest tells.
    for replica in (a, b, c):
        await replica.sync("s")
    assert a.items("s") == b.items("s") == c.items("s")
    assert sorted(a.items("s")) == sorted([*ALL, "c0", "c1", "c2", "c3"])


def times_of(replica: Replica, name: str) -> list[int]:
    """When each entry of the central log was admitted, as it is known to a replica."""
    key, head = session_key("default", name), replica.head(name)
    pages = volumes.pages(replica.log, key, head.volume)
    return [entry.admitted_at for page in pages for entry in volumes.entries(replica.log, key, page)]


async def test_what_was_lost_and_sent_again_by_another_has_one_time_of_admission_everywhere(tmp_path: Path) -> None:
    """The same bytes in the same order: only when they were admitted is different."""
    clock = iter(range(1_000, 100_000, 1_000))
    server = MemoryServer(lambda: next(clock))
    author, other = Replica(tmp_path / "author", server), Replica(tmp_path / "other", server)
    author.add("s", "stays")
    await author.sync("s")
    sessions = server.namespace("default").sessions
    backup = deepcopy(sessions["s"])
    author.add("s", "lost")
    await author.sync("s")
    await other.sync("s")
    before = times_of(author, "s")
    assert times_of(other, "s") == before

    sessions["s"] = backup
    await other.sync("s")
    await author.sync("s")
    assert author.items("s") == other.items("s") == ["stays", "lost"]
    assert times_of(author, "s") == times_of(other, "s") == [entry.admitted_at for entry in log_of(server, "s")]
    assert times_of(author, "s") != before


async def test_a_crash_while_reseeding_loses_nothing(
    a: Replica, b: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    await both_sides(a, b)
    server.wipe()
    with monkeypatch.context() as patched:

        def crash(*_: Any) -> bool:
            raise Crash

        patched.setattr(a.log, "settle", crash)
        with pytest.raises(Crash):
            await a.sync("s")
    server.wipe()
    await a.sync("s")
    assert a.items("s") == ALL
    assert len(log_of(server, "s")) == 6


async def test_a_copied_directory_gets_a_name_of_its_own_and_both_go_on(
    a: Replica, server: MemoryServer, tmp_path: Path
) -> None:
    a.add("s", "common")
    await a.sync("s")
    a.add("s", "pending in both")
    copytree(tmp_path / "a", tmp_path / "copy")
    copy = Replica(tmp_path / "copy", server)
    for text in ("one", "two"):
        a.add("s", text)
    copy.add("s", "from the copy")
    await a.sync("s")
    assert (await copy.sync("s")).refused == {}
    await a.sync("s")
    assert a.items("s") == copy.items("s") == ["common", "pending in both", "one", "two", "from the copy"]
    assert a.origin != copy.origin


async def test_a_directory_restored_from_a_backup_loses_nothing_and_shadows_nothing(
    a: Replica, server: MemoryServer, tmp_path: Path
) -> None:
    a.add("s", "common")
    await a.sync("s")
    copytree(tmp_path / "a", tmp_path / "backup")
    for text in ("one", "two"):
        a.add("s", text)
    await a.sync("s")
    restored = Replica(tmp_path / "backup", server)
    assert (await restored.sync("s")).refused == {}
    assert restored.items("s") == ["common", "one", "two"]
    restored.add("s", "new")
    await restored.sync("s")
    await a.sync("s")
    assert a.items("s") == restored.items("s") == ["common", "one", "two", "new"]


async def test_moved_tells_which_sessions_are_not_where_the_store_is(a: Replica, b: Replica) -> None:
    keys = {name: a.add(name, name) for name in ("one", "two", "three")}
    await a.sync("one", "two")
    b.add("two", "b")
    await b.sync("two", "three")
    b.add("three", "b")
    await b.sync("three")
    heads = [(keys[name], a.head(name)) for name in keys]
    assert await a.replicator.moved(heads) == {keys["two"], keys["three"]}


async def test_discover_makes_unknown_sessions_known(a: Replica, b: Replica) -> None:
    for number in range(5):
        a.add(f"s{number}", "x")
    await a.sync(*(f"s{number}" for number in range(5)))
    b.add("s1", "y")
    found = await b.replicator.discover()
    assert set(found) == {session_key("default", f"s{number}") for number in (0, 2, 3, 4)}
    assert await b.replicator.discover() == []


async def test_a_gap_makes_the_replica_send_what_is_missing(a: Replica, server: MemoryServer) -> None:
    for number in range(3):
        a.add("s", number)
    await a.sync("s")
    session = server.namespace("default").sessions["s"]
    del session.log[1:]
    session.acked[a.origin] = 1
    session.digest = session.digests[0]
    a.add("s", 3)
    outcome = await a.central.push([Run("s", session.generation, False, a.origin, 4, [b"x"])])
    assert outcome[0].status is PushStatus.GAP
    await a.sync("s")
    assert a.items("s") == [0, 1, 2, 3]
    assert len(log_of(server, "s")) == 4


async def test_a_log_that_disagrees_with_its_own_digest_is_not_read_for_ever(a: Replica, server: MemoryServer) -> None:
    a.add("s", "x")
    await a.sync("s")
    server.namespace("default").sessions["s"].digest = 5
    outcome = await a.sync("s")
    assert [type(refusal.error) for refusal in outcome.refused.values()] == [RemoteRejected]
    assert a.items("s") == ["x"]


async def test_a_session_that_cannot_be_read_stops_no_other(
    a: Replica, b: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Invariant 9, for heads and pulls: a batch is taken apart."""
    for name in ("one", "bad", "two"):
        a.add(name, name)
    await a.sync("one", "bad", "two")
    pull, heads = b.central.pull, b.central.heads

    async def refuse_pull(wants: Sequence[Want], max_bytes: int) -> list[Pulled]:
        if any(want.session_id == "bad" for want in wants):
            raise RemoteRejected("no")
        return await pull(wants, max_bytes)

    async def refuse_heads(session_ids: Sequence[str]) -> list[RemoteHead | None]:
        if "bad" in session_ids:
            raise RemoteRejected("no")
        return await heads(session_ids)

    monkeypatch.setattr(b.central, "pull", refuse_pull)
    monkeypatch.setattr(b.central, "heads", refuse_heads)
    await b.replicator.discover()
    known = [(session_key("default", name), b.head(name)) for name in ("one", "bad", "two")]
    assert len(await b.replicator.moved(known)) == 3
    outcome = await b.sync("one", "bad", "two")
    assert list(outcome.refused) == [(session_key("default", "bad"), "pull")]
    assert b.items("one") == ["one"]
    assert b.items("two") == ["two"]


async def test_one_head_that_cannot_be_read_is_found_in_a_few_round_trips(
    a: Replica, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(64):
        a.add(f"s{number}", number)
    await a.sync(*(f"s{number}" for number in range(64)))
    asked, heads = 0, a.central.heads

    async def refuse_heads(session_ids: Sequence[str]) -> list[RemoteHead | None]:
        nonlocal asked
        asked += 1
        if "s37" in session_ids:
            raise RemoteRejected("no")
        return await heads(session_ids)

    monkeypatch.setattr(a.central, "heads", refuse_heads)
    known, _ = a.log.heads("default")
    assert await a.replicator.moved(known) == {session_key("default", "s37")}
    assert asked == 1 + 2 * 6


async def test_a_store_that_loses_its_log_again_while_it_is_filled_is_filled_again(
    a: Replica, server: MemoryServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(RUN_CHANGES + 10):
        a.add("s", number)
    await a.sync("s")
    server.wipe()
    push = a.central.push
    pushes = 0

    async def lose_once(runs: Sequence[Run]) -> list[Pushed]:
        nonlocal pushes
        pushes += 1
        if pushes == 2:
            server.wipe()
        return await push(runs)

    monkeypatch.setattr(a.central, "push", lose_once)
    await a.sync("s")
    assert len(log_of(server, "s")) == RUN_CHANGES + 10
    assert a.items("s") == list(range(RUN_CHANGES + 10))


async def test_a_store_that_claims_what_it_does_not_show_is_not_asked_for_ever(
    a: Replica, server: MemoryServer
) -> None:
    a.add("s", "x")
    await a.sync("s")
    session = server.namespace("default").sessions["s"]
    session.log.clear()
    session.digest = 0
    for _ in range(5):  # It may have lost its log once more meanwhile.
        with pytest.raises(RemoteUnavailable):
            await a.sync("s")
    outcome = await a.sync("s")
    assert [type(refusal.error) for refusal in outcome.refused.values()] == [RemoteRejected]
    assert a.items("s") == ["x"]


async def test_a_log_of_the_right_length_and_another_content_is_not_taken_for_ours(
    a: Replica, b: Replica, server: MemoryServer
) -> None:
    """Only the digest tells, also when a push seems to have been admitted right behind the cursor."""
    a.add("s", "a0")
    await a.sync("s")
    session = server.namespace("default").sessions["s"]
    generation = session.generation
    del server.namespace("default").sessions["s"]
    b.add("s", "b0")
    await b.sync("s")
    server.namespace("default").sessions["s"].generation = generation
    server.namespace("default").sessions["s"].acked[a.origin] = 1
    a.add("s", "a1")
    await a.sync("s")
    await b.sync("s")
    assert "b0" in a.items("s")


async def test_an_impossible_time_of_admission_is_refused(a: Replica, server: MemoryServer) -> None:
    a.add("s", "x")
    await a.sync("s")
    change = encode_change(Change("evil", 1, (1 << 63) - 1, 0, MAIN_BRANCH, APPEND, b'["y"]'))
    await MemoryStore(server).push([Run("s", "", True, "evil", 1, [change])])
    log = log_of(server, "s")
    log[1] = log[1]._replace(admitted_at=1 << 60)
    outcome = await a.sync("s")
    assert [type(refusal.error) for refusal in outcome.refused.values()] == [MalformedChange]
    a.add("s", "z")
    assert a.items("s") == ["x", "z"]


@pytest.mark.parametrize("now", [1 << 45, 1 << 80, -1])
async def test_an_impossible_time_in_an_answer_is_not_recorded(tmp_path: Path, now: int) -> None:
    a = Replica(tmp_path / "a", MemoryServer(lambda: now))
    a.add("s", "x")
    outcome = await a.sync("s")
    assert {type(refusal.error) for refusal in outcome.refused.values()} == {MalformedChange}
    assert a.items("s") == ["x"]
    assert a.pending("s") == 1
