"""A recorded camera: a RealSense file (.db3, .bag) or one of our data sets, at its own pace, over and over.

Owns the two sources behind `kind: playback`. Their time goes on when they begin again, so that a loop is one
long recording.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contracts.errors import ConfigError, DeviceError
from contracts.specs import CameraSpec
from runtime.cameras import Picture, Source
from runtime.cameras.realsense import spec_of
from runtime.cameras.realsense_frames import Processing, load_realsense, times_of
from runtime.config import CameraSection
from runtime.run import Run

_FILES = (".bag", ".db3")
_READ_S = 2.0
_BEHIND_S = 1.0


def playback(
    run: Run,
    name: str,
    path: str = "",
    recorded_pace: bool = True,
    episode: int = -1,
    camera: str = "",
    filters: Mapping[str, Mapping[str, float]] | None = None,
    memory_mib: int = 256,
) -> Source:
    """The source for `path`: a file, or the folder of a data set (then `camera` there, by default of the same
    name, and one `episode` or all). `recorded_pace: false`: at the camera's `rate_hz` instead. `memory_mib`:
    an episode that fits is decoded once."""
    where = Path(path)
    if not path or not where.exists():
        raise ConfigError(
            f"camera '{name}' has nothing to play",
            expected="a .db3 or .bag file, or the folder of a data set",
            found=path or "no path",
            remedy=f"set cameras.{name}.options.path",
        )
    section = run.config.cameras[name]
    recording: Recording
    if where.is_dir():
        from runtime.cameras.dataset_playback import EpisodePlayer

        recording = EpisodePlayer(where, camera or name, episode, section, memory_mib)
    elif where.suffix in _FILES:
        recording = RealSenseFile(where, name, section, filters or {})
    else:
        raise ConfigError(
            f"camera '{name}' can't play {path}",
            expected=f"one of {list(_FILES)} or a data set's folder",
            remedy="kind: opencv plays videos",
        )
    spec = recording.spec
    if recorded_pace and abs(spec.rate_hz - section.rate_hz) > 0.1 * section.rate_hz:
        recording.close()
        raise ConfigError(
            f"camera '{name}': {path} was recorded at another rate",
            expected=f"{section.rate_hz:g} Hz",
            found=f"{spec.rate_hz:g} Hz",
            remedy=f"set cameras.{name}.rate_hz, or options.recorded_pace: false",
        )
    return Player(recording, name, 1.0 / section.rate_hz, recorded_pace)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One recorded picture. `at_s`: on the recording's own clock. `number`: the device's counter or 0."""

    rgb: np.ndarray
    depth: np.ndarray | None
    at_s: float
    global_s: float = math.nan
    number: int = 0


class Recording(Protocol):
    """What a `Player` plays: a spec, and pictures from the beginning as often as asked."""

    spec: CameraSpec

    def pictures(self) -> Iterator[Recorded]: ...

    def close(self) -> None: ...


class Player:
    """`Source`: hands out each picture when its time has come, measured from the first."""

    noisy = False

    def __init__(
        self, recording: Recording, name: str, period_s: float, recorded_pace: bool
    ) -> None:
        self._recording, self._name, self._period_s = recording, name, period_s
        self._recorded_pace = recorded_pace
        self._pictures = recording.pictures()
        self._next: Recorded | None = None
        self._began_s = math.nan
        self._shift_s = math.nan
        self._at_s = -period_s
        self._number = 0

    def spec(self) -> CameraSpec:
        return self._recording.spec

    def wait(self, timeout_s: float) -> Picture | None:
        if self._next is None:
            self._next = self._read()
        if math.isnan(self._began_s):
            self._began_s = time.monotonic()
        due_s = self._began_s + self._at_s
        left_s = due_s - time.monotonic()
        if left_s < -_BEHIND_S:
            # This process stood still: go on from here, not in a burst. The recording's time went on, too, or
            # all that follows would be late.
            self._at_s, self._shift_s = self._at_s - left_s, self._shift_s - left_s
        if left_s > timeout_s:
            time.sleep(timeout_s)
            return None
        if left_s > 0:
            time.sleep(left_s)
        picture, self._next = self._next, None
        self._number += 1
        return Picture(
            picture.rgb,
            picture.depth,
            time.monotonic(),
            self._at_s,
            picture.global_s,
            self._number,
        )

    def reset(self) -> None:
        """A file has nothing to reset; it is opened again."""

    def close(self) -> None:
        self._recording.close()

    def _read(self) -> Recorded:
        """The next one, from the beginning after the last; sets when it is due."""
        picture = next(self._pictures, None)
        if picture is None:
            self._pictures, self._shift_s = self._recording.pictures(), math.nan
            picture = next(self._pictures, None)
        if picture is None:
            raise DeviceError(f"camera '{self._name}': the recording holds no whole picture")
        if math.isnan(self._shift_s):  # the first of a round follows the last by one period
            self._shift_s = self._at_s + self._period_s - picture.at_s
        paced = self._at_s + self._period_s
        self._at_s = picture.at_s + self._shift_s if self._recorded_pace else paced
        return picture


