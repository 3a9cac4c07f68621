"""Confidence intervals by resampling whole groups (episodes): frames of one episode are no independent draws.

Percentile bootstrap (Efron and Tibshirani 1993). Deterministic by seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

DRAWS = 1000
LEAST_SHARE = 0.5
"""Share of draws that must give a number; below it there is no interval."""


@dataclass(frozen=True)
class Figure:
    """A value and its 95 % interval; NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        return f"{self.value:.3f}" + (
            "" if math.isnan(self.low) else f" [{self.low:.3f}, {self.high:.3f}]"
        )

    def as_list(self) -> list[float | None]:
        """[value, low, high] for JSON: NaN is None."""
        return [None if math.isnan(v) else round(v, 5) for v in (self.value, self.low, self.high)]


def resamples(
    groups: Sequence[str],
    draws: int = DRAWS,
    seed: int = 0,
    strata: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Row indices int64[.] of each draw. Groups are drawn with replacement, within each stratum apart where
    `strata` names one a row (a group lies in one stratum)."""
    rng = np.random.default_rng(seed)
    _, first, of_row = np.unique(np.asarray(groups), return_index=True, return_inverse=True)
    order = np.argsort(of_row, kind="stable")
    counts = np.bincount(of_row)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    layer = np.zeros(len(first), int)
    if strata is not None:
        layer = np.unique(np.asarray(strata), return_inverse=True)[1][first]
    members = [np.flatnonzero(layer == k) for k in range(layer.max() + 1)] if len(layer) else []
    out = []
    for _ in range(draws):
        chosen = np.concatenate([m[rng.integers(len(m), size=len(m))] for m in members])
        lengths = counts[chosen]
        # Each chosen group's rows, end to end: its start, repeated, and 0, 1, 2 ... within it.
        within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        out.append(order[np.repeat(starts[chosen], lengths) + within])
    return out


def with_interval(
    statistic: Callable[[np.ndarray], float],
    rows: int,
    draws: Sequence[np.ndarray],
    support: int = 0,
) -> Figure:
    """`statistic` of all row indices, with the interval over `draws` (of `resamples`).

    A share of 0 or 1 without an exception resamples to itself: an interval of no width, which claims too
    much. Where `support` says how many independent groups stand behind it, the exact binomial bound takes
    its place (Clopper and Pearson 1934; about 3.7 in n).
    """
    value = statistic(np.arange(rows))
    found = np.array([statistic(index) for index in draws])
    found = found[np.isfinite(found)]
    if math.isnan(value) or len(found) < max(1, LEAST_SHARE * len(draws)):
        return Figure(value)
    low, high = (float(v) for v in np.percentile(found, [2.5, 97.5]))
    if support and value in (0.0, 1.0) and low == high == value:
        width = 1.0 - 0.025 ** (1.0 / support)
        low, high = (1.0 - width, 1.0) if value == 1.0 else (0.0, width)
    return Figure(value, low, high)
