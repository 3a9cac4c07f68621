"""Metrics against values counted by hand and against brute force; intervals by groups; calibration."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.errors import EntracteError
from trainer.rewards.evaluation import bootstrap, calibration, metrics

levels = st.integers(0, 5)
columns = st.lists(st.tuples(levels, levels), min_size=3, max_size=12).map(
    lambda rows: np.array(rows, float).T
)


@settings(max_examples=80, deadline=None)
@given(columns)
def test_pairs_agree_with_counting_them_one_by_one(table: np.ndarray) -> None:
    a, b = table
    pairs = list(itertools.combinations(range(len(a)), 2))
    product = [np.sign(a[i] - a[j]) * np.sign(b[i] - b[j]) for i, j in pairs]
    untied_a = sum(a[i] != a[j] for i, j in pairs)
    untied_b = sum(b[i] != b[j] for i, j in pairs)
    tau = metrics.kendall_tau_b(a, b)
    if untied_a and untied_b:
        assert tau == pytest.approx(sum(product) / math.sqrt(untied_a * untied_b))
        assert metrics.pairwise_accuracy(a, b) == pytest.approx(
            sum(
                (p > 0) + 0.5 * (a[i] == a[j])
                for p, (i, j) in zip(product, pairs, strict=True)
                if b[i] != b[j]
            )
            / untied_b
        )
    else:
        assert math.isnan(tau)
    wins = [(x > y) + 0.5 * (x == y) for x in a for y in b]
    assert metrics.roc_auc(a, b) == pytest.approx(np.mean(wins))


@settings(max_examples=80, deadline=None)
@given(columns, st.floats(0.05, 1.0, allow_subnormal=False))
def test_the_rate_at_a_rate_is_the_best_of_all_thresholds(table: np.ndarray, tpr: float) -> None:
    a, b = table
    possible = [(b >= t).mean() for t in {*a, *b} if (a >= t).mean() >= tpr - 1e-9]
    assert metrics.fpr_at_tpr(a, b, tpr) == pytest.approx(min(possible))


def test_figures_counted_by_hand() -> None:
    # One swap among four: d = (0, 1, 1, 0), rho = 1 - 6 * 2 / (4 * 15); five of six pairs agree.
    a, b = np.array([1.0, 2, 3, 4]), np.array([1.0, 3, 2, 4])
    assert metrics.spearman(a, b) == pytest.approx(0.8)
    assert metrics.kendall_tau_b(a, b) == pytest.approx(4 / 6)
    assert metrics.spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(
        math.sqrt(0.75)
    )
    assert math.isnan(metrics.spearman(np.ones(4), a))
    verdict, truth = np.array([1, 1, 0, 0, 0]), np.array([1, 0, 0, 0, 1])
    assert metrics.balanced_accuracy(verdict, truth) == pytest.approx((0.5 + 2 / 3) / 2)
    assert math.isnan(metrics.balanced_accuracy(verdict, np.ones(5)))
    # Bins at .1 and .9: |.1 - .5| over two of four and |.9 - 1| over the others.
    p, t = np.array([0.1, 0.1, 0.9, 0.9]), np.array([0, 1, 1, 1])
    assert metrics.calibration_error(p, t) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)
    assert [b.count for b in metrics.reliability(np.array([0.0, 1.0]), np.array([0, 1]))] == [1, 1]
    # Risks 0, 0, 1, 1 from the surest on: running means 0, 0, 1/3, 1/2.
    risk = np.array([1.0, 0, 1, 0])
    assert metrics.aurc(risk, np.array([0.2, 0.9, 0.1, 0.8])) == pytest.approx((1 / 3 + 0.5) / 4)
    assert metrics.aurc(risk, np.ones(4)) == pytest.approx(0.5)
    assert metrics.instruction_accuracy(
        np.array([0.9, 0.5, np.nan]), np.array([0.1, 0.5, 0.1])
    ) == pytest.approx((1 + 0.5 + 0.5) / 3)


def test_a_nan_is_nobodys_best_score() -> None:
    """NumPy sorts NaN above everything: an abstention would rank first."""
    some, none = np.array([math.nan, 0.5, 0.9]), np.array([0.1, 0.2, 0.3])
    assert math.isnan(metrics.roc_auc(some, none))
    assert math.isnan(metrics.roc_auc(none, some))
    assert math.isnan(metrics.fpr_at_tpr(some, none, 0.8))
    assert math.isnan(metrics.spearman(some, none))
    assert math.isnan(metrics.kendall_tau_b(some, none))
    assert metrics.pairwise_accuracy(some, none) == pytest.approx((0.5 + 0.5 + 1.0) / 3)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 1)), min_size=1, max_size=12))
def test_risk_does_not_depend_on_the_order_of_the_data(rows: list[tuple[int, int]]) -> None:
    confidence, risk = np.array(rows, float).T
    back = slice(None, None, -1)
    assert metrics.aurc(risk, confidence) == pytest.approx(
        metrics.aurc(risk[back], confidence[back])
    )
    assert metrics.risk_coverage(risk, confidence)[1][-1] == pytest.approx(risk.mean())


def test_episodes_are_drawn_whole_and_the_same_by_seed() -> None:
    groups = ["b", "a", "b", "c", "a", "b"]
    draws = bootstrap.resamples(groups, 200, seed=3)
    for draw in draws:
        counts = np.bincount(draw, minlength=6)
        assert counts[0] == counts[2] == counts[5]
        assert counts[1] == counts[4]
        assert counts[0] + counts[1] + counts[3] == 3
    again = bootstrap.resamples(groups, 200, seed=3)
    assert all((x == y).all() for x, y in zip(draws, again, strict=True))
    assert len({tuple(d) for d in draws}) > 5
    strata = ["s", "t", "s", "s", "t", "s"]
    for draw in bootstrap.resamples(groups, 50, seed=0, strata=strata):
        assert (np.bincount(draw, minlength=6)[[1, 4]] == 1).all()


def test_an_interval_over_groups_is_wider_than_over_rows() -> None:
    rng = np.random.default_rng(0)
    episode = rng.normal(size=20)
    values = np.repeat(episode, 25) + 0.1 * rng.normal(size=500)
    grouped = [str(i) for i in np.repeat(np.arange(20), 25)]
    alone = [str(i) for i in range(500)]

    def mean(index: np.ndarray) -> float:
        return float(values[index].mean())

    wide, narrow = (
        bootstrap.with_interval(mean, 500, bootstrap.resamples(g, 400)) for g in (grouped, alone)
    )
    assert wide.low < wide.value < wide.high
    assert wide.high - wide.low > 3 * (narrow.high - narrow.low)
    # The textbook's: 2 * 1.96 * s / sqrt(20).
    assert wide.high - wide.low == pytest.approx(3.92 * episode.std() / math.sqrt(20), rel=0.15)
    assert math.isnan(bootstrap.with_interval(lambda _: math.nan, 500, [np.arange(3)]).low)


def _scores(sharpness: float, count: int = 4000) -> calibration.Scores:
    """Probabilities that are too sure of themselves by the factor `sharpness`."""
    rng = np.random.default_rng(1)
    z = rng.normal(0, 2, count)
    truth = rng.random(count) < 1 / (1 + np.exp(-z))
    return calibration.Scores(1 / (1 + np.exp(-z * sharpness)), truth, "validation")


def test_the_temperature_undoes_too_much_certainty() -> None:
    scores = _scores(3.0)
    fitted = calibration.fit_temperature(scores)
    assert fitted.temperature == pytest.approx(3.0, rel=0.1)
    before = metrics.calibration_error(scores.probability, scores.truth)
    after = metrics.calibration_error(fitted.apply(scores.probability), scores.truth)
    assert before > 0.1
    assert after < 0.03
    assert not fitted.bounded
    apart = calibration.Scores(np.array([0.4, 0.6]), np.array([False, True]), "validation")
    assert calibration.fit_temperature(apart).bounded


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=9))
def test_the_isotonic_map_is_the_best_of_all_rising_ones(rows: list[tuple[int, bool]]) -> None:
    p = np.array([r[0] for r in rows]) / 6
    truth = np.array([r[1] for r in rows])
    fitted = calibration.fit_isotonic(calibration.Scores(p, truth, "validation"))
    said = fitted.apply(p)
    assert (np.diff(said[np.argsort(p)]) >= -1e-12).all()
    # Min-max formula (Robertson et al. 1988, theorem 1.4.4): brute force over all windows.
    for value, x in zip(said, p, strict=True):
        best = max(
            min(truth[(p >= lower) & (p <= upper)].mean() for upper in set(p) if upper >= x)
            for lower in set(p)
            if lower <= x
        )
        assert value == pytest.approx(best)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=12),
    st.floats(0.0, 1.0, allow_subnormal=False),
)
def test_the_threshold_keeps_its_rate_and_no_more(
    rows: list[tuple[int, bool]], rate: float
) -> None:
    p, truth = np.array([r[0] for r in rows]) / 6, np.array([r[1] for r in rows])
    if truth.all():
        return
    threshold = calibration.completion_threshold(calibration.Scores(p, truth, "validation"), rate)
    negative = p[~truth]
    assert (negative >= threshold).mean() <= rate + 1e-9
    lower = [value for value in set(p) if value < threshold]
    if lower:
        assert (negative >= max(lower)).mean() > rate - 1e-9


def test_refusal_keeps_the_risk_and_calibration_refuses_other_splits() -> None:
    wrong = np.array([0, 0, 0, 1, 1, 1])
    unsure = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    rule = calibration.fit_abstention(wrong, unsure, 0.25, "validation")
    assert (rule.limit, rule.coverage, rule.risk) == (0.4, pytest.approx(4 / 6), 0.25)
    assert rule.refuses(np.array([0.4, 0.41, math.nan])).tolist() == [False, True, True]
    none = calibration.fit_abstention([True], np.array([0.1]), 0.1, "validation")
    assert none.refuses(np.array([0.0])).all()
    for fit in (
        lambda: calibration.Scores(np.array([0.5]), np.array([True]), "eval"),
        lambda: calibration.fit_abstention([True], np.array([0.1]), 0.1, "test"),
    ):
        with pytest.raises(EntracteError, match="validation data only"):
            fit()
