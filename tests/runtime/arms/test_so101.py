"""The so101 driver on the simulated bus: nothing lost unnoticed, faults that name the servo, and a raised arm
that is never dropped.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from robots import until
from so101_rig import (
    FIRST,
    MIDDLE,
    Make,
    arm,
    follow,
    hot,
    make,
    read,
    settled,
)

from contracts.errors import ConfigError, DeviceError
from runtime.arms import Glitch, sts
from runtime.arms.feetech_bus import FeetechBus
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import CALIBRATION, ServoBus

__all__ = ["arm", "make"]


# -- the bus


def test_bit_errors_are_asked_again_and_counted(bus: ServoBus, arm: So101) -> None:
    bus.faults.bit_errors = 3e-4
    target = np.array([25.0, -15.0, 12.0, 5.0, -20.0, 80.0])
    wrong = glitches = 0
    for index in range(150):
        share = min(1.0, index / 100)
        try:
            arm.write(MIDDLE + share * (target - MIDDLE))
            state = arm.read()
        except Glitch:
            glitches += 1
            continue
        wrong += bool(np.any(np.abs(state.positions - MIDDLE) > np.abs(target - MIDDLE) + 1.0))
    bus.faults.bit_errors = 0.0
    assert wrong == 0
    assert glitches < 15
    assert arm.retries() > 5
    assert np.abs(follow(arm, target) - target).max() < 0.3


def test_a_lost_command_is_read_back_and_sent_again(bus: ServoBus, arm: So101) -> None:
    target = np.array([8.0, 0.0, 0.0, 0.0, 0.0, 50.0])
    before, heard = arm.retries(), bus.instructions
    bus.servo(1).silent = True
    arm.write(target)
    while bus.instructions == heard:
        time.sleep(0.001)
    bus.servo(1).silent = False
    assert read(arm).targets[0] == pytest.approx(0.0, abs=0.1)
    assert arm.retries() == before + 1
    assert np.abs(follow(arm, target) - target).max() < 0.3


def test_commands_lost_in_a_row_are_not_taken_for_another_programs(
    bus: ServoBus, arm: So101
) -> None:
    deaf, heard = bus.servo(1), bus.servo(1).write
    deaf.write = lambda address, data: None  # type: ignore[method-assign]
    for degrees in (2.0, 4.0, 6.0):
        arm.write(MIDDLE + degrees * FIRST)
        assert read(arm).targets[0] == pytest.approx(0.0, abs=0.1)
    arm.write(MIDDLE + 8.0 * FIRST)
    with pytest.raises(DeviceError, match=r"servo 1 \(shoulder_pan\) does not take commands"):
        arm.read()
    deaf.write = heard  # type: ignore[method-assign]


@pytest.mark.parametrize("chained", [False, True])
def test_a_dead_servo_is_named_and_the_others_hold(
    bus: ServoBus, arm: So101, chained: bool
) -> None:
    bus.faults.chained = chained  # servos that wait for the one before them fall silent with it
    bus.servo(3).silent = True
    with pytest.raises(Glitch) as caught:
        arm.read()
    assert "servo 3 (elbow_flex)" in str(caught.value)
    assert chained or "servo 4" not in str(caught.value)
    if not chained:
        with pytest.raises(DeviceError, match=r"hold can't be verified: servo 3 \(elbow_flex\)"):
            arm.hold()
        assert all(servo.torque for servo in bus.servos.values())


def test_a_port_without_the_right_to_it_says_how_to_get_that(
    bus: ServoBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What most people meet first."""

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "could not open port: Permission denied")

    monkeypatch.setattr("serial.Serial", denied)
    with pytest.raises(DeviceError, match=r"Permission denied.*usermod -aG dialout"):
        FeetechBus(bus.path, sts.BAUD, 0.02)


def test_a_port_that_is_gone_says_so(bus: ServoBus, arm: So101) -> None:
    bus.unplug()
    with pytest.raises(DeviceError, match="is gone"):
        arm.read()


def _let_go(bus: ServoBus) -> None:
    bus.servo(2).set(sts.TORQUE_ENABLE, 0)


def _overload(bus: ServoBus) -> None:
    bus.servo(3).errors = sts.OVERLOAD


def _foreign(bus: ServoBus) -> None:
    bus.servo(5).set(sts.GOAL_POSITION, 1234)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_let_go, "servo 2 (shoulder_lift) has let go of its torque"),
        (_overload, "servo 3 (elbow_flex): it is overloaded"),
        (_foreign, "servo 5 (wrist_roll) was given a goal that is not ours: found 1234"),
        (hot, "servo 3 (elbow_flex) is hot"),
    ],
)
def test_what_goes_wrong_under_way_names_the_servo(
    bus: ServoBus, arm: So101, wrong: Callable[[ServoBus], None], words: str
) -> None:
    arm.write(MIDDLE)
    read(arm)
    wrong(bus)
    with pytest.raises(DeviceError) as caught:
        read(arm)
    assert words in str(caught.value)
    assert not isinstance(caught.value, Glitch)


