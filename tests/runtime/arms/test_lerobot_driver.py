"""The `lerobot` arm with a robot of the test's own in our program in LeRobot's Python: what it says of
itself, and that hold stops an arm and never takes a moving one for held.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from robots import until

from contracts.errors import ConfigError, DeviceError
from runtime import arms
from runtime.arms import Glitch, lerobot
from runtime.arms.examine import examine
from runtime.arms.lerobot import LeRobotArm
from runtime.config import ArmSection, load_config

ROBOT = """
import json, os, sys, time
sys.path.insert(0, os.environ["ARMS"])
import lerobot_child

NAMES = [os.environ.get("JOINT", "pan.pos"), "gripper.pos"]

class Arm:
    name = "own"
    is_calibrated = is_connected = True
    def __init__(self):
        self.at, self.speed, self.told = [0.0, 50.0], 0.0, time.monotonic()
        self.lies = 1
    def faults(self):
        return json.load(open(os.environ["FAULTS"]))
    def connect(self):
        pass
    def get_observation(self):
        faults = self.faults()
        if "at" in faults and not faults.get("read"):
            return dict(zip(NAMES, [faults["at"], self.at[1]]))
        if faults.get("read"):
            raise ConnectionError("Failed to sync read")
        moved = faults.get("speed", 0.0) * (time.monotonic() - self.told)
        if faults.get("lie") and self.lies:
            self.lies, moved = 0, moved + faults["lie"]
        return dict(zip(NAMES, [self.at[0] + moved - faults.get("sag", 0.0), self.at[1]]))
    def send_action(self, action):
        faults = self.faults()
        if faults.get("write"):
            raise ConnectionError("Failed to sync write")
        with open(os.environ["SAID"], "a") as said:
            said.write(json.dumps(action) + "\\n")
        self.at, self.told = [action[name] for name in NAMES], time.monotonic()
        return action

class Own(lerobot_child.Robot):
    def describe(self, request):
        self.device = Arm()
        found = {"name": "own", "action": NAMES, "observation": NAMES}
        return found | {"use_degrees": self.device.faults().get("use_degrees")}

lerobot_child.KINDS["robot"] = Own
lerobot_child.main()
"""
LIMITS: dict[str, Any] = {
    "low": [-90.0, 0.0],
    "high": [90.0, 100.0],
    "velocity": [90.0, 200.0],
    "acceleration": [900.0, 900.0],
}


class Own:
    """A robot on which a test sets faults, and what it was told."""

    def __init__(self, folder: Path) -> None:
        self._faults, self._said = folder / "faults", folder / "said"
        self.fault()
        self._said.touch()

    def fault(self, **faults: float) -> None:
        now = self._faults.with_suffix(".new")
        now.write_text(json.dumps(faults))
        now.replace(self._faults)

    @property
    def told(self) -> list[float]:
        """The first joint's goals."""
        lines = self._said.read_text().splitlines()
        return [next(iter(json.loads(line).values())) for line in lines]


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Own:
    (tmp_path / "robot.py").write_text(ROBOT)
    for name, path in (
        ("FAULTS", tmp_path / "faults"),
        ("SAID", tmp_path / "said"),
        ("ARMS", Path(arms.__file__).parent),
    ):
        monkeypatch.setenv(name, str(path))
    monkeypatch.setattr(lerobot, "CHILD", tmp_path / "robot.py")
    return Own(tmp_path)


def make(kind: str = "own", **options: Any) -> LeRobotArm:
    run: Any = SimpleNamespace(config=load_config(None, ["gate.standstill_s=0.3"]))
    return LeRobotArm(
        run, {"type": kind}, python=sys.executable, answer_s=5.0, **{**LIMITS, **options}
    )


@pytest.fixture
def arm(own: Own) -> Iterator[LeRobotArm]:
    arm = make()
    arm.open()
    arm.enable()
    yield arm
    arm.close()


def watched(arm: LeRobotArm, seconds: float = 0.6) -> None:
    until_s = time.monotonic() + seconds
    while time.monotonic() < until_s:
        arm.read()
        time.sleep(0.01)


def test_its_own_commands_are_not_given_out_as_what_was_read_back(arm: LeRobotArm) -> None:
    arm.write(np.array([10.0, 40.0]))
    assert arm.read().targets is None
    assert arm.read().positions.tolist() == [10.0, 40.0]


def test_an_arm_that_moves_on_in_hold_is_a_fault(arm: LeRobotArm, own: Own) -> None:
    arm.write(np.array([10.0, 40.0]))
    arm.hold()
    until(lambda: arm.read() is not None and arm._stopping is None)  # it stands
    own.fault(speed=10.0)
    arm.hold()
    watched(arm)  # whoever moves it after it was seen to stand is not the driver's affair
    arm.write(np.array([10.0, 40.0]))
    arm.hold()
    with pytest.raises(DeviceError, match=r"hold can't be verified: .*pan\.pos moves at \d+\.\d/s"):
        watched(arm, 20.0)


