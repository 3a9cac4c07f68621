"""Intervals, paired differences, rank correlations and confusion tables. Pure; owns no I/O."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

CONFIDENCE = 0.95
BOOTSTRAP_DRAWS = 10_000


@dataclass(frozen=True)
class Estimate:
    """A value with its interval and the number of samples behind it."""

    value: float
    low: float
    high: float
    count: int


def wilson(successes: int, count: int, confidence: float = CONFIDENCE) -> Estimate:
    """Success rate with Wilson's score interval (JASA 22, 1927); NaN for no episodes.

    Unlike the normal interval it stays inside [0, 1] and is honest at 0 of n and n of n.
    """
    if not 0 <= successes <= count:
        raise ValueError(f"{successes} successes of {count} episodes")
    if count == 0:
        return Estimate(math.nan, math.nan, math.nan, 0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / count
    centre = (rate + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(rate * (1 - rate) / count + (z / (2 * count)) ** 2) / (1 + z * z / count)
    # The algebra gives exactly 0 and 1 at the ends; rounding may not.
    return Estimate(
        rate, max(0.0, min(centre - half, rate)), min(1.0, max(centre + half, rate)), count
    )


def student_t(freedom: int) -> float:
    """The two-sided 95 % quantile of Student's t (any statistics text); from 10 degrees on Cornish and
    Fisher's expansion, to 0.001."""
    known = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
    if freedom < 1:
        raise ValueError(f"{freedom} degrees of freedom")
    if freedom <= len(known):
        return known[freedom - 1]
    z = NormalDist().inv_cdf(0.975)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3


def paired_difference(
    before: Sequence[float],
    after: Sequence[float],
    *,
    confidence: float = CONFIDENCE,
    draws: int = BOOTSTRAP_DRAWS,
    seed: int = 0,
) -> Estimate:
    """Mean of `after - before` over pairs, with the bootstrap's percentile interval over pairs."""
    if len(before) != len(after):
        raise ValueError(f"pairs differ in number: {len(before)} before, {len(after)} after")
    if not len(before):
        return Estimate(math.nan, math.nan, math.nan, 0)
    difference = np.asarray(after, np.float64) - np.asarray(before, np.float64)
    picks = np.random.default_rng(seed).integers(0, len(difference), (draws, len(difference)))
    means = difference[picks].mean(axis=1)
    low, high = np.quantile(means, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(float(difference.mean()), float(low), float(high), len(difference))


@dataclass(frozen=True)
class Outcomes:
    """Pairs on the same task and seed: who succeeded."""

    both: int
    before_only: int
    after_only: int
    neither: int


def paired_outcomes(before: Sequence[bool], after: Sequence[bool]) -> Outcomes:
    pairs = list(zip(before, after, strict=True))
    return Outcomes(
        both=sum(b and a for b, a in pairs),
        before_only=sum(b and not a for b, a in pairs),
        after_only=sum(a and not b for b, a in pairs),
        neither=sum(not a and not b for b, a in pairs),
    )


@dataclass(frozen=True)
class Confusion:
    """Judgement against truth, in episodes. Rates are NaN where nothing could be counted."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def count(self) -> int:
        return self.true_positive + self.false_positive + self.false_negative + self.true_negative

    @property
    def accuracy(self) -> float:
        return _ratio(self.true_positive + self.true_negative, self.count)

    @property
    def sensitivity(self) -> float:
        """Share of true successes that were recognised."""
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def false_positive_rate(self) -> float:
        """Share of true failures that were taken for successes: what hurts refinement most."""
        return _ratio(self.false_positive, self.false_positive + self.true_negative)

    @property
    def balanced_accuracy(self) -> float:
        return (self.sensitivity + 1 - self.false_positive_rate) / 2


def confusion(judged: Sequence[bool], truth: Sequence[bool]) -> Confusion:
    pairs = list(zip(judged, truth, strict=True))
    return Confusion(
        true_positive=sum(j and t for j, t in pairs),
        false_positive=sum(j and not t for j, t in pairs),
        false_negative=sum(t and not j for j, t in pairs),
        true_negative=sum(not t and not j for j, t in pairs),
    )


def ranks(values: Sequence[float]) -> np.ndarray:
    """Ranks from 1, ties share their mean rank."""
    array = np.asarray(values, np.float64)
    _, inverse, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return ((last - counts + 1 + last) / 2)[inverse]


def spearman(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's rank correlation; NaN for fewer than three pairs or a constant side."""
    if len(a) != len(b):
        raise ValueError(f"{len(a)} and {len(b)} values")
    if len(a) < 3:
        return math.nan
    first, second = ranks(a), ranks(b)
    if first.std() == 0 or second.std() == 0:
        return math.nan
    return float(np.corrcoef(first, second)[0, 1])


def auc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Probability that a success scores above a failure, ties half; NaN if one side is empty."""
    positive = [s for s, t in zip(scores, truth, strict=True) if t]
    if not positive or len(positive) == len(truth):
        return math.nan
    rank_sum = float(ranks(scores)[np.asarray(truth, bool)].sum())
    negatives = len(truth) - len(positive)
    return (rank_sum - len(positive) * (len(positive) + 1) / 2) / (len(positive) * negatives)


def best_threshold(scores: Sequence[float], truth: Sequence[bool]) -> Confusion:
    """The confusion at the threshold that, in hindsight, has the best balanced accuracy.

    For blind baselines only: they get every advantage, the reward model gets its own threshold.
    """
    candidates = [*sorted(set(scores)), math.inf]
    found = [confusion([s >= cut for s in scores], truth) for cut in candidates]
    return max(
        found, key=lambda c: -1.0 if math.isnan(c.balanced_accuracy) else c.balanced_accuracy
    )


def running_mean(values: Sequence[float], window: int) -> list[float]:
    """Mean of each value and up to `window - 1` before it."""
    return [float(np.mean(values[max(0, i + 1 - window) : i + 1])) for i in range(len(values))]


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan
