"""A driver of whoever's making, made such that the arm's process may rely on it: it raises `DeviceError` and
nothing else, and its limits limit something. What an error leads to is the server's.
"""

from __future__ import annotations

import contextlib
import math
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import replace
from typing import ClassVar

import numpy as np

from contracts.errors import ConfigError, DeviceError, EntracteError
from contracts.specs import ActionSpec
from runtime.arms import ArmState, Driver, degrees_of

_AHEAD_S = 1.0
"""A reading dated so far ahead was not dated by the monotonic clock: it would never be too old."""


def require_limits(spec: ActionSpec) -> ActionSpec:
    """The spec itself; what is compared with NaN is never beyond it. Raises `ConfigError`: a limit that is
    missing, not finite, not above 0, or a range that is none."""
    for what, values in (
        ("low", spec.low),
        ("high", spec.high),
        ("max_velocity", spec.max_velocity),
        ("max_acceleration", spec.max_acceleration),
    ):
        if len(values) != len(spec.names):
            raise ConfigError(
                f"the arm's {what}", expected=f"{len(spec.names)} numbers", found=len(values)
            )
        for name, value in zip(spec.names, values, strict=True):
            least = 0.0 if what.startswith("max") else -math.inf
            if not (math.isfinite(value) and value > least):
                raise ConfigError(
                    f"the arm's {what} of {name}",
                    expected="a finite number" + (" above 0" if least == 0.0 else ""),
                    found=value,
                )
    for name, low, high in zip(spec.names, spec.low, spec.high, strict=True):
        if not low < high:
            raise ConfigError(
                f"the arm's range of {name}", expected="low < high", found=f"{low:g} to {high:g}"
            )
    return spec


class Guarded:
    """`Driver` around a driver. A wrong state (another number of joints, say) is the driver's error too."""

    in_control: ClassVar[bool] = False

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        with _told():
            self._spec = driver.spec()
            self.degrees = degrees_of(driver)
        require_limits(self._spec)

    def spec(self) -> ActionSpec:
        return self._spec

    def open(self) -> None:
        with _told():
            self._driver.open()

    def read(self) -> ArmState:
        with _told():
            asked_s = time.monotonic()
            state = _plain(self._driver.read(), len(self._spec.names))
            now_s = time.monotonic()
            ahead_s = state.at_s - now_s
            if not ahead_s <= _AHEAD_S:  # NaN would never be too old either
                raise DeviceError(
                    "the arm's driver dates its readings by another clock than the robot's",
                    expected="ArmState.at_s from time.monotonic()",
                    found=f"{ahead_s:.0f} s ahead of it",
                    remedy="correct the driver",
                )
            # Measured at some moment of this call; when exactly is the driver's opinion.
            own_s = 0.0 if math.isnan(state.doubt_s) else state.doubt_s
            doubt_s = max(own_s, state.at_s - asked_s, now_s - state.at_s)
            return replace(state, doubt_s=doubt_s)

    def enable(self) -> None:
        with _told():
            self._driver.enable()

    def write(self, targets: np.ndarray) -> None:
        with _told():
            self._driver.write(targets)

    def hold(self) -> None:
        with _told():
            self._driver.hold()

    def release(self) -> None:
        with _told():
            self._driver.release()

    def close(self) -> None:
        with _told():
            self._driver.close()

    def retries(self) -> int:
        with _told():
            return int(self._driver.retries())

    def warmest_c(self) -> float:
        with _told():
            return float(self._driver.warmest_c())


def _plain(state: ArmState, joints: int) -> ArmState:
    """The same in the types that `ArmState` names: what a driver reckoned in NumPy is of types that no answer
    can carry. Raises `TypeError` or `ValueError`, where it isn't of so many joints too."""
    return ArmState(
        _row(state.positions, joints, "a state"),
        float(state.at_s),
        None if state.velocities is None else _row(state.velocities, joints, "velocities"),
        None if state.targets is None else _row(state.targets, joints, "targets"),
        bool(state.torque),
        float(state.doubt_s),
    )


def _row(values: object, joints: int, what: str) -> np.ndarray:
    row = np.array(values, np.float32)  # a copy: a driver may go on writing in its own
    if row.shape != (joints,):
        raise ValueError(f"{what} of shape {row.shape}")
    return row


@contextlib.contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except DeviceError:
        raise
    except EntracteError as error:
        raise DeviceError(str(error)) from error
    except Exception as error:
        traceback.print_exc(file=sys.stderr)  # whose line it was is in logs/arm.log
        raise DeviceError(
            f"the arm's driver raised {type(error).__name__}",
            found=str(error) or "no words",
            remedy="see logs/arm.log; correct the driver",
        ) from error
