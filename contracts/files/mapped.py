"""Weights of large packages, mapped instead of read: memory holds them once, and only what of them is used.

Owns the reading of a safetensors file's header. Arrays are views of the file and can't be written. What is
replaced by a rename stays whole for whoever mapped it; a file that is written in place does not.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import PackageError

MAX_HEADER_BYTES = 64 * 1024 * 1024
_TYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "|u1", "BOOL": "|b1",
}  # fmt: skip
_BLOCK = 1 << 24
MAX_VALUES = 1 << 48


class _Entry(msgspec.Struct, forbid_unknown_fields=True):
    dtype: str
    shape: tuple[int, ...]
    data_offsets: tuple[int, int]


def map_safetensors(path: Path, sha256: str) -> dict[str, np.ndarray]:
    """Read-only tensors by name, the whole file hashed first. Raises `PackageError` for another hash, or a
    header that is not of numpy's types or does not fit the file."""
    try:
        with path.open("rb") as file:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # gone, or empty
        raise _wrong(path, str(error)) from error
    found = _sha256(data)
    if found != sha256:
        raise PackageError(
            f"{path} is truncated or corrupt",
            expected=f"sha256 {sha256[:16]}…",
            found=f"{found[:16]}… over {len(data)} bytes",
            remedy="copy or export the package again",
        )
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > min(MAX_HEADER_BYTES, len(data) - 8):
        raise _wrong(path, f"a header of {length} bytes")
    try:
        header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, msgspec.Raw])
        header.pop("__metadata__", None)
        entries = {name: msgspec.json.decode(raw, type=_Entry) for name, raw in header.items()}
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _wrong(path, str(error)) from error
    return {name: _view(path, data, 8 + length, name, entry) for name, entry in entries.items()}


def require_unchanged(path: Path, sha256: str) -> None:
    """Raise `PackageError` unless the file still has this hash: for who had another library read it."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = _sha256(data)
    except (OSError, ValueError) as error:  # gone, or empty
        found = str(error)
    if found != sha256:
        raise PackageError(
            f"{path} changed while it was read",
            expected=f"sha256 {sha256[:16]}…",
            found=found[:16],
            remedy="let nothing write to a package in use, and try again",
        )


def _sha256(data: mmap.mmap) -> str:
    digest = hashlib.sha256()
    for begin in range(0, len(data), _BLOCK):
        digest.update(data[begin : begin + _BLOCK])
    return digest.hexdigest()


def _view(path: Path, data: mmap.mmap, start: int, name: str, entry: _Entry) -> np.ndarray:
    begin, end = entry.data_offsets
    sides = math.prod(
        max(1, side) for side in entry.shape
    )  # an empty tensor's other sides count, too
    if entry.dtype not in _TYPES or min(entry.shape, default=0) < 0 or sides > MAX_VALUES:
        raise _wrong(path, f"'{name}' of {entry.dtype}{list(entry.shape)}")
    dtype = np.dtype(_TYPES[entry.dtype])
    count = math.prod(entry.shape)
    if not 0 <= begin <= end <= len(data) - start or end - begin != count * dtype.itemsize:
        raise _wrong(path, f"'{name}' at {begin} to {end}")
    found = np.frombuffer(data, dtype, count, start + begin) if count else np.empty(0, dtype)
    return found.reshape(entry.shape)


def _wrong(path: Path, found: str) -> PackageError:
    return PackageError(
        f"{path} is not a safetensors file of numpy's types",
        found=found,
        remedy="copy or export the package again",
    )
