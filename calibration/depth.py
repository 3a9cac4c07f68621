"""A depth camera against a board: the plane that its depths show, and the one that its colour picture shows.

The colour's plane is only as right as the board's stated size and the lens: squares that are 1 % smaller than
was said look like depths that are 1 % too small. Limits follow Intel's "RealSense camera depth testing
methodology" (z-accuracy and plane fit within 2 %), tighter where this warns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal

import cv2
import msgspec
import numpy as np
import numpy.typing as npt
from scipy.stats import t

from calibration import shots
from calibration.boards import Finder
from calibration.capture.looking import Rejected, Seen, look
from calibration.rigid import Array
from calibration.shots import ShotCamera, Shots, ShotsError
from contracts.calibration import DepthCheck
from contracts.errors import EntracteError

Level = Literal["pass", "warn", "fail"]
Taken = tuple[str, npt.NDArray[np.uint8], npt.NDArray[np.uint16]]
"""Name, picture uint8[H,W] or uint8[H,W,3], depth uint16[H,W] aligned to it, in counts."""
MIN_PIXELS = 400
_EDGE_M = 0.004
"""Of a marker's outline: there depths of board and background mix."""
_NEAR = 0.15
"""Depths farther from the board's, as a share, are of something before or behind it."""
_OUTLIER, _ROUNDS = 4.0, 3
_APART = 1.25
"""From this ratio of the farthest to the nearest board on, scale and offset can be told apart."""
_FEW = 3
_OF_MEDIAN = 1.2533
"""How much wider a median is than a mean."""


class DepthError(EntracteError):
    """These pictures say nothing about depth."""


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """(warn, fail) above; shares of the distance but `tilt_deg`, and `holes` of the board's pixels. Those of
    `scale` and `tilt_deg` hold for how unsure they are, too: what can't be told is no pass."""

    scale: tuple[float, float] = (0.01, 0.02)
    tilt_deg: tuple[float, float] = (1.0, 3.0)
    rms: tuple[float, float] = (0.005, 0.02)
    holes: tuple[float, float] = (0.02, 0.15)


class PlaneCheck(msgspec.Struct, frozen=True, kw_only=True):
    """One picture. `offset_mm`: depth's plane less colour's, along the camera's axis at the board's middle,
    `distance_m` away; `scale`: their ratio; `tilt_deg`: between them; `rms_mm`: of depths about their own
    plane; `holes`: share of the board's pixels without depth, `strays`: with one that is not the board's.
    `unsure_mm`, `unsure_deg`: two deviations of the colour's own distance and tilt."""

    name: str
    distance_m: float
    offset_mm: float
    scale: float
    tilt_deg: float
    rms_mm: float
    holes: float
    strays: float
    unsure_mm: float
    unsure_deg: float


class DepthResult(msgspec.Struct, frozen=True, kw_only=True):
    """Medians over the pictures; of `holes` also over those with too little depth to use.
    `scale_half_width`: of its 95 % interval. `line`: where boards were at different distances, scale and
    offset (mm) apart: depth = scale * true + offset. `not_used`: pictures, with reasons."""

    level: Level
    reasons: tuple[str, ...]
    pictures: tuple[PlaneCheck, ...]
    distance_m: float
    scale: float
    scale_half_width: float
    offset_mm: float
    tilt_deg: float
    rms_mm: float
    holes: float
    line: tuple[float, float] | None
    not_used: tuple[str, ...]

    @property
    def check(self) -> DepthCheck:
        """For `calibration.json`."""
        return DepthCheck(scale=self.scale, plane_mm=self.rms_mm, distance_m=self.distance_m)


def of_capture(folder: Path, taken: Shots, name: str) -> Iterable[Taken]:
    """Its pictures with depth. Raises `ShotsError`."""
    camera = taken.cameras.get(name)
    if camera is None:
        raise ShotsError(f"no camera '{name}' in the capture", expected=sorted(taken.cameras))
    for shot in taken.shots:
        if name in shot.pictures and name in shot.depths:
            depth = shots.read_depth(folder / shot.depths[name])
            shots.require_size(folder / shot.depths[name], depth, camera)
            yield shot.name, shots.picture_of(folder, shot.pictures[name], camera), depth


