"""What may be written where: new, empty or of the command's own kind, and never anything else."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_package import make_package

from contracts.errors import ConfigError, PackageError
from contracts.files import outputs
from contracts.files.packages import load_package, read_manifest, require_place, write_package


def test_an_earlier_package_is_replaced_and_so_is_one_behind_a_link(tmp_path: Path) -> None:
    first = make_package(tmp_path / "first")
    make_package(tmp_path / "second")
    (tmp_path / "link").symlink_to(tmp_path / "second")
    (tmp_path / "second" / ".golden.npz.0a.tmp").touch()  # of a writer that was killed
    for place in (tmp_path / "second", tmp_path / "link"):
        require_place(place)
        write_package(place, first.manifest, first.graphs, first.weights, first.golden)
        assert load_package(place).package_id == first.package_id
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "link", "second"]


def test_what_lies_beside_a_packages_own_files_is_not_replaced_with_it(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package")
    (tmp_path / "package" / "thesis.txt").write_text("years")
    with pytest.raises(ConfigError, match=r"expected a new or an empty folder.*choose another"):
        write_package(
            package.folder, package.manifest, package.graphs, package.weights, package.golden
        )
    assert (tmp_path / "package" / "thesis.txt").read_text() == "years"


def test_a_manifest_of_something_else_makes_no_package(tmp_path: Path) -> None:
    """A release has a manifest.json and a safetensors file, too."""
    (tmp_path / "release").mkdir()
    (tmp_path / "release" / "manifest.json").write_text('{"publish_seq": 3}')
    (tmp_path / "release" / "weights.safetensors").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"manifest\.json, weights\.safetensors"):
        require_place(tmp_path / "release")


def test_a_package_is_not_written_over_what_it_is_made_from(tmp_path: Path) -> None:
    package = make_package(tmp_path / "package")
    with pytest.raises(ConfigError, match="is what the package is made from"):
        require_place(tmp_path / "x" / ".." / "package", package.folder)


def test_a_place_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    require_place(tmp_path / "new" / "deep")
    outputs.require_file(tmp_path / "new" / "report.md", "the report")
    (tmp_path / "empty").mkdir()
    require_place(tmp_path / "empty")
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
    (tmp_path / "dangling").symlink_to(tmp_path / "nothere")
    for wrong in (tmp_path / "dangling", tmp_path / ("x" * 300), Path("/proc/x")):
        with pytest.raises(ConfigError, match="can't be written"):
            require_place(wrong)
    with pytest.raises(ConfigError, match="no plain file"):
        outputs.require_file(Path("/dev/null"), "the report")


def test_json_of_the_same_keys_is_ours_as_one_object_a_list_or_lines(tmp_path: Path) -> None:
    ours, path = outputs.json_with("seed", "success"), tmp_path / "truth.jsonl"
    for text, good in (
        ('{"seed": 1, "success": true}\n{"seed": 2, "success": false}\n', True),
        ('[{"seed": 1, "success": true, "more": 2}]', True),
        ('{"seed": 1}', False),
        ('{"seed": 1, "success": true}\nnot json\n', False),
        ("[]", False),
        ("\x00\xff", False),
    ):
        path.write_bytes(text.encode("latin1"))
        assert ours(path) is good, text


def test_no_package_says_what_is_there_and_what_a_package_is(tmp_path: Path) -> None:
    make_package(tmp_path / "models" / "one")
    (tmp_path / "README.md").write_text("read me")
    for name, found in (
        ("nothere", "found nothing of that name"),
        ("README.md", "found a file"),
        ("models", "found a folder that holds packages: one"),
    ):
        with pytest.raises(PackageError, match=r"expected a folder with manifest\.json") as said:
            read_manifest(tmp_path / name)
        assert found in str(said.value) and "name the folder that" in str(said.value)
    (tmp_path / "models" / "one" / "trunk.onnx").unlink()
    with pytest.raises(PackageError, match=r"readable trunk\.onnx: found nothing of that name"):
        load_package(tmp_path / "models" / "one")
