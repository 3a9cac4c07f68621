"""What a power cut may leave: only what was synced. Every moment of writing an episode, in two extremes.

A model of a disk that is as unkind as POSIX allows: a file's content is what it was at its last fsync
(nothing before the first), a folder's entries are those of its last fsync ("late") or of now ("early": the
system wrote the folder back by itself, the data not). The data set is laid out as the model says and read.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from sample_episodes import FEATURES, FPS, episode

from contracts.files import atomic
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_reader import DatasetReader

Tree = dict[Path, dict[str, int]]


class UnkindDisk:
    """Listens to every fsync and rename below `root`; `cut` is called before each takes place."""

    def __init__(self, root: Path, cut: Callable[[UnkindDisk], None]) -> None:
        self._root, self._cut = root, cut
        self._contents: dict[int, bytes] = {}
        self._folders: Tree = {}
        self._held: dict[int, int] = {}
        self._sync, self._replace = atomic.sync, os.replace
        self.moments = 0
        for folder in (root, *(path for path in root.rglob("*") if path.is_dir())):
            self._folders[folder] = self._entries(folder)
            for path in folder.iterdir():
                if path.is_file():
                    self._contents[path.stat().st_ino] = path.read_bytes()

    def sync(self, path: Path) -> None:
        self._moment()
        self._sync(path)
        if path.is_dir():
            self._folders[path] = self._entries(path)
        else:
            self._contents[path.stat().st_ino] = path.read_bytes()

    def replace(self, old: Path, new: Path) -> None:
        self._moment()
        self._replace(old, new)

    def lay_out(self, target: Path, *, early: bool) -> None:
        """What is on the disk after a cut now."""
        self._fill(self._root, target, early)

    def _fill(self, folder: Path, target: Path, early: bool) -> None:
        target.mkdir(parents=True)
        known = self._entries(folder) if early else self._folders.get(folder, {})
        for name, inode in known.items():
            path = folder / name
            if path.is_dir():
                self._fill(path, target / name, early)
            else:
                (target / name).write_bytes(self._contents.get(inode, b""))

    def _moment(self) -> None:
        self.moments += 1
        self._cut(self)

    def _entries(self, folder: Path) -> dict[str, int]:
        found = {path.name: path.stat().st_ino for path in folder.iterdir()}
        for name, inode in found.items():
            if inode not in self._held:  # open: its number is not given to another file
                self._held[inode] = os.open(folder / name, os.O_RDONLY)
        return found

    def close(self) -> None:
        for descriptor in self._held.values():
            os.close(descriptor)


def whole_episodes(root: Path) -> int:
    """How many there are, each read to its last byte."""
    reader = DatasetReader(root)
    for index in range(reader.num_episodes):
        given = episode(index)
        stored = reader.episode(index)
        assert stored["action"].tobytes() == given["columns"]["action"].tobytes()
        for key, frames in given["depth"].items():
            assert np.array_equal(reader.depth(index, key), np.stack(frames))
        for key, frames in given["frames"].items():
            assert np.abs(reader.frames(index, key).astype(int) - np.stack(frames)).mean() < 8
        assert reader.meta(index)["extra"] == given["extra"]
    return reader.num_episodes


@pytest.mark.parametrize("act", ["add", "drop"])
def test_a_power_cut_at_any_moment_leaves_the_finished_episodes(
    tmp_path: Path, act: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root"
    found: dict[bool, list[int]] = {False: [], True: []}

    def cut(disk: UnkindDisk) -> None:
        for early, counts in found.items():
            target = tmp_path / f"{act}-{disk.moments}-{early}"
            disk.lay_out(target, early=early)
            counts.append(whole_episodes(target))

    with DatasetWriter.create(root, FPS, FEATURES, "so101") as writer:
        writer.add_episode(**episode(0))
        if act == "drop":
            writer.add_episode(**episode(1))
        disk = UnkindDisk(root, cut)
        monkeypatch.setattr(atomic, "sync", disk.sync)
        monkeypatch.setattr(os, "replace", disk.replace)
        if act == "add":
            writer.add_episode(**episode(1))
        else:
            writer.drop_last()
        disk.moments += 1
        cut(disk)  # and after the last one
        disk.close()
    for counts in found.values():
        before, after = (1, 2) if act == "add" else (2, 1)
        assert counts[0] == before and counts[-1] == after
        # One moment decides.
        assert counts == sorted(counts, reverse=act == "drop")
    assert disk.moments > 5
