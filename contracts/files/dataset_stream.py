"""Pictures of one episode on their way into a data set: encoded as they come, under temporary names.

Owns these files until the writer takes them over (`DatasetWriter.keep`) or they are thrown away. Nothing
grows with the episode but the files: what is written is also handed to the disk as it comes, so that the
end of a long episode costs no more than that of a short one.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from contracts.files import atomic
from contracts.files.dataset_format import (
    DEPTH_PATTERN,
    VIDEO,
    VIDEO_PATTERN,
    DatasetError,
    depth_keys,
    path_at,
    video_keys,
)
from contracts.files.dataset_info import DatasetInfo
from contracts.files.dataset_stats import PictureSampler, Stats
from contracts.files.depth_file import DepthWriter
from contracts.files.video import VideoEncoder

SYNC_EVERY_BYTES = 4 << 20
"""Unsynced bytes of one file: what a slow disk has to take at the end of an episode."""


class PictureFile:
    """One camera's colour or depth. One thread at a time."""

    def __init__(self, encoder: VideoEncoder | DepthWriter, temporary: Path) -> None:
        self.temporary = temporary
        self._encoder = encoder
        self._sampler = PictureSampler() if isinstance(encoder, VideoEncoder) else None
        self._last: np.ndarray | None = None
        self._descriptor = os.open(
            temporary, os.O_RDONLY | os.O_CREAT
        )  # FFmpeg makes it with frame 0
        self._synced = 0
        self.nbytes = 0

    @property
    def count(self) -> int:
        """Frames so far."""
        return self._encoder.count

    def add(self, frame: np.ndarray) -> None:
        """The next frame. Raises `DatasetError` for another shape or dtype, `OSError` from the disk."""
        self._encoder.add(frame)
        if self._sampler is not None:
            self._sampler.add(frame)
            self._last = frame
        self._hand_over()

    def repeat(self) -> None:
        """The last frame once more."""
        self._encoder.repeat()
        if self._sampler is not None and self._last is not None:
            self._sampler.add(self._last)
        self._hand_over()

    def finish(self) -> None:
        """Complete and sync the file; it keeps its temporary name."""
        self._encoder.close()
        atomic.sync(self.temporary)
        self._release()

    def discard(self) -> None:
        """Remove the file. Safe to call twice, and after `finish`."""
        self._encoder.abandon()
        self._release()
        self.temporary.unlink(missing_ok=True)

    def stats(self) -> Stats | None:
        """Of colour; depth has none."""
        return self._sampler.stats() if self._sampler is not None else None

    def _hand_over(self) -> None:
        self.nbytes = os.fstat(self._descriptor).st_size
        if self.nbytes - self._synced >= SYNC_EVERY_BYTES:
            self._synced = self.nbytes
            os.fdatasync(self._descriptor)

    def _release(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class Pictures(Protocol):
    """Of one episode, under temporary names: what `DatasetWriter.keep` takes over."""

    def finish(self, length: int) -> dict[str, Stats]: ...

    def publish(self, episode: int) -> None: ...

    def discard(self) -> None: ...


def put_in_place(root: Path, pattern: str, key: str, episode: int, temporary: Path) -> None:
    """Give one feature's finished file its name in that episode (folders are not synced here)."""
    path = root / path_at(pattern, episode, video_key=key, key=key)
    atomic.make_directory(path.parent)
    os.replace(temporary, path)


class EpisodeFiles:
    """All pictures of one episode; `files` by feature, each for one thread at a time."""

    def __init__(self, root: Path, info: DatasetInfo, reserve: int) -> None:
        """Use `DatasetWriter.begin`. `reserve`: steps that are expected at most."""
        self.files: dict[str, PictureFile] = {}
        self._root = root
        self._patterns: dict[str, str] = {}
        try:
            for key in (*video_keys(info.features), *depth_keys(info.features)):
                self._open(key, info, reserve)
        except BaseException:
            self.discard()
            raise

    def add_all(self, key: str, frames: Iterable[np.ndarray], length: int) -> None:
        """Exactly `length` frames of one feature. Raises `DatasetError` on another count or kind."""
        file = self.files[key]
        for frame in frames:
            if file.count == length:
                self._need(key, length, "more")
            file.add(frame)
        if file.count != length:
            self._need(key, length, file.count)

    def finish(self, length: int) -> dict[str, Stats]:
        """Complete and sync every file; the colour features' statistics. Raises `DatasetError` where a
        feature has another number of frames, `OSError` from the disk."""
        stats = {}
        for key, file in self.files.items():
            if file.count != length:
                self._need(key, length, file.count)
            file.finish()
            if (found := file.stats()) is not None:
                stats[key] = found
        return stats

    def publish(self, episode: int) -> None:
        """Give the finished files the names of that episode (folders are not synced here)."""
        for key, file in self.files.items():
            put_in_place(self._root, self._patterns[key], key, episode, file.temporary)

    def discard(self) -> None:
        """Remove every file. Safe to call twice."""
        for file in self.files.values():
            file.discard()

    def _open(self, key: str, info: DatasetInfo, reserve: int) -> None:
        feature = info.features[key]
        colour = feature.dtype == VIDEO
        self._patterns[key] = VIDEO_PATTERN if colour else DEPTH_PATTERN
        name = path_at(self._patterns[key], info.episodes, video_key=key, key=key)
        path = atomic.temporary_for(self._root / name)
        try:
            encoder: VideoEncoder | DepthWriter
            if colour:
                encoder = VideoEncoder(path, fps=info.fps, shape=feature.shape, what=key)
            else:
                encoder = DepthWriter(path, shape=feature.shape, what=key, reserve=reserve)
            self.files[key] = PictureFile(encoder, path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise

    def _need(self, key: str, length: int, found: object) -> None:
        kind = "frames" if self._patterns[key] == VIDEO_PATTERN else "depth"
        raise DatasetError(f"{kind} of '{key}'", expected=f"{length} (one per step)", found=found)
