"""Changes to a video that should change a verdict, or should not. Pure; random ones draw from a generator."""

from __future__ import annotations

import cv2
import numpy as np

from contracts.frames import Video

CROP_SHARE = 0.9


def _with_rows(video: Video, rows: np.ndarray) -> Video:
    """Frames `rows` (any order, repeats allowed) at the video's own pace."""
    pace = float(np.median(np.diff(video.times_s))) if len(video) > 1 else 1.0
    views = {camera: images[rows] for camera, images in video.views.items()}
    return Video(views, np.arange(len(rows)) * pace, np.arange(len(rows)))


def shuffled(video: Video, rng: np.random.Generator) -> tuple[Video, np.ndarray]:
    """The same frames in another order, the first one kept (it is what models compare with), and which frame
    each now is (int64[N]). Times stay, so only pictures can tell the progress."""
    rows = np.concatenate([[0], 1 + rng.permutation(len(video) - 1)])
    views = {camera: images[rows] for camera, images in video.views.items()}
    return Video(views, video.times_s, video.steps), rows


def cropped(video: Video, rng: np.random.Generator, share: float = CROP_SHARE) -> Video:
    """A window of `share` of each side, at one random place for all frames of a camera, scaled back up: a
    camera that was moved a little."""
    views = {}
    for camera in sorted(video.views):
        images = video.views[camera]
        height, width = images.shape[1:3]
        high, wide = round(height * share), round(width * share)
        top, left = rng.integers(height - high + 1), rng.integers(width - wide + 1)
        window = images[:, top : top + high, left : left + wide]
        views[camera] = np.stack(
            [cv2.resize(w, (width, height), interpolation=cv2.INTER_LINEAR) for w in window]
        )
    return Video(views, video.times_s, video.steps)


def flipped(video: Video) -> Video:
    """Every picture mirrored left to right."""
    views = {c: np.ascontiguousarray(images[:, :, ::-1]) for c, images in video.views.items()}
    return Video(views, video.times_s, video.steps)


def undone(video: Video) -> Video:
    """The episode, then its frames backwards to the first: what was done is undone before the end."""
    count = len(video)
    return _with_rows(video, np.concatenate([np.arange(count), np.arange(count - 2, -1, -1)]))
