"""`robot-run selftest`: shows on the bench that the gate and the watchdog do what they are for.

Asks the gate's own core for what must never pass; then starts the real processes in real time with the
scripted expert, trips what stops the arm, and measures fault → hold and hold → standstill apart.
"""

from __future__ import annotations

import math
import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from contracts.errors import ConfigError
from contracts.messages import GateBit
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, LoopState, StopCheck, TripReason
from runtime.config import RobotConfig
from runtime.findings import Line
from runtime.gate.gate import arm_at, judge, limits_of
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan

HOLD_LIMIT_S = 0.100
_START_S = 20.0


@dataclass(frozen=True)
class Trip:
    """One way of stopping the arm. `strike` lets it happen, `mend` undoes it so that the run can be ended."""

    what: str
    strike: Callable[[Supervisor], None]
    mend: Callable[[Supervisor], None] = lambda robot: None
    answers: bool = True
    """Whether the arm can still be told to hold."""


def _signal(child: str, number: signal.Signals) -> Callable[[Supervisor], None]:
    def send(robot: Supervisor) -> None:
        process = robot.child(child).process
        if process is not None:
            os.kill(process.pid, number)

    return send


def _ask_to_stop(robot: Supervisor) -> None:
    robot.board.estop_requested = 1


def _ask_a_deaf_loop(robot: Supervisor) -> None:
    _signal("control", signal.SIGSTOP)(robot)
    _ask_to_stop(robot)


_GO_ON = _signal("control", signal.SIGCONT)
HUNG = Trip("hung loop", _signal("control", signal.SIGSTOP), _GO_ON)
KILLED = Trip("killed loop", _signal("control", signal.SIGKILL))
ALL = (
    HUNG,
    KILLED,
    Trip("emergency stop", _ask_to_stop),
    Trip("emergency stop, deaf loop", _ask_a_deaf_loop, _GO_ON),
    Trip(
        "arm that does not answer",
        _signal("bench", signal.SIGSTOP),
        _signal("bench", signal.SIGCONT),
        answers=False,
    ),
)


def run_selftest(config: RobotConfig, *, trip_watchdog: bool = False) -> list[Line]:
    """Gate first (pure), then a hung and a killed loop; with `trip_watchdog` every stop there is. Raises
    `EntracteError` if nothing starts."""
    if (
        not config.bench.enabled or config.arm.kind != "sim"
    ):  # a real port may be set on top of the bench
        raise ConfigError(
            "selftest moves the arm",
            expected="the simulated bench and its own arm (arm.kind sim)",
            found=f"arm.kind {config.arm.kind}, bench {'on' if config.bench.enabled else 'off'}",
            remedy="run it with hw_configs/sim.yaml",
        )
    realtime = msgspec.structs.replace(
        config,
        pace="realtime",
        loop=msgspec.structs.replace(
            config.loop, rate_hz=30.0, watchdog_timeout_s=0.07, lease_s=0.07
        ),
        episode=msgspec.structs.replace(config.episode, max_s=60.0),
    )
    trips = ALL if trip_watchdog else (HUNG, KILLED)
    return [*_gate_lines(realtime), *(_trip_line(realtime, trip) for trip in trips)]


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
        lines.append(Line.judged(f"gate: {what}", ok, found))
    return lines


def _trip_line(config: RobotConfig, trip: Trip) -> Line:
    name = f"stop: {trip.what}"
    with tempfile.TemporaryDirectory() as folder:
        plan = RunPlan(purpose="record", driver="expert", style="random", episodes=1, sink="none")
        with Supervisor(make_run(config, plan, Path(folder))) as robot:
            board = robot.board
            running = _until(lambda: _is_running(board) or robot.child("control").code is not None)
            if not running or not _is_running(board):
                return Line.judged(name, False, "the bench robot did not start")
            struck_s = time.monotonic()
            trip.strike(robot)
            try:
                stopped = _until(lambda: bool(board.watchdog_tripped or board.held_at_s))
                verified = stopped and _until(lambda: board.stop_check != StopCheck.PENDING)
                return _judged(name, trip, board, struck_s) if verified else _never(name, stopped)
            finally:
                trip.mend(robot)


def _never(name: str, stopped: bool) -> Line:
    return Line.judged(
        name, False, "nobody read back from the arm" if stopped else "nothing tripped"
    )


def _judged(name: str, trip: Trip, board: Board, struck_s: float) -> Line:
    """fault → hold and hold → standstill, or that the arm did not acknowledge where it could not."""
    held_s = board.watchdog_held_at_s or board.held_at_s
    check = StopCheck(board.stop_check)
    tripped = TripReason(board.watchdog_tripped)
    who = f"watchdog: {tripped.name.lower().replace('_', ' ')}" if tripped else "gate"
    if not trip.answers:
        said = not held_s and check is StopCheck.UNREADABLE
        return Line.judged(name, said, f"{who}; said that the arm does not acknowledge hold")
    found = f"in hold after {1e3 * (held_s - struck_s):.1f} ms ({who})"
    if check is StopCheck.VERIFIED:
        found += f", standing {1e3 * max(0.0, board.still_at_s - held_s):.0f} ms later"
    else:
        found += f", and whether it stands: {check.name.lower()}"
    good = held_s - struck_s < HOLD_LIMIT_S and check is StopCheck.VERIFIED
    return Line.judged(name, good, found)


def _is_running(board: Board) -> bool:
    return board.loop_state == LoopState.RUNNING and board.step > 15


def _until(condition: Callable[[], bool]) -> bool:
    give_up_s = time.monotonic() + _START_S
    while not condition():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.002)
    return True
