"""From what the verbs measured to what `calibration.json` and the hardware configuration hold. Pure."""

from __future__ import annotations

import msgspec

from calibration.depth import DepthResult
from calibration.handeye.result import CameraResult, Result, Rows
from calibration.hardware_file import Value
from calibration.latency.measure import Latencies
from calibration.lenses import Lens
from calibration.record import with_camera
from calibration.shots import ShotCamera, Shots
from contracts.calibration import Calibration, CameraCalibration, HandEye, Intrinsics

_SAME_PX, _SAME_BENT = 1e-3, 1e-5
"""Differences between two lenses, in pixels and of distortion, that come from rounding."""


def with_lenses(taken: Shots, calibration: Calibration) -> Shots:
    """The capture with the lenses that were measured of its cameras, in place of those that it came with."""
    cameras = dict(taken.cameras)
    for name, camera in taken.cameras.items():
        known = calibration.cameras.get(name)
        if known is None or known.lens is None or known.lens_px is None:
            continue
        size = (known.lens.width, known.lens.height)
        if known.serial == camera.serial and size == (camera.lens.width, camera.lens.height):
            cameras[name] = seen_through(camera, known.lens)
    return msgspec.structs.replace(taken, cameras=cameras)


def seen_through(camera: ShotCamera, lens: Intrinsics) -> ShotCamera:
    """The camera with this lens, which was measured."""
    known = msgspec.convert(lens, Lens, from_attributes=True)
    return msgspec.structs.replace(camera, lens=known, lens_doubt="")


def intrinsics(
    calibration: Calibration, taken: Shots, name: str, lens: Lens, worst_px: float
) -> Calibration:
    """With the lens of one camera; `worst_px`: two deviations where it is least sure. Its pose and how right
    its depths are were found through the lens before: with another one they are dropped."""
    calibration = with_device(calibration, name, taken.cameras[name])
    before, found = calibration.cameras[name].lens, _plain(lens)
    if before is not None and _same(before, found):
        return with_camera(calibration, name, lens_px=worst_px)
    return with_camera(calibration, name, lens=found, lens_px=worst_px, hand_eye=None, depth=None)


def dropped(before: Calibration, now: Calibration, name: str) -> list[str]:
    """The verbs whose results of that camera `now` holds no more."""
    was, is_ = (one.cameras.get(name, CameraCalibration()) for one in (before, now))
    return [
        verb
        for verb, old, new in (
            ("handeye", was.hand_eye, is_.hand_eye),
            ("depth", was.depth, is_.depth),
        )
        if old is not None and new is None
    ]


def hand_eye(calibration: Calibration, taken: Shots, result: Result) -> Calibration:
    """With where every camera of the capture is, and through which lens that was found. `result` passes."""
    for name, found in result.cameras.items():
        camera = taken.cameras[name]
        calibration = with_device(calibration, name, camera)
        before, lens = calibration.cameras[name], _plain(camera.lens)
        lens_px = before.lens_px if before.lens == lens else None
        calibration = with_camera(
            calibration,
            name,
            lens=lens,
            lens_px=lens_px,
            hand_eye=_hand_eye(camera, found, result),
        )
    return calibration


def pose_keys(result: Result) -> dict[str, Value]:
    """Keys of the hardware configuration."""
    keys: dict[str, Value] = {}
    for name, found in result.cameras.items():
        keys[f"cameras.{name}.mount"] = found.mount
        keys[f"cameras.{name}.pose"] = _flat(found.pose)
    return keys


def depth(
    calibration: Calibration, name: str, camera: ShotCamera, found: DepthResult
) -> Calibration:
    """With how right one camera's depths are. `found` passes."""
    return with_camera(with_device(calibration, name, camera), name, depth=found.check)


def latencies(calibration: Calibration, found: Latencies) -> Calibration:
    """With how late cameras and arm are; cameras that did not see the arm keep what they had."""
    for name, one in found.cameras.items():
        calibration = with_camera(calibration, name, latency=one)
    return msgspec.structs.replace(
        calibration, state_latency=found.state, action_latency=found.action
    )


def latency_keys(found: Latencies) -> dict[str, Value]:
    """Keys of the hardware configuration."""
    keys: dict[str, Value] = {
        "arm.state_latency_s": found.state_s,
        "arm.action_latency_s": found.action.seconds,
    }
    for name, one in found.cameras.items():
        keys[f"cameras.{name}.latency_s"] = one.seconds
    return keys


def _hand_eye(camera: ShotCamera, found: CameraResult, result: Result) -> HandEye:
    assert result.verdict.level != "fail"
    quality = found.quality
    return HandEye(
        mount=found.mount,
        pose=_flat(found.pose),
        covariance=found.covariance,
        stands=quality.stands,
        corner_px=quality.corner_px.median,
        held_out_px=quality.held_out.pixels.median,
        held_out_mm=quality.held_out.mm.median,
        interval_mm=max(quality.interval_mm),
        interval_deg=max(quality.interval_deg),
        verdict=result.verdict.level,
        board=msgspec.to_builtins(camera.board),
        board_pose=_flat(result.boards[found.mount]),
    )


def with_device(calibration: Calibration, name: str, camera: ShotCamera) -> Calibration:
    """With the device that measured. What was measured with another one of that name is dropped: its pose and
    its lens, signed anew, would pass for this one's."""
    before = calibration.cameras.get(name, CameraCalibration())
    if before.serial and camera.serial and before.serial != camera.serial:
        before = CameraCalibration()
    now = msgspec.structs.replace(
        before, serial=camera.serial or before.serial, firmware=camera.firmware or before.firmware
    )
    return msgspec.structs.replace(calibration, cameras={**calibration.cameras, name: now})


def _same(one: Intrinsics, other: Intrinsics) -> bool:
    """Whether they are one lens: of the same pictures OpenCV does not find the last digits again."""
    if (one.width, one.height, one.model) != (other.width, other.height, other.model):
        return False
    pixels = zip(
        (one.fx, one.fy, one.cx, one.cy), (other.fx, other.fy, other.cx, other.cy), strict=True
    )
    bent = zip(one.distortion, other.distortion, strict=True)
    return all(abs(a - b) < _SAME_PX for a, b in pixels) and all(
        abs(a - b) < _SAME_BENT for a, b in bent
    )


def _plain(lens: Lens) -> Intrinsics:
    return msgspec.convert(lens, Intrinsics, from_attributes=True)


def _flat(rows: Rows) -> tuple[float, ...]:
    return tuple(value for row in rows for value in row)
