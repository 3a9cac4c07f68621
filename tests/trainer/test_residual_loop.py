"""A residual with the real programs: exported, run, learned off-policy, released, and swapped in."""

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


def test_a_residual_goes_round_the_whole_loop(tmp_path: Path) -> None:
    """The second iteration acts by a release that holds the residual alone; the flow stayed the base's."""
    made = export_with_actor(POLICY, tmp_path / "package", ResidualHead, ResidualConfig())
    settings = (
        *("refiner.kind=residual", f"refiner.package={made.folder}", "reward.model=clock"),
        *("iteration.episodes=2", "iteration.count=2", "refiner.options.after=1"),
        *("refiner.options.steps=8", "refiner.options.batch=16", "refiner.options.ensemble=2"),
    )
    with Serving(tmp_path / "trainer", *settings) as trainer:
        trainer.enrol(tmp_path / "robot")
        command = robot_command(
            *(tmp_path / "robot", made.folder, trainer.endpoints),
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
        assert metrics["gradient_steps"] == 8 and metrics["helped"] == 0
        assert 0 < metrics["residual"] < 1
    releases = sorted((tmp_path / "trainer/releases/policy").glob("*/weights.safetensors"))
    fresh = load_package(made.folder).refinable_weights()
    for path in releases:
        pushed = read_safetensors(atomic.read_bytes(path, 1 << 26), str(path))
        assert pushed.keys() == fresh.keys() and all(n.startswith("head/residual.") for n in pushed)
        assert not np.array_equal(pushed["head/residual.out.bias"], fresh["head/residual.out.bias"])
    assert len(releases) == 2
