"""`AdvancedSQLiteSession` on two devices, through real central stores: branches are seen, and usage adds up."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agents.usage import Usage

from localfirst.integrations.openai_agents import AdvancedSQLiteSession

QUESTION = {"role": "user", "content": "2 + 3?"}
ANSWER = {"role": "assistant", "content": "5"}


async def use(session: AdvancedSQLiteSession, tokens: int) -> None:
    usage = Usage(requests=1, input_tokens=tokens, total_tokens=tokens)
    result: Any = SimpleNamespace(context_wrapper=SimpleNamespace(usage=usage))
    await session.store_run_usage(result)


async def sync(*sessions: AdvancedSQLiteSession) -> None:
    for session in (*sessions, sessions[0]):
        await session.aflush(30)
        await session.arefresh(30)


async def test_two_devices(tmp_path: Path, remote_url: str) -> None:
    table = f"test_{uuid.uuid4().hex}"

    def device(name: str) -> AdvancedSQLiteSession:
        return AdvancedSQLiteSession(session_id="s", db_path=tmp_path / name, remote=remote_url, sessions_table=table)

    async with device("a") as a, device("b") as b:
        await a.add_items([QUESTION, ANSWER, QUESTION])
        await use(a, 100)
        await a.create_branch_from_turn(2, "draft")
        await sync(a, b)
        assert await b.get_items() == [QUESTION, ANSWER, QUESTION]
        assert [branch["branch_id"] for branch in await b.list_branches()] == ["main", "draft"]
        await b.switch_to_branch("draft")
        for session, tokens in (a, 200), (b, 300):  # Neither knows what the other writes.
            await session.add_items([QUESTION])
            await use(session, tokens)
        await sync(a, b)
        for session in a, b:
            turns: Any = await session.get_turn_usage(branch_id="draft")
            assert sorted(turn["input_tokens"] for turn in turns) == [200, 300]
            assert await session.get_session_usage() == {
                "requests": 3,
                "input_tokens": 600,
                "output_tokens": 0,
                "total_tokens": 600,
                "total_turns": 3,
            }
            branches = [(each["branch_id"], each["message_count"]) for each in await session.list_branches()]
            assert branches == [("main", 3), ("draft", 4)]
            assert (session.metadata(), session.conflicts()) == ({}, [])
        await a.delete_branch("draft", force=True)
        await sync(a, b)
        await b.switch_to_branch("main")
        assert (await b.get_usage_stats() or {})["input_tokens"] == 100
        await b.create_branch_from_turn(2, "again")
        await sync(b, a)
        await a.clear_session()
        await sync(a, b)
        assert (await b.get_usage_stats(), await b.list_branches()) == (None, [])
        await b.add_items([QUESTION])
        assert b._current_branch_id == "main"


async def test_what_another_device_did_not_know_of_survives_a_clear(tmp_path: Path, central: str) -> None:
    async with (
        AdvancedSQLiteSession(session_id="s", db_path=tmp_path / "a", remote=central) as a,
        AdvancedSQLiteSession(session_id="s", db_path=tmp_path / "b", remote=central) as b,
    ):
        await a.add_items([QUESTION, ANSWER])
        await use(a, 100)
        await sync(a, b)
        await b.create_branch_from_turn(1, "draft")
        await b.add_items([QUESTION])
        await use(b, 200)
        await a.clear_session()
        await sync(a, b)
        for session in a, b:
            assert [branch["branch_id"] for branch in await session.list_branches()] == ["draft"]
            assert (await session.get_usage_stats() or {})["input_tokens"] == 200
