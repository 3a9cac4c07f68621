"""Takes episodes over from one data set of ours into another, pictures as they are: nothing is encoded."""

from __future__ import annotations

import shutil
from pathlib import Path

from contracts.files import atomic
from contracts.files.dataset import DatasetWriter
from contracts.files.dataset_format import (
    DEPTH_PATTERN,
    INFO_PATH,
    VIDEO_PATTERN,
    DatasetError,
    array_keys,
    depth_keys,
    path_at,
    require_alike,
    video_keys,
)
from contracts.files.dataset_reader import DatasetReader
from contracts.files.dataset_stats import Stats
from contracts.files.dataset_stream import put_in_place


class CopiedFiles:
    """`Pictures` of one episode of `source`, under temporary names in `root`."""

    def __init__(self, root: Path, source: DatasetReader, episode: int) -> None:
        """Raises `OSError` from the disk; nothing is left of them then."""
        self._root, self._length = root, source.length(episode)
        self._stats = source.episode_stats(episode)
        features = source.features
        self._patterns = {
            **dict.fromkeys(video_keys(features), VIDEO_PATTERN),
            **dict.fromkeys(depth_keys(features), DEPTH_PATTERN),
        }
        self._temporaries: dict[str, Path] = {}
        try:
            for key, pattern in self._patterns.items():
                path = source.root / path_at(pattern, episode, video_key=key, key=key)
                self._temporaries[key] = atomic.temporary_for(root / f"{key}{path.suffix}")
                shutil.copyfile(path, self._temporaries[key])
        except BaseException:
            self.discard()
            raise

    def finish(self, length: int) -> dict[str, Stats]:
        """Sync every file; the colour features' statistics as `source` has them."""
        if length != self._length:
            raise DatasetError("steps of a copied episode", expected=self._length, found=length)
        for path in self._temporaries.values():
            atomic.sync(path)
        return {key: self._stats[key] for key in self._temporaries if key in self._stats}

    def publish(self, episode: int) -> None:
        """Give the files the names of that episode."""
        for key, path in self._temporaries.items():
            put_in_place(self._root, self._patterns[key], key, episode, path)

    def discard(self) -> None:
        """Remove every file. Safe to call twice."""
        for path in self._temporaries.values():
            path.unlink(missing_ok=True)


def copy_episode(writer: DatasetWriter, source: DatasetReader, episode: int) -> int:
    """Append that episode, durably; returns its index. Raises `DatasetError` where the two data sets have
    other features or rates, and `OSError` from the disk; the data set is then unchanged."""
    require_alike(writer.root, (writer.fps, writer.features), (source.fps, source.features))
    said = source.meta(episode)
    columns = source.episode(episode, array_keys(source.features))
    files = CopiedFiles(writer.root, source, episode)
    return writer.keep(files, columns, said["task"], said["extra"])


def open_like(root: Path, source: DatasetReader) -> DatasetWriter:
    """The data set at `root`, made for episodes like those of `source` where there is none yet. Raises
    `DatasetError`."""
    if (root / INFO_PATH).exists():
        return DatasetWriter.open(root)
    given = source.given_features
    return DatasetWriter.create(root, source.fps, given, source.robot_type, source.extra_info)
