"""Cameras: the newest picture, always at once. Owns the protocol; one module per implementation.

A camera is named in YAML (`cameras.<name>.kind`) and made as `make(run, name, **options)`. Whatever
waits for a device does so in a thread or process of its own: `newest` never blocks the loop.
"""

from __future__ import annotations

from typing import Protocol, cast

from contracts import registry
from contracts.errors import ConfigError
from contracts.specs import CameraSpec
from runtime.config import Run
from runtime.frames import Frame


class Camera(Protocol):
    """One RGB-D camera."""

    def spec(self) -> CameraSpec:
        """Size, rate and intrinsics as they are, not as they were asked for."""
        ...

    def newest(self, now_s: float) -> Frame | None:
        """The newest whole picture, received at `now_s`; None before the first. The arrays are the
        caller's. Raises `DeviceError` if the device is gone."""
        ...

    def close(self) -> None: ...


def open_cameras(run: Run) -> dict[str, Camera]:
    """Every configured camera by name. Raises `ConfigError` or `DeviceError`."""
    cameras: dict[str, Camera] = {}
    for name, section in run.config.cameras.items():
        make = registry.load("cameras", section.kind)
        try:
            cameras[name] = cast(Camera, make(run, name, **section.options))
        except TypeError as error:
            raise ConfigError(f"cameras.{name}.options", found=str(error)) from error
    return cameras
