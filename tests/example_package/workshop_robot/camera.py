"""The workshop's gauge: a camera whose picture is a needle that turns with time, at a fixed distance."""

from __future__ import annotations

import math

import numpy as np

from contracts.specs import CameraSpec
from runtime.config import camera_spec
from runtime.frames import Frame
from runtime.run import Run

TURN_S = 4.0


class WorkshopCamera:
    """`runtime.cameras.Camera`. Option `distance_mm`: what its depth picture says everywhere."""

    in_control = True  # no process of its own: it has no device that could block or crash

    def __init__(self, run: Run, name: str, distance_mm: int = 500) -> None:
        self._spec = camera_spec(name, run.config.cameras[name])
        self._distance_mm = distance_mm
        self._number = 0

    def spec(self) -> CameraSpec:
        return self._spec

    def newest(self, now_s: float) -> Frame | None:
        self._number += 1
        height, width = self._spec.height, self._spec.width
        picture = np.full((height, width, 3), 240, np.uint8)
        angle = 2 * math.pi * now_s / TURN_S
        for reach in np.linspace(0, 0.42 * height, height):
            y = round(height / 2 - reach * math.cos(angle))
            x = round(width / 2 + reach * math.sin(angle))
            # Wide enough to survive JPEG and the video's halved colour.
            picture[y - 2 : y + 3, x - 2 : x + 3] = (200, 30, 30)
        depth = np.full((height, width), self._distance_mm, np.uint16)
        return Frame(picture, depth if self._spec.depth else None, now_s, now_s, self._number)

    def nearest(self, now_s: float, at_s: float) -> Frame | None:
        return self.newest(at_s)  # drawn for any moment

    def close(self) -> None:
        pass
