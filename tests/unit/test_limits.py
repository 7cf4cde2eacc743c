"""How large things may be: refused when they are written, and when they come from a central store."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import limits
from localfirst.change import APPEND, FORK, Admitted, Change
from localfirst.errors import ConfigurationError, ItemTooLarge, LocalFirstError, MalformedChange, RemoteRejected
from localfirst.fold import Fold
from localfirst.records import session_key
from localfirst.testing.memory import MemoryServer, MemoryStore
from sync.agenda import Agenda
from sync.central.base import Checkpoint, Head, Hint, Identity, LogEntry, Pulled, Pushed, PushStatus, Run, Want
from sync.central.bounded import Bounded
from sync.site import Limits
from tests.unit.replica import Replica

ITEM = limits.MAX_ITEM_BYTES - 2
"""Characters of the longest string: as JSON it has two quotes."""


@pytest.fixture
def session(tmp_path: Path) -> Any:
    with localfirst.open(tmp_path / "store", remote="") as store:
        yield store.session("s")


def test_an_item_may_have_so_many_bytes_and_no_more(session: localfirst.Session) -> None:
    asyncio.run(session.add_items(["x" * ITEM]))
    with pytest.raises(ItemTooLarge, match=r"item 1 of 2 has 16,777,217 bytes.*16,777,216 are allowed.*elsewhere"):
        asyncio.run(session.add_items(["fits", "x" * (ITEM + 1)]))
    with pytest.raises(ItemTooLarge):
        session.add_message("user", "x" * ITEM)
    assert len(session) == 1


def test_a_value_may_have_so_many_bytes_and_no_more(session: localfirst.Session) -> None:
    session.set("k", "x" * ITEM)
    calls: list[Callable[[], object]] = [
        lambda: session.set("k", "x" * (ITEM + 1)),
        lambda: session.set("k", {"a": "x" * ITEM}, merge="merge"),
        lambda: session.set("k", ["x" * ITEM], merge="union"),
        lambda: session.import_data({**session.export(), "metadata": {"k": "x" * (ITEM + 1)}}),
    ]
    for call in calls:
        with pytest.raises(ItemTooLarge, match="the value of 'k' has"):
            call()
    assert session.get("k") == "x" * ITEM


def test_a_key_may_have_so_many_bytes_and_no_more(session: localfirst.Session) -> None:
    longest = "é" * (limits.MAX_KEY_BYTES // 2)
    session.set(longest, 1)
    session.increment(longest)
    for call in (session.delete, session.increment, lambda key: session.set(key, 1)):
        with pytest.raises(ItemTooLarge, match=r"at most 1,024 bytes.*has 1,025"):
            call(longest + "x")
    assert session.metadata() == {longest: 2}


def test_a_call_may_have_so_many_bytes_and_no_more(
    session: localfirst.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_BYTES", 1000)
    asyncio.run(session.add_items(["x" * 494, "y" * 499]))  # And quotes, a comma, and brackets.
    with pytest.raises(ItemTooLarge, match=r"1,001 bytes in one call, and 1,000 are allowed.*several calls"):
        asyncio.run(session.add_items(["x" * 495, "y" * 499]))
    assert len(session) == 2


def test_a_turn_may_have_so_many_bytes_and_no_more(
    session: localfirst.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_BYTES", 1000)
    for _ in range(2):
        with session.turn():
            asyncio.run(session.add_items(["x" * (596 - limits.CHANGE_ROOM)]))
            asyncio.run(session.add_items(["x" * (396 - limits.CHANGE_ROOM)]))
            with pytest.raises(ItemTooLarge, match=r"in a turn that has 1,000 already.*end the turn"):
                asyncio.run(session.add_items([""]))
    asyncio.run(session.add_items(["x" * 900]))
    assert len(session) == 5
    assert not session._store._local._in_turns


@pytest.mark.parametrize("key", [None, bytes(32)], ids=["plain", "sealed"])
@pytest.mark.parametrize("branch", ["main", "b" * 200])
def test_a_turn_of_many_small_calls_has_an_end_as_it_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, branch: str, key: bytes | None
) -> None:
    monkeypatch.setattr(limits, "MAX_CALL_BYTES", 20_000)
    with localfirst.open(tmp_path / "store", remote="", encryption_key=key) as store:
        session = store.session("s")
        if branch != "main":
            session.branch(branch)
        with session.turn(), suppress(ItemTooLarge):
            while True:
                asyncio.run(session.add_items([1]))
        with session.turn(), pytest.raises(ItemTooLarge, match="in one call"):
            session.import_data({**session.export(), "metadata": {str(number): 1 for number in range(1000)}})
        changes = store._local.log.run(session_key("default", "s"), 0, 1_000_000)
    assert 4000 < sum(map(len, changes)) < limits.MAX_CALL_BYTES + 1000


def test_what_a_resolver_says_may_be_too_large(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    options: dict[str, Any] = {"remote": central, "worker": "none"}
    with (
        localfirst.open(tmp_path / "a", **options) as a,
        localfirst.open(tmp_path / "b", resolvers={"k": lambda *_: "x" * (ITEM + 1)}, **options) as b,
    ):
        a.session("s").set("k", "mine")
        b.session("s").set("k", "theirs")
        a.flush(20)
        b.flush(20)
        assert b.session("s").get("k") == "theirs", "the later write stands"


@pytest.mark.parametrize("namespace", ["n" * 513, "é" * 257, "\ud800"])
def test_a_namespace_has_an_end(tmp_path: Path, namespace: str) -> None:
    with pytest.raises(ConfigurationError, match="namespace"):
        localfirst.open(tmp_path, remote="", namespace=namespace)


def test_forks_end_where_memory_would(session: localfirst.Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localfirst.plans.MAX_PLACES", 100)
    asyncio.run(session.add_items(list(range(30))))
    for name in ("a", "b", "c"):
        session.branch(name)
    with pytest.raises(ConfigurationError, match=r"show 100 items.*delete_branch"):
        session.branch("d")
    session.delete_branch("a")
    session.branch("d")


def test_forks_of_others_end_where_memory_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("localfirst.branches.MOST_PLACES", 100)
    fold = Fold()
    fold.admit([Admitted(1, 0, Change("r", 1, 0, 0, "main", APPEND, b"[%b]" % b",".join([b"1"] * 30)))])
    fork = (Change("r", n, 0, 0, "main", FORK, b'{"name":"%d","seen":{"r":1}}' % n) for n in itertools.count(2))
    fold.admit([Admitted(seq, 0, next(fork)) for seq in (2, 3, 4)])
    with pytest.raises(MalformedChange, match="show more than 100 items"):
        fold.admit([Admitted(5, 0, next(fork))])


class Hostile(MemoryStore):
    """Answers whatever it is told to."""

    def __init__(self) -> None:
        super().__init__(MemoryServer())
        self.answers: dict[str, Any] = {}

    def __getattribute__(self, name: str) -> Any:
        answers = object.__getattribute__(self, "__dict__").get("answers", {})
        if name not in answers:
            return object.__getattribute__(self, name)

        async def answer(*arguments: Any) -> Any:
            said = answers[name]
            return said(*arguments) if callable(said) else said

        return answer


HEAD = Head("g", 1, 5)
RUN = Run("s", "g", True, "r", 1, [b"change"])
WANT = Want("s", None, 0, 0)


def page(*entries: bytes, **changed: Any) -> list[Pulled]:
    return [Pulled(HEAD, False, [LogEntry(seq, 1, data) for seq, data in enumerate(entries, 1)])._replace(**changed)]


def pushed(**changed: Any) -> list[Pushed]:
    return [Pushed(PushStatus.OK, "g", 1, 1, 1, 5, 1)._replace(**changed)]


ANSWERS: list[tuple[str, Any]] = [
    ("identify", Identity("i" * 2000, 3, 1)),
    ("identify", Identity(5, 3, 1)),  # type: ignore[arg-type]
    ("identify", Identity("i", 3, "")),  # type: ignore[arg-type]
    *(("identify", each) for each in (None, (), "x")),
    *(("push", each) for each in ([], pushed() * 2, None, [None], [()])),
    *(("push", pushed(**each)) for each in ({"status": "ok!"}, {"acked": -1}, {"head": 1 << 70}, {"admitted": 2})),
    *(("push", pushed(**each)) for each in ({"generation": None}, {"generation": "g" * 2000}, {"ended": "lost"})),
    *(("pull", each) for each in ([], page() * 2, None, [None], page(head=("g",)), page(entries=None))),
    ("pull", page(b"x" * (limits.MAX_CHANGE_BYTES + 1001))),
    ("pull", page(*[b"x"] * 1001)),
    ("pull", page(*[b""] * 1001)),
    ("pull", page(entries=[LogEntry("1", 1, b"x")])),  # type: ignore[arg-type]
    ("pull", page(entries=[LogEntry(1, 1, "x")])),  # type: ignore[arg-type]
    ("pull", page(expires_at=-1)),
    ("pull", page(head=Head("g", -1, 5))),
    ("pull", page(head=Head("g" * 2000, 1, 5))),
    *(("heads", each) for each in ([], [HEAD, HEAD], [("g", 1)], [HEAD._replace(seq=1 << 63)], {"s": HEAD})),
    *(
        ("sessions", each)
        for each in (["a"] * 11, ["b", "a"], ["a", "a"], ["a", ""], ["a\0"], ["a", "b" * 2000], [5], None)
    ),
    ("sessions", ["\ud800"]),
    *(("checkpoint", each) for each in (("g", 1), Checkpoint("g", -1, 5, b""), Checkpoint("g", 1, 5, "x"))),  # type: ignore[arg-type]
]
CALLS: dict[str, Callable[[Bounded], Any]] = {
    "identify": lambda central: central.identify(),
    "push": lambda central: central.push([RUN]),
    "pull": lambda central: central.pull([WANT], 1000),
    "heads": lambda central: central.heads(["s"]),
    "sessions": lambda central: central.sessions("", 10),
    "checkpoint": lambda central: central.checkpoint("s"),
}


@pytest.mark.parametrize(("call", "answer"), ANSWERS)
async def test_answers_that_do_not_fit_are_refused(call: str, answer: Any) -> None:
    hostile = Hostile()
    await CALLS[call](Bounded(hostile))
    hostile.answers[call] = answer
    with pytest.raises(RemoteRejected):
        await CALLS[call](Bounded(hostile))


def test_a_store_checks_what_its_central_store_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hostile = Hostile()
    monkeypatch.setattr("sync.central.connect", lambda *_: hostile)
    with localfirst.open(tmp_path, remote="redis://host", worker="none") as store:
        hostile.answers["sessions"] = ["a", "a"]
        with pytest.raises(RemoteRejected, match="out of order"):
            store.refresh(5)


async def test_answers_that_fit_are_taken() -> None:
    hostile = Hostile()
    for call, answer in (
        ("push", pushed()),
        ("pull", page(b"x" * (limits.MAX_CHANGE_BYTES))),
        ("pull", page(*[b""] * 1000)),
        ("heads", [None]),
        ("sessions", ["a", "b", "c" * 1024]),
        ("checkpoint", Checkpoint("g", 1, 5, b"x")),
    ):
        hostile.answers = {call: answer}
        assert await CALLS[call](Bounded(hostile)) == answer


async def test_a_checkpoint_that_is_too_large_is_neither_taken_nor_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sync.central.bounded.MAX_CHECKPOINT_BYTES", 10)
    hostile = Hostile()
    hostile.answers["checkpoint"] = Checkpoint("g", 1, 5, bytes(11))
    with pytest.raises(RemoteRejected, match="11 bytes, and 10 are allowed"):
        await Bounded(hostile).checkpoint("s")
    with pytest.raises(RemoteRejected, match="11 bytes, and 10 are allowed"):
        await Bounded(hostile).put_checkpoint("s", None, Checkpoint("g", 1, 5, bytes(11)), {})


async def test_hints_that_make_no_sense_are_a_reason_to_look(tmp_path: Path) -> None:
    async def hints() -> AsyncIterator[Any]:
        for hint in (None, Hint("s", "g", 1), Hint("s" * 2000, "g", 1), Hint("s", 5, 1), Hint("\ud800", "g", 1), "x"):  # type: ignore[arg-type]
            yield hint

    hostile = MemoryStore(MemoryServer())
    hostile.watch = hints  # type: ignore[assignment, method-assign]
    async with aclosing(Bounded(hostile).watch()) as heard:  # type: ignore[type-var]
        assert [hint async for hint in heard] == [None, Hint("s", "g", 1), None, None, None, None]


def test_hints_without_end_become_one_look(tmp_path: Path) -> None:
    replica = Replica(tmp_path, MemoryServer())
    agenda = Agenda(replica.site, None)  # type: ignore[arg-type]
    for number in range(25_000):
        agenda.hear(Hint(f"s{number}", "g", 1))
    assert len(agenda.hinted) <= 10_000
    assert agenda.poll_at > 0


async def test_a_turn_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for it for ever, nor keeps all of it."""
    monkeypatch.setattr("sync.pull._MOST_ROOM", 4000)
    server = MemoryServer()
    writer, reader = Replica(tmp_path / "a", server), Replica(tmp_path / "b", server, Limits(pull_bytes=500))
    for number in range(30):
        writer.add("s", "x" * 900 + str(number), turn=5)
    await _push_as_it_is(writer, "s")
    refused = (await asyncio.wait_for(reader.sync("s"), 20)).refused
    assert ["a turn of more than" in str(refusal.error) for refusal in refused.values()] == [True]


async def _push_as_it_is(replica: Replica, name: str) -> None:
    head = replica.head(name)
    changes: Sequence[bytes] = replica.log.run(replica.write(name, lambda _: []), 0, 1000)
    with suppress(LocalFirstError):
        await replica.central.push([Run(name, "g", True, head.origin, 1, changes)])
