"""What `robot-run doctor` says of the arm: calibration, port, servos, temperatures, supply, time on the bus.

Powers and moves nothing and writes no register.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from contracts import registry
from contracts.errors import EntracteError
from runtime.arms import degrees_of, so101_setup, sts
from runtime.arms.feetech_bus import FeetechBus
from runtime.arms.lerobot import LeRobotArm
from runtime.arms.so101 import So101
from runtime.arms.so101_calibration import IDS, JOINTS
from runtime.config import ArmSection, RobotConfig
from runtime.findings import Line, tried
from runtime.gate.kinematics import points_for

WARM_C = 55
LOW_V = 0.5
"""So near the limit below which a servo gives up: a supply that sags under load."""
_READINGS = 30
_LATENCY_TIMER_MS = 2


def examine(section: ArmSection) -> list[Line]:
    """Every finding about the configured arm, one line each with its fix."""
    made = registry.load("arms", section.kind)
    if made is So101:
        return _so101(section)
    if made is LeRobotArm:
        return [tried("arm LeRobot", lambda: _lerobot(section))]
    return [Line("arm", "ok", section.kind)]


def _driver(make: Callable[..., Any], section: ArmSection) -> Any:
    # The one thing of a run that a driver looks at is the loop's rate.
    run = SimpleNamespace(config=RobotConfig(arm=section))
    try:
        return make(run, **section.options)
    except TypeError as error:
        raise EntracteError("arm.options", found=str(error)) from error


def _lerobot(section: ArmSection) -> str:
    arm = _driver(LeRobotArm, section)
    arm.close()
    joints = ", ".join(arm.spec().names)
    placed = points_for(arm.spec(), degrees_of(arm)) is not None
    where = "" if placed else "; its kinematics are not known: gate.workspace_* limits nothing"
    return f"{section.options['robot']['type']} with {joints} (not connected){where}"


def _so101(section: ArmSection) -> list[Line]:
    try:
        arm = _driver(So101, section)
    except EntracteError as error:
        return [Line("arm calibration", "fail", str(error))]
    lines = [Line("arm calibration", "ok", str(section.options["calibration"]))]
    port, baud = str(section.options["port"]), int(section.options.get("baud", sts.BAUD))
    lines += _latency_timer(port)
    try:
        bus = FeetechBus(port, baud, float(section.options.get("reply_s", 0.02)))
    except EntracteError as error:
        return [*lines, Line("arm port", "fail", str(error))]
    try:
        lines.append(Line("arm port", "ok", f"{port} at {baud} baud"))
        servos = tried("arm servos", lambda: _present(bus))
        lines.append(servos)
        if servos.ok:
            lines.append(tried("arm joint map", lambda: _matches(bus, arm)))
            lines += _values(bus, section)
    except EntracteError as error:
        lines.append(Line("arm bus", "fail", str(error)))
    finally:
        bus.close()
    return lines


def _present(bus: FeetechBus) -> str:
    so101_setup.check_servos(bus)
    return f"6 STS3215, firmware {so101_setup.firmware(bus, 1)}"


def _matches(bus: FeetechBus, arm: So101) -> str:
    so101_setup.check_calibration(bus, arm.calibration)
    return "offsets and ranges in the servos are the calibration's"


def _values(bus: FeetechBus, section: ArmSection) -> list[Line]:
    differing = so101_setup.differing_settings(bus)
    lines = [
        Line.advised(
            "arm settings",
            not differing,
            "as LeRobot sets them" if not differing else f"other gains on {', '.join(differing)}",
            "the next start sets them",
        )
    ]
    blocks: dict[int, tuple[bytes, int]] = {}
    times_s, lost = [], 0
    for _ in range(_READINGS):
        started_s = time.monotonic()
        found = bus.read_all(list(IDS.values()), sts.BLOCK_START, sts.BLOCK_SIZE)
        times_s.append(time.monotonic() - started_s)
        lost += len(IDS) - len(found)
        blocks |= found
    readings = {JOINTS[one - 1]: sts.parse_block(*block) for one, block in blocks.items()}
    most_c = int(section.options.get("max_temperature_c", 65))
    period_s = 1.0 / section.read_rate_hz
    middle_s = statistics.median(times_s)
    return [
        *lines,
        _temperatures({joint: r.temperature for joint, r in readings.items()}, most_c),
        _supply(bus, {joint: r.voltage / 10 for joint, r in readings.items()}),
        *_errors(readings),
        Line(
            "arm torque",
            "ok",
            "on: it holds its pose" if any(r.torque for r in readings.values()) else "off",
        ),
        Line.advised(
            "arm bus",
            lost == 0 and middle_s < period_s,
            f"{middle_s * 1e3:.1f} ms for all joints, {lost} of {_READINGS * len(IDS)} replies lost",
            "a shorter cable, another USB port without a hub, or a lower arm.read_rate_hz",
        ),
    ]


def _temperatures(found: Mapping[str, int], most_c: int) -> Line:
    joint, warmest = max(found.items(), key=lambda item: item[1])
    status = "fail" if warmest >= most_c else "warn" if warmest >= WARM_C else "ok"
    fix = f"let {joint} cool down; lighten its load" if status != "ok" else ""
    text = ", ".join(f"{name} {value}" for name, value in found.items())
    return Line("arm temperatures", status, f"{text} C (fault at {most_c})", fix)  # type: ignore[arg-type]


def _supply(bus: FeetechBus, found: Mapping[str, float]) -> Line:
    limit = max((bus.read(one, sts.MIN_VOLTAGE) or 0) for one in IDS.values()) / 10
    joint, lowest = min(found.items(), key=lambda item: item[1])
    return Line.advised(
        "arm supply",
        lowest > limit + LOW_V,
        f"{lowest:.1f} V at {joint}, servos give up below {limit:.1f} V",
        "a stronger supply, or a shorter cable to the arm",
    )


def _errors(readings: Mapping[str, sts.Reading]) -> list[Line]:
    lines = []
    for joint, reading in readings.items():
        if reading.errors:
            what, fix = sts.errors_of(reading.errors)
            lines.append(Line(f"arm {joint}", "fail", what, fix))
    return lines


def _latency_timer(port: str) -> list[Line]:
    """FTDI adapters keep replies back for 16 ms unless they are told not to."""
    path = Path("/sys/class/tty") / Path(port).resolve().name / "device/latency_timer"
    try:
        found = int(path.read_text())
    except (OSError, ValueError):
        return []
    return [
        Line.advised(
            "arm adapter",
            found <= _LATENCY_TIMER_MS,
            f"keeps replies for {found} ms",
            f"echo 1 | sudo tee {path}",
        )
    ]
