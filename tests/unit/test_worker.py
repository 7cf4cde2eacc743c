"""When the worker does what, against an in-memory central store that fails on command."""

from __future__ import annotations

import asyncio
import random
import statistics
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from localfirst import outbox
from localfirst.aside import Quarantine
from localfirst.errors import (
    ConfigurationError,
    LocalFirstError,
    RemoteRejected,
    RemoteUnavailable,
    RemoteVersionError,
    StoreUnwritable,
)
from localfirst.records import session_key
from sync import retry, worker
from sync.central.base import Head as RemoteHead
from sync.central.postgres import hints as postgres_hints
from sync.central.redis import hints as redis_hints
from sync.retry import for_ever
from sync.status import published
from sync.worker import Options
from tests.unit.bench import Bench, Central, eventually, quiet
from tests.unit.stage import stop_time


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr(retry, "LONGEST_WAIT", 0.05)
    monkeypatch.setattr(worker, "LONGEST_WAIT", 0.05)
    return Bench(tmp_path)


async def test_it_connects_and_is_online(bench: Bench) -> None:
    async with bench.running() as made:
        assert made.status.state == "connecting"
        await eventually(lambda: made.status.state == "online")
        assert made.leads
        assert made.status.clock_offset is not None
        assert made.status.last_synced_at is not None
        told = published(bench.path, "default")
        assert told is not None
        assert told.state == "online"
    assert not made.leads


async def test_what_was_pending_at_the_start_goes_up(bench: Bench) -> None:
    bench.add("s", "before")
    async with bench.running():
        await eventually(lambda: bench.acked("s") == 1)


async def test_a_change_of_any_process_is_found_without_a_word(bench: Bench) -> None:
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "online")
        other = Bench(bench.path)
        await asyncio.to_thread(other.add, "s", "x")  # Another connection, and no wake().
        await eventually(lambda: bench.acked("s") == 1)


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (RemoteUnavailable("gone"), "offline"),
        (ConfigurationError("wrong password"), "blocked"),
        (RemoteVersionError("newer"), "blocked"),
        (ZeroDivisionError("a bug"), "blocked"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
)
async def test_every_error_shows_and_heals_without_a_restart(bench: Bench, error: Exception, state: str) -> None:
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "online")
        bench.central.error = error
        bench.add("s", "x")
        made.wake()
        await eventually(lambda: made.status.state == state)
        assert str(error) in (made.status.last_error or "")
        assert bench.acked("s") == 0
        bench.central.error = None
        await eventually(lambda: made.status.state == "online")
        await eventually(lambda: bench.acked("s") == 1)
        assert made.status.last_error is None


async def test_a_session_that_is_refused_is_put_aside_and_the_others_go_on(bench: Bench) -> None:
    """Invariant 9."""
    bench.central.error = RemoteRejected("odd")
    bench.central.failing = frozenset({"push"})
    bench.add("bad", "x")
    async with bench.running() as made:
        await eventually(lambda: made._asides.stopped)
        bench.central.error = None
        bench.add("good", "x")
        made.wake()
        await eventually(lambda: bench.acked("good") == 1)
        assert made.status.quarantined == 1
        assert made.status.state == "online"
        with pytest.raises(RemoteRejected, match="odd"):
            await made.flush()
    async with bench.running() as made:  # It stays so until somebody says otherwise.
        await eventually(lambda: made.status.state == "online")
        assert bench.acked("bad") == 0
        assert Quarantine(bench.log.rows).retry(session_key("default", "bad"))
        await eventually(lambda: bench.acked("bad") == 1)


async def test_polls_find_what_no_hint_told(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_hints() -> AsyncIterator[None]:
        return
        yield

    monkeypatch.setattr(bench.central, "watch", no_hints, raising=False)
    other = Bench(tmp_path / "other")
    other.central = Central(bench.central.server)
    bench.add("s", "mine")
    async with bench.running():
        await eventually(lambda: bench.acked("s") == 1)
        other.add("s", "theirs")
        await other.make().flush()
        await eventually(lambda: bench.log.head(session_key("default", "s")).seq == 2)  # type: ignore[union-attr]


async def test_hints_spare_the_wait_for_a_poll(bench: Bench, tmp_path: Path) -> None:
    bench.options = Options(poll_interval=3600, sync_interval=0.0)
    other = Bench(tmp_path / "other")
    other.central = Central(bench.central.server)
    bench.add("s", "mine")
    async with bench.running():
        await eventually(lambda: bench.acked("s") == 1)
        other.add("s", "theirs")
        await other.make().flush()
        await eventually(lambda: bench.log.head(session_key("default", "s")).seq == 2)  # type: ignore[union-attr]


async def test_hints_of_its_own_pushes_cost_nothing(bench: Bench) -> None:
    bench.options = Options(poll_interval=3600, sync_interval=0.0)
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "online")
        for number in range(5):
            bench.add("s", str(number))
            made.wake()
            await eventually(lambda: bench.acked("s") == number + 1)  # noqa: B023 - done before the next round
        await eventually(lambda: not made._agenda.hinted)
    assert "pull" not in bench.central.calls


