"""A worker that is brought into each state of `docs/worker.md`, and every event that may come there."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import pytest

from localfirst import outbox, volumes
from localfirst.clock import CentralTime, pack
from localfirst.errors import (
    ConfigurationError,
    LocalFirstError,
    RemoteLost,
    RemoteUnavailable,
    RemoteVersionError,
    StoreClosed,
    StoreMoved,
    StoreUnwritable,
)
from localfirst.giving_up import give_up
from localfirst.lifetime import Wish
from localfirst.records import session_key
from localfirst.room import AT_EASE, FILLING
from localfirst.testing.memory import MemoryServer
from localfirst.turns import Owner, Turns
from sync import agenda, contact, evict, retry, worker
from sync.central.base import Hint
from sync.host import TaskHost
from sync.leader import Leadership
from sync.retry import LONGEST_WAIT
from sync.site import Limits, Over
from sync.worker import CALM_INTERVAL, EXPIRE_SECONDS, LEAD_INTERVAL, POLL_SPREAD, Options, Worker
from tests.unit.bench import OPERATIONS, Bench, Clock, StillAsyncio, quiet

POLL: Final = 5.0
"""Seconds between polls, in cells that are about polls; in all others there are none, but for those that must be."""
_TURN: Final = 7

Step = Callable[["Stage"], Awaitable[None]]
BAD: Final = session_key("default", "bad")
OVER: Final = "over"
"""The session that ends, or whose items do."""
STUB: Final = "stub"
SECRET: Final = "a secret"
"""What is in the session that ends."""
SIZE_LIMIT: Final = 1_000_000
_LARGE: Final = 150_000
_LARGE_SESSIONS: Final = 4
_ROWS: Final = 40
"""Of each of them: more than one turn removes here."""
_TTL: Final = 5_000
_LATEST_SWEEP: Final = 1.5
"""Times its interval, of the first of a worker."""


def stop_time(patch: pytest.MonkeyPatch) -> Clock:
    """Time passes when it is told to, and every random wait is as long as it may be."""
    clock = Clock()
    for module in (agenda, contact, worker):
        patch.setattr(module, "time", clock)
    patch.setattr(worker, "asyncio", StillAsyncio(clock))
    patch.setattr(worker, "wait_for_event", clock.wait_for_event)
    patch.setattr(evict, "time", clock)
    patch.setattr(evict, "asyncio", StillAsyncio(clock))
    patch.setattr(retry, "FIRST_WAIT", LONGEST_WAIT)
    patch.setattr(random, "uniform", lambda _, upper: upper)
    return clock


class Stage:
    """A directory with one session `s` that is in the central store, and a worker on it."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self.clock = clock
        self.bench = Bench(path, MemoryServer(clock.wall_ms))
        self.bench.time = CentralTime(lambda: pack(clock.wall_ms()))
        self.bench.options = Options(poll_interval=3600.0, sync_interval=0.0)
        self.central = self.bench.central
        self.patch = pytest.MonkeyPatch()
        self.holder: Leadership | None = None
        self.owner = Owner(path)
        self.request: Future[None] | None = None
        """The last that was made."""
        self.refused = False
        self.error: BaseException = RemoteUnavailable("trouble")
        self.worker: Any = None

    async def prepare(self) -> None:
        """What is there before the worker starts."""
        self.bench.add("s", "first")
        await self.bench.make().flush()
        self.other = Bench(self.path.with_name(f"{self.path.name}-other"), self.central.server)
        self.other.add("new", "theirs")
        await self.other.make().flush()

    def start(self) -> None:
        self.worker = self.bench.make()
        self.host = TaskHost(lambda: self.worker)

    async def share(self, name: str, text: str, wish: Wish | None = None) -> None:
        """A session that another replica wrote, and that is here and in the central store."""
        self.other.add(name, text, wish=wish)
        await self.other.make().flush()
        await self.bench.make().fetch(name)

    def leads_elsewhere(self) -> None:
        self.holder = Leadership(self.path, "default")
        assert self.holder.take()

    def another(self) -> Bench:
        """Another process on the directory."""
        return Bench(self.path, self.central.server)

    async def pass_time(self, seconds: float) -> None:
        self.clock.advance(seconds)
        await quiet()

    def mark(self) -> None:
        """From here on it is looked at what happens."""
        self.seen = len(self.worker.history)
        self.calls = len(self.central.calls)
        self.listened = self.central.listened

    @property
    def owner_is_at_work(self) -> bool:
        """Whether a turn is open, so that what is in it waits."""
        return self.owner._lock is not None

    @property
    def asked(self) -> list[str]:
        """What the central store was asked since."""
        return self.central.calls[self.calls :]

    @property
    def next_state(self) -> str:
        """The first state that followed; the same, if none did."""
        later = self.worker.history[self.seen :]
        return str(later[0] if later else self.worker.state)

    async def heal(self) -> None:
        """Whatever was wrong is right again; only time is to pass."""
        self.patch.undo()
        self.central.heal()
        lock = worker_lock(self.path)
        if lock.is_dir():
            lock.rmdir()
        if self.holder is not None:
            self.holder.release()
        if self.worker.state == "ended":
            self.start()
        for _ in range(4):
            await self.pass_time(LONGEST_WAIT)

    async def end(self) -> None:
        self.patch.undo()
        self.central.heal()
        await self.host.aclose()
        self.owner.release()


