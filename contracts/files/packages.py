"""Model packages on disk: written whole or not at all, and checked to the last byte when loaded.

Knows files, hashes and shapes; knows neither ONNX nor any engine. Never unpickles.
"""

from __future__ import annotations

import hashlib
import io
import secrets
import shutil
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from contracts.errors import PackageError
from contracts.files import atomic, mapped
from contracts.package import (
    FORMAT_VERSION,
    GraphSpec,
    PackageManifest,
    TensorSpec,
    check_tensors,
    package_id,
)

MANIFEST_FILE = "manifest.json"
WEIGHTS_FILE = "weights.safetensors"
GOLDEN_FILE = "golden.npz"
MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_GRAPH_BYTES = 256 * 1024 * 1024
MAX_WEIGHTS_BYTES = 32 * 1024 * 1024 * 1024
"""Eight thousand million parameters in float32: the largest reward model there is (RoboReward-8B)."""
MAX_READ_BYTES = 1024 * 1024 * 1024
"""Weights up to here are read into memory at once, so that nothing can change them after their check. Larger
ones (vision-language models) would not fit a Jetson twice and are mapped (`contracts.files.mapped`)."""
MAX_GOLDEN_BYTES = 256 * 1024 * 1024
_REMEDY = "copy or export the package again"

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class GoldenCase:
    """One recorded input of a graph and what it must answer."""

    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]


@dataclass(frozen=True)
class Package:
    """A checked package in memory. `graphs` holds the .onnx bytes by graph name, `weights` every
    tensor as "<graph>/<tensor>", `golden` the cases of each graph."""

    folder: Path
    manifest: PackageManifest
    package_id: str
    graphs: dict[str, bytes]
    weights: dict[str, np.ndarray]
    golden: dict[str, tuple[GoldenCase, ...]]

    def graph_weights(self, graph: str) -> dict[str, np.ndarray]:
        """The initializers of one graph, by the graph's own names."""
        prefix = f"{graph}/"
        return {
            name[len(prefix) :]: tensor
            for name, tensor in self.weights.items()
            if name.startswith(prefix)
        }

    def refinable_weights(self) -> dict[str, np.ndarray]:
        """The package's own values of what a release may replace, "<graph>/<tensor>"."""
        return {spec.name: self.weights[spec.name] for spec in self.manifest.refinable}


def write_package(
    folder: Path,
    manifest: PackageManifest,
    graphs: Mapping[str, bytes],
    weights: Arrays,
    golden: Mapping[str, Sequence[GoldenCase]],
    check: Callable[[Package], None] = lambda written: None,
) -> Package:
    """Write a package and return it as `load_package` reads it; an old one at `folder` is replaced.

    File names and hashes of `manifest` are filled in here; the rest must be right already. Raises
    `PackageError` (and leaves the old package) when what was written does not load, and whatever `check`
    raises about it before it takes its place.
    """
    weights_data = safetensors_bytes(weights)
    golden_data = _golden_bytes(golden)
    manifest = msgspec.structs.replace(
        manifest,
        format_version=FORMAT_VERSION,
        graphs=tuple(
            msgspec.structs.replace(
                spec, file=f"{spec.name}.onnx", sha256=_sha256(graphs[spec.name])
            )
            for spec in manifest.graphs
        ),
        weights_file=WEIGHTS_FILE,
        weights_sha256=_sha256(weights_data),
        golden_file=GOLDEN_FILE,
        golden_sha256=_sha256(golden_data),
    )
    atomic.make_directory(folder.parent)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{atomic.TEMPORARY_SUFFIX}")
    temporary.mkdir()
    try:
        for spec in manifest.graphs:
            _write_synced(temporary / spec.file, graphs[spec.name])
        _write_synced(temporary / WEIGHTS_FILE, weights_data)
        _write_synced(temporary / GOLDEN_FILE, golden_data)
        text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
        _write_synced(temporary / MANIFEST_FILE, text + b"\n")
        atomic.sync(temporary)
        check(load_package(temporary))
        if folder.exists():
            old = temporary.with_name(f"{temporary.name}.old{atomic.TEMPORARY_SUFFIX}")
            folder.rename(old)
            temporary.rename(folder)
            shutil.rmtree(old)
        else:
            temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    atomic.sync(folder.parent)
    return load_package(folder)