async def test_an_idle_worker_asks_once_per_poll(bench: Bench) -> None:
    for number in range(50):
        bench.add(f"s{number}", "x")
    async with bench.running() as made:
        await eventually(lambda: all(bench.acked(f"s{number}") == 1 for number in range(50)))
        await eventually(lambda: not made._agenda.dirty)
        bench.central.calls.clear()
        await eventually(lambda: len(bench.central.calls) >= 5)
    assert set(bench.central.calls) == {"heads"}


@pytest.mark.parametrize("probe_seconds", [redis_hints.QUIET_SECONDS, postgres_hints.PROBE_SECONDS])
def test_polls_and_probes_for_hints_are_fewer_than_one_round_trip_per_interval(probe_seconds: float) -> None:
    polls = 1 / statistics.mean(worker.POLL_SPREAD)
    assert polls + Options().poll_interval / probe_seconds < 0.9


async def test_polls_are_as_far_apart_as_they_are_spread(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = stop_time(monkeypatch)
    bench.options = Options(poll_interval=10.0)
    bench.add("s", "x")
    for edge, spacing in enumerate(worker.POLL_SPREAD):
        monkeypatch.setattr(random, "uniform", lambda *edges: edges[edge])  # noqa: B023 - done before the next
        async with bench.running() as made:
            await quiet()
            start, due = clock.now, made._agenda.poll_at
            assert due - start == pytest.approx(10.0 * spacing, abs=0.1)
            bench.central.calls.clear()
            clock.advance(due - start - 1.0)
            await quiet()
            assert bench.central.calls == []
            clock.advance(1.0)
            await quiet()
            assert bench.central.calls == ["heads"]


async def test_a_poll_does_not_ask_for_what_is_put_aside(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """One log that can't be read makes no poll dearer, for as long as nobody acts."""
    bad, heads, asked = True, bench.central.heads, 0

    async def refuse(session_ids: Sequence[str]) -> list[RemoteHead | None]:
        nonlocal asked
        asked += 1
        if bad and "s3" in session_ids:
            raise RemoteRejected("odd")
        return await heads(session_ids)

    monkeypatch.setattr(bench.central, "heads", refuse)
    for number in range(10):
        bench.add(f"s{number}", "x")
    made = bench.make()
    await made.flush()
    bench.put_aside("s3", direction="pull")
    asked = 0
    await made.refresh("s1")
    with pytest.raises(RemoteRejected, match="it is not taken"):
        await made.refresh()
    assert asked == 1
    bad = False
    assert bench.quarantine.retry(session_key("default", "s3"))
    await made.refresh()
    assert asked == 2


async def test_a_worker_that_may_ask_for_nothing_still_tells_whether_it_is_online(bench: Bench) -> None:
    bench.add("s", "x")
    await bench.make().flush()
    bench.put_aside("s", direction="pull")
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "online")
        bench.central.error = RemoteUnavailable("gone")
        await eventually(lambda: made.status.state == "offline")
    assert set(bench.central.calls) <= {"identify", "push"}


async def test_flush_raises_what_somebody_must_act_on(bench: Bench) -> None:
    bench.add("s", "x")
    made = bench.make()
    for error in (ConfigurationError("no"), RemoteVersionError("newer"), RemoteRejected("never")):
        bench.central.error = error
        with pytest.raises(LocalFirstError, match=str(error)):
            await made.flush()
    bench.central.error = RemoteUnavailable("gone")
    with pytest.raises(RemoteUnavailable):
        await made.flush(once=True)
    bench.central.error = None
    await made.flush()
    assert bench.acked("s") == 1


async def test_flush_with_nothing_pending_asks_once_which_store_it_is(bench: Bench) -> None:
    """And does not wait for one that can't be reached."""
    worker = bench.make()
    bench.central.error = RemoteUnavailable("gone")
    await worker.flush()
    bench.central.error = None
    for _ in range(2):
        await worker.flush()
    assert bench.central.calls == ["identify", "identify"]


async def test_a_request_that_gets_through_ends_the_workers_wait(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "LONGEST_WAIT", 3600.0)
    bench.add("s", "x")
    bench.central.error = ConfigurationError("wrong password")
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "blocked")
        bench.central.error = None
        await made.flush()
        calls = len(bench.central.calls)
        await eventually(lambda: len(bench.central.calls) > calls)


