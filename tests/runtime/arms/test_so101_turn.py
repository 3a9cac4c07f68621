"""A servo counts one turn. A joint that may go all the way round is kept from the end of it, where one step
too far reads as the other end."""

from __future__ import annotations

import numpy as np
import pytest
from so101_rig import MIDDLE, Make, arm, follow, make, never_powered, read

from contracts.errors import DeviceError
from runtime.arms import Glitch, sts
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import CALIBRATION, ServoBus

__all__ = ["Make", "arm", "make"]
ROLL, ROLLED = 5, MIDDLE - np.array([0.0, 0.0, 0.0, 0.0, 180.0, 0.0])


def show(bus: ServoBus, steps: int) -> None:
    """The wrist reads so."""
    bus.advance()
    bus.servo(ROLL).sag = bus.servo(ROLL).position - steps


@pytest.mark.parametrize("normalised", [False, True])
def test_a_joint_that_turns_all_the_way_ends_5_degrees_before(make: Make, normalised: bool) -> None:
    arm = make(normalised=normalised)
    whole = 100.0 if normalised else 180.0
    for end in (-whole, whole):
        steps = arm.units.steps(np.array([0.0, 0.0, 0.0, 0.0, end, 50.0]))[ROLL - 1]
        assert steps in (57, 4095 - 57)
    # Every joint keeps the range by which packages know it, its zero and its scale.
    ends = np.array([arm.spec().low, arm.spec().high])
    low, high = (
        np.array([float(getattr(c, end)) for c in CALIBRATION.values()])
        for end in ("range_min", "range_max")
    )
    assert arm.units.of(low) == pytest.approx(ends[0])
    assert arm.units.of(high) == pytest.approx(ends[1])
    assert arm.units.of(low)[ROLL - 1] == pytest.approx(-whole)
    assert arm.units.of((low + high) / 2)[:5] == pytest.approx(0.0)


def test_a_command_to_the_end_of_the_turn_goes_no_further(bus: ServoBus, arm: So101) -> None:
    arm.write(ROLLED)
    read(arm)
    assert bus.servo(ROLL).get(sts.GOAL_POSITION) == 57


@pytest.mark.parametrize("steps", [5, 4090])
def test_a_joint_at_the_end_of_its_turn_gets_no_power(
    bus: ServoBus, make: Make, steps: int
) -> None:
    show(bus, steps)
    arm = make()
    arm.open()
    with pytest.raises(
        DeviceError, match=r"servo 5 \(wrist_roll\) stands at the end of its turn"
    ) as caught:
        arm.enable()
    assert (
        f"expected 57 to 4038 steps: beyond, it could turn the whole way round, found {steps}"
        in (str(caught.value))
    )
    assert "turn the joint by hand" in str(caught.value)
    never_powered(bus)


def test_a_joint_that_goes_over_the_end_of_its_turn_is_a_fault_and_is_held_there(
    bus: ServoBus, arm: So101
) -> None:
    arm.write(ROLLED)
    follow(arm, ROLLED + np.array([0.0, 0.0, 0.0, 0.0, 5.0, 0.0]), 5.0)
    show(bus, 4090)
    with pytest.raises(
        DeviceError, match=r"servo 5 \(wrist_roll\) went over the end of its turn"
    ) as caught:
        read(arm)
    assert not isinstance(caught.value, Glitch)
    with pytest.raises(DeviceError, match="over the end of its turn"):
        read(arm)  # that it stands still there does not mend it
    arm.hold()
    assert bus.servo(ROLL).get(sts.GOAL_POSITION) == 4038  # not 57, the whole way round


def test_a_joint_turned_over_the_end_by_hand_before_it_has_power_is_no_fault(
    bus: ServoBus, make: Make
) -> None:
    show(bus, 5)
    arm = make()
    arm.open()
    read(arm)
    show(bus, 4090)
    read(arm)
    show(bus, 2047)
    arm.enable()
    assert read(arm).torque
