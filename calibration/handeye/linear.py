"""The joint problem around a guess: residuals in pixels and how they change, gathered per stand of the arm.

Model: camera_T_board = inv(carrier_T_camera) · near_T_far(base_T_hand · exp(e)) · far_T_board. The arm is
not where it says: `e` (rotation, translation, in the hand's frame) is random, one per stand, shared by all
cameras that looked from it. Corners have independent noise. What follows needs only products of the
Jacobians, so each stand is reduced to small matrices at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from calibration import rigid
from calibration.handeye.closed_form import near_T_far
from calibration.handeye.samples import Camera, Setup
from calibration.rigid import Array
from contracts.calibration import Mount

POSE = 6
Block = tuple[str, str]
"""("camera", its name) or ("board", "world" or "hand"): six unknowns each."""


@dataclass(frozen=True)
class Poses:
    """The unknowns. `cameras`: carrier_T_camera by name; `boards`: far_T_board by the mount of the cameras
    that look at it; `scale`: the boards' true size over the stated one; `zeros` [Z]: by how much the arm's
    joints turned more than they read, radians, where that is unknown."""

    cameras: Mapping[str, Array]
    boards: Mapping[Mount, Array]
    scale: float = 1.0
    zeros: Array = field(default_factory=lambda: np.zeros(0))

    def moved(self, change: Array, blocks: tuple[Block, ...]) -> Poses:
        """Every block moved by its six numbers, the scale by the next one, if there is one more than zeros,
        and the zeros by the last ones."""
        cameras, boards = dict(self.cameras), dict(self.boards)
        for index, (kind, name) in enumerate(blocks):
            part = change[index * POSE : (index + 1) * POSE]
            held: dict[str, Array] = cameras if kind == "camera" else boards  # type: ignore[assignment]
            held[name] = rigid.moved(held[name], part)
        rest = change[POSE * len(blocks) :]
        more = len(rest) > len(self.zeros)
        scale = self.scale * float(np.exp(rest[0])) if more else self.scale
        return Poses(cameras, boards, scale, self.zeros + rest[int(more) :])


def blocks_of(setup: Setup) -> tuple[Block, ...]:
    """The unknown poses, cameras first."""
    cameras: tuple[Block, ...] = tuple(("camera", camera.name) for camera in setup.cameras)
    return cameras + tuple(("board", mount) for mount in setup.mounts)


@dataclass
class Stands:
    """Per stand i of N, with J [rows, P] how pixels change with the unknowns and G [rows, 6] with the arm's
    error: JJ [N,P,P], JG [N,P,6], GG [N,6,6], Jr [N,P], Gr [N,6], rr [N], `rows` [N] (weighted). Of
    unknowns that are known a little beforehand, `prior` [P]: one over their variance, `prior_at` [P]: where
    they are."""

    JJ: Array
    JG: Array
    GG: Array
    Jr: Array
    Gr: Array
    rr: Array
    rows: Array
    residuals: list[dict[str, Array]] = field(default_factory=list)
    """Pixels [K,2] by camera, found minus predicted, unweighted."""
    slopes: list[dict[str, Array]] = field(default_factory=list)
    """G [K,2,6] by camera, for what the arm's own error explains."""
    prior: Array | None = None
    prior_at: Array | None = None


def linearise(
    setup: Setup,
    poses: Poses,
    *,
    scale: bool = False,
    weights: list[dict[str, Array]] | None = None,
    pixel_weight: Mapping[str, float] | None = None,
) -> Stands:
    """At `poses`. `scale`: the boards' size is unknown too. `weights`: of each corner [K], in [0, 1];
    `pixel_weight`: of a camera's corners against the others' (1/noise²)."""
    blocks = blocks_of(setup)
    unknowns = POSE * len(blocks) + scale
    count = len(setup.samples)
    shape = (count, unknowns)
    stands = Stands(
        np.zeros((*shape, unknowns)),
        np.zeros((*shape, POSE)),
        np.zeros((count, POSE, POSE)),
        np.zeros(shape),
        np.zeros((count, POSE)),
        np.zeros(count),
        np.zeros(count),
    )
    for index, sample in enumerate(setup.samples):
        found: dict[str, Array] = {}
        slope: dict[str, Array] = {}
        for camera in setup.cameras:
            view = sample.views.get(camera.name)
            if view is None:
                continue
            link = near_T_far(camera, sample)
            r, jx, jz, js, g = _view(camera, link, poses, view.points_m, view.pixels)
            j = np.zeros((*r.shape, unknowns))
            at = POSE * blocks.index(("camera", camera.name))
            j[..., at : at + POSE] = jx
            at = POSE * blocks.index(("board", camera.mount))
            j[..., at : at + POSE] = jz
            if scale:
                j[..., -1] = js
            found[camera.name], slope[camera.name] = r, g
            weight = np.ones(len(r)) if weights is None else weights[index][camera.name]
            if pixel_weight is not None:
                weight = weight * pixel_weight[camera.name]
            _gather(stands, index, r, j, g, weight)
        stands.residuals.append(found)
        stands.slopes.append(slope)
    return stands


def _gather(stands: Stands, at: int, r: Array, j: Array, g: Array, weight: Array) -> None:
    rows = np.repeat(weight, 2)
    r, j, g = r.reshape(-1), j.reshape(len(rows), -1), g.reshape(len(rows), -1)
    wj, wg = j * rows[:, None], g * rows[:, None]
    stands.JJ[at] += wj.T @ j
    stands.JG[at] += wj.T @ g
    stands.GG[at] += wg.T @ g
    stands.Jr[at] += wj.T @ r
    stands.Gr[at] += wg.T @ r
    stands.rr[at] += float(rows @ (r * r))
    stands.rows[at] += float(rows.sum())


def _view(
    camera: Camera, link: Array, poses: Poses, points_m: Array, pixels: Array
) -> tuple[Array, Array, Array, Array, Array]:
    """Residual [K,2] and its slopes: the camera's [K,2,6], the board's, the scale's [K,2], the arm's [K,2,6].
    Slopes are of the prediction, so that residual ≈ slope @ change at the solution."""
    x, z = poses.cameras[camera.name], poses.boards[camera.mount]
    q = points_m * poses.scale
    far = q @ z[:3, :3].T + z[:3, 3]
    near = far @ link[:3, :3].T + link[:3, 3]
    y = (near - x[:3, 3]) @ x[:3, :3]
    depth = np.maximum(y[:, 2], 0.02)  # a guess may have the board behind the camera
    focal = np.array([camera.fx, camera.fy])
    predicted = y[:, :2] / depth[:, None] * focal + [camera.cx, camera.cy]
    d = np.zeros((len(q), 2, 3))
    d[:, 0, 0], d[:, 1, 1] = focal[0] / depth, focal[1] / depth
    d[:, :, 2] = -y[:, :2] / depth[:, None] ** 2 * focal
    eye = np.broadcast_to(np.eye(3), (len(q), 3, 3))
    to_camera = x[:3, :3].T
    jx = d @ np.concatenate([rigid.cross(y), -eye], axis=2)
    turn = to_camera @ link[:3, :3] @ z[:3, :3]
    jz = d @ (turn @ np.concatenate([-rigid.cross(q), eye], axis=2))
    js = (d @ (turn @ q[:, :, None]))[:, :, 0]
    if camera.mount == "hand":
        g = d @ (to_camera @ np.concatenate([rigid.cross(near), -eye], axis=2))
    else:
        g = d @ (to_camera @ link[:3, :3] @ np.concatenate([-rigid.cross(far), eye], axis=2))
    return pixels - predicted, jx, jz, js, g
