"""The arm of a Gymnasium environment: joints as `bench.gymnasium` maps them, on the simulated bus."""

from __future__ import annotations

from contracts.errors import ConfigError
from contracts.specs import ActionSpec
from runtime.arms.sim import SimArm
from runtime.run import Run


class GymArm(SimArm):
    """`runtime.arms.Arm`."""

    in_control = True

    def __init__(self, run: Run, caller: str) -> None:
        section = run.config.bench.gymnasium
        if section is None:
            raise ConfigError("arm.kind: gymnasium needs bench.gymnasium")
        self._spec = section.spec(run.config.loop.rate_hz)
        super().__init__(run, caller)

    def spec(self) -> ActionSpec:
        return self._spec
