"""Which torch module's answer the ONNX graph gets wrong first: hooks on the modules, the exporter's scopes in
the graph's node names ("/flow/norms.0_3/Add": call 3 of flow.norms.0).

Needed where a fresh export is no reference because the exporter itself is at fault.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn

from contracts.files.packages import Package
from export.parity.nodes import Divergence, apart, every_tensor, with_weights

if TYPE_CHECKING:
    import onnx

    from export.onnx import GraphSource

_CALL = re.compile(r"_\d+$")


def first_module(
    package: Package, source: GraphSource, inputs: Mapping[str, np.ndarray], tolerance: float
) -> Divergence | None:
    """The first call of a module without children whose result the graph doesn't have. Modules whose calls
    can't be told apart in the graph are passed over."""
    model = with_weights(package.graphs[source.name], package.graph_weights(source.name))
    tensors = every_tensor(model, inputs)
    groups = results(model, source.module)
    calls = module_outputs(source, inputs)
    counts: dict[str, int] = defaultdict(int)
    for path, _ in calls:
        counts[path] += 1
    seen: dict[str, int] = defaultdict(int)
    for path, expected in calls:
        call = seen[path]
        seen[path] += 1
        if len(groups.get(path, ())) != counts[path]:
            continue
        node = groups[path][call]
        actual = tensors.get(node.output[0])
        if actual is None or actual.shape != expected.shape:
            continue
        error, allowed = apart(expected, actual, tolerance)
        if error > allowed:
            return Divergence(
                *(source.name, "torch", "onnx", node.name, node.op_type, error, allowed),
                module=path,
                call=call,
            )
    return None


def module_outputs(
    source: GraphSource, inputs: Mapping[str, np.ndarray]
) -> list[tuple[str, np.ndarray]]:
    """(path, result) of every call of a module without children, in the order of the calls."""
    found: list[tuple[str, np.ndarray]] = []

    def hook(path: str) -> Any:
        def keep(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                found.append((path, output.detach().numpy().copy()))

        return keep

    handles = [
        module.register_forward_hook(hook(path))
        for path, module in source.module.named_modules()
        if path and not list(module.children())
    ]
    try:
        tensors = [torch.from_numpy(np.array(inputs[name])) for name in source.inputs]
        with torch.inference_mode():
            source.module.eval()(*tensors)
    finally:
        for handle in handles:
            handle.remove()
    return found


def results(model: onnx.ModelProto, module: nn.Module) -> dict[str, list[onnx.NodeProto]]:
    """Module path -> the last node of each of its calls, in order."""
    paths = {path for path, _ in module.named_modules()}
    found: dict[str, list[onnx.NodeProto]] = defaultdict(list)
    before = None
    for node in model.graph.node:
        if node.op_type == "Constant" or "/" not in node.name:
            continue
        scope = node.name.rpartition("/")[0]
        path = module_path(scope, paths)
        if scope == before and found[path]:
            found[path][-1] = node
        else:
            found[path].append(node)
        before = scope
    return found


def module_path(scope: str, paths: set[str]) -> str:
    """ "/front/layers_1/layers.0_1" -> "front.layers.0": a child repeats its container's name, a later call
    adds its number."""
    path = ""
    for part in scope.removeprefix("/module").strip("/").split("/"):
        last = path.rpartition(".")[2]
        for name in (part, _CALL.sub("", part)):
            inner = name[len(last) + 1 :] if last and name.startswith(f"{last}.") else name
            joined = f"{path}.{inner}" if path else inner
            if joined in paths:
                path = joined
                break
    return path
