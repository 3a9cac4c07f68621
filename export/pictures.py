"""Recorded pictures for golden vectors: from a folder of images or a video file."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from contracts.errors import PackageError

_IMAGES = (".png", ".jpg", ".jpeg")


def recorded(source: Path, most: int) -> np.ndarray:
    """uint8[N, H, W, 3] RGB, N up to `most`, evenly over what there is, all of the first one's size. Raises
    `PackageError` where there is no picture."""
    if not source.exists():
        raise PackageError(
            f"there is no folder or video {source}", expected="recorded pictures at that path"
        )
    found = _of_folder(source, most) if source.is_dir() else _of_video(source, most)
    if not found:
        raise PackageError(
            f"recorded pictures in {source}",
            expected="a folder of .png or .jpg files, or a video",
            found="none that can be read",
        )
    height, width = found[0].shape[:2]
    same = [image for image in found if image.shape[:2] == (height, width)]
    return np.stack([cv2.cvtColor(image, cv2.COLOR_BGR2RGB) for image in same])


def _of_folder(folder: Path, most: int) -> list[np.ndarray]:
    files = sorted(path for path in folder.rglob("*") if path.suffix.lower() in _IMAGES)
    images = [cv2.imread(str(files[row])) for row in _rows(len(files), most)]
    return [image for image in images if image is not None]


def _of_video(path: Path, most: int) -> list[np.ndarray]:
    video = cv2.VideoCapture(str(path))
    try:
        count = int(video.get(cv2.CAP_PROP_FRAME_COUNT))
        wanted, found = set(_rows(count, most)), []
        for row in range(count):
            good, image = video.read()
            if good and row in wanted:
                found.append(image)
        return found
    finally:
        video.release()


def _rows(count: int, most: int) -> list[int]:
    return sorted({round(row) for row in np.linspace(0, count - 1, min(count, most))})