def worker_lock(path: Path) -> Path:
    """The file that says who leads."""
    return Path(Leadership(path, "default")._lock.lock_file)


# The ways to the states.


async def stand_by(stage: Stage) -> None:
    stage.leads_elsewhere()
    stage.start()
    await quiet()


async def be_idle(stage: Stage) -> None:
    stage.start()
    await quiet()
    assert stage.worker.state == "idle"


async def hang_in_a_push(stage: Stage) -> None:
    await be_idle(stage)
    stage.central.hanging = frozenset({"push"})
    await write_here(stage)


async def back_off(stage: Stage) -> None:
    await be_idle(stage)
    stage.central.error = RemoteUnavailable("unreachable")
    await write_here(stage)


async def be_blocked(stage: Stage) -> None:
    await be_idle(stage)
    stage.central.error = ConfigurationError("wrong password")
    await write_here(stage)


async def have_ended(stage: Stage) -> None:
    await be_idle(stage)
    await stage.host.aclose()


WAYS: Final[Mapping[str, Step]] = {
    "standby": stand_by,
    "turning": hang_in_a_push,
    "idle": be_idle,
    "backing off": back_off,
    "blocked": be_blocked,
    "ended": have_ended,
}


async def meet_another_store(stage: Stage) -> None:
    """The server was replaced while it could not be reached, and is just asked which it is."""
    await back_off(stage)
    stage.central.server.wipe()
    stage.central.heal()
    stage.central.hanging = frozenset({"identify", "heads"})
    await stage.pass_time(LONGEST_WAIT)


async def push_two_sessions(stage: Stage) -> None:
    """One of them is refused; the other takes two rounds."""
    stage.bench.limits = Limits(run_changes=1)
    await be_idle(stage)
    stage.central.hanging, stage.central.refusing = frozenset({"push"}), {"bad"}
    stage.bench.add("bad", "x")
    stage.bench.add("good", "x")
    stage.bench.add("good", "y")
    stage.host.wake()
    await quiet()


async def lose_the_store(stage: Stage) -> None:
    """Another store is found, and somebody is to be asked."""
    stage.bench.ask = True
    await meet_another_store(stage)
    stage.central.release()
    await quiet()


def request_hangs(way: Step, ask: Callable[[Worker], Awaitable[None]]) -> Step:
    async def reach(stage: Stage) -> None:
        await way(stage)
        stage.central.error = None
        stage.central.hanging = OPERATIONS
        stage.request = stage.host.submit(ask)
        await quiet()

    return reach


def turn_waits_for(ask: Callable[[Worker], Awaitable[None]]) -> Step:
    """The worker is to turn, but a request is first."""

    async def reach(stage: Stage) -> None:
        await request_hangs(be_idle, ask)(stage)
        await write_here(stage)
        assert stage.worker.state == "turning"

    return reach


# The events.


async def free_the_lock(stage: Stage) -> None:
    if stage.holder is None:
        stage.leads_elsewhere()
    assert stage.holder is not None
    stage.holder.release()
    await stage.pass_time(LEAD_INTERVAL)


async def lose_the_race(stage: Stage) -> None:
    if stage.holder is None:
        stage.leads_elsewhere()
    await stage.pass_time(LEAD_INTERVAL)


async def let_go_well(stage: Stage) -> None:
    stage.central.release()


