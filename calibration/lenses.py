"""Intrinsics and distortion: pixels as a camera gives them to pixels of a pinhole. Pure.

The two models that RealSense cameras name: "brown_conrady" (OpenCV's five numbers), and
"inverse_brown_conrady", which in spite of its name goes from true to seen as well, only that its tangential
part takes what the radial one made (rsutil.h of librealsense from 2.45 on; before, it undid that wrongly).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from calibration.handeye.samples import Camera
from calibration.rigid import Array
from contracts.calibration import Intrinsics, Mount

_ROUNDS = 20
"""librealsense takes 10; by then a wide lens's corner is within a thousandth of a pixel."""
_SETTLED = (cv2.TERM_CRITERIA_COUNT + cv2.TERM_CRITERIA_EPS, 100, 1e-9)
"""OpenCV by itself takes 5 rounds, and is three pixels off in a wide lens's corners."""
_BACK_PX = 0.05


class Lens(Intrinsics, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Intrinsics, and what they do to pixels."""

    @property
    def matrix(self) -> Array:
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])

    def pinhole(self, name: str, mount: Mount) -> Camera:
        return Camera(name, mount, self.fx, self.fy, self.cx, self.cy)

    def straighten(self, pixels: Array) -> Array:
        """Pixels [K,2] freed of distortion, as this lens's own pinhole would show them."""
        if self.model == "none" or not any(self.distortion):
            return np.asarray(pixels, np.float64)
        if self.model == "brown_conrady":
            straight = cv2.undistortPointsIter(
                np.asarray(pixels, np.float64).reshape(-1, 1, 2),
                self.matrix,
                np.array(self.distortion),
                np.eye(3),
                self.matrix,
                _SETTLED,
            )
            return np.asarray(straight, np.float64).reshape(-1, 2)
        seen_x, seen_y = ((pixels - [self.cx, self.cy]) / [self.fx, self.fy]).T
        k1, k2, p1, p2, k3 = self.distortion
        x, y = seen_x, seen_y
        for _ in range(_ROUNDS):
            r2 = x * x + y * y
            f = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
            a, b = x * f, y * f
            x = (seen_x - 2 * p1 * a * b - p2 * (r2 + 2 * a * a)) / f
            y = (seen_y - 2 * p2 * a * b - p1 * (r2 + 2 * b * b)) / f
        return np.stack([x * self.fx + self.cx, y * self.fy + self.cy], axis=1)

    def covers(self, pixels: Array) -> npt.NDArray[np.bool_]:
        """Which of the pixels [K,2] the model has a line of sight for: bent again they are where they were. A
        wide lens's that was fitted to the middle of the picture folds back before its corners."""
        off = np.linalg.norm(self._bend(self.straighten(pixels)) - pixels, axis=1)
        return np.asarray(off <= _BACK_PX)

    def _bend(self, straight: Array) -> Array:
        """What `straighten` undoes."""
        if self.model == "none" or not any(self.distortion):
            return straight
        x, y = ((straight - [self.cx, self.cy]) / [self.fx, self.fy]).T
        k1, k2, p1, p2, k3 = self.distortion
        r2 = x * x + y * y
        f = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        a, b = (x, y) if self.model == "brown_conrady" else (x * f, y * f)
        seen_x = x * f + 2 * p1 * a * b + p2 * (r2 + 2 * a * a)
        seen_y = y * f + 2 * p2 * a * b + p1 * (r2 + 2 * b * b)
        return np.stack([seen_x * self.fx + self.cx, seen_y * self.fy + self.cy], axis=1)
