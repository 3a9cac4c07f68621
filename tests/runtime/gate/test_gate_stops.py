"""How the gate begins and stops: powering, where it starts from, braking, and a stop that the arm does not
acknowledge."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from robots import REALTIME, config

from benchmarks.gate import HOME, RecordingArm
from contracts.errors import DeviceError, EntracteError, GateFault
from runtime import watchdog
from runtime.arms import ArmState
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, LoopState, Owner, TripReason
from runtime.config import GateSection
from runtime.control import ending, resting, taking
from runtime.control import robot as robot_module
from runtime.control.episode import Episode
from runtime.control.inference import LockstepLane, ThreadLane
from runtime.control.robot import Robot
from runtime.gate.gate import OPERATOR_STOP, Gate, GateLimits, arm_at, judge, limits_of
from runtime.processes.supervisor import make_run
from runtime.run import RunPlan

FAR = tuple(value + 60.0 for value in HOME)


class Arm(RecordingArm):
    """Says its targets, counts holds, and does not acknowledge them while `deaf`."""

    def __init__(self, limits: GateLimits) -> None:
        super().__init__(limits)
        self.deaf = False
        self.holds = self.enabled = 0
        self.targets: tuple[float, ...] | None = None
        self.torque = True
        self.start(HOME)

    def read(self) -> ArmState:
        targets = None if self.targets is None else np.array(self.targets)
        return ArmState(np.array(self.poses[-1]), 0.0, None, targets, self.torque)

    def enable(self) -> None:
        self.enabled += 1

    def hold(self) -> None:
        if self.deaf:
            raise DeviceError("the bus is gone")
        self.holds += 1
        super().hold()


@pytest.fixture
def board(tmp_path: Path) -> Iterator[Board]:
    with Board.create(tmp_path / "board") as made:
        yield made


@pytest.fixture
def arm() -> Arm:
    return Arm(limits_of(SO101_ACTION, GateSection(), 30.0))


def gate_of(arm: Arm, board: Board, **more: Any) -> Gate:
    return Gate(arm, arm.limits, board, Owner.CONTROL, 60.0, **more)


def moving(arm: Arm, board: Board, **more: Any) -> Gate:
    gate = gate_of(arm, board, **more)
    gate.prepare(arm.read())
    gate.take_arm()
    for _ in range(3):
        gate.command(FAR, 0.0, 0.0)
    assert gate.moving
    return gate


# -- stops


def test_a_hold_that_fails_after_braking_is_not_called_held_and_becomes_the_watchdogs(
    arm: Arm, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = moving(arm, board)
    gate.fault("a camera is gone")
    gate.brake()
    assert board.braking_at_s > 0
    assert board.held_at_s == 0.0, "it brakes, and is not held"
    run = make_run(config(*REALTIME), RunPlan(), tmp_path / "run")
    monkeypatch.setattr(watchdog, "open_arm", lambda run, caller: Arm(arm.limits))
    dog = watchdog.Watchdog(run, board)
    assert dog.check(board.braking_at_s + 0.06, False) is not TripReason.STOP_FAILED, "a tick away"
    assert dog.check(board.braking_at_s + 0.2, False) is TripReason.STOP_FAILED
    arm.deaf = True
    while gate.moving:
        gate.brake()
    gate.hold("over")
    assert board.held_at_s == 0.0
    assert dog.check(board.stopped_at_s + 0.06, False) is TripReason.STOP_FAILED
    dog.close()


def test_hold_is_tried_again_while_the_black_box_is_written(
    arm: Arm, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that takes seconds must not be what keeps an arm moving."""
    written: list[tuple[str, bool]] = []

    def slow(_run: object, _board: object, _by: str, _after: object = (), note: str = "") -> None:
        arm.deaf = False
        give_up_s = time.monotonic() + 5.0
        while not arm.holds and time.monotonic() < give_up_s:
            time.sleep(0.002)
        written.append((note, arm.holds > 0))

    run = make_run(config(*REALTIME, "gate.standstill_s=0.2"), RunPlan(), tmp_path / "run")
    monkeypatch.setattr(watchdog, "open_arm", lambda run, caller: arm)
    monkeypatch.setattr(watchdog, "_SAY_AFTER_S", 0.0)
    monkeypatch.setattr(watchdog, "dump", slow)
    arm.deaf = True
    dog = watchdog.Watchdog(run, board)
    dog._trip(TripReason.TICK_STALLED, time.monotonic(), threading.Event())
    assert [held for _, held in written] == [True, True]
    assert "does NOT acknowledge hold" in written[0][0]


