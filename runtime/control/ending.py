"""How control's run ends: the arm braked and in hold, read back from, and one sentence why.

Owns the exit codes and where the sentence is left; not what led to it.
"""

from __future__ import annotations

import contextlib
import json
import sys
import traceback
from pathlib import Path

from contracts.errors import EntracteError
from runtime.board import LoopState
from runtime.control.robot import Robot
from runtime.run import EXIT_FILE, Run

EXIT_CANNOT_START, EXIT_FAULT, EXIT_ESTOP = 2, 3, 5


def words_of(error: Exception) -> str:
    """An error as a person reads it; of one that nobody declared also its kind, and where its trace is."""
    if isinstance(error, EntracteError):
        return str(error)
    what = " ".join([type(error).__name__, *str(error).split()])
    return f"{what}; see logs/control.log"


def leave_reason(run: Run, code: int, what: str) -> None:
    """Leave the reason where the supervisor finds it: in the run folder or, with its disk full, in memory."""
    for folder in (run.run_dir, run.shm_dir):
        path = Path(folder) / EXIT_FILE
        try:
            path.write_text(json.dumps({"code": code, "what": what}))
            break
        except OSError:
            with contextlib.suppress(OSError):  # a disk that can only be read
                path.unlink(missing_ok=True)
    print(f"control: {what}", file=sys.stderr, flush=True)


def say_stopped(robot: Robot, what: str) -> int:
    """After a latched stop: read back whether the arm stands, and say so. Returns the exit code."""
    found = robot.verify_stop()
    code = EXIT_ESTOP if robot.gate.state.mode is LoopState.ESTOP else EXIT_FAULT
    leave_reason(robot.run, code, f"{what}; {found.note}")
    return code


def stop_after(robot: Robot, error: Exception) -> int:
    """The arm braked and in hold after an error that no episode dealt with; returns the exit code."""
    gate = robot.gate
    what = (
        gate.state.reason if gate.faulted else words_of(error)
    )  # the first cause: others follow from it
    gate.fault(words_of(error))
    try:
        robot.come_to_rest("the run is over")
    except Exception:  # not along its path, then
        gate.hold("the run is over")
        traceback.print_exc()
    if not robot.board.control_ready:
        leave_reason(robot.run, EXIT_CANNOT_START, what)
        return EXIT_CANNOT_START
    return say_stopped(robot, what)
