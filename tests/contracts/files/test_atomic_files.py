"""Atomic files: the old content or the new one, never a part; capped reads."""

import os

import pytest

from contracts.files import atomic
from contracts.files.atomic import FileError


def test_write_replaces_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "deep" / "er" / "file.bin"
    atomic.write_bytes(path, b"old")
    atomic.write_bytes(path, b"new")
    assert path.read_bytes() == b"new"
    assert [p.name for p in path.parent.iterdir()] == ["file.bin"]


def test_failure_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "file.json"
    atomic.write_json(path, {"a": 1})

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        atomic.write_json(path, {"a": 2})
    assert atomic.read_json(path) == {"a": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.json"]


def test_content_is_synced_before_the_rename_and_the_directory_after(tmp_path, monkeypatch):
    calls = []
    real_replace, real_sync = os.replace, atomic.sync
    monkeypatch.setattr(
        atomic, "sync", lambda p: (calls.append("dir" if p.is_dir() else "file"), real_sync(p))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append("rename"), real_replace(a, b)))
    atomic.write_bytes(tmp_path / "x", b"1")
    assert calls == ["file", "rename", "dir"]


@pytest.mark.parametrize("value", [float("nan"), {"x": float("inf")}, {1, 2}, b"x"])
def test_json_refuses_what_strict_json_has_no_word_for(tmp_path, value):
    with pytest.raises(FileError, match="not JSON"):
        atomic.write_json(tmp_path / "x.json", value)
    assert not list(tmp_path.iterdir())


def test_reads_are_capped_and_typed(tmp_path):
    path = tmp_path / "x.json"
    with pytest.raises(FileError, match="missing"):
        atomic.read_json(path)
    path.write_bytes(b"[1, 2")
    with pytest.raises(FileError, match="not JSON"):
        atomic.read_json(path)
    with pytest.raises(FileError, match="too large"):
        atomic.read_bytes(path, 4)
    assert atomic.read_bytes(path, 5) == b"[1, 2"


def test_leftovers_are_removed_and_nothing_else(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / ".f.json.12ab.tmp").touch()
    (tmp_path / "a" / "f.json").touch()
    assert atomic.remove_leftovers(tmp_path) == 1
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["f.json"]
