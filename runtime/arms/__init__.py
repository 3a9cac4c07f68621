"""Arms: joint positions in, position targets out. Owns the protocols; one module per implementation.

The class that `arm.kind` names is a `Driver`, which `runtime.arms.server` hosts in a process of its own, or,
where it says `in_control = True`, an `Arm` that control and watchdog use directly (the bench's). Only the
gate's holder and the watchdog write; who may is decided by the lease on the board. One whose `open` changes
the motors' power says `powered_by_opening = True`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, cast

import numpy as np

from contracts import registry
from contracts.errors import ConfigError, DeviceError
from contracts.specs import ActionSpec
from runtime.config import RobotConfig
from runtime.run import Run


@dataclass(frozen=True, slots=True)
class ArmState:
    """`positions` float32[joints] in the spec's units, measured at `at_s` (the run's clock). `velocities`
    float32[joints] in units/s and `targets` float32[joints], the goal positions as read back from the arm:
    None where it can't say; never what was merely sent. `torque`: whether its motors are powered, True where
    it can't say. `doubt_s`: how much sooner or later than `at_s` it may have been measured; of a driver's
    reading its process makes it at least as long as the reading took."""

    positions: np.ndarray
    at_s: float
    velocities: np.ndarray | None = None
    targets: np.ndarray | None = None
    torque: bool = True
    doubt_s: float = 0.0


class Arm(Protocol):
    """One arm, as control and watchdog see it. Any call may raise `DeviceError`; after that the caller
    holds."""

    def spec(self) -> ActionSpec:
        """Names, units and limits of the joints; states have the same names and units."""
        ...

    def take(self, epoch: int) -> None:
        """Commands from here on are given under this epoch of the lease. Where the arm can, it refuses
        commands of an older one from then on."""
        ...

    def enable(self) -> None:
        """Power the motors, holding the pose in which they stand. Called once, by the gate of control, after
        names, units and limits were checked against the policy's spec. Raises `DeviceError`."""
        ...

    def read(self) -> ArmState: ...

    def write(self, targets: np.ndarray) -> bool:
        """Move to float[joints] position targets; they persist. False: refused, the lease is older."""
        ...

    def hold(self) -> None:
        """Stop where it stands and stay. Works also when `write` does not."""
        ...

    def close(self) -> None: ...


class Glitch(DeviceError):
    """A reading that failed and may succeed the next time (a reply lost to noise). Lasting ones are a
    fault: `arm.fault_after_s`."""


class Driver(Protocol):
    """One arm's own side, made as `make(run, **options)` without touching the device and used by one thread.
    One whose joints aren't in degrees may have `degrees`, float of each joint: what one unit of it is. By
    that it is known where an SO-101 is; None says of joints named like that arm's that it is another.

    A `DeviceError` is final: the server latches it and from then on only asks for `hold`; so is whatever else
    it raises. A `Glitch` is not. Units are the spec's everywhere.
    """

    in_control: ClassVar[bool] = False

    def spec(self) -> ActionSpec:
        """Known before the device is opened: it is checked against the policy's first."""
        ...

    def open(self) -> None:
        """Connect and check that this is the arm that was configured. Moves and powers nothing where the
        device allows that."""
        ...

    def read(self) -> ArmState:
        """Waits for the device, some milliseconds. Raises `Glitch` or `DeviceError`."""
        ...

    def enable(self) -> None:
        """Power the motors in the pose in which they stand; refuses if the arm moves by itself. If it fails
        half-way, its error names what has power, and `hold` is asked of that."""
        ...

    def write(self, targets: np.ndarray) -> None:
        """float64[joints], finite. `Glitch`: this one was lost, the next one may arrive; losing all of them
        for `arm.fault_after_s` is a fault."""
        ...

    def hold(self) -> None:
        """Stop and stay, verified by reading back. Raises `DeviceError` where that can't be said; a driver
        that reads no goals back raises it from a later `read`, if the arm does not come to stand. Asked again
        before another `write`: the same goals again, or a loaded arm would sink with each."""
        ...

    def release(self) -> None:
        """Cut the motors' power. Only ever asked for in the configured rest pose."""
        ...

    def close(self) -> None:
        """Leave the motors as they are."""
        ...

    def retries(self) -> int:
        """Replies and commands that had to be repeated since it was opened."""
        ...

    def warmest_c(self) -> float:
        """Temperature of the warmest motor; 0 where unknown."""
        ...


def is_served(config: RobotConfig) -> bool:
    """Whether the arm has a process of its own. Raises `ConfigError`: unknown kind, or simulated time."""
    section = config.arm
    served = not getattr(registry.load("arms", section.kind), "in_control", False)
    if served and config.pace == "asap":
        raise ConfigError(
            f"an arm of kind '{section.kind}' lives by the wall's clock",
            expected="pace: realtime",
            found="pace: asap",
            remedy="set pace: realtime, or arm.kind: sim",
        )
    return served


def is_powered_by_opening(config: RobotConfig) -> bool:
    """Whether merely connecting to the arm changes its motors' power: its driver says
    `powered_by_opening = True`. Raises `ConfigError`: unknown kind."""
    return bool(getattr(registry.load("arms", config.arm.kind), "powered_by_opening", False))


def degrees_of(arm: object) -> tuple[float, ...] | None:
    """`degrees` as in `Driver`; empty where an arm or a driver says nothing of it."""
    found = getattr(arm, "degrees", ())
    return None if found is None else tuple(map(float, found))


def open_arm(run: Run, caller: str) -> Arm:
    """The configured arm. Raises `ConfigError` or `DeviceError`."""
    section = run.config.arm
    if is_served(run.config):
        from runtime.arms.client import ServedArm

        return ServedArm(run.arm_address, caller, section.answer_timeout_s, section.start_timeout_s)
    return cast(Arm, _make(run, caller))


def make_driver(run: Run) -> Driver:
    """The configured driver, not yet opened. Raises `ConfigError`."""
    return cast(Driver, _make(run))


def _make(run: Run, *arguments: str) -> Any:
    section = run.config.arm
    make = registry.load("arms", section.kind)
    try:
        return make(run, *arguments, **section.options)
    except TypeError as error:
        raise ConfigError(f"arm.options of '{section.kind}'", found=str(error)) from error
