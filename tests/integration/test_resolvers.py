"""Functions of `resolvers=`, and conflicts as events, on every kind of central store."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import localfirst
from localfirst import Conflict, SessionEvent
from tests.faults.central import changes_in
from tests.integration.stores import settle
from tests.polling import eventually

Open = Callable[..., localfirst.Store]

_spawn = multiprocessing.get_context("spawn")


@pytest.fixture
def namespace() -> str:
    return f"test-{uuid.uuid4()}"


@pytest.fixture
def opened(tmp_path: Path, remote_url: str, namespace: str) -> Iterator[Open]:
    """Open stores by the name of their directory; closed after the test. They sync when they are told to."""
    with ExitStack() as stack:

        def open_store(name: str, **options: Any) -> localfirst.Store:
            options = {"namespace": namespace, "worker": "none", "remote": remote_url, **options}
            return stack.enter_context(localfirst.open(tmp_path / name, **options))

        yield open_store


class Union:
    """A function that keeps what both sides have, and remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.threads: set[str] = set()

    def __call__(self, key: str, mine: Any, theirs: Any, base: Any) -> Any:
        self.calls.append((key, mine, theirs, base))
        self.threads.add(threading.current_thread().name)
        return sorted({*(mine or []), *(theirs or [])})


def told_to(store: localfirst.Store) -> list[tuple[Any, ...]]:
    """The events that a store tells of its metadata, as they come."""
    told: list[tuple[Any, ...]] = []
    store.on(SessionEvent.CONFLICT_RESOLVED, lambda _, conflict: told.append((conflict,)))
    store.on(SessionEvent.METADATA_CHANGED, lambda _, key, value: told.append((key, value)))
    return told


def conflicts_in(told: list[tuple[Any, ...]]) -> list[Conflict]:
    return [each[0] for each in told if isinstance(each[0], Conflict)]


def begin(mine: localfirst.Session, theirs: localfirst.Session) -> None:
    """Both know the same, and each writes without knowledge of the other; theirs is admitted."""
    mine.set("k", [0])
    mine.flush(10)
    theirs.refresh(10)
    theirs.set("k", [0, 1])
    theirs.flush(10)
    mine.set("k", [0, 2])


def begin_offline(opened: Open, theirs: localfirst.Session, function: Any) -> None:
    """The same; what is in the directory "a" was written without a central store, and waits there."""
    with opened("a") as a:
        a.session("s").set("k", [0])
        a.flush(10)
    theirs.refresh(10)
    theirs.set("k", [0, 1])
    theirs.flush(10)
    with opened("a", remote="", resolvers={"k": function}) as a:
        a.session("s").set("k", [0, 2])


def agree(*sessions: localfirst.Session) -> None:
    for session in sessions:
        session.refresh(10)
    assert len({repr((session.metadata(), session.conflicts())) for session in sessions}) == 1


@pytest.mark.parametrize("listening", [False, True])
def test_it_is_asked_once_and_what_it_says_is_everywhere(opened: Open, listening: bool) -> None:
    here, there = Union(), Union()
    a, b = opened("a", resolvers={"k": here}), opened("b", resolvers={"k": there})
    told = [told_to(a), told_to(b)] if listening else []
    mine, theirs = a.session("s"), b.session("s")
    begin(mine, theirs)
    mine.flush(10)
    assert here.calls == [("k", [0, 2], [0, 1], [0])]
    assert mine.get("k") == [0, 1, 2]
    assert mine.pending == 0  # What it said went up in the same flush.
    theirs.refresh(10)
    assert theirs.get("k") == [0, 1, 2]
    for session in (theirs, mine):
        session.flush(10)
    agree(mine, theirs)
    assert len(here.calls) == 1
    assert there.calls == []
    for events in told:
        assert conflicts_in(events) == mine.conflicts()
        assert events[-1] == ("k", [0, 1, 2])


