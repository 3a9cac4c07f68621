"""The two RGB-D cameras: where they look from, their intrinsics, and the off-screen renderer.

One GL context serves every scene: scenes hold primitives only, no meshes and no textures.
"""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from runtime.bench.backend import gl_context, load_mujoco
from runtime.bench.depth import DepthSensor
from runtime.bench.scene import CameraPose

CAMERAS = ("front", "wrist")
HFOV_DEG = 69.0  # D435 colour; depth is aligned to colour
NEAR_M = 0.012
FAR_M = 8.0

# The front camera stands to the arm's right and looks across the workspace from above: it sees
# things, fixtures' fronts and the hand from the side, and the arm does not hide them.
FRONT_TARGET_M = (0.170, -0.012, 0.025)
FRONT_DISTANCE_M = 0.45
FRONT_AZIMUTH_DEG = -82.0
FRONT_ELEVATION_DEG = 52.0

# The wrist camera sits on the gripper, on the side away from the base, and looks at the tips.
WRIST_POSITION_M = (0.012, 0.0, 0.060)
WRIST_TILT_DEG = 25.0


@dataclass(frozen=True)
class Intrinsics:
    """Pinhole camera without distortion; pixels, whose middles are whole numbers, as OpenCV, librealsense and
    all that is calibrated here have them."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float

    @property
    def matrix(self) -> np.ndarray:
        """float64[3, 3]."""
        return np.array([[self.fx, 0, self.cx], [0, self.fy, self.cy], [0, 0, 1.0]])


def intrinsics(width: int, height: int, hfov_deg: float = HFOV_DEG) -> Intrinsics:
    """Square pixels, optical axis through the middle of the image."""
    focal = width / 2.0 / math.tan(math.radians(hfov_deg) / 2.0)
    return Intrinsics(width, height, focal, focal, (width - 1) / 2.0, (height - 1) / 2.0)


def front_pose(rng: np.random.Generator, spread: float) -> CameraPose:
    """A pose of the front camera; spread 1: +-8 deg azimuth, +-4 deg elevation, +-3 cm distance."""
    az, el, far, *shift = rng.uniform(-1.0, 1.0, 6) * spread
    azimuth = math.radians(FRONT_AZIMUTH_DEG + 8.0 * az)
    elevation = math.radians(FRONT_ELEVATION_DEG + 4.0 * el)
    distance = FRONT_DISTANCE_M + 0.03 * far
    away = np.array(
        [
            math.cos(elevation) * math.cos(azimuth),
            math.cos(elevation) * math.sin(azimuth),
            math.sin(elevation),
        ]
    )
    target = np.array(FRONT_TARGET_M) + 0.015 * np.array(shift)
    return _look(target + distance * away, -away, 2.0 * spread * float(rng.uniform(-1.0, 1.0)))


def wrist_pose(rng: np.random.Generator, spread: float) -> CameraPose:
    """A pose of the wrist camera in the gripper's frame; spread 1: +-3 mm, +-2 deg."""
    shift = rng.uniform(-0.003, 0.003, 3) * spread
    tilt = math.radians(WRIST_TILT_DEG + 2.0 * spread * float(rng.uniform(-1.0, 1.0)))
    axis = np.array([math.cos(tilt), 0.0, -math.sin(tilt)])
    return _look(np.array(WRIST_POSITION_M) + shift, axis, spread * float(rng.uniform(-2.0, 2.0)))


def _look(position: np.ndarray, axis: np.ndarray, roll_deg: float) -> CameraPose:
    right = np.cross(axis, np.array([0.0, 0.0, 1.0]))
    right /= np.linalg.norm(right)
    up = np.cross(right, axis)
    c, s = math.cos(math.radians(roll_deg)), math.sin(math.radians(roll_deg))
    right, up = c * right + s * up, c * up - s * right
    return CameraPose(_triple(position), _triple(right), _triple(up))


def _triple(v: np.ndarray) -> tuple[float, float, float]:
    return (round(float(v[0]), 6), round(float(v[1]), 6), round(float(v[2]), 6))


