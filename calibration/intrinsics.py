"""Intrinsics of one camera from pictures of a board, how sure they are where in the picture, and how far from
other lenses (the factory's, or that of half of the pictures).

Two lenses are compared as mrcal does: what they say of the same pixels, after the rotation that makes them
agree best, since a principal point and a pose trade with each other. Distances are pixels in the picture.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np

from calibration.boards import MIN_SHARPNESS, Finder
from calibration.lenses import Lens
from calibration.rigid import Array
from calibration.shots import ShotCamera, Shots, ShotsError, picture_of
from contracts.errors import EntracteError

MIN_VIEWS = 8
MIN_COVERED = 0.5
GRID = (16, 12)
"""Cells of the picture in which corners, residuals and uncertainty are counted."""
_UNKNOWNS = 9
"""fx, fy, cx, cy, k1, k2, p1, p2, k3, in OpenCV's order of Jacobian."""
_SETTLED = (cv2.TERM_CRITERIA_EPS + cv2.TERM_CRITERIA_COUNT, 200, 1e-12)
_FEWEST = 6
"""Corners in a picture: four, of a single marker, fit any lens."""
_SURE = 6.0
"""Deviations that a focal length is above nothing by; else no lens can be drawn from its covariance."""
_WILD = 5.0
"""Views whose residual is so many times the median are left out and named."""


class IntrinsicsError(EntracteError):
    """These pictures determine no intrinsics."""


