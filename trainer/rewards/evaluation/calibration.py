"""Calibration of scores: temperature, isotonic map, completion threshold, abstention. Pure.

Fitted on validation data only: every fit is told which split its data are of and refuses others.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from contracts.errors import EntracteError
from trainer.rewards.evaluation.metrics import risk_coverage

VALIDATION = "validation"
NEAREST_LOGIT = 1e-6
LEAST_TEMPERATURE, MOST_TEMPERATURE = 0.02, 50.0


@dataclass(frozen=True)
class Scores:
    """What calibration is fitted on: completion probabilities float[N] in (0, 1), truth bool[N]."""

    probability: np.ndarray
    truth: np.ndarray
    split: str

    def __post_init__(self) -> None:
        if self.split != VALIDATION:
            raise EntracteError(
                "scores are calibrated on validation data only",
                expected=f"split '{VALIDATION}'",
                found=f"split '{self.split}'",
                remedy="keep some training clips back; evaluation data would flatter the result",
            )
        p = np.asarray(self.probability, np.float64)
        if len(p) != len(self.truth) or not len(p):
            raise EntracteError("scores and truth", expected="as many, some", found=len(p))
        if not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
            raise EntracteError("completion probabilities", expected="finite, in [0, 1]")


def logit(probability: np.ndarray) -> np.ndarray:
    p = np.clip(np.asarray(probability, np.float64), NEAREST_LOGIT, 1 - NEAREST_LOGIT)
    out: np.ndarray = np.log(p) - np.log1p(-p)
    return out


@dataclass(frozen=True)
class Temperature:
    """p -> sigmoid(logit(p) / temperature) (Guo et al. 2017): keeps the order and the middle."""

    temperature: float

    @property
    def bounded(self) -> bool:
        """The search ended at its limit: no temperature is the best, the likelihood goes on rising."""
        low, high = LEAST_TEMPERATURE, MOST_TEMPERATURE
        return not low * 1.001 < self.temperature < high / 1.001

    def apply(self, probability: np.ndarray) -> np.ndarray:
        out: np.ndarray = 1.0 / (1.0 + np.exp(-logit(probability) / self.temperature))
        return out


def fit_temperature(scores: Scores) -> Temperature:
    """The temperature in [0.02, 50] of least negative log-likelihood, by golden-section search over its
    logarithm (the likelihood is convex in 1/temperature, so there is one valley)."""
    z, t = logit(scores.probability), np.asarray(scores.truth, np.float64)

    def loss(log_temperature: float) -> float:
        said = z / math.exp(log_temperature)
        return float((np.logaddexp(0.0, said) - t * said).mean())

    low, high = math.log(LEAST_TEMPERATURE), math.log(MOST_TEMPERATURE)
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > 1e-6:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return Temperature(math.exp((low + high) / 2))


@dataclass(frozen=True)
class Isotonic:
    """A step-free non-decreasing map: linear between `knots`, flat outside them."""

    knots: tuple[float, ...]
    values: tuple[float, ...]

    def apply(self, probability: np.ndarray) -> np.ndarray:
        out: np.ndarray = np.interp(np.asarray(probability, np.float64), self.knots, self.values)
        return out


def fit_isotonic(scores: Scores) -> Isotonic:
    """Pool-adjacent-violators (Ayer et al. 1955): the non-decreasing map of least squared error."""
    x, inverse, counts = np.unique(
        np.asarray(scores.probability, np.float64), return_inverse=True, return_counts=True
    )
    means = np.bincount(inverse, np.asarray(scores.truth, np.float64)) / counts
    blocks: list[list[float]] = []  # value, weight, how many knots
    for mean, weight in zip(means, counts, strict=True):
        blocks.append([float(mean), float(weight), 1.0])
        while len(blocks) > 1 and blocks[-2][0] >= blocks[-1][0]:
            value, more, knots = blocks.pop()
            last = blocks[-1]
            last[0] = (last[0] * last[1] + value * more) / (last[1] + more)
            last[1] += more
            last[2] += knots
    fitted = np.repeat([b[0] for b in blocks], [int(b[2]) for b in blocks])
    return Isotonic(tuple(x.tolist()), tuple(fitted.tolist()))


def completion_threshold(scores: Scores, false_positive_rate: float) -> float:
    """The least threshold (score >= threshold means done) at which no more than this share of the validation
    negatives passes; just above 1 where even probability 1 is said of too many, so that nothing passes."""
    negative = np.sort(np.asarray(scores.probability, np.float64)[~np.asarray(scores.truth, bool)])
    if not len(negative):
        raise EntracteError("a completion threshold needs validation failures", found="none")
    allowed = math.floor(false_positive_rate * len(negative) + 1e-9)
    if allowed >= len(negative):
        return 0.0
    blocked = negative[len(negative) - 1 - allowed]
    # Never subnormal: where an engine flushes those (runtime.engines), it would be 0 and let all pass.
    return max(float(np.nextafter(blocked, 2.0)), sys.float_info.min)


@dataclass(frozen=True)
class Abstention:
    """Refuse where uncertainty is above `limit`. `coverage` and `risk`: what that gave on validation."""

    limit: float
    coverage: float
    risk: float

    def refuses(self, uncertainty: np.ndarray) -> np.ndarray:
        """bool[N]; an unknown uncertainty (NaN) is refused."""
        out: np.ndarray = ~(np.asarray(uncertainty, np.float64) <= self.limit)
        return out


def fit_abstention(
    wrong: Sequence[bool] | np.ndarray, uncertainty: np.ndarray, most_risk: float, split: str
) -> Abstention:
    """The most answers of which no more than `most_risk` are wrong on validation; none (limit -1) where even
    the surest are wrong more often."""
    Scores(np.zeros(1), np.zeros(1, bool), split)  # refuses other splits
    risk = np.asarray(wrong, np.float64)
    unsure = np.asarray(uncertainty, np.float64)
    if len(risk) != len(unsure) or not np.isfinite(unsure).all():
        raise EntracteError("uncertainties", expected=f"{len(risk)}, finite", found=len(unsure))
    order = np.argsort(unsure, kind="stable")
    coverage, found = risk_coverage(risk, -unsure)
    # A limit falls between different values only: equal ones are answered together.
    ends = np.append(np.diff(unsure[order]) > 0, True)
    good = np.flatnonzero(ends & (found <= most_risk + 1e-12))
    if not len(good):
        return Abstention(-1.0, 0.0, math.nan)
    at = good[-1]
    return Abstention(float(unsure[order][at]), float(coverage[at]), float(found[at]))
