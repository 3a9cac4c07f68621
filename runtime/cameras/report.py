"""What the cameras of a run did, out of the headers of their slots: for the exit report and whoever looks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.errors import DeviceError
from runtime.frames import TIMES, CaptureState, FrameSlots
from runtime.run import Run


def report(run: Run) -> dict[str, dict[str, Any]]:
    """By camera: its state, pictures, counters and times (`runtime.frames`); cameras without slots left
    out. Of a camera on the bench, which only counts its pictures, the counters are left out."""
    found: dict[str, dict[str, Any]] = {}
    for name in run.config.cameras:
        try:
            slots = FrameSlots.open(run.frames_path(name))
        except DeviceError:
            continue
        found[name] = {"pictures": slots.pictures}
        counters = slots.counters()
        if counters["processes"]:
            times = {time: round(slots.time(time), 4) for time in TIMES}
            found[name] |= {"state": slots.state.name.lower(), **counters, **times}
    return found


def away(run: Run) -> str:
    """Which cameras give nothing now, and why, as their logs say; empty if all do."""
    found = []
    for name in run.config.cameras:
        try:
            lost = FrameSlots.open(run.frames_path(name)).state == CaptureState.LOST
        except DeviceError:
            continue
        if lost:
            log = Path(run.run_dir) / "logs" / f"camera-{name}.log"
            lines = log.read_text(errors="replace").strip().splitlines() if log.exists() else []
            why = lines[-1].removeprefix(f"camera {name}: ") if lines else "its process died"
            found.append(f"camera '{name}' gives nothing ({why})")
    return "; ".join(found)
