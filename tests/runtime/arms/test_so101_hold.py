"""Where a hold sends an SO-101 whose replies are broken, or do not come: never far, and never back."""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
import pytest
from robots import until
from so101_rig import FIRST, MIDDLE, Make, arm, make, read

from contracts.errors import DeviceError
from runtime.arms import Glitch, so101, sts
from runtime.arms.so101 import So101
from runtime.arms.so101_replies import BRAKING_STEPS_S2, FASTEST_STEPS_S, Replies
from runtime.arms.sts import Reading, Register
from runtime.bench.servo import Servo
from runtime.bench.servo_bus import ServoBus

__all__ = ["Make", "arm", "make"]


def garble(bus: ServoBus, servo: int, register: Register, values: list[int]) -> Iterator[int]:
    """The next readings of a servo say the next of `values` instead, in replies whose sum is right. What
    is left of them is not said yet."""
    honest, left = bus._reply, iter(values)

    def reply(one: Servo, data: bytes) -> bytes:
        if (
            one.id == servo
            and len(data) == sts.BLOCK_SIZE
            and (value := next(left, None)) is not None
        ):
            whole, at = bytearray(data), register.address - sts.BLOCK_START
            whole[at : at + register.size] = bytes(register.encode(value))
            data = bytes(whole)
        return honest(one, data)

    bus._reply = reply  # type: ignore[method-assign]
    return left


def test_a_broken_reply_sends_no_joint_away(bus: ServoBus, arm: So101) -> None:
    """Its sum was right by chance: two bits that cancel. Asked again, it stands where it stood."""
    read(arm)
    before = bus.servo(1).get(sts.GOAL_POSITION)
    left = garble(bus, 1, sts.PRESENT_POSITION, [before + 1024])
    arm.hold()
    assert not list(left), "the broken reply was never read"
    assert bus.servo(1).get(sts.GOAL_POSITION) == before


def test_nor_does_one_after_a_silence(bus: ServoBus, arm: So101) -> None:
    """In which the servo could have turned there."""
    read(arm)
    before = bus.servo(1).get(sts.GOAL_POSITION)
    time.sleep(0.2)
    left = garble(bus, 1, sts.PRESENT_POSITION, [before + 400])
    arm.hold()
    assert not list(left), "the broken reply was never read"
    assert bus.servo(1).get(sts.GOAL_POSITION) == before


def test_replies_of_which_no_two_agree_leave_the_goal_and_the_hold_unverified(
    bus: ServoBus, arm: So101
) -> None:
    read(arm)
    before = bus.servo(1).get(sts.GOAL_POSITION)
    garble(bus, 1, sts.PRESENT_POSITION, [before + 1024, before - 1024] * 10)
    with pytest.raises(DeviceError, match=r"hold can't be verified: servo 1 \(shoulder_pan\) did"):
        arm.hold()
    assert bus.servo(1).get(sts.GOAL_POSITION) == before


def test_a_joint_that_was_really_moved_far_is_held_where_it_is(bus: ServoBus, arm: So101) -> None:
    """Two replies that agree are believed, however far they are from the last one."""
    read(arm)
    before = bus.servo(2).get(sts.GOAL_POSITION)
    bus.servo(2).sag = 700.0
    arm.hold()
    assert bus.servo(2).get(sts.GOAL_POSITION) == before - 700


@pytest.mark.parametrize("velocity", [1 << bit for bit in range(12, 15)])
def test_a_broken_velocity_moves_a_joint_no_further_than_a_servo_can_brake(
    bus: ServoBus, arm: So101, velocity: int
) -> None:
    read(arm)
    before = bus.servo(1).get(sts.GOAL_POSITION)
    left = garble(bus, 1, sts.PRESENT_VELOCITY, [velocity])
    arm.hold()
    assert not list(left), "the broken reply was never read"
    furthest = FASTEST_STEPS_S**2 / (2 * BRAKING_STEPS_S2)
    assert abs(bus.servo(1).get(sts.GOAL_POSITION) - before) <= furthest + 1


def test_how_far_a_joint_brakes_is_bounded_by_how_fast_it_was() -> None:
    def reading(position: int, velocity: int) -> Reading:
        return Reading(True, position, position, velocity, 0, 121, 31, 0)

    replies = Replies()
    assert abs(replies.braking(1, 32767.0)) < 230
    assert replies.believe(1, reading(2000, 0), 0.0, 0.005)
    # 15 ms after it stood: 25400 steps/s2 x 0.015 s + 60 steps/s.
    assert replies.believe(1, reading(2000, 2048), 0.01, 0.015)
    assert replies.braking(1, 2048.0) == pytest.approx(441.0**2 / (2 * BRAKING_STEPS_S2))
    assert replies.braking(1, -2048.0) == -replies.braking(1, 2048.0)
    assert replies.braking(1, 300.0) == pytest.approx(300.0**2 / (2 * BRAKING_STEPS_S2))
    # 9 degrees is what no servo is believed to have turned, after however long.
    assert not replies.believe(1, reading(2100, 0), 9.0, 9.005)
    assert replies.believe(1, reading(2102, 0), 9.006, 9.011)


