"""A policy's earlier observations are as old as in training, whatever a camera or the loop missed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.config import load_config
from runtime.control.episode import Episode
from runtime.control.history import History
from runtime.control.inference import LockstepLane
from runtime.control.pacing import Pace


@pytest.mark.parametrize(
    ("periods", "wanted"),
    [
        ([0], [0, 0]),
        ([0, 1, 2, 3, 4, 5, 6], [0, 3]),
        ([0, 1], [0, 0]),  # before the first there is the first
        ([0, 1, 2, 9, 10, 11, 12], [9, 9]),  # a gap: six ago is nearer to 9 than to 2
        ([0, 3, 4, 5, 12], [5, 12]),  # nine ago is there to tell of, not nine entries ago
        ([0, 1, 7], [1, 1]),
        ([3, 5, 8], [3, 5]),  # 2 and 5 were wanted
        ([4, 8, 9], [4, 4]),  # of two as near the older: 6 from 4 and 8
    ],
)
def test_the_nearest_in_time_goes_before_the_newest(periods: list[int], wanted: list[int]) -> None:
    history: History[int] = History(3, apart=3)
    for period in periods:
        history.add(period, period)
    assert history.chosen() == [*wanted, periods[-1]]


def test_an_episode_counts_what_the_loop_and_the_cameras_missed() -> None:
    """Chunks at 10 Hz in a loop of 30: one period of them is three of the loop's, not three whole ticks."""
    config = load_config(None, ["loop.rate_hz=30", "policy.execute_steps=1"])
    asked: list[list[float]] = []
    policy = SimpleNamespace(
        chunk=SimpleNamespace(rate_hz=10.0),
        observations=2,
        infer=lambda pictures, state, number, earlier, underway: asked.append(
            [float(s[0]) for _, s in earlier]
        ),
    )
    robot: Any = SimpleNamespace(
        run=SimpleNamespace(config=config, plan=SimpleNamespace(driver="policy")),
        policy=policy,
        pace=Pace(1 / 30, 0.0),
        policy_lane=LockstepLane(100),
        clock=SimpleNamespace(now_s=lambda: 0.0),
        gate=SimpleNamespace(fault=lambda why: None, state=SimpleNamespace(position=())),
        helm=SimpleNamespace(steer=lambda at: None, ease=lambda choice: choice, returned=False),
        board=SimpleNamespace(beats=0),
        policy_version=0,
        box=SimpleNamespace(took=lambda section, seconds: None),
    )
    plan: Any = SimpleNamespace(purpose="eval", style="")
    episode = Episode(robot, plan, "")

    def tick(number: int, missed: int, complete: bool = True) -> None:
        robot.pace = Pace(1 / 30, 0.0, number, missed)
        joints = SimpleNamespace(positions=np.array([float(number + missed)]))
        seen: Any = SimpleNamespace(
            complete=complete, posture=joints, pictures=dict, at_s=0.0, true_s=0.0
        )
        episode._infer(seen)
        robot.policy_lane.drain()
        episode._step += 1

    for number in range(3):
        tick(number, 0)
    tick(3, 0, complete=False)
    tick(4, 2)  # two periods skipped: this is the sixth, and the third had no picture
    assert asked == [[0.0], [2.0]]
