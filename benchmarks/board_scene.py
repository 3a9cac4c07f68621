"""Pictures of a ChArUco board from known places, rendered with MuJoCo: truth for `benchmarks.handeye`.

Options spoil the pictures as a real camera and a real print do: noise, a bowed board, a shutter that rolls
while the hand has not come to rest.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from calibration import rigid
from calibration.boards import Board
from calibration.lenses import Lens
from calibration.rigid import Array
from runtime.bench.backend import gl_context, load_mujoco

_MORE = 2
"""Rendered this much larger, then averaged: the edges of a real picture are no stairs either."""
_GRID = (25, 19)
_STRIPS = 12
_QUIET_M = 0.02
"""White paper around the print."""


@dataclass(frozen=True)
class Spoils:
    """`noise`: grey levels; `bow_m`: how far the middle of the board stands out; `shutter_s`: from the first
    row to the last; `speed_m_s`, `speed_rad_s`: of the hand meanwhile."""

    noise: float = 2.0
    bow_m: float = 0.0
    shutter_s: float = 0.0
    speed_m_s: float = 0.0
    speed_rad_s: float = 0.0


class BoardScene:
    """One board and one camera. `picture` renders; `close` frees the GL context."""

    def __init__(self, board: Board, lens: Lens, spoils: Spoils | None = None) -> None:
        self.board, self.lens, self.spoils = board, lens, spoils or Spoils()
        self._mujoco = mj = load_mujoco()
        assets = {"board.png": _png(board)}
        self._model = mj.MjModel.from_xml_string(_xml(board, lens, self.spoils.bow_m), assets)
        self._data = mj.MjData(self._model)
        width, height = lens.width * _MORE, lens.height * _MORE
        self._gl = gl_context(width, height)
        self._gl.make_current()
        self._context = mj.MjrContext(self._model, mj.mjtFontScale.mjFONTSCALE_100)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._viewport = mj.MjrRect(0, 0, width, height)
        self._scene, self._option = mj.MjvScene(self._model, maxgeom=10), mj.MjvOption()
        for flag in ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX", "mjRND_FOG", "mjRND_HAZE"):
            self._scene.flags[getattr(mj.mjtRndFlag, flag)] = 0
        self._camera = mj.MjvCamera()
        self._camera.type = mj.mjtCamera.mjCAMERA_FIXED
        self._camera.fixedcamid = 0
        self._large = np.empty((height, width, 3), np.uint8)

    def picture(self, camera_T_board: Array, random: np.random.Generator) -> npt.NDArray[np.uint8]:
        """uint8[H,W] grey."""
        spoils = self.spoils
        rolls = spoils.shutter_s > 0
        grey = self._rolled(camera_T_board, random) if rolls else self._still(camera_T_board)
        noisy = grey + random.normal(size=grey.shape) * spoils.noise
        return np.clip(np.rint(noisy), 0, 255).astype(np.uint8)

    def _still(self, camera_T_board: Array) -> npt.NDArray[np.float32]:
        mj = self._mujoco
        pose = rigid.invert(camera_T_board)
        # MuJoCo's camera looks along -z with y up, OpenCV's along z with y down.
        turn = np.ascontiguousarray(pose[:3, :3] @ np.diag([1.0, -1.0, -1.0]))
        self._data.mocap_pos[0] = pose[:3, 3]
        mj.mju_mat2Quat(self._data.mocap_quat[0], turn.reshape(-1))
        mj.mj_kinematics(self._model, self._data)
        mj.mj_camlight(self._model, self._data)
        self._gl.make_current()
        mj.mjv_updateScene(
            self._model,
            self._data,
            self._option,
            None,
            self._camera,
            mj.mjtCatBit.mjCAT_ALL,
            self._scene,
        )
        mj.mjr_render(self._viewport, self._scene, self._context)
        mj.mjr_readPixels(self._large, None, self._viewport, self._context)
        grey = cv2.cvtColor(self._large[::-1], cv2.COLOR_RGB2GRAY).astype(np.float32)
        size = (self.lens.width, self.lens.height)
        return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_AREA), np.float32)

    def _rolled(
        self, camera_T_board: Array, random: np.random.Generator
    ) -> npt.NDArray[np.float32]:
        """In strips, each from where the camera was when its rows were read; the middle one from the pose."""
        spoils, height = self.spoils, self.lens.height
        turn, shift = random.normal(size=(2, 3))
        speed = np.r_[
            spoils.speed_rad_s * turn / np.linalg.norm(turn),
            spoils.speed_m_s * shift / np.linalg.norm(shift),
        ]
        out = np.empty((height, self.lens.width), np.float32)
        for strip in range(_STRIPS):
            rows = slice(strip * height // _STRIPS, (strip + 1) * height // _STRIPS)
            late_s = spoils.shutter_s * ((strip + 0.5) / _STRIPS - 0.5)
            moved = rigid.invert(rigid.moved(rigid.invert(camera_T_board), speed * late_s))
            out[rows] = self._still(moved)[rows]
        return out

    def close(self) -> None:
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
            self._gl.free()
            self._context = None


def render_lens(width: int = 640, height: int = 480, focal_px: float = 600.0) -> Lens:
    """Whose pixels are numbered as OpenCV does, by their centres."""
    return Lens(
        width=width,
        height=height,
        fx=focal_px,
        fy=focal_px,
        cx=width / 2 - 0.5,
        cy=height / 2 - 0.5,
    )


def _png(board: Board) -> bytes:
    """The print with white paper around it, ten pixels a millimetre."""
    width, height = (round(1e4 * side) for side in board.size_m)
    print_ = board.opencv().generateImage((width, height))
    edge = round(1e4 * _QUIET_M)
    framed = cv2.copyMakeBorder(print_, edge, edge, edge, edge, cv2.BORDER_CONSTANT, value=255.0)
    done, data = cv2.imencode(".png", cv2.cvtColor(framed, cv2.COLOR_GRAY2BGR))
    assert done
    return bytes(data)


def _xml(board: Board, lens: Lens, bow_m: float) -> str:
    """The print as a net of triangles, so that it can be bowed; the board's frame is the world's."""
    wide, high = board.size_m
    u, v = np.meshgrid(np.linspace(0, 1, _GRID[0]), np.linspace(0, 1, _GRID[1]))
    x, y = u * (wide + 2 * _QUIET_M) - _QUIET_M, v * (high + 2 * _QUIET_M) - _QUIET_M
    # Towards the camera, which looks along z from behind.
    z = -bow_m * (1 - (2 * x / wide - 1) ** 2)
    points = np.stack([x, y, z], axis=-1).reshape(-1, 3)
    texture = np.stack([u, v], axis=-1).reshape(-1, 2)
    at = np.arange(_GRID[0] * _GRID[1]).reshape(_GRID[1], _GRID[0])
    a, b, c, d = at[:-1, :-1], at[:-1, 1:], at[1:, 1:], at[1:, :-1]
    # Faces towards the viewer, who is at negative z.
    faces = np.stack([a, c, b, a, d, c], axis=-1).reshape(-1, 3)

    def words(values: npt.NDArray[Any]) -> str:
        return " ".join(f"{value:g}" for value in values.reshape(-1).tolist())

    fovy = 2 * np.degrees(np.arctan(lens.height / 2 / lens.fy))
    return f"""<mujoco>
<visual><map znear="0.01" zfar="20"/><headlight ambient="0.9 0.9 0.9" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
<global offwidth="{lens.width * _MORE}" offheight="{lens.height * _MORE}"/><quality offsamples="4"/></visual>
<statistic extent="1"/>
<asset><texture name="print" type="2d" file="board.png"/>
<material name="print" texture="print" specular="0" shininess="0" reflectance="0"/>
<mesh name="board" inertia="shell" vertex="{words(points)}" texcoord="{words(texture)}"
 face="{words(faces)}"/></asset>
<worldbody><geom type="mesh" mesh="board" material="print" contype="0" conaffinity="0"/>
<body name="hand" mocap="true"><camera name="camera" fovy="{fovy:.9f}"/></body></worldbody></mujoco>"""
