"""PPO with the real programs: what the robot tells is enough to draw its chunks again."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from serving import ENVIRONMENT, ROOT, Serving, robot_command

POLICY = ROOT / "pretrained/policy-open_drawer"

pytestmark = pytest.mark.skipif(not POLICY.exists(), reason="the shipped policy is not here")


def test_a_trainer_draws_again_what_a_robot_drew(tmp_path: Path) -> None:
    """Pictures travelled as JPEG between the two, and the second iteration acts by a release."""
    settings = (
        *("refiner.kind=ppo", f"refiner.package={POLICY}", "reward.model=clock"),
        *("iteration.episodes=2", "iteration.count=2", "refiner.options.epochs=2"),
    )
    with Serving(tmp_path / "trainer", *settings) as trainer:
        trainer.enrol(tmp_path / "robot")
        command = robot_command(
            *(tmp_path / "robot", POLICY, trainer.endpoints),
            *("iteration.episodes=2", "iteration.count=2", "episode.max_s=4"),
            *("policy.explore_deg=3", "policy.seed=5", "recording.depth=false"),
        )
        done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stderr
        trainer.stop()
        found = trainer.of("iteration", "metrics", "policy_versions", "refiner_failure")
    assert [failure for _, _, failure in found] == ["", ""]
    assert [versions for _, versions, _ in found] == [[0], [1]]
    for metrics, _, _ in found:
        assert metrics["chunks"] >= 8
        assert metrics["left_out"] == 0.0 and metrics["weight"] == 1.0
        assert metrics["apart"] < 0.1
        assert metrics["gradient_steps"] > 0
