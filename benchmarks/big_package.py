"""A policy package of any size with random weights, which knows nothing: what a push of a large policy costs.

A head of equal square layers, all of it refinable; its answers stay within the action limits.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import MissingDependency
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import WEIGHTS_FILE, Package, safetensors_bytes, write_package
from contracts.package import ChunkSpec, GraphSpec, PackageManifest, Provenance, TensorSpec
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from contracts.weights import read_header
from runtime.engines.binding import ort_value, require_onnxruntime

WIDTH, FEATURES, LENGTH, CASES = 2048, 64, 16, 8
UNITS = ("deg",) * 5 + ("percent",)
OPSET = 17


def make_big_package(folder: Path, nbytes: int, seed: int = 0) -> Package:
    """Write a package of about `nbytes` of float32 weights at `folder`. Raises `MissingDependency`."""
    rng = np.random.default_rng(seed)
    weights = _weights(nbytes, rng)
    graphs = {"trunk": _trunk(weights), "head": _head(weights)}
    golden = {name: _golden(name, graphs[name], weights, rng) for name in graphs}
    refinable = tuple(
        TensorSpec(name, str(t.dtype), t.shape)
        for name, t in sorted(weights.items())
        if name.startswith("head/")
    )
    limits = ((-100.0,) * 6, (100.0,) * 6, (200.0,) * 6, (2000.0,) * 6)
    manifest = PackageManifest(
        format_version=1,
        model="policy",
        architecture="random",
        observation=ObservationSpec((CameraSpec("front", 32, 24, 10.0),), SO101_JOINTS, UNITS),
        action=ActionSpec(SO101_JOINTS, UNITS, *limits, 10.0),
        graphs=(
            GraphSpec("trunk", "", "", _specs(state=(-1, 6)), _specs(features=(-1, FEATURES))),
            GraphSpec(
                "head",
                "",
                "",
                _specs(features=(1, FEATURES), noise=(-1, LENGTH, 6)),
                _specs(chunks=(-1, LENGTH, 6)),
            ),
        ),
        weights_file="",
        weights_sha256="",
        golden_file="",
        golden_sha256="",
        refinable=refinable,
        image_width=32,
        image_height=24,
        cameras=("front",),
        vocabulary=(),
        instruction_length=0,
        opset=OPSET,
        exporter="benchmarks.big_package",
        provenance=Provenance("", seed, "random numbers", "Apache-2.0", time.time(), {}),
        chunk=ChunkSpec(LENGTH, 10.0, 1),
    )
    return write_package(folder, manifest, graphs, weights, golden)


def _weights(nbytes: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    layers = max(round((nbytes / 4 - WIDTH * (FEATURES + LENGTH * 6)) / WIDTH**2), 1)
    sizes = {"in": (FEATURES, WIDTH), "out": (WIDTH, LENGTH * 6)}
    sizes |= {f"layer{number:02d}": (WIDTH, WIDTH) for number in range(layers)}
    found = {"trunk/wide": rng.standard_normal((6, FEATURES), np.float32)}
    for name, shape in sizes.items():
        scale = np.float32(np.sqrt(2.0 / shape[0]))
        found[f"head/{name}.weight"] = rng.standard_normal(shape, np.float32) * scale
        found[f"head/{name}.bias"] = rng.standard_normal(shape[1], np.float32) * np.float32(0.01)
    return found


def _specs(**shapes: tuple[int, ...]) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name, "float32", shape) for name, shape in shapes.items())


def _trunk(weights: dict[str, np.ndarray]) -> bytes:
    nodes = [("MatMul", ["state", "wide"], ["features"])]
    return _model("trunk", nodes, {"state": ["B", 6]}, {"features": ["B", FEATURES]}, weights)


def _head(weights: dict[str, np.ndarray]) -> bytes:
    """tanh at the end: 5 units about zero and a fifth of the noise, whatever the weights are."""
    names = [n.removesuffix(".weight").removeprefix("head/") for n in weights if "weight" in n]
    layers = ["in", *sorted(name for name in names if name.startswith("layer")), "out"]
    nodes, at = [], "features"
    for name in layers:
        nodes.append(("MatMul", [at, f"{name}.weight"], [f"{name}_times"]))
        nodes.append(("Add", [f"{name}_times", f"{name}.bias"], [f"{name}_plus"]))
        nodes.append(("Tanh" if name == "out" else "Relu", [f"{name}_plus"], [name]))
        at = name
    nodes += [
        ("Reshape", ["out", "shape"], ["centre"]),
        ("Mul", ["centre", "reach"], ["placed"]),
        ("Mul", ["noise", "spread"], ["spreaded"]),
        ("Add", ["spreaded", "placed"], ["chunks"]),
    ]
    constants: dict[str, np.ndarray] = {
        "shape": np.array([1, LENGTH, 6], np.int64),
        "reach": np.array([5.0], np.float32),
        "spread": np.array([0.2], np.float32),
    }
    inputs: dict[str, list[Any]] = {"features": [1, FEATURES], "noise": ["N", LENGTH, 6]}
    return _model("head", nodes, inputs, {"chunks": ["N", LENGTH, 6]}, weights, constants)


def _model(
    name: str,
    nodes: Sequence[tuple[str, list[str], list[str]]],
    inputs: dict[str, list[Any]],
    outputs: dict[str, list[Any]],
    weights: dict[str, np.ndarray],
    constants: dict[str, np.ndarray] | None = None,
) -> bytes:
    """A graph whose weights lie in the package's weights file, as the exporter writes them."""
    onnx = require_onnx()
    held = read_header(safetensors_bytes(weights))
    initializers = [onnx.numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    for full, (spec, begin, end) in held.items():
        if not full.startswith(f"{name}/"):
            continue
        tensor = onnx.TensorProto(name=full.partition("/")[2], data_type=1, dims=spec.shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", WEIGHTS_FILE), ("offset", begin), ("length", end - begin)):
            tensor.external_data.add(key=key, value=str(value))
        initializers.append(tensor)
    helper = onnx.helper
    graph = helper.make_graph(
        [helper.make_node(kind, taken, given) for kind, taken, given in nodes],
        name,
        [helper.make_tensor_value_info(n, 1, shape) for n, shape in inputs.items()],
        [helper.make_tensor_value_info(n, 1, shape) for n, shape in outputs.items()],
        initializers,
    )
    opset = [helper.make_opsetid("", OPSET)]
    return bytes(helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString())


def _golden(
    name: str, graph: bytes, weights: dict[str, np.ndarray], rng: np.random.Generator
) -> list[GoldenCase]:
    inputs: dict[str, tuple[int, ...]] = {"state": (1, 6)}
    if name == "head":
        inputs = {"features": (1, FEATURES), "noise": (1, LENGTH, 6)}
    ort = require_onnxruntime()
    options = ort.SessionOptions()
    own = {n.partition("/")[2]: t for n, t in weights.items() if n.startswith(f"{name}/")}
    values = [ort_value(tensor, "cpu") for tensor in own.values()]
    options.add_external_initializers([*own], values)
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    cases = []
    for _ in range(CASES):
        given = {n: rng.standard_normal(shape, np.float32) for n, shape in inputs.items()}
        answers = session.run(None, given)
        outputs = [output.name for output in session.get_outputs()]
        cases.append(GoldenCase(given, dict(zip(outputs, answers, strict=True))))
    return cases


def full_onnx(package: Package, graph: str, path: Path) -> int:
    """`graph` with its weights in the file, as a trainer without packages would send it; returns its size."""
    onnx = require_onnx()
    model = onnx.load_from_string(package.graphs[graph])
    own = package.graph_weights(graph)
    for tensor in model.graph.initializer:
        if tensor.name in own:
            tensor.CopyFrom(onnx.numpy_helper.from_array(own[tensor.name], tensor.name))
    path.write_bytes(model.SerializeToString())
    return path.stat().st_size


def require_onnx() -> Any:
    """The onnx module. Raises `MissingDependency`."""
    try:
        import onnx
    except ImportError as error:
        raise MissingDependency(
            "whole ONNX files are written with onnx", remedy="pip install entracte[export]"
        ) from error
    return onnx
