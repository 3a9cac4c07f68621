"""Which replies of an SO-101's servos are believed. Owns what each of them said last; no bus, no clock.

Feetech's sum of 8 bits passes about one in 256 replies that were garbled on the way. Taken for where a joint
stands, one of them is no wrong number on a page: a hold would send the joint there at full speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from runtime.arms.sts import STEPS, Reading

STILL_STEPS = 12
"""About a degree: what a servo without power may change by while nobody moves it (gears settle)."""
SLOW_STEPS_S = 60
FASTEST_STEPS_S = 3400.0
"""3070 without load at 12 V (Feetech's data sheet of the STS3215), and a tenth for what pushes it."""
BRAKING_STEPS_S2 = 25_400.0
"""What the servo's acceleration register allows at 254, as `so101_setup` sets it."""
JUMP_STEPS = 100
"""9 degrees: further than this from its last reading, no servo is believed at once, however long ago that
was. Holds come after a silence more often than not, and what garbles replies is what silenced them."""


@dataclass(frozen=True, slots=True)
class _Heard:
    reading: Reading
    asked_s: float
    fastest: float
    """Steps/s: a servo does not turn faster, by how fast it was before."""


class Replies:
    """`last`: by servo, the newest reading that was believed. `wrapped`: servos that were believed more than
    half a turn from where they had been, over the end of their turn; their positions before and after."""

    def __init__(self) -> None:
        self.last: dict[int, Reading] = {}
        self.wrapped: dict[int, tuple[int, int]] = {}
        self._heard: dict[int, _Heard] = {}
        self._doubted: dict[int, _Heard] = {}

    def believe(self, one: int, reading: Reading, asked_s: float, heard_s: float) -> bool:
        """Whether the servo can have come there since the last reading that was believed, or since the one
        that was doubted after it: two that agree are believed, and so is the first of all. Times of the
        monotonic clock in seconds, of the question and of the reply."""
        old = [known[one] for known in (self._heard, self._doubted) if one in known]
        now = _Heard(reading, asked_s, _fastest(old[0], heard_s) if old else FASTEST_STEPS_S)
        if old and not any(_reaches(known, reading, heard_s) for known in old):
            self._doubted[one] = now
            return False
        if old and abs(reading.position - old[0].reading.position) > STEPS // 2:
            self.wrapped[one] = old[0].reading.position, reading.position
        self._heard[one], self.last[one] = now, reading
        self._doubted.pop(one, None)
        return True

    def braking(self, one: int, velocity: float) -> float:
        """Steps that a servo of this velocity (steps/s) still turns while it brakes as hard as it can. What
        no servo can have is a broken reply: bounded by its greatest speed, and by how fast it was before."""
        most = self._heard[one].fastest if one in self._heard else FASTEST_STEPS_S
        bounded = min(max(velocity, -most), most)
        return bounded * abs(bounded) / (2.0 * BRAKING_STEPS_S2)

    def clear(self) -> None:
        self.last.clear()
        self.wrapped.clear()
        self._heard.clear()
        self._doubted.clear()


def _fastest(before: _Heard, heard_s: float) -> float:
    since_s = max(heard_s - before.asked_s, 0.0)
    speed = abs(before.reading.velocity) + SLOW_STEPS_S + BRAKING_STEPS_S2 * since_s
    return min(speed, FASTEST_STEPS_S)


def _reaches(before: _Heard, reading: Reading, heard_s: float) -> bool:
    since_s = max(heard_s - before.asked_s, 0.0)
    most = min(JUMP_STEPS, STILL_STEPS + FASTEST_STEPS_S * since_s)
    return abs(reading.position - before.reading.position) < most