def camera_xml(name: str, pose: CameraPose, view: Intrinsics) -> str:
    fovy = math.degrees(2.0 * math.atan(view.height / 2.0 / view.fy))
    pos = " ".join(str(v) for v in pose.position_m)
    axes = " ".join(str(v) for v in (*pose.right, *pose.up))
    return f'<camera name="{name}" pos="{pos}" xyaxes="{axes}" fovy="{fovy:.5f}"/>'


class Renderer:
    """Renders colour and depth of one camera with one read-back. Not thread-safe: GL is not."""

    def __init__(self, view: Intrinsics, depth_noise: bool) -> None:
        self._mujoco = load_mujoco()
        self._view = view
        self._depth_noise = depth_noise
        self._sensor = DepthSensor()
        self._gl: Any = None
        self._context: Any = None
        self._scene: Any = None
        self._shown: tuple[int, float] | None = None
        h, w = view.height, view.width
        self._rgb = np.empty((h, w, 3), np.uint8)
        self._zbuffer = np.empty((h, w), np.float32)
        self._viewport = self._mujoco.MjrRect(0, 0, w, h)
        self._option = self._mujoco.MjvOption()
        self._camera = self._mujoco.MjvCamera()
        self._camera.type = self._mujoco.mjtCamera.mjCAMERA_FIXED

    def _start(self, model: Any) -> None:
        """The first scene's model carries the buffer size and mesh quality of the context."""
        mj = self._mujoco
        self._gl = gl_context(self._view.width, self._view.height)
        self._gl.make_current()
        self._context = mj.MjrContext(model, mj.mjtFontScale.mjFONTSCALE_100)
        mj.mjr_setBuffer(mj.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mj.MjvScene(model, maxgeom=300)
        for flag in ("mjRND_SHADOW", "mjRND_REFLECTION", "mjRND_SKYBOX", "mjRND_FOG", "mjRND_HAZE"):
            self._scene.flags[getattr(mj.mjtRndFlag, flag)] = 0

    def render(
        self, model: Any, data: Any, camera: str, key: tuple[int, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """uint8[H, W, 3] RGB and uint16[H, W] mm, both freshly allocated.

        Raises:
            ValueError: a camera that is not one of CAMERAS.
        """
        if camera not in CAMERAS:
            raise ValueError(f"camera is {camera!r}; expected one of {CAMERAS}")
        mj = self._mujoco
        if self._context is None:
            self._start(model)
        # Another world in this process may have drawn since: GL draws into whatever is current.
        self._gl.make_current()
        self._camera.fixedcamid = model.camera(camera).id
        shown = (id(model), data.time)
        if shown == self._shown:
            mj.mjv_updateCamera(model, data, self._camera, self._scene)
        else:
            mj.mjv_updateScene(
                model, data, self._option, None, self._camera, mj.mjtCatBit.mjCAT_ALL, self._scene
            )
            self._shown = shown
        mj.mjr_render(self._viewport, self._scene, self._context)
        mj.mjr_readPixels(self._rgb, self._zbuffer, self._viewport, self._context)
        depth = self._metres(self._zbuffer[::-1])
        index = CAMERAS.index(camera)
        depth_mm = self._sensor.measure(depth, self._view.fx, (*key, index), self._depth_noise)
        return self._rgb[::-1].copy(), depth_mm

    def forget(self) -> None:
        """The scene has changed in place or is another: build it anew at the next render."""
        self._shown = None

    @staticmethod
    def _metres(zbuffer: np.ndarray) -> np.ndarray:
        out = zbuffer * np.float32(-(1.0 - NEAR_M / FAR_M))
        out += np.float32(1.0)
        np.divide(np.float32(NEAR_M), out, out=out)
        return out

    def close(self) -> None:
        """Free the GL context; the next render makes another."""
        if self._context is None:
            return
        # What is freed belongs to this context, not to the one of the world that drew last.
        self._gl.make_current()
        self._context.free()
        self._gl.free()
        self._context = self._gl = self._scene = None
        self.forget()

    def __del__(self) -> None:
        # At interpreter shutdown GL may be gone already, and the process's memory with it.
        with contextlib.suppress(Exception):
            self.close()
