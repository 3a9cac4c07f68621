"""The loop's figures against numpy's, and what is judged of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.control import pacing
from runtime.control.periodicity import Health, Periodicity, Spread, Thresholds


def run(
    periodicity: Periodicity, late_s: list[float], work_s: float = 0.002, rate_hz: float = 100.0
) -> None:
    """One tick for each lateness, paced as the robot does."""
    pace = pacing.start(rate_hz, 0.0)
    for late in late_s:
        now_s = pace.deadline_s + late
        pace, lateness_s = pacing.begin_tick(pace, now_s)
        periodicity.begin(now_s, lateness_s, pace.missed)
        periodicity.end(now_s + work_s)


@given(st.lists(st.floats(1e-5, 2.0), min_size=1, max_size=500))
def test_a_spread_is_numpys_in_fixed_memory(values_s: list[float]) -> None:
    spread = Spread()
    for value_s in values_s:
        spread.add(value_s)
    found = spread.summary()
    assert found["mean_s"] == pytest.approx(np.mean(values_s), rel=1e-9)
    assert found["std_s"] == pytest.approx(np.std(values_s), rel=1e-6, abs=1e-9)
    assert found["max_s"] == max(values_s)
    exact_s = pacing.percentile(sorted(values_s), 0.99)
    assert exact_s <= found["p99_s"] * (1 + 1e-9) and found["p99_s"] <= exact_s * 1.051


def test_a_steady_loop_is_well_and_its_figures_are_right() -> None:
    periodicity = Periodicity(100.0, Thresholds())
    jitter_s = np.random.default_rng(0).uniform(0, 0.0005, 1000)
    run(periodicity, jitter_s.tolist())
    assert periodicity.rate_hz() == pytest.approx(100.0, abs=0.1)
    assert periodicity.success_rate == 1.0
    assert periodicity.execution_p99_s() == pytest.approx(0.002)
    assert periodicity.lateness_p99_s() == pytest.approx(
        np.quantile(jitter_s[-300:], 0.99), rel=0.05
    )
    assert periodicity.period_std_s() == pytest.approx(np.diff(jitter_s[-300:]).std(), rel=0.01)
    assert periodicity.health() is Health.OK
    report = periodicity.report()
    assert report["periodicity"]["mean_s"] == pytest.approx(0.01, rel=1e-3)  # type: ignore[index]


@pytest.mark.parametrize(
    ("missed", "health"),
    [(5, Health.OK), (6, Health.WARN), (10, Health.WARN), (11, Health.UNSUITABLE)],
)
def test_of_the_last_100_periods_those_without_a_tick_count(missed: int, health: Health) -> None:
    """libfranka: below 0.95 warn, below 0.90 unsuitable."""
    periodicity = Periodicity(100.0, Thresholds(period_warn=10, period_error=10))
    run(periodicity, [0.0] * 150 + [0.01 * missed] + [0.0] * 20)
    assert periodicity.success_rate == pytest.approx(1 - missed / 100)
    assert periodicity.health() is health
    run(periodicity, [])
    for tick in range(100):
        periodicity.begin(10.0 + 0.01 * tick, 0.0, missed)
    assert periodicity.success_rate == 1.0  # it has recovered, and the worst is remembered
    assert periodicity.worst_success == pytest.approx(1 - missed / 100)


@pytest.mark.parametrize(
    ("late_s", "work_s", "health"),
    [
        ([0.0, 0.0015], 0.002, Health.WARN),  # a period that swings by 15 %
        ([0.0, 0.004], 0.002, Health.UNSUITABLE),
        ([0.0], 0.0075, Health.WARN),  # three quarters of the period at work
        ([0.0], 0.011, Health.UNSUITABLE),
    ],
)
def test_a_period_that_swings_and_work_that_takes_too_long_are_said(
    late_s: list[float], work_s: float, health: Health
) -> None:
    periodicity = Periodicity(100.0, Thresholds())
    run(periodicity, late_s * 200, work_s)
    assert periodicity.success_rate == 1.0
    assert periodicity.health() is health


def test_an_end_without_a_beginning_is_no_tick() -> None:
    periodicity = Periodicity(100.0, Thresholds())
    periodicity.end(5.0)
    assert periodicity.execution.count == 0 and periodicity.report()["execution"] == {}
