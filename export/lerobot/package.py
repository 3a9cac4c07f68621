"""A LeRobot ACT or Diffusion checkpoint -> model package.

The trunk is what looks (backbone, its projection or keypoints, normalised joints), the head all that
decides (transformer, or UNet with its denoising steps). A release replaces the head's network alone: it is
what depends on actions, it is small beside what a picture costs, and a trunk that stays lets old features be
used.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from contracts import __version__
from contracts.errors import PackageError
from contracts.files import atomic
from contracts.files.packages import Package
from contracts.package import ChunkSpec, PackageManifest, Provenance, float_weights
from export.exporters import AUTO
from export.lerobot.act import ActHead, ActTrunk
from export.lerobot.checkpoint import CONFIGS, Checkpoint, fill, load_checkpoint
from export.lerobot.config import ACTION, STATE, ActConfig, DiffusionConfig
from export.lerobot.denoising import Denoising, make_denoising
from export.lerobot.diffusion import DiffusionHead, DiffusionTrunk
from export.lerobot.observations import Observation, drawn, recorded
from export.lerobot.processors import Affine, blank
from export.lerobot.robot import Robot, RobotOptions, describe
from export.lerobot.settings import config_of_package, settings_of
from export.lerobot.vision import map_size
from export.onnx import GraphSource
from export.package import draft_manifest, export_package, torch_outputs

ARCHITECTURES = {"act": "lerobot-act", "diffusion": "lerobot-diffusion"}
REFINABLE = {"act": "head/model.", "diffusion": "head/diffusion."}
"""The network alone. The head's `action` turns its answer into the arm's units: a release that changed that
would pass for a small change of the weights and move the arm by any amount."""
_FOR_TRAINING = ("model.vae_encoder",)
_GOLDEN_SEED = 0


@dataclass(frozen=True)
class Networks:
    """Both graphs in torch, with the checkpoint's weights. `noise`: shape of the head's, None without."""

    trunk: nn.Module
    head: nn.Module
    length: int
    noise: tuple[int, ...] | None


def export_checkpoint(
    source: Path,
    folder: Path,
    robot: RobotOptions,
    *,
    scheduler: str = "",
    steps: int = 0,
    exporter: str = AUTO,
) -> Package:
    """Package of the LeRobot checkpoint in `source`. `scheduler` and `steps`: of Diffusion's denoising, by
    default the checkpoint's own. Raises `EntracteError` for what is missing or can't be."""
    checkpoint = load_checkpoint(source)
    denoising = None
    if isinstance(checkpoint.config, ActConfig):
        if scheduler or steps:
            raise PackageError("ACT has no denoising", found="--scheduler or --steps")
    else:
        denoising = make_denoising(checkpoint.config, scheduler, steps)
    described = describe(checkpoint, robot)
    networks = build(checkpoint, described, denoising)
    cases = recorded(checkpoint, robot.dataset) if robot.dataset else drawn(checkpoint)
    observed = [[trunk_inputs(checkpoint, described, one) for one in case] for case in cases]
    graphs, golden = graph_sources(networks, described.cameras, observed)
    draft = _draft(checkpoint, described, networks, denoising, robot.dataset)
    return export_package(folder, draft, graphs, golden, (REFINABLE[checkpoint.kind],), exporter)


def build(checkpoint: Checkpoint, robot: Robot, denoising: Denoising | None) -> Networks:
    """Trunk and head of a checkpoint; `denoising` for Diffusion. Raises `PackageError`."""
    config = checkpoint.config
    degrees = torch.from_numpy(robot.degrees)
    pictures = [checkpoint.normaliser(name, "VISUAL").forwards((3, 1, 1)) for name in config.images]
    state = checkpoint.normaliser(STATE, "STATE").forwards((config.state_size,))
    state = Affine(state.offset * degrees, state.gain / degrees, state.shift)
    action = checkpoint.normaliser(ACTION, "ACTION").backwards((config.action_size,))
    action = Affine(action.offset, action.gain * degrees, action.shift * degrees)
    networks = make_networks(config, pictures, state, action, denoising)
    fill(checkpoint, {"trunk": networks.trunk, "head": networks.head}, _FOR_TRAINING)
    return networks


def make_networks(
    config: ActConfig | DiffusionConfig,
    pictures: list[Affine],
    state: Affine,
    action: Affine,
    denoising: Denoising | None,
) -> Networks:
    """Trunk and head with fresh weights and the given normalisation."""
    sizes = [(feature.shape[1], feature.shape[2]) for feature in config.images.values()]
    trunk: nn.Module
    head: nn.Module
    if isinstance(config, ActConfig):
        trunk = ActTrunk(config, pictures, state)
        maps = [map_size(trunk.model.backbone, size) for size in sizes]
        head = ActHead(config, maps, action)
        length, noise = config.chunk_size, None
    else:
        assert denoising is not None
        trunk = DiffusionTrunk(config, pictures, state)
        features = config.state_size + 2 * config.spatial_softmax_num_keypoints * len(sizes)
        head = DiffusionHead(config, features, denoising, action)
        length = config.horizon - config.n_obs_steps + 1
        chunk = (config.horizon, config.action_size)
        noise = (1, denoising.draws, *chunk) if denoising.draws > 1 else (1, *chunk)
    return Networks(trunk.eval(), head.eval(), length, noise)


def reference(package: Package) -> tuple[GraphSource, ...]:
    """Torch made again from a package of this module's. Raises `PackageError`."""
    kind = next(k for k, name in ARCHITECTURES.items() if name == package.manifest.architecture)
    config = config_of_package(package, CONFIGS[kind])
    settings, denoising = package.manifest.settings, None
    if isinstance(config, DiffusionConfig):
        steps = int(settings["num_inference_steps"])
        denoising = make_denoising(config, config.noise_scheduler_type.lower(), steps)
    pictures = [blank((3, 1, 1)) for _ in config.images]
    state, action = blank((config.state_size,)), blank((config.action_size,))
    networks = make_networks(config, pictures, state, action, denoising)
    weights = float_weights(package.manifest, package.weights)
    sources = []
    for name, module in (("trunk", networks.trunk), ("head", networks.head)):
        prefix = f"{name}/"
        own = {
            key.removeprefix(prefix): torch.from_numpy(np.array(value))
            for key, value in weights.items()
            if key.startswith(prefix)
        }
        module.load_state_dict(own)
        spec = package.manifest.graph(name)
        inputs = package.golden[name][0].inputs
        wanted = {one.name: inputs[one.name] for one in spec.inputs}
        outputs = tuple(one.name for one in spec.outputs)
        sources.append(GraphSource(name, module, wanted, outputs))
    return tuple(sources)


