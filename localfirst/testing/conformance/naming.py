"""Session ids and namespaces: any text, and none is taken for another."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from localfirst.errors import ConfigurationError
from localfirst.testing.conformance.harness import PAGE, Bench, Case, bodies, changes, nothing_of, run, whole_log
from sync.central.base import CentralStore, Checkpoint

ODD_IDS: Final = (
    "x" * 1024,
    "é" * 512,
    "x",
    "X",
    " x",
    "x ",
    " ",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "a:b",
    "a{b}c",
    "{}",
    "a%3Ab",
    "%",
    "%25",
    "%s",
    "*",
    "a?[b]",
    "_",
    "\n",
    "a\r\nb",
    "\t",
    "\x01\x7f",
    "it's",
    '"quoted"',
    "`$(x)`; DROP TABLE changes; --",
    "CON",
    "-x",
    "e\u0301",
    "\u00e9",
    "日本語",
    "שלום",
    "\u202eabc",
    "\ufeffx",
    "😀",
    "\U0010ffff",
)

IMPOSSIBLE_IDS: Final[tuple[Any, ...]] = ("", "a\0b", "\ud800", "x" * 1025, "é" * 513, None, 7, b"bytes", ["list"])


async def odd_ids_are_kept_apart(bench: Bench) -> None:
    """Every session has its own log, whatever its id looks like."""
    store = await bench.open()
    await store.push([run(session_id, f"r{i}", 1, 1 + i) for i, session_id in enumerate(ODD_IDS)])
    heads = await store.heads(ODD_IDS)
    assert [head and head.seq for head in heads] == list(range(1, len(ODD_IDS) + 1))
    for i, session_id in enumerate(ODD_IDS):
        assert bodies(await whole_log(store, session_id)) == changes(f"r{i}", 1, 1 + i)
    assert await store.sessions("", 1_000) == sorted(ODD_IDS)


async def odd_origins_are_kept_apart(bench: Bench) -> None:
    """Nor do origins and generations have to look like anything."""
    store = await bench.open()
    origins = [origin for origin in ODD_IDS if len(origin) < 100]
    await store.push([run("s", origin, 1, 1, generation="{g}: é'") for origin in origins])
    pushed = await store.push([run("s", origin, 2, 1) for origin in origins])
    assert {(each.acked, each.admitted, each.generation) for each in pushed} == {(2, 1, "{g}: é'")}


async def impossible_ids_are_refused(bench: Bench) -> None:
    """What no store could hold is a `ConfigurationError` everywhere, and writes nothing."""
    store = await bench.open()
    for session_id in IMPOSSIBLE_IDS:
        await _refused(store.push, [run(session_id, "r1", 1, 1)])
        await _refused(store.pull, [nothing_of(session_id)], PAGE)
        await _refused(store.heads, [session_id])
        await _refused(store.checkpoint, session_id)
        await _refused(store.put_checkpoint, session_id, None, Checkpoint("g", 1, 0, b""), {})
    assert await store.sessions("", 10) == []


async def _refused(method: Callable[..., Awaitable[object]], *arguments: object) -> None:
    try:
        await method(*arguments)
    except ConfigurationError:
        return
    raise AssertionError(f"{method.__name__}{arguments!r:.80} was not refused")


async def namespaces_never_meet(bench: Bench) -> None:
    """The same session in namespaces that look alike is another session."""
    suffixes = ("", ":b", "%3Ab", ":", "*", "{b}", "/b", "_", "'", " ", "B", "b", "é", "e\u0301", "😀")
    stores = {suffix: await bench.open(suffix) for suffix in suffixes}
    ids = ("s", "b:s", "%3Ab:s", "b", ":s", "*")
    for i, (suffix, store) in enumerate(stores.items()):
        assert await store.sessions("", 100) == [], f"{suffix!r} sees another namespace"
        assert await store.heads(ids) == [None] * len(ids)
        await store.push([run(session_id, "r1", 1, 1 + i) for session_id in ids])
    for i, store in enumerate(stores.values()):
        heads = await store.heads(ids)
        assert [head and head.seq for head in heads] == [1 + i] * len(ids)
        assert await store.sessions("", 100) == sorted(ids)


async def sessions_come_in_pages(bench: Bench) -> None:
    """Pages of any size, put together, are all ids in the order of their code points."""
    store = await bench.open()
    # U+FFEE comes before U+1F600 by code point, and after it in UTF-16.
    names = ["a", "Z", "z", "_", "é", "e\u0301", "aa", "a ", "\U0001f600", "\uffee", "\ue000", "10", "9"]
    names += [f"session-{number}" for number in range(40)]
    await store.push([run(name, "r1", 1, 1) for name in names])
    for limit in (1, 7, len(names), 1_000):
        assert await _all_sessions(store, limit) == sorted(names)
    assert await store.sessions("session-", 2) == ["session-0", "session-1"]
    assert await store.sessions("session-38!", 2) == ["session-39", "session-4"]
    assert await store.sessions("\U0010ffff", 10) == []


async def _all_sessions(store: CentralStore, limit: int) -> list[str]:
    found: list[str] = []
    while page := await store.sessions(found[-1] if found else "", limit):
        assert len(page) <= limit
        found += page
    return found


CASES: tuple[Case, ...] = (
    odd_ids_are_kept_apart,
    odd_origins_are_kept_apart,
    impossible_ids_are_refused,
    namespaces_never_meet,
    sessions_come_in_pages,
)
