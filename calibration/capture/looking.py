"""What a picture of a board is worth: corners and a pose that can be used, or the reason why not. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt

from calibration import rigid
from calibration.boards import MIN_SHARPNESS, Corners, Finder, is_mirrored
from calibration.handeye.closed_form import board_poses
from calibration.handeye.refusals import MAX_BOARD_PX
from calibration.handeye.samples import MIN_CORNERS, View
from calibration.lenses import Lens
from calibration.rigid import Array
from calibration.shots import OUTSIDE, ShotCamera

MIN_OF_BOARD = 6
"""Corners of a ChArUco board: four fit any pose."""
MAX_TILT_DEG = 70.0
BOARD_STILL_PX = 1.0
"""How far corners may move between two pictures of a standing arm (median)."""
TWO_FOLD_DEG, TWO_FOLD = 5.0, 20.0
"""Two poses that differ by more, and of which the worse is not less likely by a factor of exp(this / 2)."""
_NOISE_PX = 0.2
"""A corner's at least, per axis: so sure is no picture."""
_UNBENT = 0.05
"""Of the board's size in the picture: what a lens of which nothing is known yet leaves of a right board. Wide
ones leave up to 0.03, another board than the one that was named 0.1 and more."""


@dataclass(frozen=True)
class Seen:
    """`view`: corners freed of distortion; `pose`: camera_T_board [4,4]; `pixels`: its reprojection error
    (rms); `tilt_deg`: between the line of sight and the board's normal; `distance_m`: to its middle."""

    corners: Corners
    view: View
    pose: Array
    pixels: float
    tilt_deg: float
    distance_m: float


@dataclass(frozen=True)
class Rejected:
    """`kind`: a stable word, what is counted; `why`: a sentence with what was measured."""

    kind: str
    why: str


def look(
    camera: ShotCamera,
    finder: Finder,
    picture: npt.NDArray[np.uint8],
    *,
    lens_only: bool = False,
) -> Seen | Rejected:
    """Of uint8[H,W] or uint8[H,W,3] RGB. `finder` is of the camera's board. `lens_only`: it is the lens that
    is asked for, so that the camera's own proves nothing: the pose is roughly that of a pinhole."""
    corners = finder.find(picture)
    if corners is None:
        return _unseen(finder, picture)
    points, lens = camera.board.points(), camera.lens
    if lens_only:
        lens = msgspec.structs.replace(lens, model="none", distortion=(0.0,) * 5)
    view = View(points[corners.numbers], lens.straighten(corners.pixels))
    if unfit := _unfit(camera, lens, corners, view):
        return unfit
    poses = board_poses(lens.pinhole("", camera.mount), view)
    size_px = float(np.linalg.norm(np.ptp(corners.pixels, axis=0)))
    if not poses or poses[0][1] > max(MAX_BOARD_PX, _UNBENT * size_px if lens_only else 0.0):
        found = f"{poses[0][1]:.1f} px off" if poses else "no pose at all"
        why = (
            "the corners are not those of the board that was named, or the lens is not this camera's "
            f"({found})"
        )
        return Rejected("board", why)
    pose, pixels = poses[0]
    middle = pose[:3, :3] @ points.mean(axis=0) + pose[:3, 3]
    tilt = tilt_deg(pose, middle)
    if tilt > MAX_TILT_DEG:
        why = f"seen too much from the side ({tilt:.0f} deg, at most {MAX_TILT_DEG:g})"
        return Rejected("tilt", why)
    if not lens_only and (why := _two_fold(poses, len(view.pixels))):
        return Rejected("ambiguous", why)
    return Seen(corners, view, pose, pixels, tilt, float(np.linalg.norm(middle)))


def _unseen(finder: Finder, picture: npt.NDArray[np.uint8]) -> Rejected:
    if is_mirrored(finder, picture):
        return Rejected("mirrored", "it sees the board mirrored: switch that off in its driver")
    return Rejected("unseen", "the board is not seen")


def look_twice(
    camera: ShotCamera,
    finder: Finder,
    earlier: npt.NDArray[np.uint8],
    later: npt.NDArray[np.uint8],
    *,
    lens_only: bool = False,
) -> Seen | Rejected:
    """The same of the later of two pictures, between which nothing may have moved."""
    seen = look(camera, finder, later, lens_only=lens_only)
    if isinstance(seen, Rejected):
        return seen
    before = finder.find(earlier)
    moved = float("inf") if before is None else shifted_px(before, seen.corners)
    if not np.isfinite(moved):  # hidden, or at the edge of what can be found: nobody saw it move
        return Rejected("unseen", "the board is seen in one of two pictures only")
    if moved > BOARD_STILL_PX:
        return Rejected("moving", f"the board moves (by {moved:.1f} px between two pictures)")
    return seen


def _unfit(camera: ShotCamera, lens: Lens, corners: Corners, view: View) -> Rejected | None:
    fewest = MIN_CORNERS if camera.board.kind == "marker" else MIN_OF_BOARD
    if len(corners.numbers) < fewest:
        return Rejected("corners", f"{len(corners.numbers)} corners, fewer than {fewest}")
    if corners.sharpness < MIN_SHARPNESS:
        found = f"sharpness {corners.sharpness:.0f}, below {MIN_SHARPNESS:g}"
        return Rejected("blurred", f"blurred ({found}): see to light and focus")
    if _on_a_line(view.points_m):
        return Rejected("corners", "its corners lie on a line")
    return None if lens.covers(corners.pixels).all() else Rejected("lens", OUTSIDE)


def tilt_deg(camera_T_board: Array, middle: Array) -> float:
    """Between the line of sight to the board's middle [3] and its normal; above 90 it is seen from behind."""
    along = float(middle @ camera_T_board[:3, 2]) / float(np.linalg.norm(middle))
    return float(np.degrees(np.arccos(np.clip(along, -1.0, 1.0))))


def shifted_px(one: Corners, other: Corners) -> float:
    """Median distance of the corners that two pictures share; inf where they share less than half."""
    _, mine, theirs = np.intersect1d(one.numbers, other.numbers, return_indices=True)
    if 2 * len(mine) < max(len(one.numbers), len(other.numbers)):
        return float("inf")
    apart = np.linalg.norm(one.pixels[mine] - other.pixels[theirs], axis=1)
    return float(np.median(apart))


def _two_fold(poses: list[tuple[Array, float]], corners: int) -> str:
    """Why a flat board's pose can't be told from its mirror image; empty if it can."""
    (best, least), *others = poses
    noise = max(least, _NOISE_PX)
    for other, pixels in others:
        apart = rigid.angle_deg(best, other)
        unlikely = 2 * corners * (pixels**2 - least**2) / noise**2
        if apart > TWO_FOLD_DEG and unlikely < TWO_FOLD:
            return (
                f"ambiguous: a pose turned by {apart:.0f} deg explains it as well ({least:.2f} and "
                f"{pixels:.2f} px); tilt the board more, or come nearer"
            )
    return ""


def _on_a_line(points_m: Array) -> bool:
    spread = np.linalg.svd(points_m - points_m.mean(axis=0), compute_uv=False)
    return bool(spread[1] < 1e-3 * spread[0])
