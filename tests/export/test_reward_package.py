"""What the package of an edge reward model says of the cameras that it was trained with."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from contracts.files.packages import load_package
from contracts.language import build_vocabulary
from contracts.package import Provenance
from export.app import app
from export.reward import package_reward
from trainer.rewards.edge import EdgeReward
from trainer.rewards.edge_model import EdgeShape
from trainer.rewards.train_edge import new_edge

SHIPPED = Path(__file__).parents[2] / "pretrained" / "reward-zero-shot"


def test_its_lens_points_through_the_middle_of_pixels_numbered_by_their_middles(
    tmp_path: Path,
) -> None:
    vocabulary = build_vocabulary(("open the drawer",))
    edge = new_edge(EdgeShape(vocabulary_size=len(vocabulary)), vocabulary, 0)
    shape, random = edge.shape, np.random.default_rng(0)
    edge.examples = {
        f"images.{camera}": random.integers(0, 255, (3, shape.height, shape.width, 3), np.uint8)
        for camera in ("front", "wrist")
    }
    edge.examples["tokens"] = np.ones((1, shape.instruction_length), np.int64)
    edge.provenance = Provenance("test", 0, "", "", 0.0, {})
    edge.fx = 93.0
    edge.trunk.fuse()
    cameras = package_reward(edge, tmp_path / "reward").manifest.observation.cameras
    for one in cameras:
        middle = ((one.width - 1) / 2, (one.height - 1) / 2)
        assert (one.fx, one.cx, one.cy) == (93.0, *middle)


def test_its_summary_names_it_as_scores_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("export.reward.export_reward", lambda *_: load_package(SHIPPED))
    monkeypatch.setattr("contracts.files.packages.require_place", lambda *_: None)
    monkeypatch.setattr("export.parity.measure.replay", lambda made: [])
    done = CliRunner().invoke(app, ["reward", str(tmp_path), str(SHIPPED)], catch_exceptions=False)
    assert load_package(SHIPPED).package_id in done.output
    assert EdgeReward(package=SHIPPED).model_id in done.output
