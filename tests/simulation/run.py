"""A universe from its beginning to its end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tests.simulation import final
from tests.simulation.faults import Faults
from tests.simulation.healing import heal
from tests.simulation.ledger import watched_folding
from tests.simulation.oracle import Violation
from tests.simulation.universe import Universe
from tests.simulation.world import WORLD, deterministic


class Failed(AssertionError):
    """A universe in which an invariant does not hold."""

    def __init__(self, universe: Universe, violation: Violation) -> None:
        last = "\n".join(list(universe.trace)[-30:])
        again = f"python -m tests.simulation {universe.seed} -v"
        super().__init__(f"seed {universe.seed}, step {universe.step}: {violation}\n{last}\nreplay: {again}")
        self.universe = universe
        self.violation = violation


@contextmanager
def quiet() -> Iterator[None]:
    """The product says nothing of what goes wrong: here everything does."""
    logger = logging.getLogger("localfirst")
    before, logger.disabled = logger.disabled, True
    sync_logger = logging.getLogger("localfirst.sync")
    sync_before, sync_logger.disabled = sync_logger.disabled, True
    try:
        yield
    finally:
        logger.disabled, sync_logger.disabled = before, sync_before


def simulate(seed: int) -> Universe:
    """Raises `Failed` if an invariant does not hold in it."""
    with quiet(), deterministic():
        universe = Universe(seed)
        with watched_folding(universe.ledger):
            try:
                _live(universe)
            except Violation as violation:
                raise Failed(universe, violation) from violation
            except Exception as error:
                unforeseen = Violation(0, "nothing unforeseen happens", f"{type(error).__name__}: {error}")
                raise Failed(universe, unforeseen) from error
            finally:
                for directory in universe.directories:
                    directory.kill()
    return universe


def _live(universe: Universe) -> None:
    faults = Faults(universe)
    steps = WORLD.random.choice((100, 200, 300))
    writes = WORLD.random.choice((0.1, 0.2, 0.4))
    for universe.step in range(steps):
        WORLD.now += 0.5
        chance = WORLD.random.random()
        if chance < faults.often:
            faults.strike()
        elif chance < faults.often + writes:
            universe.act()
        elif chance < faults.often + writes + 0.1:
            universe.begin_job()
        elif universe.weather.later and chance > 0.97:
            universe.arrive()
        else:
            universe.go_on()
        if universe.lives is not None and chance > 0.9:
            universe.peek()
    heal(universe, faults)
    final.check(universe)
