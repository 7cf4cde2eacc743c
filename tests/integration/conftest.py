"""Marks every test in this directory as one that needs real servers."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests below this directory; pytest hands every hook the tests of all directories."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)
