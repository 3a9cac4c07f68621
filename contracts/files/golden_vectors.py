"""The golden vectors of a package: recorded inputs of its graphs and what they must answer, in one archive
of arrays. Knows neither the rest of a package nor its hashes. Never unpickles.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from contracts.errors import PackageError
from contracts.package import GraphSpec, PackageManifest, TensorSpec

MAX_BYTES = 256 * 1024 * 1024
_NO_ARCHIVE = (
    *(zipfile.BadZipFile, zlib.error, ValueError, EOFError, OSError),
    RuntimeError,  # an encrypted member; RecursionError and NotImplementedError are of this kind, too
)
_REMEDY = "copy or export the package again"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GoldenCase:
    """One recorded input of a graph and what it must answer."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


def to_bytes(golden: Mapping[str, Sequence[GoldenCase]]) -> bytes:
    """The archive; the same cases always give the same bytes."""
    arrays: dict[str, np.ndarray] = {}
    for graph, cases in golden.items():
        for side, values in (
            ("in", [case.inputs for case in cases]),
            ("out", [case.outputs for case in cases]),
        ):
            for name in values[0] if values else ():
                arrays[f"{graph}/{side}/{name}"] = np.stack([value[name] for value in values])
    file = io.BytesIO()
    # Not np.savez: it stamps no time, but compresses with zlib defaults that differ between builds.
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for key in sorted(arrays):
            member = io.BytesIO()
            np.save(member, np.ascontiguousarray(arrays[key]), allow_pickle=False)
            entry = zipfile.ZipInfo(f"{key}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, member.getvalue())
    return file.getvalue()


def read(path: Path, data: bytes, manifest: PackageManifest) -> dict[str, tuple[GoldenCase, ...]]:
    """The cases of every graph, which must fit `manifest`. Errors name `path`. Raises `PackageError`."""
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise PackageError(f"{path} unpacks to more than {MAX_BYTES} bytes")
            for entry in archive.infolist():
                key = entry.filename.removesuffix(".npy")
                arrays[key] = _array(archive.read(entry))
    except _NO_ARCHIVE as error:
        raise PackageError(
            f"{path} is not an archive of arrays", found=str(error), remedy=_REMEDY
        ) from error
    return {graph.name: _cases(path, graph, arrays) for graph in manifest.graphs}


def _array(data: bytes) -> np.ndarray:
    """An .npy file's array. Raises `ValueError` where its header says more than there is: numpy takes the
    memory first."""
    member = io.BytesIO(data)
    version = np.lib.format.read_magic(member)  # type: ignore[no-untyped-call]
    if version != (1, 0):
        raise ValueError(f".npy of version {version}")
    header = np.lib.format.read_array_header_1_0(member)  # type: ignore[no-untyped-call]
    shape, _, dtype = header
    if dtype.hasobject or math.prod(shape) * dtype.itemsize != len(data) - member.tell():
        raise ValueError(f".npy of {len(data)} bytes that is not {dtype}{list(shape)}")
    return np.asarray(np.load(io.BytesIO(data), allow_pickle=False))


def _cases(path: Path, graph: GraphSpec, arrays: Arrays) -> tuple[GoldenCase, ...]:
    sides: dict[str, dict[str, np.ndarray]] = {}
    counts: set[int] = set()
    for side, specs in (("in", graph.inputs), ("out", graph.outputs)):
        found: dict[str, np.ndarray] = {}
        for spec in specs:
            key = f"{graph.name}/{side}/{spec.name}"
            array = arrays.get(key)
            if array is None:
                raise PackageError(f"{path}: golden vector '{key}' is missing", remedy=_REMEDY)
            if array.dtype != spec.dtype or not _fits(array.shape[1:], spec):
                raise PackageError(
                    f"{path}: golden vector '{key}'",
                    expected=f"{spec.dtype}{list(spec.shape)}",
                    found=f"{array.dtype}{list(array.shape[1:])}",
                )
            found[spec.name] = array
            counts.add(len(array))
        sides[side] = found
    if len(counts) != 1 or counts == {0}:
        raise PackageError(
            f"{path}: golden vectors of graph '{graph.name}'",
            expected="at least one case, as many inputs as outputs",
            found=sorted(counts),
        )
    return tuple(
        GoldenCase(
            {name: array[i] for name, array in sides["in"].items()},
            {name: array[i] for name, array in sides["out"].items()},
        )
        for i in range(counts.pop())
    )


def _fits(shape: tuple[int, ...], spec: TensorSpec) -> bool:
    return len(shape) == len(spec.shape) and all(
        wanted in (-1, size) for size, wanted in zip(shape, spec.shape, strict=True)
    )
