"""Evidence is worth what it says: it hardly ever grows while the hypothesis holds, and soon does when not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from trainer.monitors.evidence import Alone, Grown, Outcome, outcome

LIMIT = math.log(1 / 0.05)


def drawn(rng: np.random.Generator, failures: float, of_failures: float) -> Outcome:
    """`failures`: of all episodes to the other one; `of_failures`: of those successes to the reward."""
    if rng.random() >= failures:
        return Outcome.GRANTED
    return Outcome.ALONE if rng.random() < of_failures else Outcome.REFUSED


def test_what_is_counted() -> None:
    assert outcome(True, False) is Outcome.ALONE and outcome(False, False) is Outcome.REFUSED
    assert outcome(True, True) is outcome(False, True) is Outcome.GRANTED
    assert outcome(None, True) is outcome(False, None) is None


@pytest.mark.parametrize("alone, of_failures", [(0.05, 0.4), (0.2, 0.5), (0.01, 0.9)])
def test_no_unit_of_wealth_can_be_expected_to_grow_under_the_hypothesis(
    alone: float, of_failures: float
) -> None:
    """The proof of the test, on a grid over the whole hypothesis and just outside it."""
    factors = Alone(alone, of_failures).factors
    assert (factors > 0).all()
    for failures in np.linspace(0, 1, 101):
        for share in np.linspace(0, 1, 101):
            chances = np.zeros(3)
            chances[Outcome.GRANTED] = 1 - failures
            chances[Outcome.REFUSED] = failures * (1 - share)
            chances[Outcome.ALONE] = failures * share
            sound = failures * share <= alone or share <= of_failures
            expected = chances @ factors
            if sound:
                assert (expected <= 1 + 1e-12).all(), (failures, share)
    assert (np.array([0, 0, 1]) @ factors > 1).all(), "a lie about every episode pays"


# At the edges of the hypothesis, and wandering between them as a policy gets better.
SOUND = {
    "few failures, all alone": lambda _: (0.05, 1.0),
    "all fail, many alone": lambda _: (1.0, 0.4),
    "half": lambda _: (0.5, 0.4),
    "a policy that improves": lambda t: (0.9 - 0.85 * t, 0.1 + 0.85 * t**4),
}


@pytest.mark.parametrize("name", SOUND)
def test_a_sound_reward_trips_in_no_more_runs_than_allowed(name: str) -> None:
    rng, runs, tripped = np.random.default_rng(3), 120, 0
    for _ in range(runs):
        test = Alone(0.05, 0.4)
        for step in range(200):
            failures, share = SOUND[name](step / 200)
            found = drawn(rng, failures, min(share, 0.4 if failures > 0.05 else 1.0))
            test.add(found)
            if found is Outcome.ALONE and test.log_evidence >= LIMIT:
                tripped += 1
                break
    # 0.05 of 120 is 6; three standard errors above.
    assert tripped <= 13, tripped


@pytest.mark.parametrize("healthy", [0, 100])
def test_a_lie_trips_within_a_dozen_and_a_half_lies(healthy: int) -> None:
    rng, lies = np.random.default_rng(4), []
    for _ in range(50):
        test, count = Alone(0.05, 0.4), 0
        for _ in range(healthy):
            test.add(drawn(rng, 0.6, 0.1))
        assert test.log_evidence < LIMIT
        while test.log_evidence < LIMIT:
            found = drawn(rng, 0.7, 1.0)
            count += found is Outcome.ALONE
            test.add(found)
        lies.append(count)
    assert np.median(lies) <= (8 if not healthy else 14), sorted(lies)


def test_growth_beyond_the_base_trips_and_less_does_not() -> None:
    rng, tripped = np.random.default_rng(5), {0.05: 0, 0.15: 0, 0.7: 0}
    for rate in tripped:
        for _ in range(60):
            test = Grown(0.1)
            for _ in range(20):
                test.add(drawn(rng, 1.0, 0.05), base=True)
            for _ in range(100):
                found = drawn(rng, 1.0, rate)
                test.add(found, base=False)
                if found is Outcome.ALONE and test.log_evidence >= LIMIT:
                    tripped[rate] += 1
                    break
    # 0.15 is the edge of the hypothesis: 3 of 60 and three standard errors.
    assert tripped[0.05] <= 1 and tripped[0.15] <= 8 and tripped[0.7] >= 55, tripped


def test_without_a_base_nothing_has_grown() -> None:
    test = Grown(0.1)
    for _ in range(500):
        test.add(Outcome.ALONE, base=False)
    assert test.log_evidence <= 1e-9


def test_a_base_that_was_lied_about_is_no_growth() -> None:
    """What a reward does from the first episode on is the other monitor's."""
    test = Grown(0.1)
    for base in (True, False):
        for _ in range(30):
            test.add(Outcome.ALONE, base=base)
    assert test.log_evidence <= 1e-9
