"""Marks every test in this directory as one that needs real servers; fixtures that most of them share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import localfirst
from tests.faults.devices import Begin, Devices
from tests.integration.stores import Open

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests below this directory; pytest hands every hook the tests of all directories."""
    for item in items:
        if _HERE in item.path.parents:
            item.add_marker(pytest.mark.integration)


@pytest.fixture
def namespace() -> str:
    """One that no other test has, for central stores that tests share."""
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def opened(tmp_path: Path, namespace: str) -> Iterator[Open]:
    """Open stores by the name of their directory; closed after the test."""
    with ExitStack() as stack:

        def open_store(name: str, remote: str | None, **options: Any) -> localfirst.Store:
            options = {"namespace": namespace, "poll_interval": 0.1, **options}
            return stack.enter_context(localfirst.open(tmp_path / name, remote=remote, **options))

        yield open_store


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    """Devices for a central store; closed after the test."""
    with ExitStack() as stack:

        def make(remote: str) -> Devices:
            devices = Devices(tmp_path, remote)
            stack.callback(devices.close)
            return devices

        yield make
