"""The end of a run: it comes, its cause is told, and what went wrong is never a success."""

from __future__ import annotations

import errno
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from robots import REALTIME, config, until

from benchmarks.gate import HOME, RecordingArm
from runtime.arms import ArmState
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, LoopState, Owner, StopCheck
from runtime.config import GateSection
from runtime.control.ending import leave_reason
from runtime.control.robot import Robot
from runtime.gate.gate import Gate, limits_of
from runtime.operator.status import last_words
from runtime.processes import supervisor
from runtime.processes.supervisor import EXIT_PROCESS_DIED, Supervisor, make_run
from runtime.run import RunPlan
from runtime.standstill import Finding, Standstill
from runtime.system.interrupts import when_asked_to_end

JOINTS = SO101_ACTION.names
ROOT = Path(supervisor.__file__).resolve().parents[2]
FOR_EVER = [sys.executable, "-c", "import time; time.sleep(600)"]


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board.create(tmp_path / "board") as made:
        yield made


@pytest.fixture
def gate(board: Board) -> Gate:
    """Armed and in command of an arm that stands; its readings are all of the same moment."""
    limits = limits_of(SO101_ACTION, GateSection(), 30.0)
    arm = RecordingArm(limits)
    arm.start(HOME)
    gate = Gate(arm, limits, board, Owner.CONTROL, 60.0)
    gate.prepare(arm.read())
    gate.take_arm()
    return gate


def test_ctrl_c_while_the_memory_is_put_away_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the supervisor's until everything is undone."""
    robot = Supervisor(make_run(config(), RunPlan(), tmp_path))
    close, before = Board.close, signal.getsignal(signal.SIGINT)

    def interrupted(board: Board) -> None:
        close(board)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Board, "close", interrupted)
    robot._handlers = when_asked_to_end(robot._interrupt)
    robot.close()
    assert robot.interrupted and not Path(robot.run.shm_dir).exists()
    assert signal.getsignal(signal.SIGINT) is before


# -- the gate and what is read back


def test_an_arm_that_was_taken_just_before_the_last_hold_is_a_fault(
    gate: Gate, board: Board
) -> None:
    assert Gate(gate.arm, gate.limits, board, Owner.WATCHDOG, 1.0).seize(time.monotonic())
    gate.hold("the run is over")
    assert gate.state.mode is LoopState.FAULT
    assert "the watchdog has taken the arm" in gate.state.reason


def test_an_arm_whose_readings_get_no_newer_keeps_no_run_from_ending(
    gate: Gate, board: Board
) -> None:
    """As of a driver that hangs in a call, while its process answers with what it last read."""
    gate.fault("readings were old for 2.0 s")
    gate.hold("over")
    robot: Any = SimpleNamespace(
        run=SimpleNamespace(config=SimpleNamespace(gate=GateSection(standstill_s=0.05))),
        action=SO101_ACTION,
        clock=SimpleNamespace(lockstep=False, now_s=time.monotonic),
        senses=SimpleNamespace(joints=gate.arm.read, cameras={}),
        box=SimpleNamespace(saw=lambda *seen: None),
        gate=gate,
        board=board,
        wake=lambda: time.sleep(0.005),
        post=lambda lateness_s: None,
    )
    found: list[Finding] = []
    job = threading.Thread(target=lambda: found.append(Robot.verify_stop(robot)), daemon=True)
    job.start()
    job.join(20.0)
    assert found, "it waits for readings that don't come"
    assert found[0].check is StopCheck.UNREADABLE
    assert "could not verify that the arm stands: it gave no new readings" in found[0].note
    assert board.stop_check == StopCheck.UNREADABLE


def test_a_reading_that_is_no_number_is_no_standstill() -> None:
    check = Standstill(JOINTS, 0.0, 1.0)
    found = None
    for tick in range(120):  # the first joint can't be read, the second one moves
        positions = np.array([math.nan, 40.0 * tick / 100.0, 0.0, 0.0, 0.0, 0.0], np.float32)
        found = found or check.add(ArmState(positions, tick / 100.0))
    assert found is not None and found.check is StopCheck.FAILED
    assert f"the reading of {JOINTS[0]} is no number" in found.note