async def let_fail(stage: Stage) -> None:
    stage.central.error = stage.error
    stage.central.release()


async def let_identify(stage: Stage) -> None:
    stage.central.allow(1)


async def let_refuse(stage: Stage) -> None:
    stage.central.allow(3)  # Both together, then each; what is next is of the one that is taken.


async def fail_here(stage: Stage) -> None:
    """Whatever the state does next with the disk."""

    def fail(*_: Any) -> Any:
        raise stage.error

    if stage.worker.state == "standby" and isinstance(stage.error, LocalFirstError):
        lock = worker_lock(stage.path)
        lock.unlink()
        lock.mkdir()
    else:
        stage.patch.setattr(stage.worker._leadership, "take", fail)
    stage.patch.setattr(outbox, "touched_since", fail)
    stage.patch.setattr(stage.bench.log, "settle", fail)
    stage.another().add("s", "written while it fails")
    stage.central.release()
    await stage.pass_time(LEAD_INTERVAL)


async def move_away(stage: Stage) -> None:
    """Whatever the state does next with the disk finds that it is not there."""

    def fail(*_: Any) -> Any:
        raise stage.error

    stage.patch.setattr(outbox, "touched_since", fail)
    stage.patch.setattr(stage.bench.log, "settle", fail)
    stage.another().add("s", "written while it is away")
    stage.central.release()
    await stage.pass_time(LEAD_INTERVAL)


async def write_here(stage: Stage) -> None:
    stage.bench.add("s", "written here")
    stage.host.wake()
    await quiet()


async def write_elsewhere(stage: Stage) -> None:
    stage.another().add("s", "written by another process")
    await stage.pass_time(CALM_INTERVAL)


async def use_elsewhere(stage: Stage) -> None:
    stage.another().use("new")
    await stage.pass_time(CALM_INTERVAL)


async def hint_news(stage: Stage) -> None:
    stage.other.add("s", "theirs")
    await stage.other.make().flush()


async def hint_known(stage: Stage) -> None:
    head = stage.bench.log.head(session_key("default", "s"))
    assert head is not None
    assert head.generation is not None
    stage.central.hint(Hint("s", head.generation, head.seq))


async def break_hints(stage: Stage) -> None:
    stage.central.break_hints()


async def miss_hints(stage: Stage) -> None:
    stage.central.miss_hints()


async def poll_often(stage: Stage) -> None:
    stage.bench.options = Options(poll_interval=POLL, sync_interval=0.0)


async def let_a_poll_be_due(stage: Stage) -> None:
    await stage.pass_time(POLL_SPREAD[1] * POLL)


async def end_the_wait(stage: Stage) -> None:
    waits = {"standby": LEAD_INTERVAL, "idle": CALM_INTERVAL}
    stage.central.error = None
    await stage.pass_time(waits.get(stage.worker.state, LONGEST_WAIT))


async def open_a_turn(stage: Stage) -> None:
    await poll_often(stage)
    Turns(stage.bench.log).open(session_key("default", "t"), _TURN, stage.owner.name())
    stage.another().add("t", "half of a turn", _TURN)


async def leave_the_turn(stage: Stage) -> None:
    stage.owner.release()


async def leave_the_move(stage: Stage) -> None:
    """The server was emptied; a process found that, and ended."""
    stage.central.server.wipe()
    stage.another().identity.follow("default", stage.central.server.namespace("default").store_id)
    assert stage.bench.identity.is_moving("default")


async def share_what_ends(stage: Stage) -> None:
    await stage.share(OVER, SECRET)


async def delete_here(stage: Stage) -> None:
    """And begin it anew."""
    stage.bench.delete(OVER)
    stage.bench.add(OVER, "anew")
    stage.host.wake()


async def delete_elsewhere(stage: Stage) -> None:
    stage.other.delete(OVER)
    await stage.other.make().flush()


async def share_a_mortal(stage: Stage) -> None:
    await poll_often(stage)
    await stage.share(OVER, SECRET, Wish(ttl=_TTL))


async def share_mortal_items(stage: Stage) -> None:
    await poll_often(stage)
    await stage.share(OVER, SECRET, Wish(item_ttl=_TTL))


async def let_expire(stage: Stage) -> None:
    """And be looked for."""
    await stage.pass_time(EXPIRE_SECONDS)


