"""How old the stream is when it arrives here, by robot: capture to trainer, on one clock. No sockets.

A robot's times become the trainer's by the offset that its link measured (`runtime.link.clock_offset`) and
tells with every heartbeat; without one nothing is claimed. Simulated time (pace "asap") has no age.
"""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from contracts.age_histogram import AgeHistogram
from contracts.messages import EpisodeStart, Heartbeat, SessionStart, Step

MAX_ROBOTS = 64
MAX_SPEAKERS = 1024
WORST_ERROR_S = 0.05
"""An offset less sure than this says nothing about ages."""


class Ages:
    """Take in heartbeats and the live stream; `report` gives a robot's figures, `clock` its offset."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._beats: OrderedDict[str, Heartbeat] = OrderedDict()
        self._live: OrderedDict[str, AgeHistogram] = OrderedDict()
        self._speakers: OrderedDict[bytes, str] = OrderedDict()
        self._simulated: dict[bytes, bool] = {}

    def heard(self, beat: Heartbeat) -> None:
        _keep(self._beats, beat.robot_id, beat, MAX_ROBOTS)

    def live(self, peer: bytes, message: object) -> None:
        """A message of the live stream of connection `peer`."""
        if isinstance(message, SessionStart):
            if len(self._simulated) > MAX_SPEAKERS:
                self._simulated.clear()
            self._simulated[peer] = message.pace != "realtime"
        elif isinstance(message, EpisodeStart):
            _keep(self._speakers, peer, message.robot_id, MAX_SPEAKERS)
        elif isinstance(message, Step):
            robot_id = self._speakers.get(peer)
            if robot_id is None or self._simulated.get(peer, True) or not message.captured_s:
                return
            offset_s, error_s = self.clock(robot_id)
            if error_s > WORST_ERROR_S:
                return
            age_s = self._clock() - offset_s - min(message.captured_s.values())
            if robot_id not in self._live:
                _keep(self._live, robot_id, AgeHistogram(), MAX_ROBOTS)
            self._live[robot_id].add(age_s)

    def clock(self, robot_id: str) -> tuple[float, float]:
        """(offset, its largest error) in seconds: add the first to a time of that robot's."""
        beat = self._beats.get(robot_id)
        return (beat.clock_offset_s, beat.clock_error_s) if beat else (0.0, math.inf)

    def stored(self, robot_id: str) -> dict[str, float]:
        """Fields for a metrics record about an episode that is on the disk now: capture times in its log are
        the robot's, `at_s` is this clock's. None where the robot's clock is not known."""
        offset_s, error_s = self.clock(robot_id)
        if not math.isfinite(error_s):
            return {"at_s": self._clock()}
        return {"at_s": self._clock(), "clock_offset_s": offset_s, "clock_error_s": error_s}

    def report(self, robot_id: str) -> dict[str, Any]:
        """Fields for a metrics record, of all since the last one; without any age only the clock's."""
        offset_s, error_s = self.clock(robot_id)
        found: dict[str, Any] = {"clock_offset_s": offset_s, "clock_error_s": error_s}
        ages = self._live.pop(robot_id, None)
        if ages:
            found |= {
                "live_age_p50_s": ages.percentile(50.0),
                "live_age_p99_s": ages.percentile(99.0),
                "live": len(ages),
            }
        return found


def _keep(table: OrderedDict[Any, Any], key: Any, value: Any, most: int) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > most:
        table.popitem(last=False)
