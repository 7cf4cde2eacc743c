"""What programs expect of a session of the OpenAI Agents SDK, of every class of ours."""

from __future__ import annotations

import asyncio
import copy
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from agents.memory import Session, SessionSettings

from localfirst.integrations.face import Face
from localfirst.rows import Rows
from tests.acceptance.agents_faces import OURS, Make, apart, below, making, postgres_of_module  # noqa: F401 - the fixture

pytestmark = pytest.mark.integration


def said(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"number {number}"}


@pytest.fixture(scope="module", params=OURS)
def maker(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    with making(request.param, request, tmp_path_factory.mktemp("faces")) as made:
        yield made


@pytest.fixture
def make(maker: Make) -> Make:
    return apart(maker)


def test_it_passes_for_a_session(make: Make) -> None:
    session = make("user-123")
    assert isinstance(session, Session)
    assert session.session_id.startswith("user-123")
    assert bool(session) is True


async def test_a_limit_gives_the_last_ones(make: Make) -> None:
    session = make("s")
    items = [said(number) for number in range(5)]
    await session.add_items(items)
    for limit, expected in ((None, 5), (0, 0), (1, 1), (3, 3), (5, 5), (99, 5), (-1, 5), (-7, 5)):
        assert await session.get_items(limit) == await session.get_items(limit=limit) == items[5 - expected :], limit


async def test_settings_say_the_limit_and_a_call_says_another(make: Make) -> None:
    session = make("s", session_settings=SessionSettings(limit=2))
    await session.add_items([said(number) for number in range(5)])
    assert await session.get_items() == [said(3), said(4)]
    assert await session.get_items(limit=1) == [said(4)]
    assert len(await session.get_items(limit=-1)) == 5
    assert await session.get_items(limit=0) == []
    session.session_settings = SessionSettings(limit=3)
    assert len(await session.get_items()) == 3
    session.session_settings = None
    assert len(await session.get_items()) == 5


async def test_nobody_shares_an_object_with_it(make: Make) -> None:
    session = make("s")
    item = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}
    kept = copy.deepcopy(item)
    items = [item]
    await session.add_items(items)
    item["content"][0]["text"] = "altered"  # type: ignore[index]
    items.clear()
    (await session.get_items())[0]["content"].clear()
    assert await session.get_items() == [kept]
    (await session.pop_item())["content"].clear()
    await session.add_items([kept])
    assert await make("s").get_items() == [kept]


async def test_items_come_back_as_they_were(make: Make) -> None:
    session = make("s")
    items: list[Any] = [
        {"role": "user", "content": "lone \ud800 surrogate, NUL \0, é, 日本, \U0001f600, \\ud800, line\u2028break"},
        {
            "type": "function_call",
            "call_id": "c",
            "name": "f",
            "arguments": '{"a": 1}',
            "n": 2**70,
            "x": -0.5,
            "y": None,
        },
        {"nested": {"list": [[], {}, [True, False, None]], "": ""}},
        {"e": 1e300, "i": 1, "f": 1.0},
    ]
    await session.add_items(items)
    found = await session.get_items()
    assert found == items
    assert [type(value) for value in found[3].values()] == [float, int, float]
    assert [await session.pop_item() for _ in items] == items[::-1]


async def test_pops_come_in_order_and_end_with_none(make: Make) -> None:
    session = make("s")
    assert await session.pop_item() is None
    for number in range(3):
        await session.add_items([said(number)])
    assert [await session.pop_item() for _ in range(4)] == [said(2), said(1), said(0), None]
    await session.add_items([])
    assert await session.get_items() == []


async def test_one_bad_item_refuses_all_of_them(make: Make) -> None:
    session = make("s")
    await session.add_items([said(0)])
    for bad in ({"role": "user", "content": {1, 2}}, {"content": object()}, {"content": b"bytes"}, {1, 2}, object()):
        with pytest.raises(TypeError):
            await session.add_items([said(1), bad, said(2)])
    assert await session.get_items() == [said(0)]


async def test_what_was_cleared_is_gone_and_it_goes_on(make: Make) -> None:
    session, other = make("s"), make("other")
    await session.clear_session()
    await session.add_items([said(0), said(1)])
    await other.add_items([said(7)])
    await session.clear_session()
    assert (await session.get_items(), await session.pop_item()) == ([], None)
    await session.add_items([said(2)])
    assert await session.get_items() == [said(2)]
    assert await other.get_items() == [said(7)]


async def test_objects_of_one_id_are_one_conversation(make: Make) -> None:
    one, other = make("s"), make("s")
    for number in range(20):
        await (one, other)[number % 2].add_items([said(number)])
    assert await one.get_items() == await other.get_items() == [said(number) for number in range(20)]
    assert await other.pop_item() == said(19)
    assert len(await one.get_items()) == 19


async def test_what_is_added_at_once_stays_together(make: Make) -> None:
    session = make("s")
    batches = [[{"batch": batch, "place": place} for place in range(5)] for batch in range(10)]
    await asyncio.gather(*(session.add_items(batch) for batch in batches))
    found = await session.get_items()
    assert sorted(found[0::5], key=lambda item: item["batch"]) == [batch[0] for batch in batches]
    assert [found[at : at + 5] for at in range(0, 50, 5)] == [batches[item["batch"]] for item in found[0::5]]


async def test_no_two_pops_give_one_item(make: Make) -> None:
    session, other = make("s"), make("s")
    await session.add_items([said(number) for number in range(30)])
    popped: list[Any] = await asyncio.gather(*((session, other)[at % 2].pop_item() for at in range(20)))

    def pop() -> None:
        popped.extend(asyncio.run(_pops(make("s"), 5)))

    threads = [threading.Thread(target=pop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        await asyncio.to_thread(thread.join)
    assert sorted(item["content"] for item in popped if item) == sorted(said(n)["content"] for n in range(30))


async def _pops(session: Any, count: int) -> list[Any]:
    return [await session.pop_item() for _ in range(count)]


async def test_a_cancelled_call_is_finished_first(make: Make) -> None:
    session = make("s")
    await session.add_items([said(0), said(1)])
    for begin, left in (
        (lambda: session.add_items([said(2), said(3)]), [said(0), said(1), said(2), said(3)]),
        (session.pop_item, [said(0), said(1), said(2)]),
        (session.clear_session, []),
    ):
        with Rows(below(session)._store.path / "data").transaction():  # So that nobody else can write.
            call = asyncio.ensure_future(begin())
            for _ in range(3):
                await asyncio.sleep(0.005)
                call.cancel()
            await asyncio.sleep(0.005)
            assert not call.done()
        await asyncio.wait([call])
        assert call.cancelled()
        assert await session.get_items() == left


async def test_after_its_end_every_call_says_so(make: Make) -> None:
    session = make("s")
    await session.add_items([said(0)])
    ours = below(session)
    if not isinstance(ours, Face):
        return  # A session of a store ends with that.
    await ours.aclose()
    for call in (
        lambda: session.add_items([]),
        lambda: session.add_items([said(1)]),
        session.get_items,
        session.pop_item,
        session.clear_session,
    ):
        with pytest.raises(RuntimeError, match=f"{type(ours).__name__} is closed"):
            await call()
    assert await make("s").get_items() == [said(0)]
