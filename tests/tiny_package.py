"""A real policy package of a few hundred weights: ONNX graphs, weights, golden vectors; no torch.

Head: chunks = noise * `head/scale` + features @ `head/mix` + `head/bias`, the choice is chunk 0.
"""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import Package, safetensors_bytes, write_package
from contracts.package import ChunkSpec, GraphSpec, PackageManifest, Provenance, TensorSpec
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from contracts.weights import read_header

UNITS = ("deg",) * 5 + ("percent",)
OBSERVATION = ObservationSpec((CameraSpec("front", 32, 24, 10.0),), SO101_JOINTS, UNITS)
ACTION = ActionSpec(
    SO101_JOINTS, UNITS, (-100.0,) * 5 + (0.0,), (100.0,) * 6, (200.0,) * 6, (2000.0,) * 6, 10.0
)
FEATURES, LENGTH, SAMPLES = 8, 4, 3
# Where each tensor lies in the weights file: what gives the graphs to another tool, as the exporter does.
Held = dict[str, tuple[TensorSpec, int, int]]


def make_package(
    folder: Path,
    seed: int = 0,
    width: int = FEATURES,
    length: int = LENGTH,
    action: ActionSpec = ACTION,
) -> Package:
    """Write the package at `folder`. Other `width`: other tensors, so another package. `length`: of a chunk,
    for a robot at least `policy.execute_steps`. `action`: of the arm."""
    joints = len(action.names)
    rng = np.random.default_rng(seed)
    weights = {
        "trunk/wide": rng.normal(size=(1, width)).astype(np.float32),
        "head/mix": rng.normal(size=(width, joints)).astype(np.float32) * 5,
        "head/bias": np.array([1, 2, 3, 4, 5, 50][-joints:], np.float32),
        "head/scale": np.full((1,), 0.5, np.float32),
    }
    head_in = (
        TensorSpec("features", "float32", (1, width)),
        TensorSpec("noise", "float32", (-1, length, joints)),
    )
    head_out = (
        TensorSpec("chunks", "float32", (-1, length, joints)),
        TensorSpec("values", "float32", (-1,)),
        TensorSpec("choice", "int64", (1,)),
    )
    trunk_in = (TensorSpec("state", "float32", (-1, joints)),)
    trunk_out = (TensorSpec("features", "float32", (-1, width)),)
    held = read_header(safetensors_bytes(weights))
    graphs = {"trunk": _trunk(width, joints, held), "head": _head(width, length, joints, held)}
    golden = {
        "trunk": [_case(graphs["trunk"], weights, "trunk", {"state": _normal(rng, 1, joints)})],
        "head": [
            _case(graphs["head"], weights, "head", head_inputs(rng, width, length, joints))
            for _ in range(4)
        ],
    }
    refinable = tuple(
        TensorSpec(name, str(weights[name].dtype), weights[name].shape)
        for name in ("head/mix", "head/bias", "head/scale")
    )
    manifest = PackageManifest(
        format_version=1,
        model="policy",
        architecture="tiny",
        observation=msgspec.structs.replace(
            OBSERVATION, state_names=action.names, state_units=action.units
        ),
        action=action,
        graphs=(
            GraphSpec("trunk", "", "", trunk_in, trunk_out),
            GraphSpec("head", "", "", head_in, head_out),
        ),
        weights_file="",
        weights_sha256="",
        golden_file="",
        golden_sha256="",
        refinable=refinable,
        image_width=32,
        image_height=24,
        cameras=("front",),
        vocabulary=("open", "drawer"),
        instruction_length=4,
        opset=17,
        exporter="tests",
        provenance=Provenance("tests", seed, "none", "Apache-2.0", 0.0, {}),
        chunk=ChunkSpec(length, 10.0, SAMPLES),
    )
    return write_package(folder, manifest, graphs, weights, golden)


@cache
def own_id() -> str:
    """Of the package that `make_package` writes."""
    with tempfile.TemporaryDirectory() as folder:
        return make_package(Path(folder) / "policy").package_id


def golden_of(package: Package, weights: dict[str, np.ndarray]) -> dict[str, list[GoldenCase]]:
    """The package's golden inputs with what its graphs answer with these weights: a robot refuses others."""
    return {
        name: [_case(graph, weights, name, case.inputs) for case in package.golden[name]]
        for name, graph in package.graphs.items()
    }


def head_inputs(
    rng: np.random.Generator, width: int = FEATURES, length: int = LENGTH, joints: int = 6
) -> dict[str, np.ndarray]:
    return {"features": _normal(rng, 1, width), "noise": _normal(rng, SAMPLES, length, joints)}


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _trunk(width: int, joints: int, held: Held) -> bytes:
    nodes = [
        helper.make_node("ReduceMean", ["state"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("MatMul", ["mean", "wide"], ["features"]),
    ]
    inputs = [helper.make_tensor_value_info("state", TensorProto.FLOAT, ["B", joints])]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", width])]
    return _model("trunk", nodes, inputs, outputs, ("wide",), held)


def _head(width: int, length: int, joints: int, held: Held) -> bytes:
    nodes = [
        helper.make_node("MatMul", ["features", "mix"], ["mixed"]),
        helper.make_node("Add", ["mixed", "bias"], ["centre"]),
        helper.make_node("Mul", ["noise", "scale"], ["spread"]),
        helper.make_node("Add", ["spread", "centre"], ["chunks"]),
        helper.make_node("ReduceMean", ["chunks"], ["values"], axes=[1, 2], keepdims=0),
        helper.make_node(
            "Constant", [], ["choice"], value=helper.make_tensor("c", TensorProto.INT64, [1], [0])
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, [1, width]),
        helper.make_tensor_value_info("noise", TensorProto.FLOAT, ["N", length, joints]),
    ]
    outputs = [
        helper.make_tensor_value_info("chunks", TensorProto.FLOAT, ["N", length, joints]),
        helper.make_tensor_value_info("values", TensorProto.FLOAT, ["N"]),
        helper.make_tensor_value_info("choice", TensorProto.INT64, [1]),
    ]
    return _model("head", nodes, inputs, outputs, ("mix", "bias", "scale"), held)


def _model(
    name: str,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    weights: tuple[str, ...],
    held: Held,
) -> bytes:
    initializers = []
    for weight in weights:
        spec, begin, end = held[f"{name}/{weight}"]
        tensor = TensorProto(name=weight, data_type=TensorProto.FLOAT, dims=spec.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            *(("location", "weights.safetensors"), ("offset", begin)),
            ("length", end - begin),
        ):
            tensor.external_data.add(key=key, value=str(value))
        initializers.append(tensor)
    graph = helper.make_graph(nodes, name, inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


def _case(
    model: bytes, weights: dict[str, np.ndarray], graph: str, inputs: dict[str, np.ndarray]
) -> GoldenCase:
    names = [name for name in weights if name.startswith(f"{graph}/")]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    values = [ort.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
    options.add_external_initializers([name.partition("/")[2] for name in names], values)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    outputs = [output.name for output in session.get_outputs()]
    return GoldenCase(inputs, dict(zip(outputs, session.run(outputs, inputs), strict=True)))
