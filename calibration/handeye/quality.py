"""How good an estimate is, by numbers that it did not choose itself: stands left out, pairs of stands, other
solvers, resampling. Metres and radians inside; millimetres, degrees and pixels in what is given out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import combinations

import msgspec
import numpy as np

from calibration import rigid
from calibration.handeye.closed_form import board_pose, near_T_far, project
from calibration.handeye.estimate import Estimate, refit
from calibration.handeye.linear import Poses
from calibration.handeye.samples import Camera, HandEyeError, Sample, Setup, View
from calibration.handeye.start import pixels
from calibration.rigid import Array

MAX_PAIRS = 2000
BOOTSTRAP = 200


class Spread(msgspec.Struct, frozen=True):
    """Median, 90th percentile and largest of some distances."""

    median: float
    p90: float
    max: float

    @classmethod
    def of(cls, values: Array) -> Spread:
        return cls(float(np.median(values)), float(np.quantile(values, 0.9)), float(np.max(values)))


class Misses(msgspec.Struct, frozen=True):
    """By how much the board is missed: corners in pixels, its pose in mm and degrees."""

    pixels: Spread
    mm: Spread
    degrees: Spread


class Solver(msgspec.Struct, frozen=True):
    """One of OpenCV's: how far its camera is from ours, and its median corner; or why it has no answer."""

    mm: float | None
    degrees: float | None
    pixels: float | None
    refused: str = ""


class StandQuality(msgspec.Struct, frozen=True, kw_only=True):
    """Of one camera at one stand, pixels: the mean corner with the arm where it most likely was, with the
    arm at its word, and that of an estimate that did not see this stand (None: there is none without it)."""

    corner_px: float
    stated_px: float
    held_out_px: float | None


class CameraQuality(msgspec.Struct, frozen=True, kw_only=True):
    """Of one camera. `reprojection_px`: corners against their prediction with the arm where it says;
    `corner_px`: with the arm where it most likely was. `held_out`: stands that the estimate did not see, one
    after the other. `pairs`: AX = XB over pairs of stands (mm, degrees). `interval_mm`, `interval_deg`:
    half-widths of the 95 % intervals of the camera's pose, per axis of the camera; `bootstrap_*` the same by
    resampling stands (None: too few)."""

    stands: int
    reprojection_px: Spread
    corner_px: Spread
    held_out: Misses
    pairs_mm: Spread
    pairs_deg: Spread
    interval_mm: tuple[float, float, float]
    interval_deg: tuple[float, float, float]
    bootstrap_mm: tuple[float, float, float] | None
    bootstrap_deg: tuple[float, float, float] | None
    solvers: dict[str, Solver]
    each: dict[str, StandQuality]
    """By stand."""


Missed = dict[str, tuple[float, float, float]]
"""By stand: `misses` of an estimate that did not see it."""


def assess(
    setup: Setup, found: Estimate, *, bootstrap: int = BOOTSTRAP, seed: int = 0
) -> dict[str, CameraQuality]:
    """Of every camera, over the stands that the estimate used."""
    used = replace(setup, samples=tuple(s for s in setup.samples if s.name in found.stands))
    held = _held_out(used, found)
    for name, missed in held.items():
        if not missed:
            raise HandEyeError(
                f"camera '{name}': no stand can be left out, so nothing can check the others",
                found=f"{len(used.samples)} stands",
                remedy="capture more, turning the hand about at least two axes",
            )
    drawn = _resampled(used, found, bootstrap, seed) if bootstrap else []
    return {camera.name: _of_camera(used, found, camera, held, drawn) for camera in used.cameras}


def _of_camera(
    setup: Setup, found: Estimate, camera: Camera, held: dict[str, Missed], drawn: list[Poses]
) -> CameraQuality:
    name = camera.name
    half = found.interval("camera", name)
    mm, degrees = _pairs(_placed(setup, found.poses), camera, found.poses.cameras[name])
    shifts, turns = _bootstrap_intervals(
        found.poses.cameras[name], [p.cameras[name] for p in drawn]
    )
    stated, own = (lengths_px(found, residuals, name) for residuals in (found.stated, found.own))
    missed = held[name]
    return CameraQuality(
        stands=len(setup.of(camera)),
        reprojection_px=Spread.of(np.concatenate([*stated.values()])),
        corner_px=Spread.of(np.concatenate([*own.values()])),
        held_out=Misses(*(Spread.of(np.array(one)) for one in zip(*missed.values(), strict=True))),
        pairs_mm=Spread.of(mm),
        pairs_deg=Spread.of(degrees),
        interval_mm=_three(1e3 * half[3:]),
        interval_deg=_three(np.degrees(half[:3])),
        bootstrap_mm=shifts,
        bootstrap_deg=turns,
        solvers=_solvers(setup, camera, found),
        each={
            stand: StandQuality(
                corner_px=float(own[stand].mean()),
                stated_px=float(stated[stand].mean()),
                held_out_px=missed[stand][0] if stand in missed else None,
            )
            for stand in own
        },
    )


