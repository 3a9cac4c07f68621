"""One camera of one of our data sets (or LeRobot's), episode after episode, at its true capture times."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from contracts.errors import ConfigError
from contracts.files.dataset_reader import DatasetReader
from contracts.files.log_to_dataset import DEPTH_PREFIX
from contracts.specs import CameraSpec
from runtime.cameras.playback import Recorded
from runtime.config import CameraSection

_IMAGES = "observation.images."
_CHUNK = 16
"""Pictures decoded at a time where an episode does not fit into memory."""


class EpisodePlayer:
    """`episode` -1: all of them, one after the other. Raises `ConfigError` or `DatasetError`."""

    def __init__(
        self, root: Path, camera: str, episode: int, section: CameraSection, memory_mib: int
    ) -> None:
        self._reader = reader = DatasetReader(root)
        self._key, self._depth_key = _IMAGES + camera, DEPTH_PREFIX + camera
        self._time = f"time.capture.{camera}"
        if self._key not in reader.features or not reader.num_episodes:
            having = sorted(k[len(_IMAGES) :] for k in reader.features if k.startswith(_IMAGES))
            raise ConfigError(f"{root} has no camera '{camera}'", expected=f"one of {having}")
        if episode >= reader.num_episodes:
            raise ConfigError(
                f"{root} has no episode {episode}", expected=f"below {reader.num_episodes}"
            )
        self._episodes = range(reader.num_episodes) if episode < 0 else (episode,)
        height, width, _ = reader.features[self._key].shape
        self._depth = section.depth and self._depth_key in reader.features
        self._fits = memory_mib * (1 << 20) // (height * width * (5 if self._depth else 3))
        self._decoded: tuple[int, list[Recorded]] = (-1, [])
        known = _spec_in(reader.extra_info, camera)
        found: dict[str, Any] = {"width": width, "height": height, "depth": self._depth}
        self.spec = msgspec.structs.replace(
            known or CameraSpec(camera, width, height, float(reader.fps)),
            **found,
            rate_hz=float(reader.fps),
        )

    def pictures(self) -> Iterator[Recorded]:
        shift_s, at_s = 0.0, 0.0
        for episode in self._episodes:
            first = True
            for one in self._episode(episode):
                if first:
                    shift_s, first = at_s - one.at_s, False
                at_s = one.at_s + shift_s
                yield Recorded(one.rgb, one.depth, at_s)
            at_s += 1.0 / self.spec.rate_hz

    def close(self) -> None:
        self._decoded = (-1, [])

    def _episode(self, episode: int) -> Iterator[Recorded]:
        if self._decoded[0] == episode:
            yield from self._decoded[1]
            return
        length = self._reader.length(episode)
        if length > self._fits:
            yield from self._steps(episode, length)
            return
        self._decoded = (-1, [])
        self._decoded = (episode, list(self._steps(episode, length)))
        yield from self._decoded[1]

    def _steps(self, episode: int, length: int) -> Iterator[Recorded]:
        """A picture that several steps looked at comes once."""
        times = self._times(episode, length)
        new = [i for i in range(length) if i == 0 or times[i] > times[i - 1]]
        size = len(new) if length <= self._fits else _CHUNK
        for at in range(0, len(new), size):
            wanted = new[at : at + size]
            colour = self._reader.frames(episode, self._key, wanted)
            depth = self._reader.depth(episode, self._depth_key, wanted) if self._depth else None
            for i, step in enumerate(wanted):
                yield Recorded(colour[i], None if depth is None else depth[i], float(times[step]))

    def _times(self, episode: int, length: int) -> np.ndarray:
        """float64[length]: true capture times where they were recorded, else the steps' own."""
        if self._time in self._reader.features:
            times = self._reader.episode(episode, [self._time])[self._time].reshape(-1)
            if np.isfinite(times).all():
                return times.astype(np.float64)
        return np.arange(length) / self.spec.rate_hz


def _spec_in(extra: dict[str, Any], camera: str) -> CameraSpec | None:
    """What our recorder wrote about the camera; None in a data set of others."""
    for one in extra.get("observation", {}).get("cameras", ()):
        if one.get("name") == camera:
            return msgspec.convert(one, CameraSpec)
    return None
