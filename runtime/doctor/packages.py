"""What `robot-run doctor` says of the packages: every hash, and whether they fit this robot as a start would
ask. Opens no device, and says what could not be compared without one.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from contracts import registry
from contracts.errors import EntracteError
from contracts.files.packages import load_package
from contracts.specs import ActionSpec, CameraSpec, ObservationSpec, require_compatible
from runtime.arms.sim import SO101_ACTION, SimArm
from runtime.cameras.sim import SimCamera
from runtime.config import RobotConfig, camera_spec
from runtime.findings import Line
from runtime.preflight import check_chunk, manifest_of

FIX = "export it again with robot-export"


def packages(config: RobotConfig) -> list[Line]:
    """One line for each of the two packages."""
    return [
        _line(config, "policy", config.policy.package, "policy"),
        _line(config, "reward", config.reward.package, "reward", "vlm"),
    ]


def _line(config: RobotConfig, what: str, folder: str, *models: str) -> Line:
    if not folder:
        return Line(f"{what} package", "ok", "none configured")
    try:
        return Line(f"{what} package", "ok", _about(config, folder, *models))
    except EntracteError as error:
        found = EntracteError(error.what, expected=error.expected, found=error.found)
        return Line(f"{what} package", "fail", str(found), error.remedy or FIX)


def _about(config: RobotConfig, folder: str, *models: str) -> str:
    """What fits, and what was not compared. Raises `EntracteError` for what a start would refuse."""
    manifest = manifest_of(config, folder, *models)
    load_package(Path(folder))
    if manifest.chunk is not None:
        check_chunk(config, manifest.chunk)
    action, later = _action(config), []
    seen = manifest.observation
    names, units = seen.state_names, seen.state_units
    if action is not None:
        names, units = action.names, action.units
    elif manifest.action is not None or seen.state_names:
        later.append(f"joints, their units and ranges (arm '{config.arm.kind}')")
    cameras = tuple(_camera(config, name) for name in config.cameras)
    if any(camera.fx and not _camera(config, camera.name).fx for camera in seen.cameras):
        later.append("the cameras' fields of view")
    # What isn't known of the arm is taken as the package has it.
    assumed = manifest.action or SO101_ACTION
    observation = ObservationSpec(cameras, names, units)
    require_compatible(seen, assumed, observation, action or assumed, folder)
    said = f"{manifest.architecture}, {len(manifest.refinable)} refinable tensors"
    return f"{said}; not compared without the devices: {', '.join(later)}" if later else said


def _action(config: RobotConfig) -> ActionSpec | None:
    """The arm's spec where it is known before anything is opened."""
    if (section := config.bench.gymnasium) is not None:
        return section.spec(config.loop.rate_hz)
    return SO101_ACTION if registry.load("arms", config.arm.kind) is SimArm else None


def _camera(config: RobotConfig, name: str) -> CameraSpec:
    """As configured; the bench's with the focal length that it will have."""
    section = config.cameras[name]
    spec = camera_spec(name, section)
    if registry.load("cameras", section.kind) is not SimCamera:
        return spec
    from runtime.bench.render import intrinsics

    seen = intrinsics(section.width, section.height)
    return msgspec.structs.replace(spec, fx=seen.fx, fy=seen.fy, cx=seen.cx, cy=seen.cy)