class Views(msgspec.Struct, frozen=True):
    """Corners as the camera gave them, by picture."""

    names: tuple[str, ...]
    points: tuple[Array, ...]
    pixels: tuple[Array, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fit:
    """`lens` is "brown_conrady". `residuals` [K,2] pixels of all corners, found at `pixels` [K,2];
    `covariance` [9,9] of fx, fy, cx, cy, k1, k2, p1, p2, k3; `noise` pixels per axis."""

    lens: Lens
    views: Views
    pixels: Array
    residuals: Array
    covariance: Array
    noise: float
    covered: float


def views_of(folder: Path, shots: Shots, name: str) -> Views:
    """Corners of one camera of a capture. Raises `ShotsError`."""
    camera = shots.cameras.get(name)
    if camera is None:
        raise ShotsError(f"no camera '{name}' in the capture", expected=sorted(shots.cameras))
    finder, points = Finder(camera.board), camera.board.points()
    names, found, pixels, left_out = [], [], [], []
    for shot in shots.shots:
        if name not in shot.pictures:
            continue
        corners = finder.find(picture_of(folder, shot.pictures[name], camera))
        if corners is None:
            left_out.append(f"{shot.name}: the board is not seen")
        elif len(corners.numbers) < _FEWEST:
            left_out.append(f"{shot.name}: {len(corners.numbers)} corners, fewer than {_FEWEST}")
        elif corners.sharpness < MIN_SHARPNESS:
            left_out.append(f"{shot.name}: blurred")
        else:
            names.append(shot.name)
            found.append(points[corners.numbers])
            pixels.append(corners.pixels)
    return Views(tuple(names), tuple(found), tuple(pixels), tuple(left_out))


def fit(views: Views, camera: ShotCamera) -> Fit:
    """The most likely lens; views far from all others are left out. Raises `IntrinsicsError`."""
    while True:
        lens, turns, shifts = _calibrate(views, camera.lens)
        each = _residuals(views, lens, turns, shifts)
        size = np.array([float(np.sqrt((r**2).mean())) for r in each])
        worst = int(size.argmax())
        if size[worst] <= _WILD * float(np.median(size)) or len(size) <= MIN_VIEWS:
            break
        views = _without(views, worst)
    residuals = np.concatenate(each)
    freedom = residuals.size - _UNKNOWNS - 6 * len(views.names)
    noise = float(np.sqrt((residuals**2).sum() / max(freedom, 1)))
    pixels = np.concatenate(views.pixels)
    covered = coverage(pixels, lens)
    if covered < MIN_COVERED:
        raise IntrinsicsError(
            "the board was seen in too small a part of the picture",
            expected=f"{100 * MIN_COVERED:.0f} % of its cells and more",
            found=f"{100 * covered:.0f} %",
            remedy="hold it into every corner of the picture, tilted, too: robot-calibrate capture --lens",
        )
    covariance = _covariance(_information(views, lens, turns, shifts), noise, lens)
    return Fit(lens, views, pixels, residuals, covariance, noise, covered)


def coverage(pixels: Array, lens: Lens) -> float:
    """Share of the picture's cells in which corners were seen."""
    return float((counts(pixels, lens) > 0).mean())


def counts(pixels: Array, lens: Lens) -> Array:
    """float64[rows, columns] of `GRID`: corners in each cell."""
    column = np.clip((pixels[:, 0] / lens.width * GRID[0]).astype(int), 0, GRID[0] - 1)
    row = np.clip((pixels[:, 1] / lens.height * GRID[1]).astype(int), 0, GRID[1] - 1)
    counts = np.zeros((GRID[1], GRID[0]))
    np.add.at(counts, (row, column), 1)
    return counts


def difference(one: Lens, other: Lens) -> Array:
    """float64[rows, columns] of `GRID`: pixels between two lenses, in the middle of each cell, after the
    rotation that makes them agree best."""
    if (one.width, one.height) != (other.width, other.height):
        raise IntrinsicsError(
            "lenses of other resolutions",
            expected=f"{one.width} x {one.height}",
            found=f"{other.width} x {other.height}",
        )
    middles = _middles(one)
    a, b = _rays(one, middles), _rays(other, middles)
    u, _, vt = np.linalg.svd(a.T @ b)
    turn = u @ np.diag([1.0, 1.0, np.linalg.det(u @ vt)]) @ vt
    apart = np.linalg.norm(np.cross(a @ turn, b), axis=1)
    return np.asarray(apart * (one.fx + one.fy) / 2).reshape(GRID[1], GRID[0])


def uncertainty(found: Fit, draws: int = 200, seed: int = 0) -> Array:
    """float64[rows, columns]: standard deviation in pixels of what the lens says of each cell, by drawing
    lenses from the covariance and comparing each with the estimate."""
    random = np.random.default_rng(seed)
    drawn = random.multivariate_normal(np.zeros(_UNKNOWNS), found.covariance, draws)
    squares = [difference(found.lens, _moved(found.lens, change)) ** 2 for change in drawn]
    return np.asarray(np.sqrt(np.mean(squares, axis=0)))


def halves(found: Fit, camera: ShotCamera) -> Array:
    """`difference` between the lenses of every second view and of the others: what another session would have
    given."""
    parts = []
    for first in (0, 1):
        chosen = range(first, len(found.views.names), 2)
        part = Views(
            tuple(found.views.names[i] for i in chosen),
            tuple(found.views.points[i] for i in chosen),
            tuple(found.views.pixels[i] for i in chosen),
        )
        parts.append(_calibrate(part, camera.lens, fewest=MIN_VIEWS // 2)[0])
    return difference(*parts)


def _calibrate(
    views: Views, start: Lens, fewest: int = MIN_VIEWS
) -> tuple[Lens, list[Array], list[Array]]:
    if len(views.names) < fewest:
        raise IntrinsicsError(
            "too few pictures of the board",
            expected=f"{fewest} and more, better 30",
            found=f"{len(views.names)} ({'; '.join(views.left_out[:3])})",
            remedy="capture more, sharp and from all sides",
        )
    _, matrix, bent, turns, shifts = cv2.calibrateCamera(
        [p.astype(np.float32) for p in views.points],
        [p.astype(np.float32) for p in views.pixels],
        (start.width, start.height),
        start.matrix,
        np.zeros(5),
        flags=cv2.CALIB_USE_INTRINSIC_GUESS,
        criteria=_SETTLED,
    )
    numbers = [float(matrix[0, 0]), float(matrix[1, 1]), float(matrix[0, 2]), float(matrix[1, 2])]
    distortion = tuple(np.reshape(bent, -1)[:5].tolist())
    if not np.isfinite([*numbers, *distortion]).all() or not 0.3 < numbers[0] / start.fx < 3:
        raise IntrinsicsError(
            "no lens fits these pictures",
            found=f"focal length {numbers[0]:.0f} px (began at {start.fx:.0f})",
            remedy="check the board's rows, columns and square size, and tilt it more",
        )
    fx, fy, cx, cy = numbers
    lens = Lens(
        width=start.width,
        height=start.height,
        fx=fx,
        fy=fy,
        cx=cx,
        cy=cy,
        model="brown_conrady",
        distortion=distortion,
    )
    return (
        lens,
        [np.asarray(t, np.float64) for t in turns],
        [np.asarray(s, np.float64) for s in shifts],
    )


def _residuals(views: Views, lens: Lens, turns: list[Array], shifts: list[Array]) -> list[Array]:
    bent = np.array(lens.distortion)
    found = []
    for points, pixels, turn, shift in zip(views.points, views.pixels, turns, shifts, strict=True):
        seen, _ = cv2.projectPoints(points, turn, shift, lens.matrix, bent)
        found.append(pixels - np.asarray(seen, np.float64).reshape(-1, 2))
    return found


def _information(views: Views, lens: Lens, turns: list[Array], shifts: list[Array]) -> Array:
    """Of the nine intrinsics, each view's pose being unknown (Schur's complement)."""
    total = np.zeros((_UNKNOWNS, _UNKNOWNS))
    for points, turn, shift in zip(views.points, turns, shifts, strict=True):
        _, slopes = cv2.projectPoints(points, turn, shift, lens.matrix, np.array(lens.distortion))
        pose, own = slopes[:, :6], slopes[:, 6 : 6 + _UNKNOWNS]
        across = pose.T @ own
        total += own.T @ own - across.T @ np.linalg.solve(pose.T @ pose, across)
    return total


def _covariance(information: Array, noise: float, lens: Lens) -> Array:
    """Of the nine intrinsics. Raises `IntrinsicsError` where the pictures tell no focal length."""
    try:
        covariance = noise**2 * np.asarray(np.linalg.inv(information), np.float64)
    except np.linalg.LinAlgError:
        covariance = np.full_like(information, np.inf)
    variance = np.diag(covariance)[:2]
    if not ((variance >= 0) & (_SURE**2 * variance < np.square([lens.fx, lens.fy]))).all():
        deviation = float(np.sqrt(np.abs(variance).max()))
        raise IntrinsicsError(
            "these pictures leave the lens's focal length open",
            expected="a board that is tilted, in some to the side, in some fore and aft",
            found=f"{lens.fx:.0f} ± {2 * deviation:.0f} px (95 %)",
            remedy="tilt the board by 20 to 40 degrees: robot-calibrate capture --lens",
        )
    return covariance


def _moved(lens: Lens, change: Array) -> Lens:
    fx, fy, cx, cy = (np.array([lens.fx, lens.fy, lens.cx, lens.cy]) + change[:4]).tolist()
    bent = tuple((np.array(lens.distortion) + change[4:]).tolist())
    return msgspec.structs.replace(lens, fx=fx, fy=fy, cx=cx, cy=cy, distortion=bent)


def _without(views: Views, index: int) -> Views:
    def rest(values: tuple[Any, ...]) -> tuple[Any, ...]:
        return values[:index] + values[index + 1 :]

    return Views(
        rest(views.names),
        rest(views.points),
        rest(views.pixels),
        (*views.left_out, f"{views.names[index]}: far from all others"),
    )


def _middles(lens: Lens) -> Array:
    x = (np.arange(GRID[0]) + 0.5) * lens.width / GRID[0] - 0.5
    y = (np.arange(GRID[1]) + 0.5) * lens.height / GRID[1] - 0.5
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)


def _rays(lens: Lens, pixels: Array) -> Array:
    straight = lens.straighten(pixels)
    flat = (straight - [lens.cx, lens.cy]) / [lens.fx, lens.fy]
    rays = np.c_[flat, np.ones(len(flat))]
    return np.asarray(rays / np.linalg.norm(rays, axis=1, keepdims=True))
