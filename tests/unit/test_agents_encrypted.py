"""`EncryptedSession`: over every kind of session, with the right key and the wrong one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from agents.extensions.memory import EncryptedSession as SdkEncryptedSession
from agents.memory import SQLiteSession as SdkSQLiteSession
from cryptography.fernet import Fernet

import localfirst
from localfirst.integrations import stores
from localfirst.integrations.openai_agents import AdvancedSQLiteSession, EncryptedSession, SessionABC, SQLiteSession

KEY: Final = "nfF2-wNQnV3i8LpZrXeJ5s7uYbGhKdCa"
OTHER: Final = "another-key-that-is-32-bytes-long"


class Plain(SessionABC):
    """A session of somebody's own."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self.items: list[Any] = []

    async def get_items(self, limit: int | None = None) -> list[Any]:
        return list(self.items if limit is None else self.items[len(self.items) - min(limit, len(self.items)) :])

    async def add_items(self, items: list[Any]) -> None:
        self.items.extend(items)

    async def pop_item(self) -> Any | None:
        return self.items.pop() if self.items else None

    async def clear_session(self) -> None:
        self.items.clear()


class Followed(Plain):
    """One to which somebody else adds just before an item is popped."""

    def __init__(self, session_id: str) -> None:
        super().__init__(session_id)
        self.coming: list[Any] = []

    async def pop_item(self) -> Any | None:
        self.items += self.coming
        self.coming = []
        return await super().pop_item()


@pytest.fixture(params=["ours", "ours with branches", "the sdk's", "somebody's"])
def below(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Any]:
    """A session to keep sealed items in."""
    makers: dict[str, Callable[[], Any]] = {
        "ours": lambda: SQLiteSession("s", tmp_path / "store"),
        "ours with branches": lambda: AdvancedSQLiteSession(session_id="s", db_path=tmp_path / "store"),
        "the sdk's": lambda: SdkSQLiteSession("s", tmp_path / "s.db"),
        "somebody's": lambda: Plain("s"),
    }
    session = makers[request.param]()
    yield session
    if hasattr(session, "close"):
        session.close()
    stores._close_all()


def said(text: str) -> Any:
    return {"role": "user", "content": text}


async def test_both_spellings_make_the_same_session(below: Any) -> None:
    await EncryptedSession("s", below, KEY, 600).add_items([said("one")])
    await EncryptedSession(session=below, encryption_key=KEY, ttl=3600).add_items([said("two")])
    named = EncryptedSession(session_id="s", underlying_session=below, encryption_key=KEY, max_scan_items=9)
    assert await named.get_items() == [said("one"), said("two")]
    assert "one" not in str(await below.get_items())
    assert await EncryptedSession(session_id="another", session=below, encryption_key=KEY).get_items() == []


def test_it_takes_one_session_and_a_key(tmp_path: Path) -> None:
    below = Plain("s")
    for given in ({}, {"session": below, "underlying_session": Plain("s")}):
        with pytest.raises(TypeError, match="one session"):
            EncryptedSession(encryption_key=KEY, **given)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="encryption_key"):
        EncryptedSession(session=below)
    for key in (
        Fernet.generate_key().decode(),
        "your-32-byte-key-here-for-aes256",
        "your-secret-key-32-bytes-long!",
        "x",
    ):
        EncryptedSession(session=below, encryption_key=key)


async def test_it_reads_what_the_sdk_wrote_and_the_reverse(below: Any) -> None:
    ours, theirs = EncryptedSession("s", below, KEY), SdkEncryptedSession("s", below, KEY)
    await ours.add_items([said("ours é \U0001f600")])
    await theirs.add_items([said("theirs é")])
    assert await ours.get_items() == await theirs.get_items() == [said("ours é \U0001f600"), said("theirs é")]
    assert await ours.pop_item() == said("theirs é")
    assert await theirs.pop_item() == said("ours é \U0001f600")


async def test_a_wrong_key_removes_nothing(below: Any) -> None:
    right, wrong = EncryptedSession("s", below, KEY), EncryptedSession("s", below, OTHER)
    await right.add_items([said("one"), said("two")])
    before = await below.get_items()
    for _ in range(3):
        with pytest.raises(localfirst.DecryptionError, match=r"session 's'.*nothing was removed: check encryption_key"):
            await wrong.pop_item()
    assert await below.get_items() == before
    assert await wrong.get_items() == []
    await wrong.add_items([said("of another key")])
    assert await wrong.pop_item() == said("of another key")
    assert await right.pop_item() == said("two")


