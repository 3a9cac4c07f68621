"""Probation with a reward head on the robot: what its word counts for, and what counts for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from swap_robot import ROBOT, package

from benchmarks.probation_trials import _Loop, stage
from contracts.files.packages import Package
from contracts.messages import EpisodeEnd
from contracts.reward import RewardSignal
from runtime.board import Board
from runtime.config import RobotConfig
from runtime.control.judgement import Judgement
from runtime.control.releases import Releases
from runtime.control.resting import Resting
from runtime.engines import EngineOptions, open_engine
from runtime.models.reward import RewardRunner
from runtime.run import Run, RunPlan
from runtime.weights.probation import MOST_REMEMBERED, Probation, Tally, judge
from runtime.weights.slots import Slot, SlotStore
from runtime.weights.swap import Swapper
from runtime.weights.swap_checks import SwapLimits

__all__ = ["package"]


@dataclass
class _Robot(_Loop):
    """With a reward head of the same small package, whose word is put into its mouth."""

    reward: Any = None


class Trials:
    """Control's own releases over both swappers; episodes as their ends and the head's word of them."""

    def __init__(self, folder: Path, package: Package, board: Board) -> None:
        self._package, self._board, self._episodes = package, board, 0
        self.policy, self.reward = (
            Swapper(
                target,
                SlotStore(folder / "slots" / target, package.package_id),
                package,
                open_engine(package, "head", EngineOptions()),
                robot_id=ROBOT,
                limits=SwapLimits(latency_s=10.0),
            )
            for target in ("policy", "reward")
        )
        runner = RewardRunner.__new__(RewardRunner)
        runner.package, runner.swapper = package, self.reward
        self.robot: Any = _Robot(self.policy, reward=runner)
        run = Run(RobotConfig(), RunPlan(), str(folder), str(folder), "trials")
        self._releases = Releases(run, board, self.robot, Resting(self.robot))

    def stage(self, swapper: Swapper, seq: int, by: float | None = None) -> None:
        factor = np.float32(1.0 + 1e-4 * (seq if by is None else by))
        tensors = {n: t * factor for n, t in self._package.refinable_weights().items()}
        stage(swapper.slots, self._package, seq, tensors)
        if swapper is self.policy:
            self._board.staged_policy_seq = seq
        else:
            self._board.staged_reward_seq = seq

    def run(self, *episodes: tuple[bool | None, bool], sure: bool = False) -> None:
        """Each as (its label, whether the head saw it complete); `sure`: it was about to. A success ends at
        once, by whoever says so."""
        for label, complete in episodes:
            self._releases.before(self._episodes)
            ended = "completed" if complete and label is None else "operator"
            reason = ended if label or complete else "time_limit"
            judgement = Judgement()
            judgement.scored(RewardSignal(0, completion=0.0), False, False)
            judgement.scored(RewardSignal(5), complete, sure or complete)
            end = EpisodeEnd(self._episodes, 9, reason, operator_success=label)
            self._releases.after(end, judgement)
            self._episodes += 1

    def slot(self, swapper: Swapper, seq: int) -> Slot:
        found = swapper.slots.state().by_seq(seq)
        assert found is not None
        return found[1]


@pytest.fixture
def trials(tmp_path: Path, package: Package) -> Iterator[Trials]:
    with Board.create(tmp_path / "board") as board:
        yield Trials(tmp_path, package, board)


SEEN, MISSED, FAILED = (True, True), (True, False), (False, False)


def test_a_head_that_never_says_complete_is_taken_back(trials: Trials) -> None:
    """It agrees with every failure, and of a success that another ended it was not asked."""
    trials.run(*[SEEN, FAILED] * 20)
    assert trials.reward.slots.state().own == Tally(40, 0)
    trials.stage(trials.reward, 1)
    trials.run(*[MISSED, FAILED] * 10)
    assert trials.slot(trials.reward, 1).state == "rolled_back" and trials.reward.version == 0


def test_a_head_as_good_as_the_one_before_is_committed_at_a_success_that_it_saw(
    trials: Trials,
) -> None:
    trials.run(*[SEEN, FAILED] * 20)
    trials.stage(trials.reward, 1)
    trials.run(*[FAILED] * 50)
    assert trials.slot(trials.reward, 1).state == "probation", "what never says it agrees, too"
    trials.run(SEEN)
    assert trials.slot(trials.reward, 1).state == "committed"


def test_a_head_that_was_about_to_say_complete_missed_nothing(trials: Trials) -> None:
    trials.run(*[MISSED] * 3, sure=True)
    assert trials.reward.slots.state().own == Tally(0, 0, 3)


def test_without_labels_a_head_is_committed_as_before(trials: Trials) -> None:
    trials.stage(trials.reward, 1)
    trials.run(*[(None, False), (None, True)] * 3)
    assert trials.slot(trials.reward, 1).state == "committed"


def test_what_another_reward_head_judged_is_not_compared(trials: Trials) -> None:
    """Its rate says nothing of this one's: equally good releases were rolled back for the difference."""
    trials.run(*[(None, True)] * 17, *[(None, False)] * 2, (True, False))
    assert trials.policy.slots.state().own == Tally(18, 2, 0, seen=17, missed=2)
    trials.stage(trials.policy, 1)
    trials.run((None, True), (False, False))
    assert trials.slot(trials.policy, 1).tally == Tally(1, 1, 0, seen=1)
    trials.stage(trials.reward, 1)
    trials.run((None, True))
    assert trials.reward.version == 1
    assert trials.policy.slots.state().own == Tally(1, 0, other=19), "a person's word stays"
    assert trials.slot(trials.policy, 1).tally == Tally(1, 1, seen=1, other=1)
    trials.stage(trials.reward, 2, by=1)  # the same head under another number
    trials.run((None, False))
    assert trials.reward.version == 2
    assert trials.slot(trials.policy, 1).tally == Tally(1, 2, seen=1, missed=1, other=1)
    trials.run((None, False))
    assert trials.slot(trials.policy, 1).state == "committed", "after five, with nothing to compare"
    assert trials.policy.slots.state().reference == Tally(1, 3, seen=1, missed=2, other=1)


def test_a_tally_halves_what_a_head_judged_with_the_rest() -> None:
    tally = Tally()
    for number in range(3 * MOST_REMEMBERED):
        tally = tally.add(number % 2 == 0, by_head=True)
        assert (tally.seen, tally.missed) == (tally.successes, tally.failures)
    assert tally.labelled() == Tally(other=tally.counted)


@pytest.mark.parametrize(
    ("reference", "verdict"),
    [
        (Tally(2, 2, other=40), "on"),
        (Tally(4, 1, other=40), "roll_back"),
        (Tally(0, 0, 40), "roll_back"),
    ],
)
def test_a_few_counts_beside_those_of_another_head_roll_nothing_back(
    reference: Tally, verdict: str
) -> None:
    found, why = judge(reference, Tally(0, 4), Probation(alpha=0.3))
    assert found == verdict, why
