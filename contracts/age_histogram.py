"""Percentiles of how old things were, over a run of any length in bounded memory."""

from __future__ import annotations

import math

import numpy as np

LEAST_S, MOST_S = 1e-4, 1e3
WIDTH = math.log(1.01)
"""Of a bin, as a logarithm: what is told is right to half a per cent."""
_BINS = math.ceil(math.log(MOST_S / LEAST_S) / WIDTH)


class AgeHistogram:
    """Seconds, counted in bins of 1 % from 0.1 ms to 1000 s; what is beyond counts as that."""

    def __init__(self) -> None:
        self._counts = np.zeros(_BINS, np.int64)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, seconds: float) -> None:
        at = int(math.log(max(seconds, LEAST_S) / LEAST_S) / WIDTH)
        self._counts[min(at, _BINS - 1)] += 1
        self._count += 1

    def percentile(self, percent: float) -> float:
        """Seconds that so many per cent are at most; NaN of nothing."""
        if not self._count:
            return math.nan
        rank = max(1, math.ceil(self._count * percent / 100.0))
        at = int(np.searchsorted(np.cumsum(self._counts), rank))
        return LEAST_S * math.exp((at + 0.5) * WIDTH)
