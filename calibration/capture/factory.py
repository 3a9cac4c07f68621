"""What a RealSense says of itself that its spec leaves out: its firmware and its lens's distortion.

Asked before the cameras are opened: two processes that ask the same USB devices at once get errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from calibration.lenses import Lens
from contracts.calibration import Model
from contracts.errors import ConfigError, EntracteError
from contracts.specs import CameraSpec
from runtime.cameras.realsense import info
from runtime.cameras.realsense_frames import load_realsense

Size = tuple[int, int]
"""Width, height."""


@dataclass(frozen=True)
class Device:
    """`lenses`: of its colour pictures by size; `unread`: why that of such pictures can't be told."""

    firmware: str
    lenses: Mapping[Size, Lens]
    unread: Mapping[Size, str]


@dataclass(frozen=True)
class Attached:
    """`cameras`: names of those that are RealSenses. `devices`: by serial number; `problem`: why they could
    not be asked."""

    cameras: frozenset[str] = frozenset()
    devices: Mapping[str, Device] = field(default_factory=dict)
    problem: str = ""

    def firmware(self, spec: CameraSpec) -> str:
        """Of the camera with that spec; "" where it is not known."""
        device = self.devices.get(spec.serial)
        return "" if device is None else device.firmware

    def lens(self, spec: CameraSpec) -> Lens | str:
        """Of the factory, for pictures that are not turned; else why it can't be told, "" for a camera that
        is no RealSense."""
        if spec.name not in self.cameras:
            return ""
        device = self.devices.get(spec.serial)
        if device is None:
            return self.problem or f"no device {spec.serial or 'without a serial number'} answers"
        width, height = spec.width, spec.height
        sizes = ((width, height), (height, width))  # the second: of one that is turned on its side
        for size in sizes:
            if size in device.lenses:
                return device.lenses[size]
        why = (device.unread[size] for size in sizes if size in device.unread)
        return next(why, f"it names none for {width}x{height}")


def attached(
    sections: Mapping[str, Mapping[str, Any]],
    devices: Callable[[], Sequence[Any]] | None = None,
) -> Attached:
    """Where a configuration's `sections` of cameras name a RealSense. `devices`: who lists them. What can't
    be told is left out, with the reason: whether a camera is there is said by who opens it."""
    cameras = frozenset(n for n, section in sections.items() if section.get("kind") == "realsense")
    if not cameras:
        return Attached()
    try:
        rs = load_realsense()
        found = devices() if devices else list(rs.context().query_devices())
        known = {info(rs, one, "serial_number"): _device(rs, one) for one in found}
    except (EntracteError, RuntimeError) as error:
        return Attached(cameras, problem=_words(error))
    return Attached(cameras, known)


def _device(rs: Any, device: Any) -> Device:
    lenses, unread = dict[Size, Lens](), dict[Size, str]()
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() != rs.stream.color:
                continue
            video = profile.as_video_stream_profile()
            size = video.width(), video.height()
            try:
                lenses[size] = _lens(video.get_intrinsics())
            except (EntracteError, RuntimeError) as error:
                unread[size] = _words(error)
    return Device(info(rs, device, "firmware_version"), lenses, unread)


def _lens(k: Any) -> Lens:
    """Of librealsense's intrinsics. Raises `ConfigError` for what nobody here can follow."""
    k1, k2, p1, p2, k3 = (float(value) for value in k.coeffs)
    bent = (k1, k2, p1, p2, k3)
    name: Any = k.model.name if any(bent) else "none"
    if name not in get_args(Model) or name == "modified_brown_conrady":
        raise ConfigError(f"its distortion is of the model {name}")
    return Lens(
        width=k.width,
        height=k.height,
        fx=k.fx,
        fy=k.fy,
        cx=k.ppx,
        cy=k.ppy,
        model=name,
        distortion=bent,
    )


def _words(error: Exception) -> str:
    return " ".join(str(error).split())
