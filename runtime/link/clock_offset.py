"""How far the trainer's monotonic clock is from the robot's, and how sure that is. Pure.

Four timestamps as in NTP (RFC 5905, section 8): the true offset lies within half the round trip of the
estimate, however unequal the two ways are. Of all exchanges the one with the smallest bound is kept, where
a bound widens with age by what two clocks may drift apart.
"""

from __future__ import annotations

import math

DRIFT = 500e-6
"""Seconds a second: as much as a kernel corrects a clock's rate (adjtimex(2): 500 ppm)."""
MAX_TRIP_S = 10.0
ROUNDING_S = 1e-6
"""More than a double loses of a time of some years."""


class ClockOffset:
    """Best estimate so far. `offset_s` added to a time of ours is a time of theirs."""

    def __init__(self) -> None:
        self.offset_s = 0.0
        self.exchanges = self.refused = self.steps = 0
        self._error_s, self._at_s = math.inf, 0.0

    def error_s(self, now_s: float) -> float:
        """Largest possible error of `offset_s` now; infinite before the first exchange."""
        return self._error_s + DRIFT * max(now_s - self._at_s, 0.0)

    def add(self, sent_s: float, received_s: float, answered_s: float, back_s: float) -> bool:
        """One exchange: sent and back by our clock, received and answered by theirs. False when the four
        can't be times of one exchange (out of order, negative or endless trip, not finite)."""
        trip_s = (back_s - sent_s) - (answered_s - received_s)
        drift_s = DRIFT * (back_s - sent_s) + ROUNDING_S  # while the exchange lasts
        in_order = sent_s <= back_s and received_s <= answered_s
        if not (in_order and -drift_s <= trip_s <= MAX_TRIP_S and math.isfinite(received_s)):
            self.refused += 1
            return False
        self.exchanges += 1
        offset_s = ((received_s - sent_s) + (answered_s - back_s)) / 2
        error_s = max(trip_s, 0.0) / 2 + drift_s
        known_s = self.error_s(back_s)
        # Two statements that can't both be true: their clock is another one now (it was started anew).
        stepped = abs(offset_s - self.offset_s) > error_s + known_s
        if stepped:
            self.steps += 1
        if stepped or error_s <= known_s:
            self.offset_s, self._error_s, self._at_s = offset_s, error_s, back_s
        return True
