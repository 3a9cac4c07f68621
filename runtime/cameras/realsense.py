"""An Intel RealSense camera, by its sensors: colour, depth aligned to it, options by librealsense's names.

Owns one opened device. The capture process brings it back when it goes away. Sensors and a syncer instead of
`rs.pipeline`: it's the same path that librealsense's software device can take, so that it is what is tested.
"""

from __future__ import annotations

import fcntl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from contracts.errors import ConfigError, DeviceError
from contracts.specs import CameraSpec
from runtime.cameras import Picture
from runtime.cameras.realsense_frames import Processing, load_realsense, next_picture, set_option
from runtime.cameras.rotation import upright
from runtime.run import Run

Mode = tuple[int, int, int]
"""Width, height, pictures a second."""
_QUEUE = 4
_TURN_S = 10.0
_MANUAL = {
    "exposure": "enable_auto_exposure",
    "gain": "enable_auto_exposure",
    "white_balance": "enable_auto_white_balance",
}
"""Setting one by hand means that its automatism is off."""


class RealSense:
    """`runtime.cameras.Source`.

    Options: `serial_number_or_name` as in LeRobot (empty: the only one that is attached); `color_options`
    and `depth_options`: librealsense's options of the two sensors by name (exposure in microseconds, gain,
    white_balance, enable_auto_exposure, laser_power, visual_preset, ...); `filters`: see `Processing`;
    `depth_width`, `depth_height`: another mode of the depth sensor than the colour's; `hardware_reset`:
    whether a device that stays silent may be restarted. `devices`: who lists what is attached.
    """

    noisy = True

    def __init__(
        self,
        run: Run,
        name: str,
        serial_number_or_name: str = "",
        color_options: Mapping[str, float] | None = None,
        depth_options: Mapping[str, float] | None = None,
        filters: Mapping[str, Mapping[str, float]] | None = None,
        depth_width: int = 0,
        depth_height: int = 0,
        hardware_reset: bool = True,
        devices: Callable[[], Sequence[Any]] | None = None,
    ) -> None:
        rs = self._rs = load_realsense()
        section = run.config.cameras[name]
        width, height = upright(section.width, section.height, section.rotation)
        rate_hz = round(section.rate_hz)
        streams = [(rs.stream.color, rs.format.rgb8, (width, height, rate_hz), color_options)]
        if section.depth:
            mode = (depth_width or width, depth_height or height, rate_hz)
            streams.append((rs.stream.depth, rs.format.z16, mode, depth_options))
        self._name, self._may_reset = name, hardware_reset
        self._processing = Processing(filters or {}, section.depth)
        self._running: list[Any] = []
        with one_at_a_time(Path(run.shm_dir) / "realsense.lock", name):
            attached = devices() if devices else list(rs.context().query_devices())
            self._device = choose(rs, attached, str(serial_number_or_name), name)
            self._start(streams, section.depth)

    def _start(self, streams: Sequence[tuple[Any, Any, Mode, Any]], depth: bool) -> None:
        """Options set, every sensor streaming. Raises `ConfigError` or `DeviceError`."""
        rs, name, device = self._rs, self._name, self._device
        sensors = list(device.query_sensors())
        chosen: dict[int, list[Any]] = {}
        for stream, pixels, mode, options in streams:
            at, profile = find_profile(sensors, stream, pixels, mode, name)
            chosen.setdefault(at, []).append(profile)
            set_options(rs, sensors[at], options or {}, f"camera '{name}'")
            if stream == rs.stream.color:
                colour = profile
        scale_m = float(device.first_depth_sensor().get_depth_scale()) if depth else 0.001
        self._spec = spec_of(rs, name, device, colour, depth, scale_m)
        self._frames = rs.syncer(_QUEUE)
        try:
            for at, profiles in chosen.items():
                sensors[at].open(profiles)
                self._running.append(sensors[at])
                sensors[at].start(self._frames)
        except RuntimeError as error:
            self.close()
            raise DeviceError(
                f"camera '{name}' ({self._spec.serial}) does not start",
                found=" ".join(str(error).split()),
                remedy="is another program using it? is it on a USB 3 port?",
            ) from error

    def spec(self) -> CameraSpec:
        return self._spec

    def wait(self, timeout_s: float) -> Picture | None:
        picture = next_picture(self._frames, self._processing, timeout_s)
        if picture is None and not self._device.is_connected():
            raise DeviceError(f"camera '{self._name}' ({self._spec.serial}) was unplugged")
        return picture

    def reset(self) -> None:
        if self._may_reset:
            self._device.hardware_reset()

    def close(self) -> None:
        """Every sensor stopped, whatever one of them says."""
        for sensor in reversed(self._running):
            for leave in (sensor.stop, sensor.close):
                try:
                    leave()
                except RuntimeError:
                    continue  # it is gone, or was never started
        self._running = []


