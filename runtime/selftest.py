"""`robot-run selftest`: shows on the bench that the gate and the watchdog do what they are for.

Starts the real processes in real time with the scripted expert, stops the loop, and measures; then asks
the gate's own core for what must never pass.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from contracts.errors import ConfigError
from contracts.messages import GateBit
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, LoopState, TripReason
from runtime.config import RobotConfig, RunPlan
from runtime.gate import arm_at, judge, limits_of
from runtime.preflight import Line
from runtime.supervisor import Supervisor, make_run

HOLD_LIMIT_S = 0.100
_START_S = 20.0


def run_selftest(config: RobotConfig) -> list[Line]:
    """Gate first (pure), then a hung and a killed loop. Raises `EntracteError` if nothing starts."""
    if not config.bench.enabled:
        raise ConfigError("selftest moves the arm", remedy="run it with hw_configs/sim.yaml")
    realtime = msgspec.structs.replace(
        config,
        pace="realtime",
        loop=msgspec.structs.replace(
            config.loop, rate_hz=30.0, watchdog_timeout_s=0.07, lease_s=0.07
        ),
        episode=msgspec.structs.replace(config.episode, max_s=60.0),
    )
    return [
        *_gate_lines(realtime),
        _watchdog_line(realtime, signal.SIGSTOP, "hung loop"),
        _watchdog_line(realtime, signal.SIGKILL, "killed loop"),
    ]


def _gate_lines(config: RobotConfig) -> list[Line]:
    limits = limits_of(SO101_ACTION, config.gate, config.loop.rate_hz)
    home = (0.0, -58.0, 60.0, 62.0, 0.0, 60.0)
    state = arm_at(limits, home)
    lines = []
    for what, request, bit in (
        ("NaN", (math.nan, *home[1:]), GateBit.NON_FINITE),
        ("five joints", home[1:], GateBit.ARITY),
        ("a joint far away", (500.0, *home[1:]), GateBit.POSITION | GateBit.VELOCITY),
    ):
        _, verdict = judge(limits, state, request)
        moved = max(abs(a - b) for a, b in zip(verdict.command, home, strict=True))
        ok = bool(verdict.bits & bit) and moved <= limits.velocity[0] * limits.period_s + 1e-6
        found = verdict.fault or f"limited to {moved:.2f} deg in this tick"
        lines.append(Line(f"gate: {what}", ok, found))
    return lines


def _watchdog_line(config: RobotConfig, number: signal.Signals, what: str) -> Line:
    with tempfile.TemporaryDirectory() as folder:
        plan = RunPlan(purpose="record", driver="expert", style="random", episodes=1, sink="none")
        with Supervisor(make_run(config, plan, Path(folder))) as robot:
            board = robot.board
            running = _until(lambda: _is_running(board) or robot.child("control").code is not None)
            if not running or not _is_running(board):
                return Line(f"watchdog: {what}", False, "the bench robot did not start")
            struck_s = time.monotonic()
            os.kill(board.control_pid, number)
            if not _until(lambda: board.watchdog_tripped != 0):
                return Line(f"watchdog: {what}", False, "it did not trip")
            hold_s = board.watchdog_held_at_s - struck_s
            reason = TripReason(board.watchdog_tripped).name.lower().replace("_", " ")
            if number is signal.SIGSTOP:
                os.kill(board.control_pid, signal.SIGCONT)
            found = f"arm in hold after {hold_s * 1e3:.1f} ms ({reason})"
            return Line(f"watchdog: {what}", hold_s < HOLD_LIMIT_S, found)


def _is_running(board: Board) -> bool:
    return board.loop_state == LoopState.RUNNING and board.step > 15


def _until(condition: Callable[[], bool]) -> bool:
    give_up_s = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.002)
    return True