def read_manifest(folder: Path) -> PackageManifest:
    """The manifest alone, of this format version. Raises `PackageError`."""
    data = _read(folder / MANIFEST_FILE, MAX_MANIFEST_BYTES)
    try:
        manifest = msgspec.json.decode(data, type=PackageManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        version = _format_version(data)
        if version not in (None, FORMAT_VERSION):
            raise _other_version(folder, version) from error
        raise PackageError(
            f"{folder / MANIFEST_FILE} is not a package manifest",
            found=str(error),
            remedy=_REMEDY,
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise _other_version(folder, manifest.format_version)
    names = [graph.name for graph in manifest.graphs]
    if not names or len(set(names)) != len(names):
        raise PackageError(f"{folder}: graph names", expected="distinct, at least one", found=names)
    files = (*(g.file for g in manifest.graphs), manifest.weights_file, manifest.golden_file)
    for file in files:
        if file != Path(file).name or file.startswith("."):
            raise PackageError(
                f"{folder}: manifest names a file elsewhere",
                expected="a plain file name",
                found=repr(file),
            )
    return manifest


def load_package(folder: Path) -> Package:
    """Every file read once, hashed and checked against the manifest. Raises `PackageError`."""
    folder = Path(folder)
    manifest = read_manifest(folder)
    graphs = {
        spec.name: _read_hashed(folder / spec.file, spec.sha256, MAX_GRAPH_BYTES)
        for spec in manifest.graphs
    }
    weights = _read_weights(folder / manifest.weights_file, manifest.weights_sha256)
    _check_weights(folder, manifest, weights)
    golden_path = folder / manifest.golden_file
    golden_data = _read_hashed(golden_path, manifest.golden_sha256, MAX_GOLDEN_BYTES)
    golden = _read_golden(golden_path, golden_data, manifest)
    return Package(folder, manifest, package_id(manifest), graphs, weights, golden)


def safetensors_bytes(tensors: Arrays) -> bytes:
    """Named tensors as a safetensors file; the same tensors always give the same bytes."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    )


def read_safetensors(data: bytes, what: str) -> dict[str, np.ndarray]:
    """Writable tensors by name from a safetensors file. Raises `PackageError` naming `what`."""
    try:
        return {name: np.array(tensor) for name, tensor in safetensors.numpy.load(data).items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PackageError(
            f"{what} is not a safetensors file of numpy's types", found=str(error), remedy=_REMEDY
        ) from error


def _read_weights(path: Path, sha256: str) -> dict[str, np.ndarray]:
    size = path.stat().st_size if path.is_file() else 0
    if size > MAX_WEIGHTS_BYTES:
        raise PackageError(f"{path} is too large", expected=f"<= {MAX_WEIGHTS_BYTES} bytes")
    if size > MAX_READ_BYTES:
        return mapped.map_safetensors(path, sha256)
    return read_safetensors(_read_hashed(path, sha256, MAX_READ_BYTES), str(path))


def _is_finite(tensor: np.ndarray) -> bool:
    """Block by block: a matrix of a gigabyte needs no second one of booleans."""
    flat = tensor.reshape(-1)
    block = 1 << 22
    return all(np.isfinite(flat[at : at + block]).all() for at in range(0, flat.size, block))


def _check_weights(folder: Path, manifest: PackageManifest, weights: Arrays) -> None:
    names = {graph.name for graph in manifest.graphs}
    for name, tensor in weights.items():
        if name.partition("/")[0] not in names:
            raise PackageError(
                f"{folder}: tensor '{name}' belongs to no graph", expected=sorted(names)
            )
        if tensor.dtype.kind == "f" and not _is_finite(tensor):
            raise PackageError(
                f"{folder}: tensor '{name}' holds NaN or infinity",
                remedy="export from sound weights",
            )
    wanted = {spec.name for spec in manifest.refinable}
    held = {name: tensor for name, tensor in weights.items() if name in wanted}
    problems = check_tensors(manifest.refinable, held)
    if problems:
        raise PackageError(
            f"{folder}: refinable tensors: {'; '.join(problems[:5])}", remedy=_REMEDY
        )


def _golden_bytes(golden: Mapping[str, Sequence[GoldenCase]]) -> bytes:
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


def _read_golden(
    path: Path, data: bytes, manifest: PackageManifest
) -> dict[str, tuple[GoldenCase, ...]]:
    arrays: dict[str, np.ndarray] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_GOLDEN_BYTES:
                raise PackageError(f"{path} unpacks to more than {MAX_GOLDEN_BYTES} bytes")
            for entry in archive.infolist():
                member = io.BytesIO(archive.read(entry))
                key = entry.filename.removesuffix(".npy")
                arrays[key] = np.load(member, allow_pickle=False)
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise PackageError(
            f"{path} is not an archive of arrays", found=str(error), remedy=_REMEDY
        ) from error
    return {graph.name: _golden_cases(path, graph, arrays) for graph in manifest.graphs}


def _golden_cases(path: Path, graph: GraphSpec, arrays: Arrays) -> tuple[GoldenCase, ...]:
    sides: dict[str, dict[str, np.ndarray]] = {}
    counts: set[int] = set()
    for side, specs in (("in", graph.inputs), ("out", graph.outputs)):
        found: dict[str, np.ndarray] = {}
        for spec in specs:
            key = f"{graph.name}/{side}/{spec.name}"
            array = arrays.get(key)
            if array is None:
                raise PackageError(f"{path}: golden vector '{key}' is missing", remedy=_REMEDY)
            if str(array.dtype) != spec.dtype or not _fits(array.shape[1:], spec):
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


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return atomic.read_bytes(path, max_bytes)
    except (atomic.FileError, OSError) as error:
        if not path.parent.is_dir():
            raise PackageError(f"no model package at {path.parent}") from error
        raise PackageError(
            f"model package {path.parent} has no readable {path.name}",
            found=str(error),
            remedy=_REMEDY,
        ) from error


def _read_hashed(path: Path, sha256: str, max_bytes: int) -> bytes:
    data = _read(path, max_bytes)
    found = _sha256(data)
    if found != sha256:
        raise PackageError(
            f"{path} is truncated or corrupt",
            expected=f"sha256 {sha256[:16]}…",
            found=f"{found[:16]}… over {len(data)} bytes",
            remedy=_REMEDY,
        )
    return data


def _write_synced(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    atomic.sync(path)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _format_version(data: bytes) -> object:
    try:
        tree = msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return tree.get("format_version") if isinstance(tree, dict) else None


def _other_version(folder: Path, version: object) -> PackageError:
    return PackageError(
        f"package {folder} has another format",
        expected=f"version {FORMAT_VERSION}",
        found=version,
        remedy="export it again with this release of entracte",
    )
