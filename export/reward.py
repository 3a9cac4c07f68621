"""A trained edge reward model -> model package: its graphs' inputs and outputs, its golden vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import Provenance
from contracts.specs import SO101_JOINTS, CameraSpec, ObservationSpec
from export.exporters import AUTO
from export.onnx import GraphSource
from export.package import draft_manifest, export_package, torch_outputs
from trainer.rewards.edge_model import HEAD_OUTPUTS, EdgeHead, EdgeTrunk
from trainer.rewards.train_edge import Edge, load

ARCHITECTURE = "edge"
FRAME_RATE_HZ = 30.0
Inputs = Mapping[str, np.ndarray]


def export_reward(source: Path, folder: Path, exporter: str = AUTO) -> Package:
    """Package of the reward model that `robot-reward train` or `adapt` wrote. Raises `PackageError`."""
    edge = load(source)
    edge.trunk.fuse()
    return package_reward(edge, folder, exporter)


def package_reward(edge: Edge, folder: Path, exporter: str = AUTO) -> Package:
    """`edge.trunk` must be fused; `edge.examples` are recorded pictures for the golden vectors."""
    if not edge.examples:
        raise PackageError(
            "the reward model has no recorded pictures for the golden vectors",
            remedy="train it again with robot-reward train",
        )
    shape = edge.shape
    pictures = {name: edge.examples[name] for name in ("images.front", "images.wrist")}
    seen = [
        {name: array[i : i + 1] for name, array in pictures.items()}
        for i in range(len(pictures["images.front"]))
    ]
    trunk = _trunk_source(edge.trunk, seen)
    embedded = [torch_outputs(trunk, edge.trunk, case)["embedding"] for case in seen]
    tokens = edge.examples["tokens"].astype(np.int64)
    asked = [
        {"first": embedded[0], "earlier": embedded[max(i - 1, 0)], "current": e, "tokens": tokens}
        for i, e in enumerate(embedded)
    ]
    _, head = graph_sources(edge.trunk, edge.head, seen, asked)
    camera = {"width": shape.width, "height": shape.height, "rate_hz": FRAME_RATE_HZ}
    if edge.fx:
        camera |= {"fx": edge.fx, "fy": edge.fx, "cx": (shape.width - 1) / 2}
        camera["cy"] = (shape.height - 1) / 2  # pixels are numbered by their middles
    draft = draft_manifest(
        model="reward",
        architecture=ARCHITECTURE if not shape.context else f"{ARCHITECTURE}-demo",
        observation=ObservationSpec(
            cameras=tuple(
                CameraSpec(name=name, depth=False, **camera)  # type: ignore[arg-type]
                for name in ("front", "wrist")
            ),
            state_names=SO101_JOINTS,
            state_units=("deg",) * 5 + ("percent",),
        ),
        action=None,
        image_width=shape.width,
        image_height=shape.height,
        cameras=("front", "wrist"),
        vocabulary=edge.vocabulary,
        instruction_length=shape.instruction_length,
        provenance=edge.provenance or Provenance("unknown", 0, "", "", 0.0, {}),
        settings=edge.settings,
        trained_on=edge.trained_on,
    )
    golden = {"trunk": seen, "head": asked}
    return export_package(folder, draft, (trunk, head), golden, exporter=exporter)


def graph_sources(
    trunk: EdgeTrunk, head: EdgeHead, pictures: Sequence[Inputs], asked: Sequence[Inputs]
) -> tuple[GraphSource, GraphSource]:
    """(trunk, head) of a fused reward model; the inputs are cases with a batch of one."""
    batch = {0: "batch"}
    names = ("first", "earlier", "current", "tokens")
    # Two that differ, so that the tracer does not take the batch for a constant.
    inputs = {
        name: np.concatenate([asked[min(1, len(asked) - 1)][name], asked[-1][name]])
        for name in names
    }
    dynamic = {name: batch for name in (*names, *HEAD_OUTPUTS)}
    return _trunk_source(trunk, pictures), GraphSource(
        "head", head, inputs, tuple(HEAD_OUTPUTS), dynamic
    )


def _trunk_source(trunk: EdgeTrunk, pictures: Sequence[Inputs]) -> GraphSource:
    names = tuple(pictures[0])
    inputs = {name: np.concatenate([pictures[0][name], pictures[-1][name]]) for name in names}
    batch = {0: "batch"}
    dynamic = {name: batch for name in (*names, "embedding")}
    return GraphSource("trunk", trunk, inputs, ("embedding",), dynamic)