def test_an_arm_seen_twice_within_a_moment_is_not_seen_to_stand() -> None:
    """Of a reading that took 150 ms nobody knows when it was measured: here at its end."""
    check, speed = Standstill(JOINTS, 0.0, 1.0), 10.0

    def reading(asked_s: float, took_s: float) -> ArmState:
        moved = np.full(len(JOINTS), speed * (asked_s + took_s), np.float32)
        return ArmState(moved, asked_s, doubt_s=took_s)

    found = check.add(reading(0.0, 0.15))
    for tick in range(16, 130):
        found = found or check.add(reading(tick / 100.0, 0.002))
    assert found is not None and found.check is StopCheck.FAILED and "moves at" in found.note


@pytest.mark.parametrize("doubt_s", [math.nan, -1.0, -math.inf, math.inf])
def test_nor_is_one_whose_driver_can_not_say_when_it_read(doubt_s: float) -> None:
    check, found = Standstill(JOINTS, 0.0, 1.0), None
    for tick in range(130):
        positions = np.full(len(JOINTS), 0.6 * tick, np.float32)
        found = found or check.add(ArmState(positions, tick / 100.0, doubt_s=doubt_s))
    assert found is not None and found.check is StopCheck.FAILED


def test_an_arm_whose_readings_take_long_is_seen_to_stand_a_little_later() -> None:
    check, still = Standstill(JOINTS, 0.0, 1.0), np.zeros(len(JOINTS), np.float32)
    seen = [check.add(ArmState(still, tick * 0.05, doubt_s=0.05)) for tick in range(8)]
    first = next(number for number, found in enumerate(seen) if found is not None)
    assert first == 4 and seen[first].check is StopCheck.VERIFIED  # type: ignore[union-attr]


def test_one_unreadable_reading_is_passed_over() -> None:
    check, still = Standstill(JOINTS, 0.0, 1.0), np.zeros(6, np.float32)
    found = check.add(ArmState(still + np.float32(math.nan), 0.0))
    for tick in range(1, 30):
        found = found or check.add(ArmState(still, tick / 100.0))
    assert found is not None and found.check is StopCheck.VERIFIED


# -- a disk that takes nothing


def test_the_reason_is_left_in_memory_where_the_disk_can_only_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run: Any = SimpleNamespace(run_dir=str(tmp_path / "disk"), shm_dir=str(tmp_path / "memory"))
    (tmp_path / "memory").mkdir()
    write_text, unlink = Path.write_text, Path.unlink

    def refused(path: Path, *given: Any, **named: Any) -> Any:
        if path.parent.name == "disk":
            raise OSError(errno.EROFS, "Read-only file system")
        do = write_text if given else unlink
        return do(path, *given, **named)

    monkeypatch.setattr(Path, "write_text", refused)
    monkeypatch.setattr(Path, "unlink", refused)
    leave_reason(run, 3, "the elbow does not answer")
    assert last_words(run) == "the elbow does not answer"


def test_a_log_whose_disk_is_full_ends_nobody() -> None:
    code = """
import sys, traceback
from runtime.system.log import log_without_errors
log_without_errors()
try:
    raise KeyError("x")
except KeyError:
    traceback.print_exc()
print("said to nobody", file=sys.stderr, flush=True)
sys.stderr.flush()
sys.exit(sys.stderr.fileno() + 5)
"""
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", code], stderr=full, cwd=ROOT, check=False)
    assert done.returncode == 7


def test_a_watchdog_whose_log_is_full_holds_the_arm_and_reads_it_back(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "watchdog.log").symlink_to("/dev/full")
    plan = RunPlan(purpose="record", driver="expert", style="random", episodes=1, sink="none")
    run = make_run(config(*REALTIME, "episode.max_s=30"), plan, tmp_path)
    with Supervisor(run) as robot:
        board = robot.board
        until(lambda: board.loop_state == LoopState.RUNNING and board.step > 20, 60.0)
        os.kill(board.control_pid, signal.SIGKILL)
        until(lambda: board.stop_check != StopCheck.PENDING, 60.0)
        assert board.watchdog_held_at_s > 0.0
        assert board.stop_check == StopCheck.VERIFIED
        until(lambda: board.blackbox_dumps == 1, 60.0)
        assert robot.child("watchdog").code is None


