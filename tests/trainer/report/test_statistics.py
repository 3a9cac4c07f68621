"""Intervals and correlations against values worked out by hand or by other means."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.report.statistics import (
    auc,
    best_threshold,
    confusion,
    paired_difference,
    paired_outcomes,
    ranks,
    running_mean,
    spearman,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "count", "low", "high"),
    # Brown, Cai and DasGupta (Statistical Science 16, 2001) give the formula; values by R's prop.test
    # without continuity correction.
    [
        (0, 10, 0.0, 0.2775),
        (5, 10, 0.2366, 0.7634),
        (10, 10, 0.7225, 1.0),
        (46, 100, 0.3656, 0.5574),
    ],
)
def test_wilson(successes: int, count: int, low: float, high: float) -> None:
    found = wilson(successes, count)
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-4)
    assert found.low <= found.value <= found.high


def test_wilson_of_nothing_is_nothing() -> None:
    assert math.isnan(wilson(0, 0).value)
    with pytest.raises(ValueError):
        wilson(3, 2)


def test_wilson_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.binomial(50, 0.4, 2000)
    covered = [(e := wilson(int(k), 50)).low <= 0.4 <= e.high for k in drawn]
    assert 0.93 < np.mean(covered) < 0.975


def test_a_paired_difference_is_tighter_than_unpaired_rates() -> None:
    rng = np.random.default_rng(1)
    before = rng.random(200) < 0.5
    after = before | (rng.random(200) < 0.4)
    found = paired_difference(before, after)
    assert found.value == pytest.approx(after.mean() - before.mean())
    assert found.low < found.value < found.high
    unpaired = wilson(int(after.sum()), 200).high - wilson(int(before.sum()), 200).low
    assert found.high - found.low < 0.7 * unpaired
    assert paired_difference(before, after) == found  # seeded


def test_pairs_must_match() -> None:
    with pytest.raises(ValueError):
        paired_difference([1, 0], [1])
    assert math.isnan(paired_difference([], []).value)


def test_outcomes_and_confusion_count_each_pair_once() -> None:
    a, b = [True, True, False, False, False], [True, False, True, False, False]
    outcomes = paired_outcomes(a, b)
    assert (outcomes.both, outcomes.before_only, outcomes.after_only, outcomes.neither) == (
        1,
        1,
        1,
        2,
    )
    table = confusion(a, b)
    assert table.count == 5
    assert table.sensitivity == 0.5
    assert table.false_positive_rate == pytest.approx(1 / 3)
    assert table.balanced_accuracy == pytest.approx((0.5 + 2 / 3) / 2)
    assert math.isnan(confusion([True], [True]).false_positive_rate)


def test_ranks_share_ties() -> None:
    assert ranks([10, 20, 20, 5]).tolist() == [2, 3.5, 3.5, 1]


def test_spearman() -> None:
    assert spearman([1, 2, 3, 4], [1, 8, 27, 64]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 2], [1, 2]))


def test_auc_counts_ties_half() -> None:
    assert auc([0.9, 0.8, 0.1], [True, True, False]) == 1
    assert auc([0.5, 0.5], [True, False]) == 0.5
    assert auc([0.1, 0.9, 0.5, 0.5], [True, False, True, False]) == pytest.approx(0.125)
    assert math.isnan(auc([1.0], [True]))


def test_a_blind_baseline_gets_its_best_threshold() -> None:
    found = best_threshold([1, 2, 3, 4], [False, False, True, True])
    assert found.balanced_accuracy == 1
    assert best_threshold([1, 1], [True, False]).balanced_accuracy == 0.5


def test_running_mean() -> None:
    assert running_mean([1, 3, 5], 2) == [1, 2, 4]
