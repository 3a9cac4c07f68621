"""The simulated SO-101: an arm whose bus is a socket to the bench process."""

from __future__ import annotations

import numpy as np

from contracts.specs import SO101_JOINTS, ActionSpec
from runtime.arms import ArmState
from runtime.bench.protocol import BenchClient, Done, Hold, Joints, Read, Write
from runtime.run import Run

# STS3215 at 12 V turns 300 deg/s without load; scripted experts stay under 85 deg/s and 550 deg/s2, and
# nothing on this bench needs more than these.
SO101_ACTION = ActionSpec(
    names=SO101_JOINTS,
    units=("deg", "deg", "deg", "deg", "deg", "percent"),
    low=(-110.0, -100.0, -97.0, -95.0, -157.0, 0.0),
    high=(110.0, 100.0, 97.0, 95.0, 163.0, 100.0),
    max_velocity=(120.0, 120.0, 120.0, 120.0, 120.0, 250.0),
    max_acceleration=(1200.0, 1200.0, 1200.0, 1200.0, 1200.0, 4000.0),
    rate_hz=10.0,
)

_ANSWER_S = {"watchdog": 0.5}


class SimArm:
    """`Arm` on the bench."""

    in_control = True

    def __init__(self, run: Run, caller: str) -> None:
        # As long as a bus is waited for; simulated time has no such limit.
        waits_s = _ANSWER_S.get(caller, 2.0) if run.config.pace == "realtime" else 20.0
        self._client = BenchClient(run.bench_address, caller, waits_s)
        self._epoch = 0

    def spec(self) -> ActionSpec:
        return SO101_ACTION

    def take(self, epoch: int) -> None:
        self._epoch = epoch

    def enable(self) -> None:
        """The simulated motors are always powered."""

    def read(self) -> ArmState:
        joints = self._client.ask(Read(), Joints)
        return ArmState(
            np.array(joints.positions, np.float32),
            joints.at_s,
            np.array(joints.velocities, np.float32) if joints.velocities else None,
            np.array(joints.targets, np.float32),
        )

    def write(self, targets: np.ndarray) -> bool:
        request = Write(self._epoch, tuple(targets.tolist()))
        return self._client.ask(request, Done).accepted

    def hold(self) -> None:
        self._client.ask(Hold(self._epoch), Done)

    def close(self) -> None:
        self._client.close()
