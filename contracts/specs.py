"""Observation and action specs: names, order, shapes, units, limits. Owns comparison and hashing.

A policy that was trained for another spec is refused before any motion; `differences` names why.
"""

from __future__ import annotations

import hashlib

import msgspec

from contracts.errors import SpecMismatch

SO101_JOINTS: tuple[str, ...] = (
    "shoulder_pan.pos",
    "shoulder_lift.pos",
    "elbow_flex.pos",
    "wrist_flex.pos",
    "wrist_roll.pos",
    "gripper.pos",
)
"""LeRobot's feature names for the SO-101, in LeRobot's order."""


def is_gripper(joint: str) -> bool:
    """Whether a joint of this name opens and closes ("gripper.pos", "left_gripper.pos"): percent of its
    travel, never degrees."""
    return "gripper" in joint


class CameraSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One RGB-D camera. Intrinsics are pixels at `width` x `height`; depth is aligned uint16.

    `depth_scale_m` is metres per depth count (0.001: millimetres). `fx` 0 means uncalibrated.
    """

    name: str
    width: int
    height: int
    rate_hz: float
    fx: float = 0.0
    fy: float = 0.0
    cx: float = 0.0
    cy: float = 0.0
    depth: bool = True
    depth_scale_m: float = 0.001
    model: str = ""
    serial: str = ""


class ObservationSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one observation holds: `observation.images.<cam>` uint8[H,W,3] RGB and `observation.state`
    float32[len(state_names)], in `state_units` ("deg" or "percent" per entry)."""

    cameras: tuple[CameraSpec, ...]
    state_names: tuple[str, ...]
    state_units: tuple[str, ...]
    calibration_id: str = ""

    def camera(self, name: str) -> CameraSpec:
        for camera in self.cameras:
            if camera.name == name:
                return camera
        raise SpecMismatch(
            f"no camera named '{name}'",
            expected=f"one of {[c.name for c in self.cameras]}",
            remedy="name the camera in the hardware config or choose a policy trained without it",
        )


class ActionSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one action holds: float32[len(names)] joint position targets in `units`.

    `low`/`high`: position limits; `max_velocity`: units per second; `max_acceleration`: units per
    second squared; `rate_hz`: the rate at which successive actions of a chunk follow each other.
    """

    names: tuple[str, ...]
    units: tuple[str, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    max_velocity: tuple[float, ...]
    max_acceleration: tuple[float, ...]
    rate_hz: float

    @property
    def spans(self) -> tuple[float, ...]:
        """What an error is a share of, per joint: high - low, at least one unit. A joint that stood still in
        all of a policy's data has no range."""
        return tuple(max(high - low, 1.0) for low, high in zip(self.low, self.high, strict=True))


def spec_hash(spec: msgspec.Struct) -> str:
    """First 16 hex digits of the SHA-256 of the spec's canonical JSON (field order is declared order)."""
    return hashlib.sha256(msgspec.json.encode(spec)).hexdigest()[:16]


def action_differences(required: ActionSpec, offered: ActionSpec) -> list[str]:
    """Each way in which the arm's `offered` spec is unfit for a policy that `required` another."""
    found: list[str] = []
    if required.names != offered.names:
        found.append(f"action names: policy {list(required.names)}, arm {list(offered.names)}")
    elif required.units != offered.units:
        found.append(f"action units: policy {list(required.units)}, arm {list(offered.units)}")
    else:
        for name, low, high, arm_low, arm_high in zip(
            required.names, required.low, required.high, offered.low, offered.high, strict=True
        ):
            if arm_low > low + 1e-3 or arm_high < high - 1e-3:
                found.append(
                    f"range of {name}: policy [{low:g}, {high:g}], arm [{arm_low:g}, {arm_high:g}]"
                )
    return found


def observation_differences(required: ObservationSpec, offered: ObservationSpec) -> list[str]:
    """Each way in which the robot's `offered` observations are unfit for a policy's `required` ones.

    Extra cameras are fine, a larger picture of the same aspect ratio is fine (it is resized); a missing
    camera, another aspect ratio, another field of view (by > 10 %) or other state names are not.
    """
    found: list[str] = []
    if not required.state_names:
        pass  # it looks at pictures alone
    elif required.state_names != offered.state_names:
        found.append(
            f"state names: policy {list(required.state_names)}, robot {list(offered.state_names)}"
        )
    elif required.state_units != offered.state_units:
        found.append(
            f"state units: policy {list(required.state_units)}, robot {list(offered.state_units)}"
        )
    cameras = {camera.name: camera for camera in offered.cameras}
    for camera in required.cameras:
        other = cameras.get(camera.name)
        if other is None:
            found.append(f"camera '{camera.name}' is missing (robot has {sorted(cameras)})")
            continue
        if abs(camera.width / camera.height - other.width / other.height) > 0.02:
            found.append(
                f"aspect ratio of camera '{camera.name}': policy {camera.width}x{camera.height}, "
                f"robot {other.width}x{other.height}"
            )
        elif camera.fx and other.fx:
            ratio = (other.fx / other.width) / (camera.fx / camera.width)
            if not 0.9 <= ratio <= 1.1:
                found.append(
                    f"field of view of camera '{camera.name}': focal length is {ratio:.2f} times "
                    "the one the policy was trained with"
                )
    return found


def remedy_for(differences: list[str], otherwise: str) -> str:
    """What to do about them: units have a remedy of their own."""
    if any(" units: " in difference for difference in differences):
        return "export again with --calibration, or with --units deg if the data was in degrees"
    return otherwise


def require_compatible(
    required_observation: ObservationSpec,
    required_action: ActionSpec,
    observation: ObservationSpec,
    action: ActionSpec,
    what: str,
) -> None:
    """Raise `SpecMismatch` naming every difference; call before anything moves."""
    found = action_differences(required_action, action)
    found += observation_differences(required_observation, observation)
    if found:
        remedy = remedy_for(
            found, "use a package trained for this hardware config, or fix the config"
        )
        raise SpecMismatch(f"{what} was made for another robot: " + "; ".join(found), remedy=remedy)
