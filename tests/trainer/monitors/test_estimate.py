"""The estimate of true success holds what it promises, also where clips are chosen for being suspicious."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.config import MonitorsSection
from trainer.monitors.estimate import prediction_powered
from trainer.monitors.records import Label, Row
from trainer.monitors.verdicts import LABELS, judged, true_success
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


def recorded(
    rng: np.random.Generator, count: int, share: float, contested: bool = False
) -> tuple[list[Row], list[bool]]:
    """Rows of a reward that calls nearly every failure a success, and the truth of each; `contested`: where
    a second opinion differs, a person is surely asked."""
    truth = (rng.random(count) < 0.4).tolist()
    rows = []
    for seq, true in enumerate(truth):
        verdict = bool(rng.random() < (0.95 if true else 0.9))
        second = bool(rng.random() < (0.95 if true else 0.1))
        chance = 1.0 if contested and verdict != second else share
        chosen = bool(rng.random() < chance)
        rows.append(
            Row(
                key=f"r__s__{seq:08d}",
                arrival=seq,
                model_id="m",
                verdict=verdict,
                score=float(verdict),
                second=None,
                second_score=None,
                operator=None,
                base=False,
                chance=chance,
                chosen=chosen,
                random=chosen,
                unix_s=float(seq),
            )
        )
    return rows, truth


def told(row: Row, success: bool | None, unix_s: float = 0.0) -> Label:
    return Label(row.key, success, "eve", unix_s)


@pytest.mark.parametrize("part", ["of the clips", "of the time"])
def test_a_queue_that_is_partly_worked_off_does_not_favour_the_reward(part: str) -> None:
    """Of what is not worked off, groups where nobody was drawn are those in which the reward was right."""
    rng, values = np.random.default_rng(11), []
    for _ in range(DRAWS // 2):
        rows, truth = recorded(rng, 400, 0.1, contested=True)
        asked = [row for row in rows if row.chosen]
        worked = asked[: len(asked) // 4]
        if part == "of the time":
            worked = [row for row in asked if row.arrival < 100]
        labels = {row.key: told(row, truth[row.arrival]) for row in worked}
        found = true_success(rows, labels, 2)
        assert found.count <= asked[len(worked)].arrival, "beyond one that waits nothing is settled"
        values.append(found.value)
    assert np.nanmean(values) == pytest.approx(0.4, abs=0.03), "biased"


def test_who_labels_what_was_never_drawn_moves_nothing() -> None:
    rows, truth = recorded(np.random.default_rng(12), 200, 0.2)
    labels = {row.key: told(row, truth[row.arrival]) for row in rows if row.chosen}
    plain = true_success(rows, labels, 10)
    more = labels | {row.key: told(row, True) for row in rows if not row.chosen}
    assert true_success(rows, more, 10) == plain
    assert plain.low < 0.4 < plain.high


def test_what_nobody_can_tell_is_a_failure() -> None:
    rows, _ = recorded(np.random.default_rng(13), 100, 1.0)
    labels = {row.key: told(row, True if row.arrival % 2 else None) for row in rows}
    assert true_success(rows, labels, 10).value == pytest.approx(0.5)
    assert true_success(rows, labels, 10).count == 100


def test_the_random_share_counts_up_to_the_first_without_a_label() -> None:
    rows, _ = recorded(np.random.default_rng(14), 20, 1.0)
    labels = {row.key: told(row, False, 100.0 - row.arrival) for row in rows if row.arrival != 8}

    def counted() -> int:
        figures = judged(MonitorsSection(), rows, labels, -1).figures()
        return next(figure.counted for figure in figures if figure.monitor == LABELS)

    assert counted() == 8
    labels[rows[8].key] = told(rows[8], None)
    assert counted() == 19, "one that nobody could tell holds nothing up, and says nothing"