def fall(bus: ServoBus, steps: int) -> Servo:
    """The second servo has lost its supply for a moment, and the arm its height."""
    servo = bus.servo(2)
    servo.set(sts.TORQUE_ENABLE, 0)
    servo.set(sts.GOAL_POSITION, 0)
    servo._position -= steps
    return servo


@pytest.mark.parametrize("steps", [60, 680])
def test_a_servo_that_let_go_and_fell_is_not_sent_back_up(
    bus: ServoBus, arm: So101, steps: int
) -> None:
    """However far it is from where it was heard last, and held."""
    read(arm)
    arm.hold()
    before = bus.servo(2).get(sts.GOAL_POSITION)
    fallen = fall(bus, steps)
    arm.hold()
    assert fallen.torque
    assert abs(fallen.get(sts.GOAL_POSITION) - (before - steps)) <= 1


def test_a_servo_that_comes_to_after_it_was_asked_is_told_nothing(
    bus: ServoBus, arm: So101
) -> None:
    """It did not answer, and would hear the goal that it was held at."""
    read(arm)
    arm.hold()
    before = bus.servo(2).get(sts.GOAL_POSITION)
    honest, fallen = bus._sync_read, fall(bus, 60)
    deaf = iter([True])

    def sync_read(start: int, size: int, numbers: bytes) -> bytes:
        fallen.silent = next(deaf, False)
        reply = honest(start, size, numbers)
        fallen.silent = False
        return reply

    bus._sync_read = sync_read  # type: ignore[method-assign]
    arm.hold()
    assert fallen.torque
    assert abs(fallen.get(sts.GOAL_POSITION) - (before - 60)) <= 1


