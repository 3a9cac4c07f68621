"""Model packages on disk: written whole or not at all, and checked to the last byte when loaded.

Knows files, hashes and shapes; knows neither ONNX nor any engine. Never unpickles.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import safetensors
import safetensors.numpy

from contracts.errors import ConfigError, PackageError
from contracts.files import atomic, golden_vectors, mapped, outputs
from contracts.files.golden_vectors import GoldenCase
from contracts.package import (
    FORMAT_VERSION,
    PackageManifest,
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
_REMEDY = "copy or export the package again"
_GRAPH_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""Files are named after graphs: here, and of plans in a cache."""
_OLD = f".old{atomic.TEMPORARY_SUFFIX}"
"""Ends the name of a package that another is about to take the place of."""

Arrays = Mapping[str, np.ndarray]


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
    `ConfigError` as `require_place` does, `PackageError` (and leaves the old package) when what was written
    does not load, and whatever `check` raises about it before it takes its place.
    """
    require_place(folder)
    _check_graph_names(folder, manifest)
    weights_data = safetensors_bytes(weights)
    golden_data = golden_vectors.to_bytes(golden)
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
    place = folder.resolve()  # a link stays one
    temporary = atomic.temporary_for(place)
    old = temporary.with_name(f"{temporary.name}{_OLD}")
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
        if place.exists():
            place.rename(old)
            temporary.rename(place)
            shutil.rmtree(old)
        else:
            temporary.rename(place)
    except BaseException:
        if old.exists() and not place.exists():
            old.rename(place)
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    atomic.sync(place.parent)
    return load_package(folder)


def require_place(folder: Path, source: Path | None = None) -> None:
    """A package may be written to `folder`: nothing is there, or an earlier package and no file beside its
    own, and it is not `source`, of which it is made. Commands ask before their work. Raises `ConfigError`."""
    if source is not None and folder.resolve() == source.resolve():
        raise ConfigError(
            f"{folder} is what the package is made from",
            expected="another folder for what is made of it",
            remedy="choose another name",
        )
    outputs.require_folder(folder, "a model package", _is_package)
    outputs.require_room(folder.resolve().parent)


def _is_package(folder: Path) -> bool:
    """Of this format version or another."""
    described = outputs.json_with("format_version", "graphs", "weights_file", "golden_file")
    manifest = folder / MANIFEST_FILE
    return (
        outputs.only(MANIFEST_FILE, "*.onnx", "*.safetensors", "*.npz")(folder)
        and manifest.is_file()
        and described(manifest)
    )


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
    _check_graph_names(folder, manifest)
    files = (*(g.file for g in manifest.graphs), manifest.weights_file, manifest.golden_file)
    for file in files:
        if file != Path(file).name or file.startswith(".") or not file.isprintable():
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
    golden_data = _read_hashed(golden_path, manifest.golden_sha256, golden_vectors.MAX_BYTES)
    golden = golden_vectors.read(golden_path, golden_data, manifest)
    return Package(folder, manifest, package_id(manifest), graphs, weights, golden)


def safetensors_bytes(tensors: Arrays) -> bytes:
    """Named tensors as a safetensors file; the same tensors always give the same bytes."""
    return safetensors.numpy.save(
        {name: np.ascontiguousarray(tensors[name]) for name in sorted(tensors)}
    )


def read_safetensors(data: bytes, what: str, remedy: str = _REMEDY) -> dict[str, np.ndarray]:
    """Writable tensors by name from a safetensors file. Raises `PackageError` naming `what`, and `remedy`
    where it is no part of a package."""
    try:
        return {name: np.array(tensor) for name, tensor in safetensors.numpy.load(data).items()}
    except (safetensors.SafetensorError, KeyError, TypeError, ValueError) as error:
        raise PackageError(
            f"{what} is not a safetensors file of numpy's types", found=str(error), remedy=remedy
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


def _check_graph_names(folder: Path, manifest: PackageManifest) -> None:
    names = [graph.name for graph in manifest.graphs]
    if not names or len(set(names)) != len(names):
        raise PackageError(f"{folder}: graph names", expected="distinct, at least one", found=names)
    for name in names:
        if not _GRAPH_NAME.fullmatch(name):
            raise PackageError(
                f"{folder}: a graph's name",
                expected="at most 64 letters, digits, '_' and '-'",
                found=repr(name[:200]),
            )


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


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        return atomic.read_bytes(path, max_bytes)
    except (atomic.FileError, OSError) as error:
        folder = path.parent
        if path.name == MANIFEST_FILE and not path.exists():
            raise PackageError(
                f"no model package at {folder}",
                expected=f"a folder with {MANIFEST_FILE}",
                found=_inside(folder),
                remedy=_kept(folder) or "name the folder that robot-export wrote",
            ) from error
        raise PackageError(
            f"model package {folder} has no readable {path.name}",
            found=str(error) if path.exists() else "nothing of that name",
            remedy=_REMEDY,
        ) from error


def _inside(folder: Path) -> str:
    """What a user took for a package; the packages within, if there are."""
    within = sorted(path.parent.name for path in folder.glob(f"*/{MANIFEST_FILE}"))
    if within:
        return f"a folder that holds packages: {', '.join(within[:4])}"
    return outputs.described(folder)


def _kept(folder: Path) -> str:
    """How to have back the package that was here when the power was cut before another took its place."""
    place = Path(os.path.realpath(folder))  # `resolve` raises for links in a ring
    found = [path.parent for path in place.parent.glob(f".*{_OLD}/{MANIFEST_FILE}")]
    kept = [path for path in found if path.name.startswith(f".{place.name}.")]
    if place.exists() or not kept:
        return ""
    return f"the power was cut while it was replaced: rename {kept[0]} to {place.name}"


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
