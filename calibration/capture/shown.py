"""What people are shown of a capture while it goes on, as plain data. No words of its own, no HTTP.

One thread captures and writes, others read: every field is replaced whole and never changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.capture.progress import LIMITS, Progress, lacks, sides
from calibration.capture.taking import Capture
from calibration.intrinsics import counts
from calibration.lenses import Lens
from calibration.rigid import Array
from runtime.cameras import Frame

KEPT_LINES = 60
WANTED = {
    "stands": LIMITS.stands[0],
    "turn_deg": LIMITS.turn_deg[0],
    "interval_mm": LIMITS.interval_mm[0],
    "interval_deg": LIMITS.interval_deg[0],
}


@dataclass
class Shown:
    """`frames`: the newest picture of each camera. `status`: what is waited for; `why`: for what no stand was
    taken since the last one. `next`: the next stand in
    words; `targets`: by camera, the board's outline there. `progress`: of `progress_of`. `ended`: nothing
    changes any more."""

    frames: Mapping[str, Frame | None] = field(default_factory=dict)
    status: str = "opening the devices"
    why: str = ""
    next: str = ""
    targets: Mapping[str, list[list[float]]] = field(default_factory=dict)
    rejected: Mapping[str, int] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    lines: tuple[str, ...] = ()
    ended: bool = False

    def say(self, text: str) -> None:
        """One more line, the last few are kept."""
        self.lines = (*self.lines, text)[-KEPT_LINES:]

    def look(self) -> dict[str, Any]:
        """Everything but the pictures, fit for JSON."""
        return {
            "status": self.status,
            "why": self.why,
            "next": self.next,
            "targets": self.targets,
            "rejected": self.rejected,
            "progress": self.progress,
            "lines": self.lines,
            "ended": self.ended,
        }


def progress_of(capture: Capture, state: Progress) -> dict[str, Any]:
    """How far it is, in numbers. Of each camera: `cells` in which corners were seen (rows of 0 and 1), the
    last stand's `corners` as shares of the picture, the `sides` it was seen from."""
    cameras = {}
    for name, one in state.cameras.items():
        seen, lens = capture.seen(name), capture.cameras[name].lens
        pixels = np.concatenate([s.corners.pixels for s in seen]) if seen else np.zeros((0, 2))
        cameras[name] = {
            "stands": one.stands,
            "covered": one.covered,
            "cells": (counts(pixels, lens) > 0).astype(int).tolist(),
            "corners": shares(seen[-1].corners.pixels, lens) if seen else [],
            "sides": sides(seen).round(3).tolist(),
            "tilts_deg": one.tilts_deg,
            "turns_deg": one.turns_deg.tolist(),
            "interval_mm": _finite(one.interval_mm),
            "interval_deg": _finite(one.interval_deg),
        }
    return {
        "stands": len(capture.samples),
        "why": state.why,
        "missing": [] if capture.lens_only else lacks(state),
        "cameras": cameras,
    }


def _finite(value: float | None) -> float | None:
    """JSON has no infinity: a browser refuses all of it for one."""
    return value if value is not None and np.isfinite(value) else None


def shares(pixels: Array, lens: Lens) -> list[list[float]]:
    """Pixels [K,2] as shares of the picture's width and height."""
    found: list[list[float]] = (pixels / [lens.width, lens.height]).round(4).tolist()
    return found
