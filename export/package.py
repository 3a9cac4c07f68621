"""Exported graphs -> a model package, checked against torch before it exists.

Generic over policies and reward models: give the modules, their inputs' names, recorded inputs and a draft
of the manifest. What an architecture's graphs are is said in `export.policy` and by its trainer.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import torch

from contracts.errors import PackageError
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import WEIGHTS_FILE, Package, safetensors_bytes, write_package
from contracts.package import PackageManifest, TensorSpec
from export.exporters import AUTO
from export.onnx import ExportedGraph, GraphSource, export_graph, point_into, state_tensors
from export.parity.measure import Parity, compare, replay, require_parity
from runtime.engines import EngineOptions, open_engine, refinable_names

Inputs = Mapping[str, np.ndarray]


def export_package(
    folder: Path,
    draft: PackageManifest,
    graphs: Sequence[GraphSource],
    golden_inputs: Mapping[str, Sequence[Inputs]],
    refinable: Sequence[str] = ("head",),
    exporter: str = AUTO,
) -> Package:
    """Export `graphs` (trunk and head) into `folder` and prove that the engine answers as torch does.

    `draft`: the manifest; its graphs, files, hashes, opset, exporter and refinable tensors are filled in
    here. `golden_inputs`: recorded inputs per graph (at least one, all of one shape). `refinable`: what
    a release may replace, all floats of a graph ("head") or those that begin so ("head/noise_actor.").
    `exporter`: see `export_graph`. Raises `PackageError` when a weight's name is lost or when ONNX Runtime
    disagrees with torch, for these weights or for replaced ones.
    """
    for source in graphs:
        if source.frozen and any(one.partition("/")[0] == source.name for one in refinable):
            raise PackageError(f"graph '{source.name}' can't be both frozen and refinable")
    exported = [export_graph(source, exporter) for source in graphs]
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
            if any(name.startswith(one if "/" in one else f"{one}/") for one in refinable)
        ),
        opset=max(_opset(graph) for graph in exported),
        exporter=_exporters(exported),
    )
    golden = {
        source.name: [_golden_case(source, inputs) for inputs in golden_inputs[source.name]]
        for source in graphs
    }
    models = {
        graph.spec.name: point_into(graph.model, graph.spec.name, WEIGHTS_FILE, weights_data)
        for graph in exported
    }

    def check(written: Package) -> None:
        require_parity(replay(written), f"package {folder}")
        for source in graphs:
            if any(spec.name.startswith(f"{source.name}/") for spec in manifest.refinable):
                require_parity(_replaced_parity(written, source), f"refined package {folder}")

    return write_package(folder, manifest, models, weights, golden, check)


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


def torch_outputs(
    source: GraphSource, module: torch.nn.Module, inputs: Inputs
) -> dict[str, np.ndarray]:
    """The reference: the module itself on one set of inputs."""
    tensors = [torch.from_numpy(np.array(inputs[name])) for name in source.inputs]
    with torch.inference_mode():
        answer = module.eval()(*tensors)
    values = answer if isinstance(answer, (tuple, list)) else (answer,)
    return {name: value.numpy().copy() for name, value in zip(source.outputs, values, strict=True)}


def _opset(graph: ExportedGraph) -> int:
    return next(int(i.version) for i in graph.model.opset_import if i.domain in ("", "ai.onnx"))


def _exporters(graphs: Sequence[ExportedGraph]) -> str:
    texts = [graph.exporter for graph in graphs]
    if len(set(texts)) == 1:
        return texts[0]
    return "; ".join(f"{graph.spec.name}: {graph.exporter}" for graph in graphs)


def _golden_case(source: GraphSource, inputs: Inputs) -> GoldenCase:
    return GoldenCase(dict(inputs), torch_outputs(source, source.module, inputs))


def _slightly_other(module: torch.nn.Module, names: Collection[str]) -> torch.nn.Module:
    """A copy with these tensors changed by a few per cent: as a release changes them. (The exporter's
    `perturbed_copy` moves deep nets so far that float32 itself loses the parity.)"""
    twin = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in twin.state_dict().items():
            if name in names:
                factor = 0.95 + 0.1 * torch.rand(tensor.shape, generator=generator)
                offset = 1e-3 * torch.rand(tensor.shape, generator=generator)
                tensor.mul_(factor.to(tensor.dtype)).add_(offset.to(tensor.dtype))
    return twin


def _replaced_parity(package: Package, source: GraphSource) -> list[Parity]:
    """Parity after a swap: other weights through `standby`, against torch holding the same ones."""
    names = refinable_names(package, source.name)
    twin = _slightly_other(source.module, names)
    tensors = state_tensors(twin)
    weights = {f"{source.name}/{name}": tensors[name] for name in names}
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
