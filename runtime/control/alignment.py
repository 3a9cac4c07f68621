"""What belongs to one moment: the picture of every camera nearest to it, and the joints as they stood then.

After UMI (Chi et al. 2024, arXiv 2402.10329, section III-B): of the cameras' newest pictures the oldest sets
the moment, the others and the joints are matched to it. Owns the last readings of the joints, in memory taken
once; doesn't own latencies (calibration measures them) nor when actions are carried out (scheduler).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtime.cameras import Camera
from runtime.config import CameraSection
from runtime.frames import REACH, Frame

READINGS = 64
"""At 100 Hz two thirds of a second: several times what a camera is late."""


class JointHistory:
    """The last readings, times increasing."""

    def __init__(self, readings: int = READINGS) -> None:
        self._size = readings
        self._times_s = np.zeros(readings)
        self._positions = np.zeros((readings, 0), np.float32)
        self._added = 0

    def add(self, at_s: float, positions: np.ndarray) -> None:
        """float32[joints] as they stood at `at_s`. A reading that is no newer than the last is ignored."""
        if self._added and at_s <= self._times_s[(self._added - 1) % self._size]:
            return
        if self._positions.shape[1] != len(positions):
            self._positions = np.zeros((self._size, len(positions)), np.float32)
        self._times_s[self._added % self._size] = at_s
        self._positions[self._added % self._size] = positions
        self._added += 1

    def at(self, at_s: float) -> tuple[np.ndarray, float]:
        """(float32[joints], time they are of): between two readings interpolated, beyond the ends the last
        one there: never extrapolated. Raises `IndexError` before the first."""
        if not self._added:
            raise IndexError("no reading yet")
        later = self._added - 1
        oldest = max(0, self._added - self._size)
        while later > oldest and self._times_s[(later - 1) % self._size] >= at_s:
            later -= 1
        high = later % self._size
        if later == oldest or self._times_s[high] <= at_s:
            return self._positions[high].copy(), float(self._times_s[high])
        low = (later - 1) % self._size
        span_s = self._times_s[high] - self._times_s[low]
        share = np.float32((at_s - self._times_s[low]) / span_s)
        between = self._positions[low] + share * (self._positions[high] - self._positions[low])
        return between, at_s


def match(
    cameras: Mapping[str, Camera], newest: Mapping[str, Frame], now_s: float
) -> tuple[dict[str, Frame], float]:
    """(of every camera the picture nearest to the moment, the moment): that of the oldest of the `newest`
    pictures, `now_s` where there is none."""
    moment_s = min((frame.captured_s for frame in newest.values()), default=now_s)
    frames: dict[str, Frame] = {}
    for name, frame in newest.items():
        chosen = frame if frame.captured_s == moment_s else cameras[name].nearest(now_s, moment_s)
        frames[name] = frame if chosen is None else chosen
    return frames, moment_s


def slack(cameras: Mapping[str, Camera], sections: Mapping[str, CameraSection]) -> dict[str, float]:
    """Seconds by camera: how much later than the moment a picture may be and still be taken for one of it. A
    period of its own, and what the newest pictures of the others lie further back than its slots reach even
    where all are well, being slower or later on their way."""
    periods_s = {name: 1.0 / camera.spec().rate_hz for name, camera in cameras.items()}
    back_s = {name: sections[name].latency_s + period_s for name, period_s in periods_s.items()}
    oldest_s = max(back_s.values(), default=0.0)
    return {
        name: period_s + max(0.0, oldest_s - sections[name].latency_s - REACH * period_s)
        for name, period_s in periods_s.items()
    }


def together(
    newest: Mapping[str, Frame],
    chosen: Mapping[str, Frame],
    moment_s: float,
    slack_s: Mapping[str, float],
) -> bool:
    """Whether what `match` chose is of the moment. Where one camera stalls, the others' slots soon reach no
    further back than to what came long after its last picture."""
    return not any(
        newest[name].number - frame.number >= REACH and frame.captured_s - moment_s > slack_s[name]
        for name, frame in chosen.items()
    )