def test_a_lost_reading_does_not_keep_a_stop_from_the_arm(arm: LeRobotArm, own: Own) -> None:
    arm.write(np.array([10.0, 40.0]))
    own.fault(sag=8.0)
    arm.read()
    own.fault(sag=8.0, read=1)
    with pytest.raises(Glitch):
        arm.read()
    own.fault(sag=8.0)
    arm.hold()
    assert own.told[1:] == [2.0]
    own.fault(write=1)
    with pytest.raises(DeviceError, match="Failed to sync write"):
        arm.hold()


def test_an_arm_that_went_on_unread_is_not_thrown_back(arm: LeRobotArm, own: Own) -> None:
    """A servo died: LeRobot reads all of them or none, and the others take what they are sent."""
    arm.read()
    own.fault(read=1)
    for goal in (10.0, 20.0, 30.0):
        arm.write(np.array([goal, 40.0]))
    for _ in range(2):
        with pytest.raises(Glitch, match="Failed to sync read"):
            arm.hold()
    assert own.told == [10.0, 20.0, 30.0], "they have that goal, and nothing else is known"
    own.fault()
    arm.hold()
    assert own.told[3:] == [30.0]


def test_an_arm_that_fell_while_it_could_not_be_read_is_not_sent_up(
    arm: LeRobotArm, own: Own
) -> None:
    """Its supply was gone for a moment, in which LeRobot reads none of its servos. A goal is power again."""
    arm.write(np.array([40.0, 40.0]))
    arm.read()
    own.fault(read=1)
    with pytest.raises(Glitch, match="Failed to sync read"):
        arm.read()
    with pytest.raises(Glitch, match="can't be read is told nothing"):
        arm.write(np.array([41.0, 40.0]))
    own.fault(sag=60.0)
    with pytest.raises(DeviceError, match=r"pan\.pos went away from its goal"):
        arm.write(np.array([42.0, 40.0]))  # it is read before
    for _ in range(2):
        with pytest.raises(DeviceError, match=r"pan\.pos went away from its goal .* found -20\.0"):
            arm.read()
    assert own.told == [40.0]
    arm.hold()
    assert own.told == [40.0, -20.0]


@pytest.mark.parametrize("held", [False, True])
def test_a_fallen_arm_that_hold_gave_its_power_back_is_a_fault(
    arm: LeRobotArm, own: Own, held: bool
) -> None:
    """Hold may look before the next reading does: the arm has fallen all the same."""
    arm.write(np.array([40.0, 40.0]))
    arm.read()
    if held:
        arm.hold()
    own.fault(read=1)
    with pytest.raises(Glitch):
        arm.hold() if held else arm.read()
    own.fault(sag=60.0)
    arm.hold()
    assert own.told[-1] == -20.0
    own.fault(at=-20.0)
    for act in (lambda: arm.write(np.array([41.0, 40.0])), arm.read, arm.read):
        with pytest.raises(DeviceError, match=r"pan\.pos went away from its goal .* found -20\.0"):
            act()
    assert own.told[-1] == -20.0


def test_one_lost_reply_costs_no_command(arm: LeRobotArm, own: Own) -> None:
    """Of a loop of 10 Hz two that are lost in a row are a fault already."""
    arm.write(np.array([40.0, 40.0]))
    own.fault(read=1)
    with pytest.raises(Glitch):
        arm.read()
    own.fault()
    arm.write(np.array([41.0, 40.0]))
    assert own.told == [40.0, 41.0]


def test_an_arm_that_is_read_again_where_it_was_goes_on(arm: LeRobotArm, own: Own) -> None:
    """Sagging below its goal, and far from it: it follows slowly."""
    own.fault(at=0.0)
    arm.write(np.array([40.0, 40.0]))
    arm.read()
    own.fault(read=1)
    with pytest.raises(Glitch):
        arm.read()
    own.fault(at=4.0)
    arm.read()
    arm.write(np.array([41.0, 40.0]))
    assert own.told == [40.0, 41.0]


def test_one_reading_that_is_broken_sends_no_joint_away(arm: LeRobotArm, own: Own) -> None:
    """Its sum was right by chance."""
    arm.write(np.array([30.0, 40.0]))
    arm.read()
    own.fault(lie=45.0)
    arm.hold()
    assert own.told == [30.0, 30.0]


def test_an_arm_that_fell_in_hold_is_not_sent_back_up(arm: LeRobotArm, own: Own) -> None:
    """Its supply was gone for a moment. With the next goal it has power again."""
    arm.write(np.array([40.0, 40.0]))
    arm.hold()
    own.fault(read=1)
    with pytest.raises(Glitch):
        arm.hold()
    own.fault(sag=60.0)
    arm.hold()
    assert own.told == [40.0, 40.0, -20.0]


