"""A camera that is mounted turned: its pictures and its spec the right way up. LeRobot's key and degrees."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np

from contracts.specs import CameraSpec

_CODES = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, -90: cv2.ROTATE_90_COUNTERCLOCKWISE}


def turn(picture: np.ndarray, degrees: int) -> np.ndarray:
    """The picture turned clockwise by 0 (itself), 90, 180 or -90 degrees."""
    return picture if degrees == 0 else cv2.rotate(picture, _CODES[degrees])


def upright(width: int, height: int, degrees: int) -> tuple[int, int]:
    """(width, height) after turning; the same function undoes it."""
    return (height, width) if degrees in (90, -90) else (width, height)


def turned(spec: CameraSpec, degrees: int) -> CameraSpec:
    """The spec of the turned pictures. Pixel (x, y) goes where `turn` puts it, centres included."""
    width, height = upright(spec.width, spec.height, degrees)
    if not spec.fx or degrees == 0:
        return msgspec.structs.replace(spec, width=width, height=height)
    fx, fy = (spec.fx, spec.fy) if degrees == 180 else (spec.fy, spec.fx)
    right, down = spec.width - 1 - spec.cx, spec.height - 1 - spec.cy
    cx, cy = {90: (down, spec.cx), 180: (right, down), -90: (spec.cy, right)}[degrees]
    return msgspec.structs.replace(spec, width=width, height=height, fx=fx, fy=fy, cx=cx, cy=cy)