async def leave_what_expires(stage: Stage) -> None:
    """Only in the central store; no poll is due when the sweep is."""
    stage.other.add(OVER, SECRET, wish=Wish(ttl=_TTL))
    await stage.other.make().flush()
    stage.patch.setattr(worker, "SWEEP_SECONDS", POLL)
    stage.bench.options = Options(poll_interval=2 * POLL, sync_interval=0.0)


async def let_a_sweep_be_due(stage: Stage) -> None:
    await stage.pass_time(_LATEST_SWEEP * POLL)


async def limit_the_size(stage: Stage) -> None:
    """Whatever goes takes several turns to do so, in some of which nothing new is evicted."""
    stage.bench.options = Options(poll_interval=3600.0, sync_interval=0.0, size_limit=SIZE_LIMIT)
    stage.patch.setattr(evict, "_STEP_SECONDS", 2e-6)
    stage.patch.setattr(volumes, "sweep", partial(volumes.sweep, limit=1))
    for number in range(_LARGE_SESSIONS * _ROWS):
        stage.bench.add(f"large-{number % _LARGE_SESSIONS}", "x" * (_LARGE // _ROWS))
    await stage.bench.make().flush()
    assert _disk_use(stage) < FILLING


async def fill_the_directory(stage: Stage) -> None:
    for _ in range(_LARGE_SESSIONS):
        stage.bench.add("s", "x" * _LARGE)
    assert _disk_use(stage) > FILLING
    stage.host.wake()


async def evict_one(stage: Stage) -> None:
    await stage.share(STUB, "far away")
    stage.bench.evict(STUB)


async def read_it(stage: Stage) -> None:
    try:
        stage.request = stage.host.submit(lambda made: made.fetch(STUB))
    except StoreClosed:
        stage.refused = True


async def ask_for_all(stage: Stage) -> None:
    stage.central.hanging = OPERATIONS
    try:
        stage.request = stage.host.submit(lambda made: made.refresh())
    except StoreClosed:
        stage.refused = True


async def let_the_request_through(stage: Stage) -> None:
    busy = stage.worker.state == "turning"
    stage.central.heal()
    stage.central.hanging = frozenset({"push"} if busy else ())


async def let_the_request_fail(stage: Stage) -> None:
    """What it hangs in; a turn that waits for it then gets as far as its push."""
    busy = stage.worker.state == "turning"
    stage.central.error, stage.central.failing = stage.error, frozenset({"pull"} if busy else {"identify", "pull"})
    stage.central.release()
    stage.central.hanging = frozenset({"push"} if busy else ())


async def put_aside(stage: Stage) -> None:
    stage.bench.add("bad", "x")
    stage.bench.put_aside("bad")


async def retry_it(stage: Stage) -> None:
    assert stage.bench.quarantine.retry(BAD)
    stage.host.wake()


async def discard_it(stage: Stage) -> None:
    bench = stage.bench
    assert give_up(bench.log, bench.identity, bench.quarantine, BAD)
    stage.host.wake()


async def reseed(stage: Stage) -> None:
    if stage.bench.identity.accept("default"):
        stage.host.nudge()


async def close(stage: Stage) -> None:
    await stage.host.aclose()


async def kill(stage: Stage) -> None:
    raise AssertionError("a process of its own is killed")


async def _nothing_before(stage: Stage) -> None:
    """It comes whatever was there before."""


@dataclass(frozen=True)
class Event:
    """How it is made to come."""

    fire: Step
    prepare: Step = _nothing_before
    ways: Mapping[str, Step] = field(default_factory=dict)
    """To the states in which it can come, where not every way to them will do."""
    errors: tuple[BaseException, ...] = (RemoteUnavailable("trouble"),)
    """It is tried with each."""


def _refresh(made: Worker) -> Awaitable[None]:
    return made.refresh()


def _fetch(made: Worker) -> Awaitable[None]:
    return made.fetch("s")


_WITH_REFRESH: Final = {
    **{state: request_hangs(WAYS[state], _refresh) for state in ("standby", "idle", "backing off", "blocked")},
    "turning": turn_waits_for(_refresh),
}
_WITH_FETCH: Final = {
    **{state: request_hangs(WAYS[state], _fetch) for state in ("standby", "idle", "backing off", "blocked")},
    "turning": turn_waits_for(_fetch),
}
_REFUSALS: Final = (ConfigurationError("trouble"), RemoteVersionError("trouble"), RemoteLost("trouble"))


async def _written_before(stage: Stage) -> None:
    stage.bench.add("s", "written before it leads")


EVENTS: Final[Mapping[str, Event]] = {
    "the lock gets free": Event(free_the_lock, _written_before),
    "another process leads": Event(lose_the_race),
    "the turn goes well": Event(let_go_well),
    "the central store can't be reached": Event(let_fail),
    "it refuses this client": Event(let_fail, errors=_REFUSALS),
    "it is another one than before": Event(let_identify, ways={"turning": meet_another_store}),
    "it refuses one session": Event(let_refuse, ways={"turning": push_two_sessions}),
    "the local disk fails": Event(fail_here, errors=(StoreUnwritable("trouble"),)),
    "the directory is moved away": Event(move_away, errors=(StoreMoved("trouble"),)),
    "a bug shows": Event(fail_here, errors=(ZeroDivisionError("trouble"),)),
    "this process writes": Event(write_here),
    "another process writes": Event(write_elsewhere),
    "a session is first used": Event(use_elsewhere),
    "a hint has news": Event(hint_news),
    "a hint tells what is known": Event(hint_known),
    "hints break": Event(break_hints),
    "hints were missed": Event(miss_hints),
    "a poll is due": Event(let_a_poll_be_due, poll_often),
    "a sweep is due": Event(let_a_sweep_be_due, leave_what_expires),
    "the wait is over": Event(end_the_wait),
    "a turn is left behind": Event(leave_the_turn, open_a_turn),
    "a move is left behind": Event(leave_the_move, poll_often),
    "a session is deleted here": Event(delete_here, share_what_ends),
    "a session is deleted elsewhere": Event(delete_elsewhere, share_what_ends),
    "a session has expired": Event(let_expire, share_a_mortal),
    "items have expired": Event(let_expire, share_mortal_items),
    "the directory is filling": Event(fill_the_directory, limit_the_size),
    "an evicted session is read": Event(read_it, evict_one),
    "a request is made": Event(ask_for_all),
    "a request gets through": Event(let_the_request_through, ways=_WITH_REFRESH),
    "a request fails": Event(let_the_request_fail, ways=_WITH_FETCH),
    "somebody retries": Event(retry_it, put_aside),
    "somebody discards": Event(discard_it, put_aside),
    "somebody reseeds": Event(reseed, ways={"blocked": lose_the_store}),
    "it is closed": Event(close),
    "it is killed": Event(kill),
}


# What is done.


def _is_pulled(stage: Stage) -> bool:
    sessions = stage.central.server.namespace("default").sessions
    heads, _ = stage.bench.log.heads("default")
    return all(head.session_id in sessions and head.seq == sessions[head.session_id].seq for _, head in heads)


def _is_answered(stage: Stage) -> bool:
    return stage.request is not None and stage.request.done() and stage.request.exception() is None


def _is_raised(stage: Stage) -> bool:
    request = stage.request
    return request is not None and request.done() and isinstance(request.exception(), LocalFirstError)


def _waits(stage: Stage) -> bool:
    return stage.request is not None and not stage.request.done() and not stage.asked


def _is_released(stage: Stage) -> bool:
    if stage.holder is not None:
        stage.holder.release()
    other = Leadership(stage.path, "default")
    free = other.take()
    other.release()
    return free


def _is_sent(stage: Stage) -> bool:
    return not stage.bench.identity.is_moving("default") and _is_pulled(stage)


def _is_followed(stage: Stage) -> bool:
    followed = stage.bench.identity.followed("default")
    return followed == stage.central.server.namespace("default").store_id


def _is_deleted(stage: Stage) -> bool:
    """Whether what was there is, and nothing that was written here since."""
    there = stage.central.server.namespace("default")
    log = there.sessions[OVER].log if OVER in there.sessions else []
    deleted = [end.how == "deleted" for (name, _), end in there.ends.items() if name == OVER]
    return deleted == [True] and len(log) == 1 and SECRET.encode() not in log[0].data


def _is_removed(stage: Stage) -> bool:
    """Whether nothing of it is shown, and that was told once."""
    head = stage.bench.log.head(session_key("default", OVER))
    told = [notice.session_id for notice in stage.bench.told if isinstance(notice, Over)]
    return head is not None and head.generation is None and told == [OVER]


def _is_folded(stage: Stage) -> bool:
    head = stage.bench.log.head(session_key("default", OVER))
    return head is not None and 0 < head.floor == head.seq


def _is_scrubbed(stage: Stage) -> bool:
    files = [path for path in stage.path.rglob("*") if path.is_file()]
    return not any(SECRET.encode() in path.read_bytes() for path in files)


def _disk_use(stage: Stage) -> float:
    """As a part of the limit; without the write-ahead log, which grows by what is removed, too."""
    rows = stage.bench.log.rows
    return (rows.disk_bytes() - rows.wal_bytes()) / SIZE_LIMIT


def _is_fetched(stage: Stage) -> bool:
    head = stage.bench.log.head(session_key("default", STUB))
    return head is not None and not head.stub


EFFECTS: Final[Mapping[str, Callable[[Stage], bool]]] = {
    "nothing": lambda stage: not stage.asked,
    "polled": lambda stage: "heads" in stage.asked,
    "pushed": lambda stage: not stage.bench.pending(),
    "pulled": _is_pulled,
    "listens": lambda stage: stage.central.listened > stage.listened,
    "followed": _is_followed,
    "sent": _is_sent,
    "put aside": lambda stage: (BAD, "push") in stage.bench.quarantine.all("default"),
    "dropped": lambda stage: not stage.bench.quarantine.all("default") and "bad" not in stage.bench.pending(),
    "shown": lambda stage: stage.worker.status.last_error is not None,
    "tried": lambda stage: bool(stage.asked),
    "waits": _waits,
    "answered": _is_answered,
    "raised": _is_raised,
    "refused": lambda stage: stage.refused,
    "released": _is_released,
    "deleted": _is_deleted,
    "removed": _is_removed,
    "folded": _is_folded,
    "scrubbed": _is_scrubbed,
    "swept": lambda stage: OVER not in stage.central.server.namespace("default").sessions,
    "evicted": lambda stage: _disk_use(stage) <= AT_EASE,
    "fetched": _is_fetched,
}


# Why something can't happen.


async def _lock_is_held(stage: Stage) -> None:
    assert stage.worker.leads
    assert not Leadership(stage.path, "default").take()


async def _no_turn(stage: Stage) -> None:
    assert stage.worker.state != "turning"
    assert not stage.central.running
    assert not stage.worker._rounds.locked()


async def _deaf(stage: Stage) -> None:
    assert not stage.central.server.namespace("default").watchers


async def _no_disk(stage: Stage) -> None:
    """A disk that fails whatever is asked of it is not noticed."""

    def fail(*_: Any) -> Any:
        raise AssertionError("the disk was touched")

    stage.patch.setattr(stage.bench.log.rows, "_using", fail)
    before = stage.worker.state
    for _ in range(10):
        await stage.pass_time(LONGEST_WAIT / 20)
    stage.patch.undo()
    assert (stage.worker.state, stage.asked) == (before, [])


async def _nothing_runs(stage: Stage) -> None:
    assert stage.host._life.done()
    await _no_disk(stage)


async def _no_request(stage: Stage) -> None:
    with pytest.raises(StoreClosed):
        stage.host.submit(_refresh)


REASONS: Final[Mapping[str, Step]] = {
    "it holds the lock": _lock_is_held,
    "no turn runs": _no_turn,
    "it does not listen": _deaf,
    "it touches no disk while it waits": _no_disk,
    "nothing runs": _nothing_runs,
    "no request is taken": _no_request,
}


async def reach(stage: Stage, state: str, event: Event) -> None:
    """Bring the worker into a state in which the event may come."""
    await stage.prepare()
    await event.prepare(stage)
    await event.ways.get(state, WAYS[state])(stage)
    assert stage.worker.state == state
    stage.mark()


def in_a_process(path: Path, clock: Clock, state: str) -> tuple[int, int]:
    """A child process whose worker is in a state: its id, and a pipe that tells when it is."""
    receiver, sender = os.pipe()
    child = os.fork()
    if child:
        os.close(sender)
        return child, receiver
    try:
        asyncio.run(_stay(path, clock, state, sender))
    finally:
        os._exit(1)


async def _stay(path: Path, clock: Clock, state: str, sender: int) -> None:
    stage = Stage(path, clock)
    await reach(stage, state, Event(kill))
    os.write(sender, b"there")
    await asyncio.Event().wait()
