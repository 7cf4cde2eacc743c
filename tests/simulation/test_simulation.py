"""Two thousand universes, and that none of them depends on anything but its seed."""

from __future__ import annotations

import pytest

from tests.simulation.run import simulate

CHUNKS, SEEDS = 20, 100


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_invariant_holds(chunk: int) -> None:
    for seed in range(chunk * SEEDS, (chunk + 1) * SEEDS):
        simulate(seed)


@pytest.mark.parametrize("seed", [3, 77, 1000, 1001])
def test_a_seed_is_one_universe(seed: int) -> None:
    assert list(simulate(seed).trace) == list(simulate(seed).trace)
