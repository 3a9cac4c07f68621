"""The workshop's task: bring the fingertips 25 cm above the table. Built from the bench's own parts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from runtime.bench import TaskSpec
from runtime.bench.drafts import lift
from runtime.bench.goals import Reading
from runtime.bench.scene import Goal, Scene
from runtime.bench.skills import Skills
from runtime.bench.state import BenchState

HEIGHT_M = 0.25
RAISED = np.array([0.0, -70.0, 20.0, 40.0, 0.0, 30.0])


def phrases(goal: Goal) -> tuple[str, ...]:
    del goal
    return ("reach up", "raise the hand")


def evaluate(goal: Goal, now: BenchState, start: BenchState, scene: Scene) -> Reading:
    """Progress is the share of the way up from where the hand was at reset. Pure."""
    del goal, scene
    way_m = max(HEIGHT_M - float(start.tip_m[2]), 1e-3)
    share = (float(now.tip_m[2]) - float(start.tip_m[2])) / way_m
    met = share >= 1.0
    return Reading(met, float(np.clip(share, 0.0, 1.0)), int(met))


def script(skills: Skills, goal: Goal) -> Iterator[np.ndarray]:
    del skills, goal
    for _ in range(20):
        yield RAISED


REACH_UP = TaskSpec("reach_up", lift, script, ("idle", "random"), 4.0, phrases, evaluate)
