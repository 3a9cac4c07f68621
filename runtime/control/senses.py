"""One observation: the newest picture of every camera and the joints, with their ages. Never waits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from contracts.errors import DeviceError
from contracts.specs import ActionSpec, ObservationSpec
from runtime.arms import Arm, ArmState
from runtime.cameras import Camera
from runtime.config import RobotConfig
from runtime.control.alignment import JointHistory, match, slack, together
from runtime.frames import Frame


@dataclass(frozen=True, slots=True)
class Observation:
    """`frames` by camera, `joints` as read; ages in seconds at `at_s` (inf: no picture yet). `true_s`: the
    moment that it is of, with the joints as they stood then in `posture`; `at_s` and `joints` where no
    latency is configured. `complete`: a picture of every camera, and all of that moment; else nothing is
    inferred from it."""

    frames: Mapping[str, Frame]
    joints: ArmState
    at_s: float
    state_age_s: float
    frame_age_s: float
    posture: ArmState
    true_s: float
    complete: bool

    def pictures(self) -> dict[str, np.ndarray]:
        return {name: frame.rgb for name, frame in self.frames.items()}


class Senses:
    """The cameras and the reading side of the arm."""

    def __init__(self, cameras: Mapping[str, Camera], arm: Arm, config: RobotConfig) -> None:
        self.cameras, self.arm = cameras, arm
        self._aligned, self._history = config.aligned, JointHistory()
        self._state_latency_s = config.arm.state_latency_s
        self._slack_s = slack(cameras, config.cameras) if self._aligned else {}

    def spec(self, action: ActionSpec) -> ObservationSpec:
        """What this robot observes; states are the arm's joints."""
        cameras = tuple(camera.spec() for camera in self.cameras.values())
        return ObservationSpec(cameras, action.names, action.units)

    def joints(self) -> ArmState:
        """Raises `DeviceError` when the arm is gone, or reads what is no number."""
        joints = self.arm.read()
        finite = np.isfinite(joints.positions)
        if not finite.all():
            name = self.arm.spec().names[int(np.argmin(finite))]
            raise DeviceError(f"the reading of {name} is no number")
        return joints

    def observe(self, now_s: float) -> Observation:
        """Raises `DeviceError` when a device is gone."""
        joints = self.joints()
        frames: dict[str, Frame] = {}
        oldest_s = now_s
        for name, camera in self.cameras.items():
            frame = camera.newest(now_s)
            if frame is None:
                oldest_s = float("-inf")
            else:
                frames[name] = frame
                oldest_s = min(oldest_s, frame.captured_s)
        ages_s = (now_s - joints.at_s, now_s - oldest_s)
        complete = len(frames) == len(self.cameras)
        if not self._aligned:
            return Observation(frames, joints, now_s, *ages_s, joints, now_s, complete)
        self._history.add(joints.at_s - self._state_latency_s, joints.positions)
        newest = frames
        frames, true_s = match(self.cameras, newest, now_s)
        complete = complete and together(newest, frames, true_s, self._slack_s)
        posture = ArmState(*self._history.at(true_s))
        return Observation(frames, joints, now_s, *ages_s, posture, true_s, complete)

    def forget(self) -> None:
        """How the joints stood until now says nothing of how they stand from here on."""
        self._history = JointHistory()

    def close(self) -> None:
        for camera in self.cameras.values():
            camera.close()
