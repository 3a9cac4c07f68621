"""A robot's calibration: what was measured of its cameras and its arm, its identity, signing,
comparison. Pure.

`calibration.json` holds one `Calibration`, the id of its content, and who signed that. A policy is bound to a
calibration by the id in its `ObservationSpec`; a robot with another one refuses it before anything moves.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec
import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from contracts.encodings import is_sha256
from contracts.errors import ConfigError
from contracts.key_rotation import hex_of, public_key

VERSION = 1
MAX_BYTES = 1024 * 1024
PURPOSE = b"entracte calibration 1\n"
"""Goes before the signed bytes: keeps them apart from whatever else a key signs."""
_NEAR_PX, _NEAR_MM, _NEAR_DEG, _NEAR_MS, _NEAR_PERCENT = 0.05, 0.05, 0.005, 0.05, 0.01
"""Differences that are not worth naming."""

Model = Literal["none", "brown_conrady", "inverse_brown_conrady", "modified_brown_conrady"]
Mount = Literal["hand", "world"]
Pose = tuple[float, ...]
"""16 numbers: 4x4, row by row, metres."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts: what isn't declared is an error."""


class Intrinsics(_Part, frozen=True):
    """Pixels at `width` x `height`. `distortion`: k1, k2, p1, p2, k3 of `model`, as RealSense names them:
    "brown_conrady" is OpenCV's, "inverse_brown_conrady" nearly so (see `calibration.lenses`)."""

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    model: Model = "none"
    distortion: tuple[float, float, float, float, float] = (0.0, 0.0, 0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        numbers = (self.fx, self.fy, self.cx, self.cy, *self.distortion)
        if not np.isfinite(numbers).all() or self.fx <= 0 or self.fy <= 0:
            raise ConfigError(
                "camera intrinsics", expected="finite, focal lengths above 0", found=numbers
            )
        if self.model == "modified_brown_conrady" and any(self.distortion):
            raise ConfigError(
                "distortion model modified_brown_conrady with coefficients",
                remedy="calibrate the camera with `robot-calibrate intrinsics`",
            )


class HandEye(_Part, frozen=True):
    """Where a camera is. `mount` "hand": `pose` is hand_T_camera, "world": base_T_camera (camera: z forward,
    y down). `covariance` 6x6: of a small rotation (radians), then translation (metres), in the camera's own
    frame. `corner_px`: median distance of the corners found from those predicted; `held_out_px`,
    `held_out_mm`: median of stands that the estimate did not see; `interval_mm`, `interval_deg`: the widest
    half-width of its 95 % intervals. `board`: as `calibration.boards.Board` describes it, which looks at it
    again; `board_pose` in the frame that does not carry the camera (base, or hand)."""

    mount: Mount
    pose: Pose
    covariance: tuple[tuple[float, ...], ...]
    stands: int
    corner_px: float
    held_out_px: float
    held_out_mm: float
    interval_mm: float
    interval_deg: float
    verdict: Literal["pass", "warn"]
    board: dict[str, str | int | float | bool]
    board_pose: Pose


class Latency(_Part, frozen=True):
    """Seconds, with the half-width of the 95 % interval."""

    seconds: float
    half_width_s: float


class DepthCheck(_Part, frozen=True):
    """Depth against the board: `scale` is measured over true distance, `plane_mm` the standard deviation
    about the board's plane at `distance_m`."""

    scale: float
    plane_mm: float
    distance_m: float


class CameraCalibration(_Part, frozen=True):
    """One camera; None for what was not measured. `serial`, `firmware`: of the device, "" where unknown.
    `lens_px`: two standard deviations of the lens where it is least sure; None: it is the factory's."""

    serial: str = ""
    firmware: str = ""
    lens: Intrinsics | None = None
    lens_px: float | None = None
    hand_eye: HandEye | None = None
    latency: Latency | None = None
    depth: DepthCheck | None = None


class Calibration(_Part, frozen=True):
    """`robot_id`: as the configuration names the robot; `arm`: the arm's identity. `date`: of the last
    measurement, UTC, as 2026-01-31T12:00:00Z. `state_latency`, `action_latency`: the arm's, as
    `runtime.config.ArmSection` means them."""

    version: int
    robot_id: str
    arm: str
    date: str
    cameras: dict[str, CameraCalibration] = {}
    state_latency: Latency | None = None
    action_latency: Latency | None = None


class _File(_Part, frozen=True):
    """`key`: hex of the Ed25519 key that signed, `signature` in hex."""

    id: str
    key: str
    signature: str
    calibration: Calibration


def content(calibration: Calibration) -> bytes:
    """Canonical JSON: what the id is the hash of, and what is signed."""
    return msgspec.json.encode(calibration, order="deterministic")


def calibration_id(calibration: Calibration) -> str:
    """First 16 hex digits of the SHA-256 of the content."""
    return hashlib.sha256(content(calibration)).hexdigest()[:16]


def seal(calibration: Calibration, key: Ed25519PrivateKey) -> bytes:
    """The file's bytes, signed."""
    signature = key.sign(PURPOSE + content(calibration))
    file = _File(
        id=calibration_id(calibration),
        key=hex_of(key.public_key()),
        signature=signature.hex(),
        calibration=calibration,
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=1)


def unseal(data: bytes, source: str, key: str) -> Calibration:
    """What `seal` sealed with the key whose public half is `key` (hex). Raises `ConfigError` for what is
    malformed, was changed since, or was signed by another."""
    file = _decoded(data, source)
    if file.key != key:
        raise ConfigError(
            f"{source} is signed by another key",
            expected=f"the configuration's, {key[:16]}...",
            found=f"{file.key[:16]}...",
            remedy="set calibration.key to the key of who calibrated this robot",
        )
    try:
        public_key(key).verify(bytes.fromhex(file.signature), PURPOSE + content(file.calibration))
    except (InvalidSignature, ValueError):
        raise ConfigError(
            f"{source} was changed after it was signed",
            remedy="take the file as robot-calibrate wrote it, or calibrate again",
        ) from None
    found = calibration_id(file.calibration)
    if file.id != found:
        raise ConfigError(f"{source} names another id than its content's", expected=found)
    return file.calibration


def is_key(text: str) -> bool:
    """Whether it is a public key in hex."""
    return is_sha256(text)  # 64 hex digits, too


def _decoded(data: bytes, source: str) -> _File:
    try:
        file = msgspec.json.decode(data, type=_File)
    except (msgspec.MsgspecError, ValueError, RecursionError, ConfigError) as error:
        raise ConfigError(
            f"{source} is no calibration",
            found=str(error),
            remedy="name the calibration.json that robot-calibrate wrote",
        ) from error
    if file.calibration.version != VERSION:
        raise ConfigError(
            f"{source} is of another version", expected=VERSION, found=file.calibration.version
        )
    for name, camera in file.calibration.cameras.items():
        if camera.hand_eye is not None:
            _check_poses(camera.hand_eye, f"{source}: camera '{name}'")
    return file


def _check_poses(found: HandEye, where: str) -> None:
    for pose in (found.pose, found.board_pose):
        if len(pose) != 16 or not np.isfinite(pose).all():
            raise ConfigError(f"{where} has a pose of other than 16 finite numbers")


# What differs.


def differences(one: Calibration, other: Calibration) -> list[str]:
    """Each way in which `other` is not as `one` was, in words; empty where nothing worth naming differs."""
    found = []
    for what, a, b in (("robot", one.robot_id, other.robot_id), ("arm", one.arm, other.arm)):
        if a != b:
            found.append(f"{what} '{a}' -> '{b}'")
    for name in sorted({*one.cameras, *other.cameras}):
        before, now = one.cameras.get(name), other.cameras.get(name)
        if before is None or now is None:
            found.append(f"camera '{name}' {'is new' if before is None else 'is gone'}")
            continue
        found += [f"camera '{name}' {what}" for what in _of_cameras(before, now)]
    found += _latencies("latency of the arm's state", one.state_latency, other.state_latency)
    found += _latencies("latency of the arm's action", one.action_latency, other.action_latency)
    return found


def _of_cameras(one: CameraCalibration, other: CameraCalibration) -> list[str]:
    found = []
    for what, a, b in (
        ("serial number", one.serial, other.serial),
        ("firmware", one.firmware, other.firmware),
    ):
        if a != b:
            found.append(f"{what} {a or 'unknown'} -> {b or 'unknown'}")
    found += _lenses(one.lens, other.lens)
    if one.hand_eye is None or other.hand_eye is None:
        if one.hand_eye is not other.hand_eye:
            found.append("pose was not measured in both")
    elif one.hand_eye.mount != other.hand_eye.mount:
        found.append(f"mount {one.hand_eye.mount} -> {other.hand_eye.mount}")
    else:
        mm, degrees = apart(one.hand_eye.pose, other.hand_eye.pose)
        if mm > _NEAR_MM or degrees > _NEAR_DEG:
            found.append(f"moved by {mm:.2f} mm and {degrees:.2f} deg")
    return found + _latencies("latency", one.latency, other.latency) + _depths(one, other)


def _lenses(one: Intrinsics | None, other: Intrinsics | None) -> list[str]:
    if one is None or other is None:
        return [] if one is other else ["lens was not measured in both"]
    if (one.width, one.height) != (other.width, other.height):
        return [f"resolution {one.width}x{one.height} -> {other.width}x{other.height}"]
    found = []
    for name in ("fx", "fy", "cx", "cy"):
        a, b = getattr(one, name), getattr(other, name)
        if abs(a - b) > _NEAR_PX:
            found.append(f"{name} {a:.2f} -> {b:.2f} px")
    if (one.model, one.distortion) != (other.model, other.distortion):
        found.append("distortion")
    return found


def _latencies(what: str, one: Latency | None, other: Latency | None) -> list[str]:
    a, b = (None if x is None else 1e3 * x.seconds for x in (one, other))
    if a is None or b is None:
        return [] if a is b else [f"{what} was not measured in both"]
    return [f"{what} {a:.1f} -> {b:.1f} ms"] if abs(a - b) > _NEAR_MS else []


def _depths(one: CameraCalibration, other: CameraCalibration) -> list[str]:
    if one.depth is None or other.depth is None:
        return [] if one.depth is other.depth else ["depth was not checked in both"]
    a, b = 100 * one.depth.scale, 100 * other.depth.scale
    return [f"depth {a:.2f} -> {b:.2f} % of the true one"] if abs(a - b) > _NEAR_PERCENT else []


def apart(one: Pose, other: Pose) -> tuple[float, float]:
    """Distance in mm and angle in degrees between two poses of 16 numbers."""
    a, b = (np.reshape(pose, (4, 4)) for pose in (one, other))
    turn = a[:3, :3].T @ b[:3, :3]
    # By the skew part, too: arccos alone knows no angle below a hundredth of a degree.
    skew = np.array([turn[2, 1] - turn[1, 2], turn[0, 2] - turn[2, 0], turn[1, 0] - turn[0, 1]])
    angle = np.arctan2(float(np.linalg.norm(skew)), float(np.trace(turn)) - 1.0)
    return 1e3 * float(np.linalg.norm(a[:3, 3] - b[:3, 3])), float(np.degrees(angle))
