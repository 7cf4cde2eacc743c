"""Part of a history replaced in one step, as compaction does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst.replacing import Snapshot


@pytest.fixture
def session(tmp_path: Path) -> Iterator[localfirst.Session]:
    """A session with five items, of a store that replicates."""
    with localfirst.open(tmp_path / "a", remote=(tmp_path / "central").as_uri()) as store:
        session = store.session("s")
        for number in range(5):
            session.add_message("user", number)
        yield session


def contents(session: localfirst.Session) -> list[Any]:
    """What its messages say."""
    return [message["content"] for message in session.get_messages()]


async def snapshot(session: localfirst.Session, limit: int, **options: Any) -> Snapshot:
    """What is to be compacted."""
    found = await session._get_compaction_snapshot(limit, **options)
    assert found is not None
    return found


SUMMARY = {"role": "assistant", "content": "summary"}


async def test_the_end_of_the_history_is_replaced(session: localfirst.Session) -> None:
    seen = await snapshot(session, 3)
    assert ([item["content"] for item in seen.items], seen.complete) == ([2, 3, 4], False)
    assert await seen.replace_suffix(1, [SUMMARY])
    assert contents(session) == [0, 1, 2, "summary"]
    whole = await snapshot(session, 4)
    assert whole.complete
    assert await whole.replace_suffix(0, [SUMMARY, SUMMARY])
    assert contents(session) == ["summary", "summary"]


@pytest.mark.parametrize("change", ["add", "pop", "exchange"])
async def test_nothing_is_replaced_if_others_wrote_meanwhile(session: localfirst.Session, change: str) -> None:
    seen = await snapshot(session, 3)
    if change != "add":
        session.pop_message()
    if change != "pop":
        session.add_message("user", 4)  # The same words; not the same item.
    before = contents(session)
    assert not await seen.replace_suffix(0, [SUMMARY])
    assert contents(session) == before


async def test_an_empty_suffix_is_not_replaced(session: localfirst.Session) -> None:
    assert not await (await snapshot(session, 3)).replace_suffix(3, [SUMMARY])
    assert contents(session) == [0, 1, 2, 3, 4]


async def test_what_is_expired_at_the_beginning_goes_too(session: localfirst.Session) -> None:
    seen = await snapshot(session, 2, prune_prefix=lambda item: item["content"] < 2)
    assert await seen.replace_suffix(0, [SUMMARY])
    assert contents(session) == [2, "summary"]


async def test_an_output_that_can_not_be_stored_replaces_nothing(session: localfirst.Session) -> None:
    with pytest.raises(localfirst.InvalidItem):
        await (await snapshot(session, 2)).replace_suffix(0, [SUMMARY, {1, 2}])
    assert contents(session) == [0, 1, 2, 3, 4]


async def test_a_whole_history_is_replaced(session: localfirst.Session) -> None:
    assert await session._atomic_replace_items([SUMMARY])
    assert contents(session) == ["summary"]
    assert await session._atomic_replace_items([])
    assert contents(session) == []


async def test_others_see_the_old_items_or_the_new_ones(session: localfirst.Session, tmp_path: Path) -> None:
    await session.aflush(10)
    seen = await snapshot(session, 3)
    with localfirst.open(tmp_path / "b", remote=(tmp_path / "central").as_uri()) as store:
        other = store.session("s")
        assert len(await other.get_items()) == 5
        shown: list[list[Any]] = []
        for event in localfirst.SessionEvent.MESSAGE_REMOVED, localfirst.SessionEvent.REMOTE_CHANGED:
            other.on(event, lambda *_: shown.append(contents(other)))
        assert await seen.replace_suffix(0, [SUMMARY])
        await session.aflush(10)
        await other.arefresh(10)
        assert contents(other) == [0, 1, "summary"]
        assert shown
        assert all(each == [0, 1, "summary"] for each in shown)


class Shouting(localfirst.Session):
    """Stores something else than it is given."""

    async def add_items(self, items: Any) -> None:
        await super().add_items([{**item, "content": str(item["content"]).upper()} for item in items])


async def test_a_subclass_that_alters_items_is_not_passed_by(session: localfirst.Session) -> None:
    shouting = Shouting(session._store, "s")
    assert await shouting._get_compaction_snapshot(3) is None
    assert not await shouting._atomic_replace_items([SUMMARY])
    assert len(shouting) == 5
