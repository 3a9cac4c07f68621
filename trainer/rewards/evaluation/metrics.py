"""Figures of reward models, pure over arrays: ranks, verdicts, probabilities, refusals. No intervals here.

Whatever can't be said of the data at hand (one class alone, a constant) is NaN, never a lucky number.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from contracts.errors import EntracteError

Floats = np.ndarray


def ranks(values: Floats) -> Floats:
    """float64[N] ranks from 1, ties averaged."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    out: Floats = (ends - (counts - 1) / 2)[inverse]
    return out


def spearman(a: Floats, b: Floats) -> float:
    """Spearman's rank correlation, ties averaged (values equal to 4 decimals tie, so that a network's
    rounding noise makes no order). NaN below three values, of a NaN, or where either is constant."""
    _same_length(a, b)
    x, y = (np.round(np.asarray(v, np.float64), 4) for v in (a, b))
    if len(x) < 3 or not np.ptp(x) > 0 or not np.ptp(y) > 0:
        return math.nan
    return float(np.corrcoef(ranks(x), ranks(y))[0, 1])


def kendall_tau_b(a: Floats, b: Floats) -> float:
    """Kendall's tau-b (Kendall 1945): concordant less discordant pairs, corrected for ties on both sides.
    NaN below two values, of a NaN, or where either is constant. Counts in the table of the distinct values:
    as many cells as those of `a` times those of `b`."""
    _same_length(a, b)
    if _unknown(a) or _unknown(b):
        return math.nan
    (x, in_a), (y, in_b) = (np.unique(v, return_inverse=True) for v in (a, b))
    table = np.zeros((len(x), len(y)))
    np.add.at(table, (in_a, in_b), 1.0)
    above = table[::-1].cumsum(axis=0)[::-1] - table  # the larger in `a`, by their value in `b`
    larger = above[:, ::-1].cumsum(axis=1)[:, ::-1] - above
    smaller = above.cumsum(axis=1) - above
    pairs = len(in_a) * (len(in_a) - 1) / 2
    apart = [pairs - (n * (n - 1)).sum() / 2 for n in (table.sum(axis=1), table.sum(axis=0))]
    scale = math.sqrt(apart[0] * apart[1])
    return float((table * (larger - smaller)).sum() / scale) if scale else math.nan


def pairwise_accuracy(predicted: Floats, true: Floats, margin: float = 0.0) -> float:
    """Of the pairs whose truth differs by more than `margin`, the share that the prediction orders alike; a
    tie counts half, as does a NaN in the prediction; one in the truth makes no pair. NaN without a pair."""
    _same_length(predicted, true)
    rows, columns = np.triu_indices(len(true), k=1)
    gap = np.asarray(true, np.float64)[rows] - np.asarray(true, np.float64)[columns]
    clear = np.abs(gap) > margin
    said = np.asarray(predicted, np.float64)[rows] - np.asarray(predicted, np.float64)[columns]
    return sign_accuracy(said[clear], gap[clear])


def sign_accuracy(said: Floats, gap: Floats) -> float:
    """Share of values whose sign is that of `gap` (never 0). Zero and NaN (abstained) count half: who tosses
    a coin gets no more by saying nothing. NaN of nothing."""
    if not len(gap):
        return math.nan
    sign = np.nan_to_num(np.sign(said), nan=0.0)
    return float(np.where(sign == 0, 0.5, sign == np.sign(gap)).mean())


def roc_auc(positive: Floats, negative: Floats) -> float:
    """Probability that a positive scores above a negative; ties count half. NaN of a NaN, or if either is
    empty."""
    if _unknown(positive) or _unknown(negative):
        return math.nan
    found = ranks(np.concatenate([positive, negative]))
    high = found[: len(positive)].sum() - len(positive) * (len(positive) + 1) / 2
    return float(high / (len(positive) * len(negative)))


