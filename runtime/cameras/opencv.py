"""A webcam (UVC), a video file or a stream's address, through OpenCV. Colour only."""

from __future__ import annotations

import math
import time
from pathlib import Path

import cv2
import numpy as np

from contracts.errors import ConfigError, DeviceError
from contracts.specs import CameraSpec
from runtime.cameras import Picture
from runtime.cameras.device_clock import COUNTED_DRIFT, DRIFT
from runtime.cameras.rotation import upright
from runtime.run import Run

_MANUAL_EXPOSURE, _AUTO_EXPOSURE = 1.0, 3.0
"""V4L2's values of exposure_auto; OpenCV passes them through."""
_OPTIONS = {
    "exposure": cv2.CAP_PROP_EXPOSURE,
    "gain": cv2.CAP_PROP_GAIN,
    "white_balance": cv2.CAP_PROP_WB_TEMPERATURE,
    "enable_auto_exposure": cv2.CAP_PROP_AUTO_EXPOSURE,
    "enable_auto_white_balance": cv2.CAP_PROP_AUTO_WB,
    "brightness": cv2.CAP_PROP_BRIGHTNESS,
    "contrast": cv2.CAP_PROP_CONTRAST,
    "saturation": cv2.CAP_PROP_SATURATION,
    "sharpness": cv2.CAP_PROP_SHARPNESS,
    "focus": cv2.CAP_PROP_FOCUS,
    "enable_auto_focus": cv2.CAP_PROP_AUTOFOCUS,
}
_AUTOMATISM = {
    "exposure": "enable_auto_exposure",
    "gain": "enable_auto_exposure",
    "white_balance": "enable_auto_white_balance",
    "focus": "enable_auto_focus",
}


_DEVICES = Path("/sys/class/video4linux")


def usb_of(index_or_path: int | str, devices: Path = _DEVICES) -> tuple[str, str]:
    """(serial number, socket) of a webcam as the kernel has them, "1-2.4" the fourth socket of a hub in the
    second; "" for what it does not say. Many webcams of a kind have the same number, or none. The socket is
    given where the number alone does not tell the attached ones apart: it changes with a reset of the bus."""
    node = f"video{index_or_path}" if isinstance(index_or_path, int) else index_or_path
    usb = _usb(devices / Path("/dev", node).resolve().name)
    if usb is None:
        return "", ""
    serial = _serial(usb)
    others = {_usb(device) for device in devices.iterdir()} - {usb, None}
    known = serial and all(_serial(other) != serial for other in others if other)
    return serial, "" if known else usb.name


def _usb(device: Path) -> Path | None:
    interface = device / "device"
    return interface.resolve().parent if interface.exists() else None


def _serial(usb: Path) -> str:
    path = usb / "serial"
    return path.read_text(errors="replace").strip() if path.exists() else ""