def test_holding_a_loaded_arm_again_and_again_does_not_lower_it(arm: LeRobotArm, own: Own) -> None:
    arm.write(np.array([40.0, 40.0]))
    own.fault(sag=5.0)
    for _ in range(10):
        arm.hold()
        arm.read()
    assert set(own.told[1:]) == {35.0}


def test_before_it_was_enabled_a_hold_commands_nothing(own: Own) -> None:
    arm = make()
    arm.open()
    arm.hold()
    arm.close()
    assert own.told == []


@pytest.mark.parametrize("broken", [{"lie": 45.0}, {"sag": 45.0, "read": 1}])
def test_before_its_first_command_no_broken_reading_sends_it_away(
    arm: LeRobotArm, own: Own, broken: dict[str, float]
) -> None:
    """There is no goal of ours to keep: it stands where LeRobot powered it."""
    own.fault(sag=broken.get("sag", 0.0))
    arm.read()
    own.fault(**broken)
    arm.hold()
    assert own.told == []


def test_an_arm_that_gives_percent_is_not_taken_for_one_in_degrees(own: Own) -> None:
    own.fault(use_degrees=False)
    arm = make()
    arm.close()
    assert arm.spec().units == ("percent", "percent")
    assert arm.degrees is None
    with pytest.raises(ConfigError, match=r"in other units than this arm: pan\.pos"):
        make(units=["deg", "percent"])
    section = ArmSection(
        kind="lerobot", options={"robot": {"type": "own"}, "python": sys.executable, **LIMITS}
    )
    (line,) = examine(section)
    assert line.ok and "gate.workspace_* limits nothing" in line.what + line.found
    own.fault(use_degrees=True)
    arm = make()
    arm.close()
    assert arm.spec().units == ("deg", "percent")


@pytest.mark.parametrize(("degrees", "whole", "end"), [(False, 100.0, 97.2), (True, 180.0, 175.0)])
def test_the_wrist_of_an_so101_is_kept_from_the_end_of_its_turn(
    own: Own, monkeypatch: pytest.MonkeyPatch, degrees: bool, whole: float, end: float
) -> None:
    """A step beyond it, its servo would turn the whole way round."""
    own.fault(use_degrees=degrees)
    for kind, side, told in (
        ("so101_own", "", end),
        ("bi_so_own", "left_", end),
        ("own", "", whole),
    ):
        monkeypatch.setenv("JOINT", f"{side}wrist_roll.pos")
        arm = make(kind, low=[-whole, 0.0], high=[whole, 100.0])
        arm.open()
        assert arm.spec().high[0] == whole, "packages and data sets know the arm by it"
        for goal in (whole, -whole, 90.0):
            arm.write(np.array([goal, 50.0]))
        arm.close()
        assert own.told[-3:] == pytest.approx([told, -told, 90.0], abs=0.1)


def test_a_wrist_that_stands_at_the_end_of_its_turn_gets_no_command(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one, to where it stands, would be clipped: 4 degrees at the servo's full speed."""
    monkeypatch.setenv("JOINT", "wrist_roll.pos")
    own.fault(at=-179.0, use_degrees=True)
    arm = make("so101_own", low=[-180.0, 0.0], high=[180.0, 100.0])
    arm.open()
    with pytest.raises(DeviceError, match=r"stands at the end of its turn: .* found -179\.0 deg"):
        arm.enable()
    own.fault(at=-175.5, use_degrees=True)
    arm.enable()
    own.fault(at=179.0, use_degrees=True)
    with pytest.raises(
        DeviceError, match=r"went over the end of its turn: .* -175\.5 and then 179\.0"
    ):
        arm.read()
    arm.close()
    assert own.told == []


def test_a_robot_that_is_driven_by_speeds_is_refused(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A base that is held at the speed it has drives on, and seems to stand: its reading doesn't change."""
    for name in ("x.vel", "mobile_base.vtheta"):  # LeKiwi's and Reachy 2's
        monkeypatch.setenv("JOINT", name)
        with pytest.raises(ConfigError, match=rf"LeRobot's own is driven by speeds: {name}"):
            make()
        with pytest.raises(ConfigError, match=rf"LeRobot's own is driven by speeds: {name}"):
            make(joints=[name, "gripper.pos"])
    alone = {name: values[1:] for name, values in LIMITS.items()}
    arm = make(joints=["gripper.pos"], **alone)
    arm.close()
    assert arm.spec().names == ("gripper.pos",)


def test_what_may_be_no_position_is_used_only_where_it_is_named(
    own: Own, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JOINT", "pan.q")
    with pytest.raises(ConfigError, match=r"does not say what these are: pan\.q"):
        make()
    arm = make(joints=["pan.q", "gripper.pos"])
    arm.close()
    assert arm.spec().names == ("pan.q", "gripper.pos")


def test_limits_that_are_no_numbers_are_refused(own: Own) -> None:
    with pytest.raises(ConfigError, match=r"max_velocity of pan\.pos"):
        make(velocity=[float("nan"), 100.0])
