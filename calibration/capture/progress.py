"""How far a capture is: what of the pictures is covered, how the hand turned, how sure the result would be.

The uncertainty is that of the estimate itself: from the Jacobian of the corners' reprojection at the solution
so far, with the noise that the stands show. Owns the words; measures through `calibration.handeye`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calibration.capture.looking import Seen
from calibration.capture.taking import Capture
from calibration.handeye import refusals
from calibration.handeye.estimate import Estimate, estimate
from calibration.handeye.samples import HandEyeError, Setup
from calibration.handeye.verdict import Limits
from calibration.intrinsics import coverage
from calibration.lenses import Lens
from calibration.rigid import Array

FEWEST = 4
"""Stands from which on a solution is tried."""
LIMITS = Limits()
"""What a capture is told to reach: below the first of each pair `handeye` warns of nothing."""


@dataclass(frozen=True)
class CameraProgress:
    """`covered`: share of the picture's cells with corners; `tilts_deg`: least and largest; `turns_deg` [3]:
    how the hand turned while this camera saw the board, along its principal axes, largest first (singular
    values, root mean square)."""

    stands: int
    covered: float
    tilts_deg: tuple[float, float]
    turns_deg: Array
    interval_mm: float | None = None
    """The widest half-width of its place's 95 % intervals, and of its turn's."""
    interval_deg: float | None = None


@dataclass(frozen=True)
class Progress:
    """`found`: the solution so far, or `why` there is none. `setup`: what it was made of."""

    cameras: dict[str, CameraProgress]
    setup: Setup | None
    found: Estimate | None
    why: str

    @property
    def solved(self) -> tuple[Setup, Estimate] | None:
        return None if self.found is None or self.setup is None else (self.setup, self.found)


def progress(capture: Capture) -> Progress:
    """Of all stands so far. Takes from milliseconds to a second."""
    setup, found, why = None, None, f"none before {FEWEST} stands"
    seen_by = [c for c in capture.pinholes if len(capture.seen(c.name)) >= FEWEST]
    if seen_by and not capture.lens_only:
        names = {camera.name for camera in seen_by}
        samples = tuple(sample for sample in capture.samples if names & set(sample.views))
        setup = Setup(tuple(seen_by), samples)
        try:
            refusals.require_turns(setup)
            found = estimate(setup)
        except (HandEyeError, np.linalg.LinAlgError) as error:
            why = str(error)
    cameras = {name: _of_camera(capture, name, found) for name in capture.cameras}
    return Progress(cameras, setup, found, "" if found or capture.lens_only else why)


def text_of(state: Progress, rejections: dict[str, int]) -> str:
    """For a terminal, indented under the stand that it is said after."""
    lines = []
    for name, one in state.cameras.items():
        if not one.stands:
            lines.append(f"{name}: has not seen the board yet")
            continue
        low, high = one.tilts_deg
        turned = " ".join(f"{value:.1f}" for value in one.turns_deg)
        lines.append(
            f"{name}: {one.stands} stands, {100 * one.covered:.0f} % of the picture covered, tilts {low:.0f} "
            f"to {high:.0f} deg; the hand turned {turned} deg about its axes (want "
            f"{LIMITS.turn_deg[0]:g} about two; smallest {one.turns_deg[2]:.1f})"
        )
        if one.interval_mm is not None and one.interval_deg is not None:
            lines.append(
                f"{name}: result so far ± {one.interval_mm:.2f} mm, ± {one.interval_deg:.2f} deg (95 %; want "
                f"{LIMITS.interval_mm[0]:g} and {LIMITS.interval_deg[0]:g})"
            )
    if state.why:
        lines.append(f"no result yet: {state.why}")
    if rejections:
        said = ", ".join(f"{count} x {what}" for what, count in sorted(rejections.items()))
        lines.append(f"rejected so far: {said}")
    return "\n".join(f"    {line}" for line in lines)


def lacks(state: Progress) -> list[str]:
    """What a hand-eye calibration from these stands would warn of, in words; empty if nothing."""
    found = []
    for name, one in state.cameras.items():
        if one.stands < LIMITS.stands[0]:
            found.append(f"{name}: {one.stands} stands, fewer than {LIMITS.stands[0]}")
        if one.stands and one.turns_deg[1] < LIMITS.turn_deg[0]:
            found.append(
                f"{name}: the hand turned by {one.turns_deg[1]:.1f} deg about its second axis, less than "
                f"{LIMITS.turn_deg[0]:g}"
            )
        if one.interval_mm is not None and one.interval_mm > LIMITS.interval_mm[0]:
            found.append(f"{name}: ± {one.interval_mm:.1f} mm, more than {LIMITS.interval_mm[0]:g}")
        if one.interval_deg is not None and one.interval_deg > LIMITS.interval_deg[0]:
            found.append(
                f"{name}: ± {one.interval_deg:.2f} deg, more than {LIMITS.interval_deg[0]:g}"
            )
    return found + ([f"no result: {state.why}"] if state.why else [])


def hint(seen: list[Seen]) -> str:
    """What the pictures lack most, where no solution tells it: the side that it was seen from least."""
    if not seen:
        return "bring the board into the middle of the picture, the camera facing it"
    ways = {
        "look at the board from its left": (-1.0, 0.0),
        "look at the board from its right": (1.0, 0.0),
        "look at the board from its upper edge": (0.0, -1.0),
        "look at the board from its lower edge": (0.0, 1.0),
    }
    stood = sides(seen)
    reached = {way: float((stood @ axis).max()) for way, axis in ways.items()}
    rolls = np.unwrap([np.arctan2(one.pose[1, 0], one.pose[0, 0]) for one in seen])
    way = min(reached, key=lambda one: reached[one])
    if reached[way] > np.sin(np.radians(15.0)) and np.ptp(rolls) < np.radians(30.0):
        return "turn the camera about its line of sight, by 30 deg and more"
    return f"{way}, tilted by 20 to 40 deg"


def sides(seen: list[Seen]) -> Array:
    """[K,2]: how far beside the board's normal the camera stood, right and down in the board's own axes, as
    the sine of the angle."""
    beside = [
        -one.pose[:3, :3].T @ one.pose[:3, 3] - one.view.points_m.mean(axis=0) for one in seen
    ]
    found = [at[:2] / one.distance_m for at, one in zip(beside, seen, strict=True)]
    return np.reshape(found, (-1, 2))


def empty_part(seen: list[Seen], lens: Lens) -> str:
    """Of the nine parts of a picture the one with the fewest corners, in words."""
    counts = np.zeros((3, 3))
    for one in seen:
        cells = (3 * one.corners.pixels / [lens.width, lens.height]).astype(int)
        np.add.at(counts, tuple(np.clip(cells, 0, 2).T[::-1]), 1)
    row, column = np.unravel_index(int(counts.argmin()), counts.shape)
    words = (("upper", "", "lower")[int(row)], ("left", "", "right")[int(column)])
    return " ".join(word for word in words if word) or "middle"


def _of_camera(capture: Capture, name: str, found: Estimate | None) -> CameraProgress:
    seen = capture.seen(name)
    if not seen:
        return CameraProgress(0, 0.0, (0.0, 0.0), np.zeros(3))
    pixels = np.concatenate([one.corners.pixels for one in seen])
    tilts = [one.tilt_deg for one in seen]
    turns = refusals.turns_deg([sample for sample in capture.samples if name in sample.views])
    mm = degrees = None
    if found is not None and ("camera", name) in found.blocks:
        half = found.interval("camera", name)
        mm, degrees = 1e3 * float(half[3:].max()), float(np.degrees(half[:3].max()))
    lens = capture.cameras[name].lens
    return CameraProgress(
        len(seen), coverage(pixels, lens), (min(tilts), max(tilts)), turns, mm, degrees
    )
