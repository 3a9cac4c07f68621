"""Before a start: do cameras still see their calibration's board where it was? Else nothing moves.

Owns the question and the refusal. The answer is that of `robot-calibrate verify --drift`, as a process: what
a board looks like is calibration's to know, and its devices are closed again before the robot's own open.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from contracts.errors import CheckFailed, ConfigError
from contracts.files import atomic
from runtime.arms import is_powered_by_opening
from runtime.config import RobotConfig
from runtime.processes.program import Program

PATIENCE_S = 30.0
"""For the devices of a check that is interrupted to be closed."""
LOOKING_S = 180.0
"""To import, to wait for an arm that stands and to look; opening the devices has its own limits."""
_ASKS = "robot-calibrate: "


def require_in_place(config: RobotConfig, folder: Path, say: Callable[[str], None]) -> None:
    """Raise `CheckFailed` where a camera of `calibration.drift_cameras` is not where its calibration has it,
    or does not see its board; `ConfigError` where that can't be told. `folder`: the run's."""
    section = config.calibration
    if not section.drift_cameras:
        return
    if is_powered_by_opening(config):
        raise ConfigError(
            "calibration.drift_cameras looks before the arm is touched",
            expected="an arm that keeps its power as it is when it is connected",
            found=f"arm.kind: {config.arm.kind}",
            remedy="calibration.drift_cameras=[], and look with robot-calibrate verify --drift while the arm "
            "is in its rest pose",
        )
    names = ", ".join(section.drift_cameras)
    say(f"looking for the calibration's board: has {names} moved?")
    folder = folder / "drift"
    asked = folder / "robot.yaml"
    atomic.make_directory(folder)
    atomic.write_bytes(asked, msgspec.yaml.encode(config))  # as resolved, overrides and all
    command = [sys.executable, "-m", "calibration.app", "verify", "--drift", "--json"]
    command += ["--config", str(asked)]
    command += ["--limit-px", str(section.drift_px), "--limit-mm", str(section.drift_mm)]
    command += [word for name in section.drift_cameras for word in ("--camera", name)]
    command += ["--chain", section.chain] if section.chain else []
    program = Program.start("verify", command, folder)
    limit_s = _limit_s(config)
    try:
        program.process.wait(limit_s)
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            "can't tell whether a camera has moved",
            expected=f"an answer within {limit_s:g} s",
            found=(program.tail() or ["none"])[-1],
            remedy=f"see {program.log}, or start without this check: calibration.drift_cameras=[]",
        ) from error
    finally:
        program.stop(signal.SIGINT, PATIENCE_S)  # Ctrl-C: it holds devices open
    _judge(program, config, say)


def _limit_s(config: RobotConfig) -> float:
    opening_s = [config.arm.start_timeout_s]
    opening_s += [one.start_timeout_s + one.warmup_s for one in config.cameras.values()]
    return LOOKING_S + max(opening_s)


def _judge(program: Program, config: RobotConfig, say: Callable[[str], None]) -> None:
    found: dict[str, Any] = program.result()
    reasons = found.get("reasons", [])
    if found.get("level") == "fail":
        section = config.calibration
        raise CheckFailed(
            "a camera is not where its calibration has it",
            expected=f"its board within {section.drift_px:g} px and {section.drift_mm:g} mm of where it was",
            found="; ".join(
                f"{one['camera']}: {one['why']}" for one in reasons if one["level"] == "fail"
            ),
            remedy="calibration.drift_cameras=[] starts without this check",
        )
    if "level" not in found:
        said = (program.tail() or [f"exit code {program.code}"])[-1]
        raise ConfigError(
            "can't tell whether a camera has moved",
            found=said.removeprefix(_ASKS),
            remedy="mend that, or start without this check: calibration.drift_cameras=[]",
        )
    for one in reasons:
        say(f"{one['level']}: {one['camera']}: {one['why']}")
