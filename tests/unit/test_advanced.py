"""`AdvancedSQLiteSession` beside the one that it takes the place of: the same calls, the same answers."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from agents.extensions.memory import AdvancedSQLiteSession as Theirs
from agents.memory import SessionSettings
from agents.usage import Usage
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from openai.types.responses.response_usage import InputTokensDetails, OutputTokensDetails

import localfirst
from localfirst import ConfigurationError, SessionEvent
from localfirst.integrations.openai_agents import AdvancedSQLiteSession, SQLiteSession
from localfirst.metadata import OWN
from localfirst.records import Rename, session_key
from localfirst.rows import Rows

QUESTION = {"role": "user", "content": "2 + 3?"}
ANSWER = {"role": "assistant", "content": "5"}
TURN = [
    QUESTION,
    {"type": "function_call", "name": "add", "call_id": "c1", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "c1", "output": "5"},
    {"type": "function_call", "name": "add", "call_id": "c2", "arguments": "{}", "namespace": "math"},
    ANSWER,
]
ODD = [
    "no dict",
    {"type": "shell_call"},
    {"type": "apply_patch_call", "name": "ignored"},
    {"type": "local_shell_call"},
    {"type": "tool_search_output"},
    {"type": "function_call"},
    {"type": "function_call", "name": "same", "namespace": "same"},
    {"type": "function_call", "name": "", "namespace": "empty"},
    {"type": "function_call", "name": 5, "namespace": 7},
    {"type": "mcp_call", "server_label": "docs", "name": "search"},
    {"type": "mcp_call", "server_label": "docs"},
    {"type": "mcp_approval_request", "name": "search"},
    {"type": "mcp_approval_request", "name": "search", "server_label": None},
    {"type": "custom_tool_call", "name": "zeta"},
    {"type": "custom_tool_call", "name": "Ätna"},
    {"type": "computer_call"},
    {"type": "reasoning", "summary": []},
    {"type": 5, "role": "system"},
    {"role": "user", "type": "message", "name": "Ada", "content": [{"type": "input_text", "text": "Wie heißt das?"}]},
    {"type": "tool_search_output"},
    {"type": "tool_search_call"},
    {"type": "tool_search_call"},
    {"role": "assistant", "type": "message", "content": [{"type": "output_text", "text": "2 + 3"}]},
    {"role": "user", "content": 'She said "50 %_"\nand left\\'},
    {"role": "user"},
    {"role": "user", "content": "x" * 101},
]
READS = (
    ("get_items",),
    ("get_items", 2),
    ("get_items", 0),
    ("get_items", -1),
    ("get_conversation_turns",),
    ("get_conversation_by_turns",),
    ("get_tool_usage",),
    ("get_turn_usage",),
    ("get_turn_usage", 1),
    ("get_session_usage",),
    ("find_turns_by_content", "2 + 3"),
    ("list_branches",),
)
Call = tuple[Any, ...]


def result(requests: int = 1, tokens: int = 100, **details: Any) -> Any:
    """Of a run that has used so much."""
    usage = Usage(requests=requests, input_tokens=tokens, output_tokens=10, total_tokens=tokens + 10, **details)
    return SimpleNamespace(context_wrapper=SimpleNamespace(usage=usage))


async def outcome(session: Any, call: Call) -> Any:
    """What a call gives, or raises, without times."""
    name, *arguments = call
    keywords = arguments.pop() if arguments and isinstance(arguments[-1], dict) else {}
    try:
        found = await getattr(session, name)(*arguments, **keywords)
    except ValueError as error:
        return str(error)
    if name == "list_branches":
        found.sort(key=lambda branch: branch["branch_id"])
    return without_times(found)


def without_times(found: Any) -> Any:
    if isinstance(found, list):
        return [without_times(each) for each in found]
    if isinstance(found, dict):
        times = [found[key] for key in ("created_at", "timestamp") if key in found]
        assert all(re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", time) for time in times)
        return {key: each for key, each in found.items() if key not in ("created_at", "timestamp")}
    return re.sub(r"(turn_\d+_)\d+", r"\1<time>", found) if isinstance(found, str) else found


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path / "store") as store:
        yield store


@pytest.fixture
def ours(store: localfirst.Store) -> AdvancedSQLiteSession:
    return AdvancedSQLiteSession(session_id="s", store=store)


@pytest.fixture
def theirs() -> Iterator[Theirs]:
    session = Theirs(session_id="s", create_tables=True)
    yield session
    session.close()


async def both(ours: Any, theirs: Any, *calls: Call) -> None:
    """Every call gives the same on both; so does all that can be read after it."""
    for call in calls:
        assert await outcome(ours, call) == await outcome(theirs, call), call
        for read in READS:
            assert await outcome(ours, read) == await outcome(theirs, read), (call, read)


SCRIPTS: dict[str, list[Call]] = {
    "nothing": [("store_run_usage", result()), ("pop_item",), ("clear_session",), ("add_items", [])],
    "turns": [("add_items", TURN), ("add_items", [QUESTION]), ("add_items", [ANSWER, QUESTION, QUESTION])],
    "before the first turn": [
        ("add_items", [ANSWER, {"type": "function_call", "name": "early"}]),
        ("store_run_usage", result()),
        ("add_items", TURN),
        ("store_run_usage", result(2, 200)),
        ("create_branch_from_turn", 1, "draft"),
        ("store_run_usage", result(3, 300)),
        ("pop_item",),
        ("pop_item",),
    ],
    "odd items": [
        ("add_items", ODD),
        *(("get_conversation_turns", {"branch_id": name}) for name in ("main", "none", "")),
        *(("find_turns_by_content", term) for term in ("WIE", "heisst", "ß", "%", "_", '"', "\n", "\\", "50 %_", "é")),
    ],
    "fork and go on": [
        ("add_items", TURN),
        ("store_run_usage", result()),
        ("add_items", [{"role": "user", "content": "And 3 + 4?"}, ANSWER]),
        ("store_run_usage", result(2, 200)),
        ("create_branch_from_turn", 2, "draft"),
        ("add_items", [{"role": "user", "content": "And 4 + 5?"}]),
        ("store_run_usage", result(3, 300)),
        ("get_items", 2, "main"),
        ("get_items", {"branch_id": "main"}),
        ("get_items", {"limit": 0, "branch_id": "main"}),
        ("get_items", {"branch_id": "none"}),
        *((name, {"branch_id": "main"}) for name in ("get_session_usage", "get_turn_usage", "get_tool_usage")),
        *((name, {"branch_id": "none"}) for name in ("get_session_usage", "get_turn_usage", "get_tool_usage")),
        ("get_turn_usage", 2, "main"),
        ("get_turn_usage", 9),
        ("get_session_usage", ""),
        ("find_turns_by_content", "3 + 4", "main"),
        ("find_turns_by_content", "3 + 4", "draft"),
        ("get_conversation_by_turns", "main"),
        ("create_branch_from_turn", 2, "child"),
        ("switch_to_branch", "main"),
        ("create_branch_from_content", "3 + 4", "by content"),
        ("create_branch_from_content", "4 + 5", "not here"),
        ("switch_to_branch", "draft"),
        ("clear_session",),
        ("add_items", TURN),
    ],
    "names": [
        ("add_items", TURN + TURN),
        ("create_branch_from_turn", 2),
        ("create_branch_from_turn", 1, ""),
        ("create_branch_from_turn", 1, "  "),
        ("create_branch_from_turn", 1, "main"),
        ("create_branch_from_turn", 1, {"branch_name": "ünï / \n"}),
        ("switch_to_branch", "main"),
        ("create_branch_from_turn", 2, "ünï / \n"),
        ("create_branch_from_turn", 7, "seven"),
        ("create_branch_from_turn", 0, "zero"),
        ("create_branch_from_turn", -1, "before"),
        ("switch_to_branch", "nowhere"),
        ("switch_to_branch", ""),
    ],
    "deletion": [
        ("add_items", TURN + TURN),
        ("store_run_usage", result()),
        ("create_branch_from_turn", 2, "draft"),
        ("store_run_usage", result(2, 200)),
        ("create_branch_from_turn", 1, "empty"),
        ("add_items", TURN),
        ("delete_branch", ""),
        ("delete_branch", " "),
        ("delete_branch", "main"),
        ("delete_branch", "main", True),
        ("delete_branch", "none"),
        ("delete_branch", "none", {"force": True}),
        ("delete_branch", "empty"),
        ("delete_branch", "draft"),
        ("delete_branch", "draft"),
        ("delete_branch", "empty", True),
        ("delete_branch", "empty", True),
        ("get_items", {"branch_id": "empty"}),
        ("get_session_usage", "draft"),
    ],
    "pops": [
        ("add_items", TURN),
        ("store_run_usage", result()),
        ("add_items", [QUESTION, ANSWER]),
        ("store_run_usage", result(2, 200)),
        ("create_branch_from_turn", 2, "draft"),
        ("store_run_usage", result(3, 300)),
        *[("pop_item",)] * 6,
        ("switch_to_branch", "main"),
        *[("pop_item",)] * 2,
        ("add_items", [QUESTION]),
        *[("pop_item",)] * 7,
        ("add_items", TURN),
    ],
    "usage": [
        ("add_items", TURN),
        ("store_run_usage", result(input_tokens_details=InputTokensDetails(cached_tokens=7, cache_write_tokens=0))),
        ("store_run_usage", result(2, 200, output_tokens_details=OutputTokensDetails(reasoning_tokens=9))),
        ("store_run_usage", SimpleNamespace(context_wrapper=SimpleNamespace(usage=None))),
        ("store_run_usage", "no result"),
        ("store_run_usage", result(0, 0)),
        ("add_items", [QUESTION]),
        ("clear_session",),
        ("store_run_usage", result()),
        ("add_items", [QUESTION]),
        ("store_run_usage", result()),
    ],
}


@pytest.mark.parametrize("script", SCRIPTS.values(), ids=SCRIPTS)
async def test_the_same_calls_give_the_same(script: list[Call], ours: AdvancedSQLiteSession, theirs: Theirs) -> None:
    await both(ours, theirs, *script)


class SideBySide(RuleBasedStateMachine):
    """Both, in any order of calls. Left out is where they differ: branches without items, and names used before."""

    def __init__(self, store: localfirst.Store) -> None:
        super().__init__()
        self.store = store
        self.branches = 0
        self.loop = asyncio.new_event_loop()

    @initialize()
    def begin(self) -> None:
        self.ours = AdvancedSQLiteSession(session_id=localfirst.change.new_id(), store=self.store)
        self.theirs = Theirs(session_id="s", create_tables=True)

    def teardown(self) -> None:
        self.theirs.close()
        self.loop.close()

    def both(self, *call: Any) -> None:
        self.loop.run_until_complete(both(self.ours, self.theirs, call))

    def names(self) -> list[str]:
        return [branch["branch_id"] for branch in self.loop.run_until_complete(self.theirs.list_branches())]

    @rule(items=st.lists(st.sampled_from([*TURN, QUESTION, ANSWER, *ODD]), max_size=5))
    def add(self, items: list[Any]) -> None:
        self.both("add_items", items)

    @rule()
    def pop(self) -> None:
        self.both("pop_item")

    @rule(requests=st.integers(0, 5))
    def use(self, requests: int) -> None:
        self.both("store_run_usage", result(requests))

    @rule(turn=st.integers(0, 4))
    def fork(self, turn: int) -> None:
        self.branches += 1
        self.both("create_branch_from_turn", turn, f"branch {self.branches}")

    @precondition(lambda self: self.names())
    @rule(data=st.data())
    def switch(self, data: st.DataObject) -> None:
        self.both("switch_to_branch", data.draw(st.sampled_from(self.names())))

    @precondition(lambda self: "main" in self.names())
    @rule(data=st.data(), force=st.booleans())
    def delete(self, data: st.DataObject, force: bool) -> None:
        self.both("delete_branch", data.draw(st.sampled_from(self.names())), force)

    @rule()
    def clear(self) -> None:
        self.both("clear_session")


def test_any_calls_give_the_same(store: localfirst.Store) -> None:
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large]
    run_state_machine_as_test(
        partial(SideBySide, store),  # type: ignore[arg-type]  # it is only called
        settings=settings(max_examples=30, stateful_step_count=15, deadline=None, suppress_health_check=checks),
    )


# What differs, and what they have not.


async def test_a_branch_without_items_can_be_used_though_it_is_not_listed(ours: AdvancedSQLiteSession) -> None:
    await ours.add_items(TURN)
    await ours.create_branch_from_turn(1, "empty")
    assert [branch["branch_id"] for branch in await ours.list_branches()] == ["main"]
    await ours.switch_to_branch("main")
    await ours.switch_to_branch("empty")
    await ours.delete_branch("empty", force=True)
    assert len(ours) == len(TURN)
    await ours.create_branch_from_turn(1, "empty")  # A name can be taken again.


async def test_the_calls_of_every_session_are_there(ours: AdvancedSQLiteSession) -> None:
    assert isinstance(ours, SQLiteSession)
    assert isinstance(ours, localfirst.Session)
    await ours.add_items(TURN)
    ours.branch("draft")
    ours.switch("draft")
    ours.add_message("user", "And 3 + 4?")
    assert [(branch.name, branch.items, branch.current) for branch in ours.branches()] == [
        ("main", 5, False),
        ("draft", 6, True),
    ]
    assert ours._current_branch_id == "draft"
    assert [branch["is_current"] for branch in await ours.list_branches()] == [False, True]
    ours.clear()
    assert [branch.name for branch in ours.branches()] == ["main"]
    assert len(ours) == 0


async def test_an_object_begins_on_main_and_moves_alone(store: localfirst.Store, ours: AdvancedSQLiteSession) -> None:
    await ours.add_items(TURN)
    other = AdvancedSQLiteSession(session_id="s", store=store)
    await ours.create_branch_from_turn(1, "draft")
    store.session("s").switch("draft")
    for each in other, AdvancedSQLiteSession(session_id="s", store=store):
        assert await each.get_items() == TURN
    assert await ours.get_items() == []


async def test_an_object_on_a_branch_that_another_one_clears_or_deletes(
    store: localfirst.Store, ours: AdvancedSQLiteSession
) -> None:
    other = AdvancedSQLiteSession(session_id="s", store=store)
    await ours.add_items(TURN + TURN)
    await ours.create_branch_from_turn(2, "draft")
    await other.clear_session()
    await ours.add_items(TURN)
    assert ours._current_branch_id == "main"
    assert await other.get_items() == TURN
    await ours.create_branch_from_turn(1, "draft")
    await ours.add_items(TURN)
    await other.delete_branch("draft")
    for call in (ours.add_items(TURN), ours.get_items(), ours.pop_item(), ours.get_conversation_turns()):
        with pytest.raises(ConfigurationError, match="deleted"):
            await call
    assert [branch["is_current"] for branch in await ours.list_branches()] == [False]
    await ours.switch_to_branch("main")
    assert await ours.get_items() == TURN


async def test_what_a_run_uses_is_noted_with_its_items(ours: AdvancedSQLiteSession) -> None:
    run = result().context_wrapper
    run.usage = Usage()
    await ours.add_items([QUESTION], wrapper=run)
    assert await ours.get_usage_stats() is None
    for requests in 1, 2:
        run.usage.add(result(requests, requests * 100).context_wrapper.usage)
        await ours.add_items([ANSWER], wrapper=run)
    expected = {"requests": 3, "input_tokens": 300, "output_tokens": 20, "total_tokens": 320, "total_turns": 1}
    assert await ours.get_usage_stats() == expected
    pending = ours.pending
    await ours.store_run_usage(SimpleNamespace(context_wrapper=run))  # type: ignore[arg-type]  # it is not counted again
    assert await ours.get_session_usage() == await ours.get_session_usage("main") == expected
    assert ours.pending == pending
    await ours.add_items([QUESTION], wrapper=result(9, 900).context_wrapper)
    assert await ours.get_usage_stats() == expected  # Of the turn that begins, nothing is known yet.
    assert await ours.get_items(wrapper=run) == [QUESTION, ANSWER, ANSWER, QUESTION]
    assert await ours.pop_item(wrapper=run) == QUESTION
    await ours.clear_session(wrapper=run)
    assert await ours.get_usage_stats() is None


async def test_records_are_gone_with_what_they_tell_of(ours: AdvancedSQLiteSession) -> None:
    def records() -> list[str]:
        return ours._access.read(lambda fold: [key for key, each in fold.metadata.items() if each.value is not None])

    ours.set("name", "Ada")
    for name in "a", "b":
        await ours.switch_to_branch("main")
        await ours.add_items(TURN)
        await ours.store_run_usage(result())
        await ours.create_branch_from_turn(1, name)
        await ours.add_items(TURN)
        await ours.store_run_usage(result())
    assert len(records()) == 5
    assert ours.metadata() == {"name": "Ada"}
    await ours.delete_branch("a")
    assert len(records()) == 4
    while await ours.pop_item():
        pass
    assert len(records()) == 3
    await ours.clear_session()
    assert sorted(records()) == [f"{OWN}cleared", "name"]


async def test_usage_goes_with_a_message_whoever_removes_it(
    store: localfirst.Store, ours: AdvancedSQLiteSession
) -> None:
    await ours.add_items([QUESTION])
    await ours.store_run_usage(result())
    store.session("s").pop_message()
    assert await ours.get_usage_stats() is None
    assert await ours.get_turn_usage() == []


async def test_usage_that_is_no_json_is_left_out(ours: AdvancedSQLiteSession) -> None:
    details = SimpleNamespace(cached={1})
    usage = SimpleNamespace(requests=1, input_tokens=None, input_tokens_details=details, output_tokens_details=None)
    await ours.add_items(TURN)
    await ours.store_run_usage(SimpleNamespace(context_wrapper=SimpleNamespace(usage=usage)))  # type: ignore[arg-type]
    assert await ours.get_turn_usage(1) == {
        **dict.fromkeys(("requests", "input_tokens", "output_tokens", "total_tokens"), 0),
        "requests": 1,
        "input_tokens_details": None,
        "output_tokens_details": None,
    }


async def test_usage_that_cannot_be_stored_is_logged(
    ours: AdvancedSQLiteSession, caplog: pytest.LogCaptureFixture
) -> None:
    ours.close()
    await ours.store_run_usage(result())
    assert "session 's': what a run has used was not stored" in caplog.text
    assert "AdvancedSQLiteSession is closed" in caplog.text
    for call in ours.list_branches, ours.get_session_usage, ours.get_tool_usage, partial(ours.switch_to_branch, "main"):
        with pytest.raises(RuntimeError, match="AdvancedSQLiteSession is closed"):
            await call()


async def test_limits_of_the_settings(store: localfirst.Store) -> None:
    session = AdvancedSQLiteSession(
        session_id="s", store=store, session_settings=SessionSettings(limit=2), whole_turns=True
    )
    await session.add_items(TURN)
    await session.create_branch_from_turn(1, "draft")
    for branch in "main", None:
        await session.switch_to_branch(branch or "main")
        assert await session.get_items(branch_id=branch) == TURN
        assert await session.get_items(1, branch) == TURN[-1:]
        assert await session.get_items(1, branch, whole_turns=True) == TURN


async def test_turns_are_seen_in_a_store_that_encrypts(tmp_path: Path) -> None:
    with localfirst.open(tmp_path, encryption_key="a" * 43 + "=") as store:
        session = AdvancedSQLiteSession(session_id="s", store=store)
        await session.add_items(TURN)
        await session.store_run_usage(result())
        assert await session.create_branch_from_content("2 + 3") in [branch.name for branch in session.branches()]
        assert (await session.get_usage_stats() or {})["total_turns"] == 1


async def test_a_history_is_replaced_on_its_branch(ours: AdvancedSQLiteSession) -> None:
    await ours.add_items(TURN)
    await ours.create_branch_from_turn(1, "draft")
    await ours.add_items(TURN)
    snapshot = await ours._get_compaction_snapshot(100)
    assert snapshot is not None
    assert await snapshot.replace_suffix(0, [QUESTION])
    assert await ours.get_items() == [QUESTION]
    assert await ours.get_items(branch_id="main") == TURN

    class Own(AdvancedSQLiteSession):
        async def get_items(self, *arguments: Any, **options: Any) -> list[Any]:
            return ["of its own making", *await super().get_items(*arguments, **options)]

    own = Own(session_id="s", store=ours.store)
    assert await own._get_compaction_snapshot(100) is None
    assert not await own._atomic_replace_items([])


async def test_events(ours: AdvancedSQLiteSession) -> None:
    heard: list[Any] = []
    for event in SessionEvent:
        if event is not SessionEvent.STORE_CORRUPT:
            ours.on(event, lambda *arguments, event=event: heard.append((event.name, *arguments)))
    await ours.add_items([QUESTION])
    await ours.add_items([ANSWER], wrapper=result().context_wrapper)
    await ours.pop_item()
    await ours.clear_session()
    assert heard == [
        ("MESSAGE_ADDED", QUESTION),
        ("MESSAGE_ADDED", ANSWER),
        ("MESSAGE_REMOVED", ANSWER),
        ("SESSION_CLEARED",),
    ]


async def test_a_call_that_is_cancelled_is_finished(ours: AdvancedSQLiteSession) -> None:
    """Also where it has two parts. The directory is busy meanwhile: somebody else writes."""
    await ours.add_items(TURN)
    for call, names in (
        (ours.create_branch_from_turn(1, "draft"), ["main", "draft"]),
        (ours.delete_branch("draft", force=True), ["main"]),
    ):
        with Rows(ours.store.path / "data").transaction():
            calling = asyncio.create_task(call)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            calling.cancel()
            await asyncio.sleep(0)
            assert not calling.done()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert [branch.name for branch in ours.branches()] == names
        assert ours._current_branch_id == names[-1]


async def test_usage_stays_with_its_turn_when_the_replica_is_renamed(
    store: localfirst.Store, ours: AdvancedSQLiteSession
) -> None:
    await ours.add_items(TURN)
    await ours.create_branch_from_turn(1, "draft")
    await ours.add_items(TURN)
    await ours.store_run_usage(result())
    log, key = store._local.log, session_key("default", "s")
    head = log.head(key)
    assert head is not None
    assert log.settle(key, head, head, rename=Rename(head.acked + 1, "renamed", 1, frozenset())) is not None
    assert (await ours.get_usage_stats() or {})["requests"] == 1
    await ours.store_run_usage(result(2))
    assert (await ours.get_usage_stats() or {})["requests"] == 2