async def test_the_waits_grow_have_full_jitter_and_a_cap() -> None:
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) % 40 == 0:
            raise asyncio.CancelledError

    async def fail() -> None:
        raise RemoteUnavailable

    for _ in range(200):
        with pytest.raises(asyncio.CancelledError):
            await for_ever(note)(fail)
    by_try = [waits[place::40] for place in range(40)]
    for place, seconds in enumerate(by_try):
        cap = min(retry.LONGEST_WAIT, retry.FIRST_WAIT * 2**place)
        assert all(0 <= wait <= cap for wait in seconds)
        assert 0.4 * cap < sum(seconds) / len(seconds) < 0.6 * cap  # Uniform from 0 to the cap.


@pytest.mark.parametrize("error", [None, RemoteUnavailable("gone"), ConfigurationError("no")], ids=repr)
async def test_the_write_ahead_log_is_moved_by_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception | None
) -> None:
    """Also while nothing can be sent, which may be for weeks."""
    bench.central.error = error
    monkeypatch.setattr(worker, "MOVE_ROWS", 0)
    moved = asyncio.Event()
    checkpoint, loop = bench.log.rows.checkpoint, asyncio.get_running_loop()

    def note() -> None:
        checkpoint()
        loop.call_soon_threadsafe(moved.set)

    monkeypatch.setattr(bench.log.rows, "checkpoint", note)
    async with bench.running() as made:
        bench.add("s", "x")
        made.wake()
        await asyncio.wait_for(moved.wait(), 10)


async def test_what_is_settled_is_not_looked_at_again_at_the_next_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "SETTLE_ROWS", 0)
    bench.add("s", "x")
    async with bench.running():
        await eventually(lambda: not outbox._unsettled(bench.log))
    assert outbox.backlog(bench.log, "default") == {}
    bench.add("s", "y")
    assert [backlog.changes for backlog in outbox.backlog(bench.log, "default").values()] == [1]


async def test_nothing_that_goes_wrong_beside_the_network_ends_the_worker(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.running() as made:
        await eventually(lambda: made.status.state == "online")
        with monkeypatch.context() as patched:

            def fail(*_: Any) -> Any:
                raise OSError("disk I/O error, once")

            patched.setattr(outbox, "touched_since", fail)
            bench.add("s", "x")
            made.wake()
            await eventually(lambda: made.status.last_error is not None)
            assert "once" in str(made.status.last_error)
        await eventually(lambda: bench.acked("s") == 1)
        assert made.status.state == "online"


async def test_one_bad_session_says_nothing_of_the_store(bench: Bench) -> None:
    bench.central.error = RemoteRejected("odd")
    bench.central.failing = frozenset({"pull"})
    made = bench.make()
    with pytest.raises(RemoteRejected):
        await made.fetch("bad")
    assert made.status.state != "offline"
    bench.central.error = None
    with pytest.raises(RemoteRejected, match="odd"):
        await made.refresh()  # Not everything is visible here, and it says so.


async def test_hints_that_were_missed_are_made_up_for_by_a_poll(bench: Bench, tmp_path: Path) -> None:
    bench.options = Options(poll_interval=3600, sync_interval=0.0)
    bench.add("s", "mine")
    async with bench.running() as made:
        await eventually(lambda: bench.acked("s") == 1)
        bench.central.server.namespace("default").watchers.clear()  # The connection breaks: nothing comes through.
        other = Bench(tmp_path / "other")
        other.central = Central(bench.central.server)
        other.add("s", "theirs")
        await other.make().flush()
        await bench.central.close()  # It is noticed; the worker listens again.
        made._contact.reachable.set()
        await eventually(lambda: bench.log.head(session_key("default", "s")).seq == 2)  # type: ignore[union-attr]


async def test_what_waits_is_looked_for_again_when_the_disk_fails_at_the_start(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.add("s", "before")
    waiting = outbox.waiting

    def fail_once(*_: Any) -> Any:
        monkeypatch.setattr(outbox, "waiting", waiting)
        raise StoreUnwritable("the disk failed, once")

    monkeypatch.setattr(outbox, "waiting", fail_once)
    async with bench.running() as made:
        await eventually(lambda: bench.acked("s") == 1)
        assert made.history[:3] == ["standby", "turning", "blocked"]


async def test_a_bug_in_a_backend_that_listens_is_told_and_it_listens_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench.options = Options(poll_interval=3600, sync_interval=0.0)
    other = Bench(tmp_path / "other", bench.central.server)
    bench.add("s", "mine")

    async def stumble() -> AsyncIterator[None]:
        monkeypatch.delattr(bench.central, "watch")
        raise ZeroDivisionError("a bug")
        yield

    monkeypatch.setattr(bench.central, "watch", stumble)
    async with bench.running():
        await eventually(lambda: bench.central.listened)
        assert "ZeroDivisionError: a bug" in caplog.text
        other.add("s", "theirs")
        await other.make().flush()
        await eventually(lambda: bench.seq("s") == 2)
