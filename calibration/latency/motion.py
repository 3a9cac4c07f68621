"""A signal of pictures: how the picture as a whole moves from one to the next. Needs no board.

The shift is found by phase correlation (Kuglin and Hines 1975), on small grey pictures with a window against
their edges; a shift over the time between two pictures is a velocity, of the middle of that time.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import numpy.typing as npt

from calibration.latency.delay import Array, DelayError

WIDTH_PX = 160


def velocities(
    times_s: Sequence[float], pictures: Sequence[npt.NDArray[np.uint8]]
) -> tuple[Array, Array]:
    """(times [M], velocity [M,2] in widths of the picture a second) of M + 1 pictures uint8[H,W] or
    uint8[H,W,3]. Pictures of the same time are taken once. Raises `DelayError`."""
    if len(times_s) != len(pictures) or len(pictures) < 3:
        raise DelayError("pictures and their times", found=f"{len(pictures)} and {len(times_s)}")
    at, found = [], []
    before: npt.NDArray[np.float32] | None = None
    before_s = -np.inf
    window: npt.NDArray[np.float32] | None = None
    for time_s, picture in zip(times_s, pictures, strict=True):
        if time_s <= before_s:
            continue
        grey = _small(picture)
        if window is None:
            window = np.asarray(cv2.createHanningWindow(grey.shape[::-1], cv2.CV_32F), np.float32)
        if before is not None:
            shift, _ = cv2.phaseCorrelate(before, grey, window)
            at.append((time_s + before_s) / 2)
            found.append(np.array(shift) / WIDTH_PX / (time_s - before_s))
        before, before_s = grey, time_s
    return np.array(at), np.array(found)


def _small(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    grey = picture if picture.ndim == 2 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    height = round(grey.shape[0] * WIDTH_PX / grey.shape[1])
    return cv2.resize(grey, (WIDTH_PX, height), interpolation=cv2.INTER_AREA).astype(np.float32)
