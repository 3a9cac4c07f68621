"""What a configuration's cameras cost: their capture processes alone, without a loop that looks at them."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from contracts.errors import EntracteError
from runtime.cameras import captured
from runtime.cameras.from_slots import announced
from runtime.config import RobotConfig
from runtime.frames import FrameSlots
from runtime.processes.supervisor import make_run
from runtime.run import Run, RunPlan

_MORE_S = 5.0
COLUMNS = (
    ("pictures_hz", "pictures/s"),
    ("processor_ms", "processor ms a picture"),
    ("core_percent", "% of a core"),
    ("rss_mb", "memory MB"),
    ("latency_mean_ms", "latency ms"),
    ("latency_max_ms", "largest"),
    ("dropped", "dropped"),
    ("late", "late"),
    ("frozen", "frozen"),
)


def measure(config: RobotConfig, seconds: float) -> dict[str, dict[str, float]]:
    """By camera, from its second picture on: rates, processor time (all threads of its process, the driver's
    too), resident memory, latency from capture to shared memory, counters. Raises `EntracteError`."""
    names = captured(config)
    if not names:
        raise EntracteError("no camera of this configuration has a process of its own")
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(config, RunPlan(sink="none"), Path(folder))
        processes: dict[str, subprocess.Popen[bytes]] = {}
        try:
            for name in names:
                processes[name] = _start(run, name)
            for name in names:
                _wait(run, name, processes[name])
            return _watch(run, processes, seconds)
        finally:
            for process in processes.values():
                process.terminate()
            for process in processes.values():
                process.wait(10)
            for path in Path(run.shm_dir).iterdir():
                path.unlink()
            Path(run.shm_dir).rmdir()


def table(found: dict[str, dict[str, float]]) -> str:
    """Markdown."""
    lines = ["| camera | " + " | ".join(title for _, title in COLUMNS) + " |"]
    lines.append("|---|" + "---|" * len(COLUMNS))
    for name, row in found.items():
        cells = " | ".join(f"{row[key]:.4g}" for key, _ in COLUMNS)
        lines.append(f"| {name} | {cells} |")
    return "\n".join(lines)


def _start(run: Run, name: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "runtime.cameras.capture"]
    with (Path(run.run_dir) / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--run-dir", run.run_dir, "--camera", name], stdout=log, stderr=log
        )


def _wait(run: Run, name: str, process: subprocess.Popen[bytes]) -> None:
    give_up_s = time.monotonic() + run.config.cameras[name].start_timeout_s + _MORE_S
    while announced(run.camera_path(name)) is None:
        if process.poll() is not None or time.monotonic() > give_up_s:
            said = (Path(run.run_dir) / f"{name}.log").read_text().strip().splitlines()
            raise EntracteError(said[-1] if said else f"camera '{name}' gave no picture")
        time.sleep(0.02)


def _watch(
    run: Run, processes: dict[str, subprocess.Popen[bytes]], seconds: float
) -> dict[str, dict[str, float]]:
    slots = {name: FrameSlots.open(run.frames_path(name)) for name in processes}
    before = {name: _state(processes[name], slots[name]) for name in processes}
    time.sleep(seconds)
    found: dict[str, dict[str, float]] = {}
    for name, process in processes.items():
        after = _state(process, slots[name])
        spent = {key: after[key] - before[name][key] for key in after}
        pictures = max(1.0, spent["pictures"])
        found[name] = {
            "pictures_hz": spent["pictures"] / spent["at_s"],
            "processor_ms": 1e3 * spent["processor_s"] / pictures,
            "core_percent": 100 * spent["processor_s"] / spent["at_s"],
            "rss_mb": psutil.Process(process.pid).memory_info().rss / 1e6,
            "latency_mean_ms": 1e3 * slots[name].time("latency_mean_s"),
            "latency_max_ms": 1e3 * slots[name].time("latency_max_s"),
            **{key: spent[key] for key in ("dropped", "late", "frozen")},
        }
    return found


def _state(process: subprocess.Popen[bytes], slots: FrameSlots) -> dict[str, Any]:
    times = psutil.Process(process.pid).cpu_times()
    return {
        "at_s": time.monotonic(),
        "pictures": slots.pictures,
        "processor_s": times.user + times.system,
        **slots.counters(),
    }
