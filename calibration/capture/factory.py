"""What a RealSense says of itself that its spec leaves out: its firmware and its lens's distortion.

Asked before the cameras are opened: two processes that ask the same USB devices at once get errors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from calibration.lenses import Lens
from contracts.calibration import Model
from contracts.errors import EntracteError
from runtime.cameras.realsense import info
from runtime.cameras.realsense_frames import load_realsense


@dataclass(frozen=True)
class Device:
    """`lenses`: of its colour pictures, by (width, height)."""

    firmware: str
    lenses: Mapping[tuple[int, int], Lens]


def attached(
    sections: Mapping[str, Mapping[str, Any]],
    devices: Callable[[], Sequence[Any]] | None = None,
) -> dict[str, Device]:
    """By serial number, where a configuration's `sections` of cameras name a RealSense. `devices`: who lists
    them. What can't be told is left out: whether a camera is there is said by who opens it."""
    if not any(section.get("kind") == "realsense" for section in sections.values()):
        return {}
    try:
        rs = load_realsense()
        found = devices() if devices else list(rs.context().query_devices())
        return {info(rs, one, "serial_number"): _device(rs, one) for one in found}
    except (EntracteError, RuntimeError):
        return {}


def _device(rs: Any, device: Any) -> Device:
    lenses: dict[tuple[int, int], Lens] = {}
    for sensor in device.query_sensors():
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() != rs.stream.color:
                continue
            k = profile.as_video_stream_profile().get_intrinsics()
            k1, k2, p1, p2, k3 = (float(value) for value in k.coeffs)
            bent = (k1, k2, p1, p2, k3)
            name: Any = k.model.name if any(bent) else "none"
            if name in get_args(Model) and name != "modified_brown_conrady":
                lenses[k.width, k.height] = Lens(
                    width=k.width,
                    height=k.height,
                    fx=k.fx,
                    fy=k.fy,
                    cx=k.ppx,
                    cy=k.ppy,
                    model=name,
                    distortion=bent,
                )
    return Device(info(rs, device, "firmware_version"), lenses)