def check(camera: ShotCamera, taken: Iterable[Taken], limits: Limits | None = None) -> DepthResult:
    """Raises `DepthError` where no picture shows enough of the board with depth."""
    finder = Finder(camera.board)
    found: list[PlaneCheck] = []
    not_used, blind = [], 0
    for name, picture, depth in taken:
        seen = look(camera, finder, picture)
        one = seen if isinstance(seen, Rejected) else plane_check(name, camera, seen, depth)
        if isinstance(one, Rejected):
            not_used.append(f"{name}: {one.why}")
            blind += one.kind == "holes"
        else:
            found.append(one)
    if not found:
        raise DepthError(
            "no picture shows the board with depth",
            found="; ".join(not_used[:3]) or "no picture with depth",
            remedy="capture with cameras.<name>.depth: true, the board 0.3 to 1 m away",
        )
    return _result(found, not_used, blind, limits or Limits())


def plane_check(
    name: str, camera: ShotCamera, seen: Seen, depth: npt.NDArray[np.uint16]
) -> PlaneCheck | Rejected:
    """Of one picture whose board was found. `depth` uint16[H,W], counts, 0 where there is none."""
    rays, true_m, rows, columns = _on_board(camera, seen)
    if len(rays) < MIN_PIXELS:
        return Rejected("small", f"the board covers {len(rays)} pixels, fewer than {MIN_PIXELS}")
    counts = depth[rows, columns]
    holes = float((counts == 0).mean())
    there = counts > 0
    measured_m = counts[there].astype(np.float64) * camera.depth_scale_m
    ratio = measured_m / true_m[there]
    # A wrong scale is what is looked for: strays are far from what most depths say.
    kept = np.abs(ratio / np.median(ratio) - 1) < _NEAR if len(ratio) else np.zeros(0, bool)
    if kept.sum() < MIN_PIXELS // 2:
        return Rejected(
            "holes", f"{int(kept.sum())} depths on the board, {100 * holes:.0f} % holes"
        )
    rays, measured_m = rays[there][kept], measured_m[kept]
    plane, inside = _fitted(rays, measured_m)
    middle = _middle(camera, seen)
    fitted_m = 1.0 / float(plane @ (middle / middle[2]))
    normal = plane / np.linalg.norm(plane)
    tilt = np.degrees(np.arccos(np.clip(abs(float(normal @ seen.pose[:3, 2])), 0.0, 1.0)))
    off = measured_m[inside] - 1.0 / (rays[inside] @ plane)
    unsure_m, unsure_rad = _unsure(camera, seen)
    return PlaneCheck(
        name=name,
        distance_m=float(middle[2]),
        offset_mm=1e3 * (fitted_m - float(middle[2])),
        scale=fitted_m / float(middle[2]),
        tilt_deg=float(tilt),
        rms_mm=1e3 * float(np.sqrt((off**2).mean())),
        holes=holes,
        strays=float(1.0 - inside.sum() / there.sum()),
        unsure_mm=2e3 * unsure_m,
        unsure_deg=float(2 * np.degrees(unsure_rad)),
    )


def text_of(result: DepthResult, camera: str) -> str:
    """For a terminal."""
    one = result
    lines = [
        f"{one.level.upper()}: {camera}: {len(one.pictures)} pictures of the board, {one.distance_m:.2f} m "
        "away (median)",
        *(f"  {reason}" for reason in one.reasons),
        f"depth is {100 * one.scale:.2f} % of the true one ± {100 * one.scale_half_width:.2f} (95 %), "
        f"{one.offset_mm:+.2f} mm; its plane tilted by {one.tilt_deg:.2f} deg",
        f"depths lie {one.rms_mm:.2f} mm (rms) about their plane, {100 * one.holes:.1f} % of the board has "
        "none",
    ]
    if one.line is not None:
        lines.append(f"over distance: depth = {one.line[0]:.4f} x true {one.line[1]:+.2f} mm")
    lines += [
        f"  {p.name}: {p.distance_m:.3f} m, {p.offset_mm:+.2f} mm (colour ± {p.unsure_mm:.2f}), "
        f"{p.tilt_deg:.2f} deg (± {p.unsure_deg:.2f}), rms {p.rms_mm:.2f} mm, {100 * p.holes:.1f} % holes, "
        f"{100 * p.strays:.1f} % strays"
        for p in one.pictures
    ]
    return "\n".join([*lines, *(f"not used: {each}" for each in one.not_used)])


