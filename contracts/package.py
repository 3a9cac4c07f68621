"""The model package: manifest of the folder an engine is built from. Data and checks, no disk.

Folder: `manifest.json`, one `<graph>.onnx` per graph, `weights.safetensors` (every initializer of the
graphs by name, "<graph>/<tensor>"), `golden.npz` (recorded inputs and expected outputs, cases stacked
along a leading axis under "<graph>/in/<name>" and "<graph>/out/<name>").
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np

from contracts.errors import PackageError
from contracts.specs import ActionSpec, ObservationSpec

FORMAT_VERSION = 1


class TensorSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Name, dtype (numpy's name) and shape; -1 in a shape is a dynamic axis (graph inputs only)."""

    name: str
    dtype: str
    shape: tuple[int, ...]


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
    """`model`: "policy" or "reward". `image_width/height`: what the trunk takes, RGB uint8[1,H,W,3].

    `refinable` names the tensors ("<graph>/<tensor>") that a release may replace. `vocabulary` maps
    instruction words to ids (see `contracts.language`), `instruction_length` the padded length.
    `settings` are model-specific numbers (thresholds, temperatures) and `trained_on` what the reward
    model's data held (instructions, pairs, instances), so that what is held out can be checked.
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

    def graph(self, name: str) -> GraphSpec:
        for graph in self.graphs:
            if graph.name == name:
                return graph
        raise PackageError(f"package has no graph '{name}'", found=[g.name for g in self.graphs])


def package_id(manifest: PackageManifest) -> str:
    """Identity of the frozen part: first 16 hex digits over the manifest's canonical JSON."""
    return hashlib.sha256(msgspec.json.encode(manifest)).hexdigest()[:16]


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
    for name in sorted(wanted.keys() & tensors.keys()):
        spec, tensor = wanted[name], tensors[name]
        if str(tensor.dtype) != spec.dtype or tuple(tensor.shape) != spec.shape:
            problems.append(
                f"'{name}' should be {spec.dtype}{list(spec.shape)} "
                f"and is {tensor.dtype}{list(tensor.shape)}"
            )
        elif not np.isfinite(tensor).all():
            problems.append(f"'{name}' holds NaN or infinity")
    return problems
