"""Cameras: the newest picture, always at once. Owns the protocols; one module per implementation.

A camera is named in YAML (`cameras.<name>.kind`) and made as `make(run, name, **options)`. What an entry
point names is a `Source`, opened by a process of its own (`runtime.cameras.capture`), which control looks at
through shared memory; or, if it says `in_control = True`, a `Camera` that control opens itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np

from contracts import registry
from contracts.errors import ConfigError
from contracts.specs import CameraSpec
from runtime.config import RobotConfig
from runtime.frames import Frame as Frame
from runtime.run import Run


class Camera(Protocol):
    """One RGB-D camera, as control sees it. Its class says `in_control = True`."""

    def spec(self) -> CameraSpec:
        """Size, rate and intrinsics as they are, not as they were asked for."""
        ...

    def newest(self, now_s: float) -> Frame | None:
        """The newest whole picture, received at `now_s`; None before the first. Nobody may write to the
        arrays: the same picture is given again until there is a newer. A camera that went away keeps giving
        its last one, whose age says so."""
        ...

    def nearest(self, now_s: float, at_s: float) -> Frame | None:
        """The one captured nearest to `at_s` of the last few: where latencies are configured."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Picture:
    """What a source delivers: `rgb` uint8[H,W,3], `depth` uint16[H,W] aligned to it or None; both may be
    views of the driver's memory and are left as they are. `received_s`: monotonic time at which the driver
    gave it. `device_s`: the middle of its exposure on the device's own clock (any zero), NaN if it has none
    (a count of pictures is none: of fewer than are counted, all would be late). `global_s`: the same in Unix
    seconds, as the driver estimates it. `number`: the device's frame counter, 0 if it has none."""

    rgb: np.ndarray
    depth: np.ndarray | None
    received_s: float
    device_s: float = math.nan
    global_s: float = math.nan
    number: int = 0


class Source(Protocol):
    """One opened device, in the capture process. Making it opens it: `ConfigError` for what no waiting
    will cure, `DeviceError` for what is absent or refuses. Any other call may raise anything: the process
    counts it, closes the source and opens it again."""

    noisy: bool
    """Two pictures of a live sensor always differ, by its noise: one that repeats is frozen. False for
    what is played back or drawn."""

    def spec(self) -> CameraSpec:
        """Size, rate, intrinsics and depth scale as they are, before `rotation`."""
        ...

    def wait(self, timeout_s: float) -> Picture | None:
        """The next picture, or None if there is none in time. Valid until the call after next: drivers
        have few buffers, and stop when all are held."""
        ...

    def reset(self) -> None:
        """Restart the device as thoroughly as it can be done from here; the source is closed after it."""
        ...

    def close(self) -> None: ...


def load(kind: str) -> tuple[Any, bool]:
    """What makes a camera of this kind, and whether control opens it itself. Raises `ConfigError`."""
    make = registry.load("cameras", kind)
    return make, bool(getattr(make, "in_control", False))


def captured(config: RobotConfig) -> list[str]:
    """Names of the cameras that have a process of their own. Raises `ConfigError`."""
    names = [name for name, section in config.cameras.items() if not load(section.kind)[1]]
    if names and config.pace == "asap":
        kind = config.cameras[names[0]].kind
        raise ConfigError(
            f"cameras.{names[0]}: a camera of kind '{kind}' lives by the wall's clock",
            expected="pace: realtime",
            found="pace: asap",
            remedy="set pace: realtime, or kind: sim",
        )
    return names


def open_cameras(run: Run) -> dict[str, Camera]:
    """Every configured camera by name, as control sees it. Raises `ConfigError` or `DeviceError`."""
    from runtime.cameras.from_slots import CapturedCamera

    cameras: dict[str, Camera] = {}
    for name, section in run.config.cameras.items():
        make, in_control = load(section.kind)
        if in_control:
            cameras[name] = cast(Camera, make_one(make, run, name))
        else:
            cameras[name] = CapturedCamera(run, name)
    return cameras


def make_one(make: Any, run: Run, name: str) -> Any:
    """`make(run, name, **options)`; options it does not have are a `ConfigError`."""
    section = run.config.cameras[name]
    try:
        return make(run, name, **section.options)
    except TypeError as error:
        raise ConfigError(
            f"cameras.{name}.options of '{section.kind}'", found=str(error)
        ) from error
