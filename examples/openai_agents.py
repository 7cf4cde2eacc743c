"""The OpenAI Agents SDK with a local-first session: the Runner is unmodified, the session is all that changes.

    pip install '.[openai-agents]'
    python examples/openai_agents.py

Without OPENAI_API_KEY a scripted model answers, so that this runs anywhere; with it, the SDK's default model does.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import uuid
from pathlib import Path

from agents import Agent, Runner, function_tool, set_tracing_disabled
from agents.testing import ScriptedModel, assistant_message, function_call

from localfirst.integrations.openai_agents import SQLiteSession  # was: from agents import SQLiteSession


@function_tool
def river_level(river: str) -> str:
    """The level of a river, in centimetres."""
    return f"{river}: 212 cm, falling"


def make_agent() -> Agent[None]:
    """An agent with one tool."""
    agent = Agent(name="Guide", instructions="Answer briefly. Use the tool for river levels.", tools=[river_level])
    if "OPENAI_API_KEY" not in os.environ:
        set_tracing_disabled(True)  # Traces would go to the API.
        agent.model = scripted_model()
    return agent


def scripted_model() -> ScriptedModel:
    """Calls the tool, then answers; then answers a second question from the history."""
    return ScriptedModel(
        [
            [function_call("river_level", {"river": "Drava"}, call_id="call_1")],
            [assistant_message("The Drava stands at 212 cm and is falling: fine for canoes.")],
            [assistant_message("It was 212 cm when I looked.")],
        ]
    )


async def main() -> None:
    """Ask on one replica, ask again on another, which knows what was said."""
    agent = make_agent()
    session_id = f"canoe-{uuid.uuid4().hex[:8]}"
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()

        async with SQLiteSession(session_id, Path(scratch) / "laptop", remote=remote) as session:
            result = await Runner.run(agent, "Can we canoe on the Drava today?", session=session)
            print("laptop: ", result.final_output)

        async with SQLiteSession(session_id, Path(scratch) / "server", remote=remote) as session:
            result = await Runner.run(agent, "What was the level again?", session=session)
            print("server: ", result.final_output)
            print("history:", [item.get("type", item.get("role")) for item in await session.get_items()])


if __name__ == "__main__":
    asyncio.run(main())
