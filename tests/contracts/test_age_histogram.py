"""Percentiles of a long run: of all of it, and right to half a per cent."""

from __future__ import annotations

import math

import numpy as np
import pytest

from contracts.age_histogram import LEAST_S, MOST_S, AgeHistogram


def test_all_of_a_run_counts_and_not_its_end() -> None:
    """Half an hour at 30 Hz of which all but the last 150 s were slow."""
    ages = AgeHistogram()
    truth = [0.4] * 49_500 + [0.01] * 4_500
    for seconds in truth:
        ages.add(seconds)
    assert len(ages) == len(truth)
    for percent in (1.0, 50.0, 99.0):
        expected = np.percentile(truth, percent)
        assert ages.percentile(percent) == pytest.approx(expected, rel=0.006)


def test_what_is_beyond_its_bins_counts_as_the_first_or_last() -> None:
    ages = AgeHistogram()
    assert math.isnan(ages.percentile(50.0))
    ages.add(-1.0)
    ages.add(1e9)
    assert ages.percentile(50.0) == pytest.approx(LEAST_S, rel=0.01)
    assert ages.percentile(99.0) == pytest.approx(MOST_S, rel=0.01)
