"""The so101 driver on the simulated bus: power only for the right arm, nothing lost unnoticed, faults that
name the servo, and a raised arm that is never dropped.
"""

from __future__ import annotations

import errno
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from robots import until

from contracts.errors import ConfigError, DeviceError, EntracteError
from runtime.arms import Glitch, sts
from runtime.arms.feetech_bus import FeetechBus
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import CALIBRATION, ServoBus
from runtime.config import load_config

pytest.importorskip("scservo_sdk")
RUN: Any = SimpleNamespace(config=load_config())
MIDDLE = np.array([0.0, 0.0, 0.0, 0.0, 0.0, 50.0])
FIRST = np.array([1.0, 0.0, 0.0, 0.0, 0.0, 0.0])
Make = Callable[..., So101]


@pytest.fixture
def make(bus: ServoBus, calibration: Path) -> Iterator[Make]:
    made: list[So101] = []

    def make(**options: Any) -> So101:
        chosen = {
            "port": bus.path,
            "calibration": str(calibration),
            "still_s": 0.1,
            "reply_s": 0.05,
            **options,
        }
        arm = So101(RUN, **chosen)
        made.append(arm)
        return arm

    yield make
    for arm in made:
        arm.close()


@pytest.fixture
def arm(make: Make) -> So101:
    arm = make()
    arm.open()
    arm.enable()
    return arm


def read(arm: So101, attempts: int = 20) -> Any:
    for _ in range(attempts):
        try:
            return arm.read()
        except Glitch as error:
            last = error
    raise last


def follow(arm: So101, target: np.ndarray, seconds: float = 1.5) -> np.ndarray:
    """Where the arm is once it has arrived and stands, or when the time is out."""
    give_up_s = time.monotonic() + seconds
    while True:
        state = read(arm)
        there = np.abs(state.positions - target).max() < 0.3 and not state.velocities.any()
        if there or time.monotonic() > give_up_s:
            return np.asarray(state.positions)


def settled(arm: So101, seconds: float = 1.0) -> Any:
    """The state once no joint moves any more, or when the time is out. One reading without speed is also had
    where a joint that went too far turns round."""
    give_up_s = time.monotonic() + seconds
    still = 0
    while True:
        state = read(arm)
        still = 0 if state.velocities.any() else still + 1
        if still == 5 or time.monotonic() > give_up_s:
            return state


# -- power


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
    _never_powered(bus)


def _never_powered(bus: ServoBus) -> None:
    bus.advance()
    assert not any(servo.powered or servo.torque for servo in bus.servos.values())
    middle = [(c.range_min + c.range_max) // 2 for c in CALIBRATION.values()]
    assert [round(s.position) for s in bus.servos.values() if not s.pushed] == [
        m for m, s in zip(middle, bus.servos.values(), strict=True) if not s.pushed
    ]


def _dead(bus: ServoBus) -> None:
    bus.servo(4).silent = True


def _other_model(bus: ServoBus) -> None:
    bus.servo(2).set(sts.MODEL_NUMBER, 2825)


def _other_firmware(bus: ServoBus) -> None:
    bus.servo(5).set(sts.FIRMWARE, 3 | 9 << 8)


def _pushed(bus: ServoBus) -> None:
    bus.servo(1).pushed = 300.0


def _hot(bus: ServoBus) -> None:
    bus.servo(3).heating_c = 40.0


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
        (_hot, "servo 3 (elbow_flex) is hot: expected below 65 C"),
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
    _never_powered(bus)


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
    _never_powered(bus)


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
        (_hot, "servo 3 (elbow_flex) is hot"),
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
