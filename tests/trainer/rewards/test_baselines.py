"""The rewards that look at no picture: what they make of a label and of the bench's progress."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np

from trainer.judgement import check_signals, judge
from trainer.rewards.baselines import HumanReward, SuccessReward


def _episode(label: bool | None, progress: list[float]) -> Any:
    columns = {"reward.process": np.array(progress, np.float32)[:, None]}
    end = SimpleNamespace(operator_success=label)
    return SimpleNamespace(steps=len(progress), columns=columns, end=end)


def test_truth_is_the_benchs_progress_and_the_label_at_the_end() -> None:
    known = [math.nan, 0.25, 0.5, 0.75]
    failed = SuccessReward().score_episode(_episode(False, known))
    assert [(s.step, s.process) for s in failed] == [(1, 0.25), (2, 0.5), (3, 0.5)]
    solved = SuccessReward().score_episode(_episode(True, known))
    assert [(s.step, s.process) for s in solved] == [(1, 0.25), (2, 0.5), (3, 1.0)]
    for signals, label in ((failed, False), (solved, True)):
        assert check_signals(signals, 4) == ""
        assert judge(signals, 0.5, 1) is label


def test_a_persons_label_says_nothing_of_the_steps_before() -> None:
    (signal,) = HumanReward().score_episode(_episode(True, [0.1, 0.2, 0.3]))
    assert (signal.step, signal.process, signal.completion) == (2, 1.0, 1.0)
    (unlabelled,) = HumanReward().score_episode(_episode(None, [0.1, 0.2]))
    assert unlabelled.abstained
