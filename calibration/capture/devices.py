"""What a capture has to know of its cameras and its board, from the devices and from files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from calibration import measured, shots
from calibration.boards import Board
from calibration.capture.factory import Attached
from calibration.lenses import Lens
from calibration.shots import ShotCamera, Shots
from contracts.calibration import Calibration, Mount
from contracts.errors import ConfigError
from contracts.files import atomic
from contracts.specs import CameraSpec
from runtime.cameras import Camera


def read_board(path: Path) -> Board:
    """A board.json of `robot-calibrate board`. Raises `ConfigError`."""
    try:
        return msgspec.json.decode(atomic.read_bytes(path, atomic.MAX_JSON_BYTES), type=Board)
    except (atomic.FileError, OSError, msgspec.MsgspecError, ConfigError) as error:
        raise ConfigError(
            f"{path} describes no board",
            found=str(error),
            remedy="give the board.json that robot-calibrate board wrote",
        ) from error


def chosen(cameras: Mapping[str, Camera], names: Sequence[str]) -> dict[str, CameraSpec]:
    """The specs of these of a robot's cameras. Raises `ConfigError` for one that it lacks."""
    for name in names:
        if name not in cameras:
            raise ConfigError(
                f"no camera '{name}'", expected=f"one of {sorted(cameras)}", found=name
            )
    return {name: cameras[name].spec() for name in names}


def shot_cameras(
    specs: Mapping[str, CameraSpec],
    mount: Mount,
    board: Board,
    calibration: Calibration | None,
    attached: Attached | None = None,
    *,
    anew: bool = False,
) -> tuple[dict[str, ShotCamera], list[str]]:
    """With the lenses that were calibrated of them, else the devices' own; and what is to be said of them.
    `attached`: what devices say beyond their specs; None: nobody asked them. `anew`: their lenses are to be
    calibrated once more. Raises `ShotsError` as of `measured.with_lenses`."""
    asked = attached or Attached()
    cameras = {}
    for name, spec in specs.items():
        lens, doubt = _lens(name, spec, asked)
        cameras[name] = ShotCamera(
            mount=mount,
            lens=lens,
            lens_doubt=doubt,
            board=board,
            serial=spec.serial,
            firmware=asked.firmware(spec),
            depth_scale_m=spec.depth_scale_m,
        )
    found = Shots(version=shots.VERSION, cameras=cameras, shots=())
    if calibration is not None:
        found = measured.with_lenses(found, calibration, anew=anew)
    return found.cameras, found.doubts


def _lens(name: str, spec: CameraSpec, attached: Attached) -> tuple[Lens, str]:
    """Of a camera that nobody calibrated, and what is wrong with it, if anything."""
    pinhole = Lens(
        width=spec.width,
        height=spec.height,
        fx=spec.fx or float(spec.width),
        fy=spec.fy or float(spec.width),
        cx=spec.cx if spec.fx else (spec.width - 1) / 2,
        cy=spec.cy if spec.fx else (spec.height - 1) / 2,
    )
    if not spec.fx:
        return pinhole, (
            f"camera '{name}' knows no intrinsics: a focal length of its width is assumed. Capture with "
            "--lens and run robot-calibrate intrinsics first"
        )
    own = attached.lens(spec)
    if isinstance(own, Lens):
        if _same_pinhole(own, pinhole):
            return own, ""
        if not any(own.distortion):
            return pinhole, ""
        why = f"camera '{name}' is turned (rotation): its factory's distortion is left out"
    elif own:
        why = (
            f"the factory's lens of camera '{name}' can't be read ({own}): it is taken for a pinhole without "
            "distortion"
        )
    else:
        return pinhole, ""
    return pinhole, f"{why}. Calibrate its lens: --lens, then robot-calibrate intrinsics"


def _same_pinhole(one: Lens, other: Lens) -> bool:
    """Of a picture that is not turned; a spec's numbers have been through text."""
    numbers = ((one.fx, one.fy, one.cx, one.cy), (other.fx, other.fy, other.cx, other.cy))
    return all(abs(a - b) < 1e-3 for a, b in zip(*numbers, strict=True))
