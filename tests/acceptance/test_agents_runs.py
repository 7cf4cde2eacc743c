"""The Runner of the OpenAI Agents SDK, unmodified, with every session class of ours, and ours inside of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from agents import (
    Agent,
    GuardrailFunctionOutput,
    InputGuardrailTripwireTriggered,
    ModelRetryBackoffSettings,
    ModelRetrySettings,
    ModelSettings,
    OutputGuardrailTripwireTriggered,
    RunConfig,
    Runner,
    RunState,
    function_tool,
    input_guardrail,
    output_guardrail,
)
from agents.memory import SessionSettings
from agents.run_internal.session_persistence import rewind_session_items
from agents.testing import ModelStep, ScriptedModel, assistant_message, function_call

from tests.acceptance.agents_faces import OURS, WRAPPED, Make, apart, kinds, making, postgres_of_module  # noqa: F401 - the fixture

pytestmark = pytest.mark.integration

CONFIG = RunConfig(tracing_disabled=True)
CALLED = ["user", "function_call", "function_call_output", "message"]


@pytest.fixture(scope="module", params=OURS + WRAPPED)
def maker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    with making(request.param, request, tmp_path_factory.mktemp("faces")) as made:
        yield made


@pytest.fixture
def make(maker: Make) -> Make:
    return apart(maker)


@function_tool
def add(a: int, b: int) -> int:
    """The sum of two numbers."""
    return a + b


@function_tool(needs_approval=True)
def pay(amount: int) -> str:
    """Pays."""
    return f"paid {amount}"


def agent(*steps: Any, **options: Any) -> Agent[Any]:
    """An agent whose model answers from a script."""
    return Agent(name="Calculator", model=ScriptedModel(steps), tools=[add, pay], **options)


def given(agent: Agent[Any], call: int = -1) -> list[Any]:
    """What the model of an agent was given."""
    model = agent.model
    assert isinstance(model, ScriptedModel)
    items: Any = model.calls[call].input
    return list(items)


def text(answer: str) -> list[Any]:
    return [assistant_message(answer)]


def sum_of(call: str = "call_1") -> list[Any]:
    return [function_call("add", {"a": 2, "b": 3}, call_id=call)]


async def test_runs_with_tools_one_after_the_other(make: Make) -> None:
    calculator = agent(sum_of(), text("5"), text("It was 5."))
    session = make("s")
    result = await Runner.run(calculator, "2 + 3?", session=session, run_config=CONFIG)
    assert result.final_output == "5"
    items = await session.get_items()
    assert kinds(items) == CALLED
    assert (items[1]["call_id"], items[2]["call_id"], items[2]["output"]) == ("call_1", "call_1", "5")
    await Runner.run(calculator, "What was it?", session=make("s"), run_config=CONFIG)
    assert kinds(given(calculator)) == [*CALLED, "user"]
    assert kinds(await session.get_items()) == [*CALLED, "user", "message"]


def test_run_sync(make: Make) -> None:
    calculator = agent(sum_of(), text("5"), text("Still 5."))
    for question, answer in (("2 + 3?", "5"), ("Sure?", "Still 5.")):
        assert Runner.run_sync(calculator, question, session=make("s"), run_config=CONFIG).final_output == answer
    assert kinds(asyncio.run(make("s").get_items())) == [*CALLED, "user", "message"]


async def test_a_streamed_run(make: Make) -> None:
    session = make("s")
    result = Runner.run_streamed(agent(sum_of(), text("5")), "2 + 3?", session=session, run_config=CONFIG)
    async for _ in result.stream_events():
        pass
    assert kinds(await session.get_items()) == CALLED


async def test_a_stream_that_is_cancelled_leaves_what_was_done(make: Make) -> None:
    session = make("s")
    waits = asyncio.Event()

    async def never(_: Any) -> Any:
        waits.set()
        await asyncio.Event().wait()

    calculator = agent(sum_of(), ModelStep(responder=never), text("5"))
    result = Runner.run_streamed(calculator, "2 + 3?", session=session, run_config=CONFIG)

    async def follow() -> None:
        async for _ in result.stream_events():
            pass

    following = asyncio.ensure_future(follow())
    await asyncio.wait_for(waits.wait(), 10)
    before = await session.get_items()
    result.cancel()
    following.cancel()
    await asyncio.wait([following])
    assert kinds(before) == CALLED[:3]
    assert await session.get_items() == before
    result = Runner.run_streamed(calculator, "And now?", session=session, run_config=CONFIG)
    async for _ in result.stream_events():
        pass
    assert kinds(await session.get_items()) == [*CALLED[:3], "user", "message"]


async def test_a_hand_off(make: Make) -> None:
    session = make("s")
    writer = Agent(name="Writer", model=ScriptedModel([text("A poem.")]))
    researcher = Agent(
        name="Researcher",
        model=ScriptedModel([[function_call("transfer_to_writer", {}, call_id="call_1")]]),
        handoffs=[writer],
    )
    result = await Runner.run(researcher, "Write.", session=session, run_config=CONFIG)
    assert (result.last_agent.name, result.final_output) == ("Writer", "A poem.")
    assert kinds(await session.get_items()) == CALLED


async def test_agents_share_a_session(make: Make) -> None:
    await Runner.run(agent(text("It is hard.")), "Research AI safety", session=make("shared"), run_config=CONFIG)
    writer = agent(text("Hard, in short."))
    await Runner.run(writer, "Summarize the research", session=make("shared"), run_config=CONFIG)
    assert kinds(given(writer)) == ["user", "message", "user"]


async def test_a_correction(make: Make) -> None:
    session = make("s")
    calculator = agent(text("4"), text("5"))
    await Runner.run(calculator, "What's 2+2?", session=session, run_config=CONFIG)
    assert (await session.pop_item())["role"] == "assistant"
    assert await session.pop_item() == {"role": "user", "content": "What's 2+2?"}
    assert (await Runner.run(calculator, "What's 2+3?", session=session, run_config=CONFIG)).final_output == "5"
    assert [item["content"] for item in given(calculator)] == ["What's 2+3?"]
    assert kinds(await session.get_items()) == ["user", "message"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_guardrails_that_trip(make: Make, streamed: bool) -> None:
    @input_guardrail
    async def no_input(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    @output_guardrail
    async def no_output(*_: Any) -> GuardrailFunctionOutput:
        return GuardrailFunctionOutput(output_info=None, tripwire_triggered=True)

    async def run(guarded: Agent[Any], session: Any) -> None:
        if not streamed:
            await Runner.run(guarded, "2 + 3?", session=session, run_config=CONFIG)
            return
        async for _ in Runner.run_streamed(guarded, "2 + 3?", session=session, run_config=CONFIG).stream_events():
            pass

    before, after = make("before"), make("after")
    with pytest.raises(InputGuardrailTripwireTriggered):
        await run(agent(text("5"), input_guardrails=[no_input]), before)
    with pytest.raises(OutputGuardrailTripwireTriggered):
        await run(agent(sum_of(), text("5"), output_guardrails=[no_output]), after)
    assert kinds(await before.get_items()) == ["user"]
    assert kinds(await after.get_items())[:3] == CALLED[:3]
    await run(agent(text("6")), after)
    assert kinds(await after.get_items())[-2:] == ["user", "message"]


@pytest.mark.parametrize("streamed", [False, True])
async def test_a_run_that_is_interrupted_and_goes_on_later(make: Make, streamed: bool) -> None:
    cashier = agent([function_call("pay", {"amount": 7}, call_id="call_1")], text("Paid."))

    async def run(what: Any) -> Any:
        if not streamed:
            return await Runner.run(cashier, what, session=make("s"), run_config=CONFIG)
        result = Runner.run_streamed(cashier, what, session=make("s"), run_config=CONFIG)
        async for _ in result.stream_events():
            pass
        return result

    result = await run("Pay 7.")
    assert len(result.interruptions) == 1
    state: RunState[Any, Any] = await RunState.from_string(cashier, result.to_state().to_string())
    state.approve(state.get_interruptions()[0])
    assert (await run(state)).final_output == "Paid."
    items = await make("s").get_items()
    assert kinds(items) == CALLED
    assert items[2]["output"] == "paid 7"


@pytest.mark.parametrize("stored", [False, True])
async def test_a_resumed_run_whose_write_was_cut_off_writes_it_once(make: Make, stored: bool) -> None:
    """What the program was not told of may have been stored or not: the SDK looks, and items must be as they were."""
    session, cut = make("s"), 1
    add_items = session.add_items

    async def cut_off(items: Any, **options: Any) -> None:
        nonlocal cut
        if cut and any(item.get("type") == "function_call_output" for item in items):
            cut -= 1
            if stored:
                await add_items(items, **options)
            raise ConnectionError("cut off")
        await add_items(items, **options)

    cashier = agent([function_call("pay", {"amount": 7}, call_id="call_1")], text("Paid."))
    result = await Runner.run(cashier, "Pay 7.", session=session, run_config=CONFIG)
    state = result.to_state()
    state.approve(state.get_interruptions()[0])
    session.add_items = cut_off
    with pytest.raises(ConnectionError):
        await Runner.run(cashier, state, session=session, run_config=CONFIG)
    assert (await Runner.run(cashier, state, session=session, run_config=CONFIG)).final_output == "Paid."
    assert kinds(await make("s").get_items()) == CALLED


async def test_a_model_that_is_asked_again_adds_nothing_twice(make: Make) -> None:
    retry = ModelRetrySettings(
        max_retries=3, backoff=ModelRetryBackoffSettings(initial_delay=0.0), policy=lambda _: True
    )
    away = RuntimeError("the model is away")
    calculator = agent(away, sum_of(), away, away, text("5"), model_settings=ModelSettings(retry=retry))
    session = make("s")
    assert (await Runner.run(calculator, "2 + 3?", session=session, run_config=CONFIG)).final_output == "5"
    assert kinds(await session.get_items()) == CALLED


async def test_a_run_that_fails_leaves_a_history_to_go_on_with(make: Make) -> None:
    session = make("s")
    calculator = agent(sum_of(), RuntimeError("the model is away"), text("Hello again"))
    with pytest.raises(RuntimeError, match="away"):
        await Runner.run(calculator, "2 + 3?", session=session, run_config=CONFIG)
    assert kinds(await session.get_items()) == CALLED[:3]
    assert (await Runner.run(calculator, "Hello?", session=session, run_config=CONFIG)).final_output == "Hello again"


async def test_what_is_rewound_is_what_was_added_and_nothing_else(make: Make) -> None:
    session = make("s")
    before: list[Any] = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]
    added: list[Any] = [
        {"role": "user", "content": "Hello", "extra": {"b": 1, "a": [1.5, None]}},
        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"x": 1}'},
        {"type": "function_call_output", "call_id": "c", "output": "é"},
    ]
    await session.add_items(before)
    await session.add_items(added)
    await rewind_session_items(session, added)
    assert await session.get_items() == before
    await session.add_items([*added[:2], {"role": "user", "content": "from elsewhere"}])
    await rewind_session_items(session, added[:2])
    assert len(await session.get_items()) == 5


async def test_a_callback_chooses_the_input(make: Make) -> None:
    session = make("s")
    calculator = agent(text("1"), text("2"))
    await Runner.run(calculator, "one", session=session, run_config=CONFIG)
    config = RunConfig(tracing_disabled=True, session_input_callback=lambda history, new: [history[0], *new])
    await Runner.run(calculator, "two", session=session, run_config=config)
    assert [item["content"] for item in given(calculator)] == ["one", "two"]
    assert kinds(await session.get_items()) == ["user", "message"] * 2


async def test_settings_of_the_run_count_more_than_those_of_the_session(make: Make) -> None:
    session = make("s", session_settings=SessionSettings(limit=2))
    await session.add_items([{"role": "user", "content": f"number {number}"} for number in range(10)])
    calculator = agent(text("9"), text("9"))
    await Runner.run(calculator, "last?", session=session, run_config=CONFIG)
    assert [item["content"] for item in given(calculator)] == ["number 8", "number 9", "last?"]
    config = RunConfig(tracing_disabled=True, session_settings=SessionSettings(limit=3))
    await Runner.run(calculator, "last?", session=session, run_config=config)
    assert kinds(given(calculator)) == ["user", "user", "message", "user"]
