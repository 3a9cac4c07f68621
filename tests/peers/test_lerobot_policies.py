"""ACT and Diffusion checkpoints of LeRobot answer as LeRobot does: in torch, and as packages on ONNX Runtime.

Against answers recorded from LeRobot 0.4.4 (fixtures/lerobot), and under the marker `lerobot` against LeRobot
itself, two policies of real size among them (`ENTRACTE_LEROBOT_PYTHON`, see docs/dataset.md).
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from lerobot_checkpoints import FIXTURES, SO101, answers, noise, observation

from contracts.files.packages import Package, load_package
from export.lerobot.checkpoint import Checkpoint, load_checkpoint
from export.lerobot.denoising import make_denoising
from export.lerobot.package import build, export_checkpoint, trunk_inputs
from export.lerobot.robot import describe
from runtime.engines import EngineOptions, open_engine

torch.set_num_threads(1)

TOLERANCE = 1e-4
"""Largest difference in what the network says (in deviations or [-1, 1]), and in actions over the largest."""
PYTHON = os.environ.get("ENTRACTE_LEROBOT_PYTHON")
NAMES = sorted(path.name for path in FIXTURES.iterdir() if path.is_dir())

Made = Callable[[str], Path]
Ask = Callable[[list[dict[str, np.ndarray]], int], np.ndarray]
"""Trunk inputs of the last observations, oldest first, and the chunk's number -> actions [length, joints]."""


def compare(checkpoint: Checkpoint, ask: Ask) -> dict[str, float]:
    """Largest difference from LeRobot's answers: "deg" in the arm's units, "network" in the network's."""
    config, said = checkpoint.config, answers(checkpoint.folder)
    robot = describe(checkpoint, SO101)
    gain = checkpoint.normaliser("action", "ACTION").backwards((6,)).gain.numpy()

    def chunk(number: int) -> np.ndarray:
        now = number * config.n_action_steps
        steps = [max(0, now - back) for back in reversed(range(config.n_obs_steps))]
        return ask(
            [trunk_inputs(checkpoint, robot, observation(checkpoint, s)) for s in steps], number
        )

    chunks = [chunk(0), chunk(1)]
    executed = np.concatenate([one[: config.n_action_steps] for one in chunks])
    off = [np.abs(executed - said["actions"]), np.abs(chunks[0] - said["chunk"])]
    assert np.abs(chunks[0] - chunks[1]).max() > 1.0, "another observation, another chunk"
    scale = float(np.abs(said["actions"]).max())
    found = {
        "deg": max(float(one.max()) for one in off),
        "network": max(float((one / gain).max()) for one in off),
        "scale": scale,
    }
    print(f"\n{checkpoint.folder.name}: {found}")
    return found


def on_engines(package: Package) -> Ask:
    trunk = open_engine(package, "trunk", EngineOptions())
    head = open_engine(package, "head", EngineOptions())
    shape = next((spec.shape for spec in head.inputs if spec.name == "noise"), None)

    def ask(seen: list[dict[str, np.ndarray]], number: int) -> np.ndarray:
        features = [trunk.run(inputs)["features"].copy() for inputs in seen]
        given = {"features": np.concatenate(features)}
        if shape:
            given["noise"] = noise(shape, number)
        return np.array(head.run(given)["chunks"][0])

    return ask


@pytest.mark.parametrize("name", NAMES)
def test_our_definitions_answer_as_lerobot(name: str, checkpoint_folder: Made) -> None:
    checkpoint = load_checkpoint(checkpoint_folder(name))
    denoising = make_denoising(checkpoint.config) if checkpoint.kind == "diffusion" else None  # type: ignore[arg-type]
    networks = build(checkpoint, describe(checkpoint, SO101), denoising)

    def ask(seen: list[dict[str, np.ndarray]], number: int) -> np.ndarray:
        with torch.inference_mode():
            rows = [networks.trunk(*map(torch.from_numpy, inputs.values())) for inputs in seen]
            more = [torch.from_numpy(noise(networks.noise, number))] if networks.noise else []
            return networks.head(torch.cat(rows), *more)[0].numpy()

    found = compare(checkpoint, ask)
    assert found["network"] <= TOLERANCE and found["deg"] <= TOLERANCE * found["scale"]


@pytest.fixture(params=["act", "diffusion-ddim", "diffusion-ddpm"])
def exported(
    request: pytest.FixtureRequest, checkpoint_folder: Made, package_folder: Made
) -> tuple[Checkpoint, Package]:
    """(checkpoint, its package)"""
    name = request.param
    return load_checkpoint(checkpoint_folder(name)), load_package(package_folder(name))


def test_packages_answer_as_lerobot_on_onnx_runtime(exported: tuple[Checkpoint, Package]) -> None:
    checkpoint, package = exported
    found = compare(checkpoint, on_engines(package))
    assert found["network"] <= TOLERANCE and found["deg"] <= TOLERANCE * found["scale"]


def test_every_weight_is_there_once_under_lerobots_name(
    exported: tuple[Checkpoint, Package],
) -> None:
    """However often the denoising loop was unrolled."""
    checkpoint, package = exported
    trained = {
        name: tensor.numpy()
        for name, tensor in checkpoint.tensors.items()
        if not name.startswith("model.vae_encoder") and tensor.is_floating_point()
    }
    held = {name.partition("/")[2]: tensor for name, tensor in package.weights.items()}
    assert len(held) == len(package.weights)
    assert trained.keys() <= held.keys()
    for name, tensor in trained.items():
        np.testing.assert_array_equal(held[name], tensor, err_msg=name)
    others = {name.rpartition(".")[2] for name in held.keys() - trained.keys()}
    assert others == {"offset", "gain", "shift"}, "and the normalisation"
    looks = ("model.backbone", "model.encoder_img_feat_input_proj", "diffusion.rgb_encoder")
    refinable = {spec.name.partition("/")[2] for spec in package.manifest.refinable}
    assert refinable == {name for name in trained if not name.startswith(looks)}


@pytest.mark.lerobot
@pytest.mark.skipif(
    not PYTHON,
    reason="ENTRACTE_LEROBOT_PYTHON is not set: name the Python of an environment with lerobot 0.4.4",
)
@pytest.mark.parametrize("name", ["act-full", "diffusion-half", *NAMES])
def test_lerobot_itself_and_our_package_answer_alike(name: str, tmp_path: Path) -> None:
    """LeRobot writes the checkpoint and answers here and now, two of them of real size."""
    script = Path(__file__).with_name("lerobot_policies.py")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [str(PYTHON), str(script), "write", str(tmp_path), name],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    checkpoint = load_checkpoint(tmp_path / name)
    package = export_checkpoint(checkpoint.folder, tmp_path / "package", SO101)
    found = compare(checkpoint, on_engines(package))
    assert found["network"] <= TOLERANCE and found["deg"] <= TOLERANCE * found["scale"]
