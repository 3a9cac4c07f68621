"""Where in a graph two sides part: every tensor of an ONNX graph, and the first node whose result differs.

The graph is judged against a fresh export of the torch twin (its nodes have the same names), an engine
against the graph. Intermediate tensors are made outputs by polygraphy.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from contracts.errors import MissingDependency, PackageError
from contracts.files.packages import Package
from contracts.package import TensorSpec
from export.parity.sides import EngineSide
from runtime.engines import EngineOptions

if TYPE_CHECKING:
    import onnx

MOST_BYTES = 1 << 31
"""Protobuf holds no larger model."""

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Divergence:
    """The first place where `right` is not `left`. `layer`: the graph's node, "" where only the `module` of
    torch is known (its `call`-th call, from 0). `why`: how the node itself differs, where that is seen."""

    graph: str
    left: str
    right: str
    layer: str
    op: str
    error: float
    allowed: float
    module: str = ""
    call: int = 0
    why: str = ""

    def __str__(self) -> str:
        module = f"torch module '{self.module}' (call {self.call})" if self.module else ""
        layer = f"{self.op} node '{self.layer}'" if self.layer else ""
        place = ", ".join(part for part in (layer, module) if part)
        why = f"; {self.why}" if self.why else ""
        return (
            f"graph '{self.graph}': {self.right} first differs from {self.left} at {place}: "
            f"error {self.error:.1e}, allowed {self.allowed:.1e}{why}"
        )


def with_weights(model: bytes, weights: Arrays) -> onnx.ModelProto:
    """The model with its data inside. Raises `MissingDependency` without ONNX, `PackageError` beyond what
    protobuf holds."""
    if sum(array.nbytes for array in weights.values()) > MOST_BYTES:
        raise PackageError(
            "the graph is too large to look at every tensor of it",
            expected=f"at most {MOST_BYTES} bytes of weights",
        )
    library = _onnx()
    proto: onnx.ModelProto = library.load_model_from_string(model)
    for initializer in proto.graph.initializer:
        if initializer.data_location == library.TensorProto.EXTERNAL:
            array = np.ascontiguousarray(weights[initializer.name])
            initializer.CopyFrom(library.numpy_helper.from_array(array, initializer.name))
    return proto


def every_tensor(model: onnx.ModelProto, inputs: Arrays) -> dict[str, np.ndarray]:
    """Every result of every node in the graph's order, computed with all optimisations off."""
    try:
        from polygraphy import constants
        from polygraphy.backend.onnx import ModifyOutputs
        from polygraphy.backend.onnxrt import OnnxrtRunner, SessionFromOnnx
        from polygraphy.logger import G_LOGGER
    except ImportError as error:
        raise MissingDependency(
            "finding the first layer needs polygraphy", remedy="pip install 'entracte[export]'"
        ) from error
    import onnxruntime as ort

    with G_LOGGER.verbosity(G_LOGGER.ERROR):
        marked = ModifyOutputs(model, outputs=constants.MARK_ALL, copy=True)()
        session = SessionFromOnnx(
            marked.SerializeToString(),
            providers=["CPUExecutionProvider"],
            graph_optimization_level=ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
        )
        with OnnxrtRunner(session) as runner:
            found = runner.infer(dict(inputs))
    names = [name for node in model.graph.node for name in node.output if name in found]
    return {name: np.asarray(found[name]) for name in names}


def first_node(
    package: Package, graph: str, trusted: onnx.ModelProto, inputs: Arrays, tolerance: float
) -> Divergence | None:
    """The first node of the package's graph whose result is not that of the `trusted` model (data inside),
    among those that both have by name."""
    model = with_weights(package.graphs[graph], package.graph_weights(graph))
    right, actual = every_tensor(trusted, inputs), every_tensor(model, inputs)
    made_by = {name: node for node in model.graph.node for name in node.output}
    meant = {name: node for node in trusted.graph.node for name in node.output}
    for name, array in actual.items():
        if name not in right or right[name].shape != array.shape:
            continue
        error, allowed = apart(right[name], array, tolerance)
        if error > allowed:
            node = made_by[name]
            return Divergence(
                *(graph, "torch", "onnx", node.name, node.op_type, error, allowed),
                why=_difference(node, meant[name]),
            )
    return None


