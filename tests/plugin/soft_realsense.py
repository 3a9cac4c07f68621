"""A RealSense made of librealsense's software device, and a source that misbehaves on request.

`SoftD435` is what a test feeds by hand. `Rehearsal` is our RealSense source on one that feeds itself, for the
real capture process: it does what the word in `<run>/rehearsal-<camera>` says.
"""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyrealsense2 as rs

from runtime.cameras import Picture
from runtime.cameras.realsense import RealSense
from runtime.run import Run

SERIAL = "728612070259"
BASELINE_M = 0.015


class SoftD435:
    """Depth and colour of one size, 15 mm apart, the colour with a narrower view, as on a D435. `d405`: one
    sensor gives both, and depth in tenths of millimetres."""

    def __init__(
        self, width: int, height: int, rate_hz: int, serial: str = SERIAL, d405: bool = False
    ) -> None:
        self.size = (height, width)
        self.device = rs.software_device()
        for key, value in (
            (rs.camera_info.name, "Intel RealSense D435"),
            (rs.camera_info.serial_number, serial),
            (rs.camera_info.firmware_version, "5.13.0.50"),
            (rs.camera_info.recommended_firmware_version, "5.16.0.1"),
            (rs.camera_info.usb_type_descriptor, "2.1"),
        ):
            self.device.register_info(key, value)
        self.depth = self.device.add_sensor("Stereo Module")
        self.colour = self.depth if d405 else self.device.add_sensor("RGB Camera")
        self._depth = self._stream(self.depth, rs.stream.depth, rs.format.z16, rate_hz, 0.6)
        self._colour = self._stream(self.colour, rs.stream.color, rs.format.rgb8, rate_hz, 0.95)
        self.depth.add_read_only_option(rs.option.depth_units, 1e-4 if d405 else 1e-3)
        for option, low, high, step, default in (
            (rs.option.exposure, 1, 10000, 1, 166),
            (rs.option.enable_auto_exposure, 0, 1, 1, 1),
        ):
            span = rs.option_range()
            span.min, span.max, span.step, span.default = low, high, step, default
            self.colour.add_option(option, span, True)
        between = rs.extrinsics()
        between.rotation, between.translation = [1, 0, 0, 0, 1, 0, 0, 0, 1], [BASELINE_M, 0, 0]
        self._depth.register_extrinsics_to(self._colour, between)
        self.device.create_matcher(rs.matchers.default)

    def _stream(self, sensor: Any, kind: Any, pixels: Any, rate_hz: int, focal: float) -> Any:
        height, width = self.size
        k = rs.intrinsics()
        k.width, k.height, k.ppx, k.ppy = width, height, width / 2, height / 2
        k.fx = k.fy = focal * width
        k.model, k.coeffs = rs.distortion.none, [0.0] * 5
        stream = rs.video_stream()
        stream.type, stream.fmt, stream.index, stream.uid = kind, pixels, 0, int(kind)
        stream.width, stream.height, stream.fps = width, height, rate_hz
        stream.bpp = 3 if pixels == rs.format.rgb8 else 2
        stream.intrinsics = k
        return sensor.add_video_stream(stream).as_video_stream_profile()

    def feed(
        self, number: int, rgb: np.ndarray, depth: np.ndarray, unix_s: float, device_s: float
    ) -> None:
        """One picture of each, in one moment."""
        for sensor, profile, pixels in (
            (self.depth, self._depth, depth),
            (self.colour, self._colour, rgb),
        ):
            sensor.set_metadata(rs.frame_metadata_value.sensor_timestamp, round(device_s * 1e6))
            frame = rs.software_video_frame()
            frame.pixels, frame.bpp = pixels, 3 if pixels.ndim == 3 else 2
            frame.stride = pixels.shape[1] * frame.bpp
            frame.timestamp, frame.domain = unix_s * 1e3, rs.timestamp_domain.global_time
            frame.frame_number, frame.profile = number, profile
            sensor.on_video_frame(frame)


def noise(size: tuple[int, int], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """uint8[H,W,3], uint16[H,W] of 0.4 to 2 m with holes."""
    random = np.random.default_rng(seed)
    depth = random.integers(400, 2000, size, np.uint16)
    depth[random.random(size) < 0.1] = 0
    return random.integers(0, 256, (*size, 3), np.uint8), depth


class Rehearsal(RealSense):
    """Words: "" well; "unplug", "silent", "freeze" (one picture, new times), "stopped" (one time, new
    pictures), "late" (by 0.3 s), "gaps" (every second one), "raise", "crash", "hang"."""

    def __init__(
        self, run: Run, name: str, serial_number_or_name: str = "", **options: Any
    ) -> None:
        self._order = Path(run.run_dir) / f"rehearsal-{name}"
        section = run.config.cameras[name]
        self._soft = SoftD435(section.width, section.height, round(section.rate_hz))
        self._period_s = 1.0 / section.rate_hz
        self._over = threading.Event()
        attached = [] if self._word() == "unplug" else [self._soft.device]
        super().__init__(run, name, serial_number_or_name, devices=lambda: attached, **options)
        self._feeder = threading.Thread(target=self._feed, daemon=True)
        self._feeder.start()

    def wait(self, timeout_s: float) -> Picture | None:
        word = self._word()
        if word == "raise":
            raise RuntimeError("xioctl(VIDIOC_DQBUF) failed, errno 19")
        if word == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if word == "hang":
            signal.pause()
        return super().wait(timeout_s)

    def reset(self) -> None:
        """What a restart cures. (The software device has no restart of its own.)"""
        if self._word() == "freeze":
            self._order.unlink()

    def close(self) -> None:
        self._over.set()
        if hasattr(self, "_feeder"):
            self._feeder.join()
        super().close()

    def _word(self) -> str:
        return self._order.read_text().strip() if self._order.exists() else ""

    def _feed(self) -> None:
        pool = [noise(self._soft.size, seed) for seed in range(16)]
        began_s, stood_at = time.monotonic(), 0
        for number in itertools.count(1):
            word = self._word()
            late_s = 0.3 if word == "late" else 0.0
            due_s = began_s + number * self._period_s + late_s
            if self._over.wait(max(0.0, due_s - time.monotonic())):
                return
            if word in ("unplug", "silent") or (word == "gaps" and number % 2):
                continue
            stood_at = stood_at if word in ("freeze", "stopped") else number
            rgb, depth = pool[(stood_at if word == "freeze" else number) % len(pool)]
            device_s = (stood_at if word == "stopped" else number) * self._period_s
            self._soft.feed(number, rgb, depth, time.time() - late_s, device_s)
