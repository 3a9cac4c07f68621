"""Weights too large to read: the same tensors from a mapping, and every lie of a header refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from tiny_package import make_package

from contracts.errors import PackageError
from contracts.files import packages
from contracts.files.mapped import map_safetensors
from contracts.files.packages import load_package


def test_large_weights_are_mapped_and_equal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = make_package(tmp_path / "package")
    monkeypatch.setattr(packages, "MAX_READ_BYTES", 16)
    found = load_package(tmp_path / "package")
    assert found.package_id == read.package_id
    assert found.weights.keys() == read.weights.keys()
    for name, tensor in found.weights.items():
        assert tensor.dtype == read.weights[name].dtype
        assert np.array_equal(tensor, read.weights[name])
        assert not tensor.flags.owndata and not tensor.flags.writeable
    path = tmp_path / "package" / "weights.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(PackageError, match="truncated or corrupt"):
        load_package(tmp_path / "package")


def test_mapped_tensors_outlive_the_replacement_of_their_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packages, "MAX_READ_BYTES", 16)
    first = make_package(tmp_path / "package", seed=0)
    kept = {name: tensor.copy() for name, tensor in first.weights.items()}
    other = make_package(tmp_path / "package", seed=1)
    assert not np.array_equal(other.weights["head/mix"], kept["head/mix"])
    assert all(np.array_equal(first.weights[name], kept[name]) for name in kept)


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [8, 16]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]},
        {"dtype": "O8", "shape": [1], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": "F32", "shape": [2]},
    ],
    ids=["too few bytes", "behind the end", "negative", "objects", "in the header", "no place"],
)
def test_a_header_that_lies_is_refused(entry: dict[str, object], tmp_path: Path) -> None:
    header = json.dumps({"tensor": entry}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(8)
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(PackageError, match="not a safetensors file"):
        map_safetensors(path, hashlib.sha256(data).hexdigest())
