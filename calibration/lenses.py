"""Intrinsics and distortion: pixels as a camera gives them to pixels of a pinhole. Pure.

The two models that RealSense cameras name: "brown_conrady" (OpenCV's five numbers: from true to seen) and
"inverse_brown_conrady" (the same polynomial from seen to true; formula of librealsense, rsutil.h).
"""

from __future__ import annotations

import cv2
import numpy as np

from calibration.handeye.samples import Camera
from calibration.rigid import Array
from contracts.calibration import Intrinsics, Mount


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
            straight = cv2.undistortPoints(
                np.asarray(pixels, np.float64).reshape(-1, 1, 2),
                self.matrix,
                np.array(self.distortion),
                P=self.matrix,
            )
            return np.asarray(straight, np.float64).reshape(-1, 2)
        x, y = ((pixels - [self.cx, self.cy]) / [self.fx, self.fy]).T
        k1, k2, p1, p2, k3 = self.distortion
        r2 = x * x + y * y
        f = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
        true_x = x * f + 2 * p1 * x * y + p2 * (r2 + 2 * x * x)
        true_y = y * f + 2 * p2 * x * y + p1 * (r2 + 2 * y * y)
        return np.stack([true_x * self.fx + self.cx, true_y * self.fy + self.cy], axis=1)
