"""A device's own clock on the robot's monotonic one. Owns the mapping; knows no device.

The path from a device to this process takes a constant and a varying time. The earliest arrival of the last
seconds shows the constant part; what comes later than that is late. The wall clock is not needed, and setting
it by hours changes nothing. The constant part is what `latency_s` of a camera is for. The idea, as a lower
hull: Moon, Skelly, Towsley, "Estimation and removal of clock skew from network delay measurements", 1999.
"""

from __future__ import annotations

import math

_BUCKET_S = 10.0
"""Crystals differ by some 50 parts in a million: half a millisecond in this time, and twice that in two."""


class DeviceClock:
    """Feed it every picture's times, in the order of arrival."""

    def __init__(self) -> None:
        self._last_device_s = math.nan
        self._bucket_from_s = 0.0
        self._now = self._before = math.inf
        self.restarts = 0

    def captured_s(self, device_s: float, received_s: float) -> float:
        """When it was captured, in monotonic seconds, never after `received_s`; that itself for a
        device without a clock (NaN)."""
        if not math.isfinite(device_s):
            return received_s
        if device_s < self._last_device_s:
            # Wrapped around (a 32-bit count of microseconds does every 71 minutes), or was reset.
            self._now = self._before = math.inf
            self.restarts += 1
        self._last_device_s = device_s
        if received_s - self._bucket_from_s > _BUCKET_S:
            self._before, self._now, self._bucket_from_s = self._now, math.inf, received_s
        offset_s = received_s - device_s
        self._now = min(self._now, offset_s)
        return min(received_s, device_s + min(self._now, self._before))  # rounding apart
