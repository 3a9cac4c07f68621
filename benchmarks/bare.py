"""A loop that does nothing but meet absolute deadlines: what this machine can do at best right now.

Run beside the thing that is measured, in a process of its own and at the control loop's own priority, so
that both see the same machine. `python -m benchmarks.bare RATE_HZ SECONDS` prints one JSON line.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

from runtime import pacing
from runtime.clock import MonotonicClock
from runtime.priority import run_first

LATE_S = 0.002


def run(rate_hz: float, seconds: float) -> tuple[list[float], int, list[tuple[float, float]]]:
    """(lateness of every tick in seconds, periods missed, from when to when ticks were late)."""
    clock = MonotonicClock()
    gc.collect()
    gc.freeze()
    pace = pacing.start(rate_hz, clock.now_s())
    lateness_s: list[float] = []
    late: list[tuple[float, float]] = []
    end_s = time.monotonic() + seconds
    while clock.now_s() < end_s:
        clock.wait_until(pace.deadline_s)
        now_s = clock.now_s()
        pace, late_s = pacing.begin_tick(pace, now_s)
        lateness_s.append(late_s)
        if late_s > LATE_S:
            late.append((now_s - late_s, now_s))
    return lateness_s, pace.missed, late


def quantiles(lateness_s: list[float], missed: int) -> dict[str, Any]:
    """p50, p99, p99.9 and max in milliseconds; missed ticks in percent of those due."""
    ordered = sorted(lateness_s)
    out: dict[str, Any] = {
        name: 1e3 * pacing.percentile(ordered, share)
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p99.9_ms", 0.999))
    }
    out["max_ms"] = 1e3 * ordered[-1]
    out["ticks"] = len(ordered)
    out["missed"] = missed
    out["missed_percent"] = 100.0 * missed / (len(ordered) + missed)
    return out


def main() -> None:
    priority = run_first()
    lateness_s, missed, late = run(float(sys.argv[1]), float(sys.argv[2]))
    print(json.dumps({**quantiles(lateness_s, missed), "priority": priority, "late": late}))


if __name__ == "__main__":
    main()
