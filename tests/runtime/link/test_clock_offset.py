"""The clock offset is right to the error that it states, whatever the network does with the two ways."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.link.clock_offset import DRIFT, ClockOffset

WAY_S = st.floats(0.0, 0.5, allow_subnormal=False)
NOISE_S = st.floats(0.0, 0.1, allow_subnormal=False)
PAUSE_S = st.floats(0.0, 20.0, allow_subnormal=False)


@settings(max_examples=300, deadline=None)
@given(
    st.floats(-1e5, 1e5, allow_subnormal=False),
    st.floats(-DRIFT, DRIFT, allow_subnormal=False),
    st.lists(st.tuples(WAY_S, WAY_S, NOISE_S, PAUSE_S), min_size=1),
)
def test_the_true_offset_is_always_within_the_stated_error(
    offset_s: float, drift: float, exchanges: list[tuple[float, float, float, float]]
) -> None:
    """Their clock gains `drift` a second on ours, ways there and back are as unequal as they like."""
    clock, now_s = ClockOffset(), 1000.0

    def theirs(ours_s: float) -> float:
        return ours_s + offset_s + drift * (ours_s - 1000.0)

    for there_s, back_s, held_s, pause_s in exchanges:
        received_s = now_s + there_s
        answered_s, end_s = received_s + held_s, received_s + held_s + back_s
        assert clock.add(now_s, theirs(received_s), theirs(answered_s), end_s)
        now_s = end_s + pause_s
        true_s = theirs(now_s) - now_s
        assert abs(clock.offset_s - true_s) <= clock.error_s(now_s)
    assert clock.steps == 0


def test_a_quick_exchange_is_kept_over_slow_ones_until_it_is_stale() -> None:
    clock = ClockOffset()
    assert clock.error_s(0.0) == math.inf
    clock.add(10.0, 110.0001, 110.0002, 10.0003)
    quick_s = clock.offset_s
    clock.add(10.1, 110.1001, 110.1002, 10.1403)  # 40 ms on the way back
    assert clock.offset_s == quick_s and clock.error_s(10.1403) < 0.001
    clock.add(100.0, 200.0001, 200.0002, 100.0403)
    assert clock.offset_s != quick_s, "90 s of drift allow more than this trip does"


def test_a_trainer_on_another_clock_is_believed_at_once() -> None:
    clock = ClockOffset()
    clock.add(10.0, 510.0001, 510.0002, 10.0003)
    clock.add(11.0, 3.0001, 3.0002, 11.0103)  # the trainer's machine was started anew
    assert clock.steps == 1 and clock.offset_s == pytest.approx(-8.005, abs=0.006)


@pytest.mark.parametrize(
    "times",
    [
        (10.0, 5.0, 5.1, 9.0),  # back before it was sent
        (10.0, 5.1, 5.0, 10.2),  # answered before it was received
        (10.0, 5.0, 5.3, 10.2),  # held longer than the trip took
        (10.0, 5.0, 5.0, 30.0),  # endless
        (10.0, math.nan, math.nan, 10.1),
        (10.0, math.inf, math.inf, 10.1),
    ],
)
def test_times_that_are_no_exchange_change_nothing(times: tuple[float, ...]) -> None:
    clock = ClockOffset()
    assert not clock.add(*times)
    assert (clock.exchanges, clock.refused, clock.error_s(0.0)) == (0, 1, math.inf)
