"""The machine itself: clocks, power and heat, what the kernel grants a loop that must be on time.

Reads /proc and /sys (below `root`, so that a test can lay one out) and asks the kernel; changes nothing.
"""

from __future__ import annotations

import contextlib
import ctypes
import platform
import re
import resource
import shutil
import struct
import subprocess
import time
from pathlib import Path

from runtime.config import RobotConfig
from runtime.control.realtime import finding
from runtime.doctor.processes import answer
from runtime.findings import Line
from runtime.system.priority import Rank

GOOD_CLOCKS = ("tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page", "pvclock")
RESOLUTION_S = 1e-6
UNSYNCHRONISED = 0x0040  # STA_UNSYNC of <sys/timex.h>
MEMLOCK_BYTES = 512 << 20
HOT_C = 85.0
JITTERY_FROM_HZ = 100.0
LIMITS_FIX = (
    "put '@realtime - rtprio 80' and '@realtime - memlock unlimited' into /etc/security/limits.d"
)
_TOOL_S = 2.0
_CAP_IPC_LOCK, _CAP_SYS_NICE = 14, 23  # <linux/capability.h>


def clocks(_config: RobotConfig, root: Path = Path("/")) -> list[Line]:
    """The monotonic clock that everything is timed by, and the wall clock that dates files and releases."""
    steps: list[float] = []
    before_s = time.monotonic()
    for _ in range(2000):
        now_s = time.monotonic()
        if now_s > before_s:
            steps.append(now_s - before_s)
        before_s = now_s
    step_s = min(steps, default=1.0)
    source = _text(root / "sys/devices/system/clocksource/clocksource0/current_clocksource")
    return [
        Line.judged(
            "monotonic clock",
            step_s <= RESOLUTION_S,
            f"steps of {step_s * 1e9:.0f} ns",
            "boot with another clock source (clocksource=tsc)",
        ),
        Line.advised(
            "clock source",
            not source or source in GOOD_CLOCKS,
            source or "not known here",
            "a slow source costs every tick: boot with clocksource=tsc, or find out why the kernel left it",
        ),
        _wall_clock(),
    ]


def _wall_clock() -> Line:
    """Whether a time service disciplines the wall clock: adjtimex(2) with nothing to change."""
    room = ctypes.create_string_buffer(512)  # struct timex, and more
    try:
        code = ctypes.CDLL(None, use_errno=True).adjtimex(room)
    except (OSError, AttributeError):
        return Line("wall clock", "ok", "this system does not say whether it is synchronised")
    _modes, _offset, _freq, _max_us, guess_us, status = struct.unpack_from("@Illlli", room)
    good = code >= 0 and not status & UNSYNCHRONISED
    return Line.advised(
        "wall clock",
        good,
        f"synchronised, within about {guess_us} us" if good else "not synchronised",
        "sudo timedatectl set-ntp true (releases expire by the wall clock; the loop does not use it)",
    )


def power(_config: RobotConfig, root: Path = Path("/")) -> list[Line]:
    """Power mode and frequencies, and whether the machine has been throttled since it was booted."""
    lines = [_nvpmodel()] if (root / "etc/nv_tegra_release").exists() else []
    return [*lines, _governor(root), _throttled(root), _heat(root)]


