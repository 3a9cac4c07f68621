"""The torch twin of a reward package: its head is what adaptation trains and a release carries."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from contracts.errors import PackageError
from contracts.files.packages import Package
from contracts.package import PackageManifest, float_weights
from trainer.rewards.edge_model import EdgeHead, EdgeShape, EdgeTrunk

PREFIX = "head/"


def head_of_package(package: Package) -> EdgeHead:
    """The head with the package's own weights, in evaluation mode. Raises `PackageError` for a package
    that holds another network."""
    weights = package.graph_weights("head")
    try:
        head = EdgeHead(shape_of(package.manifest, weights))
        head.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    except (KeyError, IndexError, RuntimeError) as error:
        raise _other_network(package, error) from error
    return head.eval()


def trunk_of_package(package: Package) -> EdgeTrunk:
    """The fused trunk with the package's own weights. Raises `PackageError` as `head_of_package` does."""
    prefix = "trunk/"
    weights = {
        name.removeprefix(prefix): tensor
        for name, tensor in float_weights(package.manifest, package.weights).items()
        if name.startswith(prefix)
    }
    try:
        trunk = EdgeTrunk(shape_of(package.manifest, package.graph_weights("head"))).fuse()
        trunk.load_state_dict({k: torch.from_numpy(np.array(v)) for k, v in weights.items()})
    except (KeyError, IndexError, RuntimeError) as error:
        raise _other_network(package, error) from error
    return trunk


def shape_of(manifest: PackageManifest, weights: Mapping[str, np.ndarray]) -> EdgeShape:
    """Every size of the network, read off its tensors. Raises `KeyError` where one is missing."""
    enter = weights["relation.enter.weight"]
    key = weights.get("match.query.weight")
    return EdgeShape(
        vocabulary_size=len(manifest.vocabulary),
        instruction_length=manifest.instruction_length,
        width=manifest.image_width,
        height=manifest.image_height,
        front_channels=(enter.shape[1] - 2) // 2,
        wrist_channels=weights["relation.wrist_enter.weight"].shape[1] // 2,
        word_width=weights["instruction.words.weight"].shape[1],
        text_width=weights["instruction.bind1.weight"].shape[0],
        map_width=enter.shape[0],
        slots=weights["instruction.slots"].shape[1] - 1,
        hidden=weights["relation.join.2.weight"].shape[0],
        key_width=key.shape[0] if key is not None else EdgeShape(0).key_width,
        context=len(weights["context"]) if "context" in weights else 0,
    )


def head_tensors(head: EdgeHead) -> dict[str, np.ndarray]:
    """The head's weights as a release carries them: "head/<name>"."""
    return {
        f"{PREFIX}{name}": tensor.detach().contiguous().numpy().copy()
        for name, tensor in head.state_dict().items()
    }


def take_tensors(head: EdgeHead, tensors: Mapping[str, np.ndarray]) -> None:
    """Put a release's weights into the head."""
    state = {k.removeprefix(PREFIX): torch.from_numpy(np.array(v)) for k, v in tensors.items()}
    head.load_state_dict(state)


def _other_network(package: Package, error: Exception) -> PackageError:
    return PackageError(
        f"reward package {package.folder}",
        expected="an edge model of this version",
        found=str(error).splitlines()[0][:200],
        remedy="export it again with robot-export reward",
    )
