"""A video in which every frame differs, alone or as a stored episode."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from contracts.frames import Video
from contracts.messages import EpisodeEnd, EpisodeStart, SessionStart
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec
from trainer.interfaces import EpisodeKey, StoredEpisode


def some_video(frames: int, rate_hz: float = 2.0) -> Video:
    """64 by 48 pixels: a light square that wanders over a gradient."""
    rows, columns = np.mgrid[:48, :64]
    images = np.stack([columns * 3, rows * 4, rows + columns], axis=2)[None].repeat(frames, 0)
    for k in range(frames):
        left, top = (7 * k) % 50, (5 * k) % 36
        images[k, top : top + 12, left : left + 12] = (240, 200 - 4 * k, 60)
    pixels = images.astype(np.uint8)
    return Video({"front": pixels}, np.arange(frames) / rate_hz, np.arange(frames) * 5)


class _Pictures:
    def __init__(self, video: Video) -> None:
        self._video = video

    def frames(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        pictures = self._video.views[camera]
        return pictures if indices is None else pictures[list(indices)]

    def depth(self, camera: str, indices: Sequence[int] | None = None) -> np.ndarray:
        raise AssertionError("no depth here")


def some_episode(steps: int) -> StoredEpisode:
    """The same, as the trainer stored it."""
    units = ("deg",) * 5 + ("percent",)
    eyes = ObservationSpec((CameraSpec("front", 64, 48, 2.0),), SO101_JOINTS, units)
    arm = ActionSpec(SO101_JOINTS, units, (-90.0,) * 6, (90.0,) * 6, (90.0,) * 6, (600.0,) * 6, 2.0)
    session = SessionStart("r", "s", eyes, arm, "jpeg", "", "", "", "asap")
    start = EpisodeStart("r", "s", 0, "open the drawer", "t", "refine", 0, "", 0, "", 0, 0.0)
    columns = {"observation.state": np.zeros((steps, 6), np.float32)}
    end = EpisodeEnd(0, steps, "time_limit")
    pictures = _Pictures(some_video(steps))
    return StoredEpisode(EpisodeKey("r", "s", 0), 0, session, start, end, columns, pictures)