def balanced_accuracy(verdict: Floats, truth: Floats) -> float:
    """Mean of the true-positive and true-negative rates of bool[N]. NaN if a class is missing."""
    _same_length(verdict, truth)
    said, true = np.asarray(verdict, bool), np.asarray(truth, bool)
    if true.all() or not true.any():
        return math.nan
    return float((said[true].mean() + (~said[~true]).mean()) / 2)


def fpr_at_tpr(positive: Floats, negative: Floats, tpr: float) -> float:
    """The least false-positive rate of any threshold that lets at least `tpr` of the positives pass
    (score >= threshold). NaN of a NaN, or if either is empty."""
    if _unknown(positive) or _unknown(negative):
        return math.nan
    needed = max(1, math.ceil(tpr * len(positive) - 1e-9))
    threshold = np.sort(positive)[::-1][needed - 1]
    return float((negative >= threshold).mean())


@dataclass(frozen=True)
class Bin:
    """One bar of a reliability diagram: `said` mean probability, `found` share of positives."""

    low: float
    high: float
    count: int
    said: float
    found: float


def reliability(probability: Floats, truth: Floats, bins: int = 10) -> list[Bin]:
    """Bins of equal width over [0, 1], empty ones left out; 1 falls into the last."""
    _same_length(probability, truth)
    p, t = np.asarray(probability, np.float64), np.asarray(truth, np.float64)
    if len(p) and not (np.isfinite(p).all() and p.min() >= 0 and p.max() <= 1):
        raise EntracteError("probabilities", expected="finite, in [0, 1]", found=p.tolist()[:5])
    index = np.minimum((p * bins).astype(int), bins - 1)
    out = []
    for k in range(bins):
        mine = index == k
        if mine.any():
            said, found = float(p[mine].mean()), float(t[mine].mean())
            out.append(Bin(k / bins, (k + 1) / bins, int(mine.sum()), said, found))
    return out


def calibration_error(probability: Floats, truth: Floats, bins: int = 10) -> float:
    """Expected calibration error (Naeini et al. 2015; Guo et al. 2017): |said - found| of equal-width bins,
    weighted by their counts. NaN of nothing."""
    found = reliability(probability, truth, bins)
    if not found:
        return math.nan
    total = sum(b.count for b in found)
    return sum(b.count * abs(b.said - b.found) for b in found) / total


def risk_coverage(risk: Floats, confidence: Floats) -> tuple[Floats, Floats]:
    """Coverage (1/N .. 1) and mean risk float64[N] when only the most confident are answered (El-Yaniv and
    Wiener 2010). Ties in confidence take their mean risk, so that the order of the data doesn't matter."""
    _same_length(risk, confidence)
    r, c = np.asarray(risk, np.float64), np.asarray(confidence, np.float64)
    _, inverse = np.unique(-c, return_inverse=True)
    sums, counts = np.bincount(inverse, r), np.bincount(inverse)
    expected = (sums / np.maximum(counts, 1))[inverse]
    order = np.argsort(-c, kind="stable")
    count = np.arange(1, len(r) + 1)
    return count / max(1, len(r)), np.cumsum(expected[order]) / count


def aurc(risk: Floats, confidence: Floats) -> float:
    """Area under the risk-coverage curve: the mean of its points (Geifman et al. 2019). Lower is better; a
    confidence that knows nothing gives the mean risk. NaN of nothing."""
    return float(risk_coverage(risk, confidence)[1].mean()) if len(risk) else math.nan


def instruction_accuracy(right: Floats, wrong: Floats) -> float:
    """Share of pairs (same pictures) in which the instruction that is fulfilled scores above the one that is
    not (an antonym, another object); ties and NaN (abstained) count half. NaN of nothing."""
    _same_length(right, wrong)
    return sign_accuracy(np.asarray(right) - np.asarray(wrong), np.ones(len(right)))


def _unknown(values: Floats) -> bool:
    return not len(values) or bool(np.isnan(values).any())


def _same_length(a: Floats, b: Floats) -> None:
    if len(a) != len(b):
        raise EntracteError("two columns of one table", expected=f"{len(a)} values", found=len(b))
