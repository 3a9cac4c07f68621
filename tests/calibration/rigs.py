"""Hand-eye set-ups with a known answer: a board seen by a pinhole from random stands of an inexact arm."""

from __future__ import annotations

import numpy as np

from calibration import rigid
from calibration.handeye.closed_form import project
from calibration.handeye.samples import Camera, Sample, View
from calibration.rigid import Array
from contracts.calibration import Mount

FOCAL_PX = 600.0
SQUARE_M = 0.03
_GRID = np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1).reshape(-1, 2) * SQUARE_M
BOARD = np.c_[_GRID - _GRID.mean(axis=0), np.zeros(len(_GRID))]


class Rig:
    """`camera`, its true `carrier_T_camera`, and the true `far_T_board`."""

    def __init__(self, seed: int, mount: Mount = "hand", name: str = "front") -> None:
        self.random = np.random.default_rng(seed)
        turn, shift = self.random.normal(size=(2, 3))
        self.carrier_T_camera = rigid.transform(rigid.rotation_of(0.5 * turn), 0.05 * shift)
        turn, shift = self.random.normal(size=(2, 3))
        self.far_T_board = rigid.transform(rigid.rotation_of(turn), [0.5, 0, 0] + 0.1 * shift)
        self.camera = Camera(name, mount, FOCAL_PX, FOCAL_PX, 320, 240)

    def stands(
        self,
        count: int,
        *,
        tilt_deg: float = 40.0,
        roll_deg: float = 60.0,
        arm_deg: float = 0.2,
        arm_m: float = 0.001,
        pixels: float = 0.3,
        axis: Array | None = None,
        also: Rig | None = None,
    ) -> list[Sample]:
        """The board seen from random sides (tilted about `axis` only, where given), the arm misreporting its
        pose by so much per axis, the corners off by `pixels`. `also`: of every second stand, what the camera
        of another rig on the same carrier sees."""
        found: list[Sample] = []
        while len(found) < count:
            seen = self._view(tilt_deg, roll_deg, axis)
            corners = seen[:3, :3] @ BOARD.T + seen[:3, 3:]
            found_px = (FOCAL_PX * corners[:2] / corners[2]).T + np.array([320.0, 240.0])
            if (found_px < 5).any() or (found_px > [635, 475]).any():
                continue
            link = self.carrier_T_camera @ seen @ rigid.invert(self.far_T_board)
            pose = rigid.invert(link) if self.camera.mount == "hand" else link
            error = self.random.normal(size=6) * np.repeat([np.radians(arm_deg), arm_m], 3)
            found_px += self.random.normal(size=found_px.shape) * pixels
            view = {self.camera.name: View(BOARD, found_px)}
            if also is not None and len(found) % 2:
                other = rigid.invert(also.carrier_T_camera) @ self.carrier_T_camera @ seen
                found_px = project(also.camera, other, BOARD)
                found_px += self.random.normal(size=found_px.shape) * pixels
                view[also.camera.name] = View(BOARD, found_px)
            found.append(Sample(f"{len(found):02d}", rigid.moved(pose, -error), view))
        return found

    def _view(self, tilt_deg: float, roll_deg: float, axis: Array | None) -> Array:
        """camera_T_board: facing the camera, then tilted and rolled."""
        random = self.random
        tilt = np.radians(tilt_deg) * np.sqrt(random.uniform())
        angle = random.uniform(0, 2 * np.pi)
        about = np.array([np.cos(angle), np.sin(angle), 0.0])
        if axis is not None:
            about, tilt = axis, tilt * random.choice([-1.0, 1.0])
        turned = rigid.rotation_of(about * tilt)
        roll = np.radians(random.uniform(-roll_deg, roll_deg))
        place = [*random.uniform([-0.08, -0.06], [0.08, 0.06]), random.uniform(0.35, 0.6)]
        return rigid.transform(turned @ rigid.rotation_of([0, 0, roll]), place)