@pytest.mark.parametrize("worker", ["thread", "task"])
async def test_a_worker_asks_in_the_background(
    tmp_path: Path, remote_url: str, namespace: str, opened: Open, worker: Any
) -> None:
    function, b = Union(), opened("b")
    await asyncio.to_thread(begin_offline, opened, b.session("s"), function)
    resolvers: Any = {"other": "union", "*": function}
    async with localfirst.open(
        tmp_path / "a", remote=remote_url, namespace=namespace, worker=worker, resolvers=resolvers
    ) as store:
        session = store.session("s")
        for _ in range(2000):
            if session.get("k") == [0, 1, 2] and not session.pending:
                break
            await asyncio.sleep(0.005)
        assert function.calls == [("k", [0, 2], [0, 1], [0])]
        assert function.threads == {"localfirst-sync" if worker == "thread" else threading.current_thread().name}
    await b.arefresh(10)
    assert b.session("s").get("k") == [0, 1, 2]


def test_all_that_was_written_offline_is_one(opened: Open) -> None:
    """Also across a restart in between: no write of either side is lost to the function."""
    function, a, b = Union(), opened("a"), opened("b")
    a.session("s").set("k", [0])
    a.flush(10)
    a.close()
    for number in (2, 3):
        with opened("a", remote="", resolvers={"k": function}) as offline:
            offline.session("s").set("k", [*offline.session("s").get("k"), number])
    b.session("s").refresh(10)
    for number in (1, 4):
        b.session("s").set("k", [*b.session("s").get("k"), number])
    b.flush(10)
    a = opened("a", resolvers={"k": function})
    a.flush(10)
    assert function.calls == [("k", [0, 2, 3], [0, 1, 4], [0])]
    agree(a.session("s"), b.session("s"))
    assert b.session("s").get("k") == [0, 1, 2, 3, 4]


def test_deletions_are_none(opened: Open) -> None:
    calls: list[tuple[Any, ...]] = []

    def nothing(*arguments: Any) -> None:
        calls.append(arguments)

    a, b = opened("a", resolvers={"k": nothing}), opened("b")
    mine, theirs = a.session("s"), b.session("s")
    mine.set("k", [0])
    mine.flush(10)
    theirs.refresh(10)
    theirs.set("k", [1])
    theirs.flush(10)
    mine.delete("k")
    mine.flush(10)
    assert calls == [("k", None, [1], [0])]
    agree(mine, theirs)
    assert theirs.metadata() == {}


def test_a_rule_that_is_named_wins_over_the_function(opened: Open) -> None:
    function = Union()
    a, b = opened("a", resolvers={"k": function}), opened("b")
    begin(a.session("s"), b.session("s"))
    a.session("s").set("k", [3], merge="last")
    a.flush(10)
    agree(a.session("s"), b.session("s"))
    assert b.session("s").get("k") == [3]
    assert function.calls == []


def raising(key: str, mine: Any, theirs: Any, base: Any) -> Any:
    raise RuntimeError("not today")


def exiting(key: str, mine: Any, theirs: Any, base: Any) -> Any:
    raise SystemExit


def a_set(key: str, mine: Any, theirs: Any, base: Any) -> Any:
    return {*mine, *theirs}


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (raising, "RuntimeError: not today"),
        (exiting, "SystemExit: "),
        (a_set, "InvalidItem: set can't be stored as JSON: convert it first"),
    ],
)
@pytest.mark.parametrize("worker", ["thread", "none"])
def test_a_function_that_fails_leaves_it_to_the_later_write(
    opened: Open, caplog: pytest.LogCaptureFixture, function: Any, problem: str, worker: str
) -> None:
    theirs = opened("b").session("s")
    begin_offline(opened, theirs, function)
    a = opened("a", worker=worker, resolvers={"k": function})
    told, mine = told_to(a), a.session("s")
    a.flush(10)
    assert mine.get("k") == [0, 2]
    found = eventually(lambda: conflicts_in(told))
    assert [conflict.problem for conflict in found] == [problem]
    assert [conflict._replace(problem="") for conflict in found] == mine.conflicts()
    assert "'s': the resolver of 'k' failed; the later write stands" in caplog.text
    a.close()
    a = opened("a", resolvers={"k": function})  # It is not asked again.
    told = told_to(a)
    mine = a.session("s")
    mine.set("other", 1)
    a.flush(10)
    agree(mine, theirs)
    assert theirs.metadata() == {"k": [0, 2], "other": 1}
    assert conflicts_in(told) == []