def test_an_arm_that_brakes_for_long_is_watched_until_it_is_held(
    arm: Arm, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = moving(arm, board)
    gate.fault("a camera is gone")
    run = make_run(config(*REALTIME), RunPlan(), tmp_path / "run")
    monkeypatch.setattr(watchdog, "open_arm", lambda run, caller: Arm(arm.limits))
    dog = watchdog.Watchdog(run, board)
    board.braking_at_s = board.stopped_at_s + 4.0
    assert not dog._stop_is_over(board.braking_at_s + 0.1, False)
    assert dog.check(board.braking_at_s + 0.2, False) is TripReason.STOP_FAILED
    assert dog._stop_is_over(board.braking_at_s + 3.1, False)
    dog.close()


def test_a_loop_that_is_gone_right_after_a_hold_that_failed_leaves_it_to_the_watchdog(
    arm: Arm, board: Board, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = moving(arm, board)
    arm.deaf = True
    gate.estop("asked for")
    gate.close()
    run = make_run(config(*REALTIME), RunPlan(), tmp_path / "run")
    monkeypatch.setattr(watchdog, "open_arm", lambda run, caller: Arm(arm.limits))
    dog = watchdog.Watchdog(run, board)
    at_s = board.stopped_at_s
    assert board.lease_owner == Owner.NOBODY
    assert dog.check(at_s + 0.01, True) is TripReason.NONE
    assert not dog._stop_is_over(at_s + 0.01, True), "nobody would ask for hold again"
    assert dog.check(at_s + 0.06, True) is TripReason.STOP_FAILED
    board.held_at_s = at_s + 0.07
    assert dog._stop_is_over(at_s + 0.08, True)
    dog.close()


def test_a_fault_found_elsewhere_takes_one_step_of_braking_a_tick(arm: Arm, board: Board) -> None:
    gate = moving(arm, board)
    arm.written_this_tick = 0
    gate.fault("policy: it broke")
    assert arm.written_this_tick == 0
    assert board.stopped_at_s > 0
    gate.command(FAR, 0.0, 0.0)
    assert arm.written_this_tick == 1
    assert arm.breaches == []


def test_an_emergency_stop_after_a_fault_keeps_the_faults_cause(arm: Arm, board: Board) -> None:
    gate = moving(arm, board)
    gate.fault("the elbow does not answer")
    gate.estop(OPERATOR_STOP)
    assert gate.state.mode is LoopState.ESTOP
    assert OPERATOR_STOP in gate.state.reason
    assert "the elbow does not answer" in gate.state.reason


def test_the_watchdog_takes_a_lease_also_after_a_year_of_uptime(arm: Arm, board: Board) -> None:
    now_s = 3.2e7
    board.take_lease(Owner.CONTROL, now_s, 10.0)
    assert Gate(arm, arm.limits, board, Owner.WATCHDOG, 1.0).seize(now_s)
    assert board.lease_owner == Owner.WATCHDOG


def test_an_arm_whose_watchdog_is_silent_is_stopped(arm: Arm, board: Board) -> None:
    board.watchdog_beat_s = time.monotonic()
    gate = moving(arm, board, watchdog_silent_s=0.05)
    time.sleep(0.1)
    gate.brake()
    assert not gate.faulted, "perhaps the whole machine stood still"
    time.sleep(0.3)
    gate.brake()
    assert "watchdog" in gate.state.reason


def test_old_readings_are_counted_by_the_clock(arm: Arm, board: Board) -> None:
    state = arm_at(arm.limits, HOME)
    state, _ = judge(arm.limits, state, HOME, 9.0, elapsed_s=1.5)
    state, verdict = judge(arm.limits, state, HOME, 9.0, elapsed_s=1.5)
    assert "old for 3.0 s" in verdict.fault
    times = iter([0.0, 1.9, 4.0])
    gate = gate_of(arm, board, now=lambda: next(times))
    gate.prepare(arm.read())
    gate.take_arm()
    for _ in range(3):
        gate.command(HOME, 9.0, 0.0)
    assert gate.faulted


# -- before motion


def test_a_stop_before_power_leaves_the_arm_without_it(arm: Arm, board: Board) -> None:
    for flag in ("estop_requested", "stop_requested"):
        gate = gate_of(arm, board)
        gate.take_arm()
        setattr(board, flag, 1)
        assert not gate.power()
        assert arm.enabled == 0
        setattr(board, flag, 0)


def test_after_a_fault_no_motor_is_powered(arm: Arm, board: Board) -> None:
    """The loop rests while another thread begins to power, and may find one: a watchdog that is silent."""
    gate = gate_of(arm, board)
    gate.prepare(arm.read())
    gate.take_arm()
    gate.fault("the watchdog gave no sign of life")
    assert not gate.power()
    assert arm.enabled == 0


def test_a_stop_while_the_motors_are_powered_waits_for_the_connection_and_is_carried_out(
    arm: Arm, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = gate_of(arm, board)
    gate.prepare(arm.read())
    gate.take_arm()

    def enable() -> None:  # the loop rests meanwhile, and a person presses the button
        board.estop_requested = 1
        assert gate.rest()
        assert arm.holds == 0
        arm.enabled += 1

    monkeypatch.setattr(arm, "enable", enable)
    assert not gate.power()
    assert not gate.rest()
    assert (arm.enabled, arm.holds) == (1, 1)
    assert gate.state.mode is LoopState.ESTOP


def test_an_arm_under_load_starts_from_its_targets_and_a_gripper_keeps_its_grip(
    arm: Arm, board: Board
) -> None:
    gate = gate_of(arm, board)
    sagged = (HOME[0], HOME[1] + 2.0, HOME[2] + 8.0, *HOME[3:])
    arm.targets = (*HOME[:5], 20.0)  # the jaw stands at 60, on something
    arm.start(sagged)
    gate.prepare(arm.read())
    assert gate.state.position[1] == HOME[1]
    assert gate.state.position[2] == sagged[2], "too far from it: somebody moved the arm"
    assert gate.state.position[5] == 20.0
    arm.torque = False  # without power targets mean nothing
    gate.prepare(arm.read())
    assert gate.state.position == pytest.approx(sagged)


def test_an_old_reading_arms_nothing(arm: Arm, board: Board) -> None:
    with pytest.raises(GateFault, match="not known"):
        gate_of(arm, board).prepare(arm.read(), 0.3)
    with pytest.raises(GateFault, match="not known"):
        gate_of(arm, board).prepare(arm.read(), math.nan)


def test_no_arm_is_taken_without_a_watchdog(board: Board, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "WATCHDOG_START_S", 0.05)
    run = SimpleNamespace(config=SimpleNamespace(gate=GateSection()))
    robot: Any = SimpleNamespace(board=board, run=run)
    resting: Any = None
    with pytest.raises(GateFault, match="no watchdog"):
        taking.take_arm(robot, resting)
    board.stop_requested = 1
    assert not taking.take_arm(robot, resting)


# -- what hangs, and errors between episodes


def loop(gate: Gate, board: Board, **more: Any) -> Any:
    """As much of a robot as ticks need."""
    made = SimpleNamespace(
        gate=gate,
        board=board,
        run=SimpleNamespace(config=SimpleNamespace(gate=GateSection())),
        clock=SimpleNamespace(lockstep=False),
        wake=lambda: 0.0,
        post=lambda lateness_s: None,
        **more,
    )
    made.rest = lambda: (time.sleep(0.005), gate.rest())[1]
    made.come_to_rest = lambda reason: Robot.come_to_rest(made, reason)
    return made


def test_an_inference_that_hangs_is_waited_for_with_the_loop_alive_and_left_behind(
    arm: Arm, board: Board, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(robot_module, "INFERENCE_PATIENCE_S", 0.2)
    gate = gate_of(arm, board)
    gate.prepare(arm.read())
    gate.take_arm()
    over, lanes = threading.Event(), [ThreadLane[bool]("policy"), ThreadLane[bool]("reward")]
    lanes[0].submit(lambda: True, 0)
    lanes[1].submit(over.wait, 0)
    before_s = board.lease_expiry_s
    robot = loop(gate, board, policy_lane=lanes[0], reward_lane=lanes[1])
    assert "reward" in Robot.await_lanes(robot)
    assert board.lease_expiry_s > before_s
    began_s = time.monotonic()
    lanes[0].close()
    lanes[1].close()
    assert time.monotonic() - began_s < 5.0
    assert lanes[1].busy and not lanes[0].busy
    over.set()


@pytest.mark.parametrize("mode", [LoopState.ESTOP, LoopState.FAULT])
def test_a_job_between_episodes_that_hangs_ends_the_run_soon_after_a_stop_or_a_fault(
    arm: Arm, board: Board, monkeypatch: pytest.MonkeyPatch, mode: LoopState
) -> None:
    """A fault may be that of a watchdog that died: the arm is in hold, and nobody watches it."""
    monkeypatch.setattr(resting, "STOPPING_S", 0.2)
    gate = gate_of(arm, board)
    gate.prepare(arm.read())
    gate.take_arm()
    robot: Any = loop(gate, board)
    over = threading.Event()

    def strike() -> None:
        if mode is LoopState.ESTOP:
            board.estop_requested = 1
        else:
            gate.fault("of the test's")

    threading.Timer(0.1, strike).start()
    with pytest.raises(EntracteError, match="setting the scene hangs"):
        resting.Resting(robot)(over.wait, "setting the scene")
    over.set()
    assert gate.state.mode is mode


@pytest.mark.parametrize("stopped", [False, True])
def test_an_error_between_episodes_brakes_and_tells_a_stop_from_a_fault(
    arm: Arm, board: Board, monkeypatch: pytest.MonkeyPatch, stopped: bool
) -> None:
    said: list[tuple[int, str]] = []
    monkeypatch.setattr(ending, "leave_reason", lambda run, code, what: said.append((code, what)))
    gate = moving(arm, board)
    board.control_ready = 1
    written = arm.written
    if stopped:
        gate.estop(OPERATOR_STOP)
    robot = loop(gate, board, verify_stop=lambda: SimpleNamespace(note="it stands"))
    code = ending.stop_after(robot, EntracteError("the gate is latched"))
    assert code == (ending.EXIT_ESTOP if stopped else ending.EXIT_FAULT)
    assert (arm.written > written) is not stopped, "along braking's path, not at once"
    assert said[0][1] == (OPERATOR_STOP if stopped else "the gate is latched") + "; it stands"


def test_an_error_that_nobody_declared_is_told_with_its_kind(
    arm: Arm, board: Board, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    said: list[str] = []
    monkeypatch.setattr(ending, "leave_reason", lambda run, code, what: said.append(what))
    gate = moving(arm, board)
    board.control_ready = 1
    robot = loop(gate, board, verify_stop=lambda: SimpleNamespace(note="it stands"))
    ending.stop_after(robot, KeyError("front"))
    assert said == ["KeyError 'front'; see logs/control.log; it stands"]

    def infer() -> bool:
        raise KeyError("wrist")

    lane = LockstepLane[bool](0)
    lane.submit(infer, 0)
    done = lane.poll(0)
    assert done is not None and isinstance(done.error, KeyError)
    assert "in infer" in capsys.readouterr().err, "where it was raised is said nowhere else"


def test_an_episode_that_ends_by_a_fault_latches_it(arm: Arm, board: Board) -> None:
    gate = moving(arm, board)
    episode: Any = SimpleNamespace(robot=loop(gate, board), _end="completed", _detail="")
    Episode._stop(episode, "fault", "the teleoperator is gone")
    assert (episode._end, episode._detail) == ("fault", "the teleoperator is gone")
    assert gate.faulted
    assert gate.moving, "it brakes"


def test_an_episodes_time_runs_while_the_loop_misses_ticks_but_not_in_a_pause() -> None:
    pace = SimpleNamespace(missed=9)
    episode: Any = SimpleNamespace(_step=10, robot=SimpleNamespace(pace=pace))
    episode._missed_before, episode._missed_paused = 2, 3
    assert Episode._elapsed_periods(episode) == 14
