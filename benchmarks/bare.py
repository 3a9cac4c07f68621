"""A loop that does nothing but meet absolute deadlines: what this machine can do at best right now.

Run beside the thing that is measured, in a process of its own, so that both see the same machine.
`python -m benchmarks.bare RATE_HZ SECONDS` prints one JSON line.
"""

from __future__ import annotations

import gc
import json
import sys
import time

from runtime import pacing
from runtime.clock import MonotonicClock


def run(rate_hz: float, seconds: float) -> tuple[list[float], int]:
    """(lateness of every tick in seconds, periods missed)."""
    clock = MonotonicClock()
    gc.collect()
    gc.freeze()
    pace = pacing.start(rate_hz, clock.now_s())
    lateness_s: list[float] = []
    end_s = time.monotonic() + seconds
    while clock.now_s() < end_s:
        clock.wait_until(pace.deadline_s)
        pace, late_s = pacing.begin_tick(pace, clock.now_s())
        lateness_s.append(late_s)
    return lateness_s, pace.missed


def quantiles(lateness_s: list[float], missed: int) -> dict[str, float]:
    """p50, p99, p99.9 and max in milliseconds; missed ticks in percent of those due."""
    ordered = sorted(lateness_s)
    out = {
        name: 1e3 * pacing.percentile(ordered, share)
        for name, share in (("p50_ms", 0.5), ("p99_ms", 0.99), ("p99.9_ms", 0.999))
    }
    out["max_ms"] = 1e3 * ordered[-1]
    out["ticks"] = len(ordered)
    out["missed"] = missed
    out["missed_percent"] = 100.0 * missed / (len(ordered) + missed)
    return out


def main() -> None:
    lateness_s, missed = run(float(sys.argv[1]), float(sys.argv[2]))
    print(json.dumps(quantiles(lateness_s, missed)))


if __name__ == "__main__":
    main()
