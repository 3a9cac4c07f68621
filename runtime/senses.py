"""One observation: the newest picture of every camera and the joints, with their ages. Never waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contracts.specs import ActionSpec, ObservationSpec
from runtime.arms import Arm, ArmState
from runtime.cameras import Camera
from runtime.frames import Frame


@dataclass(frozen=True, slots=True)
class Observation:
    """`frames` by camera, `joints` as read; ages in seconds at `at_s` (inf: no picture yet)."""

    frames: Mapping[str, Frame]
    joints: ArmState
    at_s: float
    state_age_s: float
    frame_age_s: float

    def pictures(self) -> dict[str, np.ndarray]:
        return {name: frame.rgb for name, frame in self.frames.items()}


class Senses:
    """The cameras and the reading side of the arm."""

    def __init__(self, cameras: Mapping[str, Camera], arm: Arm) -> None:
        self.cameras, self._arm = cameras, arm

    def spec(self, action: ActionSpec) -> ObservationSpec:
        """What this robot observes; states are the arm's joints."""
        cameras = tuple(camera.spec() for camera in self.cameras.values())
        return ObservationSpec(cameras, action.names, action.units)

    def observe(self, now_s: float) -> Observation:
        """Raises `DeviceError` when a device is gone."""
        joints = self._arm.read()
        frames: dict[str, Frame] = {}
        oldest_s = now_s
        for name, camera in self.cameras.items():
            frame = camera.newest(now_s)
            if frame is None:
                oldest_s = float("-inf")
            else:
                frames[name] = frame
                oldest_s = min(oldest_s, frame.captured_s)
        return Observation(frames, joints, now_s, now_s - joints.at_s, now_s - oldest_s)

    def close(self) -> None:
        for camera in self.cameras.values():
            camera.close()
