"""A tool's session: the same devices, gate and watchdog as a run's, and nothing left behind by any end."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest

from contracts.errors import DeviceError, EntracteError, GateFault
from runtime.arms import ArmState
from runtime.arms import session as session_module
from runtime.arms.session import Session, Stopped
from runtime.board import LoopState
from runtime.config import load_config
from runtime.control.reset import NotReached
from runtime.run import Run

OVERRIDES = ["loop.rate_hz=30", "cameras.front.rate_hz=30", "arm.state_latency_s=0.2"]


def test_it_moves_within_the_gates_limits_and_holds_at_the_end(tmp_path: Path) -> None:
    with Session(load_config(None, OVERRIDES), tmp_path) as session:
        shm_dir = Path(session.robot.run.shm_dir)
        start = session.pause().positions.copy()
        session.take_arm()
        assert set(session.cameras) == {"front", "wrist"}
        wanted = tuple(map(float, start + np.array([200.0, 0, 0, 0, 0, 0])))
        moved = [session.tick(wanted) for _ in range(45)]
        high = session.action.high[0]
        commands = np.array([verdict.command[0] for _, verdict in moved])
        assert all(verdict.bits for _, verdict in moved) and commands.max() <= high
        fastest = np.abs(np.diff(commands)).max() * session.rate_hz
        assert fastest <= session.action.max_velocity[0] * 1.001
        assert moved[-1][0].positions[0] > start[0] + 10
        board = session.robot.board
        assert board.loop_state == LoopState.RUNNING
    assert not shm_dir.exists()
    assert (tmp_path / "run_report.json").exists()


def test_a_stop_ends_it_at_rest(tmp_path: Path) -> None:
    with pytest.raises(Stopped, match="stopped"), Session(load_config(None, OVERRIDES)) as one:
        shm_dir = Path(one.robot.run.shm_dir)
        one.take_arm()
        targets = one.arm.read().positions + np.float32(5.0)
        for _ in range(10):
            one.tick(tuple(targets.tolist()))
        gate = one.robot.gate
        one.robot.board.stop_requested = 1
        one.tick(tuple(targets.tolist()))
    assert not gate.moving and not gate.faulted
    assert not shm_dir.exists()
    assert os.sched_getscheduler(0) == os.SCHED_OTHER


def test_after_a_fault_it_brakes_along_its_path_to_the_end() -> None:
    with (
        pytest.raises(GateFault, match="found a test"),
        Session(load_config(None, OVERRIDES)) as one,
    ):
        one.take_arm()
        gate = one.robot.gate
        targets = one.arm.read().positions + np.array([90.0, 0, 0, 0, 0, 0])
        for _ in range(8):
            one.tick(tuple(targets.tolist()))
        gate.fault("a test")
        assert gate.moving
        before = gate.state.position
        one.pause()
    assert gate.faulted and not gate.moving
    # Not cut short where it was.
    assert np.abs(np.subtract(gate.state.position, before)).max() > 0.01


def test_a_pose_that_is_not_reached_is_held_before_and_the_arm_goes_on() -> None:
    below = (0.0, 40.0, 40.0, 62.0, 0.0, 60.0)  # its fingertips are under the table
    with Session(load_config(None, OVERRIDES)) as one:
        one.take_arm()
        start = one.held
        with pytest.raises(NotReached, match="the pose that it was sent to"):
            one.go(below, 60.0)
        gate = one.robot.gate
        assert gate.state.mode is LoopState.HOLD and not gate.moving
        one.go(start, 60.0)
        assert np.abs(one.pause().positions - start)[:5].max() < 3.0


def test_a_reading_that_is_no_number_is_nobodys_pose(monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(load_config(None, OVERRIDES)) as one:
        one.take_arm()
        good = one.pause()
        wrong = good.positions.copy()
        wrong[2] = np.nan
        arm = one.arm
        monkeypatch.setattr(arm, "read", lambda: ArmState(wrong, good.at_s))
        for read in (one.pause, one.tick):
            with pytest.raises(DeviceError, match=r"elbow_flex.pos is no number"):
                read()
        monkeypatch.undo()


def test_an_emergency_stop_is_a_fault_and_a_missing_device_a_sentence() -> None:
    with pytest.raises(GateFault, match="emergency stop"), Session(load_config(None)) as one:
        one.take_arm()
        one.robot.board.estop_requested = 1
        one.tick()
    for override, words in (
        ("cameras.front.kind=nothing", "no camera named 'nothing'"),
        ("cameras.side={kind: sim}", "no camera 'side'"),  # the bench's own last words
    ):
        with (
            pytest.raises(EntracteError, match=words),
            Session(load_config(None, [override])),
        ):
            pass


def test_ctrl_c_before_any_device_is_opened_leaves_no_memory_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Path] = []

    def interrupted(run: Run, **_: object) -> NoReturn:
        made.append(Path(run.shm_dir))
        assert made[0].exists()
        raise KeyboardInterrupt

    monkeypatch.setattr(session_module, "_Devices", interrupted)
    with pytest.raises(KeyboardInterrupt), Session.of(None, OVERRIDES, ["front"]):
        pass
    assert made and not made[0].exists()


def test_a_tool_may_ask_for_some_of_the_cameras_alone() -> None:
    with Session.of(None, OVERRIDES, ["wrist"]) as session:
        assert set(session.cameras) == {"wrist"}
        session.pause()
