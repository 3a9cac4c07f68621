"""Samples that determine nothing, or something else than was meant: found and refused, never answered.

Before the estimate: too little rotation, a board that is mirrored. After it: squares of another size than was
said. Each sentence names what was measured.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.stats import t

from calibration import rigid
from calibration.handeye.closed_form import board_pose, middle
from calibration.handeye.estimate import Estimate, estimate
from calibration.handeye.samples import HandEyeError, Sample, Setup
from calibration.rigid import Array

MIN_TURN_DEG = 0.5
"""What the hand must turn by, about each of two axes (root mean square over the stands): less is what arms
misreport. Above it the intervals say how much the turns were worth."""
MAX_BOARD_PX = 5.0
MAX_SIZE_ERROR = 0.01
_SURE = 0.999


def turns_deg(samples: list[Sample]) -> Array:
    """Spread of the hand's orientation along its three principal axes, largest first, degrees (root mean
    square about the mean): rotation-axis diversity."""
    poses = [sample.base_T_hand for sample in samples]
    mean = middle(poses)
    turns = np.array([rigid.turn_of(mean[:3, :3].T @ pose[:3, :3]) for pose in poses])
    found = np.linalg.svd(turns - turns.mean(axis=0), compute_uv=False)
    spread = np.zeros(3)
    spread[: len(found)] = np.degrees(found) / np.sqrt(len(poses))
    return spread


def require_turns(setup: Setup) -> None:
    """Raise `HandEyeError` unless every camera saw the board while the hand turned about two axes."""
    for camera in setup.cameras:
        spread = turns_deg([sample for sample, _ in setup.of(camera)])
        if spread[1] >= MIN_TURN_DEG:
            continue
        what = "did not turn" if spread[0] < MIN_TURN_DEG else "turned about one axis only"
        raise HandEyeError(
            f"the hand {what} while camera '{camera.name}' saw the board",
            expected=f"{MIN_TURN_DEG:g} degrees and more about each of two axes (root mean square)",
            found=" and ".join(f"{angle:.1f}" for angle in spread[:2]),
            remedy="tilt the hand to both sides and fore and aft, by 20 to 40 degrees",
        )


def require_board(setup: Setup) -> None:
    """Raise `HandEyeError` where the corners of most views are not those of the board that was named."""
    for camera in setup.cameras:
        found = [board_pose(camera, view) for _, view in setup.of(camera)]
        off = float(np.median([px for _, px in found]))
        if off > MAX_BOARD_PX:
            raise HandEyeError(
                f"what camera '{camera.name}' sees is not the board that was named",
                expected=f"corners within {MAX_BOARD_PX:g} px of a flat board's",
                found=f"{off:.1f} px (median of {len(found)} views)",
                remedy="check the board's rows, columns and pattern, and the camera's intrinsics",
            )
        # The picture of a mirrored board is that of a board seen through its paper from behind.
        behind = sum(pose[2, 2] < 0 for pose, _ in found)
        if behind > len(found) // 2:
            raise HandEyeError(
                f"camera '{camera.name}' sees the board mirrored",
                found=f"in {behind} of {len(found)} views",
                remedy="switch mirroring off in the camera's driver, or print the board as it is named",
            )


def require_size(setup: Setup, found: Estimate) -> tuple[float, float]:
    """(the board's measured size over the stated one, half-width of its 95 % interval): the arm's own
    movements tell how large the board is. Raises `HandEyeError` where that is surely another size."""
    kept = tuple(sample for sample in setup.samples if sample.name not in found.left_out)
    free = estimate(replace(setup, samples=kept), size_known=False, drop_outliers=False)
    log_size, deviation = float(np.log(free.poses.scale)), free.scale_deviation
    surely = deviation * float(t.ppf(0.5 + _SURE / 2, free.freedom))
    if abs(log_size) > max(surely, MAX_SIZE_ERROR):
        raise HandEyeError(
            "the board has another size than was said",
            expected="the size in the board's description",
            found=f"{free.poses.scale:.3f} times that, measured by the arm's own movements",
            remedy="measure the squares with a ruler and enter what you find, or check the arm's units",
        )
    return free.poses.scale, deviation * float(t.ppf(0.975, free.freedom))
