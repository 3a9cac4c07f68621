"""What is done to a set of RealSense frames: filters, depth aligned to colour, times. Opens no device."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from contracts.errors import ConfigError, MissingDependency
from runtime.cameras import Picture

FILTERS = ("decimation", "threshold", "spatial", "temporal", "hole_filling")
"""In the order that librealsense recommends; spatial and temporal work on disparity."""
_ON_DISPARITY = ("spatial", "temporal")


def load_realsense() -> Any:
    """pyrealsense2. Raises `MissingDependency`."""
    try:
        import pyrealsense2
    except ImportError as error:
        raise MissingDependency(
            "cameras of this kind need pyrealsense2",
            found=str(error),
            remedy="pip install 'entracte[jetson]' (or pip install pyrealsense2)",
        ) from error
    return pyrealsense2


class Processing:
    """Filters as configured, then `rs.align` to colour. `filters`: by name, each with values of
    librealsense's options: {"spatial": {"filter_smooth_alpha": 0.5}, "temporal": {}}. Raises
    `ConfigError`."""

    def __init__(self, filters: Mapping[str, Mapping[str, float]], depth: bool) -> None:
        rs = self._rs = load_realsense()
        unknown = sorted(set(filters) - set(FILTERS))
        if unknown:
            raise ConfigError(
                f"no depth filter '{unknown[0]}'", expected=f"some of {list(FILTERS)}"
            )
        self._filters: list[Any] = []
        for name in FILTERS:
            if name in filters:
                self._filters.append(self._made(name, filters[name]))
        disparity = [
            i for i, n in enumerate(n for n in FILTERS if n in filters) if n in _ON_DISPARITY
        ]
        if disparity:
            self._filters.insert(disparity[-1] + 1, rs.disparity_transform(False))
            self._filters.insert(disparity[0], rs.disparity_transform(True))
        self._align = rs.align(rs.stream.color) if depth else None
        self._depth = depth

    def _made(self, name: str, values: Mapping[str, float]) -> Any:
        block = getattr(self._rs, f"{name}_filter")()
        for option, value in values.items():
            set_option(self._rs, block, option, value, f"the {name} filter")
        return block

    def picture(self, frames: Any, received_s: float) -> Picture | None:
        """None where a frame is missing. Copies nothing: the arrays are views of librealsense's frames,
        which they keep alive."""
        if not frames.get_color_frame() or (self._depth and not frames.get_depth_frame()):
            return None
        for block in self._filters:
            frames = block.process(frames).as_frameset()
        depth = None
        if self._align is not None:
            frames = self._align.process(frames)
            depth = np.asanyarray(frames.get_depth_frame().get_data())
        colour = frames.get_color_frame()
        device_s, global_s = times_of(self._rs, colour)
        return Picture(
            np.asanyarray(colour.get_data()),
            depth,
            received_s,
            device_s,
            global_s,
            int(colour.get_frame_number()),
        )


def times_of(rs: Any, frame: Any) -> tuple[float, float]:
    """(device seconds, Unix seconds or NaN) of a frame. The sensor's own time, in the middle of the
    exposure, where the kernel passes metadata on; else the start of the transfer; else the host's."""
    stamp_s = frame.get_timestamp() / 1e3
    on_host = frame.get_frame_timestamp_domain() != rs.timestamp_domain.hardware_clock
    for key in (rs.frame_metadata_value.sensor_timestamp, rs.frame_metadata_value.frame_timestamp):
        if frame.supports_frame_metadata(key):
            return frame.get_frame_metadata(key) / 1e6, stamp_s if on_host else math.nan
    return stamp_s, stamp_s if on_host else math.nan


def next_picture(frames_of: Any, processing: Processing, timeout_s: float) -> Picture | None:
    """The next whole set from a syncer or pipeline; a set that lacks a frame is passed over."""
    give_up_s = time.monotonic() + timeout_s
    while (left_s := give_up_s - time.monotonic()) > 0:
        there, frames = frames_of.try_wait_for_frames(max(1, round(left_s * 1e3)))
        if there and (picture := processing.picture(frames, time.monotonic())) is not None:
            return picture
    return None


def set_option(rs: Any, holder: Any, name: str, value: float, what: str) -> None:
    """One option of a sensor or filter by librealsense's name. Raises `ConfigError`."""
    option = getattr(rs.option, name, None)
    supported = holder.get_supported_options()
    if option not in supported:
        having = sorted(one.name for one in supported)
        raise ConfigError(f"{what} has no option '{name}'", expected=f"one of {having}")
    span = holder.get_option_range(option)
    if not span.min <= value <= span.max:
        raise ConfigError(
            f"{name} of {what}", expected=f"{span.min:g} to {span.max:g}", found=value
        )
    if holder.is_option_read_only(option):
        raise ConfigError(f"{name} of {what} can't be set: it is read-only now")
    holder.set_option(option, float(value))
