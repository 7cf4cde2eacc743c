"""How long tests of chance go on, and how one of their runs is had again.

- `LOCALFIRST_SOAK=1`: ten times as long as in CI.
- `LOCALFIRST_SEED=…`: the seed that a test which failed has printed.
"""

from __future__ import annotations

import os
import random
from typing import Final

SOAK: Final = os.environ.get("LOCALFIRST_SOAK", "") not in ("", "0")
"""Whether there is time."""

TIMES: Final = 10 if SOAK else 1
"""As long as in CI."""


def seed() -> int:
    """The seed that was asked for, else a new one; printed, so that pytest shows it with a failure."""
    chosen = int(os.environ.get("LOCALFIRST_SEED") or random.randrange(2**32))
    print(f"LOCALFIRST_SEED={chosen}")
    return chosen
