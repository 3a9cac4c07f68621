"""LeRobot's calibration file of an SO-100/101: reading, checking, and steps <-> degrees and percent.

As `lerobot.motors.motors_bus` does it, so that data and calibrations of LeRobot fit: degrees from the middle
of the range, the gripper in percent of its range. Two things differ: we round where LeRobot truncates (a pose
that is read and written again does not creep), and a reading beyond the range is told as it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import msgspec
import numpy as np

from contracts.errors import ConfigError
from contracts.specs import is_gripper
from runtime.arms.sts import STEPS, STEPS_A_TURN

JOINTS = ("shoulder_pan", "shoulder_lift", "elbow_flex", "wrist_flex", "wrist_roll", "gripper")
"""In LeRobot's order; servo ids are 1 to 6 in this order (`so_follower.py`)."""
IDS = dict(zip(JOINTS, range(1, 7), strict=True))
_NARROWEST = 100
WRAP_STEPS = 57
"""5 degrees: how far from either end of its one turn a servo is kept. It counts from 0 to 4095, and past an
end it reads the other one: to its goal it would then turn the whole way round, at full speed."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """One motor, LeRobot's `MotorCalibration`: `range_*` in steps after the offset was taken off."""

    id: int
    drive_mode: int
    homing_offset: int
    range_min: int
    range_max: int


def read_calibration(path: Path) -> dict[str, Calibration]:
    """By joint, in the arm's order. Raises `ConfigError` naming what is wrong."""
    remedy = "give the file that lerobot-calibrate wrote for this arm"
    try:
        found = msgspec.json.decode(path.read_bytes(), type=dict[str, Calibration])
    except OSError as error:
        raise ConfigError(
            f"no calibration at {path}", found=error.strerror, remedy=remedy
        ) from error
    except msgspec.MsgspecError as error:
        raise ConfigError(
            f"{path} is no LeRobot calibration", found=str(error), remedy=remedy
        ) from error
    if set(found) != set(JOINTS):
        raise ConfigError(
            f"{path} is of another arm", expected=list(JOINTS), found=list(found), remedy=remedy
        )
    for name, one in found.items():
        if one.id != IDS[name]:
            raise ConfigError(
                f"{path}: joint map: {name}",
                expected=f"servo {IDS[name]}",
                found=f"servo {one.id}",
                remedy="set the servos' ids with lerobot-setup-motors and calibrate again",
            )
        if not (0 <= one.range_min < one.range_max < STEPS) or one.drive_mode not in (0, 1):
            raise ConfigError(f"{path}: {name} has no usable range", found=one, remedy=remedy)
        if one.range_max - one.range_min < _NARROWEST:
            raise ConfigError(
                f"{path}: {name} was not moved through its range when it was calibrated",
                found=f"{one.range_min} to {one.range_max} of {STEPS} steps",
                remedy="calibrate again",
            )
    return {name: found[name] for name in JOINTS}


def write_calibration(path: Path, calibration: Mapping[str, Calibration]) -> None:
    path.write_text(json.dumps({name: asdict(c) for name, c in calibration.items()}, indent=4))


class Units:
    """Steps <-> the units of observations and actions, all joints at once. `normalised`: LeRobot's
    `use_degrees: false`, every joint but the gripper from -100 to 100 of its range. `low`, `high` are
    the calibrated ranges in these units, as LeRobot's: by them packages and data sets know the arm.
    `low_steps`, `high_steps` are how far a goal goes: without the last `WRAP_STEPS` of a turn."""

    def __init__(self, calibration: Mapping[str, Calibration], normalised: bool) -> None:
        low = np.array([c.range_min for c in calibration.values()], np.float64)
        high = np.array([c.range_max for c in calibration.values()], np.float64)
        gripper = np.array([is_gripper(name) for name in calibration])
        inverted = np.array([bool(c.drive_mode) for c in calibration.values()])
        self.low_steps = np.maximum(low, WRAP_STEPS)
        self.high_steps = np.minimum(high, STEPS - 1 - WRAP_STEPS)
        span = high - low
        body = 200.0 / span if normalised else np.full(len(low), 360.0 / STEPS_A_TURN)
        self.scale = np.where(gripper, 100.0 / span, body)
        """Units for one step, before inversion."""
        self._zero = np.where(gripper, low, (low + high) / 2.0)
        # LeRobot inverts percentages only: -norm, and 100 - norm for the gripper.
        flips = inverted & (gripper | normalised)
        self._zero = np.where(flips & gripper, high, self._zero)
        self.scale = np.where(flips, -self.scale, self.scale)
        ends = np.stack([self.of(low), self.of(high)])
        self.low, self.high = ends.min(axis=0), ends.max(axis=0)

    def of(self, steps: np.ndarray) -> np.ndarray:
        """float64[joints] in degrees or percent."""
        return np.asarray((steps - self._zero) * self.scale, np.float64)

    def steps(self, values: np.ndarray) -> np.ndarray:
        """int64[joints], kept inside how far a goal goes."""
        raw = np.rint(values / self.scale + self._zero)
        return np.asarray(np.clip(raw, self.low_steps, self.high_steps), np.int64)

    def speed(self, steps_s: np.ndarray) -> np.ndarray:
        return np.asarray(steps_s * self.scale, np.float64)