class OpenCVCamera:
    """`runtime.cameras.Source`. Options as in LeRobot: `index_or_path`, `fourcc` ("MJPG" lets most webcams
    reach 30 Hz), `backend` (OpenCV's number, 0: any). `options`: exposure and the like, in the driver's
    units, named as librealsense does. A video file runs at its own pace, over and over."""

    def __init__(
        self,
        run: Run,
        name: str,
        index_or_path: int | str = 0,
        fourcc: str = "",
        backend: int = 0,
        options: dict[str, float] | None = None,
    ) -> None:
        section = run.config.cameras[name]
        if section.depth:
            raise ConfigError(
                f"camera '{name}': a camera of kind opencv has no depth",
                remedy=f"set cameras.{name}.depth: false",
            )
        self._name, self._source = name, index_or_path
        self._is_file = isinstance(index_or_path, str) and Path(index_or_path).is_file()
        self._size = upright(section.width, section.height, section.rotation)
        self._rate_hz = section.rate_hz
        # An RTSP or HTTP address that does not answer must not keep us for half a minute.
        patience = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, 5000, cv2.CAP_PROP_READ_TIMEOUT_MSEC, 2000]
        is_device = isinstance(index_or_path, int) or index_or_path.startswith("/dev/")
        self.noisy = is_device  # what was compressed may well repeat where nothing moves
        self._capture = (
            cv2.VideoCapture(index_or_path, backend)
            if is_device or backend
            else cv2.VideoCapture(index_or_path, cv2.CAP_FFMPEG, patience)
        )
        if not self._capture.isOpened():
            raise DeviceError(
                f"camera '{name}' is not there",
                expected=f"something that OpenCV opens at {index_or_path!r}",
                found="nothing" if is_device else "nothing, or no video",
                remedy="check the cable, the index (robot-run doctor lists them), the group video",
            )
        try:
            self._configure(fourcc, options or {})
        except BaseException:
            self._capture.release()
            raise
        # JPEGs carry no times but over RTP: OpenCV counts them at 25 a second, however many there are.
        is_mjpeg = int(self._capture.get(cv2.CAP_PROP_FOURCC)) == cv2.VideoWriter.fourcc(*"MJPG")
        is_stamped = is_device or str(index_or_path).startswith(("rtsp", "rtp", "srtp"))
        self._counts = is_mjpeg and not is_stamped
        self.clock_drift = DRIFT if is_device or self._is_file else COUNTED_DRIFT
        self._usb = usb_of(index_or_path) if is_device else ("", "")
        self._buffers = [np.empty((self._size[1], self._size[0], 3), np.uint8) for _ in range(2)]
        self._count = 0
        self._period_s = 1.0 / self._rate_hz
        self._began_s = math.nan

    def _configure(self, fourcc: str, options: dict[str, float]) -> None:
        capture, (width, height) = self._capture, self._size
        if not self._is_file:
            if fourcc:
                capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*fourcc))
            for prop, value in (
                (cv2.CAP_PROP_FRAME_WIDTH, width),
                (cv2.CAP_PROP_FRAME_HEIGHT, height),
                (cv2.CAP_PROP_FPS, self._rate_hz),
                (cv2.CAP_PROP_BUFFERSIZE, 2),
            ):
                capture.set(prop, value)
        found = (capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
        rate_hz = capture.get(cv2.CAP_PROP_FPS)
        if found != (width, height) or (rate_hz > 0 and abs(rate_hz - self._rate_hz) > 1.0):
            raise ConfigError(
                f"camera '{self._name}' has no such mode",
                expected=f"{width}x{height} at {self._rate_hz:g} Hz",
                found="{:g}x{:g} at {:g} Hz".format(*found, rate_hz),
                remedy=f"set width, height and rate_hz of cameras.{self._name}, or fourcc: MJPG",
            )
        automatic = {_AUTOMATISM[k]: 0.0 for k in options if k in _AUTOMATISM}
        for key, wanted in (automatic | options).items():
            if key not in _OPTIONS:
                raise ConfigError(
                    f"camera '{self._name}' has no option '{key}'",
                    expected=f"one of {sorted(_OPTIONS)}",
                )
            value = wanted
            if key == "enable_auto_exposure":
                value = _AUTO_EXPOSURE if wanted else _MANUAL_EXPOSURE
            if not capture.set(_OPTIONS[key], value) and key in options:
                raise ConfigError(f"camera '{self._name}' refuses {key}", found=value)

    def spec(self) -> CameraSpec:
        """Uncalibrated: UVC knows no intrinsics."""
        width, height = self._size
        serial, socket = self._usb
        model = f"opencv {self._source}" + (f" at {socket}" if socket else "")
        return CameraSpec(
            self._name, width, height, self._rate_hz, depth=False, model=model, serial=serial
        )

    def wait(self, timeout_s: float) -> Picture | None:
        """OpenCV's own patience decides for a device (1 s, set by the capture process)."""
        if self._is_file and not self._is_due(timeout_s):
            return None
        device_s = math.nan
        there, bgr = self._capture.read()
        if not there and self._is_file:
            self._capture.set(cv2.CAP_PROP_POS_FRAMES, 0)
            there, bgr = self._capture.read()
        received_s = time.monotonic()
        if not there or bgr is None:
            raise DeviceError(f"camera '{self._name}' gave no picture")
        self._count += 1
        if self._is_file:
            device_s = self._began_s + self._count * self._period_s
        elif not self._counts and (stamp_ms := self._capture.get(cv2.CAP_PROP_POS_MSEC)) > 0:
            device_s = stamp_ms / 1e3  # V4L2: when the driver filled the buffer
        rgb = self._buffers[self._count % 2]
        cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, dst=rgb)
        return Picture(rgb, None, received_s, device_s, number=self._count if self._is_file else 0)

    def reset(self) -> None:
        """UVC has no reset; opening it again is all there is."""

    def close(self) -> None:
        self._capture.release()

    def _is_due(self, timeout_s: float) -> bool:
        now_s = time.monotonic()
        due_s = self._began_s + self._count * self._period_s
        if not now_s - due_s < 1.0:  # the first, or this process stood still, and its time went on
            self._began_s = now_s - self._count * self._period_s
            return True
        time.sleep(min(timeout_s, max(0.0, due_s - now_s)))
        return due_s <= time.monotonic()
