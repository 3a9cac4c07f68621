"""The workshop's arm: its base is mounted the other way round, so the pan joint counts backwards, and it
is geared down. On the bench it stands on the simulated bus; on the shelf it would open a serial port."""

from __future__ import annotations

import msgspec
import numpy as np

from contracts.errors import ConfigError
from contracts.specs import ActionSpec
from runtime.arms import ArmState
from runtime.arms.sim import SimArm
from runtime.run import Run

PAN = 0


class WorkshopArm:
    """`runtime.arms.Arm`. Option `speed_scale` in (0, 1]: how far it is geared down."""

    in_control = True  # no process of its own: it has no device that could block or crash

    def __init__(self, run: Run, caller: str, speed_scale: float = 1.0) -> None:
        if not 0 < speed_scale <= 1:
            raise ConfigError("arm.options.speed_scale", expected="in (0, 1]", found=speed_scale)
        self._bus = SimArm(run, caller)
        self._scale = speed_scale

    def spec(self) -> ActionSpec:
        spec = self._bus.spec()
        low, high = list(spec.low), list(spec.high)
        low[PAN], high[PAN] = -high[PAN], -low[PAN]
        return msgspec.structs.replace(
            spec,
            low=tuple(low),
            high=tuple(high),
            max_velocity=tuple(v * self._scale for v in spec.max_velocity),
        )

    def take(self, epoch: int) -> None:
        self._bus.take(epoch)

    def enable(self) -> None:
        self._bus.enable()

    def read(self) -> ArmState:
        state = self._bus.read()
        return ArmState(_turned(state.positions), state.at_s)

    def write(self, targets: np.ndarray) -> bool:
        return self._bus.write(_turned(targets))

    def hold(self) -> None:
        self._bus.hold()

    def close(self) -> None:
        self._bus.close()


def _turned(joints: np.ndarray) -> np.ndarray:
    turned = joints.copy()
    turned[PAN] = -turned[PAN]
    return turned
