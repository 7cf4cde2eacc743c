"""Changes: wire encoding, digest, session ids."""

from __future__ import annotations

from contextlib import suppress
from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localfirst.change import (
    APPEND,
    DIGEST_FACTORS,
    DIGEST_PRIMES,
    EMPTY_DIGEST,
    MAIN_BRANCH,
    Change,
    check_session_id,
    decode_change,
    encode_change,
    extend_digest,
)
from localfirst.errors import ConfigurationError, MalformedChange

changes = st.builds(
    Change,
    origin=st.text(min_size=1, max_size=20),
    counter=st.integers(1, 2**62),
    time=st.integers(0, 2**62),
    base=st.integers(0, 2**62),
    branch=st.text(),
    kind=st.text(),
    body=st.binary(),
)


@given(changes)
def test_a_change_comes_back_from_its_encoding(change: Change) -> None:
    assert decode_change(encode_change(change)) == change


@given(st.binary(max_size=200))
def test_any_bytes_are_a_change_or_a_typed_error(data: bytes) -> None:
    try:
        change = decode_change(data)
    except MalformedChange:
        return
    assert isinstance(change, Change)


@given(changes, st.data())
def test_a_damaged_change_is_another_change_or_a_typed_error(change: Change, data: st.DataObject) -> None:
    encoded = bytearray(encode_change(change))
    place = data.draw(st.integers(0, len(encoded) - 1))
    encoded[place] ^= data.draw(st.integers(1, 255))
    with suppress(MalformedChange):
        assert decode_change(bytes(encoded)) != change or encode_change(change) != bytes(encoded)


@pytest.mark.parametrize("numbers", [(0, 0, 0), (-1, 0, 0), (1, -1, 0), (1, 0, -1), (1 << 63, 0, 0), (1, 1 << 63, 0)])
def test_impossible_numbers_are_refused(numbers: tuple[int, int, int]) -> None:
    counter, time, base = numbers
    with pytest.raises(MalformedChange):
        decode_change(encode_change(Change("r", counter, time, base, MAIN_BRANCH, APPEND, b"[]")))


def test_a_change_of_nobody_is_refused() -> None:
    with pytest.raises(MalformedChange):
        decode_change(encode_change(Change("", 1, 0, 0, MAIN_BRANCH, APPEND, b"[]")))


times = st.integers(0, 10**15 - 1)


@given(st.lists(st.binary(), max_size=20), times, st.integers(0, 20))
def test_a_digest_goes_on_from_any_point(log: list[bytes], time: int, cut: int) -> None:
    whole = extend_digest(EMPTY_DIGEST, time, log)
    assert extend_digest(extend_digest(EMPTY_DIGEST, time, log[:cut]), time, log[cut:]) == whole
    assert 0 <= whole < 2**63


@given(st.lists(st.binary(min_size=1), min_size=2, max_size=20, unique=True), st.data())
def test_a_digest_tells_order_loss_and_doubling_apart(log: list[bytes], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(log) - 2))
    swapped = [*log[:place], log[place + 1], log[place], *log[place + 2 :]]
    lost = [*log[:place], *log[place + 1 :]]
    doubled = [*log[: place + 1], *log[place:]]
    digests = {extend_digest(EMPTY_DIGEST, 1_000, variant) for variant in (log, swapped, lost, doubled)}
    assert len(digests) == 4


@given(st.lists(st.binary(), min_size=1, max_size=20), times, times)
def test_a_digest_tells_times_of_admission_apart(log: list[bytes], one: int, other: int) -> None:
    same = extend_digest(EMPTY_DIGEST, one, log) == extend_digest(EMPTY_DIGEST, other, log)
    assert same == (one == other)


@given(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), times)
def test_doubles_are_exact_for_the_arithmetic_of_digests(lane: int, added: int, time: int) -> None:
    """In Lua `a % b` is a - floor(a / b) * b: wrong if the quotient, right below a multiple, is rounded up to it."""
    for prime, factor in zip(DIGEST_PRIMES, DIGEST_FACTORS, strict=True):
        whole = float(lane) * float(factor) + float(added) + float(time)
        assert whole == lane * factor + added + time
        multiple = whole - int(whole) % prime
        for near in (whole, multiple, max(0.0, multiple - 1.0)):
            assert near - floor(near / float(prime)) * float(prime) == int(near) % prime


@pytest.mark.parametrize("good", ["u", "user 123", "a:b{c}", "é" * 512, "x" * 1024, "..", "/", "%00"])
def test_session_ids_that_are_taken(good: str) -> None:
    assert check_session_id(good) == good


@pytest.mark.parametrize("bad", ["", "a\0b", "\ud800", "x" * 1025, "é" * 513, None, 1, b"u"])
def test_session_ids_that_are_refused(bad: object) -> None:
    with pytest.raises(ConfigurationError, match="session id"):
        check_session_id(bad)
