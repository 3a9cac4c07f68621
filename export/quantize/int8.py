"""A trunk in INT8 as explicit Q/DQ by onnxruntime.quantization: nothing is decided at run time.

Weights int8 with a scale per output channel; activations int8, symmetric, quantised where a layer takes them
in (not where it gives them out: a ReLU would waste half of the range, and TensorRT fuses it before the next
layer's Q). Biases stay float32: TensorRT takes no int32 ones. All of it is what TensorRT 10.3 to 11 parse.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Collection, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from calibration.quantization.card import Part
from contracts.errors import MissingDependency, PackageError
from export.quantize.graphs import Transformed, layers, parted

METHODS = ("minmax", "percentile", "entropy")
PERCENTILE = 99.99
OPS = ("Conv", "ConvTranspose", "Gemm")
"""What is quantised. MatMuls of these nets are attentions: products of activations, and cell coordinates."""
STRIDE = 32
"""Samples whose activations are held at once while histograms are collected."""
INT8_MAX = 127


def candidates(model: onnx.ModelProto) -> list[str]:
    """Layers that INT8 is for, in the graph's order."""
    ops = {node.name: node.op_type for node in model.graph.node}
    return [name for name in layers(model) if ops[name] in OPS]


def measure_ranges(model: onnx.ModelProto, part: Part, method: str) -> Any:
    """Ranges of every activation of `OPS` over the samples of `part` (onnxruntime's `TensorsData`)."""
    calibrate = _import("onnxruntime.quantization.calibrate")
    methods = {
        "minmax": calibrate.CalibrationMethod.MinMax,
        "percentile": calibrate.CalibrationMethod.Percentile,
        "entropy": calibrate.CalibrationMethod.Entropy,
    }
    if method not in methods:
        raise PackageError("calibration method", expected=list(METHODS), found=method)
    options: dict[str, Any] = {"symmetric": True}
    if method == "percentile":
        options["percentile"] = PERCENTILE
    inputs = [value.name for value in model.graph.input]
    with tempfile.TemporaryDirectory() as folder, _quietly():
        path = Path(folder) / "trunk.onnx"
        onnx.save(model, path)
        collector = calibrate.create_calibrator(
            path,
            list(OPS),
            augmented_model_path=str(Path(folder) / "watched.onnx"),
            calibrate_method=methods[method],
            extra_options=options,
        )
        for begin in range(0, len(part), STRIDE):
            collector.collect_data(_Reader(part, inputs, begin))
        return collector.compute_data()


def to_int8(model: onnx.ModelProto, ranges: Any, only: Collection[str]) -> Transformed:
    """`model` (weights inside) with the layers `only` in INT8. Raises `PackageError` for other layers."""
    foreign = sorted(set(only) - set(candidates(model)))
    if foreign:
        raise PackageError("layers that can't be quantised", found=foreign[:8])
    if not only:  # the quantiser takes an empty list for all
        return parted(copy.deepcopy(model), "int8", {})
    quantizer = _import("onnxruntime.quantization.qdq_quantizer").QDQQuantizer
    kind = _import("onnxruntime.quantization").QuantType.QInt8
    with _quietly():
        work = quantizer(
            copy.deepcopy(model),
            True,  # a scale per channel
            False,  # the whole range
            kind,
            kind,
            ranges,
            sorted(only),
            [],
            list(OPS),
            {
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "DedicatedQDQPair": True,
                "OpTypesToExcludeOutputQuantization": list(OPS),
            },
        )
        work.quantize_model()
        work.model.topological_sort()
    quantised = work.model.model
    quantised.ir_version = model.ir_version
    quantised.producer_name, quantised.producer_version = "entracte", ""
    del quantised.graph.value_info[:]
    onnx.checker.check_model(quantised)
    return parted(quantised, "int8", _channel_axes(quantised))


def _channel_axes(model: onnx.ModelProto) -> dict[str, int]:
    """Of each int8 weight the axis of its scales."""
    weights = {i.name: i for i in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in weights:
            axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
            found[node.input[0]] = int(axis)
    return found


class _Reader:
    """What a calibrator reads: samples of a part from `begin`, at most `STRIDE`."""

    def __init__(self, part: Part, inputs: list[str], begin: int) -> None:
        self._part, self._inputs = part, inputs
        self._waiting = iter(range(begin, min(begin + STRIDE, len(part))))

    def get_next(self) -> dict[str, np.ndarray] | None:
        index = next(self._waiting, None)
        if index is None:
            return None
        sample = self._part.sample(index)
        return {name: sample[name] for name in self._inputs}


def _import(name: str) -> Any:
    from importlib import import_module

    try:
        return import_module(name)
    except ImportError as error:
        raise MissingDependency(
            "INT8 needs onnxruntime.quantization", remedy="pip install 'entracte[export]'"
        ) from error


@contextmanager
def _quietly() -> Iterator[None]:
    """Without the calibrators' prints and the advice to run a graph optimiser, which renames weights."""
    logger = logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logger.setLevel(level)
