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
from runtime.weights.probation import Tally
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
