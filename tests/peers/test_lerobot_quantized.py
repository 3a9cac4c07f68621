"""A Diffusion checkpoint's package quantised: its head sees the recorded observations that the robot would
show it, oldest first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import drawn
import msgspec
import numpy as np
import pytest
import torch

from calibration.quantization.card import CalibrationSet, read_set, write_set
from calibration.quantization.draw import draw
from contracts.errors import PackageError
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import Feature
from contracts.files.packages import Package, load_package
from contracts.specs import SO101_JOINTS
from export.quantize.build import Options, quantize
from export.quantize.chain import Chain
from export.quantize.report import Report
from runtime.engines import EngineOptions, open_engine

torch.set_num_threads(1)
LENGTH, FPS, APART = 12, 20, 2
CAMERAS = ("front", "wrist")


@pytest.fixture(scope="module")
def package(package_folder: Callable[[str], Path]) -> Package:
    return load_package(package_folder("diffusion-ddim"))


@pytest.fixture(scope="module")
def calibration(package: Package, tmp_path_factory: pytest.TempPathFactory) -> CalibrationSet:
    """Two recorded periods per chunk's period; joint 0 tells the row."""
    root = tmp_path_factory.mktemp("recorded") / "data"
    features = {
        "observation.state": Feature("float32", (6,), SO101_JOINTS),
        **{f"observation.images.{name}": Feature("video", (96, 128, 3)) for name in CAMERAS},
    }
    with DatasetWriter.create(root, FPS, features, "tests", {}) as writer:
        for episode in range(4):
            states = [drawn.state("observation.state", 0, 6, 60.0) for _ in range(LENGTH)]
            states = np.stack(states)
            states[:, 0] = np.arange(LENGTH)
            frames = {
                f"observation.images.{name}": [
                    drawn.picture(f"{name}/{episode}", row, 96, 128) for row in range(LENGTH)
                ]
                for name in CAMERAS
            }
            writer.add_episode({"observation.state": states}, frames, None, "push")
    return draw(package, [root], samples=16, held_out=6, seed=1)


def test_each_sample_has_the_observation_of_the_period_before(
    calibration: CalibrationSet, tmp_path: Path
) -> None:
    write_set(tmp_path / "set", calibration)
    again = read_set(tmp_path / "set")
    for part in (again.calibration, again.held_out):
        assert part.observations == 2
        for index, row in enumerate(part.rows):
            now, before = part.sample(index), part.sample(index, back=1)
            assert before.keys() == {"images.front", "images.wrist", "state"} < now.keys()
            assert now["state"][0, 0] == row.step.row
            assert before["state"][0, 0] == max(0, row.step.row - APART)
            same = np.array_equal(now["images.wrist"], before["images.wrist"])
            assert same == (row.step.row == 0)


def test_the_head_is_given_features_oldest_first(
    package: Package, calibration: CalibrationSet
) -> None:
    chunk = msgspec.structs.replace(package.manifest.chunk, noise_scale=0.0)
    manifest = msgspec.structs.replace(package.manifest, chunk=chunk)
    still = dataclasses.replace(package, manifest=manifest)
    part = calibration.held_out
    with Chain(still) as chain:
        chunks = chain.answers(part)["chunks"]
    trunk, head = (open_engine(package, graph, EngineOptions()) for graph in ("trunk", "head"))
    for index in range(len(part)):
        seen = []
        for back in (1, 0):
            sample = part.sample(index, back)
            observed = {spec.name: sample[spec.name] for spec in trunk.inputs}
            seen.append(trunk.run(observed)["features"].copy())
        noise = np.zeros((1, 16, 6), np.float32)
        wanted = head.run({"features": np.concatenate(seen), "noise": noise})["chunks"]
        np.testing.assert_allclose(chunks[index], wanted, atol=1e-4)
        wrong = head.run({"features": np.concatenate(seen[::-1]), "noise": noise})["chunks"]
        assert part.rows[index].step.row == 0 or np.abs(chunks[index] - wrong).max() > 1e-2


@pytest.mark.slow
def test_a_policy_with_a_history_is_quantised(
    package: Package, calibration: CalibrationSet, tmp_path: Path
) -> None:
    report = Report("fp16", "diffusion", package.package_id, "tests", {"action": 2.0})
    options = Options("fp16", keep_float=0, layer_samples=1)
    made = quantize(package, calibration, tmp_path / "fp16", options, report)
    assert made.manifest.precision == {"trunk": "fp16"}
    assert len(report.errors) == 6 and 0.0 < max(one.p99 for one in report.errors) < 0.5
    assert max(one.p99 for one in report.own_spread) > max(one.p99 for one in report.errors)


def test_a_set_of_single_observations_is_refused(
    package: Package, calibration: CalibrationSet, tmp_path: Path
) -> None:
    part = calibration.calibration
    alone = {name: array for name, array in part.inputs.items() if not name.startswith("before.")}
    short = dataclasses.replace(calibration, calibration=dataclasses.replace(part, inputs=alone))
    report = Report("fp16", "diffusion", package.package_id, "tests", {})
    with pytest.raises(PackageError, match="expected 2, found 1; draw it again"):
        quantize(package, short, tmp_path / "x", Options("fp16"), report)
