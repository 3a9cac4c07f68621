"""A loop that meets absolute deadlines and copies two pictures a tick: what this machine can do at best.

Run beside the thing that is measured, in a process of its own and at the control loop's own priority, so
that both see the same machine. `python -m benchmarks.bare RATE_HZ SECONDS [raw]` prints one JSON line.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from runtime.control import pacing
from runtime.control.clock import MonotonicClock
from runtime.system.priority import run_first

LATE_S = 0.002
COPIED_BYTES = 2 * 640 * 480 * 5
"""Colour and depth of two cameras. A machine that gives memory back to its host stalls who touches many
pages, and hardly one that only sleeps."""


@dataclass
class Ticks:
    """Seconds: lateness of every tick and how long its copy took; from when to when ticks were late, and
    copies slow."""

    missed: int = 0
    lateness_s: list[float] = field(default_factory=list)
    copy_s: list[float] = field(default_factory=list)
    starts_s: list[float] = field(default_factory=list)
    late: list[tuple[float, float]] = field(default_factory=list)
    slow: list[tuple[float, float]] = field(default_factory=list)


def run(rate_hz: float, seconds: float) -> Ticks:
    clock = MonotonicClock()
    gc.collect()
    gc.freeze()
    pace = pacing.start(rate_hz, clock.now_s())
    ticks = Ticks()
    source, target = np.ones(COPIED_BYTES, np.uint8), np.ones(COPIED_BYTES, np.uint8)
    end_s = time.monotonic() + seconds
    while clock.now_s() < end_s:
        clock.wait_until(pace.deadline_s)
        now_s = clock.now_s()
        pace, late_s = pacing.begin_tick(pace, now_s)
        ticks.lateness_s.append(late_s)
        ticks.starts_s.append(now_s)
        if late_s > LATE_S:
            ticks.late.append((now_s - late_s, now_s))
        target[...] = source
        done_s = clock.now_s()
        ticks.copy_s.append(done_s - now_s)
        if done_s - now_s > LATE_S:
            ticks.slow.append((now_s, done_s))
    ticks.missed = pace.missed
    return ticks


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
    ticks = run(float(sys.argv[1]), float(sys.argv[2]))
    found = quantiles(ticks.lateness_s, ticks.missed)
    found |= {"priority": priority, "late": ticks.late, "slow": ticks.slow}
    found["copy_p50_ms"] = 1e3 * pacing.percentile(sorted(ticks.copy_s), 0.5)
    found["copy_max_ms"] = 1e3 * max(ticks.copy_s)
    if sys.argv[3:] == ["raw"]:
        found |= {"lateness_s": ticks.lateness_s, "starts_s": ticks.starts_s}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
