"""The arm on its way to a reset pose: through the gate, no faster than told, and not for ever."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks.gate import HOME, RecordingArm
from contracts.errors import ConfigError
from runtime.arms.sim import SO101_ACTION
from runtime.board import Board, Owner
from runtime.config import EpisodeSection, GateSection, LoopSection
from runtime.control.reset import Homing, NotReached, poses_of
from runtime.gate.gate import Gate, limits_of

RATE_HZ, SPEED = 30.0, 30.0
MOST = SPEED / RATE_HZ
BELOW = (0.0, 40.0, 40.0, 62.0, 0.0, 60.0)
"""Its fingertips are under the table."""


@pytest.fixture
def robot(tmp_path: Path) -> Iterator[Any]:
    """A gate over an ideal arm, and readings as old as `age_s` says."""
    limits = limits_of(SO101_ACTION, GateSection(), RATE_HZ)
    arm = RecordingArm(limits)
    arm.start(HOME)
    with Board.create(tmp_path / "board") as board:
        made = SimpleNamespace(
            gate=Gate(arm, limits, board, Owner.CONTROL, 60.0),
            run=SimpleNamespace(config=SimpleNamespace(loop=LoopSection(rate_hz=RATE_HZ))),
            clock=SimpleNamespace(now_s=lambda: 0.0),
            arm=arm,
            age_s=0.0,
            post=lambda lateness_s: None,
        )

        def wake() -> float:
            arm.written_this_tick = 0
            return 0.0

        def observe(now_s: float) -> Any:
            return SimpleNamespace(joints=arm.read(), state_age_s=made.age_s)

        made.wake, made.senses = wake, SimpleNamespace(observe=observe)
        made.gate.take_arm()
        yield made


def test_a_pose_that_the_gate_does_not_reach_ends_the_way_to_it(robot: Any) -> None:
    homing = Homing(robot, [BELOW], SPEED)
    with pytest.raises(NotReached, match="did not reach its reset pose"):
        for _ in range(1000):
            homing.tick(hold=False)
    assert robot.arm.breaches == []


def test_a_gripper_that_holds_something_may_stand_open(robot: Any) -> None:
    """It reads 40 percent more than it is told, at the end of the way too."""
    read = robot.arm.read

    def held(now_s: float) -> Any:
        joints = read()
        joints.positions[5] += 40.0
        return SimpleNamespace(joints=joints, state_age_s=0.0)

    robot.senses.observe = held
    goal = (10.0, *HOME[1:])
    homing = Homing(robot, [goal], SPEED, grippers=False)
    for _ in range(100):
        if not homing.done:
            homing.tick(hold=False)
    assert homing.done and robot.arm.poses[-1][0] == pytest.approx(10.0)
    strict = Homing(robot, [HOME], SPEED, what="the place of before")
    with pytest.raises(NotReached, match="did not reach the place of before"):
        for _ in range(1000):
            strict.tick(hold=False)


def test_after_old_readings_it_goes_on_at_its_own_speed(robot: Any) -> None:
    goal = (60.0, *HOME[1:])
    homing = Homing(robot, [goal], SPEED)
    fastest, ticks = 0.0, 0
    while not homing.done and ticks < 200:
        robot.age_s = 1.0 if 20 <= ticks < 50 else 0.0
        homing.tick(hold=False)
        fastest = max(fastest, robot.arm.poses[-1][0] - robot.arm.poses[-2][0])
        ticks += 1
    assert homing.done
    assert fastest <= MOST * 1.01
    assert ticks == pytest.approx(60 / MOST + 30, abs=10)


def test_poses_outside_the_workspace_are_refused_before_anything_moves() -> None:
    limits = limits_of(SO101_ACTION, GateSection(), RATE_HZ)
    with pytest.raises(ConfigError, match="outside the workspace"):
        poses_of(EpisodeSection(reset="home", home=BELOW), SO101_ACTION, limits)
    assert poses_of(EpisodeSection(reset="home", home=HOME), SO101_ACTION, limits)[0][1] == [HOME]
