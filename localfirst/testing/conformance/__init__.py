"""The conformance suite for central stores: what localfirst relies on, one case per rule.

A backend passes every case of `CASES`, and `HINT_CASES` too if its `watch` gives hints. With pytest and pytest-asyncio:

    import pytest
    pytest.register_assert_rewrite("localfirst.testing.conformance")
    from localfirst.testing.conformance import CASES, HINT_CASES, check

    @pytest.mark.asyncio
    @pytest.mark.parametrize("case", CASES + HINT_CASES, ids=lambda case: case.__name__)
    async def test_conformance(case):
        await check(case, lambda namespace: MyStore("my://server", namespace))

Without it: `asyncio.run(check(case, connect))` for each. A case makes namespaces of its own, with random names, so a
server can be shared and needs no cleaning in between. That a newer or older format is refused every backend tests
by itself, as only it knows how to write one.
"""

from localfirst.testing.conformance import (
    compacting,
    comparing,
    ending,
    identity,
    naming,
    pulling,
    pushing,
    remaking,
    replicas,
    watching,
)
from localfirst.testing.conformance.harness import Bench, Case, Connect, check

CASES: tuple[Case, ...] = (
    *identity.CASES,
    *pushing.CASES,
    *pulling.CASES,
    *comparing.CASES,
    *compacting.CASES,
    *remaking.CASES,
    *ending.CASES,
    *replicas.CASES,
    *naming.CASES,
)
"""What every backend passes."""

HINT_CASES: tuple[Case, ...] = watching.CASES
"""What a backend passes whose `watch` gives hints."""

__all__ = ["CASES", "HINT_CASES", "Bench", "Case", "Connect", "check"]