def test_an_arm_whose_supply_was_cut_is_given_no_power_by_hold(
    bus: ServoBus, arm: So101, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watchdog asks for hold on and on: an emergency stop that is reset must not power the arm."""
    monkeypatch.setattr(so101, "POWER_GAP_S", 0.2)
    read(arm)
    for servo in bus.servos.values():
        servo.silent = True
        servo.set(sts.TORQUE_ENABLE, 0)
        servo.set(sts.GOAL_POSITION, 0)
    with pytest.raises(DeviceError, match="hold can't be verified"):
        arm.hold()
    time.sleep(0.3)
    for servo in bus.servos.values():
        servo._position -= 200
        servo.silent = False
    for _ in range(3):
        with pytest.raises(DeviceError, match=r"hold gives no power back: servo 1 .* had none for"):
            arm.hold()
    assert not any(servo.torque for servo in bus.servos.values())


def test_a_servo_that_hold_gave_its_power_back_is_a_fault(bus: ServoBus, arm: So101) -> None:
    """Hold may look before the next reading does: the arm has fallen all the same."""
    read(arm)
    fallen = fall(bus, 300)
    arm.hold()
    assert fallen.torque
    for _ in range(2):
        with pytest.raises(
            DeviceError, match=r"servo 2 \(shoulder_lift\) has let go of its torque"
        ):
            arm.read()


def test_a_servo_that_is_not_heard_is_given_no_goal(bus: ServoBus, arm: So101) -> None:
    """It may have lost its supply and fallen: a goal that finds it awake gives it power, and sends it up."""
    read(arm)
    asked = MIDDLE + 5.0
    bus.servo(2).silent = True
    with pytest.raises(Glitch):
        arm.read()
    fallen = fall(bus, 300)
    fallen.silent = False
    arm.write(asked)
    goals = arm.units.steps(asked).tolist()
    until(lambda: bus.servo(6).get(sts.GOAL_POSITION) == goals[5])  # one packet tells them all
    goals[1] = 0
    assert [servo.get(sts.GOAL_POSITION) for servo in bus.servos.values()] == goals
    assert not fallen.torque
    with pytest.raises(DeviceError, match=r"servo 2 \(shoulder_lift\) has let go of its torque"):
        arm.read()


def test_a_servo_that_is_heard_again_goes_on(bus: ServoBus, arm: So101) -> None:
    """A reply was lost, no more: the next command counts for it, too."""
    read(arm)
    asked, bus.servo(2).silent = MIDDLE + 5.0, True
    with pytest.raises(Glitch):
        arm.read()
    bus.servo(2).silent = False
    arm.write(asked)
    read(arm)

    def there() -> bool:
        arm.write(asked)
        return bool(bus.servo(2).get(sts.GOAL_POSITION) == arm.units.steps(asked)[1])

    until(there)
    read(arm)


def test_one_that_missed_commands_catches_up_no_faster_than_twice_its_limit(
    bus: ServoBus, arm: So101
) -> None:
    """In one goal they would be a jump at the servo's own acceleration, which the gate never allowed."""
    read(arm)
    most = 2.0 * 120.0 / 360.0 * sts.STEPS_A_TURN  # steps a second

    def goal() -> int:
        return bus.servo(1).get(sts.GOAL_POSITION)

    bus.servo(1).silent = True
    with pytest.raises(Glitch):
        arm.read()
    for ahead in (3.0, 6.0, 9.0, 12.0):
        arm.write(MIDDLE + ahead * FIRST)
    bus.servo(1).silent = False
    read(arm)
    before, written_s, wanted = goal(), arm._written_s, int(arm.units.steps(MIDDLE + 12 * FIRST)[0])
    assert abs(wanted - before) > 130
    while (at := goal()) != wanted:
        arm.write(MIDDLE + 12.0 * FIRST)
        told = int(arm._goals[0]) if arm._goals is not None else 0
        until(lambda told=told: goal() == told)
        assert abs(told - at) <= most * min(arm._written_s - written_s, 2.0 / 10.0) + 1
        assert abs(told - wanted) < abs(at - wanted)
        written_s = arm._written_s
        time.sleep(0.005)
    arm.write(MIDDLE + 14.0 * FIRST)  # and from then on as ever
    until(lambda: goal() == int(arm.units.steps(MIDDLE + 14 * FIRST)[0]))


LIFTED = MIDDLE + np.array([0.0, 90.0, 0.0, 0.0, 0.0, 0.0])


def on_its_way(bus: ServoBus, arm: So101) -> int:
    """The second servo moves, has been read moving, and then nothing more is heard for 35 degrees."""
    bus.servo(2).set(sts.GOAL_VELOCITY, 600)  # it is still under way when a busy machine looks
    arm.write(LIFTED)
    until(lambda: read(arm).velocities[1] > 30.0)
    return round(bus.servo(2).position)


def go_on_unheard(bus: ServoBus, arm: So101, since: int) -> int:
    def gone() -> bool:
        with pytest.raises(Glitch):
            arm.read()
        bus.advance()
        return bus.servo(2).position > since + 400

    until(gone)
    return round(bus.servo(2).position)


def test_servos_that_a_dead_one_silences_are_held_where_they_are(bus: ServoBus, arm: So101) -> None:
    """On a bus where each waits for the one before it: they listen, and are asked one by one."""
    bus.faults.chained = True
    since = on_its_way(bus, arm)
    bus.servo(1).silent = True
    at = go_on_unheard(bus, arm, since)
    with pytest.raises(DeviceError, match=r"hold can't be verified: servo 1 \(shoulder_pan\) did"):
        arm.hold()
    assert bus.servo(2).get(sts.GOAL_POSITION) >= at - 5, "thrown back along its path"
    assert all(servo.torque for servo in bus.servos.values())


def test_a_servo_that_is_not_heard_keeps_its_last_goal(bus: ServoBus, arm: So101) -> None:
    """It listens: where it was heard last is far behind it."""
    since, asked = on_its_way(bus, arm), int(arm.units.steps(LIFTED)[1])
    honest = bus._reply
    bus._reply = lambda one, data: b"" if one.id == 2 else honest(one, data)  # type: ignore[method-assign]
    go_on_unheard(bus, arm, since)
    with pytest.raises(DeviceError, match=r"hold can't be verified: servo 2 \(shoulder_lift\) did"):
        arm.hold()
    assert bus.servo(2).get(sts.GOAL_POSITION) == asked
    bus._reply = honest  # type: ignore[method-assign]
    arm.hold()  # heard again, it is stopped and read back
    goal = bus.servo(2).get(sts.GOAL_POSITION)
    assert since + 400 <= goal <= asked


def test_what_was_heard_in_a_round_that_failed_is_not_forgotten(bus: ServoBus, arm: So101) -> None:
    since = on_its_way(bus, arm)
    bus.servo(6).silent = True
    go_on_unheard(bus, arm, since)
    with pytest.raises(Glitch):
        arm.read()
    assert arm._readings[2].position > since + 400
