"""The end: nothing goes wrong any more, all replicas turn to the central store until there is nothing left to do."""

from __future__ import annotations

from localfirst.records import session_key
from tests.simulation import jobs
from tests.simulation.faults import Faults
from tests.simulation.oracle import Violation
from tests.simulation.replica import Process
from tests.simulation.server import NAMESPACE
from tests.simulation.universe import Universe
from tests.simulation.world import WORLD

MOST_PASSES = 40
MOST_AWAITS = 4_000


def heal(universe: Universe, faults: Faults) -> None:
    """Until all is quiet."""
    universe.weather.clear()
    goes_on = universe.seed % 2 == 0
    if goes_on:
        _go_on(universe)
    if universe.lives is not None:
        WORLD.now += WORLD.random.choice((0.0, 0.0, 10.0, 100.0, 5000.0))
    if not goes_on:
        _start_again(universe)
    _let_go_on(universe)
    _settle(universe)
    _let_go_on(universe)
    if WORLD.random.random() < 0.7:
        _give_up(universe, faults)
    _settle(universe)
    if universe.lives is not None:
        _bring_back(universe)


def _start_again(universe: Universe) -> None:
    for directory in universe.directories:
        directory.kill()
    for directory in universe.directories:
        universe.start(directory)


def _go_on(universe: Universe) -> None:
    """What runs finishes what it is at: what a process forgets to do, the next one would find on the disk."""
    for directory in universe.directories:
        for process in list(directory.processes):
            process.life.fuse, process.worker._contact.identified = None, False  # Its clock may have been set.
            if process.task is not None:
                _to_its_end(universe, process)
        if not directory.processes:
            universe.start(directory)
    WORLD.alive.clear()  # Nobody is in a turn any more.


def _give_up(universe: Universe, faults: Faults) -> None:
    """Somebody gives up all that is stopped."""
    for directory in universe.directories:
        for session in universe.sessions:
            while faults.give_up_in(directory, session):
                _settle(universe)


def _bring_back(universe: Universe) -> None:
    """What was evicted is asked for."""
    for directory in universe.directories:
        for session in universe.sessions:
            head = directory.head(session)
            if head is not None and head.stub:
                run(universe, directory.processes[0], jobs.of_session(session))
    _settle(universe)


def _let_go_on(universe: Universe, *, lost: bool = False) -> None:
    """Somebody consents to everything; `lost`: only to what the central store has lost."""
    for directory in universe.directories:
        directory.identity.accept(NAMESPACE)
        for key in (session_key(NAMESPACE, session) for session in universe.sessions):
            aside = directory.quarantine.get(key, "push")
            if not lost or (aside is not None and aside.lost):
                directory.quarantine.retry(key)


def _settle(universe: Universe) -> None:
    for count in range(MOST_PASSES):
        before = _state(universe)
        if count % 3 == 0:
            _all_at_once(universe, jobs.discover)
        _all_at_once(universe, jobs.poll)
        if universe.ask:
            _let_go_on(universe, lost=True)
        if _state(universe) == before and count % 3 == 1:
            return
    raise Violation(9, "sync comes to an end", f"there is still something to do after {MOST_PASSES} passes")


def _state(universe: Universe) -> list[object]:
    heads = [directory.head(session) for directory in universe.directories for session in universe.sessions]
    return [*heads, *(session.head for session in universe.server.sessions.values())]


def _all_at_once(universe: Universe, job: jobs.Job) -> None:
    processes = [process for directory in universe.directories for process in directory.processes]
    if WORLD.random.random() < 0.5:
        for process in processes:
            run(universe, process, job)
        return
    for process in processes:
        process.task = jobs.guarded(process, job)
    for _ in range(MOST_AWAITS):
        busy = [process for process in processes if process.task is not None]
        if not busy:
            return
        universe.advance(WORLD.random.choice(busy), WORLD.random.choice((1, 5, 20)))
    raise Violation(9, "sync comes to an end", "a round does not end")


def run(universe: Universe, process: Process, job: jobs.Job) -> None:
    """One job alone, to its end."""
    process.task = jobs.guarded(process, job)
    _to_its_end(universe, process)


def _to_its_end(universe: Universe, process: Process) -> None:
    universe.advance(process, MOST_AWAITS)
    if process.task is not None:
        raise Violation(9, "sync comes to an end", "a round does not end")