def lengths_px(
    found: Estimate, residuals: Sequence[Mapping[str, Array]], camera: str
) -> dict[str, Array]:
    """By stand that this camera saw the board from: how far each corner [K] is from its prediction."""
    return {
        stand: np.linalg.norm(one[camera], axis=1)
        for stand, one in zip(found.stands, residuals, strict=True)
        if camera in one
    }


def predicted(camera: Camera, sample: Sample, poses: Poses) -> Array:
    """camera_T_board with the arm where it says."""
    link = near_T_far(camera, sample)
    return rigid.invert(poses.cameras[camera.name]) @ link @ poses.boards[camera.mount]


def misses(camera: Camera, sample: Sample, view: View, poses: Poses) -> tuple[float, float, float]:
    """Mean corner in pixels, and the board's pose in mm and degrees, prediction against sight."""
    pose = predicted(camera, sample, poses)
    points = view.points_m * poses.scale
    off = np.linalg.norm(project(camera, pose, points) - view.pixels, axis=1)
    seen, _ = board_pose(camera, View(points, view.pixels))
    middle = points.mean(axis=0)
    apart = pose[:3, :3] @ middle + pose[:3, 3] - seen[:3, :3] @ middle - seen[:3, 3]
    return float(off.mean()), 1e3 * float(np.linalg.norm(apart)), rigid.angle_deg(pose, seen)


def _held_out(setup: Setup, found: Estimate) -> dict[str, Missed]:
    held: dict[str, Missed] = {camera.name: {} for camera in setup.cameras}
    for index, sample in enumerate(setup.samples):
        rest = setup.samples[:index] + setup.samples[index + 1 :]
        try:
            poses = refit(replace(setup, samples=rest), found)
        except np.linalg.LinAlgError:
            continue  # this stand alone held the answer together: its intervals say so
        [there] = _placed(replace(setup, samples=(sample,)), poses).samples
        for camera in setup.cameras:
            if camera.name in sample.views:
                view = sample.views[camera.name]
                held[camera.name][sample.name] = misses(camera, there, view, poses)
    return held


def _placed(setup: Setup, poses: Poses) -> Setup:
    """With every hand where it is under the arm's zeros that were found, if any were asked for."""
    return setup if setup.arm is None else setup.arm.placed(setup, poses.zeros)


def _pairs(setup: Setup, camera: Camera, carrier_T_camera: Array) -> tuple[Array, Array]:
    """AX against XB: how the camera should have moved between two stands, and how the board says it did."""
    seen = setup.of(camera)
    far = [rigid.invert(near_T_far(camera, sample)) @ carrier_T_camera for sample, _ in seen]
    boards = [board_pose(camera, view)[0] for _, view in seen]
    every = list(combinations(range(len(seen)), 2))
    if len(every) > MAX_PAIRS:
        chosen = np.random.default_rng(0).choice(len(every), MAX_PAIRS, replace=False)
        every = [every[index] for index in sorted(chosen.tolist())]
    mm, degrees = [], []
    for i, j in every:
        moved = rigid.invert(far[j]) @ far[i]
        looked = boards[j] @ rigid.invert(boards[i])
        mm.append(rigid.distance_mm(moved, looked))
        degrees.append(rigid.angle_deg(moved, looked))
    return np.array(mm), np.array(degrees)


def _resampled(setup: Setup, found: Estimate, count: int, seed: int) -> list[Poses]:
    random = np.random.default_rng(seed)
    drawn = []
    for _ in range(count):
        chosen = random.integers(0, len(setup.samples), len(setup.samples))
        samples = tuple(setup.samples[index] for index in chosen.tolist())
        try:
            drawn.append(refit(replace(setup, samples=samples), found))
        except np.linalg.LinAlgError:
            continue
    return drawn


def _bootstrap_intervals(
    pose: Array, drawn: list[Array]
) -> tuple[tuple[float, float, float] | None, tuple[float, float, float] | None]:
    """Half the width between the 2.5th and the 97.5th percentile, in the camera's own axes."""
    if len(drawn) < BOOTSTRAP // 4:
        return None, None
    turns = np.array([rigid.turn_of(pose[:3, :3].T @ one[:3, :3]) for one in drawn])
    shifts = np.array([pose[:3, :3].T @ (one[:3, 3] - pose[:3, 3]) for one in drawn])

    def half(values: Array) -> Array:
        low, high = np.quantile(values, [0.025, 0.975], axis=0)
        return np.asarray(high - low) / 2

    return _three(1e3 * half(shifts)), _three(np.degrees(half(turns)))


def _solvers(setup: Setup, camera: Camera, found: Estimate) -> dict[str, Solver]:
    ours = found.poses.cameras[camera.name]
    said = {}
    for guess in found.guesses[camera.name]:
        if guess.refused:
            said[guess.method] = Solver(None, None, None, guess.refused)
            continue
        pose = guess.carrier_T_camera
        said[guess.method] = Solver(
            rigid.distance_mm(ours, pose),
            rigid.angle_deg(ours, pose),
            pixels(setup, camera, pose, guess.far_T_board),
        )
    return said


def _three(values: Array) -> tuple[float, float, float]:
    x, y, z = values.tolist()
    return x, y, z