def test_a_gripper_that_holds_something_is_no_fault(bus: ServoBus, arm: So101) -> None:
    bus.servo(6).errors = sts.OVERLOAD
    assert read(arm).torque


# -- hold


def test_hold_stops_a_moving_arm_and_is_read_back(bus: ServoBus, arm: So101) -> None:
    arm.write(np.array([100.0, 0.0, 0.0, 0.0, 0.0, 50.0]))
    until(lambda: read(arm).velocities[0] > 50)
    moving = read(arm)
    arm.hold()
    held = settled(arm)
    assert not held.velocities.any()
    assert moving.positions[0] < held.positions[0] < 90.0
    assert held.targets[0] == pytest.approx(held.positions[0], abs=0.2)
    for _ in range(20):
        assert read(arm).positions[0] == pytest.approx(held.positions[0], abs=0.1)


def test_holding_a_sagging_arm_again_and_again_does_not_lower_it(bus: ServoBus, arm: So101) -> None:
    """A servo stands a little below its goal under load: told to hold there, it would sag from there."""
    target = np.array([0.0, 30.0, 0.0, 0.0, 0.0, 50.0])
    arm.write(target)
    follow(arm, target)
    goal = bus.servo(2).get(sts.GOAL_POSITION)
    bus.servo(2).sag = 20.0
    for _ in range(5):
        arm.hold()
    assert bus.servo(2).get(sts.GOAL_POSITION) == goal


def test_ten_holds_of_a_heavily_loaded_arm_choose_one_goal(bus: ServoBus, arm: So101) -> None:
    """Sagging by more than a hold takes for near: where it stands is chosen, once and not each time."""
    target = np.array([0.0, 30.0, 0.0, 0.0, 0.0, 50.0])
    arm.write(target)
    follow(arm, target)
    asked = bus.servo(2).get(sts.GOAL_POSITION)
    bus.servo(2).sag = 40.0
    arm.hold()
    goal = bus.servo(2).get(sts.GOAL_POSITION)
    assert goal == asked - 40
    for _ in range(9):
        arm.hold()
        settled(arm, 0.2)
    assert bus.servo(2).get(sts.GOAL_POSITION) == goal
    bus.servo(2).set(sts.GOAL_POSITION, goal - 300)  # what keeps it up was lost: written again
    arm.hold()
    assert bus.servo(2).get(sts.GOAL_POSITION) == goal
    arm.write(target)  # and then it is another hold
    settled(arm, 0.2)
    arm.hold()
    assert bus.servo(2).get(sts.GOAL_POSITION) == asked - 40


def test_a_servo_that_let_go_in_hold_is_not_sent_back_up(bus: ServoBus, arm: So101) -> None:
    arm.hold()
    fallen = bus.servo(2)
    fallen.sinks_to = 1800.0
    fallen.set(sts.TORQUE_ENABLE, 0)
    until_s = time.monotonic() + 5.0
    while fallen.position > 1850 and time.monotonic() < until_s:
        time.sleep(0.01)
        bus.advance()
    arm.hold()
    assert fallen.torque
    assert fallen.get(sts.GOAL_POSITION) < 1900


def test_hold_does_not_open_a_gripper_that_holds_something(bus: ServoBus, arm: So101) -> None:
    bus.servo(6).stop_at = 2100.0
    closed = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 10.0])
    arm.write(closed)
    state = settled(arm)
    assert state.positions[5] > 40.0
    arm.hold()
    assert read(arm).targets[5] == pytest.approx(10.0, abs=0.1)
    arm.close()
    arm.open()
    arm.enable()  # nor does taking it over
    assert read(arm).targets[5] == pytest.approx(10.0, abs=0.1)


# -- units


def test_degrees_and_percent_are_lerobots(arm: So101, make: Make) -> None:
    """Formulas of `lerobot.motors.motors_bus._normalize`; LeRobot itself is asked in tests/peers."""
    steps = np.array([1500.0, 2500.0, 1000.0, 3000.0, 200.0, 2000.0])
    for normalised in (False, True):
        units = make(normalised=normalised).units
        found = units.of(steps)
        for value, step, (name, one) in zip(found, steps, CALIBRATION.items(), strict=True):
            low, high = one.range_min, one.range_max
            if name == "gripper":
                expected = (step - low) / (high - low) * 100
            elif normalised:
                expected = (step - low) / (high - low) * 200 - 100
            else:
                expected = (step - (low + high) / 2) * 360 / 4095
            assert value == pytest.approx(expected)
        assert (units.steps(found) == steps).all()
    assert arm.spec().low[0] == pytest.approx(-110.33, abs=0.01)
    assert make(normalised=True).spec().units == ("percent",) * 6


def test_options_that_make_no_sense_are_refused(make: Make, tmp_path: Path) -> None:
    for options, words in (
        ({"velocity_deg_s": 0.0}, "velocity_deg_s"),
        ({"calibration": str(tmp_path / "none.json")}, "no calibration at"),
    ):
        with pytest.raises(ConfigError, match=words):
            make(**options)
    with pytest.raises(DeviceError, match="no arm at"):
        make(port=str(tmp_path / "ttyACM9")).open()
