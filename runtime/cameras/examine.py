"""What `robot-run doctor` says of a camera: whether it is there, its firmware, USB type and mode.

Starts no stream and changes nothing on a device.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from contracts.errors import EntracteError
from runtime.cameras.realsense import choose, find_profile, info
from runtime.cameras.realsense_frames import load_realsense
from runtime.cameras.rotation import upright
from runtime.config import CameraSection
from runtime.findings import Line, tried

_VIDEO = Path("/sys/class/video4linux")
Attached = Callable[[], Sequence[Any]]


def examine(name: str, section: CameraSection, attached: Attached | None = None) -> list[Line]:
    """What is known of one configured camera; where it is not there, also every device that is.
    `attached`: who lists RealSense devices."""
    what = f"camera {name}"
    if section.kind == "realsense":
        return _realsense(name, section, attached or _attached)
    if section.kind == "opencv":
        line = tried(what, lambda: _opencv(name, section))
        return [line] if line.ok else [line, *webcam_lines()]
    if section.kind == "playback":
        return [tried(what, lambda: _recording(name, section))]
    return [Line(what, "ok", section.kind)]


def _attached() -> Sequence[Any]:
    return list(load_realsense().context().query_devices())


def realsense_line(rs: Any, device: Any) -> Line:
    """Serial number, firmware and USB type of one attached device."""
    firmware, newest = (
        info(rs, device, key) for key in ("firmware_version", "recommended_firmware_version")
    )
    usb = info(rs, device, "usb_type_descriptor")
    fixes = []
    if usb.startswith("2"):
        fixes.append("plug it into a USB 3 port, with a USB 3 cable: USB 2 has few modes")
    if _version(firmware) < _version(newest):
        fixes.append(f"update its firmware to {newest} (rs-fw-update)")
    found = f"firmware {firmware or 'unknown'}, USB {usb or 'unknown'}"
    what = f"{info(rs, device, 'name')} {info(rs, device, 'serial_number')}"
    return Line.advised(what, not fixes, found, "; ".join(fixes))


def webcam_lines(root: Path = _VIDEO) -> list[Line]:
    """The capture devices of V4L2: index, name, and whether this user may open them."""
    lines = []
    for entry in sorted(root.glob("video*")) if root.is_dir() else []:
        if (entry / "index").exists() and (entry / "index").read_text().strip() != "0":
            continue  # metadata and other nodes of a device that was listed
        node = Path("/dev") / entry.name
        name = (entry / "name").read_text().strip()
        may = os.access(node, os.R_OK | os.W_OK)
        fix = "put this user into the group video: sudo usermod -aG video $USER"
        found = f"{name}, {'can' if may else 'may not'} be opened"
        lines.append(Line.advised(str(node), may, found, fix))
    return lines


def _realsense(name: str, section: CameraSection, attached: Attached) -> list[Line]:
    what, found = f"camera {name}", list[Line]()
    try:
        rs, devices = load_realsense(), attached()
        found = [realsense_line(rs, device) for device in devices]
        wanted = str(section.options.get("serial_number_or_name", ""))
        device = choose(rs, devices, wanted, name)
        mode = _mode(rs, name, section, device)
    except (EntracteError, RuntimeError) as error:
        return [Line(what, "fail", " ".join(str(error).split())), *found]
    line = found[list(devices).index(device)]
    return [Line(what, line.status, f"{line.what}, {mode}, {line.found}", line.fix)]


def _mode(rs: Any, name: str, section: CameraSection, device: Any) -> str:
    """The configured mode. Raises `ConfigError` where the device has none such."""
    size = upright(section.width, section.height, section.rotation)
    mode = (*size, round(section.rate_hz))
    sensors = device.query_sensors()
    find_profile(sensors, rs.stream.color, rs.format.rgb8, mode, name)
    if section.depth:
        own = (section.options.get("depth_width"), section.options.get("depth_height"))
        depth = (own[0] or size[0], own[1] or size[1], mode[2])
        find_profile(sensors, rs.stream.depth, rs.format.z16, depth, name)
    return f"{mode[0]}x{mode[1]} at {mode[2]} Hz"


def _opencv(name: str, section: CameraSection) -> str:
    where = section.options.get("index_or_path", 0)
    path = Path(f"/dev/video{where}" if isinstance(where, int) else where)
    if "://" not in str(where) and not path.exists():
        raise EntracteError(
            f"camera '{name}' is not there",
            found=f"no {path}",
            remedy="check the cable and the index",
        )
    return str(where)


def _recording(name: str, section: CameraSection) -> str:
    path = str(section.options.get("path", ""))
    if not path or not Path(path).exists():
        raise EntracteError(
            f"camera '{name}' has nothing to play",
            found=path or "no path",
            remedy=f"set cameras.{name}.options.path",
        )
    return path


def _version(text: str) -> tuple[int, ...]:
    """ "5.13.0.50" in numbers; () for what isn't one, which no device is behind."""
    parts = text.split(".")
    return tuple(map(int, parts)) if all(p.isdigit() for p in parts) else ()
