"""The simulation finds what is broken, and every one of its checks can fail."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import tests.simulation.mutated_lives  # noqa: F401 - it registers its own
from tests.simulation.mutations import MUTATIONS, broken
from tests.simulation.run import Failed, simulate

DOCS = Path(__file__).parents[2] / "docs" / "simulation.md"


def found_by(seed: int) -> int:
    """The invariant that does not hold in a universe; -1: all do."""
    try:
        simulate(seed)
    except Failed as error:
        return error.violation.number
    return -1


@pytest.mark.parametrize("name", MUTATIONS)
def test_what_is_broken_is_found(name: str) -> None:
    with broken(name):
        assert any(found_by(seed) == MUTATIONS[name].invariant for seed in MUTATIONS[name].seeds)


def rows_of(heading: str) -> list[list[str]]:
    """The table under a heading of the docs."""
    section = DOCS.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = re.findall(r"^\| (.*) \|$", section, re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in rows[1:]]


def test_the_docs_list_the_same_mutations() -> None:
    listed = [(name, int(invariant)) for name, invariant, _ in rows_of("What it would find")]
    assert listed == [(name, known.invariant) for name, known in MUTATIONS.items()]


def test_every_invariant_has_a_mutation() -> None:
    listed = {int(number) for number, _ in rows_of("What it checks")}
    assert listed == {known.invariant for known in MUTATIONS.values()}
