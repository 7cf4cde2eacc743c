"""`resolvers=` of `localfirst.open`: which rule or function a key goes by."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import localfirst
from localfirst import ConfigurationError, InvalidItem
from localfirst.change import decode_change
from localfirst.metadata import RULES
from localfirst.records import session_key
from localfirst.resolvers import Resolvers


def mine(key: str, mine: Any, theirs: Any, base: Any) -> Any:
    return mine


SETTING: Any = {
    "tags": "union",
    "tags.*": "union",
    "score-[ab]": "max",
    "tags.first": "first",
    "Tags.*": "min",
    "*": "first",
    "last-of-all": mine,
    "*.never": "max",
}


@pytest.mark.parametrize(
    ("key", "rule", "ask"),
    [
        ("tags", "union", False),
        ("tags.colours", "union", False),
        ("tags.first", "first", False),  # Its own entry, though a glob comes before.
        ("Tags.colours", "min", False),  # Capital letters count.
        ("score-a", "max", False),
        ("score-c", "first", False),
        ("tags.never", "union", False),  # The first glob that fits.
        ("", "first", False),
        ("last-of-all", "last", True),
    ],
)
def test_a_key_s_own_entry_comes_first_then_globs_in_their_order(key: str, rule: str, ask: bool) -> None:
    resolvers = Resolvers(SETTING)
    assert resolvers.rule(key) == (rule, ask)
    assert resolvers.function(key) is (mine if ask else None)


def test_without_a_setting_the_later_write_stands() -> None:
    for resolvers in (Resolvers(), Resolvers({}), Resolvers({"other": mine})):
        assert resolvers.rule("key") == ("last", False)
        assert resolvers.function("key") is None
    assert not Resolvers({"*": "first"}).has_functions
    assert Resolvers({"*": "first", "k": mine}).has_functions


async def coroutine(key: str, mine: Any, theirs: Any, base: Any) -> Any:
    return mine


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ([("k", "last")], "resolvers is a dict"),
        ("last", "resolvers is a dict"),
        ({"k": "newest"}, "'k' is 'newest': take a function, or one of last, first"),
        ({"k": "counter"}, "'k' is 'counter'"),
        ({"k": None}, "'k' is None"),
        ({"k": ["last"]}, "'k' is ['last']"),
        ({1: "last"}, "by int: 1"),
        ({"k": coroutine}, "'k' is a coroutine function"),
        ({"k": lambda mine, theirs: mine}, "'k' can't be called with (key, mine, theirs, base)"),
    ],
)
def test_what_can_not_work_is_refused_at_open(tmp_path: Path, setting: Any, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        localfirst.open(tmp_path / "store", resolvers=setting)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("function", [mine, max, lambda *values: values[1], lambda key, mine, theirs, base=None: mine])
def test_anything_that_takes_the_four_is_a_function(function: Any) -> None:
    assert Resolvers({"k": function}).function("k") is function


@pytest.fixture
def store(tmp_path: Path) -> Iterator[localfirst.Store]:
    with localfirst.open(tmp_path / "store", remote="", resolvers=SETTING) as store:
        yield store


def bodies(store: localfirst.Store, session_id: str) -> list[dict[str, Any]]:
    """Of the changes made to a session, as they travel."""
    changes = store._local.log.run(session_key(store.namespace, session_id), 0, 1000)
    return [msgspec.json.decode(decode_change(data).body) for data in changes]


def test_the_rule_travels_with_the_write_and_one_that_is_named_wins(store: localfirst.Store) -> None:
    session = store.session("s")
    session.set("tags", ["a"])
    session.set("tags", ["b"], merge="last")
    session.set("other", 1)
    session.set("last-of-all", 1)
    session.set("last-of-all", 2, merge="last")
    session.delete("last-of-all")
    session.delete("tags")
    assert bodies(store, "s") == [
        {"key": "tags", "rule": "union", "value": ["a"]},
        {"key": "tags", "rule": "last", "value": ["b"]},
        {"key": "other", "rule": "first", "value": 1},
        {"key": "last-of-all", "rule": "last", "value": 1, "ask": True},
        {"key": "last-of-all", "rule": "last", "value": 2},
        {"key": "last-of-all", "ask": True},
        {"key": "tags"},
    ]


def test_a_rule_of_the_setting_counts_at_once(store: localfirst.Store) -> None:
    session = store.session("s")
    for value in (["a"], ["b", "a"]):
        session.set("tags.colours", value)
    for number in (3, 5, 4):
        session.set("score-a", number)
        session.set("first", number)
    assert session.metadata() == {"tags.colours": ["a", "b"], "score-a": 5, "first": 3}


def test_a_value_that_the_rule_can_not_merge_is_refused(store: localfirst.Store) -> None:
    session = store.session("s")
    with pytest.raises(InvalidItem, match="rule union of key 'tags' takes a list, not str"):
        session.set("tags", "a")
    assert session.metadata() == {}
    session.set("tags", "a", merge="last")
    assert session.get("tags") == "a"


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_can_be_a_setting(tmp_path: Path, rule: Any) -> None:
    value: Any = {"merge": {"a": 1}, "union": [1]}.get(rule, 5)
    with localfirst.open(tmp_path, remote="", resolvers={"*": rule}) as store:
        store.session("s").set("k", value)
        assert store.session("s").get("k") == value
        assert bodies(store, "s")[0]["rule"] == rule
