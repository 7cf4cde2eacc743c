"""Looking for a text in sessions."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import localfirst
from localfirst import jsonvalue
from localfirst.local import Local
from localfirst.records import session_key
from localfirst.search import _UNFOLDED, Finder, find_folded
from localfirst.view import View


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path) as opened:
        yield opened


def found(store: localfirst.Store, text: str, **limits: Any) -> list[tuple[str, int]]:
    return [(match.session_id, match.index) for match in store.search(text, **limits)]


ITEMS: list[tuple[Any, str]] = [
    ({"role": "user", "content": "Where is my LUGGAGE?"}, "luggage"),
    ({"role": "user", "content": [{"type": "input_text", "text": "my Luggage"}]}, "luggage"),
    ({"type": "function_call", "name": "find_luggage", "arguments": "{}", "call_id": "1"}, "find_lug"),
    ({"type": "function_call", "name": "find", "arguments": '{"what": "luggage"}', "call_id": "1"}, '"what": "lug'),
    ({"type": "function_call_output", "call_id": "1", "output": "No Luggage"}, "no luggage"),
    (
        {"type": "function_call_output", "call_id": "1", "output": [{"type": "input_text", "text": "Luggage"}]},
        "luggage",
    ),
    (
        {"role": "assistant", "tool_calls": [{"type": "function", "function": {"name": "x", "arguments": "Bern"}}]},
        "bern",
    ),
    ({"role": "assistant", "content": [{"type": "tool_use", "name": "x", "input": {"city": "Bern"}}]}, "bern"),
    ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Thinking"}]}, "thinking"),
    ("plain Luggage", "luggage"),
    (["a", {"any": "Luggage"}], "luggage"),
    ({"role": "user", "content": "Die Straße"}, "STRASSE"),
    ({"role": "user", "content": "Die STRASSE"}, "straße"),
    ({"role": "user", "content": "Große Ökonomie"}, "ökonomie"),
    ({"role": "user", "content": "東京駅"}, "京駅"),
    ({"role": "user", "content": 'a\nb "quoted" \\ back\tslash \x07 /'}, 'b "QUOTED" \\ back\tslash \x07 /'),
    ({"role": "user", "content": "half \ud83d of Luggage"}, "luggage"),
]


@pytest.mark.parametrize(("item", "text"), ITEMS)
def test_what_is_looked_through(item: Any, text: str, store: localfirst.Store) -> None:
    session = store.session("s")
    session.import_data(session.export() | {"items": ["nothing", item]})
    (match,) = session.search(text)
    assert (match.session_id, match.index, match.item, match.branch) == ("s", 1, item, "main")
    assert list(store.search(text)) == [match]
    assert list(store.search(text + "…")) == []


@pytest.mark.parametrize("text", ["user", "input_text", "call_id", "1", "role", "true"])
def test_what_is_not(text: str, store: localfirst.Store) -> None:
    session = store.session("s")
    call = {"type": "function_call", "name": "x", "arguments": "", "call_id": "1", "done": True}
    data = {"items": [{"role": "user", "content": [{"type": "input_text", "text": "Hello"}]}, call]}
    session.import_data(session.export() | data)
    assert list(session.search(text)) == []


@pytest.mark.parametrize("text", ["luggage/strasse", "kelvin"])
def test_json_that_escapes_what_need_not_be_is_looked_through_too(text: str) -> None:
    content = "Luggage/Straße \u212aelvin"
    for data in (json.dumps({"content": content}), '{"content":"\\u004cuggage\\/Strasse \\u212aelvin"}'):
        assert Finder(text).find(data.encode())


def test_every_character_that_becomes_ascii_is_known() -> None:
    folding = [chr(code) for code in range(128, 0x110000) if any(each.isascii() for each in chr(code).casefold())]
    assert sorted(_UNFOLDED) == folding


@pytest.mark.parametrize(
    ("text", "looked_for", "there"),
    [("ßßaß", "a", "a"), ("ßx", "sx", "ßx"), ("xßy", "s", "ß"), ("ﬃx", "fix", "ﬃx"), ("İstanbul", "stan", "stan")],
)
def test_where_it_stands_though_casefolding_makes_it_longer(text: str, looked_for: str, there: str) -> None:
    place = find_folded(text, looked_for)
    assert place is not None
    assert text[slice(*place)] == there


def test_an_excerpt_is_short_and_on_one_line(store: localfirst.Store) -> None:
    session = store.session("s")
    session.add_message("user", f"{'before ' * 50}\n the \t Needle {'behind ' * 50}")
    (match,) = session.search("needle")
    assert match.excerpt.startswith("…")
    assert match.excerpt.endswith("…")
    assert " before the Needle behind " in match.excerpt
    assert len(match.excerpt) < 150


def test_the_newest_comes_first(store: localfirst.Store) -> None:
    for number in range(3):
        for session_id in ("a", "c", "b"):
            store.session(session_id).add_message("user", f"word {number}")
    store.session("a").set("later", "than all")
    assert found(store, "word") == [(session_id, index) for session_id in "abc" for index in (2, 1, 0)]
    assert found(store, "word", limit=4) == [("a", 2), ("a", 1), ("a", 0), ("b", 2)]
    assert found(store, "word", prefix="b", limit=-1) == [("b", 2), ("b", 1), ("b", 0)]
    assert found(store, "word", limit=0) == []
    assert [match.index for match in store.session("c").search("word", 2)] == [2, 1]


def test_the_newest_comes_first_on_a_device_that_fetched_them(tmp_path: Path) -> None:
    remote = (tmp_path / "central").as_uri()
    with (
        localfirst.open(tmp_path / "a", remote=remote, worker="none") as a,
        localfirst.open(tmp_path / "b", remote=remote, worker="none") as b,
    ):
        for session_id in ("b", "c", "a"):
            a.session(session_id).add_message("user", "word")
        a.flush(10)
        b.refresh(10)
        assert found(b, "word") == found(a, "word") == [("a", 0), ("c", 0), ("b", 0)]
        b.session("b").add_message("user", "word")
        assert found(b, "word") == [("b", 1), ("b", 0), ("a", 0), ("c", 0)]


def test_only_sessions_of_an_owner(store: localfirst.Store) -> None:
    for owner in ("alice", "bob"):
        store.session(f"{owner}'s", owner=owner).add_message("user", "word")
    store.session("nobody's").add_message("user", "word")
    assert found(store, "word", owner="alice") == [("alice's", 0)]
    with pytest.raises(localfirst.ConfigurationError, match="an owner is a string"):
        store.search("word", owner=1)  # type: ignore[arg-type]


def test_branches_and_what_they_share(store: localfirst.Store) -> None:
    session = store.session("s")
    session.add_message("user", "first word")
    session.branch("draft")
    session.add_message("user", "word of main")
    session.switch("draft")
    session.add_message("user", "word of draft")
    matches = [(match.branch, match.index, match.excerpt) for match in store.search("WORD")]
    assert matches == [("main", 1, "word of main"), ("main", 0, "first word"), ("draft", 1, "word of draft")]
    assert [(match.branch, match.index) for match in session.search("word")] == [("draft", 1), ("draft", 0)]


def test_what_was_popped_or_cleared_is_not_found(store: localfirst.Store) -> None:
    session = store.session("s")
    session.add_message("user", "word")
    session.pop_message()
    store.session("t").add_message("user", "word")
    store.session("t").clear()
    store.session("u").add_message("user", "word")
    store.delete("u")
    assert found(store, "word") == []


@pytest.mark.parametrize("text", ["", None, 1, b"word"])
def test_a_text_that_is_none_is_refused(text: Any, store: localfirst.Store) -> None:
    with pytest.raises(localfirst.ConfigurationError, match="what is searched for"):
        store.search(text)
    with pytest.raises(localfirst.ConfigurationError, match="what is searched for"):
        store.session("s").search(text)


def test_sessions_are_read_one_by_one_and_none_comes_to_memory(
    store: localfirst.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.path
    for number in range(20):
        store.session(f"{number:02}").add_message("user", "word")
    store.close()
    with localfirst.open(path) as again:
        looks, refresh = list[str](), View.refresh

        def note(view: View, **options: Any) -> Any:
            looks.append(view.head.session_id)
            return refresh(view, **options)

        monkeypatch.setattr(View, "refresh", note)
        matches = again.search("word")
        assert next(matches).session_id == "19"
        assert len(looks) == 1
        assert len(list(matches)) == 19
        assert again._local.loaded() == []
        assert len(again._local._views._views) == 0


def test_what_is_in_memory_is_searched_as_it_is_now(store: localfirst.Store) -> None:
    session = store.session("s")
    session.add_message("user", "word")
    assert store._local.loaded() == [(session_key("default", "s"), "s")]
    session.add_message("user", "word")
    assert found(store, "word") == [("s", 1), ("s", 0)]


def test_items_are_the_callers_own(store: localfirst.Store) -> None:
    session = store.session("s")
    session.add_message("user", "word")
    (match,) = session.search("word")
    match.item["content"] = "other"
    assert found(store, "word") == [("s", 0)]
    assert hash(match)


def test_what_is_simple_is_not_decoded(store: localfirst.Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(10):
        store.session("s").add_message("user", "nothing")
    store.session("s").add_message("user", "word")
    decoded, decode = list[bytes](), jsonvalue.decode

    def note(data: bytes) -> Any:
        decoded.append(data)
        return decode(data)

    monkeypatch.setattr(jsonvalue, "decode", note)
    assert found(store, "word") == [("s", 10)]
    assert len(decoded) == 1


def test_sessions_whose_keys_are_not_here_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with localfirst.open(tmp_path, encryption_key=localfirst.KeyRing.generate()) as sealed:
        for number in range(3):
            sealed.session(f"sealed {number}").add_message("user", "word")
        assert len(found(sealed, "word")) == 3
    with localfirst.open(tmp_path) as store:
        store.session("plain").add_message("user", "word")
        with caplog.at_level(logging.WARNING, "localfirst"):
            assert found(store, "word") == [("plain", 0)]
    (record,) = caplog.records
    assert record.getMessage() == "not searched, for their keys are not here: 3 sessions"


def test_what_was_evicted_is_left_out(store: localfirst.Store) -> None:
    local: Local = store._local
    for session_id in ("gone", "here"):
        store.session(session_id).add_message("user", "word")
    key = session_key("default", "gone")
    head = local.log.head(key)
    assert head is not None
    acked = local.log.settle(key, head, msgspec.structs.replace(head, acked=1, generation="g"))
    assert acked is not None
    assert local.log.evict(key, acked, 0)
    assert found(store, "word") == [("here", 0)]
