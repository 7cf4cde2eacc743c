"""The hybrid logical clock."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from localfirst.clock import HybridClock, clamp, pack, unpack_ms


@given(st.lists(st.integers(0, 2**40), min_size=2))
def test_it_never_goes_back_whatever_the_wall_clock_does(walls: list[int]) -> None:
    readings = iter(walls)
    clock = HybridClock(wall=lambda: next(readings))
    stamps = [clock.now() for _ in walls]
    assert all(earlier < later for earlier, later in pairwise(stamps))


def test_it_follows_the_wall_clock_when_that_is_ahead() -> None:
    walls = iter([pack(1_000), pack(5_000)])
    clock = HybridClock(wall=lambda: next(walls))
    clock.now()
    assert unpack_ms(clock.now()) == 5_000


def test_it_comes_after_what_it_has_seen() -> None:
    clock = HybridClock(wall=lambda: pack(1_000))
    clock.observe(pack(9_000, 7))
    assert clock.now() > pack(9_000, 7)


@given(st.integers(0, 2**60), st.integers(0, 2**40))
def test_a_change_is_never_newer_than_its_admission(time: int, admitted_at: int) -> None:
    clamped = clamp(time, admitted_at)
    assert clamped <= time
    assert unpack_ms(clamped) <= admitted_at
    if unpack_ms(time) <= admitted_at:
        assert clamped == time