async def test_an_altered_item_stays(below: Any) -> None:
    session = EncryptedSession("s", below, KEY)
    await session.add_items([said("one")])
    for payload in ("no token", "é \ud800", ""):
        await below.add_items([{"__enc__": 1, "v": 1, "kid": "hkdf-v1", "payload": payload}])
        with pytest.raises(localfirst.DecryptionError):
            await session.pop_item()
        assert await session.get_items() == [said("one")]
        assert len(await below.get_items()) == 2
        await below.pop_item()
    assert await session.pop_item() == said("one")


async def test_what_expired_is_passed_over(below: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = EncryptedSession("s", below, KEY, ttl=60)
    await session.add_items([said("fresh")])
    ours = await below.get_items()
    now = time.time()
    await below.clear_session()
    monkeypatch.setattr(time, "time", lambda: now - 61.0)
    await session.add_items([said("old")])
    monkeypatch.undo()
    await below.add_items(ours)
    monkeypatch.setattr(time, "time", lambda: now - 61.0)
    await session.add_items([said("also old")])
    monkeypatch.undo()
    assert await session.get_items() == [said("fresh")]
    assert await session.pop_item() == said("fresh")
    assert await session.pop_item() is None


async def test_items_that_are_not_sealed_are_not_shown(below: Any) -> None:
    session = EncryptedSession("s", below, KEY)
    await session.add_items([said("sealed")])
    await below.add_items([said("plain"), {"__enc__": 1, "payload": 7}])
    assert await session.get_items() == [said("sealed")]
    assert await session.pop_item() == said("sealed")


async def test_ours_keeps_items_that_are_not_sealed(tmp_path: Path) -> None:
    with SQLiteSession("s", tmp_path) as below:
        session = EncryptedSession(session=below, encryption_key=KEY)
        await session.add_items([said("sealed")])
        await below.add_items([said("plain")])
        assert await session.pop_item() == said("sealed")
        assert await below.get_items() == [said("plain")]
    stores._close_all()


async def test_an_item_that_comes_while_ours_is_asked_stays(tmp_path: Path) -> None:
    below = SQLiteSession("s", tmp_path)
    session, coming = EncryptedSession(session=below, encryption_key=KEY), said("from another process")
    await session.add_items([said("one")])
    with localfirst.open(tmp_path) as elsewhere:
        opens = session._opens

        def look(item: Any) -> bool:
            if len(elsewhere.session("s")) == 1:
                elsewhere.session("s").add_message(**coming)
            return opens(item)

        session._opens = look  # type: ignore[method-assign]
        assert await session.pop_item() == said("one")
    assert await below.get_items() == [coming]
    below.close()


async def test_an_item_that_comes_between_the_look_and_the_pop_is_put_back() -> None:
    below = Followed("s")
    session, other = EncryptedSession("s", below, KEY), EncryptedSession("s", Plain("s"), OTHER)
    await session.add_items([said("one")])
    await other.add_items([said("of another key")])
    below.coming = await other.underlying_session.get_items()
    before = below.items + below.coming
    with pytest.raises(localfirst.DecryptionError):
        await session.pop_item()
    assert below.items == before


async def test_what_json_can_not_hold_is_refused(below: Any) -> None:
    session = EncryptedSession("s", below, KEY)
    bad: Any
    for bad in ({"content": object()}, {1, 2}, {"content": b"bytes"}):
        with pytest.raises(TypeError):
            await session.add_items([said("good"), bad])
    assert await below.get_items() == []


async def test_a_limit_cuts_between_turns_if_the_session_below_does(tmp_path: Path) -> None:
    call: Any
    output: Any
    call, output = {"type": "function_call", "call_id": "c"}, {"type": "function_call_output", "call_id": "c"}
    with SQLiteSession("s", tmp_path, session_settings={"limit": 2}, whole_turns=True) as below:
        session = EncryptedSession(session=below, encryption_key=KEY)
        await session.add_items([said("before"), said("2 + 3?"), call, output])
        assert await session.get_items() == await session.get_items(limit=2) == [said("2 + 3?"), call, output]
        assert await session.get_items(limit=1) == [output]
        assert len(await session.get_items(limit=-1)) == 4
    stores._close_all()


async def test_the_rest_of_the_session_below_is_at_hand(tmp_path: Path) -> None:
    below = SQLiteSession("s", tmp_path)
    session = EncryptedSession(session=below, encryption_key=KEY)
    session.set("name", "Alice")
    assert session.store is below.store
    session.close()
    with pytest.raises(RuntimeError, match="SQLiteSession is closed"):
        await session.add_items([])
