"""From a capture to a result: finds the board, refuses, estimates, assesses, judges, puts it into words."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np

from calibration import shots
from calibration.handeye import refusals
from calibration.handeye.estimate import Estimate, estimate
from calibration.handeye.quality import CameraQuality, assess
from calibration.handeye.samples import Setup
from calibration.handeye.verdict import Verdict, judge
from calibration.rigid import Array
from contracts.calibration import Mount

_TOLD = 0.5
"""Of what was known beforehand: a zero's interval above it says that little was added."""
Rows = tuple[tuple[float, float, float, float], ...]


class CameraResult(msgspec.Struct, frozen=True, kw_only=True):
    """`mount` "hand": `pose` is hand_T_camera; "world": base_T_camera. 4 rows, metres. `covariance`: 6×6, of
    a small rotation (radians) and then translation (metres) in the camera's own frame."""

    mount: Mount
    pose: Rows
    covariance: tuple[tuple[float, ...], ...]
    turns_deg: tuple[float, float, float]
    """How far the hand turned while this camera saw the board, along its three principal axes."""
    quality: CameraQuality


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """`arm_mm`, `arm_deg`: how inexact the arm shows itself to be, per axis; `pixels`: a corner's noise.
    `size`: the board's measured over its stated size with the half-width of its 95 % interval, per solve.
    `not_used`: views and stands, each with the reason."""

    verdict: Verdict
    cameras: dict[str, CameraResult]
    boards: dict[Mount, Rows]
    size: tuple[float, float]
    size_measured: bool
    arm_mm: float
    arm_deg: float
    pixels: float
    stands: tuple[str, ...]
    not_used: tuple[str, ...]
    zeros_deg: dict[str, tuple[float, float]] = {}
    """By how much a joint turned more than it read, where that was asked for, with the half-width of its 95 %
    interval."""
    zeros_prior_deg: float = 0.0
    """Half-width of such an interval before anything was seen."""


def solve(folder: Path, *, size_known: bool = True, bootstrap: int = 200) -> Result:
    """Raises `ShotsError` and `HandEyeError` for what gives no calibration."""
    setup = shots.to_setup(folder, shots.read(folder))
    return solve_setup(setup, size_known=size_known, bootstrap=bootstrap)


def solve_setup(setup: Setup, *, size_known: bool = True, bootstrap: int = 200) -> Result:
    """The same of corners that were found already."""
    return assessed(setup, size_known=size_known, bootstrap=bootstrap)[0]


def assessed(
    setup: Setup, *, size_known: bool = True, bootstrap: int = 200
) -> tuple[Result, Estimate]:
    """The result, and the estimate that it was made from."""
    refusals.require_turns(setup)
    refusals.require_board(setup)
    found = estimate(setup, size_known=size_known)
    size = refusals.require_size(setup, found) if size_known else _size(found)
    quality = assess(setup, found, bootstrap=bootstrap)
    turns = {}
    for camera in setup.cameras:
        used = [sample for sample, _ in setup.of(camera) if sample.name in found.stands]
        turns[camera.name] = refusals.turns_deg(used)
    second = {name: float(spread[1]) for name, spread in turns.items()}
    stands = len(found.stands) + len(found.left_out)
    verdict = judge(quality, second, len(found.left_out), stands, size[1])
    result = Result(
        verdict=verdict,
        cameras={
            camera.name: CameraResult(
                mount=camera.mount,
                pose=_rows(found.poses.cameras[camera.name]),
                covariance=_covariance(found, camera.name),
                turns_deg=(*turns[camera.name].tolist(),),
                quality=quality[camera.name],
            )
            for camera in setup.cameras
        },
        boards={mount: _rows(pose) for mount, pose in found.poses.boards.items()},
        size=size,
        size_measured=not size_known,
        arm_mm=1e3 * found.noise.shift_m,
        arm_deg=float(np.degrees(found.noise.turn_rad)),
        pixels=found.noise.pixels,
        stands=found.stands,
        zeros_deg=_zeros(setup, found),
        zeros_prior_deg=0.0
        if setup.arm is None
        else 1.96 * float(np.degrees(setup.arm.spread_rad)),
        not_used=(
            *setup.left_out,
            *(f"{name}: the arm's pose does not fit the others" for name in found.left_out),
        ),
    )
    return result, found


