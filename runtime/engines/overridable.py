"""Initializers of an ONNX graph made overridable: weights that are fed with each run, by their own names.

Owns a few bytes of protobuf. Nothing is parsed: a serialised message appended to another merges with it
(protobuf's encoding guide, "Last One Wins"; repeated fields are joined), and an initializer that is named
among the graph's inputs may be overridden by the caller (ONNX IR, "Graphs", IR version 4).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from contracts.errors import PackageError

# Field numbers and element types of onnx.proto (ModelProto, GraphProto, ValueInfoProto, TypeProto).
_MODEL_GRAPH = 7
_GRAPH_INPUT = 11
_NAME, _TYPE = 1, 2
_TENSOR_TYPE = 1
_ELEMENT, _SHAPE = 1, 2
_DIMENSION, _SIZE = 1, 1
_ELEMENT_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "float64": 11,
}


def with_overridable(model: bytes, tensors: Mapping[str, np.ndarray]) -> bytes:
    """`model` with these initializers (name: a tensor of their dtype and shape) named among its inputs.

    Raises `PackageError` for a dtype that numpy and ONNX do not share.
    """
    inputs = b"".join(
        _message(_GRAPH_INPUT, _value_info(name, tensor)) for name, tensor in tensors.items()
    )
    return model + _message(_MODEL_GRAPH, inputs)


def _value_info(name: str, tensor: np.ndarray) -> bytes:
    element = _ELEMENT_TYPES.get(str(tensor.dtype))
    if element is None:
        raise PackageError(
            f"tensor '{name}' can't be fed to a graph",
            expected=sorted(_ELEMENT_TYPES),
            found=str(tensor.dtype),
        )
    shape = b"".join(_message(_DIMENSION, _number(_SIZE, side)) for side in tensor.shape)
    kind = _message(_TENSOR_TYPE, _number(_ELEMENT, element) + _message(_SHAPE, shape))
    return _message(_NAME, name.encode()) + _message(_TYPE, kind)


def _message(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
