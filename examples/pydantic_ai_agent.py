"""An agent of Pydantic AI with its message history in a session, which goes on elsewhere.

    pip install '.[pydantic-ai]'
    python examples/pydantic_ai_agent.py

A model for tests calls the tool and answers, so that this runs anywhere; any model of Pydantic AI takes its place.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from pathlib import Path

from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

import localfirst
from localfirst.integrations.pydantic_ai import ahistory, arecord

agent = Agent(TestModel(custom_output_text="It stands at 212 cm."), instructions="Use the tool for river levels.")


@agent.tool_plain
def river_level(river: str) -> str:
    """The level of a river, in centimetres."""
    return f"{river}: 212 cm, falling"


async def ask(session: localfirst.Session, question: str) -> None:
    """A run with the history of the session, of which it becomes a part."""
    result = await agent.run(question, message_history=await ahistory(session))
    await arecord(session, result)
    print(f"{question} {result.output} ({len(result.new_messages())} new messages of {len(result.all_messages())})")


async def main() -> None:
    """Ask on one replica, then on another."""
    session_id = f"canoe-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()
        for machine, question in (("laptop", "How high is the Drava?"), ("server", "And now?")):
            async with localfirst.open(Path(scratch) / machine, remote=remote) as store:
                await ask(store.session(session_id), question)


if __name__ == "__main__":
    asyncio.run(main())
