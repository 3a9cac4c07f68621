"""The causes that `benchmarks.faults` injects: how each is struck, and who must stop the arm then."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from benchmarks.fault_devices import STALE_S
from benchmarks.fault_rig import Rig
from runtime.board import LoopState, StopCheck
from runtime.run import RunPlan

NEVER_STRUCK: Mapping[str, Any] = {
    **{"hold_ms": None, "still_ms": None, "by": "the run's own end, before the injection"},
    **{"check": "not asked", "latched": True, "ok": False},
}
FRAME_AGE_S = 0.2
ACTION_AGE_S = 1.0


@dataclass(frozen=True)
class Cause:
    """A fault of a device, told by the sign. `expects`: who must stop the arm ("gate": latched; "hold": until
    the cause is gone; "watchdog"; "nobody"). `per_run`: injections that one run survives. `check`: what
    reading back must say then. `resumes`: whether a run that was only held must go on afterwards."""

    name: str
    expects: tuple[str, ...] = ("gate",)
    per_run: int = 1
    remark: str = ""
    settings: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    needs_clock: bool = False
    check: str = "verified"
    resumes: bool = True

    def impossible(self) -> str:
        """Why it can't be injected on this machine; empty if it can."""
        return ""

    def prepare(self, rig: Rig) -> RunPlan:
        return rig.plan()

    def tidy(self, rig: Rig) -> None:
        """After the run."""

    def cast(self, rig: Rig) -> float:
        """Let it happen; returns when it did (monotonic)."""
        rig.sign.put(self.name)
        rig.until(lambda: rig.sign.struck_s > 0.0)
        return rig.sign.struck_s

    def strike(self, rig: Rig) -> dict[str, Any]:
        """One injection, from the fault to standstill."""
        struck_s = self.cast(rig)
        if not struck_s:  # the device was never asked again: something else had ended the run
            return dict(NEVER_STRUCK)
        held_s, by = self._hold(rig)
        still_s = None
        if held_s:
            rig.until(lambda: rig.eye.still_since(held_s) is not None, 3.0)
            still_s = rig.eye.still_since(held_s)
        latched = by not in ("hold", "nothing stopped")
        if latched:
            rig.until(lambda: rig.board.stop_check != 0, 3.0)
        check = StopCheck(rig.board.stop_check).name.lower() if latched else "not latched"
        rig.sign.put("none")
        self.mend(rig)
        return {
            "hold_ms": round(1e3 * (held_s - struck_s), 2) if held_s else None,
            "still_ms": round(1e3 * max(0.0, still_s - held_s), 1) if still_s else None,
            "by": by,
            "check": check,
            "latched": latched,
            "ok": by in self.expects
            and check == self.check
            and (held_s == 0.0 or still_s is not None),
        }

    def mend(self, rig: Rig) -> None:
        """Undo what the sign doesn't."""

    def _hold(self, rig: Rig) -> tuple[float, str]:
        """When the arm was in hold (0: never) and who saw to it."""
        board = rig.board

        def over() -> bool:
            held = board.watchdog_held_at_s or board.held_at_s
            return bool(held) or board.loop_state == LoopState.HOLD or board.watchdog_tripped != 0

        if not rig.until(over):
            return 0.0, "nothing stopped"
        seen_s = time.monotonic()
        if board.loop_state == LoopState.HOLD and not board.watchdog_tripped_at_s:
            return seen_s, "hold"
        # The gate's word comes first where both had a part: the arm held from then on.
        rig.until(lambda: bool(board.held_at_s or board.watchdog_held_at_s), 1.0)
        if board.held_at_s:
            return board.held_at_s, "gate"
        return board.watchdog_held_at_s, "watchdog" if board.watchdog_held_at_s else "nobody"


class Killed(Cause):
    """The control process, struck from outside."""

    def cast(self, rig: Rig) -> float:
        struck_s = time.monotonic()
        os.kill(rig.board.control_pid, signal.SIGKILL)
        return struck_s


class Stopped(Cause):
    def cast(self, rig: Rig) -> float:
        struck_s = time.monotonic()
        os.kill(rig.board.control_pid, signal.SIGSTOP)
        return struck_s

    def mend(self, rig: Rig) -> None:
        os.kill(rig.board.control_pid, signal.SIGCONT)


class EmergencyStop(Cause):
    """No fault: a person asks."""

    def cast(self, rig: Rig) -> float:
        struck_s = time.monotonic()
        rig.board.estop_requested = 1
        return struck_s


