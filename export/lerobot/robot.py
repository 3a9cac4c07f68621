"""What a LeRobot checkpoint does not say about its robot: joints, units, rate, names of cameras.

A checkpoint holds sizes and statistics alone. The rest comes from the command line or from the data set it
was trained on, and what stays unknown is refused with the option that tells it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from contracts.errors import ConfigError, PackageError
from contracts.files import atomic
from contracts.specs import SO101_JOINTS, ActionSpec, CameraSpec, ObservationSpec, is_gripper
from export.lerobot.checkpoint import Checkpoint
from export.lerobot.config import ACTION, IMAGES, STATE

ROBOT_TYPES = {
    name: SO101_JOINTS for name in ("so100", "so101", "so100_follower", "so101_follower")
}
UNITS = ("deg", "normalised")
_JOINTS_REMEDY = "--robot-type, --joints or --dataset"
_UNITS_REMEDY = (
    "--units deg or normalised: LeRobot records degrees with use_degrees (the default of its SO arms "
    "since 0.4.4), else -100 to 100 of each joint's range: 'normalised'"
)
# Calibrations count encoder steps; a servo of these arms turns once in 4096, and LeRobot divides by 4095.
_STEPS_A_TURN = 4095.0
_SLACK = 1.02


@dataclass(frozen=True)
class RobotOptions:
    """What the user says. `units` of the joints in the training data: "deg" as LeRobot's `use_degrees`, or
    "normalised" (-100 to 100 of each joint's calibrated range). The gripper is 0 to 100 either way.
    `calibration`: LeRobot's calibration file of the robot, turns "normalised" into degrees. `cameras`: the
    checkpoint's name of a camera -> the robot's. `dataset`: the data set it was trained on."""

    robot_type: str = ""
    joints: tuple[str, ...] = ()
    units: str = ""
    rate_hz: float = 0.0
    cameras: Mapping[str, str] = field(default_factory=dict)
    calibration: Path | None = None
    dataset: Path | None = None


@dataclass(frozen=True)
class Robot:
    """`degrees`: units of the package for one unit of the checkpoint, per joint (1: the same)."""

    observation: ObservationSpec
    action: ActionSpec
    cameras: tuple[str, ...]
    degrees: np.ndarray


def describe(checkpoint: Checkpoint, options: RobotOptions) -> Robot:
    """Raises `ConfigError` naming the option that is missing or does not fit."""
    dataset = _Dataset(options.dataset) if options.dataset else None
    rate_hz = options.rate_hz or (dataset.fps if dataset else 0.0)
    _require_told(options, dataset, rate_hz)
    joints = _joints(checkpoint, options, dataset)
    low, high = _reach(checkpoint)
    _check_units(checkpoint, options, joints, low, high)
    gripper = np.array([is_gripper(joint) for joint in joints])
    degrees = np.ones(len(joints))
    if options.calibration is not None:
        degrees = np.where(gripper, 1.0, _degrees(options.calibration, joints))
    in_degrees = options.units == "deg" or options.calibration is not None
    units = tuple("deg" if in_degrees and not g else "percent" for g in gripper)
    low, high = low * degrees, high * degrees
    # A gripper that was read as -0.3 still has no place below 0.
    bounded = np.array([unit == "percent" for unit in units])
    low = np.where(bounded, np.maximum(low, np.where(gripper, 0.0, -100.0)), low)
    high = np.where(bounded, np.minimum(high, 100.0), high)
    span = np.maximum(high - low, 1.0)
    cameras = _cameras(checkpoint, options)
    action = ActionSpec(
        names=joints,
        units=units,
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        # A checkpoint knows no limits of speed, and nobody asks a policy for them: the gate keeps to the
        # arm's own. One range a second.
        max_velocity=tuple(span.tolist()),
        max_acceleration=tuple((span * 10.0).tolist()),
        rate_hz=rate_hz,
    )
    shapes = [feature.shape for feature in checkpoint.config.images.values()]
    specs = tuple(
        CameraSpec(name, shape[2], shape[1], rate_hz, depth=False)
        for name, shape in zip(cameras, shapes, strict=True)
    )
    return Robot(ObservationSpec(specs, joints, units), action, cameras, degrees)


def _require_told(options: RobotOptions, dataset: _Dataset | None, rate_hz: float) -> None:
    """All that is missing at once, so that one more run is enough."""
    untold = []
    if not (options.joints or options.robot_type or (dataset and dataset.joints)):
        untold.append(("what its joints are called", _JOINTS_REMEDY))
    if not rate_hz > 0.0:
        remedy = "--rate-hz, the frames a second of its data set, or --dataset"
        untold.append(("at which rate its actions follow each other", remedy))
    if not options.units:
        untold.append(("in which units its joints are", _UNITS_REMEDY))
    if untold:
        raise ConfigError(
            f"a LeRobot checkpoint does not say {', '.join(what for what, _ in untold)}",
            remedy=f"give {'; give '.join(remedy for _, remedy in untold)}",
        )


class _Dataset:
    """Names and rate from a data set's meta/info.json."""

    def __init__(self, root: Path) -> None:
        try:
            info: Any = atomic.read_json(root / "meta" / "info.json")
            self.fps = float(info["fps"])
            self.robot_type = str(info.get("robot_type") or "")
            names = info["features"][ACTION].get("names") or ()
        except (atomic.FileError, OSError, KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{root} is no LeRobot data set", expected="meta/info.json", found=str(error)
            ) from error
        self.joints = tuple(str(n) for n in names) if isinstance(names, list) else ()


def _joints(
    checkpoint: Checkpoint, options: RobotOptions, dataset: _Dataset | None
) -> tuple[str, ...]:
    if options.joints:
        joints = options.joints
    elif options.robot_type:
        if options.robot_type not in ROBOT_TYPES:
            raise ConfigError(
                f"robot type '{options.robot_type}' is not known",
                expected=f"one of {sorted(ROBOT_TYPES)}",
                remedy="name its joints with --joints",
            )
        joints = ROBOT_TYPES[options.robot_type]
    else:
        joints = dataset.joints if dataset is not None else ()
    config = checkpoint.config
    for what, size in ((ACTION, config.action_size), (STATE, config.state_size)):
        if len(joints) != size:
            raise ConfigError(
                f"joints of {checkpoint.folder}",
                expected=f"{size}, as '{what}' has",
                found=list(joints),
                remedy=f"give {_JOINTS_REMEDY}",
            )
    return joints


def _check_units(
    checkpoint: Checkpoint,
    options: RobotOptions,
    joints: Sequence[str],
    low: np.ndarray,
    high: np.ndarray,
) -> None:
    if options.units not in UNITS:
        raise ConfigError(
            "units of the joints", found=options.units, remedy=f"give {_UNITS_REMEDY}"
        )
    if options.calibration is not None and options.units != "normalised":
        raise ConfigError("--calibration turns normalised units into degrees", found="--units deg")
    reach = np.maximum(np.abs(low), np.abs(high))
    if options.units == "normalised" and reach.max() > 100.0 * _SLACK:
        joint = joints[int(reach.argmax())]
        raise ConfigError(
            f"the data of {checkpoint.folder} is not normalised",
            expected="-100 to 100",
            found=f"{joint} from {low[reach.argmax()]:.1f} to {high[reach.argmax()]:.1f}",
            remedy="give --units deg",
        )


def _reach(checkpoint: Checkpoint) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest actions in the training data, in the checkpoint's units."""
    found = checkpoint.normaliser(ACTION, "ACTION").range()
    if found is None:
        raise PackageError(
            f"{checkpoint.folder} does not say what its actions range over",
            expected=f"statistics of '{ACTION}' in its processors",
        )
    low, high = (bound.reshape(-1).numpy() for bound in found)
    if len(low) != checkpoint.config.action_size or not (low <= high).all():
        raise PackageError(f"{checkpoint.folder}: statistics of '{ACTION}' do not fit its size")
    return low, high


def _degrees(path: Path, joints: Sequence[str]) -> np.ndarray:
    """Degrees for one normalised unit of each joint, from LeRobot's calibration file: 200 units are the
    calibrated range of encoder steps, and zero is its middle in both units."""
    try:
        held: Any = atomic.read_json(path)
        ranges = []
        for joint in joints:
            entry = held[joint.removesuffix(".pos")]
            if entry.get("drive_mode"):
                raise ValueError(f"{joint} has a drive mode, which turns its sign")
            ranges.append(float(entry["range_max"]) - float(entry["range_min"]))
            if (
                not 0.0 < ranges[-1] <= _STEPS_A_TURN
            ):  # else a joint would turn the other way, or wildly
                raise ValueError(f"{joint} ranges over {ranges[-1]:g} of {_STEPS_A_TURN:g} steps")
    except (atomic.FileError, OSError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path} is no calibration of this robot",
            expected="LeRobot's file with range_min and range_max of every joint",
            found=f"{type(error).__name__}: {error}",
        ) from error
    return np.array(ranges) * 360.0 / _STEPS_A_TURN / 200.0


def _cameras(checkpoint: Checkpoint, options: RobotOptions) -> tuple[str, ...]:
    """The robot's camera names in the policy's order."""
    own = []
    for feature in checkpoint.config.images:
        name = checkpoint.processors.renamed.get(feature, feature)
        own.append(name.removeprefix(IMAGES).removeprefix("observation."))
    strange = sorted(set(options.cameras) - set(own))
    if strange:
        raise ConfigError(f"{checkpoint.folder} has no such camera", expected=own, found=strange)
    cameras = tuple(options.cameras.get(name, name) for name in own)
    if len(set(cameras)) != len(cameras):
        raise ConfigError("two cameras of one name", found=list(cameras))
    return cameras
