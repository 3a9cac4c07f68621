"""A real-time robot on the bench whose camera is a software RealSense in a capture process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from robots import config, policy_package

from runtime.frames import FrameSlots
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import Run, RunPlan

CAMERA = {"kind": "rehearsal", "width": 128, "height": 96, "rate_hz": 30}
OVERRIDES = [
    "pace=realtime",
    "loop.rate_hz=30",
    "loop.watchdog_timeout_s=2",
    "loop.lease_s=2",
    "gate.stale_fault_s=20",
    "episode.max_s=60",
]


def make(folder: Path, camera: dict[str, Any] | None = None, *more: str) -> Run:
    cameras = json.dumps({"front": CAMERA | (camera or {})})
    package = policy_package(folder / "policy").folder
    return make_run(
        config(*OVERRIDES, f"cameras={cameras}", f"policy.package={package}", *more),
        RunPlan(purpose="evaluate", episodes=1, sink="none"),
        folder,
    )


class Rehearsed(Supervisor):
    """A supervisor that also says what the camera is to do."""

    def tell(self, word: str) -> None:
        (Path(self.run.run_dir) / "rehearsal-front").write_text(word)

    @property
    def slots(self) -> FrameSlots:
        return FrameSlots.open(self.run.frames_path("front"))

    def count(self, counter: str) -> int:
        return self.slots.counters()[counter]