def _on_board(
    camera: ShotCamera, seen: Seen
) -> tuple[Array, Array, npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Of the pixels whose line of sight meets the board between its corners: rays [K,3] with z = 1, the
    depth of the board along the camera's axis [K], rows [K] and columns [K]."""
    lens = camera.lens
    left, top, right, bottom = _outline(camera, seen)
    columns, rows = np.meshgrid(np.arange(left, right), np.arange(top, bottom))
    rows, columns = rows.reshape(-1), columns.reshape(-1)
    if not len(rows):
        return np.zeros((0, 3)), np.zeros(0), rows, columns
    straight = lens.straighten(np.stack([columns, rows], axis=1).astype(np.float64))
    rays = np.c_[(straight - [lens.cx, lens.cy]) / [lens.fx, lens.fy], np.ones(len(rows))]
    turn, shift = seen.pose[:3, :3], seen.pose[:3, 3]
    with np.errstate(all="ignore"):
        true_m = float(turn[:, 2] @ shift) / (rays @ turn[:, 2])
        place = (rays * true_m[:, None] - shift) @ turn
    kept = _between_corners(camera, seen, place[:, :2]) & (true_m > 0)
    return rays[kept], true_m[kept], rows[kept], columns[kept]


def _between_corners(camera: ShotCamera, seen: Seen, place: Array) -> npt.NDArray[np.bool_]:
    """Which points [K,2] of the board's plane lie between corners that were found: what hides the rest of the
    board is often too near to have depth, and no hole of the board's."""
    inside = np.ones(len(place), bool)
    if camera.board.kind == "marker":
        low, high = _print(camera)
        inside &= ((place > low + _EDGE_M) & (place < high - _EDGE_M)).all(axis=1)
        return inside
    hull = cv2.convexHull(seen.view.points_m[:, :2].astype(np.float32))[:, 0].astype(np.float64)
    middle = hull.mean(axis=0)
    for one, other in zip(hull, np.roll(hull, -1, axis=0), strict=True):
        across = np.array([one[1] - other[1], other[0] - one[0]])
        side = (place - one) @ across
        inside &= side * float((middle - one) @ across) > 0
    return inside


def _outline(camera: ShotCamera, seen: Seen) -> tuple[int, int, int, int]:
    """Of the picture (left, top, right, bottom), where the print may be: with room for distortion."""
    lens = camera.lens
    low, high = _print(camera)
    corners = np.array([[x, y, 0] for x in (low[0], high[0]) for y in (low[1], high[1])])
    at = corners @ seen.pose[:3, :3].T + seen.pose[:3, 3]
    pixels = at[:, :2] / np.maximum(at[:, 2:], 1e-3) * [lens.fx, lens.fy] + [lens.cx, lens.cy]
    room = 0.05 * max(lens.width, lens.height)
    size = np.array([lens.width, lens.height])
    least = np.clip(np.floor(pixels.min(axis=0) - room), 0, size).astype(int)
    most = np.clip(np.ceil(pixels.max(axis=0) + room), 0, size).astype(int)
    return int(least[0]), int(least[1]), int(most[0]), int(most[1])


def _print(camera: ShotCamera) -> tuple[Array, Array]:
    """Corners (least x and y, most x and y) of what is printed, in the board's frame."""
    size = np.array(camera.board.size_m)
    return (-size / 2, size / 2) if camera.board.kind == "marker" else (np.zeros(2), size)


def _middle(camera: ShotCamera, seen: Seen) -> Array:
    """The print's middle [3] in the camera's frame."""
    low, high = _print(camera)
    return np.asarray(seen.pose[:3, :3] @ [*((low + high) / 2), 0.0] + seen.pose[:3, 3])


def _fitted(rays: Array, depth_m: Array) -> tuple[Array, npt.NDArray[np.bool_]]:
    """The plane p [3] with p · point = 1, and which depths it was fitted to [K]: least squares in 1/depth, in
    which stereo's noise does not grow with distance."""
    inside = np.ones(len(rays), bool)
    plane: Array = np.zeros(3)
    for _ in range(_ROUNDS):
        plane = np.linalg.lstsq(rays[inside], 1.0 / depth_m[inside], rcond=None)[0]
        off = np.abs(1.0 / depth_m - rays @ plane)
        spread = 1.4826 * float(np.median(off[inside]))
        inside = off <= max(_OUTLIER * spread, 1e-9)
    return plane, inside


def _unsure(camera: ShotCamera, seen: Seen) -> tuple[float, float]:
    """Standard deviations of colour's distance to the board's middle (metres) and of its tilt (radians)."""
    low, high = _print(camera)
    middle = np.array([*((low + high) / 2), 0.0])
    place = seen.pose[:3, :3] @ middle + seen.pose[:3, 3]
    turn, _ = cv2.Rodrigues(seen.pose[:3, :3])
    _, slopes = cv2.projectPoints(
        seen.view.points_m - middle, turn, place, camera.lens.matrix, np.zeros(5)
    )
    slope = np.asarray(slopes, np.float64)[:, :6]
    noise = max(seen.pixels, 0.1)
    covariance = noise**2 * np.linalg.pinv(slope.T @ slope)
    return float(np.sqrt(covariance[5, 5])), float(np.sqrt(np.diag(covariance)[:3].max()))


def _result(
    found: Sequence[PlaneCheck], not_used: list[str], blind: int, limits: Limits
) -> DepthResult:
    """`blind`: pictures that showed the board, and next to no depth on it."""

    def median(field: str) -> float:
        return float(np.median([getattr(one, field) for one in found]))

    scales = np.array([one.scale for one in found])
    count = len(found)
    unsure = median("unsure_mm") / 1e3 / median("distance_m")
    # Pictures of one stand share the colour's error, those of many don't: the larger is said.
    spread = 0.0
    if count > 1:
        error = _OF_MEDIAN * float(scales.std(ddof=1)) / np.sqrt(count)
        spread = error * float(t.ppf(0.975, count - 1))
    half_width = max(spread, unsure / np.sqrt(count) if _apart(found) else unsure)
    distance_m, scale, tilt = median("distance_m"), median("scale"), median("tilt_deg")
    unsure_deg = median("unsure_deg")
    holes = float(np.median([*(one.holes for one in found), *[1.0] * blind]))
    judged = (
        (
            "scale",
            abs(scale - 1) - half_width,
            limits.scale,
            f"depth is {100 * scale:.2f} % of the true one",
        ),
        (
            "unsure",
            half_width,
            limits.scale,
            f"what share depth is of the true one is known to ± {100 * half_width:.2f} % only",
        ),
        (
            "tilt",
            tilt - unsure_deg,
            limits.tilt_deg,
            f"its plane is tilted by {tilt:.2f} deg",
        ),
        (
            "unsure_tilt",
            unsure_deg,
            limits.tilt_deg,
            f"how its plane is tilted is known to ± {unsure_deg:.2f} deg only",
        ),
        (
            "rms",
            median("rms_mm") / 1e3 / distance_m,
            limits.rms,
            f"depths lie {median('rms_mm'):.2f} mm about their plane",
        ),
        (
            "holes",
            holes,
            limits.holes,
            f"{100 * holes:.1f} % of the board has no depth",
        ),
    )
    reasons = []
    for what, value, (warn, fail), text in judged:
        if not value <= warn:  # nor what is no number
            level = "warn" if value <= fail else "fail"
            reasons.append(f"{level}: {text}: {_REMEDIES[what]}")
    worst: Level = (
        "fail" if any(r.startswith("fail") for r in reasons) else "warn" if reasons else "pass"
    )
    return DepthResult(
        level=worst,
        reasons=tuple(reasons),
        pictures=tuple(found),
        distance_m=distance_m,
        scale=scale,
        scale_half_width=half_width,
        offset_mm=median("offset_mm"),
        tilt_deg=tilt,
        rms_mm=median("rms_mm"),
        holes=holes,
        line=_line(found),
        not_used=tuple(not_used),
    )


_REMEDIES = {
    "scale": "measure the board's squares and enter them, check intrinsics, then the camera itself",
    "unsure": "too unsure: more pictures, the board larger in them and at different distances",
    "unsure_tilt": "too unsure: a larger board or a nearer one, tilted",
    "tilt": "is the board flat? then the camera's depth and colour have moved against one another",
    "rms": "more light or texture, a nearer board; see the camera's own calibration",
    "holes": "more light, no reflections, a board farther than the camera's least distance",
}


def _apart(found: Sequence[PlaneCheck]) -> bool:
    distances = [one.distance_m for one in found]
    return len(found) >= _FEW and max(distances) / min(distances) >= _APART


def _line(found: Sequence[PlaneCheck]) -> tuple[float, float] | None:
    if not _apart(found):
        return None
    true = np.array([one.distance_m for one in found])
    measured = true * [one.scale for one in found]
    slope, offset = np.polyfit(true, measured, 1)
    return float(slope), 1e3 * float(offset)
