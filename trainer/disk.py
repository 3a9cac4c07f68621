"""Whether there is room for another episode, and the one sentence about it. Owns the budget, writes nothing.

When there is none the receiver asks for nothing more: robots keep theirs. What was acknowledged stays.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from trainer.config import StoreSection
from trainer.metrics import Metrics

LOOK_S = 1.0


class DiskBudget:
    """Of the store's file system. `used` gives the bytes of all logs; asked only where `max_mib` is set."""

    def __init__(
        self,
        folder: Path,
        section: StoreSection,
        used: Callable[[], int],
        metrics: Metrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder, self._section, self._used = folder, section, used
        self._metrics, self._clock = metrics, clock
        self._looked_s = -LOOK_S
        self._free = self._taken = 0
        self.reason = ""
        """Why nothing is taken in; "" while there is room."""

    def room(self, nbytes: int) -> str:
        """Why `nbytes` more can't be taken in, "" if they can. Looks at the disk once a second."""
        now_s = self._clock()
        if now_s - self._looked_s >= LOOK_S:
            self._looked_s = now_s
            disk = os.statvfs(self._folder)
            self._free = disk.f_bavail * disk.f_frsize
            self._taken = self._used() if self._section.max_mib else 0
        least, most = self._section.min_free_mib << 20, self._section.max_mib << 20
        reason = ""
        if self._free - nbytes < least:
            reason = f"the trainer's disk has {self._free >> 20} MiB left (store.min_free_mib {least >> 20})"
        elif most and self._taken + nbytes > most:
            reason = f"the trainer's store has {self._taken >> 20} MiB (store.max_mib {most >> 20})"
        if bool(reason) != bool(self.reason):
            self._say(reason)
        self.reason = reason
        return reason

    def failed(self, problem: str) -> None:
        """A write failed: look again before anything else is taken in."""
        self._looked_s = -LOOK_S
        if not self.reason:
            self._say(problem)
            self.reason = problem

    def _say(self, reason: str) -> None:
        self._metrics.add("disk", full=bool(reason), reason=reason)
        told = f"{reason}: episodes wait on the robots" if reason else "there is room again"
        with contextlib.suppress(OSError):  # what it is printed to may lie on the same disk
            print(f"robot-trainer: {told}", file=sys.stderr, flush=True)