def _size(found: Estimate) -> tuple[float, float]:
    return found.poses.scale, 1.96 * found.poses.scale * found.scale_deviation


def _zeros(setup: Setup, found: Estimate) -> dict[str, tuple[float, float]]:
    if setup.arm is None:
        return {}
    both = np.degrees([found.poses.zeros, found.zeros_interval()]).T.tolist()
    return {name: (off, half) for name, (off, half) in zip(setup.arm.joints, both, strict=True)}


def _rows(pose: Array) -> Rows:
    return tuple(tuple(row) for row in pose.tolist())


def _covariance(found: Estimate, name: str) -> tuple[tuple[float, ...], ...]:
    at = 6 * found.blocks.index(("camera", name))
    return tuple(tuple(row) for row in found.covariance[at : at + 6, at : at + 6].tolist())


def text_of(result: Result) -> str:
    """For a terminal."""
    lines = [
        f"{result.verdict.level.upper()}: {len(result.stands)} stands, corners {result.pixels:.2f} px, "
        f"arm {result.arm_mm:.2f} mm and {result.arm_deg:.2f} deg inexact (per axis)",
        *(f"  {reason}" for reason in result.verdict.reasons),
    ]
    measured = "measured" if result.size_measured else "checked by the arm's movements"
    lines.append(
        f"board {100 * result.size[0]:.2f} % of its stated size ± {100 * result.size[1]:.2f} ({measured})"
    )
    lines += [f"{joint}: {said}" for joint, said in zeros_text(result)]
    for name, camera in result.cameras.items():
        lines += _camera_text(name, camera)
    if result.not_used:
        lines += ["not used:", *(f"  {one}" for one in result.not_used)]
    return "\n".join(lines)


def zeros_text(result: Result) -> list[tuple[str, str]]:
    """Each joint whose zero was asked for, and what is known of it now."""
    lines = []
    for name, (off, half) in result.zeros_deg.items():
        said = f"reads {abs(off):.2f} deg too {'little' if off > 0 else 'much'} ± {half:.2f}"
        if half > _TOLD * result.zeros_prior_deg:
            said = f"not told by these stands (± {half:.2f} deg)"
        lines.append((f"joint {name}", said))
    return lines


def _camera_text(name: str, camera: CameraResult) -> list[str]:
    one = camera.quality
    place = ", ".join(f"{1e3 * row[3]:.1f}" for row in camera.pose[:3])
    frame = "hand" if camera.mount == "hand" else "base"
    held = one.held_out

    def three(values: tuple[float, float, float] | None) -> str:
        return "—" if values is None else " ".join(f"{value:.2f}" for value in values)

    lines = [
        f"{name} ({one.stands} stands): {frame}_T_camera at {place} mm",
        f"  95 % interval ± {three(one.interval_mm)} mm, ± {three(one.interval_deg)} deg (x y z of the"
        f" camera); by resampling ± {three(one.bootstrap_mm)} mm, ± {three(one.bootstrap_deg)} deg",
        f"  corners: {one.corner_px.median:.2f} px median, {one.corner_px.p90:.2f} p90;"
        f" with the arm at its word {one.reprojection_px.median:.2f}, {one.reprojection_px.p90:.2f}",
        f"  held out: {held.pixels.median:.2f} px, {held.mm.median:.2f} mm, {held.degrees.median:.2f} deg"
        f" median; {held.pixels.p90:.2f} px, {held.mm.p90:.2f} mm, {held.degrees.p90:.2f} deg p90",
        f"  pairs (AX = XB): {one.pairs_mm.median:.2f} mm, {one.pairs_deg.median:.2f} deg median;"
        f" hand turned {three(camera.turns_deg)} deg",
    ]
    for method, solver in one.solvers.items():
        said = solver.refused or (
            f"{solver.mm:8.1f} mm {solver.degrees:7.2f} deg from ours, corners {solver.pixels:.2f} px median"
        )
        lines.append(f"    {method:<11}{said}")
    return lines
