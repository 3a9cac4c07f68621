"""What a figure was measured on: cores, load, and on a Jetson its power mode and clocks. Names no paths."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from runtime.engines import cuda, survey

GPU_CLOCKS = ("17000000.gpu", "17000000.ga10b", "gpu-gpc-0", "57000000.gpu")
"""Names of the GPU under /sys/class/devfreq on Orin (JetPack 5, 6) and Thor (JetPack 7)."""
ASK_S = 3.0


def machine() -> dict[str, Any]:
    """Everything that is the same for a whole run; on a Jetson "power_mode", "clocks_mhz", "tegrastats"."""
    device = cuda.find()
    found: dict[str, Any] = {
        "processor": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "gpu": device.device_name if device else "",
        "governor": _text(Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")),
    }
    if survey.TEGRA_RELEASE.exists():
        found["jetpack"] = survey.jetpack()
        found["power_mode"] = " ".join(_first_lines(["nvpmodel", "-q"], 2))
        found["clocks_mhz"] = clocks_mhz()
        found["tegrastats"] = " ".join(_first_lines(["tegrastats", "--interval", "200"], 1))
    return found


def in_words(found: dict[str, Any]) -> str:
    """`machine()` as a table's last sentence has it."""
    return ", ".join(f"{key} {value}" for key, value in found.items() if value != "")


def clocks_mhz(root: Path = Path("/sys")) -> dict[str, float]:
    """Present clocks: of every CPU core and of the GPU, as far as the kernel tells."""
    found = {}
    for path in sorted(root.glob("devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")):
        if text := _text(path):
            found[path.parts[-3]] = int(text) / 1e3  # kHz
    for name in GPU_CLOCKS:
        if text := _text(root / "class" / "devfreq" / name / "cur_freq"):
            found["gpu"] = int(text) / 1e6  # Hz
    return found


def resident_mb() -> tuple[float, float]:
    """(now, the most so far) of this process. The kernel's count for the program alone: `getrusage` would
    take over the parent's."""
    found = {"VmRSS": 0.0, "VmHWM": 0.0}
    for line in Path("/proc/self/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name in found:
            found[name] = int(value.split()[0]) / 1024
    return found["VmRSS"], found["VmHWM"]


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _first_lines(command: list[str], count: int) -> list[str]:
    """The first lines that a program prints, which is then stopped; empty where there is none."""
    try:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    except OSError:
        return []
    assert process.stdout is not None
    try:
        done, _ = process.communicate(timeout=ASK_S)
    except subprocess.TimeoutExpired:  # tegrastats goes on for ever
        process.terminate()
        done, _ = process.communicate(timeout=ASK_S)
    return done.decode(errors="replace").splitlines()[:count]
