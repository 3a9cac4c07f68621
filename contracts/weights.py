"""Safetensors from outside: the header is checked to the last byte before a tensor is looked at. Pure.

safetensors' own reader checks layout but neither values, nor names, nor which dtypes numpy has; a
release comes over the network, so what it may hold is decided here.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

from contracts.errors import ReleaseRejected
from contracts.package import TensorSpec

MAX_HEADER_BYTES = 4 * 1024 * 1024
MAX_TENSORS = 16_384
MAX_RANK = 8
MAX_NAME = 512
MAX_VALUES = 1 << 40
DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "U8": "uint8",
    "BOOL": "bool",
}


class _Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def read_header(data: bytes | memoryview) -> dict[str, tuple[TensorSpec, int, int]]:
    """{name: (spec, begin, end)}, offsets into `data`; every byte after the header belongs to exactly
    one tensor. Raises `ReleaseRejected("weights")`."""
    if len(data) < 8:
        raise _bad("too short for a header", found=f"{len(data)} bytes")
    length = int.from_bytes(bytes(data[:8]), "little")
    if length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _bad(
            "header length", expected=f"<= {min(MAX_HEADER_BYTES, len(data) - 8)}", found=length
        )
    try:
        header: dict[str, Any] = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any])
        header.pop("__metadata__", None)
        entries = msgspec.convert(header, dict[str, _Entry])
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise _bad("header", found=str(error)) from error
    if len(entries) > MAX_TENSORS:
        raise _bad("tensors", expected=f"<= {MAX_TENSORS}", found=len(entries))
    start = 8 + length
    at = 0
    found: dict[str, tuple[TensorSpec, int, int]] = {}
    for name, entry in sorted(entries.items(), key=lambda item: item[1].data_offsets):
        spec = _spec(name, entry)
        begin, end = entry.data_offsets
        size = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
        if begin != at or end != begin + size:
            raise _bad(
                f"bytes of '{name[:80]}'",
                expected=f"{at} to {at + size}",
                found=f"{begin} to {end}",
            )
        at = end
        found[name] = (spec, start + begin, start + end)
    if start + at != len(data):
        raise _bad("size", expected=f"{start + at} bytes", found=f"{len(data)} bytes")
    return found


def read_tensors(data: bytes | memoryview) -> dict[str, np.ndarray]:
    """Read-only views of all tensors by name. Raises `ReleaseRejected("weights")`."""
    view = memoryview(data).toreadonly()
    return {
        name: np.frombuffer(view[begin:end], dtype=spec.dtype).reshape(spec.shape)
        for name, (spec, begin, end) in read_header(data).items()
    }


def _spec(name: str, entry: _Entry) -> TensorSpec:
    dtype = DTYPES.get(entry.dtype)
    if dtype is None:
        raise _bad(f"dtype of '{name[:80]}'", expected=sorted(DTYPES), found=repr(entry.dtype[:20]))
    sides = math.prod(
        max(1, side) for side in entry.shape
    )  # an empty tensor's other sides count, too
    if len(entry.shape) > MAX_RANK or min(entry.shape, default=0) < 0 or sides > MAX_VALUES:
        raise _bad(f"shape of '{name[:80]}'", found=entry.shape[:MAX_RANK])
    if not 0 < len(name) <= MAX_NAME:
        raise _bad("tensor name", expected=f"1 to {MAX_NAME} characters", found=len(name))
    return TensorSpec(name, dtype, entry.shape)


def _bad(what: str, expected: object = None, found: object = None) -> ReleaseRejected:
    return ReleaseRejected(
        "weights", f"weights file is not sound: {what}", expected=expected, found=found
    )
