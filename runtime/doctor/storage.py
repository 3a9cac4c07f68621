"""Where a run writes: room and speed of the disk, and of the memory that its processes share."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from runtime.config import RobotConfig
from runtime.findings import Line, Status
from runtime.run import Run, RunPlan

PLENTY_BYTES = 10 << 30
TRIED_BYTES = 16 << 20
SLOW_BYTES_S = 20e6
MEMORY = Path("/dev/shm")


def storage(config: RobotConfig, folder: Path | None = None, memory: Path = MEMORY) -> list[Line]:
    """Free space and write speed of `folder` (by default where the command is run)."""
    folder = folder or Path.cwd()
    free = shutil.disk_usage(folder).free
    least = config.recording.min_free_mib << 20
    fix = f"free some space: recording stops below {least >> 20} MiB (recording.min_free_mib)"
    status: Status = "fail" if free < least else "warn" if free < PLENTY_BYTES else "ok"
    found = f"{free / 1e9:.1f} GB in {folder}"
    room = Line("free disk", status, found, fix if status != "ok" else "")
    speed = [_speed(folder)] if free > TRIED_BYTES + least else []
    return [room, *speed, _shared(config, memory)]


def _speed(folder: Path) -> Line:
    """Write and sync a file of 16 MiB, gone afterwards whatever happens."""
    block = os.urandom(1 << 20)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            began_s = time.monotonic()
            for _ in range(TRIED_BYTES >> 20):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            rate = TRIED_BYTES / (time.monotonic() - began_s)
    except OSError as error:
        return Line(
            "disk speed", "fail", f"{folder}: {error.strerror}", "give a folder to write to"
        )
    return Line.advised(
        "disk speed",
        rate >= SLOW_BYTES_S,
        f"{rate / 1e6:.0f} MB/s written and synced",
        "record to an NVMe disk: depth of two cameras alone is about 6 MB/s",
    )


def _shared(config: RobotConfig, memory: Path) -> Line:
    if not memory.is_dir():
        return Line("shared memory", "warn", f"no {memory}: a slow disk stands in", "mount a tmpfs")
    run = Run(config, RunPlan(), run_dir="", shm_dir="", session_id="")
    needed = run.ring_bytes()
    free = shutil.disk_usage(memory).free
    return Line.judged(
        "shared memory",
        free > needed,
        f"{free >> 20} MiB free in {memory}, {needed >> 20} MiB needed",
        "enlarge it (docker: --shm-size), or lower recording.ring_s",
    )
