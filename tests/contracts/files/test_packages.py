"""A package is loaded whole and right, or refused with one sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tiny_package import make_package

from contracts.errors import PackageError
from contracts.files.packages import (
    load_package,
    read_manifest,
    read_safetensors,
    safetensors_bytes,
    write_package,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make_package(tmp_path / "package").folder


def test_what_was_written_is_what_is_loaded(folder: Path) -> None:
    package = load_package(folder)
    again = load_package(folder)
    assert package.package_id == again.package_id
    assert set(package.graph_weights("head")) == {"mix", "bias", "scale"}
    assert set(package.refinable_weights()) == {"head/mix", "head/bias", "head/scale"}
    assert len(package.golden["head"]) == 4
    assert package.golden["head"][0].inputs["noise"].shape == (3, 4, 6)
    assert sorted(path.name for path in folder.iterdir()) == [
        "golden.npz",
        "head.onnx",
        "manifest.json",
        "trunk.onnx",
        "weights.safetensors",
    ]


def test_the_same_content_gives_the_same_package(tmp_path: Path) -> None:
    first, second = make_package(tmp_path / "a"), make_package(tmp_path / "b")
    assert first.package_id == second.package_id
    for name in ("golden.npz", "weights.safetensors", "manifest.json"):
        assert (first.folder / name).read_bytes() == (second.folder / name).read_bytes()


def test_a_package_replaces_an_older_one_whole(folder: Path, tmp_path: Path) -> None:
    old = load_package(folder)
    new = make_package(folder, seed=5)
    assert new.package_id != old.package_id
    assert load_package(folder).package_id == new.package_id
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_package_that_would_not_load_leaves_the_old_one(folder: Path) -> None:
    old = load_package(folder)
    weights = dict(old.weights)
    weights["head/bias"] = np.full(6, np.nan, np.float32)
    with pytest.raises(PackageError, match="NaN"):
        write_package(folder, old.manifest, old.graphs, weights, old.golden)
    assert load_package(folder).package_id == old.package_id
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_what_fails_in_the_middle_of_the_swap_puts_the_old_one_back(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    old, calls = load_package(folder), []
    rename = Path.rename

    def second_fails(path: Path, target: Path) -> Path:
        calls.append(path)
        if len(calls) == 2:
            raise error
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", second_fails)
        with pytest.raises(error):
            make_package(folder, seed=5)
    assert load_package(folder).package_id == old.package_id
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_after_a_power_cut_in_the_middle_of_the_swap_the_old_one_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, rename = load_package(folder), Path.rename

    def power_cut(path: Path, target: Path) -> Path:
        if path != folder:
            raise OSError
        return rename(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", power_cut)
        with pytest.raises(OSError):
            make_package(folder, seed=5)
    assert not folder.exists()
    with pytest.raises(PackageError, match="no model package") as caught:
        load_package(folder)
    (kept,) = folder.parent.glob("*.old.tmp")
    assert str(kept) in str(caught.value) and load_package(kept).package_id == old.package_id
    with pytest.raises(PackageError, match="name the folder that robot-export wrote"):
        load_package(folder.parent / "nowhere")


def _truncate(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("damage", [_truncate, _flip, Path.unlink])
@pytest.mark.parametrize("name", ["head.onnx", "weights.safetensors", "golden.npz"])
def test_a_damaged_file_is_one_sentence(
    folder: Path, name: str, damage: Callable[[Path], None]
) -> None:
    damage(folder / name)
    with pytest.raises(PackageError) as caught:
        load_package(folder)
    sentence = str(caught.value)
    assert name in sentence and "\n" not in sentence and "again" in sentence


def _edited(folder: Path, edit: Callable[[dict], None]) -> str:
    path = folder / "manifest.json"
    tree = json.loads(path.read_text())
    edit(tree)
    path.write_text(json.dumps(tree))
    with pytest.raises(PackageError) as caught:
        load_package(folder)
    return str(caught.value)


def test_another_format_version_says_so(folder: Path) -> None:
    assert "version 1" in _edited(folder, lambda tree: tree.update(format_version=2))


def test_a_later_format_with_unknown_fields_is_named_as_such(folder: Path) -> None:
    sentence = _edited(folder, lambda tree: tree.update(format_version=9, novelty=1))
    assert "another format" in sentence


def test_an_unknown_key_is_refused(folder: Path) -> None:
    assert "novelty" in _edited(folder, lambda tree: tree.update(novelty=1))


@pytest.mark.parametrize("name", ["../weights.safetensors", "/etc/passwd", "a/b", ".hidden"])
def test_files_outside_the_folder_are_never_read(folder: Path, name: str) -> None:
    assert "elsewhere" in _edited(folder, lambda tree: tree.update(weights_file=name))


@pytest.mark.parametrize("name", ["../x", "/x", "a/b", "..", "", "a\n", "x" * 65])
def test_a_graph_whose_name_is_a_path_is_neither_read_nor_written(
    folder: Path, tmp_path: Path, name: str
) -> None:
    package = load_package(folder)
    within = sorted(tmp_path.rglob("*"))
    name = f"{tmp_path}{name}" if name.startswith("/") else name
    trunk, head = package.manifest.graphs
    graphs = (msgspec.structs.replace(trunk, name=name), head)
    manifest = msgspec.structs.replace(package.manifest, graphs=graphs)
    contents = {name: package.graphs["trunk"], "head": package.graphs["head"]}
    with pytest.raises(PackageError, match="graph's name: expected"):
        write_package(tmp_path / "other", manifest, contents, package.weights, package.golden)
    assert sorted(tmp_path.rglob("*")) == within
    said = _edited(folder, lambda tree: tree["graphs"][0].update(name=name))
    assert "graph's name: expected" in said and "\n" not in said


def test_refinable_tensors_must_be_there_as_declared(folder: Path) -> None:
    def reshape(tree: dict) -> None:
        tree["refinable"][0]["shape"] = [2, 2]

    assert "should be float32[2, 2]" in _edited(folder, reshape)


def test_golden_vectors_must_fit_the_graphs(folder: Path) -> None:
    def widen(tree: dict) -> None:
        tree["graphs"][0]["inputs"][0]["shape"] = [-1, 7]

    assert "golden vector 'trunk/in/state'" in _edited(folder, widen)


def test_a_manifest_that_is_not_json(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\x00{")
    with pytest.raises(PackageError, match="not a package manifest"):
        read_manifest(folder)


def test_no_package_at_all(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="no model package"):
        load_package(tmp_path / "nowhere")


def test_a_manifest_alone_is_incomplete(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "lone").mkdir()
    shutil.copy(folder / "manifest.json", tmp_path / "lone")
    with pytest.raises(PackageError, match=r"no readable trunk\.onnx"):
        load_package(tmp_path / "lone")


def test_safetensors_round_trip_and_garbage() -> None:
    tensors = {"b": np.arange(6, dtype=np.int64), "a": np.ones((2, 3), np.float32)}
    data = safetensors_bytes(tensors)
    assert data == safetensors_bytes(dict(reversed(tensors.items())))
    found = read_safetensors(data, "weights")
    assert found["b"].tolist() == [0, 1, 2, 3, 4, 5] and found["a"].flags.writeable
    for garbage in (b"", b"\x00" * 40, data[:-1], b"\xff" * 8 + data):
        with pytest.raises(PackageError, match="not a safetensors file"):
            read_safetensors(garbage, "weights")