# -- the supervisor


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor whose control does nothing and ends by no word."""
    run = make_run(config(*REALTIME), RunPlan(sink="none"), tmp_path / "run")
    made = Supervisor(run, signals=False)
    control = made.child("control")
    control.process = subprocess.Popen(FOR_EVER)
    yield made
    control.process.kill()
    control.process.wait()
    made.close()


@pytest.mark.parametrize("state", [LoopState.FAULT, LoopState.ESTOP, LoopState.DONE])
def test_control_that_hangs_once_its_loop_is_over_does_not_keep_the_run_and_its_cause(
    robot: Supervisor, state: LoopState, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_AFTER_END_S", 0.2)
    robot.board.control_ready = 1
    assert robot.poll() is None
    if state is not LoopState.DONE:
        leave_reason(robot.run, 3, "the elbow does not answer; the arm stands")
    robot.board.loop_state = state
    outcomes = []
    until(lambda: bool(outcomes.append(robot.poll()) or outcomes[-1]))
    ended = outcomes[-1]
    assert ended is not None and ended.code == EXIT_PROCESS_DIED
    assert "after its loop and was killed" in ended.what
    if state is not LoopState.DONE:
        assert ended.what.startswith("the elbow does not answer; the arm stands; control did not")


def test_a_reason_that_was_written_by_half_does_not_break_the_outcome(robot: Supervisor) -> None:
    process = robot.child("control").process
    assert process is not None
    (Path(robot.run.run_dir) / supervisor.EXIT_FILE).write_text('{"code": 3, "wha')
    process.kill()
    until(lambda: process.poll() is not None)
    ended = robot.poll()
    assert ended is not None and ended.code == EXIT_PROCESS_DIED
    assert "control was killed by signal 9" in ended.what


@pytest.mark.parametrize("taken", [False, True])
def test_a_death_at_the_start_kills_control_only_while_it_has_not_touched_the_arm(
    robot: Supervisor, taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    control, bench = robot.child("control").process, robot.child("bench")
    assert control is not None
    bench.process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(2)"])
    until(lambda: bench.code is not None)
    robot.board.lease_epoch = int(taken)  # it may be powering the motors now
    killed: list[bool] = []
    with monkeypatch.context() as patched:
        patched.setattr(control, "kill", lambda: killed.append(True))
        robot._look_after()
    assert robot.board.stop_requested == 1
    assert bool(killed) is not taken, "with the arm it has to end in order, and in hold"


def test_who_asked_for_nohup_keeps_it(robot: Supervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(robot, "_signals", True)
    monkeypatch.setattr(robot, "_start", lambda child: None)
    for ignored in (True, False):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)
        try:
            robot.__enter__()
            assert (signal.getsignal(signal.SIGHUP) == signal.SIG_IGN) is ignored
        finally:
            for number, handler in robot._handlers.items():
                signal.signal(number, handler)
            robot._handlers = {}
            signal.signal(signal.SIGHUP, before)


def test_a_terminal_that_goes_away_ends_the_run_in_order(tmp_path: Path) -> None:
    """As when ssh drops: nothing is left in memory, and the arm is not left to its driver."""
    data, folder = tmp_path / "data", tmp_path / "run"
    command = [
        *(sys.executable, "-m", "runtime.app", "record", "--expert", "--task", "open-drawer"),
        *("--episodes", "500", "--output", str(data), "--run-dir", str(folder)),
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        until((data / "meta" / "info.json").exists, 120.0)
        process.send_signal(signal.SIGHUP)
        process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130
    run = json.loads((folder / "config.json").read_text())
    assert not Path(run["shm_dir"]).exists()
    report = json.loads((folder / "run_report.json").read_text())
    assert set(report["exit_codes"].values()) == {0}
