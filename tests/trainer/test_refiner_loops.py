"""Refiners with the real programs, twice around: learned from what a robot did, released, and swapped in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from serving import ENVIRONMENT, ROOT, Serving, robot_command

from contracts.files import atomic
from contracts.files.packages import load_package, read_safetensors
from export.policy import export_with_actor
from trainer.policies.residual import ResidualConfig, ResidualHead

POLICY = ROOT / "pretrained/policy-open_drawer"

pytestmark = pytest.mark.skipif(not POLICY.exists(), reason="the shipped policy is not here")


def twice_around(tmp_path: Path, kind: str, package: Path, *options: str) -> list[dict[str, float]]:
    """The metrics of two iterations, of which the second acted by the first one's release. Pictures
    travelled as JPEG."""
    settings = (
        *(f"refiner.kind={kind}", f"refiner.package={package}", "reward.model=clock"),
        *("iteration.episodes=2", "iteration.count=2"),
        *(f"refiner.options.{option}" for option in options),
    )
    with Serving(tmp_path / "trainer", *settings) as trainer:
        trainer.enrol(tmp_path / "robot")
        command = robot_command(
            *(tmp_path / "robot", package, trainer.endpoints),
            *("iteration.episodes=2", "iteration.count=2", "episode.max_s=4"),
            *("policy.explore_deg=3", "policy.seed=5", "recording.depth=false"),
        )
        done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, check=False)
        assert done.returncode == 0, done.stderr
        trainer.stop()
        found = trainer.of("iteration", "metrics", "policy_versions", "refiner_failure")
    assert [failure for _, _, failure in found] == ["", ""]
    assert [versions for _, versions, _ in found] == [[0], [1]]
    return [metrics for metrics, _, _ in found]


def test_a_trainer_draws_again_what_a_robot_drew(tmp_path: Path) -> None:
    """What the robot tells is enough for PPO."""
    for metrics in twice_around(tmp_path, "ppo", POLICY, "epochs=2"):
        assert metrics["chunks"] >= 8
        assert metrics["left_out"] == 0.0 and metrics["weight"] == 1.0
        assert metrics["apart"] < 0.1
        assert metrics["gradient_steps"] > 0


def test_a_residual_goes_round_the_whole_loop(tmp_path: Path) -> None:
    """Its releases hold the residual alone: the flow stays the base's."""
    made = export_with_actor(POLICY, tmp_path / "package", ResidualHead, ResidualConfig())
    options = ("after=1", "steps=8", "batch=16", "ensemble=2")
    for metrics in twice_around(tmp_path, "residual", made.folder, *options):
        assert metrics["gradient_steps"] == 8 and metrics["helped"] == 0
        assert 0 < metrics["residual"] < 1
    releases = sorted((tmp_path / "trainer/releases/policy").glob("*/weights.safetensors"))
    fresh = load_package(made.folder).refinable_weights()
    for path in releases:
        pushed = read_safetensors(atomic.read_bytes(path, 1 << 26), str(path))
        assert pushed.keys() == fresh.keys() and all(n.startswith("head/residual.") for n in pushed)
        assert not np.array_equal(pushed["head/residual.out.bias"], fresh["head/residual.out.bias"])
    assert len(releases) == 2