def test_what_is_given_to_it_is_its_own(opened: Open) -> None:
    def spoiling(key: str, mine: Any, theirs: Any, base: Any) -> Any:
        for each in (mine, theirs, base):
            each.clear()
        return ["spoilt"]

    a, b = opened("a", resolvers={"k": spoiling}), opened("b")
    begin(a.session("s"), b.session("s"))
    a.flush(10)
    agree(a.session("s"), b.session("s"))
    (conflict,) = a.session("s").conflicts()
    assert (conflict.current, conflict.incoming, conflict.winner) == ([0, 1], [0, 2], [0, 2])


def test_it_may_use_the_session_but_not_wait_for_the_worker(opened: Open) -> None:
    problems: list[str] = []

    def curious(key: str, mine: Any, theirs: Any, base: Any) -> Any:
        session = a.session("s")
        session.increment("asked")
        try:
            session.flush(1)
        except localfirst.ConfigurationError as error:
            problems.append(str(error))
        return [len(session), session.get(key)]

    a, b = opened("a", worker="thread", poll_interval=60, resolvers={"k": curious}), opened("b")
    begin(a.session("s"), b.session("s"))
    a.flush(10)
    eventually(lambda: a.session("s").get("k") == [0, [0, 2]])
    assert a.session("s").get("asked") == 1
    assert "can't wait in the thread that syncs" in problems[0]


def test_who_writes_meanwhile_has_the_last_word(opened: Open) -> None:
    """No lock is held while the function thinks: the agent goes on, and knows better."""
    asked, answer = threading.Event(), threading.Event()

    def slow(key: str, mine: Any, theirs: Any, base: Any) -> Any:
        asked.set()
        assert answer.wait(10)
        return ["too late"]

    theirs = opened("b").session("s")
    begin_offline(opened, theirs, slow)
    a = opened("a", worker="thread", resolvers={"k": slow})
    mine = a.session("s")
    assert asked.wait(10)
    mine.set("k", ["the agent's"])
    assert mine.get("k") == ["the agent's"]
    answer.set()
    a.flush(10)
    agree(mine, theirs)
    assert theirs.get("k") == ["the agent's"]


def test_two_processes_of_a_directory_put_it_once(opened: Open, remote_url: str, namespace: str) -> None:
    """Both read of the conflict; the second comes to it when it is settled."""
    first, second = Union(), Union()
    a, b = opened("a", resolvers={"k": first}), opened("b")
    twin = opened("a", resolvers={"k": second})
    begin(a.session("s"), b.session("s"))
    assert twin.session("s").get("k") == [0, 2]
    a.flush(10)
    before = changes_in(remote_url, namespace, ["s"])
    twin.flush(10)
    twin.refresh(10)
    assert len(first.calls) == 1
    assert second.calls == []
    assert changes_in(remote_url, namespace, ["s"]) == before == {"s": 4}  # Three writes, and what it said.


def test_of_processes_that_ask_at_once_one_puts(opened: Open, remote_url: str, namespace: str) -> None:
    both = threading.Barrier(2, timeout=20)

    def together(key: str, mine: Any, theirs: Any, base: Any) -> Any:
        both.wait()
        return [*mine, *theirs]

    b = opened("b")
    begin_offline(opened, b.session("s"), together)
    sidecar = opened("a")  # Syncs, and has no function.
    sidecar.flush(10)
    twins = [opened("a", resolvers={"k": together}) for _ in range(2)]
    threads = [threading.Thread(target=twin.refresh, kwargs={"session_id": "s", "timeout": 30}) for twin in twins]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    for twin in twins:
        twin.flush(10)
    agree(*(store.session("s") for store in (*twins, b)))
    assert b.session("s").get("k") == [0, 2, 0, 1]
    assert changes_in(remote_url, namespace, ["s"]) == {"s": 4}


