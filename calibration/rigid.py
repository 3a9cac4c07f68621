"""Rigid transforms as 4×4 matrices. `a_T_b` is the pose of frame b in frame a: it takes coordinates in b to
those in a.

Pure numpy; metres and radians. Small changes are applied on the right: T exp(d), d = (rotation, translation).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_SMALL = 1e-8


def transform(rotation: npt.ArrayLike, translation: npt.ArrayLike) -> Array:
    """float64[4,4] of a rotation matrix [3,3] and a translation [3]."""
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = rotation, np.reshape(translation, 3)
    return out


def invert(pose: Array) -> Array:
    """Of one pose [4,4] or several [..., 4, 4]."""
    out = np.zeros_like(pose)
    turned = np.swapaxes(pose[..., :3, :3], -1, -2)
    out[..., :3, :3] = turned
    out[..., :3, 3] = -(turned @ pose[..., :3, 3:])[..., 0]
    out[..., 3, 3] = 1.0
    return out


def cross(v: Array) -> Array:
    """[..., 3, 3] such that cross(v) @ w = v × w."""
    out = np.zeros((*v.shape[:-1], 3, 3))
    out[..., 0, 1], out[..., 0, 2], out[..., 1, 2] = -v[..., 2], v[..., 1], -v[..., 0]
    return np.asarray(out - np.swapaxes(out, -1, -2))


def rotation_of(turn: npt.ArrayLike) -> Array:
    """Rotation matrix [3,3] of a rotation vector [3] (Rodrigues)."""
    turn = np.asarray(turn, np.float64)
    angle = float(np.linalg.norm(turn))
    k = cross(turn)
    if angle < _SMALL:
        return np.asarray(np.eye(3) + k + 0.5 * k @ k)
    a, b = np.sin(angle) / angle, (1.0 - np.cos(angle)) / angle**2
    return np.asarray(np.eye(3) + a * k + b * k @ k)


def turn_of(rotation: Array) -> Array:
    """Rotation vector [3] of a rotation matrix [3,3], angle in [0, pi]; by way of the quaternion, which is
    exact near a half turn, too."""
    r = rotation
    # The largest of the four squared components is the one to divide by.
    squares = np.array([1 + r[0, 0] + r[1, 1] + r[2, 2], *(1 + 2 * np.diag(r) - np.trace(r))])
    big = int(squares.argmax())
    q = np.empty(4)  # w, x, y, z, times twice the largest
    if big == 0:
        q[:] = (squares[0], r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1])
    else:
        i, j, k = big - 1, big % 3, (big + 1) % 3
        q[0], q[1 + i] = r[k, j] - r[j, k], squares[big]
        q[1 + j], q[1 + k] = r[j, i] + r[i, j], r[k, i] + r[i, k]
    q /= np.linalg.norm(q)
    if q[0] < 0:
        q = -q
    length = float(np.linalg.norm(q[1:]))
    if length < _SMALL:
        return np.asarray(2.0 * q[1:])
    return np.asarray(2.0 * np.arctan2(length, q[0]) / length * q[1:])


def moved(pose: Array, change: Array) -> Array:
    """pose exp(change), rotation and translation apart: what optimisers step by. `change` [6]."""
    return pose @ transform(rotation_of(change[:3]), change[3:])


def from_quaternion(xyzw: npt.ArrayLike, position_m: npt.ArrayLike) -> Array:
    """[4,4] from a quaternion (x, y, z, w; any length above zero) and a position."""
    x, y, z, w = np.asarray(xyzw, np.float64) / np.linalg.norm(xyzw)
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    return transform(rotation, position_m)


def to_quaternion(rotation: Array) -> tuple[float, float, float, float]:
    """(x, y, z, w) of a rotation matrix [3,3]."""
    turn = turn_of(rotation)
    angle = float(np.linalg.norm(turn))
    x, y, z = (0.5 * np.sinc(angle / (2 * np.pi)) * turn).tolist()
    return x, y, z, float(np.cos(angle / 2))


def angle_deg(a: Array, b: Array) -> float:
    """Angle between the rotations of two poses [4,4] or matrices [3,3]."""
    return float(np.degrees(np.linalg.norm(turn_of(a[:3, :3].T @ b[:3, :3]))))


def distance_mm(a: Array, b: Array) -> float:
    """Between the origins of two poses."""
    return float(1e3 * np.linalg.norm(a[:3, 3] - b[:3, 3]))


def is_rigid(pose: Array, tolerance: float = 1e-4) -> bool:
    """Finite, and a proper rotation: no mirror, no scale."""
    if not np.isfinite(pose).all():
        return False
    r = pose[:3, :3]
    return bool(
        np.abs(r @ r.T - np.eye(3)).max() < tolerance and abs(np.linalg.det(r) - 1) < tolerance
    )
