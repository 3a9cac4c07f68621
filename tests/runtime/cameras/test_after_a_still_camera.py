"""Pictures that were old for a moment: what was made of them moves nothing, and is no success."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from rehearsals import Rehearsed, make
from robots import until

from contracts.messages import GateBit
from contracts.reward import RewardSignal
from runtime.blackbox import box
from runtime.board import LoopState
from runtime.config import load_config
from runtime.control.episode import Episode
from runtime.control.inference import LockstepLane
from runtime.control.pacing import Pace
from runtime.gate.gate import Verdict


def test_the_arm_goes_on_from_a_fresh_inference_alone(tmp_path: Path) -> None:
    with Rehearsed(make(tmp_path)) as robot:
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        robot.tell("silent")
        until(lambda: time.monotonic() - robot.slots.newest(0.0).captured_s > 0.9)
        robot.tell("")
        until(lambda: time.monotonic() - robot.slots.newest(0.0).captured_s < 0.3)
        until(lambda: robot.board.loop_state == LoopState.RUNNING)
        held = robot.board.step
        until(lambda: robot.board.step > held + 30)
        seen = box.look(robot.run.blackbox_path)
    tick_s, chunk, observed_s = (seen.column(name) for name in ("tick_s", "chunk", "observed_s"))
    stale = np.flatnonzero(np.nan_to_num(seen.column("bits")).astype(int) & GateBit.STALE)
    fresh = np.arange(len(chunk)) > stale[-1]
    acted = fresh & (chunk >= 0)
    assert acted.any()
    assert observed_s[acted].min() >= tick_s[fresh][0], "inferred while the pictures were old"


def test_a_picture_that_stands_still_is_not_scored_again_and_again() -> None:
    """One mistake would become a completion that is sure, and the episode a success."""
    scored: list[int] = []

    def score(_pictures: object, step: int) -> RewardSignal:
        scored.append(step)
        return RewardSignal(step, 1.0, 1.0, model_id="wrong")

    robot: Any = SimpleNamespace(
        run=SimpleNamespace(config=load_config(None), plan=SimpleNamespace(driver="policy")),
        policy=None,
        pace=Pace(0.1, 0.0),
        board=SimpleNamespace(beats=0, rewards_abstained=0),
        box=SimpleNamespace(took=lambda section, seconds: None),
        reward=SimpleNamespace(
            is_due=lambda step: True, score=score, is_complete=lambda signal: False, is_sure=False
        ),
        reward_lane=LockstepLane(0),
        scene=SimpleNamespace(progress=lambda: float("nan")),
    )
    plan: Any = SimpleNamespace(purpose="refine", style="")
    episode = Episode(robot, plan, "")
    seen: Any = SimpleNamespace(frames={"front": None}, pictures=dict)
    for bits in (0, GateBit.STALE | GateBit.HELD, GateBit.STALE | GateBit.HELD, 0):
        signal = episode._score(seen, Verdict((), bits))
        assert (signal is None) == bool(bits)
        episode._step += 1
    assert scored == [0, 3]
