"""From what the verbs measured to what `calibration.json` and the hardware configuration hold. Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from calibration.depth import DepthResult
from calibration.handeye.result import CameraResult, Result, Rows
from calibration.hardware_file import Value
from calibration.latency.measure import Latencies
from calibration.lenses import Lens
from calibration.record import with_camera
from calibration.shots import ShotCamera, Shots, ShotsError
from contracts.calibration import Calibration, CameraCalibration, HandEye, Intrinsics

_SAME_PX, _SAME_BENT = 1e-3, 1e-5
"""Differences between two lenses, in pixels and of distortion, that come from rounding."""


def with_lenses(taken: Shots, calibration: Calibration, *, anew: bool = False) -> Shots:
    """The capture with the lenses that were measured of its cameras, in place of those that it came with;
    `anew`: for measuring them once more. Raises `ShotsError` as of `with_lens`, but not where `anew`."""
    cameras = {
        name: camera
        if anew and _other_shape(calibration, name, camera)
        else with_lens(calibration, name, camera)
        for name, camera in taken.cameras.items()
    }
    return msgspec.structs.replace(taken, cameras=cameras)


def with_lens(calibration: Calibration, name: str, camera: ShotCamera) -> ShotCamera:
    """The camera with the lens that was measured of it, if one was, for pictures of its size. Raises
    `ShotsError` where those are of another aspect ratio: the same lens shows other things in them."""
    known = _known(calibration, name, camera)
    if known is None:
        return camera
    if _other_shape(calibration, name, camera):
        raise ShotsError(
            f"the lens of camera '{name}' was measured at another aspect ratio",
            expected=f"pictures as of {known.width} x {known.height}",
            found=f"{camera.lens.width} x {camera.lens.height}",
            remedy="capture at that size, or measure the lens at this one: capture --lens, then intrinsics",
        )
    return seen_through(camera, _resized(known, camera.lens.width))


def require_lenses(cameras: Mapping[str, ShotCamera]) -> None:
    """Raise `ShotsError` for a camera whose focal length is an assumed one: what is found through it is no
    measurement."""
    for name, camera in cameras.items():
        lens = camera.lens
        if camera.lens_doubt and lens.fx == lens.fy == lens.width:
            raise ShotsError(
                f"nobody measured the lens of camera '{name}'",
                expected="its focal length",
                found=f"one that is assumed, {lens.fx:g} px",
                remedy="robot-calibrate capture --lens, then intrinsics --config, then this again",
            )


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
        return with_camera(calibration, name, lens_px=worst_px * before.width / found.width)
    return with_camera(calibration, name, lens=found, lens_px=worst_px, hand_eye=None, depth=None)


def dropped(
    before: Calibration, now: Calibration, name: str, section: Mapping[str, object]
) -> tuple[dict[str, Value], list[str]]:
    """Of what `now` holds no more of that camera, whose device or lens is another one: keys to empty in its
    `section` of the hardware configuration, and what to say."""
    was, is_ = (one.cameras.get(name, CameraCalibration()) for one in (before, now))
    other = was.serial and was.serial != is_.serial
    by = "with another device" if other else "through the old lens"
    keys, said = dict[str, Value](), list[str]()
    if was.lens_px is not None and is_.lens_px is None:
        said.append(f"run intrinsics again, first: {by} was found what its lens is")
    if was.hand_eye is not None and is_.hand_eye is None:
        key, emptied = f"cameras.{name}.pose", ""
        if section.get("pose"):
            keys[key] = ()
            emptied = f"; {key} came of that and was emptied"
        said.append(f"run handeye again: {by} was found where the camera is{emptied}")
    if was.depth is not None and is_.depth is None:
        said.append(f"run depth again: {by} was found how right its depths are")
    if was.latency is not None and is_.latency is None:
        kept = f"; cameras.{name}.latency_s is that still" if section.get("latency_s") else ""
        said.append(f"run latency again: {by} was found how late its pictures are{kept}")
    return keys, said


def hand_eye(calibration: Calibration, taken: Shots, result: Result) -> Calibration:
    """With where every camera of the capture is, and through which lens that was found; how right its depths
    are through another one is dropped. `result` passes."""
    for name, found in result.cameras.items():
        camera = taken.cameras[name]
        calibration = with_device(calibration, name, camera)
        before, lens = _known(calibration, name, camera), _plain(camera.lens)
        known, lens_px = calibration.cameras[name].lens, calibration.cameras[name].lens_px
        if known is not None and not _same(known, lens):
            calibration = with_camera(calibration, name, depth=None)
        if before is None or lens_px is None or _resized(before, lens.width) != lens:
            lens_px = None
        else:
            lens_px *= lens.width / before.width
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


def _known(calibration: Calibration, name: str, camera: ShotCamera) -> Intrinsics | None:
    """The lens that was measured of this device: of that name and, where both are known, serial number."""
    known = calibration.cameras.get(name)
    if known is None or known.lens_px is None:
        return None
    other = known.serial and camera.serial and known.serial != camera.serial
    return None if other else known.lens


def _other_shape(calibration: Calibration, name: str, camera: ShotCamera) -> bool:
    known, now = _known(calibration, name, camera), camera.lens
    return known is not None and known.width * now.height != known.height * now.width


def _resized(lens: Intrinsics, width: int) -> Intrinsics:
    """The same lens for pictures of that width and its aspect ratio, as `runtime.calibration` has it."""
    if lens.width == width:
        return lens
    scale = width / lens.width
    # Pixels' middles are whole numbers: half a pixel of the corner goes along.
    return msgspec.structs.replace(
        lens,
        width=width,
        height=round(lens.height * scale),
        fx=lens.fx * scale,
        fy=lens.fy * scale,
        cx=(lens.cx + 0.5) * scale - 0.5,
        cy=(lens.cy + 0.5) * scale - 0.5,
    )


def _same(one: Intrinsics, other: Intrinsics) -> bool:
    """Whether they are one lens: of the same pictures OpenCV does not find the last digits again."""
    if one.width * other.height != one.height * other.width or one.model != other.model:
        return False
    one = _resized(one, other.width)
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