@contextmanager
def one_at_a_time(path: Path, camera: str) -> Iterator[None]:
    """Two processes that ask the same USB devices what they are at once get errors from librealsense: the
    robot's cameras are opened one after the other. Raises `DeviceError`."""
    give_up_s = time.monotonic() + _TURN_S
    with path.open("a") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > give_up_s:
                    what = f"camera '{camera}' waits for another one that is being opened"
                    raise DeviceError(what, found=f"for {_TURN_S:g} s") from error
                time.sleep(0.02)
        yield


def info(rs: Any, device: Any, what: str) -> str:
    """One of `rs.camera_info` by name, empty if the device doesn't say."""
    key = getattr(rs.camera_info, what)
    return str(device.get_info(key)) if device.supports(key) else ""


def choose(rs: Any, attached: Sequence[Any], wanted: str, camera: str) -> Any:
    """The device of that serial number or name; with "" the only one. Raises `DeviceError`."""
    known = [(info(rs, d, "name"), info(rs, d, "serial_number"), d) for d in attached]
    having = ", ".join(f"{name} {serial}" for name, serial, _ in known) or "none attached"
    matching = [d for name, serial, d in known if wanted in ("", serial, name)]
    if not matching:
        raise DeviceError(
            f"camera '{camera}' is not there",
            expected=f"RealSense {wanted}" if wanted else "a RealSense camera",
            found=having,
            remedy=(
                "check the cable and the port"
                if not known
                else f"fix cameras.{camera}.options.serial_number_or_name"
            ),
        )
    if len(matching) > 1:
        raise ConfigError(
            f"camera '{camera}' could be any of several",
            found=having,
            remedy=f"give a serial number: cameras.{camera}.options.serial_number_or_name",
        )
    return matching[0]


def find_profile(
    sensors: Sequence[Any], stream: Any, pixels: Any, mode: Mode, camera: str
) -> tuple[int, Any]:
    """(index of the sensor, its profile) of (width, height, rate). Raises `ConfigError`."""
    having: set[tuple[int, int, int]] = set()
    for at, sensor in enumerate(sensors):
        for profile in sensor.get_stream_profiles():
            if profile.stream_type() != stream or profile.format() != pixels:
                continue
            video = profile.as_video_stream_profile()
            found = (video.width(), video.height(), profile.fps())
            if found == mode:
                return at, profile
            having.add(found)
    modes = ", ".join("{}x{} at {} Hz".format(*one) for one in sorted(having)) or "none"
    raise ConfigError(
        f"camera '{camera}' has no such {stream.name} mode",
        expected="{}x{} at {} Hz".format(*mode),
        found=modes,
        remedy=f"set width, height and rate_hz of cameras.{camera} (fewer over USB 2)",
    )


def set_options(rs: Any, sensor: Any, options: Mapping[str, float], what: str) -> None:
    """All options in the order given, automatisms first where a value is set by hand."""
    for name in options:
        automatic = _MANUAL.get(name)
        if automatic and automatic not in options:
            option = getattr(rs.option, automatic)
            if sensor.supports(option) and sensor.get_option(option):
                sensor.set_option(option, 0.0)
    for name, value in options.items():
        set_option(rs, sensor, name, float(value), what)


def spec_of(
    rs: Any, name: str, device: Any, colour: Any, depth: bool, scale_m: float
) -> CameraSpec:
    """As the device says. `colour`: its colour profile; depth is aligned to it."""
    video = colour.as_video_stream_profile()
    k = video.get_intrinsics()
    return CameraSpec(
        name=name,
        width=video.width(),
        height=video.height(),
        rate_hz=float(colour.fps()),
        fx=k.fx,
        fy=k.fy,
        cx=k.ppx,
        cy=k.ppy,
        depth=depth,
        depth_scale_m=scale_m,
        model=info(rs, device, "name"),
        serial=info(rs, device, "serial_number"),
    )
