"""`docs/worker.md` is the specification of the worker: every cell of its table, and every invariant."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import re
import signal
from collections.abc import Callable, Coroutine, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import pytest

import localfirst
from localfirst import errors
from localfirst.errors import ConfigurationError, LocalFirstError, RemoteUnavailable
from localfirst.status import State
from localfirst.testing.memory import MemoryServer
from sync import central, retry, worker
from sync.host import TaskHost
from sync.leader import is_led
from sync.retry import LONGEST_WAIT
from sync.status import SyncStatus, WorkerState, publish, published
from sync.worker import CALM_INTERVAL, LEAD_INTERVAL, Options, Worker
from tests.polling import eventually
from tests.unit.bench import OPERATIONS, Bench, Central, Clock, quiet
from tests.unit.stage import (
    EFFECTS,
    EVENTS,
    REASONS,
    WAYS,
    Event,
    Stage,
    Step,
    ask_for_all,
    hint_news,
    in_a_process,
    miss_hints,
    poll_often,
    reach,
    stop_time,
    write_elsewhere,
    write_here,
)

_PAGE: Final = Path(__file__).parents[2] / "docs" / "worker.md"
_WAITING: Final = ("standby", "idle", "backing off", "blocked")


def _tables(heading: str) -> list[list[list[str]]]:
    """The tables under a heading of the page: rows of cells, the first row has the titles."""
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", _PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert section, f"docs/worker.md has no {heading!r}"
    blocks = re.findall(r"(?:^\|.*\n)+", section[1], re.MULTILINE)
    return [[[cell.strip() for cell in line.strip("|").split(" | ")] for line in each.splitlines()] for each in blocks]


def _rows(table: list[list[str]]) -> dict[str, dict[str, str]]:
    """By their first cell, then by the titles."""
    titles, _, *rows = table
    assert all(len(row) == len(titles) for row in rows), "a cell is missing"
    assert len({row[0] for row in rows}) == len(rows), "a row is there twice"
    return {row[0].strip("`"): dict(zip((title.strip("`") for title in titles), row, strict=True)) for row in rows}


_STATES: Final = _rows(_tables("States")[0])
_EVENTS: Final = _rows(_tables("Events")[0])
_CELLS: Final = _rows(_tables("The table")[0])
_EFFECTS: Final = _rows(_tables("The table")[1])
_PLACES: Final = [(event, state) for event in EVENTS for state in get_args(WorkerState)]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return stop_time(monkeypatch)


# The page.


def test_every_state_is_in_the_tables() -> None:
    states = get_args(WorkerState)
    assert tuple(_STATES) == tuple(WAYS) == states
    assert all(tuple(row) == ("event", *states) for row in _CELLS.values())
    shown = set(re.findall(r"`(\w+)`", " ".join(row["`status().state`".strip("`")] for row in _STATES.values())))
    assert shown == set(get_args(State)) - {"local"}


def test_every_event_is_in_the_tables() -> None:
    assert list(_EVENTS) == list(_CELLS) == list(EVENTS)


def test_every_request_and_error_is_an_event() -> None:
    """What the code knows beside states: the requests that a worker takes, and the errors that it may meet."""
    page = _PAGE.read_text()
    requests = {
        name
        for name, member in vars(Worker).items()
        if inspect.iscoroutinefunction(member) and not name.startswith("_") and name not in ("run", "close")
    }
    assert requests == set(re.findall(r"`(\w+)`", _EVENTS["a request is made"]["what it is"])) - {"reseed"}
    for name, member in vars(errors).items():
        if isinstance(member, type) and issubclass(member, LocalFirstError) and member is not LocalFirstError:
            assert f"`{name}`" in page, f"docs/worker.md does not say what becomes of {name}"


def test_every_effect_is_explained() -> None:
    assert set(_EFFECTS) == set(EFFECTS)


def _parsed(cell: str) -> tuple[str, list[tuple[str, bool]]]:
    """The next state; and what is done, at once or later."""
    found = re.fullmatch(r"`([a-z ]+)`; ([a-z ,]+)", cell)
    assert found, f"{cell!r} is neither a state with what is done, nor a reason why it can't happen"
    effects = [(each.removesuffix(" later"), each.endswith(" later")) for each in found[2].split(", ")]
    assert {name for name, _ in effects} <= set(_EFFECTS)
    return found[1], effects


# The cells.


@pytest.mark.parametrize(("event", "state"), _PLACES, ids=[f"{state}-{event}" for event, state in _PLACES])
def test_cell(event: str, state: str, tmp_path: Path, clock: Clock) -> None:
    cell = _CELLS[event][state]
    if cell.startswith("can't happen: "):
        asyncio.run(_why_not(Stage(tmp_path / "a", clock), state, cell.removeprefix("can't happen: ")))
    elif event == "it is killed":
        _kill(tmp_path / "a", clock, state, cell)
    else:
        for number, error in enumerate(EVENTS[event].errors):
            asyncio.run(_drive(tmp_path / f"a{number}", clock, state, event, error))


async def _why_not(stage: Stage, state: str, reason: str) -> None:
    await reach(stage, state, Event(REASONS[reason]))
    await REASONS[reason](stage)
    _check_status(stage, "")
    await _recover(stage, {})
    await stage.end()


async def _drive(path: Path, clock: Clock, state: str, event: str, error: BaseException) -> None:
    after, effects = _parsed(_CELLS[event][state])
    stage = Stage(path, clock)
    stage.error = error
    await reach(stage, state, EVENTS[event])
    before = stage.worker.status.state
    await EVENTS[event].fire(stage)
    await quiet()
    assert stage.next_state == after
    for name, later in effects:
        assert EFFECTS[name](stage) is not later, f"{name}{' at once' if later else ' not at once'}"
    if stage.worker.state == "turning" and after == "turning":
        assert stage.worker.status.state == ("offline" if event == "a request fails" else before)
    _check_status(stage, event)
    await _recover(stage, {name: later for name, later in effects if later})
    await stage.end()


def _check_status(stage: Stage, event: str) -> None:
    """What the table of the states says."""
    state, told = stage.worker.state, published(stage.path, "default")
    assert (_STATES[state]["leads"] == "yes") is stage.worker.leads
    shown = _STATES[state]["status().state"]
    if event == "a request fails":
        assert stage.host.status.state == ("offline" if state != "turning" else stage.worker.status.state)
    elif re.fullmatch(r"`\w+`", shown):
        assert stage.host.status.state == shown.strip("`")
    if stage.worker.leads:
        assert told is not None
        assert told.state == stage.worker.status.state
        assert told.last_error == stage.worker.status.last_error


async def _recover(stage: Stage, later: Mapping[str, bool]) -> None:
    """When nothing is wrong any more, time alone brings the worker to rest, and nothing is left to be done."""
    await stage.heal()
    assert stage.worker.state == "idle"
    assert stage.worker.status.state == "online"
    assert stage.worker.status.last_error is None
    for name in later:
        assert EFFECTS[name](stage), f"{name} not even later"
    assert stage.central.most <= 1, "two rounds at once"
    if not stage.owner_is_at_work:
        assert stage.bench.pending() == []


def _kill(path: Path, clock: Clock, state: str, cell: str) -> None:
    """The process is gone, and its server with it: whoever comes next has the directory, and another server."""
    assert _parsed(cell) == ("ended", [("released", False)])
    child, pipe = in_a_process(path, clock, state)
    try:
        assert os.read(pipe, 5) == b"there"
        assert is_led(path, "default") is (state != "ended")
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(pipe)
    assert not is_led(path, "default")
    asyncio.run(_take_over(Stage(path, clock), pending=state in ("turning", "backing off", "blocked")))


async def _take_over(stage: Stage, *, pending: bool) -> None:
    assert bool(stage.bench.pending()) is pending
    stage.start()
    stage.mark()
    await quiet()
    await _recover(stage, {})
    assert set(stage.central.server.namespace("default").sessions) == {"s"}
    await stage.end()


# The invariants.


@pytest.fixture
def stage(tmp_path: Path, clock: Clock) -> Stage:
    return Stage(tmp_path / "a", clock)


def _run(main: Callable[[], Coroutine[Any, Any, None]], stage: Stage) -> None:
    """On a loop of its own, on which nothing else runs."""

    async def whole() -> None:
        await main()
        await stage.end()

    asyncio.run(whole())


@pytest.mark.parametrize("state", [state for state in WAYS if state != "ended"])
def test_invariant_1_time_alone_leads_out_of_every_state(state: str, stage: Stage) -> None:
    async def main() -> None:
        stage.central.deaf = True
        await reach(stage, state, Event(write_here, poll_often))
        await hint_news(stage)
        await _recover(stage, {"pulled": True, "pushed": True})

    _run(main, stage)


@pytest.mark.parametrize("state", _WAITING)
def test_invariant_2_after_every_wait_the_disk_is_looked_at(state: str, stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, state, Event(write_elsewhere))
        stage.another().add("elsewhere", "without a word")
        stage.central.error = None
        if stage.holder is not None:
            stage.holder.release()
        await stage.pass_time({"standby": LEAD_INTERVAL, "idle": CALM_INTERVAL}.get(state, LONGEST_WAIT))
        assert stage.bench.pending() == []

    _run(main, stage)


def test_invariant_3_a_process_runs_one_round_at_a_time(stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, "idle", Event(write_here))
        stage.central.hanging = OPERATIONS
        requests = [
            stage.host.submit(ask)
            for ask in (
                lambda made: made.refresh(),
                lambda made: made.fetch("s"),
                lambda made: made.verify([], None, full=True),
                lambda made: made.refresh("new"),
            )
        ]
        await write_here(stage)
        await hint_news(stage)
        await miss_hints(stage)
        requests.append(stage.host.submit(lambda made: made.flush()))
        for _ in range(100):
            stage.central.allow(1)
            await quiet()
        assert all(request.done() and request.exception() is None for request in requests)
        assert stage.worker.state == "idle"
        assert stage.central.most == 1

    _run(main, stage)


@pytest.mark.parametrize("state", ["backing off", "blocked"])
def test_invariant_4_no_lock_is_held_while_it_waits(state: str, stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, state, Event(write_here))
        stage.central.error = RemoteUnavailable("unreachable")
        request = stage.host.submit(lambda made: made.flush())
        await quiet()
        assert stage.worker.state == state
        assert not request.done()  # It waits, too.
        assert not stage.worker._rounds.locked()
        await asyncio.to_thread(stage.another().add, "s", "written meanwhile")
        stage.central.heal()
        await stage.worker.refresh()
        await stage.pass_time(LONGEST_WAIT)
        assert request.exception() is None

    _run(main, stage)


async def _cancel_twice(stage: Stage) -> None:
    stage.host._life.cancel()
    await asyncio.sleep(0)
    stage.host._life.cancel()
    await asyncio.wait([stage.host._life])


async def _drop(stage: Stage) -> None:
    stage.host.drop()


async def _leave_the_loop(stage: Stage) -> None:
    """The loop ends with the worker on it."""


@pytest.mark.parametrize("leave", [_cancel_twice, _drop, _leave_the_loop], ids=lambda leave: leave.__name__.strip("_"))
@pytest.mark.parametrize("state", [state for state in WAYS if state != "ended"])
def test_invariant_5_the_lock_is_free_on_every_way_out(state: str, leave: Step, stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, state, Event(leave))
        if stage.holder is not None:
            stage.holder.release()
            await stage.pass_time(LEAD_INTERVAL)
        assert is_led(stage.path, "default")
        await leave(stage)

    asyncio.run(main())
    assert not is_led(stage.path, "default")
    assert stage.worker.state == "ended"
    assert stage.host.status.state == "stopped"


@pytest.mark.parametrize("error", [RemoteUnavailable("x"), ConfigurationError("x"), ZeroDivisionError("x")], ids=repr)
@pytest.mark.parametrize("operation", ["identify", "heads", "push", "pull", "settle"])
def test_invariant_6_what_failed_is_done_at_the_next_turn(operation: str, error: Exception, stage: Stage) -> None:
    def fail(*_: Any) -> Any:
        raise error

    async def main() -> None:
        stage.bench.options = Options(poll_interval=3600.0, sync_interval=3600.0)
        await reach(stage, "idle", Event(write_here))
        if operation == "settle":
            stage.patch.setattr(stage.bench.log, "settle", fail)
        stage.central.error, stage.central.failing = error, frozenset({operation})
        if operation == "identify":
            stage.worker._contact.identified = False  # As after anything else that failed.
        await hint_news(stage)
        if operation == "heads":
            await miss_hints(stage)
        if operation != "pull":  # There the hint alone tells; what is pushed would hide that it was forgotten.
            await write_here(stage)
        await quiet()
        assert stage.worker.state in ("backing off", "blocked")
        stage.patch.undo()
        stage.central.heal()
        stage.mark()
        await stage.pass_time(LONGEST_WAIT)
        assert stage.worker.state == "idle"
        assert EFFECTS["pushed"](stage)
        assert EFFECTS["pulled"](stage)
        assert EFFECTS["polled"](stage) is (operation == "heads")

    _run(main, stage)


def test_invariant_7_a_new_leader_tells_over_what_a_dead_one_told(stage: Stage) -> None:
    async def main() -> None:
        await stage.prepare()
        publish(stage.path, "default", SyncStatus("online", last_synced_at=12.0))
        stage.central.hanging = OPERATIONS
        stage.start()
        await quiet()
        told = published(stage.path, "default")
        assert told is not None
        assert (told.state, told.last_synced_at) == ("connecting", 12.0)

    _run(main, stage)


def test_invariant_7_every_process_sees_the_state_within_a_second(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, made = MemoryServer(), list[Central]()

    def connect(*_: Any) -> Central:
        made.append(Central(server))
        return made[-1]

    for module in (retry, worker):
        monkeypatch.setattr(module, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(central, "connect", connect)
    options: Any = {"remote": "redis://127.0.0.1:1", "poll_interval": 0.1}
    with localfirst.open(tmp_path, **options) as leader, localfirst.open(tmp_path, **options, worker="none") as other:
        for error, state in [
            (None, "online"),
            (ConfigurationError("wrong password"), "blocked"),
            (RemoteUnavailable("unreachable"), "offline"),
            (ZeroDivisionError("a bug"), "blocked"),
            (None, "online"),
        ]:
            for each in made:
                each.error = error
            for store in (leader, other):
                eventually(partial(_shows, store, state, str(error or "")), timeout=1.0)


def _shows(store: localfirst.Store, state: str, error: str) -> bool:
    status = store.status()
    return status.state == state and error in (status.last_error or "")


def _hang_in(operation: str) -> Step:
    """What makes the worker ask for it."""
    asks: Mapping[str, Step] = {"push": write_here, "pull": hint_news, "heads": miss_hints, "sessions": ask_for_all}

    async def hang(stage: Stage) -> None:
        if operation == "identify":
            stage.worker._contact.identified = False
        stage.central.hanging = frozenset({operation})
        await asks.get(operation, write_here)(stage)
        await quiet()

    return hang


@pytest.mark.parametrize("operation", ["identify", "heads", "push", "pull", "sessions"])
def test_invariant_8_a_local_call_never_waits_for_the_worker(operation: str, stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, "idle", Event(write_here))
        await _hang_in(operation)(stage)
        assert stage.central.running == 1
        await asyncio.to_thread(stage.bench.add, "s", "by a thread of this process")
        await asyncio.to_thread(stage.another().add, "s", "by another process")  # It would raise, not wait.
        stage.central.heal()

    _run(main, stage)


def _admitted(stage: Stage) -> int:
    return stage.central.server.namespace("default").sessions["s"].seq


@pytest.mark.parametrize("operation", ["push", "pull", "heads", "identify"])
def test_invariant_9_a_round_that_was_cut_off_is_repeated(operation: str, stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, "idle", Event(write_here))
        stage.central.losing = frozenset({operation})
        if operation == "identify":
            stage.worker._contact.identified = False
        await hint_news(stage)
        await miss_hints(stage)
        await write_here(stage)
        assert stage.worker.state == "backing off"
        await _recover(stage, {"pulled": True, "pushed": True})
        assert _admitted(stage) == stage.bench.seq("s") == 3

    _run(main, stage)


@pytest.mark.parametrize("operation", ["push", "pull"])
def test_invariant_10_two_processes_at_once_do_no_harm(operation: str, stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, "idle", Event(write_here))
        await _hang_in(operation)(stage)
        await write_here(stage)
        other = stage.another().make()
        await other.flush()
        await other.refresh()
        assert stage.central.running == 1
        await _recover(stage, {"pulled": True, "pushed": True})
        assert _admitted(stage) == stage.bench.seq("s") == 3
        assert not {"backing off", "blocked"} & set(stage.worker.history)

    _run(main, stage)


def test_invariant_11_flush_and_refresh_keep_their_word(stage: Stage) -> None:
    async def main() -> None:
        await reach(stage, "idle", Event(write_here))
        await _hang_in("push")(stage)
        flushed = stage.host.submit(lambda made: made.flush())
        await quiet()
        assert not flushed.done()
        stage.central.release()
        await quiet()
        assert flushed.exception() is None
        assert _admitted(stage) == 2
        stage.other.add("s", "theirs")
        stage.central.deaf = True
        await stage.other.make().flush()
        stage.central.hanging = frozenset({"pull"})
        refreshed = stage.host.submit(lambda made: made.refresh())
        await quiet()
        assert not refreshed.done()
        stage.central.release()
        await quiet()
        assert refreshed.exception() is None
        assert stage.bench.seq("s") == 3

    _run(main, stage)


# What the rows of the table leave open.


def test_a_turn_that_was_left_behind_is_flushed_without_a_worker(stage: Stage) -> None:
    async def main() -> None:
        await stage.prepare()
        await EVENTS["a turn is left behind"].prepare(stage)
        stage.owner.release()
        assert stage.bench.pending() == ["t"]
        await stage.bench.make().flush()
        assert stage.bench.pending() == []

    asyncio.run(main())


def test_a_status_is_stopped_when_the_loop_of_a_task_has_ended(tmp_path: Path) -> None:
    async def leave() -> TaskHost:
        bench = Bench(tmp_path)
        return TaskHost(bench.make)

    with contextlib.closing(asyncio.run(leave())) as host:
        assert host.status.state == "stopped"
