"""Graph and weights of a package joined for a tool that wants one ONNX model, and parted again.

Owns what a package's graph must keep through a transformation: inputs, outputs, and weightlessness.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np

from contracts.errors import MissingDependency, PackageError
from contracts.files.packages import WEIGHTS_FILE, Package, safetensors_bytes
from contracts.package import GraphSpec
from runtime.engines import Engine, EngineOptions, open_engine

try:
    import onnx
except ImportError as _error:
    raise MissingDependency(
        "quantising needs ONNX", remedy="pip install 'entracte[export]'"
    ) from _error

TRUNK = "trunk"
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Transformed:
    """A trunk in another precision: `model` without data, its `tensors` by name, and of int8 weights the
    axis of their scales. `precision`: "fp16" or "int8"."""

    model: onnx.ModelProto
    tensors: dict[str, np.ndarray]
    precision: str
    channel_axes: dict[str, int]


def whole(package: Package, graph: str) -> onnx.ModelProto:
    """The graph with its weights inside."""
    model = onnx.load_from_string(package.graphs[graph])
    weights = package.graph_weights(graph)
    for initializer in model.graph.initializer:
        if initializer.name in weights:
            tensor = onnx.numpy_helper.from_array(weights[initializer.name], initializer.name)
            initializer.CopyFrom(tensor)
    return model


def parted(model: onnx.ModelProto, precision: str, channel_axes: Mapping[str, int]) -> Transformed:
    """Take the data out of every initializer but scalars (scales of activations) and integers that are no
    weights (shapes, axes): those are the graph's own."""
    tensors: dict[str, np.ndarray] = {}
    for initializer in model.graph.initializer:
        array = onnx.numpy_helper.to_array(initializer)
        if array.ndim == 0 or (array.dtype.kind != "f" and array.dtype != np.int8):
            continue
        tensors[initializer.name] = np.array(array)
        for kind in ("raw_data", "float_data", "double_data", "int32_data"):
            initializer.ClearField(kind)
        initializer.data_location = onnx.TensorProto.EXTERNAL
    return Transformed(model, tensors, precision, dict(channel_axes))


def layers(model: onnx.ModelProto) -> list[str]:
    """Names of the nodes whose second input is a weight: what can be quantised, in the graph's order."""
    weights = {initializer.name for initializer in model.graph.initializer}
    found = [
        node.name
        for node in model.graph.node
        if node.op_type in WEIGHTED and len(node.input) > 1 and node.input[1] in weights
    ]
    if len(set(found)) != len(found) or "" in found:
        raise PackageError("layers of the graph have no names of their own", found=found[:8])
    return found


def with_trunk(package: Package, trunk: Transformed) -> Package:
    """`package` in memory with another trunk: what an engine opens. Its id and files stay the old ones."""
    prefix = f"{TRUNK}/"
    weights = {n: t for n, t in package.weights.items() if not n.startswith(prefix)}
    weights |= {f"{prefix}{name}": tensor for name, tensor in trunk.tensors.items()}
    check_signature(package.manifest.graph(TRUNK), trunk.model)
    manifest = msgspec.structs.replace(
        package.manifest,
        precision={**package.manifest.precision, TRUNK: trunk.precision},
        channel_axes={f"{prefix}{name}": axis for name, axis in trunk.channel_axes.items()},
    )
    graphs = {**package.graphs, TRUNK: model_bytes(trunk, weights)}
    return dataclasses.replace(package, manifest=manifest, graphs=graphs, weights=weights)


def model_bytes(trunk: Transformed, weights: Mapping[str, np.ndarray]) -> bytes:
    """The trunk serialised, pointing into the weights file that `weights` will make."""
    from export.onnx import point_into  # torch: not where a model is only looked at

    return point_into(trunk.model, TRUNK, WEIGHTS_FILE, safetensors_bytes(weights))


def open_trunk(package: Package) -> Engine:
    return open_engine(package, TRUNK, EngineOptions())


def check_signature(spec: GraphSpec, model: onnx.ModelProto) -> None:
    """Raise `PackageError` unless inputs and outputs are the manifest's, in name and type."""
    for what, wanted, found in (
        ("inputs", spec.inputs, model.graph.input),
        ("outputs", spec.outputs, model.graph.output),
    ):
        expected = [(one.name, one.dtype) for one in wanted]
        actual = [
            (
                value.name,
                str(
                    np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
                ),
            )
            for value in found
        ]
        if expected != actual:
            raise PackageError(
                f"quantising changed the {what} of the trunk", expected=expected, found=actual
            )
