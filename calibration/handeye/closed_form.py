"""OpenCV's hand-eye solvers, one by one: first guesses for the joint estimate, and what it is compared with.

Every method is called by its keyword: the fifth positional argument is an output, and Tsai would run instead.
What comes back non-finite, mirrored or as no motion at all is refused with the reason.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from calibration import rigid
from calibration.handeye.samples import Camera, Sample, Setup, View
from calibration.rigid import Array

Poses = Sequence[Array]
HAND_EYE = {
    "tsai": cv2.CALIB_HAND_EYE_TSAI,
    "park": cv2.CALIB_HAND_EYE_PARK,
    "horaud": cv2.CALIB_HAND_EYE_HORAUD,
    "andreff": cv2.CALIB_HAND_EYE_ANDREFF,
    "daniilidis": cv2.CALIB_HAND_EYE_DANIILIDIS,
}
WORLD_HAND_EYE = {
    "shah": cv2.CALIB_ROBOT_WORLD_HAND_EYE_SHAH,
    "li": cv2.CALIB_ROBOT_WORLD_HAND_EYE_LI,
}
METHODS = (*HAND_EYE, *WORLD_HAND_EYE)


@dataclass(frozen=True)
class Guess:
    """`carrier_T_camera`: the camera on the hand or in the base, whichever carries it; `far_T_board`: the
    board in the other of the two. `refused`: why this is no answer; empty if it is one."""

    method: str
    carrier_T_camera: Array
    far_T_board: Array
    refused: str = ""


def board_pose(camera: Camera, view: View) -> tuple[Array, float]:
    """camera_T_board [4,4] of one view, and its reprojection error in pixels (rms): the best of
    `board_poses`."""
    return next(iter(board_poses(camera, view)), (np.eye(4), np.inf))


def board_poses(camera: Camera, view: View) -> list[tuple[Array, float]]:
    """Every camera_T_board [4,4] that one view allows, each refined and with its reprojection error in pixels
    (rms), the best first: a flat board far away has two that look almost alike."""
    matrix = camera.matrix
    flat = bool(np.abs(view.points_m[:, 2]).max() < 1e-9)
    method = cv2.SOLVEPNP_IPPE if flat else cv2.SOLVEPNP_SQPNP
    count, turns, shifts, _ = cv2.solvePnPGeneric(
        view.points_m, view.pixels, matrix, None, flags=method
    )
    found = []
    for first in zip(turns[:count], shifts[:count], strict=True):
        turn, shift = cv2.solvePnPRefineLM(view.points_m, view.pixels, matrix, None, *first)
        pose = rigid.transform(rigid.rotation_of(turn[:, 0]), shift[:, 0])
        error = float(np.sqrt(((project(camera, pose, view.points_m) - view.pixels) ** 2).mean()))
        if np.isfinite(pose).all() and pose[2, 3] > 0 and np.isfinite(error):
            found.append((pose, error))
    return sorted(found, key=lambda one: one[1])


def project(camera: Camera, camera_T_board: Array, points_m: Array) -> Array:
    """Pixels [K,2] of points [K,3] on the board."""
    seen = points_m @ camera_T_board[:3, :3].T + camera_T_board[:3, 3]
    scale = np.array([camera.fx, camera.fy])
    return np.asarray(seen[:, :2] / seen[:, 2:] * scale + [camera.cx, camera.cy])


def near_T_far(camera: Camera, sample: Sample) -> Array:
    """From what carries the board to what carries the camera: hand_T_base for a camera on the hand,
    base_T_hand for one in the world. camera_T_board = inv(carrier_T_camera) @ this @ far_T_board."""
    pose = sample.base_T_hand
    return rigid.invert(pose) if camera.mount == "hand" else pose


def guesses(setup: Setup, camera: Camera, methods: Sequence[str] = METHODS) -> list[Guess]:
    """What each solver says of one camera."""
    seen = setup.of(camera)
    links = [near_T_far(camera, sample) for sample, _ in seen]
    boards = [board_pose(camera, view)[0] for _, view in seen]
    found = []
    with _unlogged():
        for method in methods:
            solve = _hand_eye if method in HAND_EYE else _world_hand_eye
            found.append(_judged(method, solve, links, boards))
    return found


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """A solver that gives up is one of several here, with its reason: no error for a terminal."""
    logging = cv2.utils.logging
    level = logging.setLogLevel(logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        logging.setLogLevel(level)


def _judged(
    method: str,
    solve: Callable[[str, Poses, Poses], tuple[Array, Array]],
    links: Poses,
    boards: Poses,
) -> Guess:
    nothing = np.full((4, 4), np.nan)
    try:
        camera_pose, board = solve(method, links, boards)
    except (cv2.error, np.linalg.LinAlgError) as error:
        return Guess(method, nothing, nothing, f"gave up: {str(error).splitlines()[-1][:120]}")
    for what, pose in (("camera", camera_pose), ("board", board)):
        if not np.isfinite(pose).all():
            return Guess(method, nothing, nothing, f"{what} pose is not finite")
        if not rigid.is_rigid(pose, 1e-3):
            return Guess(method, camera_pose, board, f"{what} pose is no rotation, or mirrored")
    if np.abs(camera_pose - np.eye(4)).max() < 1e-9:
        return Guess(method, camera_pose, board, "answered the identity, its sign of failure")
    return Guess(method, camera_pose, board)


def _hand_eye(method: str, links: Poses, boards: Poses) -> tuple[Array, Array]:
    """AX = XB. OpenCV's `gripper2base` is far_T_carrier here: whatever carries the camera, in the frame in
    which the board stands still."""
    far = [rigid.invert(link) for link in links]
    rotation, shift = cv2.calibrateHandEye(
        [p[:3, :3] for p in far],
        [p[:3, 3] for p in far],
        [p[:3, :3] for p in boards],
        [p[:3, 3] for p in boards],
        method=HAND_EYE[method],
    )
    camera_pose = rigid.transform(rotation, shift)
    return camera_pose, middle([f @ camera_pose @ b for f, b in zip(far, boards, strict=True)])


def _world_hand_eye(method: str, links: Poses, boards: Poses) -> tuple[Array, Array]:
    """AX = ZB. OpenCV's `world2cam` is camera_T_board, its `base2gripper` carrier_T_far."""
    rotation, shift, rotation_z, shift_z = cv2.calibrateRobotWorldHandEye(
        [p[:3, :3] for p in boards],
        [p[:3, 3] for p in boards],
        [p[:3, :3] for p in links],
        [p[:3, 3] for p in links],
        method=WORLD_HAND_EYE[method],
    )
    # OpenCV's answers are board_T_far and camera_T_carrier.
    camera_pose = rigid.invert(rigid.transform(rotation_z, shift_z))
    return camera_pose, rigid.invert(rigid.transform(rotation, shift))


def middle(poses: Poses) -> Array:
    """A mean of poses that are near one another: of the rotation matrices, made a rotation again, and of the
    positions."""
    mean = np.mean([p for p in poses], axis=0)
    if not np.isfinite(mean).all():
        return np.asarray(mean)
    u, _, vt = np.linalg.svd(mean[:3, :3])
    sign = np.diag([1.0, 1.0, np.linalg.det(u @ vt)])
    return rigid.transform(u @ sign @ vt, mean[:3, 3])
