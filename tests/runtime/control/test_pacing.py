"""Pacing with a fake clock: absolute deadlines, skipped periods counted, no bursts."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.control import pacing
from runtime.control.clock import SimulatedClock


def test_small_lateness_does_not_add_up() -> None:
    pace = pacing.start(10.0, 0.0)
    for tick in range(1, 1001):
        assert pace.deadline_s == pytest.approx(tick * 0.1)
        pace, lateness_s = pacing.begin_tick(pace, pace.deadline_s + 0.03)
        assert lateness_s == pytest.approx(0.03)
    assert pace.missed == 0


def test_an_overrun_skips_whole_periods_and_counts_them() -> None:
    pace = pacing.start(10.0, 0.0)
    pace, lateness_s = pacing.begin_tick(pace, 0.1 + 0.35)
    assert lateness_s == pytest.approx(0.35)
    assert pace.missed == 3
    assert pace.deadline_s == pytest.approx(0.5)


# No subnormal numbers: an ONNX Runtime session, once opened in this process, flushes them.
SECONDS = st.floats(0.0, 2.0, allow_subnormal=False)


@given(st.lists(SECONDS, max_size=50), st.floats(1.0, 200.0))
def test_the_next_deadline_is_always_ahead_and_on_the_grid(
    delays: list[float], rate_hz: float
) -> None:
    pace = pacing.start(rate_hz, 5.0)
    for delay_s in delays:
        now_s = pace.deadline_s + delay_s
        pace, _ = pacing.begin_tick(pace, now_s)
        assert pace.deadline_s > now_s - 1e-9
        assert pace.deadline_s <= now_s + pace.period_s + 1e-9
        periods = (pace.deadline_s - 5.0) * rate_hz
        assert periods == pytest.approx(round(periods), abs=1e-6)
        assert pace.tick + pace.missed == round(periods) - 1


def test_a_simulated_clock_moves_only_when_waited_for() -> None:
    asked: list[float] = []

    def advance(to_s: float) -> float:
        asked.append(to_s)
        return to_s

    clock = SimulatedClock(advance)
    pace = pacing.start(10.0, clock.now_s())
    for _ in range(3):
        clock.wait_until(pace.deadline_s)
        pace, lateness_s = pacing.begin_tick(pace, clock.now_s())
        assert lateness_s == 0.0
    assert asked == pytest.approx([0.1, 0.2, 0.3])
    assert clock.now_s() == pytest.approx(0.3)


def test_summaries_name_the_percentiles() -> None:
    found = pacing.summary([float(k) for k in range(1, 1001)], "lateness")
    assert found["lateness_p50_s"] == 500.0
    assert found["lateness_p99_s"] == 990.0
    assert found["lateness_p999_s"] == 999.0
    assert found["lateness_max_s"] == 1000.0


def test_a_long_episode_is_summed_up_with_other_threads_alive() -> None:
    """The loop is one of them, and its watchdog waits for it."""
    values_s = np.random.default_rng(0).random(1_000_000).tolist()
    from_s = time.thread_time()
    sorted(values_s)
    sorting_s = time.thread_time() - from_s

    def longest_wait_s() -> float:
        summing = threading.Thread(target=pacing.summary, args=(values_s, "wait"))
        marks_s = [time.monotonic()]
        summing.start()
        while summing.is_alive():
            marks_s.append(time.monotonic())
            time.sleep(0.0005)
        marks_s.append(time.monotonic())
        return float(np.diff(marks_s).max())

    waits_s = (longest_wait_s() for _ in range(20))
    assert any(wait_s < sorting_s / 2 for wait_s in waits_s)
