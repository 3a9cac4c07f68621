"""What a reward model looks at: a video of one or more cameras, and which of its frames a model wants.

Pure, and in the contracts because a package carries a frame contract from the workstation to the robot. Owns
the choice of frames, not how a model lays them out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np

from contracts.errors import EntracteError


@dataclass(frozen=True)
class Video:
    """N moments of one episode. `views`: camera -> uint8[N, H, W, 3] RGB; `times_s` float64[N] since the
    episode's first moment, increasing; `steps` int64[N]: the episode's step that each shows."""

    views: Mapping[str, np.ndarray]
    times_s: np.ndarray
    steps: np.ndarray

    def __post_init__(self) -> None:
        if not self.views or not len(self.times_s):
            raise EntracteError("a video needs a camera and a frame", found=sorted(self.views))
        for camera, images in self.views.items():
            good = images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3
            if not good or len(images) != len(self.times_s):
                raise EntracteError(
                    f"video of camera '{camera}'",
                    expected=f"uint8[{len(self.times_s)}, H, W, 3]",
                    found=f"{images.dtype}{list(images.shape)}",
                )
        if len(self.steps) != len(self.times_s) or (np.diff(self.times_s) <= 0).any():
            raise EntracteError(
                "times of a video", expected="one a frame, increasing", found=self.times_s.tolist()
            )

    def __len__(self) -> int:
        return len(self.times_s)

    @property
    def nbytes(self) -> int:
        """Of its pictures."""
        return sum(images.nbytes for images in self.views.values())

    def take(self, rows: Iterable[int]) -> Video:
        """These frames alone."""
        index = np.fromiter(rows, np.int64)
        views = {camera: images[index] for camera, images in self.views.items()}
        return Video(views, self.times_s[index], self.steps[index])

    def until(self, row: int) -> Video:
        """All up to frame `row`, that one included: what was known then. Shares its pictures: an episode
        is asked about at many of its moments at once."""
        views = {camera: images[: row + 1] for camera, images in self.views.items()}
        return Video(views, self.times_s[: row + 1], self.steps[: row + 1])


class FrameContract(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which frames a model is shown. Part of its identity: another contract is another model.

    `rate_hz` between `least` and `most` frames. `spread`: evenly from the first to the last, both always
    in (RoboReward: 2 Hz, 4 to 8 frames); `append`: at fixed times from the first, so that a longer episode
    only adds frames (what is cached of the shorter one holds), the last always in; `ends`: the first and
    the last alone; `last`: the last alone. `cameras`: which, in this order (empty: all, by name).
    `pixels`: most pixels of a picture (0: as it comes), its sides multiples of `multiple`.
    """

    layout: Literal["spread", "append", "ends", "last"] = "spread"
    rate_hz: float = 2.0
    least: int = 4
    most: int = 8
    cameras: tuple[str, ...] = ()
    pixels: int = 0
    multiple: int = 1
    text_first: bool = False

    def __post_init__(self) -> None:
        if not (self.rate_hz > 0 and 1 <= self.least <= self.most and self.most >= 3):
            raise ValueError(
                "rate_hz must be above 0, 1 <= least <= most and most >= 3, "
                f"found {self.rate_hz}, {self.least}, {self.most}"
            )

    def choose(self, times_s: np.ndarray) -> np.ndarray:
        """Rows int64[K] of float64[N] that the model is shown, increasing, the last always in."""
        last = len(times_s) - 1
        if self.layout == "last" or last == 0:
            return np.array([last])
        if self.layout == "ends":
            return np.array([0, last])
        span = float(times_s[last] - times_s[0])
        if self.layout == "spread":
            count = int(np.clip(round(span * self.rate_hz) + 1, self.least, self.most))
            wanted = times_s[0] + np.linspace(0.0, span, count)
        else:
            # The oldest go where there are too many; the episode's first stays as the start to compare with.
            count = int(np.floor(span * self.rate_hz + 1e-6)) + 1
            first = max(1, count - (self.most - 2))
            wanted = times_s[0] + np.array([0, *range(first, count)]) / self.rate_hz
        rows = np.searchsorted(times_s, wanted - 1e-6).clip(0, last)
        before = (rows - 1).clip(0)
        nearer = np.abs(times_s[before] - wanted) < np.abs(times_s[rows] - wanted)
        return np.unique([*np.where(nearer, before, rows), last])

    def shown(self, video: Video) -> Video:
        """The frames and cameras that the model sees of `video`. Raises `EntracteError` without them."""
        cameras = self.cameras or tuple(sorted(video.views))
        missing = [camera for camera in cameras if camera not in video.views]
        if missing:
            raise EntracteError(
                "cameras that the reward model looks at",
                expected=cameras,
                found=sorted(video.views),
            )
        chosen = video.take(self.choose(video.times_s))
        return Video({c: chosen.views[c] for c in cameras}, chosen.times_s, chosen.steps)

    def size(self, width: int, height: int) -> tuple[int, int]:
        """(width, height) that a picture is scaled to: no more than `pixels`, shape kept as far as
        multiples of `multiple` allow."""
        scale = min(1.0, (self.pixels / (width * height)) ** 0.5) if self.pixels else 1.0
        m = self.multiple

        def side(length: int) -> int:
            return max(m, round(length * scale / m) * m)

        wide, high = side(width), side(height)
        while self.pixels and wide * high > self.pixels and max(wide, high) > m:
            wide, high = (wide - m, high) if wide >= high else (wide, high - m)
        return wide, high
