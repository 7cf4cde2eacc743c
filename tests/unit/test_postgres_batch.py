"""What goes to Postgres: columns that give every change back to the byte, batches, and payloads of hints."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfirst.change import Change, encode_change
from localfirst.errors import RemoteRejected
from sync.central.base import Hint, Run
from sync.central.postgres import batch, hints

numbers = st.integers(0, (1 << 64) - 1)
names = st.text(st.characters(exclude_categories=["Cs"]), max_size=5)


def change(
    counter: int = 1,
    *,
    origin: str = "r1",
    branch: str = "main",
    time: int = 1,
    kind: str = "append",
    turn: int = 0,
) -> bytes:
    return encode_change(Change(origin, counter, time, 0, branch, kind, b"[1]", turn))


def run(session_id: str, first: int = 1, size: int = 1) -> Run:
    return Run(session_id, "g", True, "r1", first, [bytes(size)])


def back(data: bytes, origin: str = "r1", counter: int = 1) -> bytes:
    row = batch.row(data, origin, counter)
    return batch.data((origin, counter, row.time, row.base, row.branch, row.kind, row.body, row.turn))


def test_a_change_is_kept_in_columns() -> None:
    row = batch.row(change(turn=7), "r1", 1)
    assert row == batch.Row(time=1, base=0, turn=7, branch="main", kind="append", body=b"[1]")
    assert batch.row(change(), "r1", 1).turn == 0


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="no change"),
        pytest.param(change(2), id="another counter"),
        pytest.param(change(origin="r2"), id="another origin"),
        pytest.param(change(branch="a\0b"), id="NUL in the branch"),
        pytest.param(change(kind="\0"), id="NUL in the kind"),
        pytest.param(change(time=1 << 63), id="a time of 64 bits"),
        pytest.param(change(turn=1 << 63), id="a turn of 64 bits"),
        pytest.param(b"\x99" + change()[1:] + b"\x01", id="a field more"),
        pytest.param(b"\x97" + change()[1:-1], id="no turn"),
        pytest.param(change()[:4] + b"\xcc\x01" + change()[5:], id="a long way to write 1"),
    ],
)
def test_what_columns_could_not_give_back_is_kept_as_it_is(data: bytes) -> None:
    assert batch.row(data, "r1", 1) == (None, None, None, None, None, data)
    assert back(data) == data


@given(
    st.binary()
    | st.builds(encode_change, st.builds(Change, names, numbers, numbers, numbers, names, names, st.binary(), numbers))
)
def test_whatever_is_put_in_comes_out(data: bytes) -> None:
    assert back(data) == data


def test_a_batch_has_no_session_twice_and_keeps_the_order_of_each() -> None:
    runs = [run("a", 1), run("a", 2), run("b", 1), run("a", 3), run("b", 2)]
    assert list(batch.batches(runs)) == [[0, 2], [1, 4], [3]]


def test_batches_are_bounded_in_bytes_and_in_runs() -> None:
    half = batch.MAX_BATCH_BYTES // 2
    large = [run("a", size=half), run("b", size=half), run("c", size=1), run("d", size=3 * half), run("e")]
    assert list(batch.batches(large)) == [[0, 1], [2], [3], [4]]
    many = [run(str(number)) for number in range(batch.MAX_BATCH_RUNS + 1)]
    assert [len(each) for each in batch.batches(many)] == [batch.MAX_BATCH_RUNS, 1]
    assert list(batch.batches([])) == []


@pytest.mark.parametrize(
    "bad",
    [
        Run("s", "g", True, "", 1, [b""]),
        Run("s", "g", True, "a\0b", 1, [b""]),
        Run("s", "\ud800", True, "r1", 1, [b""]),
        Run("s", "g", True, "r1", 0, [b""]),
        Run("s", "g", True, "r1", (1 << 63) - 1, [b""]),
    ],
)
def test_a_run_with_names_or_numbers_that_no_column_holds_is_refused(bad: Run) -> None:
    with pytest.raises(RemoteRejected):
        batch.check_run(bad)


@given(st.lists(st.builds(Hint, st.text(st.characters(exclude_categories=["Cs"]), max_size=1024), names, numbers)))
def test_payloads_are_bounded_and_hold_every_hint(moved: list[Hint]) -> None:
    payloads = hints.payloads(moved)
    assert all(len(payload.encode()) <= hints.MAX_PAYLOAD for payload in payloads)
    assert [hint for payload in payloads for hint in hints.parse_payload(payload) or []] == moved


def test_full_payloads_are_few() -> None:
    moved = [Hint(f"session-{number:04}", "0123456789abcdef0123", number) for number in range(1000)]
    assert len(hints.payloads(moved)) <= 8
    assert hints.payloads([]) == []


def test_a_hint_that_no_payload_holds_says_that_anything_moved() -> None:
    assert hints.payloads([Hint("s", "g" * 8000, 1)]) == [hints.TOO_MUCH]
    assert hints.parse_payload(hints.TOO_MUCH) is None


@pytest.mark.parametrize("payload", ["", "{}", "[1]", '["s"]', '[["s","g"]]', '[["s","g","1"]]', "[" * 5000, "\ud800"])
def test_what_somebody_else_notifies_is_no_hint(payload: str) -> None:
    assert hints.parse_payload(payload) is None


def test_channels_are_identifiers_and_differ() -> None:
    names = ["a", "b", "A", "é", "x" * 500, '"; drop table x; --']
    channels = {hints.channel(name) for name in names}
    assert len(channels) == len(names)
    assert all(channel.isidentifier() and len(channel) < 63 for channel in channels)
