"""The model package: manifest of the folder an engine is built from. Data and checks, no disk.

Folder: `manifest.json`, one `<graph>.onnx` per graph, `weights.safetensors` (every initializer of the
graphs by name, "<graph>/<tensor>"), `golden.npz` (recorded inputs and expected outputs, cases stacked
along a leading axis under "<graph>/in/<name>" and "<graph>/out/<name>").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from contracts.errors import PackageError
from contracts.specs import ActionSpec, ObservationSpec
from contracts.vlm import EncoderSpec, VlmSpec

FORMAT_VERSION = 1
OBSERVATION_STEPS = "observation_steps"
"""Name of a policy's setting: how many observations, one period of its chunks apart, its head takes as
rows of "features", oldest first. Without it one."""

PREFIX, PREFIX_WEIGHT = "prefix", "prefix_weight"
"""Inputs of a head that can go on from a chunk under way (real-time chunking): float32[1, length, action_dim]
in the arm's units and float32[1, length] in [0, 1]. With weights of 0 it answers as if there were none."""


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype (numpy's name) and shape; -1 in a shape is a dynamic axis (graph inputs only)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def no_prefix(inputs: Sequence[TensorSpec]) -> dict[str, np.ndarray]:
    """For a head with these inputs that starts afresh: zeros, or nothing where it takes no prefix."""
    return {
        spec.name: np.zeros(spec.shape, np.float32)
        for spec in inputs
        if spec.name in (PREFIX, PREFIX_WEIGHT)
    }


class GraphSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One ONNX graph. `file` and `sha256` are of the .onnx file, whose initializers are external: they
    point into `weights.safetensors`, where their names are "<name>/<initializer>"."""

    name: str
    file: str
    sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class ChunkSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a policy's head is run: `length` actions per chunk at `rate_hz`; `samples` candidate chunks
    are drawn (noise float32[samples, length, action_dim]) and the graph's "choice" says which to use."""

    length: int
    rate_hz: float
    samples: int
    noise_scale: float = 1.0


class Provenance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to make this package again, and under which licence it may be used."""

    command: str
    seed: int
    data: str
    licence: str
    created_unix_s: float
    versions: dict[str, str]
    notes: str = ""


class PackageManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`model`: "policy", "reward", or "vlm" or "encoder" with the field of that name. `image_width/height`:
    what the trunk takes, RGB uint8[1,H,W,3].

    `refinable` names the tensors ("<graph>/<tensor>") that a release may replace. `vocabulary` maps
    instruction words to ids (see `contracts.language`), `instruction_length` the padded length.
    `settings` are model-specific numbers (thresholds, temperatures) and `trained_on` what the reward
    model's data held (instructions, pairs, instances), so that what is held out can be checked.

    Of a quantised package: `precision` says "fp16" or "int8" of each graph that is not float32,
    `golden_tolerance` how near its engines come to the golden vectors, which stay float32's (largest
    difference over max(1, largest value)), and `channel_axes` along which axis each int8 weight
    "<graph>/<tensor>_quantized" has its scales "<graph>/<tensor>_scale".
    """

    format_version: int
    model: str
    architecture: str
    observation: ObservationSpec
    action: ActionSpec | None
    graphs: tuple[GraphSpec, ...]
    weights_file: str
    weights_sha256: str
    golden_file: str
    golden_sha256: str
    refinable: tuple[TensorSpec, ...]
    image_width: int
    image_height: int
    cameras: tuple[str, ...]
    vocabulary: tuple[str, ...]
    instruction_length: int
    opset: int
    exporter: str
    provenance: Provenance
    chunk: ChunkSpec | None = None
    settings: dict[str, float] = {}
    trained_on: dict[str, list[str]] = {}
    precision: dict[str, str] = {}
    golden_tolerance: dict[str, float] = {}
    channel_axes: dict[str, int] = {}
    vlm: VlmSpec | None = None
    encoder: EncoderSpec | None = None

    def graph(self, name: str) -> GraphSpec:
        for graph in self.graphs:
            if graph.name == name:
                return graph
        raise PackageError(f"package has no graph '{name}'", found=[g.name for g in self.graphs])


_LATER = ("precision", "golden_tolerance", "channel_axes", "vlm", "encoder")
"""Fields that came after packages were in use: empty, they are left out of the identity, so that those
packages keep theirs."""


def package_id(manifest: PackageManifest) -> str:
    """Identity of the frozen part: first 16 hex digits over the manifest's canonical JSON."""
    tree = msgspec.to_builtins(manifest)
    for name in _LATER:
        if not tree[name]:
            del tree[name]
    return hashlib.sha256(msgspec.json.encode(tree)).hexdigest()[:16]


def float_weights(
    manifest: PackageManifest, weights: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Every float tensor as float32 under the name that it had before quantisation.

    What a torch twin takes. Of an int8 graph the values are those that its engines compute with; that its
    activations are rounded too is not in them.
    """
    found: dict[str, np.ndarray] = {}
    for name, tensor in weights.items():
        graph, axis = name.partition("/")[0], manifest.channel_axes.get(name)
        if axis is not None:
            base = name.removesuffix("_quantized")
            scale = weights[f"{base}_scale"]
            shape = [-1 if index == axis else 1 for index in range(tensor.ndim)]
            found[base] = tensor.astype(np.float32) * scale.reshape(shape)
        elif manifest.precision.get(graph) == "int8" and _of_a_quantiser(name, weights):
            continue
        else:
            found[name] = tensor.astype(np.float32) if tensor.dtype == np.float16 else tensor
    return found


def _of_a_quantiser(name: str, weights: Mapping[str, np.ndarray]) -> bool:
    """Is this a scale or a zero point (which come in pairs)?"""
    for own, other in (("_scale", "_zero_point"), ("_zero_point", "_scale")):
        if name.endswith(own) and name.removesuffix(own) + other in weights:
            return True
    return False


def weights_id(tensors: Mapping[str, np.ndarray]) -> str:
    """Content hash of named tensors: SHA-256 over name, dtype, shape and bytes in name order."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[name])
        digest.update(f"{name}|{tensor.dtype}|{tensor.shape}|".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def check_tensors(required: tuple[TensorSpec, ...], tensors: Mapping[str, np.ndarray]) -> list[str]:
    """What is wrong with `tensors` as values of exactly the `required` ones; empty if nothing is."""
    wanted = {spec.name: spec for spec in required}
    problems = [f"'{name}' is missing" for name in sorted(wanted.keys() - tensors.keys())]
    problems += [f"'{name}' is not refinable" for name in sorted(tensors.keys() - wanted.keys())]
    with np.errstate(over="ignore", invalid="ignore"):
        for name in sorted(wanted.keys() & tensors.keys()):
            spec, tensor = wanted[name], tensors[name]
            if tensor.dtype != spec.dtype or tuple(tensor.shape) != spec.shape:
                problems.append(
                    f"'{name}' should be {spec.dtype}{list(spec.shape)} "
                    f"and is {tensor.dtype}{list(tensor.shape)}"
                )
            elif not _all_finite(tensor):
                problems.append(f"'{name}' holds NaN or infinity")
    return problems


def _all_finite(tensor: np.ndarray) -> bool:
    # A finite sum has finite terms, and needs no memory; only one that overflowed asks for a second look.
    total = np.add.reduce(tensor, axis=None)
    return bool(np.isfinite(total) or np.isfinite(tensor).all())
