"""The conversation that the demo plays: OpenAI Responses items, with tool calls and their outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Item = dict[str, Any]

_NAME = "conversation.json"


@dataclass(frozen=True)
class Turn:
    """What a user says, and everything up to the agent's answer."""

    items: list[Item] = field(default_factory=list)

    @property
    def tools(self) -> list[str]:
        """The names of the tools that were called, in order."""
        return [item["name"] for item in self.items if item.get("type") == "function_call"]


def load() -> list[Turn]:
    """The turns of the conversation, in order."""
    turns: list[Turn] = []
    for item in json.loads(_file().read_text(encoding="utf-8")):
        if item.get("role") == "user":
            turns.append(Turn())
        turns[-1].items.append(item)
    return turns


def _file() -> Path:
    """Beside this module in a wheel, among the examples in a checkout."""
    here = Path(__file__)
    packaged = here.with_name(_NAME)
    return packaged if packaged.exists() else here.parents[3] / "examples" / "data" / _NAME
