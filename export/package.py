"""Exported graphs -> a model package, checked against torch before it exists.

Generic over policies and reward models: give the modules, their inputs' names, recorded inputs and a draft
of the manifest. What an architecture's graphs are is said in `export.policy` and by its trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import torch

from contracts.errors import PackageError
from contracts.files.packages import (
    WEIGHTS_FILE,
    GoldenCase,
    Package,
    load_package,
    safetensors_bytes,
    write_package,
)
from contracts.package import PackageManifest, TensorSpec
from export.onnx import (
    EXPORTER,
    GraphSource,
    export_graph,
    point_into,
    state_tensors,
)
from runtime.engines import Engine, EngineOptions, open_engine

TOLERANCE = 1e-4
"""Largest |torch - engine|, as a fraction of max(1, largest |torch|) of that output."""

Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Parity:
    """Agreement of one graph's output with its reference over all golden cases."""

    graph: str
    output: str
    cases: int
    largest_error: float
    scale: float

    @property
    def holds(self) -> bool:
        return self.largest_error <= TOLERANCE * max(1.0, self.scale)


def export_package(
    folder: Path,
    draft: PackageManifest,
    graphs: Sequence[GraphSource],
    golden_inputs: Mapping[str, Sequence[Inputs]],
    refinable: Sequence[str] = ("head",),
) -> Package:
    """Export `graphs` (trunk and head) into `folder` and prove that the engine answers as torch does.

    `draft`: the manifest; its graphs, files, hashes, opset, exporter and refinable tensors are filled in
    here. `golden_inputs`: recorded inputs per graph (at least one, all of one shape). Every float tensor of
    the graphs named in `refinable` may be replaced by a release. Raises `PackageError` when a weight's
    name is lost or when ONNX Runtime disagrees with torch, for these weights or for replaced ones.
    """
    exported = [export_graph(source) for source in graphs]
    weights = {
        f"{graph.spec.name}/{name}": tensor
        for graph in exported
        for name, tensor in graph.tensors.items()
    }
    weights_data = safetensors_bytes(weights)
    manifest = msgspec.structs.replace(
        draft,
        graphs=tuple(graph.spec for graph in exported),
        refinable=tuple(
            TensorSpec(name, str(weights[name].dtype), tuple(weights[name].shape))
            for name in sorted(weights)
            if name.partition("/")[0] in refinable
        ),
        opset=exported[0].model.opset_import[0].version,
        exporter=EXPORTER,
    )
    golden = {
        source.name: [_golden_case(source, inputs) for inputs in golden_inputs[source.name]]
        for source in graphs
    }
    models = {
        graph.spec.name: point_into(graph.model, graph.spec.name, WEIGHTS_FILE, weights_data)
        for graph in exported
    }
    package = write_package(folder, manifest, models, weights, golden)
    require_parity(replay(package), f"package {folder}")
    for source in graphs:
        if source.name in refinable:
            require_parity(_replaced_parity(package, source), f"refined package {folder}")
    return package


def draft_manifest(**fields: object) -> PackageManifest:
    """A `PackageManifest` of the given fields whose generated ones are still empty."""
    generated: dict[str, object] = {
        "format_version": 0,
        "graphs": (),
        "weights_file": "",
        "weights_sha256": "",
        "golden_file": "",
        "golden_sha256": "",
        "refinable": (),
        "opset": 0,
        "exporter": "",
    }
    return PackageManifest(**{**generated, **fields})  # type: ignore[arg-type]


def replay(package: Package, kind: str = "onnxruntime") -> list[Parity]:
    """How well an engine of this kind reproduces the golden vectors (which torch computed)."""
    found: list[Parity] = []
    for graph in package.manifest.graphs:
        engine = open_engine(package, graph.name, EngineOptions(kind=kind))
        try:
            found += compare(engine, graph.name, package.golden[graph.name])
        finally:
            engine.close()
    return found


def compare(engine: Engine, graph: str, cases: Sequence[GoldenCase]) -> list[Parity]:
    """Largest differences of `engine` from the cases' outputs, one `Parity` per output."""
    answers = [engine.run(case.inputs) for case in cases]
    found: list[Parity] = []
    for spec in engine.outputs:
        expected = np.stack([case.outputs[spec.name] for case in cases]).astype(np.float64)
        actual = np.stack([answer[spec.name] for answer in answers]).astype(np.float64)
        error = np.abs(expected - actual).max() if np.isfinite(actual).all() else np.inf
        scale = float(np.abs(expected).max(initial=0.0))
        found.append(Parity(graph, spec.name, len(cases), float(error), scale))
    return found


def require_parity(found: Sequence[Parity], what: str) -> None:
    """Raise `PackageError` naming the worst output unless every `Parity` holds."""
    broken = [parity for parity in found if not parity.holds]
    if broken:
        worst = max(broken, key=lambda parity: parity.largest_error / max(1.0, parity.scale))
        raise PackageError(
            f"{what}: output '{worst.output}' of graph '{worst.graph}' differs from torch",
            expected=f"<= {TOLERANCE * max(1.0, worst.scale):.1e}",
            found=f"{worst.largest_error:.1e}",
            remedy="export with the pinned versions of the extra 'export'",
        )


def torch_outputs(
    source: GraphSource, module: torch.nn.Module, inputs: Inputs
) -> dict[str, np.ndarray]:
    """The reference: the module itself on one set of inputs."""
    tensors = [torch.from_numpy(np.array(inputs[name])) for name in source.inputs]
    with torch.inference_mode():
        answer = module.eval()(*tensors)
    values = answer if isinstance(answer, (tuple, list)) else (answer,)
    return {name: value.numpy().copy() for name, value in zip(source.outputs, values, strict=True)}


def check(folder: Path, kind: str = "onnxruntime") -> tuple[Package, list[Parity]]:
    """Load a package with every check and replay its golden vectors; raises `PackageError`."""
    package = load_package(folder)
    found = replay(package, kind)
    require_parity(found, f"package {folder}")
    return package, found


def _golden_case(source: GraphSource, inputs: Inputs) -> GoldenCase:
    return GoldenCase(dict(inputs), torch_outputs(source, source.module, inputs))


def _slightly_other(module: torch.nn.Module) -> torch.nn.Module:
    """A copy with every float tensor changed by a few per cent: as a release changes them. (The
    exporter's `perturbed_copy` moves deep nets so far that float32 itself loses the parity.)"""
    twin = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in twin.state_dict().values():
            if tensor.is_floating_point():
                factor = 0.95 + 0.1 * torch.rand(tensor.shape, generator=generator)
                offset = 1e-3 * torch.rand(tensor.shape, generator=generator)
                tensor.mul_(factor.to(tensor.dtype)).add_(offset.to(tensor.dtype))
    return twin


def _replaced_parity(package: Package, source: GraphSource) -> list[Parity]:
    """Parity after a swap: other weights through `standby`, against torch holding the same ones."""
    twin = _slightly_other(source.module)
    weights = {f"{source.name}/{name}": tensor for name, tensor in state_tensors(twin).items()}
    engine = open_engine(package, source.name, EngineOptions())
    standby = engine.standby(weights)
    cases = [
        GoldenCase(case.inputs, torch_outputs(source, twin, case.inputs))
        for case in package.golden[source.name]
    ]
    try:
        return compare(standby, source.name, cases)
    finally:
        standby.close()
        engine.close()
