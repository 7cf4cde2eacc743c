"""What all do that do what users do."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def _no_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of whoever runs the tests is in the environment."""
    for name in ("LOCALFIRST_HOME", "LOCALFIRST_REMOTE", "LOCALFIRST_KEY", "LOCALFIRST_KEY_FILE"):
        monkeypatch.delenv(name, raising=False)
