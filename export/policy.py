"""A trained flow policy -> model package: names the graphs' inputs and outputs, and the golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from contracts.errors import PackageError
from contracts.files import atomic
from contracts.files.packages import MANIFEST_FILE, Package, load_package, read_safetensors
from contracts.package import PREFIX, PREFIX_WEIGHT, ChunkSpec, Provenance, no_prefix
from export.exporters import AUTO
from export.onnx import GraphSource
from export.package import draft_manifest, export_package, torch_outputs
from trainer.policies import actors
from trainer.policies.flow import (
    ARCHITECTURE,
    EXAMPLES_FILE,
    REMEDY,
    FlowConfig,
    FlowPolicy,
    settings_of,
)

GOLDEN_SAMPLES = 4
REFINABLE: tuple[str, ...] = ("head/flow.", "head/critics.")
"""Not the head's units and limits."""
Inputs = dict[str, np.ndarray]


def export_policy(source: Path, folder: Path, exporter: str = AUTO) -> Package:
    """Package of the policy that `robot-trainer imitate` wrote into `source`. Raises `PackageError`."""
    policy, examples = _trained(source)
    return package_policy(policy, examples, folder, exporter)


def _trained(source: Path) -> tuple[FlowPolicy, dict[str, np.ndarray]]:
    policy = FlowPolicy.load(source)
    try:
        data = atomic.read_bytes(source / EXAMPLES_FILE, 1 << 28)
    except atomic.FileError as error:
        raise PackageError(
            f"{source} has no recorded observations for the golden vectors",
            expected=EXAMPLES_FILE,
            remedy="train it again with robot-trainer imitate",
        ) from error
    return policy, read_safetensors(data, str(source / EXAMPLES_FILE), REMEDY)


def export_with_actor(
    source: Path,
    folder: Path,
    kind: type[actors.ActorHead],
    settings: actors.ActorSettings,
    exporter: str = AUTO,
) -> Package:
    """Package of a flow policy (a trained folder, or a package) with an untrained actor of that kind; a
    release then carries the actor alone. Raises `PackageError`."""
    prefixed = True
    if (source / MANIFEST_FILE).is_file():
        package = load_package(source)
        prefixed = takes_prefix(package)
        policy = FlowPolicy.from_package(package)
        cases = [case.inputs for case in package.golden["trunk"]]
        examples = {name: np.concatenate([case[name] for case in cases]) for name in cases[0]}
    else:
        policy, examples = _trained(source)
    torch.manual_seed(0)
    acted = actors.with_actor(policy, kind, settings)
    return package_policy(acted, examples, folder, exporter, prefixed=prefixed)


def takes_prefix(package: Package) -> bool:
    """Whether its head can go on from a chunk under way."""
    return bool(no_prefix(package.manifest.graph("head").inputs))


def package_policy(
    policy: FlowPolicy,
    examples: dict[str, np.ndarray],
    folder: Path,
    exporter: str = AUTO,
    *,
    prefixed: bool = True,
) -> Package:
    """`examples`: recorded trunk inputs by name, stacked along the first axis; `prefixed` as in
    `graph_sources`, never for an actor whose chunks can't go on from one under way."""
    config = policy.config
    if isinstance(policy.head, actors.ActorHead):
        prefixed = prefixed and policy.head.GOES_ON
    trunk, head = graph_sources(policy, examples, prefixed=prefixed)
    count = len(examples["state"])
    observed = [{name: array[i : i + 1] for name, array in examples.items()} for i in range(count)]
    rng = np.random.default_rng(0)
    shape = (GOLDEN_SAMPLES, config.chunk_length, config.action_size)
    acted = [
        {
            "features": torch_outputs(trunk, policy.trunk, case)["features"],
            "noise": rng.normal(size=shape).astype(np.float32),
            **(_underway(config, case["state"], number) if prefixed else {}),
        }
        for number, case in enumerate(observed)
    ]
    architecture, settings, refinable = ARCHITECTURE, settings_of(config), REFINABLE
    if isinstance(policy.head, actors.ActorHead):
        architecture, refinable = policy.head.ARCHITECTURE, (policy.head.prefix(),)
        settings |= actors.settings_of(policy.head)
    draft = draft_manifest(
        model="policy",
        architecture=architecture,
        observation=config.observation,
        action=config.action,
        image_width=config.image_width,
        image_height=config.image_height,
        cameras=config.cameras,
        vocabulary=config.vocabulary,
        instruction_length=config.instruction_length,
        provenance=config.provenance or Provenance("unknown", 0, "", "", 0.0, {}),
        chunk=ChunkSpec(config.chunk_length, config.action.rate_hz, config.samples),
        settings=settings,
    )
    golden = {"trunk": observed, "head": acted}
    return export_package(folder, draft, (trunk, head), golden, refinable, exporter)


def _underway(config: FlowConfig, state: np.ndarray, number: int) -> Inputs:
    """A chunk under way in golden vectors: of the first case nothing is settled, of the others `number`
    entries near the pose in which the arm stands, and half of the next."""
    weight = np.zeros((1, config.chunk_length), np.float32)
    weight[0, :number] = 1.0
    if 0 < number < config.chunk_length:
        weight[0, number] = 0.5
    offset = np.random.default_rng([1, number]).normal(scale=2.0, size=(config.chunk_length, 1))
    prefix = (state[:, : config.action_size] + offset).astype(np.float32)[None]
    low, high = (np.array(x, np.float32) for x in (config.action.low, config.action.high))
    return {PREFIX: np.clip(prefix, low, high), PREFIX_WEIGHT: weight}


def graph_sources(
    policy: FlowPolicy, examples: dict[str, np.ndarray], *, prefixed: bool = True
) -> tuple[GraphSource, GraphSource]:
    """(trunk, head) of a policy, as `export.package` takes them. `prefixed` False: a head without real-time
    chunking, as packages had it before."""
    config = policy.config
    names = trunk_inputs(config)
    missing = sorted(set(names) - set(examples))
    if missing:
        raise PackageError("recorded observations are incomplete", expected=names, found=missing)
    # Two of them, so that the tracer does not take the batch for a constant.
    inputs = {name: np.concatenate([examples[name][:1]] * 2) for name in names}
    shape = (GOLDEN_SAMPLES, config.chunk_length, config.action_size)
    batch = {0: "batch"}
    trunk = GraphSource(
        "trunk", policy.trunk, inputs, ("features",), {name: batch for name in (*names, "features")}
    )
    samples = {0: "samples"}
    head = GraphSource(
        "head",
        policy.head,
        {
            "features": np.zeros((1, config.features), np.float32),
            "noise": np.random.default_rng(0).normal(size=shape).astype(np.float32),
            **(_underway(config, examples["state"][:1], 2) if prefixed else {}),
        },
        ("chunks", "values", "choice"),
        {"noise": samples, "chunks": samples, "values": samples},
    )
    return trunk, head


def trunk_inputs(config: FlowConfig) -> list[str]:
    """Names of the trunk's inputs in order."""
    return [*(f"images.{camera}" for camera in config.cameras), "state", "tokens"]
