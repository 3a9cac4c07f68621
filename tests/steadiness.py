"""Tests of real time on a machine that may stand still: tried again when it did, and said so.

A virtual machine loses its processors to its host for tens or hundreds of milliseconds; a watchdog of 70 ms
then trips as it should, and the test that did not want it to says nothing about the code. Probes of highest
priority, one pinned to each processor, write down when they were not run. A test marked `realtime` that fails
while they were not is tried again, at most `ATTEMPTS` times, and then skipped with what they saw. A failure
while the machine ran is a failure at once; tests without the mark are never tried again.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol

ATTEMPTS = 3
STOOD_STILL_S = 0.025
"""Shorter than any limit that a test of real time holds the code to."""
NO_MORE_AFTER_S = 120.0
"""Of one test, attempts together: its own time limit counts them all."""
PROBE = """
import os, sys, time
os.sched_setaffinity(0, {int(sys.argv[1])})
try:
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(90))
except OSError:
    pass  # it then sees the load, too
out = os.open(sys.argv[2], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
parent, before_s = os.getppid(), time.monotonic()
while os.getppid() == parent:
    time.sleep(0.01)
    now_s = time.monotonic()
    if now_s - before_s > 0.02:
        os.write(out, f"{now_s:.3f} {now_s - before_s - 0.01:.4f}\\n".encode())
    before_s = now_s
"""


class Steadiness:
    """A pytest plugin."""

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="steadiness-"))
        self._log = self._folder / "pauses"
        self._log.touch()
        self._probes = [
            subprocess.Popen([sys.executable, "-S", "-c", PROBE, str(cpu), str(self._log)])
            for cpu in sorted(os.sched_getaffinity(0))
        ]

    def longest_since(self, since_s: float) -> float:
        """Seconds of the longest pause since that monotonic moment."""
        rows = (line.split() for line in self._log.read_text().splitlines())
        return max((float(gap) for at, gap in rows if float(at) >= since_s), default=0.0)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> object:
        if item.get_closest_marker("realtime") is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._tried(item, nextitem):
            item.ihook.pytest_runtest_logreport(report=report)
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    def _tried(self, item: pytest.Item, nextitem: pytest.Item | None) -> list[pytest.TestReport]:
        began_s, paused = time.monotonic(), []
        while True:
            started_s = time.monotonic()
            reports = runtestprotocol(item, log=False, nextitem=nextitem)
            pause_s = self.longest_since(started_s)
            if not any(report.failed for report in reports) or pause_s < STOOD_STILL_S:
                return reports
            paused.append(pause_s)
            if len(paused) == ATTEMPTS or time.monotonic() - began_s > NO_MORE_AFTER_S:
                return [self._skipped(item, report, paused) for report in reports]
            item._initrequest()  # type: ignore[attr-defined]

    def _skipped(
        self, item: pytest.Item, report: pytest.TestReport, paused: list[float]
    ) -> pytest.TestReport:
        if report.failed:
            seen = ", ".join(f"{1e3 * pause_s:.0f}" for pause_s in paused)
            why = f"the machine stood still ({seen} ms at most) each time that this failed"
            report.outcome = "skipped"
            report.longrepr = (str(item.path), (item.location[1] or 0) + 1, f"Skipped: {why}")
        return report

    def pytest_unconfigure(self) -> None:
        for probe in self._probes:
            probe.kill()
            probe.wait()
        shutil.rmtree(self._folder)
