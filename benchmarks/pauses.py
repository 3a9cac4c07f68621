"""Pauses of the machine: what a program that runs ahead of every other one, on one processor, sees of them.

`python -m benchmarks.pauses CPU` wakes up every 5 ms until SIGTERM, then prints one JSON line: [from_s, to_s]
on the monotonic clock for every time at which it was woken late. `Probes` runs one for each processor.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time

from contracts.files.stop_event import StopEvent
from runtime.system.priority import Rank, run_first

PERIOD_S = 0.005
LATE_S = 0.002

Span = tuple[float, float]


def watch(stop: threading.Event) -> list[Span]:
    """(when it was due, when it woke) of every late wake."""
    late: list[Span] = []
    due_s = time.monotonic() + PERIOD_S
    while not stop.is_set():
        time.sleep(max(0.0, due_s - time.monotonic()))
        now_s = time.monotonic()
        if now_s - due_s > LATE_S:
            late.append((round(due_s, 6), round(now_s, 6)))
        due_s = max(due_s + PERIOD_S, now_s)
    return late


def covered_s(spans: list[Span], from_s: float, to_s: float) -> float:
    """How much of from_s..to_s the spans cover together."""
    total_s, reached_s = 0.0, from_s
    for a, b in sorted(spans):
        end_s = min(b, to_s)
        total_s += max(0.0, end_s - max(a, reached_s))
        reached_s = max(reached_s, end_s)
    return total_s


def stolen_s() -> float:
    """Processor time that the host gave to others since boot, all processors together; 0 if not told."""
    with contextlib.suppress(OSError, IndexError, ValueError), open("/proc/stat") as file:
        return int(file.readline().split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


class Probes:
    """`with Probes() as probes: ...; probes.stop()`."""

    def __init__(self) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "benchmarks.pauses", str(cpu)], stdout=subprocess.PIPE
            )
            for cpu in sorted(os.sched_getaffinity(0))
        ]

    def __enter__(self) -> Probes:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def stop(self) -> list[Span]:
        """Late wakes on any processor; the probes are gone then."""
        for process in self._processes:
            process.send_signal(signal.SIGTERM)
        outputs = [process.communicate(timeout=10.0)[0] for process in self._processes]
        return [(a, b) for output in outputs for a, b in json.loads(output)]


def main() -> None:
    stop = StopEvent()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    os.sched_setaffinity(0, {int(sys.argv[1])})
    gc.freeze()
    run_first(Rank.PROBE)
    print(json.dumps(watch(stop)))


if __name__ == "__main__":
    main()
