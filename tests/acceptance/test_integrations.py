"""Integrations cost nothing where they are not used, and say what to install where that is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from agents import Agent, RunConfig, Runner
from agents.testing import ScriptedModel, assistant_message
from langchain_core.messages import AIMessage, HumanMessage
from pydantic_ai.messages import ModelRequest, ModelResponse, TextPart, UserPromptPart

import localfirst
from localfirst.integrations.langchain import LocalFirstChatMessageHistory
from localfirst.integrations.pyai import InMemorySession
from localfirst.integrations.pydantic_ai import ahistory, arecord

NO_TRACES = RunConfig(tracing_disabled=True)
PACKAGES = "agents fastapi langchain_core openstackai pydantic_ai starlette"
EXTRAS = {"langchain": "langchain_core", "pydantic_ai": "pydantic_ai", "fastapi": "fastapi"}


def run(code: str) -> str:
    """What a program prints."""
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60).stdout


def test_importing_localfirst_imports_none_of_them() -> None:
    modules = [path.stem for path in Path(localfirst.__file__).parent.glob("*.py") if not path.stem.startswith("_")]
    code = f"import sys, localfirst\nfor name in {modules}: __import__('localfirst.' + name)\n"
    code += "import localfirst.integrations.pyai\n"
    assert run(code + f"print(set({PACKAGES.split()}) & set(sys.modules))") == "set()\n"


@pytest.mark.parametrize("module", EXTRAS)
def test_a_missing_package_is_named_with_its_extra(module: str) -> None:
    code = f"""
import sys
sys.modules[{EXTRAS[module]!r}] = None
import localfirst
try:
    import localfirst.integrations.{module}
except ImportError as error:
    print(isinstance(error, localfirst.ConfigurationError), error)
"""
    told = run(code)
    assert told.startswith("True ")
    assert f"pip install 'localfirst[{module.replace('_', '-')}]'" in told


async def test_all_see_what_each_says() -> None:
    said = ["Hello", "Hi!", "I am Alice", "Noted.", "And Bob", "Both?", "A question", "An answer"]
    async with InMemorySession() as session:
        session.add_message("user", said[0])
        session.add_message("assistant", said[1])
        chain = LocalFirstChatMessageHistory(session)
        await chain.aadd_messages([HumanMessage(said[2], id="message-1"), AIMessage(said[3], id="run-1")])
        await arecord(
            session, [ModelRequest(parts=[UserPromptPart(said[4])]), ModelResponse(parts=[TextPart(said[5])])]
        )
        agent = Agent(name="Assistant", model=ScriptedModel([[assistant_message(said[7])]]))
        await Runner.run(agent, said[6], session=session, run_config=NO_TRACES)

        assert [message.text for message in chain.messages] == said
        assert [part.content for message in await ahistory(session) for part in message.parts] == said  # type: ignore[union-attr]
        roles = [message["role"] for message in session.get_messages()]
        assert roles == ["user", "assistant"] * 4
        assert [message.type for message in chain.messages] == ["human", "ai"] * 4