class ClockStep(Cause):
    """An hour forth, and back again: nothing may happen."""

    def impossible(self) -> str:
        return "" if shutil.which("gcc") else "no gcc to build what steps a clock"

    def strike(self, rig: Rig) -> dict[str, Any]:
        board, clock = rig.board, rig.clock
        assert clock is not None
        disturbed = ""
        for seconds in (3600, -3600, 0):
            tick, missed = board.tick, board.missed_ticks
            clock.step(seconds)
            time.sleep(0.5)
            went, lost = board.tick - tick, board.missed_ticks - missed
            stopped = board.loop_state != LoopState.RUNNING or rig.control_ended
            if not disturbed and (stopped or went < 10 or lost > 2):
                how = "stopped" if stopped else f"{went} ticks, {lost} missed"
                disturbed = f"disturbed ({how}, at {seconds} s)"
        return {
            "hold_ms": None,
            "still_ms": None,
            "by": disturbed or "nothing stopped",
            "check": "not latched",
            "latched": bool(disturbed),
            "ok": not disturbed,
        }


@dataclass(frozen=True)
class DiskFull(Cause):
    """The recorder's disk is a small one in memory; the rest of it is filled at a stroke."""

    def impossible(self) -> str:
        return "" if os.geteuid() == 0 else "a small disk needs the right to mount one"

    def prepare(self, rig: Rig) -> RunPlan:
        disk = rig.folder / "disk"
        disk.mkdir(exist_ok=True)
        mount = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(disk)]
        subprocess.run(mount, check=True)
        rig.run_dir = disk / "robot"
        rig.run_dir.mkdir()
        return rig.plan(sink="dataset", output=str(disk / "data"), episodes=100)

    def cast(self, rig: Rig) -> float:
        # Unbuffered: what a buffer still held would fail once more when the file is closed.
        with (rig.folder / "disk" / "ballast").open("wb", buffering=0) as file:
            try:
                while file.write(b"\0" * 65536):
                    pass
            except OSError:
                struck_s = time.monotonic()
        return struck_s

    def _hold(self, rig: Rig) -> tuple[float, str]:
        """The recorder ends, and who looks after the processes (here as in `robot-run`) stops the run."""
        board = rig.board
        at_rest = (LoopState.HOLD, LoopState.DONE, LoopState.FAULT)

        def stopped() -> bool:
            return rig.robot.poll() is not None or bool(board.stop_requested)

        if not rig.until(stopped, 30.0):
            return 0.0, "nothing stopped"
        if not rig.until(lambda: board.loop_state in at_rest):
            return 0.0, "nobody"
        return time.monotonic(), "gate" if board.loop_state == LoopState.FAULT else "hold"

    def tidy(self, rig: Rig) -> None:
        subprocess.run(["umount", "-l", str(rig.folder / "disk")], check=False)


_HOLDS = ("hold",)
_HELD = "not latched"
_TRIPS = ("watchdog",)
_FRESH = (f"gate.max_frame_age_s={FRAME_AGE_S}", "gate.stale_fault_s=8")
CAUSES: tuple[Cause, ...] = (
    Cause("NaN action"),
    Cause("wrong arity"),
    Cause(
        "Inf in state",
        remark="it can't be read back while readings are no numbers, and that is said",
        check="unreadable",
    ),
    Cause(
        "stale action",
        _HOLDS,
        8,
        f"from the call that answers {STALE_S:g} s late; actions may be {ACTION_AGE_S:g} s old",
        (f"gate.max_action_age_s={ACTION_AGE_S}", "gate.stale_fault_s=8"),
        check=_HELD,
    ),
    Cause(
        "frozen camera",
        _HOLDS,
        20,
        f"pictures may be {1e3 * FRAME_AGE_S:g} ms old",
        _FRESH,
        check=_HELD,
    ),
    Cause("camera gone"),
    Cause("unforeseen error", remark="a driver raises what nobody declared"),
    Cause("arm lost to control", _TRIPS, 1, "50 ms of them are the gate's own attempt"),
    Cause(
        "arm bus gone",
        ("nobody",),
        1,
        "no software can: said so, the servos keep their target",
        check="unreadable",
    ),
    Cause(
        "inference hang",
        _HOLDS,
        8,
        "the chunk under way is executed to its end first",
        check=_HELD,
    ),
    Killed("control SIGKILL", _TRIPS),
    Stopped("control SIGSTOP", _TRIPS),
    Cause("GC pause", _TRIPS, 1, "", (), {"ENTRACTE_FAULT_BALLAST": "1"}),
    ClockStep(
        "clock step",
        ("nothing stopped",),
        50,
        "±1 h: nothing may happen",
        needs_clock=True,
        check=_HELD,
    ),
    DiskFull(
        "disk full",
        ("hold",),
        1,
        "from the last byte that fitted; noticed at the recorder's next write or episode",
        ("recording.min_free_mib=1", "episode.max_s=5"),
        check=_HELD,
        resumes=False,
    ),
    EmergencyStop("emergency stop"),
)
