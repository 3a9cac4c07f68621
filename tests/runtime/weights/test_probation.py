"""The sequential test of a release on probation: its arithmetic, its two kinds of mistakes, and its ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.probation import simulate
from contracts.reward import RewardSignal, abstain
from runtime.control.judgement import Judgement
from runtime.weights.probation import MOST_REMEMBERED, Probation, Tally, evidence, judge

RULES = Probation()
GOOD = Tally(90, 10)


def test_evidence_is_the_log_likelihood_ratio() -> None:
    rate = 91 / 102
    worse = rate - 0.3
    expected = 3 * math.log(worse / rate) + 2 * math.log((1 - worse) / (1 - rate))
    assert evidence(GOOD, Tally(3, 2, 7), RULES) == pytest.approx(expected)
    assert judge(GOOD, Tally(0, 3), RULES)[0] == "roll_back"
    assert judge(GOOD, Tally(6, 0), RULES)[0] == "commit"
    assert judge(GOOD, Tally(2, 2), RULES)[0] == "on"


@given(st.integers(0, 200), st.integers(0, 200), st.integers(0, 40), st.integers(0, 40))
def test_a_failure_never_speaks_for_a_release_nor_a_success_against_it(
    successes: int, failures: int, well: int, badly: int
) -> None:
    reference, trial = Tally(successes, failures), Tally(well, badly)
    found = evidence(reference, trial, RULES)
    assert math.isfinite(found)
    assert evidence(reference, trial.add(False), RULES) >= found
    assert evidence(reference, trial.add(True), RULES) <= found
    assert evidence(reference, trial.add(None), RULES) == found


def test_what_nobody_judges_is_committed_soon_and_what_stays_open_in_the_end() -> None:
    assert judge(GOOD, Tally(unjudged=RULES.unjudged - 1), RULES)[0] == "on"
    assert judge(GOOD, Tally(unjudged=RULES.unjudged), RULES)[0] == "commit"
    assert judge(GOOD, Tally(0, 1, RULES.unjudged), RULES)[0] == "on", "somebody judges"
    assert judge(GOOD, Tally(2, 2, RULES.most_episodes - 4), RULES)[0] == "commit"


def test_a_committed_release_that_nearly_always_fails_blames_nobody_for_it() -> None:
    hopeless = Tally(0, 50)
    assert judge(hopeless, Tally(0, RULES.most_episodes - 1), RULES)[0] == "on"
    assert judge(hopeless, Tally(1, 3), RULES)[0] == "commit"


def test_a_tally_forgets_what_is_long_ago() -> None:
    tally = Tally()
    for _ in range(5 * MOST_REMEMBERED):
        tally = tally.add(True)
    for _ in range(2 * MOST_REMEMBERED):
        tally = tally.add(False)
    assert tally.counted <= MOST_REMEMBERED and tally.rate < 0.1


@pytest.mark.parametrize("reference", [30, 50, 100])
def test_the_defaults_keep_their_word(reference: int) -> None:
    """Issue 6: a drop from 0.9 to 0.6 is rolled back within 10 episodes on average, and at most 5 % of
    releases as good as the committed one are."""
    rng = np.random.default_rng(6)
    healthy = simulate(0.9, reference, 0.9, RULES, 10_000, rng)
    worse = simulate(0.9, reference, 0.6, RULES, 10_000, rng)
    broken = simulate(0.9, reference, 0.1, RULES, 10_000, rng)
    assert healthy.high <= 0.05, healthy
    assert worse.episodes <= 10.0 and worse.rolled_back > 0.8, worse
    assert broken.episodes < 4.0 and broken.rolled_back > 0.999, broken


def watched(*completions: float, by_hand: bool = False, abstains: bool = False) -> Judgement:
    """Sure above 0.5, complete above 0.7."""
    judgement = Judgement()
    for step, completion in enumerate(completions):
        signal = RewardSignal(step, completion=completion)
        judgement.scored(signal, completion > 0.7, completion > 0.5)
        judgement.helped(by_hand and step == 0)
    if abstains:
        judgement.scored(abstain(9, "the model failed", "m"), False, False)
    return judgement


def judged(
    reason: str, *completions: float, by_hand: bool = False, abstains: bool = False
) -> bool | None:
    return watched(*completions, by_hand=by_hand, abstains=abstains).of(reason)


def test_what_the_reward_engine_says_of_an_episode() -> None:
    assert judged("completed", 0.1, 0.9) is True
    assert judged("time_limit", 0.9, 0.1) is True, "it was complete, and undone again later"
    assert judged("time_limit", 0.1, 0.2) is False
    assert judged("operator", 0.1, 0.2) is None, "cut short"
    assert judged("operator", 0.9) is True
    assert judged("time_limit") is None and judged("time_limit", 0.1, abstains=True) is None
    assert judged("time_limit", 0.1, 0.9, by_hand=True) is None


def test_whether_the_reward_engine_agrees_with_a_label() -> None:
    assert watched(0.1, 0.9).agrees(True, "operator") is True
    assert watched(0.1, 0.9).agrees(False, "completed") is False
    assert watched(0.1, 0.2).agrees(False, "time_limit") is True
    assert watched(0.1, 0.2).agrees(True, "time_limit") is False
    assert watched(0.1, 0.2).agrees(True, "operator") is False, "it did not see it"
    assert watched(0.1, 0.6).agrees(True, "operator") is None, "it was about to"
    assert watched(0.1, 0.2).agrees(False, "operator") is None, "cut short"
    assert watched(0.1, 0.9).agrees(None, "completed") is None
    assert watched().agrees(True, "operator") is None
    assert watched(0.1, abstains=True).agrees(True, "operator") is None
    assert watched(0.1, by_hand=True).agrees(True, "operator") is None
