"""Limits that part no turn: what a model is given of a long history."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import localfirst
from localfirst.jsonvalue import encode
from localfirst.windows import whole_turns


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    """A store of its own."""
    with localfirst.open(tmp_path) as opened:
        yield opened


USER = {"role": "user", "content": "2 + 3?"}
SAID = {"type": "message", "role": "assistant", "content": "5"}
THOUGHT = {"type": "reasoning", "id": "rs_1", "summary": []}


def call(name: str) -> dict[str, Any]:
    """A tool call."""
    return {"type": "function_call", "call_id": name, "name": "add", "arguments": "{}"}


def output(name: str) -> dict[str, Any]:
    """What it came to."""
    return {"type": "function_call_output", "call_id": name, "output": "5"}


def cut(items: list[Any], limit: int) -> list[Any]:
    """The last whole turns."""
    return whole_turns([json.dumps(item).encode() for item in items], limit)


TURN = [USER, call("a"), output("a"), SAID]
NEXT = [USER, THOUGHT, call("b"), call("c"), output("b"), output("c"), SAID]


@pytest.mark.parametrize(("limit", "begins"), [(0, 11), (1, 4), (6, 4), (7, 4), (8, 4), (10, 4), (11, 0), (100, 0)])
def test_a_limit_gives_whole_turns_and_the_newest_at_least(limit: int, begins: int) -> None:
    history = TURN + NEXT
    assert cut(history, limit) == history[begins:]


def test_an_output_that_comes_after_a_later_question_brings_its_call() -> None:
    late = [USER, call("a"), USER, output("a"), SAID]
    assert cut(late[1:], 1) == late[1:]
    assert cut(TURN + late, 3) == late  # The last two items would be an output without its call.
    assert cut(TURN + late, 5) == late


def test_without_questions_no_call_is_parted_from_its_output() -> None:
    items = [THOUGHT, call("a"), output("a"), SAID, THOUGHT, call("b"), output("b"), SAID]
    assert [len(cut(items, limit)) for limit in range(9)] == [0, 1, 1, 1, 4, 5, 5, 5, 8]


def test_an_output_whose_call_is_gone_hides_nothing() -> None:
    history = [*TURN, USER, output("lost"), SAID]
    assert cut(history, 3) == history[4:]
    assert cut(history, 7) == history


@pytest.mark.parametrize(
    "pair",
    [
        ({"role": "assistant", "tool_calls": [{"id": "a"}]}, {"role": "tool", "tool_call_id": "a", "content": "5"}),
        ({"type": "local_shell_call", "id": "x", "call_id": "a"}, {"type": "local_shell_call_output", "id": "a"}),
        ({"type": "mcp_approval_request", "id": "a"}, {"type": "mcp_approval_response", "approval_request_id": "a"}),
        ({"type": "custom_tool_call", "call_id": 'ä"'}, {"type": "custom_tool_call_output", "call_id": 'ä"'}),
    ],
    ids=["chat", "shell", "approval", "custom"],
)
def test_calls_and_outputs_of_every_kind_stay_together(pair: tuple[Any, Any]) -> None:
    items = [SAID, *pair]
    whole = [json.dumps(item, ensure_ascii=False).encode() for item in items]
    assert [len(whole_turns(whole, limit)) for limit in range(4)] == [0, 0, 2, 3]


calls = st.sampled_from("abcd")
kinds = st.one_of(st.just(USER), st.just(SAID), st.just(THOUGHT), calls.map(call), calls.map(output), st.just("odd"))


@given(st.lists(kinds, max_size=12), st.integers(0, 14))
def test_whatever_the_history_no_output_comes_without_a_call_that_is_there(history: list[Any], limit: int) -> None:
    found = cut(history, limit)
    assert found == history[len(history) - len(found) :]
    left = history[: len(history) - len(found)]
    for place, item in enumerate(found):
        if isinstance(item, dict) and str(item.get("type")).endswith("_output"):
            assert call(item["call_id"]) in found[:place] or call(item["call_id"]) not in left
    if USER in history and limit:
        assert USER in found
    elif USER not in history:
        assert len(found) <= limit


async def test_a_session_cuts_at_turns_where_it_is_told_to(store: localfirst.Store) -> None:
    session = store.session("s", session_settings={"limit": 3})
    await session.add_items(TURN + TURN)
    assert await session.get_items() == TURN[1:]
    assert await session.get_items(whole_turns=True) == TURN
    assert await session.get_items(limit=8, whole_turns=True) == TURN + TURN
    assert await session.get_items(limit=-1, whole_turns=True) == TURN + TURN
    turned = store.session("s", session_settings={"limit": 3}, whole_turns=True)
    assert await turned.get_items() == TURN
    assert await turned.get_items(limit=3) == TURN  # As the SDK's runner asks, with the setting of the session.
    assert await turned.get_items(limit=2) == TURN[2:]  # As it looks at what it wrote last: exactly so many.
    assert await turned.get_items(whole_turns=False) == TURN[1:]


def test_outputs_whose_calls_are_gone_take_no_longer_than_others() -> None:
    """Each one looks for its call; nobody may look through the whole history for each."""
    history = [encode({"type": "function_call", "call_id": "first"})]
    history += [encode({"type": "function_call_output", "call_id": f"c{number}"}) for number in range(20_000)]
    history += [encode({"type": "function_call_output", "call_id": "same"}) for _ in range(20_000)]
    began = time.process_time()
    assert len(whole_turns(history, 20)) == 20
    assert len(whole_turns([*history, encode({"type": "function_call_output", "call_id": "first"})], 20)) == 0
    assert time.process_time() - began < 20
