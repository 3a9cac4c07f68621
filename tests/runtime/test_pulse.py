"""When a loop counts as stalled, at the watchdog's own pace and when that was itself kept from running."""

from __future__ import annotations

import pytest

from runtime.config import LoopSection
from runtime.watchdog import PERIOD_S, SECOND_LOOK_S, Pulse

TIMEOUT_S, LOOP_PERIOD_S = 0.07, 1 / 30
ALLOWANCE_S = LoopSection().pause_allowance_s


def _stalls_after(pulse: Pulse, looks_s: list[float], tick: int = 1, beats: int = 1) -> float:
    """When it is said for the first time; the counters stand still."""
    for now_s in looks_s:
        if pulse.stalled(now_s, tick, beats):
            return now_s
    return float("inf")


def _on_time(from_s: float, to_s: float) -> list[float]:
    return [from_s + k * PERIOD_S for k in range(1, int((to_s - from_s) / PERIOD_S) + 1)]


def test_silence_is_a_stall_after_the_timeout() -> None:
    pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
    assert not pulse.stalled(0.0, 1, 1)
    assert TIMEOUT_S < _stalls_after(pulse, _on_time(0.0, 1.0)) <= TIMEOUT_S + PERIOD_S + 1e-9


def test_beats_keep_a_waiting_loop_alive_but_do_not_replace_its_ticks() -> None:
    pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
    found = [now_s for k, now_s in enumerate(_on_time(0.0, 0.5)) if pulse.stalled(now_s, 1, k)]
    assert found[0] == pytest.approx(PERIOD_S + TIMEOUT_S + 2 * LOOP_PERIOD_S, abs=PERIOD_S)


def test_a_loop_that_ticks_is_left_alone() -> None:
    pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
    assert not any(
        pulse.stalled(now_s, int(now_s / LOOP_PERIOD_S), 0) for now_s in _on_time(0.0, 2.0)
    )


def test_a_pause_of_the_whole_machine_is_no_stall_when_the_loop_goes_on_after_it() -> None:
    pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
    assert not pulse.stalled(0.0, 1, 1)
    assert not pulse.stalled(0.150, 1, 1)
    assert not pulse.stalled(0.154, 1, 2)


def test_a_loop_that_stays_silent_after_a_pause_gets_one_second_look_and_no_more() -> None:
    pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
    assert not pulse.stalled(0.0, 1, 1)
    late = [0.150 + 0.01 * k for k in range(10)]  # the watchdog is late each time
    assert _stalls_after(pulse, late) <= 0.150 + SECOND_LOOK_S + 0.01


def test_what_the_watchdog_lost_is_added_to_the_loops_time_up_to_a_limit() -> None:
    def given(looks_s: list[float]) -> float:
        pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
        assert not pulse.stalled(0.0, 1, 1)
        return _stalls_after(pulse, looks_s)

    one_pause = [0.004, 0.014, *_on_time(0.014, 0.2)]
    assert given(one_pause) == pytest.approx(TIMEOUT_S + 0.006, abs=PERIOD_S)
    halting = [0.010 * k for k in range(1, 40)]  # every look is 6 ms late
    most_s = TIMEOUT_S + ALLOWANCE_S + SECOND_LOOK_S
    assert TIMEOUT_S + ALLOWANCE_S < given(halting) <= most_s + 2 * 0.010  # as it looks every 10 ms


def test_an_unwatched_loop_never_stalls() -> None:
    pulse = Pulse(TIMEOUT_S, ALLOWANCE_S, LOOP_PERIOD_S, 0.0)
    assert not any(pulse.stalled(now_s, 1, 1, watched=False) for now_s in _on_time(0.0, 1.0))
