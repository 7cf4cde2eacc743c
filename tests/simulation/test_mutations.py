"""The simulation finds what is broken."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.simulation.mutations import MUTATIONS, broken
from tests.simulation.run import Failed, simulate

DOCS = Path(__file__).parents[2] / "docs" / "simulation.md"
MOST_SEEDS = 2000


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_broken_is_found(name: str) -> None:
    with broken(name):
        for seed in range(MOST_SEEDS):
            try:
                simulate(seed)
            except Failed:
                return
    pytest.fail(f"no invariant noticed in {MOST_SEEDS} universes that {name}")


def test_the_docs_list_the_same_mutations() -> None:
    rows = re.findall(r"^\| ([^|]+?) \| (?:\d+[^|]*) \| (?:[^|]*\d[^|]*) \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == list(MUTATIONS)
