"""A video in which every frame differs."""

from __future__ import annotations

import numpy as np

from trainer.rewards.frames import Video


def some_video(frames: int, rate_hz: float = 2.0) -> Video:
    """64 by 48 pixels: a light square that wanders over a gradient."""
    rows, columns = np.mgrid[:48, :64]
    images = np.stack([columns * 3, rows * 4, rows + columns], axis=2)[None].repeat(frames, 0)
    for k in range(frames):
        left, top = (7 * k) % 50, (5 * k) % 36
        images[k, top : top + 12, left : left + 12] = (240, 200 - 4 * k, 60)
    pixels = images.astype(np.uint8)
    return Video({"front": pixels}, np.arange(frames) / rate_hz, np.arange(frames) * 5)
