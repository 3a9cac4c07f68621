"""Pacing of a fixed-rate loop: pure functions over a small state. Owns neither clock nor loop.

Deadlines are absolute (start + n x period), so errors do not add up. An overrun skips whole periods and
is counted; it is never caught up in a burst of short ticks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BEAT_S = 0.008
"""A loop that waits shows this often that it could go on. Without it the watchdog's patience would pass in
the wait itself: of 70 ms, a 30 Hz loop would have 37 left for a pause of the machine."""


@dataclass(frozen=True, slots=True)
class Pace:
    """`tick`: ticks begun; `deadline_s`: when the next one is due; `missed`: periods skipped so far."""

    period_s: float
    deadline_s: float
    tick: int = 0
    missed: int = 0


def start(rate_hz: float, now_s: float) -> Pace:
    """The first tick is due one period from now."""
    period_s = 1.0 / rate_hz
    return Pace(period_s, now_s + period_s)


def begin_tick(pace: Pace, now_s: float) -> tuple[Pace, float]:
    """The state after waking at `now_s`, and how late that was. The next deadline lies in the future:
    whole periods that are gone already are skipped and counted as missed."""
    lateness_s = max(0.0, now_s - pace.deadline_s)
    skipped = int(lateness_s / pace.period_s)
    following_s = pace.deadline_s + (skipped + 1) * pace.period_s
    return Pace(pace.period_s, following_s, pace.tick + 1, pace.missed + skipped), lateness_s


def next_wake(pace: Pace, now_s: float) -> float:
    """Until when to wait before giving a sign of life: the deadline, or a beat from now."""
    return min(pace.deadline_s, now_s + BEAT_S)


def percentile(ordered: list[float], share: float) -> float:
    """The smallest value that at least `share` of the ordered values do not exceed."""
    index = max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))
    return ordered[index]


def summary(values_s: list[float], name: str) -> dict[str, float]:
    """p50, p99, p99.9 and max as "<name>_p50_s" and so on; empty for no values."""
    if not values_s:
        return {}
    # NumPy lets other threads go on while it sorts. A list's own sort does not: the loop would stand for it.
    ordered: list[float] = np.sort(values_s).tolist()
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    found = {f"{name}_{key}_s": percentile(ordered, share) for key, share in shares.items()}
    return {**found, f"{name}_max_s": ordered[-1]}
