"""Stops with the real processes: latched, verified by reading back, and a black box of each on disk."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from robots import REALTIME, config, until
from typer.testing import CliRunner

from runtime.app import app
from runtime.arms.sim import SimArm
from runtime.blackbox import box as blackbox
from runtime.board import LoopState, StopCheck, TripReason
from runtime.processes import supervisor
from runtime.processes.supervisor import Supervisor, make_run
from runtime.run import RunPlan

PLAN = RunPlan(purpose="record", driver="expert", style="random", episodes=3, sink="none")


@contextmanager
def moving(folder: Path, *settings: str) -> Iterator[Supervisor]:
    """An expert at work in real time."""
    run = make_run(config(*REALTIME, "episode.max_s=30", *settings), PLAN, folder)
    with Supervisor(run) as robot:
        board = robot.board
        until(lambda: board.loop_state == LoopState.RUNNING and board.step > 20)
        yield robot


def only_dump(folder: Path) -> blackbox.Dump:
    (path,) = (folder / "blackbox").glob("*.safetensors")
    return blackbox.read(path)


def test_an_emergency_stop_holds_at_once_is_verified_and_never_resumes(tmp_path: Path) -> None:
    with moving(tmp_path, "gate.jerk_time_s=0.05", "gate.soft_margin=4") as robot:
        board = robot.board
        board.estop_requested = 1
        outcome = robot.wait()
        assert board.held_at_s - board.stopped_at_s < 0.1
        assert board.still_at_s > 0
        assert board.stop_check == StopCheck.VERIFIED
        arm = SimArm(robot.run, "test")
        before = arm.read()
        time.sleep(0.3)
        after = arm.read()
        assert np.array_equal(before.targets, after.targets)
        assert np.abs(before.positions - after.positions).max() < 0.5
        arm.close()
    assert outcome.code == 5
    assert "emergency stop" in outcome.what
    assert "the arm stands" in outcome.what
    dump = only_dump(tmp_path)
    assert (dump.about["cause"], dump.about["stop_check"]) == ("estop", "verified")
    assert dump.column("mode")[-1] == LoopState.ESTOP


def test_a_kill_leaves_the_loops_last_seconds_and_what_the_arm_did_after_it(tmp_path: Path) -> None:
    with moving(tmp_path) as robot:
        board = robot.board
        until(lambda: board.step > 60)
        at_s = time.monotonic()
        os.kill(board.control_pid, signal.SIGKILL)
        until(lambda: board.blackbox_dumps == 1)
        assert board.stop_check == StopCheck.VERIFIED
        assert board.still_at_s - board.watchdog_held_at_s < 1.0
    dump = only_dump(tmp_path)
    assert dump.about["cause"] == "control died"
    assert np.all(np.diff(dump.rows[:, 0]) == 1)
    time_s = dump.column("tick_s")
    assert 0 <= at_s - time_s[-1] < 0.1
    assert len(dump.after) > 5
    # Commands, states and sections of every tick, at full rate.
    command, state = dump.joint_columns("command"), dump.joint_columns("state")
    assert np.isfinite(command[-50:]).all()
    assert np.abs(command[-50:] - state[-50:]).max() < 30
    assert np.median(np.diff(time_s[-50:])) == pytest.approx(1 / 30, abs=0.005)
    assert (dump.column("section_s.gate")[-40:] > 0).all()

    runner = CliRunner()
    drawn = find_spec("matplotlib") is not None  # a robot has none
    plot = ["--plot", str(tmp_path / "box.png")] if drawn else []
    shown = runner.invoke(app, ["blackbox", str(tmp_path), *plot])
    assert shown.exit_code == 0
    assert "cause: control died" in shown.output
    assert "read back: verified" in shown.output
    assert not drawn or (tmp_path / "box.png").stat().st_size > 10_000
    told = json.loads(runner.invoke(app, ["blackbox", str(tmp_path), "--json"]).output)
    assert told["columns"]["command.elbow_flex.pos"][-1] == command[-1][2]


def test_an_arm_whose_bus_hangs_is_said_not_to_have_been_stopped(tmp_path: Path) -> None:
    with moving(tmp_path, "gate.standstill_s=0.3") as robot:
        board = robot.board
        bench = robot.child("bench").process
        assert bench is not None
        os.kill(bench.pid, signal.SIGSTOP)
        try:
            until(lambda: board.watchdog_tripped != 0)
            assert board.watchdog_tripped == TripReason.TICK_STALLED
            assert board.watchdog_held_at_s == 0.0
            assert board.stop_check == StopCheck.UNREADABLE
        finally:
            os.kill(bench.pid, signal.SIGCONT)
        until(lambda: board.watchdog_held_at_s > 0.0)  # it goes on trying
        until(lambda: board.blackbox_dumps == 2)
        robot.wait()
    assert "does NOT acknowledge" in (tmp_path / "logs/watchdog.log").read_text()


def test_the_end_says_that_the_arm_never_acknowledged_hold(tmp_path: Path) -> None:
    with moving(tmp_path, "gate.standstill_s=0.3") as robot:
        bench = robot.child("bench").process
        assert bench is not None
        os.kill(bench.pid, signal.SIGSTOP)
        os.kill(robot.board.control_pid, signal.SIGKILL)
        try:
            outcome = robot.wait()
        finally:
            os.kill(bench.pid, signal.SIGCONT)
    assert outcome.code == 4
    assert "does NOT acknowledge hold (control died)" in outcome.what
    assert "could not verify that the arm stands" in outcome.what
    assert "put the arm in hold" not in outcome.what
    assert outcome.report["stop_check"] == "unreadable"


def test_a_loop_that_hangs_for_good_does_not_keep_the_run_from_ending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_AFTER_TRIP_S", 0.5)
    with moving(tmp_path) as robot:
        os.kill(robot.board.control_pid, signal.SIGSTOP)
        outcome = robot.wait()
    assert outcome.code == 4
    assert "hangs and was killed; the watchdog put the arm in hold (tick stalled)" in outcome.what
    assert "the arm was seen to stand" in outcome.what
    assert outcome.report["stop_check"] == "verified"


def test_an_interrupt_ends_a_loop_that_nobody_watches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_AFTER_INTERRUPT_S", 0.5)
    with moving(tmp_path, "loop.watchdog_timeout_s=60", "loop.lease_s=60") as robot:
        os.kill(robot.board.control_pid, signal.SIGSTOP)
        robot._interrupt(signal.SIGINT, None)
        outcome = robot.wait()
    assert outcome.code == 4
    assert "the interrupt" in outcome.what
    assert "the watchdog put the arm in hold (control died)" in outcome.what


def test_a_watchdog_that_falls_silent_stops_the_run(tmp_path: Path) -> None:
    with moving(tmp_path) as robot:
        dog = robot.child("watchdog").process
        assert dog is not None
        os.kill(dog.pid, signal.SIGSTOP)
        try:
            outcome = robot.wait()
        finally:
            os.kill(dog.pid, signal.SIGCONT)
    assert outcome.code == 3
    assert "the watchdog gave no sign of life" in outcome.what


@pytest.mark.parametrize(("flag", "code"), [("estop_requested", 5), ("stop_requested", 0)])
def test_a_stop_during_the_start_leaves_the_arm_alone(tmp_path: Path, flag: str, code: int) -> None:
    with Supervisor(make_run(config(*REALTIME), PLAN, tmp_path)) as robot:
        setattr(robot.board, flag, 1)
        assert robot.wait().code == code
        assert robot.board.lease_epoch == 0
        assert robot.board.first_action_at_s == 0.0


def test_black_boxes_are_numbered_on_after_one_was_deleted(tmp_path: Path) -> None:
    box = blackbox.Dump({"cause": "fault"}, np.zeros((1, 1)), np.zeros((0, 1)))
    first, second = blackbox.write(box, tmp_path), blackbox.write(box, tmp_path)
    first.unlink()
    assert blackbox.write(box, tmp_path).name == "003-fault.safetensors"
    assert second.exists()


def test_an_emergency_stop_that_control_does_not_serve_is_the_watchdogs(tmp_path: Path) -> None:
    # A patient watchdog: it is the stop that it can't wait for.
    slow = ("loop.watchdog_timeout_s=0.2", "loop.lease_s=5")
    with moving(tmp_path, *slow) as robot:
        board = robot.board
        os.kill(board.control_pid, signal.SIGSTOP)
        board.estop_requested = 1
        until(lambda: board.watchdog_tripped != 0)
        assert board.watchdog_held_at_s > 0
        os.kill(board.control_pid, signal.SIGCONT)
        assert robot.wait().code in (3, 5)


def test_an_arm_that_somebody_else_moves_is_not_taken(tmp_path: Path) -> None:
    run = make_run(config(*REALTIME, "gate.quiet_s=3"), PLAN, tmp_path)
    with Supervisor(run) as robot:
        other = SimArm(run, "another controller")
        pose = np.array(other.read().positions, float)
        while robot.child("control").code is None:
            pose[2] += 0.3 if int(2 * time.monotonic()) % 2 else -0.3
            other.write(pose)
            time.sleep(0.02)
        outcome = robot.wait()
        other.close()
        assert robot.board.lease_epoch == 0
    assert outcome.code == 2
    assert "elbow_flex.pos" in outcome.what
    assert not (tmp_path / "blackbox").exists()
