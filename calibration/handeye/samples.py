"""What a hand-eye calibration is made from: poses of the arm, and the corners that each camera saw. Data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from calibration import rigid
from calibration.rigid import Array
from contracts.calibration import Mount
from contracts.errors import EntracteError

if TYPE_CHECKING:
    from calibration.handeye.joints import UnknownZeros

MIN_SAMPLES = 3
MIN_CORNERS = 4


class HandEyeError(EntracteError):
    """These samples determine no calibration; the sentence says why and what to do."""


@dataclass(frozen=True)
class Camera:
    """Pinhole of a camera, pixels, for corners that are freed of distortion. `mount`: "hand" or "world"."""

    name: str
    mount: Mount
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def matrix(self) -> Array:
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])


@dataclass(frozen=True)
class View:
    """What one camera saw of the board: `points_m` float64[K,3] in the board's frame (x right and y down as
    it is printed, z into the paper, as OpenCV's boards), `pixels` float64[K,2] freed of distortion."""

    points_m: Array
    pixels: Array


@dataclass(frozen=True)
class Sample:
    """One stand of the arm: its pose base_T_hand [4,4] and the views by camera. `name` is for messages;
    `joints`: what they read, where that was noted."""

    name: str
    base_T_hand: Array
    views: Mapping[str, View]
    joints: tuple[float, ...] = ()


@dataclass(frozen=True)
class Setup:
    """Cameras and samples that fit together; made by `make_setup`. `arm`: whose zeros are unknown, too."""

    cameras: tuple[Camera, ...]
    samples: tuple[Sample, ...]
    left_out: tuple[str, ...] = field(default=())
    """Views that could not be used, and why."""
    arm: UnknownZeros | None = None

    @property
    def mounts(self) -> tuple[Mount, ...]:
        """Those that occur, each with a board of its own."""
        found: list[Mount] = []
        for camera in self.cameras:
            if camera.mount not in found:
                found.append(camera.mount)
        return tuple(found)

    def of(self, camera: Camera) -> list[tuple[Sample, View]]:
        """The samples in which that camera saw the board."""
        return [(s, s.views[camera.name]) for s in self.samples if camera.name in s.views]


def make_setup(
    cameras: Sequence[Camera], samples: Sequence[Sample], fewest: int = MIN_SAMPLES
) -> Setup:
    """Checked for what every solver needs; every camera in `fewest` stands. Raises `HandEyeError`."""
    left_out, kept = [], []
    for sample in samples:
        if not rigid.is_rigid(sample.base_T_hand):
            raise HandEyeError(
                f"sample {sample.name}: the arm's pose is no rigid transform",
                expected="a finite rotation and translation, right-handed",
                remedy="check the arm's kinematics, or how its poses were written down",
            )
        views = {}
        for name, view in sample.views.items():
            if why := _unusable(view):
                left_out.append(f"{sample.name}/{name}: {why}")
            else:
                views[name] = view
        kept.append(replace(sample, views=views))
    for camera in cameras:
        count = sum(camera.name in sample.views for sample in kept)
        if count < fewest:
            raise HandEyeError(
                f"camera '{camera.name}' saw the board in too few poses",
                expected=f"{fewest} or more, better 15",
                found=f"{count} of {len(kept)}",
                remedy="move the arm so that the board is in view, and capture again",
            )
    names = {camera.name for camera in cameras}
    used = tuple(s for s in kept if names & set(s.views))
    return Setup(tuple(cameras), used, tuple(left_out))


def _unusable(view: View) -> str:
    points, pixels = view.points_m, view.pixels
    if points.shape != (len(pixels), 3) or pixels.shape != (len(pixels), 2):
        return f"shapes of points and pixels differ: {points.shape}, {pixels.shape}"
    if not (np.isfinite(points).all() and np.isfinite(pixels).all()):
        return "corners are not finite"
    if len(points) < MIN_CORNERS:
        return f"{len(points)} corners, fewer than {MIN_CORNERS}"
    spread = np.linalg.svd(points - points.mean(axis=0), compute_uv=False)
    if spread[1] < 1e-3 * spread[0]:
        return "its corners lie on a line"
    return ""
