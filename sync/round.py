"""What a round of replication is told, and what became of its sessions."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from localfirst.errors import LocalFirstError
from localfirst.records import Direction, SessionKey


class Refusal(NamedTuple):
    """Why a session can't be synced in one direction."""

    error: LocalFirstError
    place: int = 0
    """push: the slot of the change that is refused; pull: the seq of the one that can't be read."""
    changes: int = 1
    """push: how many are refused from there on; more than one if they are a turn. 0: none, the log can't be read."""
    mark: str = ""
    """pull: of that one, see `localfirst.checkpoint.hash_of`."""
    lost: bool = False
    """The central store has lost it, and somebody is to say what becomes of it."""


@dataclass
class Round:
    """One round: who it is with, and how its sessions came out of it."""

    push: set[SessionKey] = field(default_factory=set)
    """There is more to push."""
    pull: set[SessionKey] = field(default_factory=set)
    """There is more to pull."""
    refused: dict[tuple[SessionKey, Direction], Refusal] = field(default_factory=dict)
    """Can't be synced until somebody acts; the others went on."""
    one_way: frozenset[SessionKey] = frozenset()
    """Of these nothing can be pulled."""
    store_id: str = ""
    """The central store, by its id, once it is known."""
