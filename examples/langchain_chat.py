"""A chain of LangChain with a session for each user as its message history.

    pip install '.[langchain]'
    python examples/langchain_chat.py

A scripted model answers, so that this runs anywhere; any chat model of LangChain takes its place.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import warnings
from pathlib import Path

from langchain_core.language_models import FakeListChatModel
from langchain_core.prompts import ChatPromptTemplate, MessagesPlaceholder
from langchain_core.runnables import RunnableConfig
from langchain_core.runnables.history import RunnableWithMessageHistory

import localfirst
from localfirst.integrations.langchain import LocalFirstChatMessageHistory


def chain(store: localfirst.Store) -> RunnableWithMessageHistory:
    """Questions and answers, with what was said before."""
    prompt = ChatPromptTemplate.from_messages(
        [("system", "Answer briefly."), MessagesPlaceholder("history"), ("human", "{question}")]
    )
    model = FakeListChatModel(responses=["The Drava stands at 212 cm.", "Fine for canoes."])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Newer versions of LangChain would rather have graphs.
        return RunnableWithMessageHistory(
            prompt | model,
            lambda session_id: LocalFirstChatMessageHistory(store.session(session_id)),
            input_messages_key="question",
            history_messages_key="history",
        )


async def main() -> None:
    """Two questions of one user; then what any other program sees of them."""
    ann: RunnableConfig = {"configurable": {"session_id": "ann"}}
    with tempfile.TemporaryDirectory() as scratch:
        remote = os.environ.get("LOCALFIRST_REMOTE") or (Path(scratch) / "central").as_uri()
        async with localfirst.open(Path(scratch) / "store", remote=remote, namespace="langchain-example") as store:
            guide = chain(store)
            for question in ("How high is the Drava?", "Can we canoe?"):
                await guide.ainvoke({"question": question}, ann)
            for message in store.session("ann").get_messages()[-4:]:
                print(f"{message['role']}: {message['content']}")


if __name__ == "__main__":
    asyncio.run(main())
