"""Arms: joint positions in, position targets out. Owns the protocol; one module per implementation.

An arm is named in YAML (`arm.kind`) and made as `make(run, caller, **options)`. Only the gate's holder
(control) and the watchdog write; who may is decided by the lease on the board, and `take` tells the arm.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np

from contracts import registry
from contracts.errors import ConfigError
from contracts.specs import ActionSpec
from runtime.config import Run


@dataclass(frozen=True, slots=True)
class ArmState:
    """`positions` float32[joints] in the spec's units, measured at `at_s` (the run's clock)."""

    positions: np.ndarray
    at_s: float


class Arm(Protocol):
    """One arm. Any call may raise `DeviceError`; after that the caller holds."""

    def spec(self) -> ActionSpec:
        """Names, units and limits of the joints; states have the same names and units."""
        ...

    def take(self, epoch: int) -> None:
        """Commands from here on are given under this epoch of the lease. Where the arm can, it refuses
        commands of an older one from then on."""
        ...

    def read(self) -> ArmState: ...

    def write(self, targets: np.ndarray) -> bool:
        """Move to float[joints] position targets; they persist. False: refused, the lease is older."""
        ...

    def hold(self) -> None:
        """Stop where it stands and stay. Works also when `write` does not."""
        ...

    def close(self) -> None: ...


def open_arm(run: Run, caller: str) -> Arm:
    """The configured arm. Raises `ConfigError` or `DeviceError`."""
    section = run.config.arm
    make = registry.load("arms", section.kind)
    try:
        return cast(Arm, make(run, caller, **section.options))
    except TypeError as error:
        raise ConfigError(f"arm.options of '{section.kind}'", found=str(error)) from error