def first_in_engine(
    package: Package, graph: str, options: EngineOptions, inputs: Arrays, tolerance: float
) -> Divergence | None:
    """The first node from which on an engine differs from the plain graph. With every tensor an output no
    engine fuses anything; when that hides the fault, the graph is searched by halves."""
    onnx = _onnx()
    model = with_weights(package.graphs[graph], package.graph_weights(graph))
    plain = every_tensor(model, inputs)
    made_by = {name: node for node in model.graph.node for name in node.output}
    floats = [
        name
        for name, array in plain.items()
        if array.dtype == np.float32 and array.size and made_by[name].op_type != "Constant"
    ]

    def differs(names: Sequence[str]) -> Divergence | None:
        with tempfile.TemporaryDirectory() as cache:
            marked = _marked(package, graph, {name: plain[name] for name in names}, onnx)
            side = EngineSide(marked, msgspec.structs.replace(options, cache=cache))
            try:
                answer = side.run(graph, inputs)
            finally:
                side.close()
        for name in names:
            error, allowed = apart(plain[name], answer[name], tolerance)
            if error > allowed:
                node = made_by[name]
                place = (node.name, node.op_type)
                return Divergence(graph, "onnx", options.kind, *place, error, allowed)
        return None

    found = differs(floats)
    if found is not None or differs(floats[-1:]) is None:
        return found
    low, high = 0, len(floats) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if differs([floats[middle]]) else (middle + 1, high)
    return differs([floats[low]])


def apart(expected: np.ndarray, actual: np.ndarray, tolerance: float) -> tuple[float, float]:
    """(largest error, what is allowed of it). A value that is infinite or NaN on both sides is equal."""
    right, given = expected.astype(np.float64), actual.astype(np.float64)
    same = (right == given) | (np.isnan(right) & np.isnan(given))
    with np.errstate(invalid="ignore"):
        error = np.where(same, 0.0, np.abs(right - given))
    finite = np.abs(right[np.isfinite(right)])
    largest = float(np.nan_to_num(error, nan=np.inf).max(initial=0.0))
    return largest, tolerance * max(1.0, float(finite.max(initial=0.0)))


def _marked(package: Package, graph: str, values: Arrays, onnx: Any) -> Package:
    """The package with these tensors of the graph as outputs too."""
    model = onnx.load_model_from_string(package.graphs[graph])
    manifest = package.manifest
    outputs = {spec.name: spec for spec in manifest.graph(graph).outputs}
    for name, array in values.items():
        if name not in outputs:
            kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, kind, array.shape))
            outputs[name] = TensorSpec(name, str(array.dtype), array.shape)
    graphs = tuple(
        msgspec.structs.replace(spec, outputs=tuple(outputs.values()))
        for spec in manifest.graphs
        if spec.name == graph
    )
    return dataclasses.replace(
        package,
        manifest=msgspec.structs.replace(manifest, graphs=graphs),
        graphs={graph: model.SerializeToString()},
        package_id=f"{package.package_id}-marked",
    )


def _difference(node: onnx.NodeProto, meant: onnx.NodeProto) -> str:
    """How a node is not the one that was meant; "" where only its data differ."""
    if node.op_type != meant.op_type:
        return f"it should be a {meant.op_type}"
    if list(node.input) != list(meant.input):
        return f"it takes {list(node.input)} and should take {list(meant.input)}"
    onnx = _onnx()
    sides = [
        {one.name: onnx.helper.get_attribute_value(one) for one in side.attribute}
        for side in (node, meant)
    ]
    for name in sorted(sides[0].keys() | sides[1].keys()):
        found, wanted = (side.get(name) for side in sides)
        if str(found) != str(wanted):
            return f"its attribute '{name}' is {found} and should be {wanted}"
    return ""


def _onnx() -> Any:
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency(
            "finding the first layer needs ONNX", remedy="pip install 'entracte[export]'"
        ) from error
    return onnx
