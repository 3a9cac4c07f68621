"""When an SO-101 gets power: standing where it stands, with the right joint map, and with nothing wrong."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from so101_rig import (
    MIDDLE,
    Make,
    arm,
    follow,
    hot,
    make,
    never_powered,
    read,
)

from contracts.errors import DeviceError, EntracteError
from runtime.arms import sts
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import ServoBus

__all__ = ["arm", "make"]


def test_power_comes_in_the_pose_in_which_the_arm_stands(bus: ServoBus, make: Make) -> None:
    arm = make()
    arm.open()
    before = arm.read()
    assert not before.torque
    assert not any(servo.powered for servo in bus.servos.values())
    arm.enable()
    time.sleep(0.1)
    after = arm.read()
    assert after.torque
    assert np.abs(after.positions - before.positions).max() < 0.2
    assert [servo.get(sts.LOCK) for servo in bus.servos.values()] == [1] * 6
    assert bus.servo(6).get(sts.MAX_TORQUE) == 500  # the gripper closes with half its torque


def test_an_arm_that_stands_powered_is_taken_over_without_letting_go(
    bus: ServoBus, arm: So101, make: Make
) -> None:
    raised = np.array([10.0, -30.0, 20.0, 0.0, 0.0, 50.0])
    arm.write(raised)
    assert np.abs(follow(arm, raised) - raised).max() < 0.3
    for servo in bus.servos.values():
        servo.sinks_to = 800.0  # without torque it would sink
    arm.close()
    again = make()
    again.open()
    again.enable()
    assert np.abs(read(again).positions - raised).max() < 0.3
    again.close()
    time.sleep(0.1)
    bus.advance()
    assert sum(servo.let_go for servo in bus.servos.values()) == 0
    assert abs(bus.servo(2).position - arm.units.steps(raised)[1]) < 3


def test_servos_that_wake_up_powered_are_set_up_without_letting_go(
    bus: ServoBus, make: Make
) -> None:
    for servo in bus.servos.values():
        here = sts.GOAL_POSITION.encode(round(servo.position))
        servo.write(sts.GOAL_POSITION.address, bytes(here))
    arm = make()
    arm.open()
    arm.enable()
    assert [servo.get(sts.P_GAIN) for servo in bus.servos.values()] == [16] * 6
    assert not any(servo.let_go for servo in bus.servos.values())
    arm.close()
    bus.servo(4).set(sts.OPERATING_MODE, 1)
    with pytest.raises(DeviceError, match=r"wrist_flex \(id 4\) does not control its position"):
        make().open()


def _swapped(found: dict[str, Any]) -> None:
    found["shoulder_pan"]["id"], found["shoulder_lift"]["id"] = 2, 1


def _renamed(found: dict[str, Any]) -> None:
    found["wrist"] = found.pop("wrist_flex")


def _exchanged(found: dict[str, Any]) -> None:
    """Ids in order, but two joints exchanged: other wiring than when it was calibrated."""
    a, b = found["elbow_flex"], found["wrist_flex"]
    found["elbow_flex"], found["wrist_flex"] = {**b, "id": a["id"]}, {**a, "id": b["id"]}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_swapped, "joint map: shoulder_pan: expected servo 1, found servo 2"),
        (_renamed, "is of another arm"),
        (_exchanged, "homing_offset of elbow_flex (id 3): expected -95 as the file says"),
        (lambda found: found["gripper"].update(range_max=1510), "not moved through its range"),
    ],
)
def test_a_wrong_joint_map_never_gets_power(
    bus: ServoBus, make: Make, calibration: Path, wrong: Callable[..., None], words: str
) -> None:
    found = json.loads(calibration.read_text())
    wrong(found)
    calibration.write_text(json.dumps(found))
    with pytest.raises(EntracteError) as caught:
        arm = make()
        arm.open()
        arm.enable()
    assert words in str(caught.value)
    never_powered(bus)


def _dead(bus: ServoBus) -> None:
    bus.servo(4).silent = True


def _other_model(bus: ServoBus) -> None:
    bus.servo(2).set(sts.MODEL_NUMBER, 2825)


def _other_firmware(bus: ServoBus) -> None:
    bus.servo(5).set(sts.FIRMWARE, 3 | 9 << 8)


def _pushed(bus: ServoBus) -> None:
    bus.servo(1).pushed = 300.0


def _all_dead(bus: ServoBus) -> None:
    for servo in bus.servos.values():
        servo.silent = True


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (_dead, "a servo is missing: wrist_flex (id 4)"),
        (_all_dead, "no servo answers"),
        (_other_model, "shoulder_lift (id 2) is another servo: expected model 777"),
        (_other_firmware, "different firmware: found shoulder_pan 3.10"),
        (_pushed, "the arm moves by itself: servo 1 (shoulder_pan)"),
        (hot, "servo 3 (elbow_flex) is hot: expected below 65 C"),
    ],
)
def test_what_is_wrong_with_the_arm_is_said_before_power(
    bus: ServoBus, make: Make, wrong: Callable[[ServoBus], None], words: str
) -> None:
    wrong(bus)
    arm = make()
    with pytest.raises(DeviceError) as caught:
        arm.open()
        arm.enable()
    assert words in str(caught.value)
    never_powered(bus)


def test_an_arm_that_another_program_commands_is_not_taken(bus: ServoBus, make: Make) -> None:
    """It stands powered, and while we look its goal changes."""
    arm = make(still_s=0.5)
    arm.open()
    bus.servo(2).write(sts.GOAL_POSITION.address, bytes(sts.GOAL_POSITION.encode(2047)))
    looked = bus.instructions

    def meddle() -> None:
        while bus.instructions < looked + 3:
            time.sleep(0.005)
        bus.servo(2).write(sts.GOAL_POSITION.address, bytes(sts.GOAL_POSITION.encode(2052)))

    import threading

    other = threading.Thread(target=meddle)
    other.start()
    with pytest.raises(DeviceError, match=r"moves by itself: servo 2 \(shoulder_lift\)"):
        arm.enable()
    other.join()


def test_a_servo_that_takes_no_power_leaves_an_arm_that_can_be_held(
    bus: ServoBus, make: Make
) -> None:
    arm = make(reply_s=0.01)
    arm.open()
    looked = bus.servo(4)
    powered = looked.write
    looked.write = lambda address, data: None  # type: ignore[method-assign]  # it answers, and does nothing
    with pytest.raises(DeviceError) as caught:
        arm.enable()
    assert "servo 4 (wrist_flex) does not take its power" in str(caught.value)
    assert "with torque: servo 1 (shoulder_pan) and servo 2 (shoulder_lift) and servo 3" in str(
        caught.value
    )
    bus.servo(1).set(sts.GOAL_POSITION, 1500)
    with pytest.raises(
        DeviceError, match=r"hold can't be verified: servo 4 \(wrist_flex\) did not"
    ):
        arm.hold()
    assert abs(bus.servo(1).get(sts.GOAL_POSITION) - 2047) < 100
    looked.write = powered  # type: ignore[method-assign]
    arm.hold()
    assert [servo.torque for servo in bus.servos.values()] == [True] * 4 + [False] * 2


def test_a_command_before_power_is_refused(bus: ServoBus, make: Make) -> None:
    arm = make()
    arm.open()
    with pytest.raises(DeviceError, match="before the motors were powered"):
        arm.write(MIDDLE)
    arm.hold()  # nothing to hold: the watchdog may say so at any time
    never_powered(bus)
