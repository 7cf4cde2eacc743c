"""Turns: what may go of a stretch without parting one, and which were left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import localfirst
from localfirst.change import APPEND, END, MAIN_BRANCH, Change, decode_change, encode_change, in_turn
from localfirst.errors import ConfigurationError, StoreCorrupt
from localfirst.records import TURN, number, session_key
from localfirst.testing.memory import MemoryServer
from localfirst.turns import OpenTurns, Owner, Turns, whole
from tests.polling import eventually
from tests.unit.replica import Replica

KEY = session_key("default", "s")


def change(counter: int, turn: int = 0, *, ends: bool = False) -> bytes:
    kind, body = (END, b"{}") if ends else (APPEND, b'["x"]')
    return encode_change(Change("r1", counter, counter, 0, MAIN_BRANCH, kind, body, turn))


# What may go.


def naively_whole(changes: list[tuple[int, bool]]) -> int:
    """The longest beginning of which every turn in it ends in it, after all that is in the turn."""

    def is_whole(part: list[tuple[int, bool]]) -> bool:
        turns = {turn for turn, _ in part if turn}
        return all([ends for each, ends in part if each == turn][-1] for turn in turns)

    return max(count for count in range(len(changes) + 1) if is_whole(changes[:count]))


stretches = st.lists(st.tuples(st.sampled_from([0, 0, 1, 3, (1 << 62) | 1]), st.booleans()), max_size=12)


@settings(deadline=None)
@given(stretches)
def test_a_beginning_parts_no_turn(steps: list[tuple[int, bool]]) -> None:
    steps = [(turn, ends and turn > 0) for turn, ends in steps]
    changes = [change(counter, turn, ends=ends) for counter, (turn, ends) in enumerate(steps, start=1)]
    assert whole(changes) == naively_whole(steps)


@settings(deadline=None)
@given(stretches)
def test_one_change_after_the_other_tells_the_same(steps: list[tuple[int, bool]]) -> None:
    steps = [(turn, ends and turn > 0) for turn, ends in steps]
    turns = OpenTurns()
    told = [turns.follow(change(counter, *step[:1], ends=step[1])) for counter, step in enumerate(steps, start=1)]
    safe = max((place for place, closed in enumerate(told, start=1) if closed), default=0)
    assert safe == naively_whole(steps)


def test_an_end_alone_ends_nothing_and_is_fine() -> None:
    """The beginning was admitted before, or it was ended by two."""
    assert whole([change(1, 3, ends=True), change(2, 3, ends=True)]) == 2
    assert whole([]) == 0


@settings(deadline=None)
@given(st.integers(0, (1 << 62) - 1), st.text(max_size=3), st.binary(max_size=5))
def test_the_last_byte_tells_whether_a_change_is_part_of_a_turn(turn: int, kind: str, body: bytes) -> None:
    turn |= 1
    data = encode_change(Change("r1", 1, 1, 0, MAIN_BRANCH, kind, body, turn))
    assert in_turn(data)
    assert decode_change(data).turn == turn
    assert not in_turn(encode_change(Change("r1", 1, 1, 0, MAIN_BRANCH, kind, body)))


def test_the_names_of_turns_are_odd(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store:
        assert all(store._local.new_turn() % 2 for _ in range(100))


# Who left one behind.


@pytest.fixture
def replica(tmp_path: Path) -> Iterator[Replica]:
    made = Replica(tmp_path, MemoryServer())
    yield made
    made.rows.close()


@pytest.fixture
def turns(replica: Replica) -> Turns:
    return Turns(replica.log)


def test_a_turn_of_a_process_that_lives_is_waited_for(tmp_path: Path, replica: Replica, turns: Turns) -> None:
    owner = Owner(tmp_path)
    turns.open(KEY, 5, owner.name())
    assert turns.is_open(KEY, 5)
    assert list(turns.left_behind(tmp_path, "default")) == []
    owner.release()
    assert list(turns.left_behind(tmp_path, "default")) == [(KEY, 5)]
    assert turns.is_open(KEY, 5)  # It was only looked for.
    turns.close(KEY, 5)
    assert list(turns.left_behind(tmp_path, "default")) == []
    assert list(tmp_path.glob("turns-*")) == []


def test_an_owner_has_one_name_however_often_it_is_asked(tmp_path: Path) -> None:
    owner, names = Owner(tmp_path), set[str]()
    threads = [threading.Thread(target=lambda: names.add(owner.name())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(names) == 1
    assert len(list(tmp_path.glob("turns-*"))) == 1
    owner.release()
    owner.release()
    assert list(tmp_path.glob("turns-*")) == []
    assert owner.name() not in names
    owner.release()


HOLDS = """
import sys, pathlib
from localfirst.turns import Owner
owner = Owner(pathlib.Path(sys.argv[1]))
print(owner.name(), flush=True)
sys.stdin.read()
"""


def test_the_lock_goes_with_its_process(tmp_path: Path, replica: Replica, turns: Turns) -> None:
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        turns.open(KEY, 5, process.stdout.readline().strip())
        assert list(turns.left_behind(tmp_path, "default")) == []
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)
    assert list(turns.left_behind(tmp_path, "default")) == [(KEY, 5)]


@pytest.mark.parametrize("name", ["", "../escape", "nobody", "a\0b"])
def test_an_owner_that_can_be_nobody_is_gone(tmp_path: Path, turns: Turns, name: str) -> None:
    (tmp_path / "escape.lock").write_text("mine")
    turns.open(KEY, 5, name)
    assert list(turns.left_behind(tmp_path, "default")) == [(KEY, 5)]
    assert (tmp_path / "escape.lock").read_text() == "mine"


def test_a_turn_that_can_not_be_read_is_told(tmp_path: Path, replica: Replica, turns: Turns) -> None:
    replica.rows.put(TURN + KEY + number(5), b"\xc1")
    with pytest.raises(StoreCorrupt, match="turn"):
        list(turns.left_behind(tmp_path, "default"))


def test_a_turn_in_which_nothing_is_written_for_long_is_left_behind(
    tmp_path: Path, replica: Replica, turns: Turns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("localfirst.turns.IDLE_SECONDS", 0.3)
    owner = Owner(tmp_path)
    turns.open(KEY, 5, owner.name())
    assert list(turns.left_behind(tmp_path, "default")) == []
    eventually(lambda: list(turns.left_behind(tmp_path, "default")))
    replica.add("s", "a write is a sign of life", turn=5)
    assert list(turns.left_behind(tmp_path, "default")) == []
    eventually(lambda: list(turns.left_behind(tmp_path, "default")))
    owner.release()


async def test_what_is_left_behind_goes_when_it_is_ended(replica: Replica, turns: Turns) -> None:
    replica.add("s", "before")
    turns.open(KEY, 5, "nobody")
    replica.add("s", "inside", turn=5)
    replica.add("s", "by another")
    await replica.sync("s")
    assert replica.pending("s") == 2
    turns.end(KEY, 5)
    assert not turns.is_open(KEY, 5)
    await replica.sync("s")
    assert replica.pending("s") == 0
    assert replica.items("s") == ["before", "inside", "by another"]
    turns.end(KEY, 5)  # Two processes may find it.
    await replica.sync("s")
    assert replica.items("s") == ["before", "inside", "by another"]


async def test_of_two_turns_that_overlap_nothing_goes_before_both_are_over(replica: Replica, turns: Turns) -> None:
    for turn in (3, 5):
        turns.open(KEY, turn, "nobody")
        replica.add("s", f"call {turn}", turn=turn)
    for turn in (3, 5):
        await replica.sync("s")
        assert replica.pending("s") >= 2
        turns.end(KEY, turn)
    await replica.sync("s")
    assert replica.pending("s") == 0


# Who is in one.


def test_a_turn_is_of_its_session_and_store(tmp_path: Path) -> None:
    central = (tmp_path / "central").as_uri()
    with (
        localfirst.open(tmp_path / "a", remote=central, worker="none") as store,
        localfirst.open(tmp_path / "b", remote=central, worker="none") as other,
        store.session("s").turn(),
    ):
        store.session("other").add_message("user", "not part of it")
        store.session("s").add_message("user", "part of it")
        other.session("s").add_message("user", "not part of it")
        other.flush(5)
        with pytest.raises(ConfigurationError):
            store.flush(5)
    turns_of = [in_turn(value) for _, value in rows_of(tmp_path / "a")]
    assert sorted(turns_of) == [False, True, True]
    assert [in_turn(value) for _, value in rows_of(tmp_path / "b")] == [False]


def rows_of(path: Path) -> list[tuple[bytes, bytes]]:
    """The changes made in a directory."""
    with localfirst.open(path) as store:
        return store._local.log.rows.range(b"c", b"d")


def test_an_empty_turn_takes_no_lock_and_writes_no_row(tmp_path: Path) -> None:
    with localfirst.open(tmp_path) as store, store.session("s").turn():
        assert list(store.session("s")) == []
        with store.session("s").turn():
            pass
        assert list(tmp_path.glob("turns-*")) == []
    assert rows_of(tmp_path) == []
