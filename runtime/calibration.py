"""The robot's own calibration, and who may run under it: devices that are those measured, models bound to it.

Owns no format (`contracts.calibration`); measures nothing (`robot-calibrate` does).
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from contracts.calibration import Calibration, calibration_id, differences
from contracts.errors import SpecMismatch
from contracts.files import calibration_file
from contracts.specs import CameraSpec, ObservationSpec
from runtime.config import CalibrationSection


def own_calibration(section: CalibrationSection, robot_id: str) -> Calibration | None:
    """The configured one, with its signature checked; None where none is configured. Raises `ConfigError`,
    or `SpecMismatch` for that of another robot."""
    if not section.file:
        return None
    found = calibration_file.read(Path(section.file).expanduser(), section.key)
    if found.robot_id != robot_id:
        raise SpecMismatch(
            f"the calibration {section.file} is of another robot",
            expected=robot_id,
            found=found.robot_id,
            remedy="name this robot's calibration, or calibrate it",
        )
    return found


def own_id(section: CalibrationSection, robot_id: str) -> str:
    """Its id; "" for a robot without a calibration. Raises as `own_calibration`."""
    own = own_calibration(section, robot_id)
    return "" if own is None else calibration_id(own)


def bind(observation: ObservationSpec, own: Calibration | None) -> ObservationSpec:
    """What this robot observes, under its calibration: a camera that names no intrinsics has those that were
    measured. Raises `SpecMismatch` where a camera is not the one that was calibrated."""
    if own is None:
        return observation
    cameras = tuple(_measured(camera, own) for camera in observation.cameras)
    return msgspec.structs.replace(observation, cameras=cameras, calibration_id=calibration_id(own))


def require_bound(required: str, section: CalibrationSection, robot_id: str, what: str) -> None:
    """Raise `SpecMismatch` where a model was made under another calibration than this robot's, naming what
    differs. `required`: the id it is bound to; "" for one that is bound to none."""
    own = own_calibration(section, robot_id)
    found = "" if own is None else calibration_id(own)
    if required in ("", found):
        return
    remedy = "bring the cameras back to where they were, or train it under this calibration"
    if own is None:
        remedy = "set calibration.file and .key to the calibration that it was made under"
        raise SpecMismatch(
            f"{what} is bound to a calibration, and none is configured",
            expected=required,
            found="none",
            remedy=remedy,
        )
    before = calibration_file.former(Path(section.file).expanduser(), required, section.key)
    if before is None:
        name = calibration_file.kept(Path(section.file), required).name
        difference = f"what differs can't be told without {name} beside {section.file}"
    else:
        difference = (
            "; ".join(differences(before, own))
            or "only the numbers' last digits, how sure they are, or the date differ"
        )
    raise SpecMismatch(
        f"{what} is bound to another calibration ({difference})",
        expected=required,
        found=found,
        remedy=remedy,
    )


def _measured(camera: CameraSpec, own: Calibration) -> CameraSpec:
    found = own.cameras.get(camera.name)
    if found is None:
        return camera
    if found.serial and camera.serial and found.serial != camera.serial:
        raise SpecMismatch(
            f"camera '{camera.name}' is not the one that was calibrated",
            expected=f"serial number {found.serial}",
            found=camera.serial,
            remedy="attach that camera, or calibrate this one with robot-calibrate",
        )
    lens = found.lens
    if lens is None:
        return camera
    if lens.width * camera.height != lens.height * camera.width:
        raise SpecMismatch(
            f"camera '{camera.name}' was calibrated at another aspect ratio",
            expected=f"{lens.width}x{lens.height}",
            found=f"{camera.width}x{camera.height}",
            remedy="set its width and height to those, or calibrate at these",
        )
    if camera.fx:
        return camera
    scale = camera.width / lens.width
    # Pixels' middles are whole numbers: half a pixel of the corner goes along.
    return msgspec.structs.replace(
        camera,
        fx=lens.fx * scale,
        fy=lens.fy * scale,
        cx=(lens.cx + 0.5) * scale - 0.5,
        cy=(lens.cy + 0.5) * scale - 0.5,
    )