class RealSenseFile:
    """What `rs.recorder` (or the viewer) wrote, through a pipeline, filtered and aligned as if live."""

    def __init__(
        self,
        path: Path,
        name: str,
        section: CameraSection,
        filters: Mapping[str, Mapping[str, float]],
    ) -> None:
        rs = self._rs = load_realsense()
        self._path, self._depth = path, section.depth
        self._processing = Processing(filters, section.depth)
        self._pipeline: Any = None
        self._ahead: Recorded | None = None
        profile = self._start()
        kinds = {stream.stream_type() for stream in profile.get_streams()}
        if rs.stream.color not in kinds or (section.depth and rs.stream.depth not in kinds):
            self.close()
            raise ConfigError(
                f"{path} lacks a stream",
                expected="colour" + (" and depth" if section.depth else ""),
                found=sorted(kind.name for kind in kinds),
            )
        device = profile.get_device()
        scale_m = 0.001
        if section.depth:
            scale_m = float(device.first_depth_sensor().get_depth_scale())
        colour = profile.get_stream(rs.stream.color)
        self.spec = spec_of(rs, name, device, colour, section.depth, scale_m)

    def pictures(self) -> Iterator[Recorded]:
        """One round, whole."""
        last_s, count = -math.inf, 0
        while True:
            recorded, self._ahead = self._ahead or self._read(), None
            if recorded is None:
                return
            if recorded.at_s == last_s and count > 1:
                continue  # librealsense gives the last one twice
            if recorded.at_s <= last_s:  # it has begun again, and says so in no other way
                self._ahead = recorded
                return
            last_s, count = recorded.at_s, count + 1
            yield recorded

    def _read(self) -> Recorded | None:
        if self._pipeline is None:
            self._start()
        give_up_s = time.monotonic() + _READ_S
        while (left_s := give_up_s - time.monotonic()) > 0:
            there, frames = self._pipeline.try_wait_for_frames(max(1, round(left_s * 1e3)))
            picture = self._processing.picture(frames, 0.0) if there else None
            if picture is not None:
                at_s, _ = times_of(self._rs, frames.get_color_frame())
                return Recorded(picture.rgb, picture.depth, at_s, picture.global_s, picture.number)
        return None

    def close(self) -> None:
        if self._pipeline is not None:
            self._pipeline.stop()
            self._pipeline = self._ahead = None

    def _start(self) -> Any:
        rs = self._rs
        config = rs.config()
        config.enable_device_from_file(str(self._path), True)
        pipeline = rs.pipeline()
        try:
            resolved = config.resolve(rs.pipeline_wrapper(pipeline))
            # Before it starts, or it runs ahead of us: who plays it paces it.
            resolved.get_device().as_playback().set_real_time(False)
            profile = pipeline.start(config)
        except RuntimeError as error:
            raise ConfigError(
                f"can't play {self._path}",
                found=" ".join(str(error).split()),
                remedy="was it written by a newer librealsense?",
            ) from error
        self._pipeline = pipeline
        return profile
