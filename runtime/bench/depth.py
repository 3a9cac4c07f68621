"""Turns a rendered depth buffer into what a RealSense D435 would report: 16-bit millimetres with
noise that grows with the square of distance, and holes where its stereo match fails.

Noise: sigma_z = z^2 * subpixel / (focal length * baseline), as in Intel's "Tuning D400 depth cameras".
"""

from __future__ import annotations

import numpy as np

MIN_RANGE_M = 0.11  # D435 at its low resolutions; nearer things are holes
MAX_RANGE_M = 6.0
SIGMA_PER_M = 0.0034  # 0.08 px subpixel error, 50 mm baseline, 465 px focal length
# A surface is lost between these slopes (tangent of the angle to the line of sight): steeper ones
# and the edges of things almost always are.
SLOPE_SEEN = 4.0
SLOPE_LOST = 14.0

_TILE = 2048


class DepthSensor:
    """Holds the noise banks. One frame's noise is a window into them, chosen by the frame's key,
    so that a 640x480 frame costs no random draws."""

    def __init__(self) -> None:
        rng = np.random.default_rng(20261101)
        white = rng.standard_normal((_TILE // 2, _TILE), dtype=np.float32)
        # Stereo error is blotchy: neighbours share their match window.
        blotchy = (
            white + np.roll(white, 1, 0) + np.roll(white, 1, 1) + np.roll(white, (1, 1), (0, 1))
        )
        self._noise = blotchy / np.float32(2.0)
        self._chance = rng.random((_TILE // 2, _TILE), dtype=np.float32)
        self._chance = self._chance * (SLOPE_LOST - SLOPE_SEEN) + SLOPE_SEEN

    def measure(
        self, depth_m: np.ndarray, focal_px: float, key: tuple[int, ...], noise: bool
    ) -> np.ndarray:
        """float32[H, W] metres along the optical axis -> uint16[H, W] mm, 0 where there is none.

        key: integers that select this frame's noise; equal keys give equal noise.
        """
        lost = (depth_m > MAX_RANGE_M) | (depth_m < MIN_RANGE_M)
        if not noise:
            measured = depth_m * np.float32(1000.0) + np.float32(0.5)
            measured[depth_m > MAX_RANGE_M] = 0.0
            return measured.astype(np.uint16)
        height, width = depth_m.shape
        rng = np.random.default_rng(key)
        row = int(rng.integers(_TILE // 2 - height + 1))
        col = int(rng.integers(_TILE - width + 1))
        window = (slice(row, row + height), slice(col, col + width))
        lost |= self._steep(depth_m, focal_px) > self._chance[window]
        sigma = np.square(depth_m)
        sigma *= np.float32(1000.0 * SIGMA_PER_M)
        sigma *= self._noise[window]
        measured = depth_m * np.float32(1000.0)
        measured += sigma
        measured += np.float32(0.5)
        measured[lost] = 0.0
        return measured.astype(np.uint16)

    @staticmethod
    def _steep(depth_m: np.ndarray, focal_px: float) -> np.ndarray:
        """Largest slope to the right and lower neighbour, as tangent to the line of sight."""
        steep = np.zeros_like(depth_m)
        across = np.abs(depth_m[:, 1:] - depth_m[:, :-1])
        down = np.abs(depth_m[1:] - depth_m[:-1])
        steep[:, 1:] = across
        np.maximum(steep[:, :-1], across, out=steep[:, :-1])
        np.maximum(steep[1:], down, out=steep[1:])
        np.maximum(steep[:-1], down, out=steep[:-1])
        steep *= np.float32(focal_px)
        steep /= depth_m
        return steep