def graph_sources(
    networks: Networks, cameras: tuple[str, ...], cases: list[list[dict[str, np.ndarray]]]
) -> tuple[tuple[GraphSource, GraphSource], dict[str, list[dict[str, np.ndarray]]]]:
    """(trunk, head) and their golden inputs; `cases`: trunk inputs by name, as `trunk_inputs` makes them."""
    names = [*(f"images.{camera}" for camera in cameras), "state"]
    trunk = GraphSource("trunk", networks.trunk, {n: cases[0][0][n] for n in names}, ("features",))
    rng = np.random.default_rng(_GOLDEN_SEED)
    acted = []
    for case in cases:
        seen = [torch_outputs(trunk, networks.trunk, inputs)["features"] for inputs in case]
        inputs = {"features": np.concatenate(seen)}
        if networks.noise:
            inputs["noise"] = rng.standard_normal(networks.noise).astype(np.float32)
        acted.append(inputs)
    head = GraphSource("head", networks.head, acted[0], ("chunks",))
    return (trunk, head), {"trunk": [inputs for case in cases for inputs in case], "head": acted}


def trunk_inputs(
    checkpoint: Checkpoint, robot: Robot, observation: Observation
) -> dict[str, np.ndarray]:
    """One of LeRobot's observations as the package's trunk takes it, in the package's units."""
    inputs = {
        f"images.{camera}": np.ascontiguousarray(observation[name])[None]
        for camera, name in zip(robot.cameras, checkpoint.config.images, strict=True)
    }
    inputs["state"] = (observation[STATE] * robot.degrees).astype(np.float32)[None]
    return inputs


def _draft(
    checkpoint: Checkpoint,
    robot: Robot,
    networks: Networks,
    denoising: Denoising | None,
    dataset: Path | None,
) -> PackageManifest:
    config = checkpoint.config
    _, height, width = next(iter(config.images.values())).shape
    settings = settings_of(config)
    if denoising is not None:
        settings |= denoising.settings
    return draft_manifest(
        model="policy",
        architecture=ARCHITECTURES[checkpoint.kind],
        observation=robot.observation,
        action=robot.action,
        image_width=width,
        image_height=height,
        cameras=robot.cameras,
        vocabulary=(),
        instruction_length=0,
        provenance=_provenance(checkpoint, dataset),
        chunk=ChunkSpec(networks.length, robot.action.rate_hz, 1),
        settings=settings,
    )


def _provenance(checkpoint: Checkpoint, dataset: Path | None) -> Provenance:
    """What the checkpoint's own train_config.json says of its data and seed, if it is there."""
    try:
        training: Any = atomic.read_json(checkpoint.folder / "train_config.json")
    except (atomic.FileError, OSError):
        training = {}
    told = training if isinstance(training, dict) else {}
    data = told.get("dataset")
    name = data.get("repo_id") if isinstance(data, dict) else None
    policy = told.get("policy")
    licence = policy.get("license") if isinstance(policy, dict) else None
    golden = f"recorded in {dataset.name}" if dataset else "drawn at random, not recorded"
    notes = f"LeRobot {checkpoint.kind} checkpoint {checkpoint.folder.name}; golden observations {golden}"
    if getattr(checkpoint.config, "temporal_ensemble_coeff", None) is not None:
        notes += "; its temporal ensembling is not used: the robot splices chunks by measured steps"
    return Provenance(
        command="lerobot-train",
        seed=int(told.get("seed") or 0),
        data=str(name or (dataset.name if dataset else "unknown")),
        licence=str(licence or "unknown"),
        created_unix_s=time.time(),
        versions={"entracte": __version__, "torch": str(torch.__version__)},
        notes=notes,
    )
