"""The estimate of true success holds what it promises, also where clips are chosen for being suspicious."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.monitors.estimate import prediction_powered
from trainer.report.statistics import wilson

DRAWS = 600


def one(
    rng: np.random.Generator, count: int, share: float, false_positives: float, contested: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, labels, chances) of episodes of which 40 % succeed, as the daemon would draw them."""
    truth = rng.random(count) < 0.4
    score = np.where(truth, rng.random(count) < 0.95, rng.random(count) < false_positives)
    second = np.where(truth, rng.random(count) < 0.95, rng.random(count) < 0.1)
    chances = np.full(count, share)
    if contested:
        chances = np.where(score != second, 1.0, share)
    labels = np.where(rng.random(count) < chances, truth, math.nan)
    return score.astype(float), labels, chances


@pytest.mark.parametrize("contested", [False, True], ids=["equal chances", "contested ones surely"])
@pytest.mark.parametrize("false_positives", [0.1, 0.9])
@pytest.mark.parametrize("count, share", [(100, 0.15), (300, 0.1), (300, 0.5)])
def test_the_interval_covers(
    count: int, share: float, false_positives: float, contested: bool
) -> None:
    rng, covered, values = np.random.default_rng(7), 0, []
    for _ in range(DRAWS):
        found = prediction_powered(*one(rng, count, share, false_positives, contested))
        if math.isnan(found.value):
            covered += 1  # it says nothing rather than something wrong
            continue
        covered += found.low <= 0.4 <= found.high
        values.append(found.value)
    assert covered / DRAWS >= 0.9, covered / DRAWS
    assert np.mean(values) == pytest.approx(0.4, abs=0.02), "biased"


def test_verdicts_make_it_narrower_than_labels_alone() -> None:
    rng = np.random.default_rng(8)
    with_verdicts, alone = [], []
    for _ in range(50):
        scores, labels, chances = one(rng, 400, 0.15, 0.05, True)
        found = prediction_powered(scores, labels, chances)
        with_verdicts.append(found.high - found.low)
        known = labels[np.isfinite(labels)]
        plain = wilson(int(known.sum()), len(known))
        alone.append(plain.high - plain.low)
    assert np.mean(with_verdicts) < 0.8 * np.mean(alone)


def test_a_reward_that_always_says_yes_is_seen_through() -> None:
    rng = np.random.default_rng(9)
    truth = rng.random(300) < 0.2
    labels = np.where(rng.random(300) < 0.2, truth, math.nan)
    found = prediction_powered(np.ones(300), labels, np.full(300, 0.2))
    assert found.low < 0.2 < found.high < 0.5


def test_few_labels_without_a_surprise_are_no_certainty() -> None:
    scores = np.ones(200)
    labels = np.full(200, math.nan)
    labels[:10] = 1.0
    found = prediction_powered(scores, labels, np.full(200, 0.05))
    assert found.high - found.low > 0.2


def test_without_labels_there_is_no_estimate() -> None:
    found = prediction_powered(np.ones(3), np.full(3, math.nan), np.ones(3))
    assert math.isnan(found.value) and found.count == 3
    assert math.isnan(prediction_powered(*(np.zeros(0) for _ in range(3))).value)


def test_a_chance_that_can_not_be_is_refused() -> None:
    with pytest.raises(ValueError, match="chances"):
        prediction_powered(np.ones(3), np.ones(3), np.array([0.5, 0.0, 0.5]))
