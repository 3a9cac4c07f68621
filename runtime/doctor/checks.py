"""Which checks `robot-run doctor` makes, all at once, each within its own time.

What opens a device or loads its libraries runs in a child process that is killed when its time is up; the
rest in threads that are left behind then. A check that fails to answer is a finding like any other.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from runtime.config import RobotConfig
from runtime.doctor import devices, keys, machine, network, storage
from runtime.doctor.processes import answer
from runtime.findings import Line


@dataclass(frozen=True)
class Check:
    """One subject. `look` answers with its lines and may take `limit_s`; `fix` is said when it doesn't."""

    what: str
    look: Callable[[], list[Line]]
    limit_s: float
    fix: str = ""


def diagnose(config: RobotConfig, run_dir: Path | None = None) -> list[Line]:
    """Every line, in a fixed order, within the longest of the checks' times."""
    return run(checks_of(config, run_dir))


def checks_of(config: RobotConfig, run_dir: Path | None = None) -> list[Check]:
    """What is to be looked at for this configuration; `run_dir` has the link's keys."""
    replug = "unplug it and plug it in again; look at dmesg"
    cameras = [
        _device(config, f"camera {name}", (devices.CAMERA, name), 15.0, replug)
        for name in config.cameras
    ]
    return [
        *cameras,
        _device(config, "arm", (devices.ARM,), 10.0, "switch the arm off and on; look at the bus"),
        _device(config, "packages", (devices.PACKAGES,), 30.0, "is the disk they are on there?"),
        _device(config, "engines", (devices.ENGINES,), 30.0, "nvidia-smi; reboot if it hangs too"),
        Check("clocks", lambda: machine.clocks(config), 3.0),
        Check("power", lambda: machine.power(config), 5.0),
        Check("real time", lambda: machine.realtime(config), 3.0),
        Check("network", lambda: network.network(config), 8.0, "is the name server reachable?"),
        Check("keys", lambda: keys.keys(config, run_dir), 8.0, "is the disk they are on there?"),
        Check("disk", lambda: storage.storage(config), 15.0, "the disk hangs: look at dmesg"),
    ]


def run(checks: Sequence[Check]) -> list[Line]:
    """Make all checks side by side; returns within the longest `limit_s` (and a moment)."""
    found: list[list[Line] | None] = [None] * len(checks)

    def make(number: int) -> None:
        check = checks[number]
        try:
            found[number] = check.look()
        except (
            Exception
        ) as error:  # a check of a broken machine may fail in any way: that is a finding
            found[number] = [
                Line(check.what, "fail", f"{type(error).__name__}: {error}", check.fix)
            ]

    began_s = time.monotonic()
    threads = [threading.Thread(target=make, args=(n,), daemon=True) for n in range(len(checks))]
    for thread in threads:
        thread.start()
    lines: list[Line] = []
    for number, check in enumerate(checks):
        threads[number].join(max(0.0, began_s + check.limit_s - time.monotonic()))
        lines += found[number] or [
            Line(check.what, "fail", f"no answer within {check.limit_s:g} s", check.fix)
        ]
    return lines


def _device(
    config: RobotConfig, what: str, arguments: tuple[str, ...], limit_s: float, fix: str
) -> Check:
    command = [sys.executable, "-m", "runtime.doctor.devices", *arguments]
    asked = msgspec.json.encode(config)
    return Check(what, lambda: in_child(what, command, asked, limit_s - 1.0, fix), limit_s, fix)


def in_child(
    what: str, command: Sequence[str], asked: bytes, limit_s: float, fix: str
) -> list[Line]:
    """The lines that a process prints as JSON in its last line; killed after `limit_s`."""
    try:
        done = answer(command, asked, limit_s=limit_s)
    except subprocess.TimeoutExpired:
        return [Line(what, "fail", f"no answer within {limit_s:g} s", fix)]
    if done.returncode < 0:
        return [Line(what, "fail", f"its driver crashed (signal {-done.returncode})", fix)]
    said = done.stdout.decode(errors="replace").strip().splitlines()
    try:
        return msgspec.json.decode(said[-1] if said else b"", type=list[Line])
    except msgspec.MsgspecError:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return [Line(what, "fail", words[-1] if words else "no answer", fix)]
