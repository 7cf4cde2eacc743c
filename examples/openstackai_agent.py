"""An agent of openstackai (pyai) that remembers: its documented session, local-first.

    pip install . openstackai
    python examples/openstackai_agent.py

A scripted model answers, so that this runs anywhere; `OpenAIProvider` of openstackai takes its place.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path
from typing import Any

from openstackai.core.agent import Agent
from openstackai.core.llm import LLMProvider, LLMResponse
from openstackai.instructions import Instruction

from localfirst.integrations.pyai import SQLiteSession


class Listener(LLMProvider):
    """Answers from what it was told."""

    async def complete(self, system_prompt: str, messages: list[dict[str, str]], **_: Any) -> str:
        """The answer to the last message."""
        told = [message["content"] for message in messages if message["content"].startswith("My name is ")]
        name = told[-1].removeprefix("My name is ").rstrip(".") if told else "somebody"
        if messages[-1]["content"].endswith("?"):
            return f"You are {name}."
        return f"Hello {name}!" if "briefly" in system_prompt else f"Hello {name}, what a beautiful day it is!"

    async def complete_with_tools(
        self, system_prompt: str, messages: list[dict[str, str]], tools: list[dict[str, Any]], **_: Any
    ) -> LLMResponse:
        """Not used here."""
        raise NotImplementedError

    async def stream(self, system_prompt: str, messages: list[dict[str, str]], **_: Any) -> None:
        """Not used here."""
        raise NotImplementedError


async def ask(directory: Path, remote: str, question: str) -> None:
    """Another agent each time, with the same session."""
    async with SQLiteSession(directory, "user-123", remote=remote, namespace="openstackai-example") as session:
        memory: Any = session
        agent = Agent("Assistant", Instruction(content="Answer briefly."), llm=Listener(), memory=memory)
        print(f"{directory.name}: {(await agent.run(question)).content}")


async def main() -> None:
    """Tell it something on one machine, ask on another."""
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()
        await ask(Path(scratch) / "laptop", remote, "My name is Alice.")
        await ask(Path(scratch) / "server", remote, "What is my name?")


if __name__ == "__main__":
    asyncio.run(main())