def _nvpmodel() -> Line:
    fix = "sudo nvpmodel -m <number of MAXN>, then sudo jetson_clocks"
    tool = shutil.which("nvpmodel") or "/usr/sbin/nvpmodel"
    try:
        done = answer([tool, "-q"], limit_s=_TOOL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Line("power mode", "warn", f"nvpmodel does not answer ({error})", fix)
    mode = re.search(r"Power Mode:\s*(\S+)", done.stdout.decode(errors="replace"))
    name = mode[1] if mode else "not said by nvpmodel"
    return Line.advised("power mode", name.upper().startswith("MAXN"), name, fix)


def _governor(root: Path) -> Line:
    folder = root / "sys/devices/system/cpu"
    governors = {_text(path) for path in folder.glob("cpu[0-9]*/cpufreq/scaling_governor")}
    pinned = [
        _text(path) == _text(path.with_name("scaling_max_freq"))
        for path in folder.glob("cpu[0-9]*/cpufreq/scaling_min_freq")
    ]
    if not governors:
        return Line("cpu frequency", "ok", "not scaled by this system")
    held = bool(pinned) and all(pinned)
    return Line.advised(
        "cpu frequency",
        held or governors == {"performance"},
        "held at its highest" if held else f"governor {', '.join(sorted(governors))}",
        "sudo cpupower frequency-set -g performance (on a Jetson: sudo jetson_clocks)",
    )


def _throttled(root: Path) -> Line:
    counts = {
        "too hot": "sys/devices/system/cpu/cpu[0-9]*/thermal_throttle/*_throttle_count",
        "over current": "sys/class/hwmon/hwmon*/oc*_event_cnt",
    }
    seen = {
        why: sum(_number(path) for path in root.glob(pattern)) for why, pattern in counts.items()
    }
    said = ", ".join(f"{int(n)} times {why}" for why, n in seen.items() if n)
    return Line.advised(
        "throttled since boot",
        not said,
        said or "never",
        "cool it or give it a stronger supply: throttled, it misses ticks",
    )


def _heat(root: Path) -> Line:
    zones = [
        (_number(path) / 1000, _text(path.with_name("type")))
        for path in root.glob("sys/class/thermal/thermal_zone*/temp")
    ]
    if not zones:
        return Line("temperature", "ok", "no sensor")
    hottest, where = max(zones)
    return Line.advised(
        "temperature", hottest < HOT_C, f"{hottest:.0f} C ({where})", "cool it before a long run"
    )


def realtime(config: RobotConfig, root: Path = Path("/")) -> list[Line]:
    """What lets the loop run before everything else. In `asap` pace nothing of it matters."""
    loop, real = config.loop, config.pace == "realtime"
    priority = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    locked = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0]
    mighty = _capable(root, _CAP_SYS_NICE)
    isolated = _text(root / "sys/devices/system/cpu/isolated")
    unlimited = locked == resource.RLIM_INFINITY or _capable(root, _CAP_IPC_LOCK)
    return [
        Line.advised(
            "real-time priority",
            not (real and loop.fifo) or mighty or not 0 <= priority < Rank.LOOP,
            "allowed to this process" if mighty else f"up to {priority} (ulimit -r)",
            LIMITS_FIX,
        ),
        Line.advised(
            "locked memory",
            not (real and loop.lock_memory) or unlimited or locked >= MEMLOCK_BYTES,
            "unlimited" if unlimited else f"{locked >> 20} MiB (ulimit -l)",
            LIMITS_FIX,
        ),
        _preemption(root, real and loop.rate_hz > JITTERY_FROM_HZ),
        *finding(loop),
        Line("isolated cores", "ok", isolated or "none (isolcpus= sets some apart for the loop)"),
    ]


def _preemption(root: Path, needed: bool) -> Line:
    version = _text(root / "proc/version") or platform.version()
    hard = _text(root / "sys/kernel/realtime") == "1" or "PREEMPT_RT" in version
    kind = re.search(r"PREEMPT\w*", version)
    return Line.advised(
        "kernel",
        hard or not needed,
        "PREEMPT_RT" if hard else f"{kind[0] if kind else 'not preemptible'}, not PREEMPT_RT",
        f"above {JITTERY_FROM_HZ:g} Hz a PREEMPT_RT kernel keeps the deadlines; `robot-bench loop` measures",
    )


def _capable(root: Path, capability: int) -> bool:
    held = re.search(r"^CapEff:\s*([0-9a-f]+)", _text(root / "proc/self/status"), re.MULTILINE)
    return bool(held and int(held[1], 16) >> capability & 1)


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text().strip()
    return ""


def _number(path: Path) -> float:
    with contextlib.suppress(ValueError):
        return float(_text(path) or 0)
    return 0.0
