"""Names that mean something to a server: through the whole store, none crosses a namespace, none breaks anything."""

from __future__ import annotations

import asyncio
from typing import Any, Final

import pytest

from localfirst.errors import ConfigurationError
from sync.central import connect
from tests.integration.stores import Open, settle

HOSTILE: Final = (
    "it's",
    'say "x"',
    "'; drop schema localfirst cascade; --",
    "$1",
    "$$x$$",
    "E'\\\\x00'",
    "%",
    "%s%(x)s%n",
    "_",
    "*",
    "a?[b-z]*",
    "[^a]",
    "\\",
    "a\\*",
    "{}",
    "}{",
    "{s}:log",
    "s}:log{",
    "a:b",
    "%3A",
    "sessions",
    "localfirst-x:{s}:head",
    "\n",
    "a\r\nFLUSHALL\r\n",
    "*1\r\n$8\r\nFLUSHALL\r\n",
    "' .. redis.call('FLUSHALL') .. '",
    "]]",
    "\t \x7f\x1b[0m",
    "\\u0000",
    '{"a":1}',
    "[]",
    "null",
    "../..",
    " ",
    "é",
    "e\u0301",
    "\U0001f600",
)
NAMESPACES: Final = ("", *HOSTILE[::3], "{s}", ":")
NUL: Final = ("a\0b", "\0", "s\0")


@pytest.fixture(params=["redis", "postgres"])
def server(request: pytest.FixtureRequest) -> str:
    url: Any = request.getfixturevalue(f"{request.param}_url")
    return str(url)


def central_ids(url: str, namespace: str) -> list[str]:
    """What the central store lists."""

    async def listed() -> list[str]:
        store = connect(url, namespace)
        try:
            await store.identify()
            return await store.sessions("", 1_000)
        finally:
            await store.close()

    return asyncio.run(listed())


def test_any_session_id_key_and_item_comes_back_as_it_was(server: str, opened: Open, namespace: str) -> None:
    one = opened("a", server)
    for name in HOSTILE:
        session = one.session(name)
        session.add_message("user", name, **{"the key": name})
        session.set(name, {name: name})
    odd = one.session("keys")
    for name in (*HOSTILE, *NUL):
        odd.add_message("user", name)
        odd.set(name, name)
        odd.increment(f"n{name}")
        odd.set(f"u{name}", [name], merge="union")
    one.flush(30)
    assert central_ids(server, namespace) == sorted((*HOSTILE, "keys"))
    other = opened("b", server)
    for name in HOSTILE:
        assert [item["content"] for item in other.session(name)] == [name]
        assert other.session(name).metadata() == {name: {name: name}}
    assert other.session("keys").metadata() == odd.metadata()
    assert [item["content"] for item in other.session("keys")] == [*HOSTILE, *NUL]
    assert {info.session_id for info in other.sessions()} == {*HOSTILE, "keys"}
    assert [info.session_id for info in other.sessions("%")] == sorted(name for name in HOSTILE if name[0] == "%")
    for name in HOSTILE[::2]:
        other.delete(name)
    settle(other, one)
    assert central_ids(server, namespace) == sorted((*HOSTILE[1::2], "keys"))
    assert {info.session_id for info in one.sessions()} == {*HOSTILE[1::2], "keys"}


def test_no_namespace_meets_another(server: str, opened: Open, namespace: str) -> None:
    names = [f"{namespace}{suffix}" for suffix in NAMESPACES]
    stores = [opened(f"store-{number}", server, namespace=name, worker="none") for number, name in enumerate(names)]
    for name, store in zip(names, stores, strict=True):
        store.session("s").add_message("user", name)
        store.session(f"only {name}"[:200]).set("key", name)
        store.flush(30)
    for number, name in enumerate(names):
        assert central_ids(server, name) == sorted([f"only {name}"[:200], "s"])
        if number % 4 == 0:
            fresh = opened(f"fresh-{number}", server, namespace=name, worker="none")
            fresh.refresh(30)
            assert [item["content"] for item in fresh.session("s")] == [name]
    stores[0].delete("s")
    stores[0].flush(30)
    assert [len(central_ids(server, name)) for name in names] == [1] + [2] * len(names[1:])


def test_nul_is_refused_where_a_server_has_no_place_for_it(server: str, opened: Open) -> None:
    store = opened("a", server)
    for name in NUL:
        with pytest.raises(ConfigurationError, match="NUL"):
            store.session(name)
        with pytest.raises(ConfigurationError, match="NUL"):
            store.delete(name)
        with pytest.raises(ConfigurationError, match="NUL"):
            opened("b", server, namespace=name)
        assert list(store.sessions(name)) == []
