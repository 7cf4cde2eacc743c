"""What replicas that write at random have done, so that it can be held against what is shown in the end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

SESSIONS: Final = ("s0", "s1", "s2", "s3")
"""They stay."""
BULKY: Final = tuple(f"bulky-{number}" for number in range(6))
"""They stay, and are too large to be all on one disk."""
FLEETING: Final = "fleeting"
"""It stays, and its items expire."""
BRIEF: Final = "brief-"
"""Sessions with such ids expire."""

Call = tuple[str, str, int]
"""Session or `branch_place`, name of the replica, number of the call."""
Item = tuple[str, str, int, int]
"""The call, and the place among what it added."""


def ending_sessions(name: str) -> tuple[str, str]:
    """Those that one replica deletes again and again, while all write to them."""
    return f"ending-{name}-0", f"ending-{name}-1"


def branch_place(session: str, branch: str) -> str:
    """Where an item was added."""
    return f"{session}@{branch}"


def item_of(shown: Any) -> Item:
    """An item as a session shows it."""
    session, name, number, part, *_ = shown
    return session, name, number, part


@dataclass
class Ledger:
    """What one replica did; every call in it has returned."""

    changes: Counter[str] = field(default_factory=Counter)
    """How many calls changed each session that stays."""
    added: dict[Call, int] = field(default_factory=dict)
    """How many items each call added."""
    popped: set[Item] = field(default_factory=set)
    """From main."""
    increments: Counter[str] = field(default_factory=Counter)
    """By session."""
    values: dict[tuple[str, str], list[Any]] = field(default_factory=dict)
    """What was set, by session and key. Keys are named for their rules."""
    touched: set[str] = field(default_factory=set)
    """Sessions that are to live for an hour from then on."""
    forked: set[str] = field(default_factory=set)
    """Branches, see `branch_place`."""
    dropped: set[str] = field(default_factory=set)
    """Branches that were deleted."""
    deleted: set[Item] = field(default_factory=set)
    """What was shown here in a session when it was deleted."""
    begun: dict[str, set[Call]] = field(default_factory=dict)
    """Calls after the last deletion of each session that only this replica deletes."""

    def items(self, *places: str) -> set[Item]:
        """What was added there."""
        return {(*call, part) for call, size in self.added.items() if call[0] in places for part in range(size)}
