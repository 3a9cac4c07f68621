"""A device's own clock on the robot's monotonic one. Owns the mapping; knows no device.

The path from a device to this process takes a constant and a varying time. The earliest arrival shows the
constant part; what comes later is late, however long that lasts: a queue that stays full is no part of it.
The earliest may come later only as fast as two clocks part. The wall clock is not needed, and setting it by
hours changes nothing. The constant part is what `latency_s` of a camera is for. The idea, as a lower hull:
Moon, Skelly, Towsley, "Estimation and removal of clock skew from network delay measurements", 1999.

What remains: what was late from the first picture on counts as the constant part. And a path that has become
longer for good can't be told from a queue: its pictures are called late, by 0.2 ms less each second (2 ms of
a network's stream), until the device's clock starts again or the camera is opened again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

DRIFT = 2e-4
"""Seconds a second by which two clocks may part. Crystals differ by some 50 parts in a million."""
COUNTED_DRIFT = 2e-3
"""Of a stream whose encoder may count: 29.97 pictures a second, called 30, come later by a thousandth."""


class _Floor:
    """The earliest arrival, by one of the robot's clocks."""

    def __init__(self, drift: float) -> None:
        self._drift = drift
        self._offset_s, self._last_s = math.inf, math.inf

    def late_s(self, device_s: float, received_s: float) -> float:
        """After the earliest; not negative."""
        offset_s = received_s - device_s
        risen_s = self._drift * max(0.0, received_s - self._last_s)
        self._offset_s = min(offset_s, self._offset_s + risen_s)
        self._last_s = received_s
        return offset_s - self._offset_s


def bent_s() -> float:
    """By how much the monotonic clock is ahead of the processor's own, any zero: to set the wall clock by a
    fraction of a second NTP bends both, by 500 parts in a million and more."""
    # In this order: an interruption in between makes a picture seem later by the raw clock, not earlier.
    return time.monotonic() - time.clock_gettime(time.CLOCK_MONOTONIC_RAW)


class DeviceClock:
    """Feed it every picture's times, in the order of arrival."""

    def __init__(self, bent_s: Callable[[], float] = bent_s, drift: float = DRIFT) -> None:
        self._bent_s, self._drift = bent_s, drift
        self._last_device_s = math.nan
        self._monotonic, self._raw = _Floor(drift), _Floor(drift)
        self.restarts = 0

    def captured_s(self, device_s: float, received_s: float) -> float:
        """When it was captured, in monotonic seconds, never after `received_s`; that itself for a
        device without a clock (NaN)."""
        if not math.isfinite(device_s):
            return received_s
        if device_s < self._last_device_s:
            # Wrapped around (a 32-bit count of microseconds does every 71 minutes), or was reset.
            self._monotonic, self._raw = _Floor(self._drift), _Floor(self._drift)
            self.restarts += 1
        self._last_device_s = device_s
        # A crystal keeps pace with the raw clock, a driver that dates by the monotonic one with that: bent,
        # the other one parts from it, and a picture on time would be late.
        late_s = self._monotonic.late_s(device_s, received_s)
        raw_late_s = self._raw.late_s(device_s, received_s - self._bent_s())
        return received_s - min(late_s, raw_late_s)
