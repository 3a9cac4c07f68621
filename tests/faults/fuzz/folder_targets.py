"""Folders that are read whole: data sets, model packages, keys. One file of them is changed at a time.

An input is the number of a file in the sorted list of the folder's files (u8), and that file's new content.
"""

from __future__ import annotations

import functools
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import DEPTH16, VIDEO, Feature
from contracts.files.dataset_reader import DatasetReader
from contracts.files.golden_vectors import GoldenCase
from contracts.files.packages import MANIFEST_FILE, load_package, write_package
from contracts.package import ChunkSpec, GraphSpec, PackageManifest, Provenance, TensorSpec
from contracts.specs import CameraSpec, ObservationSpec
from tests.faults.fuzz.mutation import Mutator, Rng, mutate_bytes, mutate_tree, of_tree
from tests.faults.fuzz.release_targets import mutate_safetensors
from tests.faults.fuzz.target import Feed, Target, memory_folder
from tests.faults.fuzz.wire_targets import each

JSON = of_tree(msgspec.json.decode, msgspec.json.encode)


@functools.cache
def _made(make: Callable[[Path], None]) -> dict[str, bytes]:
    """Every file of the folder that `make` makes, by relative path, sorted."""
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        make(Path(folder))
        files = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def _seeds(make: Callable[[Path], None]) -> list[bytes]:
    return [bytes([number]) + data for number, data in enumerate(_made(make).values())]


def _mutator(make: Callable[[Path], None], by_suffix: dict[str, Mutator]) -> Mutator:
    def mutate(rng: Rng, data: bytes) -> bytes:
        names = list(_made(make))
        name = names[data[0] % len(names)] if data else names[0]
        return data[:1] + by_suffix.get(Path(name).suffix, mutate_bytes)(rng, data[1:])

    return mutate


def _opening(
    make: Callable[[Path], None], use: Callable[[Path, str], None]
) -> Callable[[Path], AbstractContextManager[Feed]]:
    @contextmanager
    def opened(folder: Path) -> Iterator[Feed]:
        files = _made(make)
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

        def feed(data: bytes) -> None:
            name = list(files)[data[0] % len(files)] if data else next(iter(files))
            (folder / name).write_bytes(data[1:])
            try:
                use(folder, name)
            finally:
                (folder / name).write_bytes(files[name])

        yield feed

    return opened


# Data sets.


def _make_dataset(root: Path) -> None:
    features = {
        "observation.state": Feature("float32", (2,), ("a", "b")),
        "action": Feature("float32", (2,)),
        "grid": Feature("float32", (2, 3)),
        "observation.images.front": Feature(VIDEO, (16, 16, 3)),
        "observation.depth.front": Feature(DEPTH16, (16, 16)),
    }
    columns = {
        "observation.state": np.zeros((4, 2), np.float32),
        "action": np.ones((4, 2), np.float32),
        "grid": np.zeros((4, 2, 3), np.float32),
    }
    with DatasetWriter.create(root, 10, features, "arm", {"note": 1}) as writer:
        for index in range(2):
            writer.add_episode(
                columns,
                {"observation.images.front": np.full((4, 16, 16, 3), 90 + index, np.uint8)},
                {"observation.depth.front": np.full((4, 16, 16), 700, np.uint16)},
                task=f"open drawer {index}",
                extra={"key": ["bench-0", "s-1", index]},
            )


def _use_dataset(root: Path, _name: str) -> None:
    reader = DatasetReader(root)
    each(lambda: reader.stats, lambda: reader.tasks, *_reads(reader))


def _reads(reader: DatasetReader) -> Iterator[Callable[[], Any]]:
    for episode in range(min(reader.num_episodes, 2)):
        yield lambda e=episode: (reader.length(e), reader.meta(e))
        yield lambda e=episode: reader.episode(e)
        yield lambda e=episode: reader.frames(e, "observation.images.front", [0, -1])
        yield lambda e=episode: reader.depth(e, "observation.depth.front", [0, -1])


def _mutate_parquet(rng: Rng, data: bytes) -> bytes:
    """The table's columns and values, written as a sound file; or bytes anywhere."""
    if rng.random() < 0.6:
        try:
            table = pq.read_table(pa.BufferReader(data), use_threads=False)
            sink = pa.BufferOutputStream()
            pq.write_table(pa.table(mutate_tree(rng, table.to_pydict())), sink)
            return bytes(sink.getvalue())
        except (
            pa.ArrowException,
            OSError,
            ValueError,
            TypeError,
            AttributeError,
            OverflowError,
            RecursionError,
        ):
            pass
    return mutate_bytes(rng, data)


# Packages.


def _make_package(root: Path) -> None:
    wide, spread = TensorSpec("x", "float32", (-1, 2)), TensorSpec("y", "float32", (-1, 2))
    manifest = PackageManifest(
        format_version=1, model="policy", architecture="tiny",
        observation=ObservationSpec((CameraSpec("front", 32, 24, 10.0),), ("a",), ("deg",)), action=None,
        graphs=(GraphSpec("head", "", "", (wide,), (spread,)),), weights_file="", weights_sha256="",
        golden_file="", golden_sha256="", refinable=(TensorSpec("head/w", "float32", (2,)),),
        image_width=32, image_height=24, cameras=("front",), vocabulary=("open",), instruction_length=1,
        opset=17, exporter="t", provenance=Provenance("t", 0, "none", "none", 0.0, {}),
        chunk=ChunkSpec(4, 10.0, 3),
    )  # fmt: skip
    value = np.ones((1, 2), np.float32)
    cases = [GoldenCase({"x": value}, {"y": value})]
    write_package(root / "p", manifest, {"head": b"graph"}, {"head/w": value[0]}, {"head": cases})


def _use_package(root: Path, name: str) -> None:
    """As it is; and with its hash put right in the manifest, as one who makes packages could."""
    folder, text = root / "p", (root / "p" / MANIFEST_FILE).read_bytes()

    def rehashed() -> None:
        tree = json.loads(text)
        digest = hashlib.sha256((root / name).read_bytes()).hexdigest()
        for part in (tree, *tree["graphs"]):
            for key in ("weights", "golden", ""):
                file = f"{key}_file" if key else "file"
                if part.get(file) == Path(name).name:
                    part[f"{key}_sha256" if key else "sha256"] = digest
        (folder / MANIFEST_FILE).write_text(json.dumps(tree))
        try:
            load_package(folder)
        finally:
            (folder / MANIFEST_FILE).write_bytes(text)

    each(
        lambda: load_package(folder), rehashed if Path(name).name != MANIFEST_FILE else lambda: None
    )


def targets() -> list[Target]:
    dataset = _mutator(_make_dataset, {".json": JSON, ".parquet": _mutate_parquet})
    package = _mutator(_make_package, {".json": JSON, ".safetensors": mutate_safetensors})
    return [
        Target(
            "data set", lambda: _seeds(_make_dataset), dataset,
            _opening(_make_dataset, _use_dataset), 0.15, 512,
        ),
        Target(
            "package", lambda: _seeds(_make_package), package,
            _opening(_make_package, _use_package), 2, 512,
        ),
    ]  # fmt: skip