def test_beside_a_process_that_syncs_without_it_a_flush_or_refresh_asks(opened: Open) -> None:
    """As beside `localfirst sync`, which has no functions."""
    function = Union()
    a, b = opened("a", resolvers={"k": function}), opened("b")
    begin(a.session("s"), b.session("s"))
    sidecar = opened("a")
    sidecar.flush(10)
    assert a.session("s").get("k") == [0, 2]
    assert function.calls == []
    told = told_to(a)
    a.refresh(10)
    assert function.calls == [("k", [0, 2], [0, 1], [0])]
    assert told[-1] == ("k", [0, 1, 2])
    sidecar.flush(10)
    agree(a.session("s"), b.session("s"))
    assert b.session("s").get("k") == [0, 1, 2]


def dying(key: str, mine: Any, theirs: Any, base: Any) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def sync_and_die(path: Path, remote: str, namespace: str) -> None:
    with localfirst.open(path, remote=remote, namespace=namespace, worker="none", resolvers={"k": dying}) as store:
        store.flush(30)


def test_a_process_that_is_killed_while_it_asks_has_settled_nothing(
    opened: Open, tmp_path: Path, remote_url: str, namespace: str
) -> None:
    b = opened("b")
    begin_offline(opened, b.session("s"), dying)
    process = _spawn.Process(target=sync_and_die, args=(tmp_path / "a", remote_url, namespace))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    function = Union()
    a = opened("a", resolvers={"k": function})
    a.session("s").flush(10)
    assert function.calls == [("k", [0, 2], [0, 1], [0])]
    agree(a.session("s"), b.session("s"))
    assert b.session("s").get("k") == [0, 1, 2]


def test_a_function_that_comes_later_is_not_asked_about_what_is_past(opened: Open) -> None:
    a, b = opened("a"), opened("b")
    begin(a.session("s"), b.session("s"))
    a.flush(10)
    a.close()
    function = Union()
    a = opened("a", resolvers={"k": function})
    a.session("s").refresh(10)
    a.session("s").set("other", 1)
    a.flush(10)
    assert function.calls == []


def test_also_when_the_log_was_folded_meanwhile(opened: Open) -> None:
    """Offline for longer than the central log is kept: it is read anew, and what is pending met its conflict."""
    function, b = Union(), opened("b")
    a = opened("a", resolvers={"k": function})
    mine, theirs = a.session("s"), b.session("s")
    begin(mine, theirs)
    told = told_to(a)
    for number in range(1000):
        theirs.set("k", [0, number % 7, 1000 + number])
        theirs.set("churn", "x" * 100)
    theirs.flush(30)
    head = b._local.log.head(theirs._key)
    assert head is not None
    assert head.floor > 100
    mine.flush(30)
    assert function.calls == [("k", [0, 2], [0, 999 % 7, 1999], [0])]
    agree(mine, theirs)
    assert theirs.get("k") == sorted({0, 2, 999 % 7, 1999})
    assert conflicts_in(told) == mine.conflicts()


# Events.


def test_every_replica_hears_of_a_conflict_once(opened: Open) -> None:
    names = ("a", "b", "c")
    stores = [opened(name) for name in names]
    told = [told_to(store) for store in stores]
    sessions = [store.session("s") for store in stores]
    for name, session in zip(names, sessions, strict=True):
        session.set("k", name)
        session.set("n", 1)
        session.increment("sum")
    for _ in range(2):
        for session in sessions:
            session.flush(10)
            session.refresh(10)
    agree(*sessions)
    assert len(sessions[0].conflicts()) == 4
    for events in told:
        assert conflicts_in(events) == sessions[0].conflicts()


def test_conflicts_that_were_met_while_nobody_listened_are_kept(opened: Open) -> None:
    a, b = opened("a"), opened("b")
    begin(a.session("s"), b.session("s"))
    a.flush(10)
    b.refresh(10)
    told = told_to(b)
    b.refresh(10)
    assert conflicts_in(told) == []
    assert len(b.session("s").conflicts()) == 1


@pytest.mark.parametrize("function", [raising, a_set])
def test_what_is_sealed_is_not_named_in_the_log(opened: Open, caplog: pytest.LogCaptureFixture, function: Any) -> None:
    a, b = (opened(name, encryption_key=bytes(32), resolvers={"canary": function}) for name in "ab")
    for number, store in enumerate((a, b)):
        store.session("s").set("canary", [number])
    settle(a, b)
    eventually(lambda: "the resolver of a key failed" in caplog.text)
    assert "canary" not in caplog.text
