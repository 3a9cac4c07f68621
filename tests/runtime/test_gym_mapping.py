"""Joints in observations, commands as actions, pictures and truth: pure, without Gymnasium."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from contracts.errors import ConfigError, DeviceError
from runtime.gym.mapping import JointMap, leaves, look_up, offers, picture, truth
from runtime.gym.section import (
    ActionSection,
    GymnasiumSection,
    JointSection,
    ObservationSection,
    TaskSection,
    wrong,
)

SPACE = SimpleNamespace(
    low=np.array([-1.0, -1.0, 0.0, 0.0]), high=np.ones(4), dtype=np.dtype(np.float32)
)
SEEN = {"state": np.array([0.1, 0.2], np.float32), "grip": {"open": np.array([-1.0])}}


def joint(key: str, seen: ObservationSection, acts: ActionSection) -> JointSection:
    return JointSection(
        unit="mm",
        low=0.0,
        high=100.0,
        max_velocity=10.0,
        max_acceleration=100.0,
        observation=seen,
        action=acts,
    )


def section(**changes: object) -> GymnasiumSection:
    joints = {
        "x.pos": joint(
            "x.pos",
            ObservationSection(key="state", index=0, scale=1000.0),
            ActionSection(index=0, command="step", scale=10.0),
        ),
        "y.pos": joint(
            "y.pos",
            ObservationSection(key="state", index=1, scale=1000.0),
            ActionSection(index=1, command="pull", scale=50.0),
        ),
        "gripper.pos": joint(
            "gripper.pos",
            ObservationSection(key="grip.open", index=0, scale=50.0, zero=50.0),
            ActionSection(index=3, scale=100.0, zero=0.0),
        ),
    }
    given: dict[str, object] = {
        "id": "Any-v0",
        "rate_hz": 20.0,
        "joints": joints,
        "tasks": {"lift-it": TaskSection(instruction="lift it")},
    }
    return GymnasiumSection(**{**given, **changes})  # type: ignore[arg-type]


def mapped() -> JointMap:
    found = JointMap(section())
    found.check(SEEN, SPACE)
    found.begin(found.positions(SEEN))
    return found


def test_positions_are_scaled_and_named_by_dots():
    assert mapped().positions(SEEN) == pytest.approx([100.0, 200.0, 0.0])


def test_every_way_to_command():
    joints, positions = mapped(), np.array([100.0, 200.0, 0.0])
    action = joints.action(np.array([105.0, 175.0, 40.0]), positions)
    assert action.dtype == np.float32
    assert action == pytest.approx([0.5, -0.5, 0.0, 0.4])
    # What was commanded counts, wherever the joint is by now; a pull looks at the joint, again and again.
    action = joints.action(np.array([105.0, 175.0, 40.0]), positions)
    assert action == pytest.approx([0.0, -0.5, 0.0, 0.4])


def test_what_a_step_can_not_take_at_once_the_next_ones_do():
    joints, positions = mapped(), np.array([100.0, 200.0, 0.0])
    targets = np.array([125.0, 900.0, 150.0])
    steps = [float(joints.action(targets, positions)[0]) for _ in range(4)]
    assert steps == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert joints.action(targets, positions)[1:] == pytest.approx([1.0, 0.0, 1.0])


def test_a_new_scene_forgets_what_was_commanded():
    joints = mapped()
    joints.action(np.array([125.0, 200.0, 0.0]), np.array([100.0, 200.0, 0.0]))
    joints.begin(np.array([30.0, 200.0, 0.0]))
    assert joints.action(np.array([35.0, 200.0, 0.0]), np.array([30.0, 200.0, 0.0]))[0] == 0.5


@pytest.mark.parametrize(
    ("observation", "space", "words"),
    [
        ({"state": SEEN["state"]}, SPACE, "observes no 'grip.open'.*state float32"),
        ({**SEEN, "state": np.zeros(1)}, SPACE, "y.pos: no entry 1 in 'state'.*float64"),
        ({**SEEN, "state": np.zeros((2, 2))}, SPACE, "no entry 0 in 'state'"),
        (np.zeros(3), SPACE, "observes no 'state'.*one array float64"),
        (SEEN, SimpleNamespace(low=np.zeros(3), high=np.ones(3), dtype="f4"), "no entry 3.*0 to 2"),
        (SEEN, SimpleNamespace(n=5), "can't be mapped.*Box"),
    ],
)
def test_what_does_not_fit_is_told_with_what_there_is(observation, space, words):
    with pytest.raises(ConfigError, match=words):
        JointMap(section()).check(observation, space)


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        ({"state": SEEN["state"]}, "gripper.pos.*entry 0 in 'grip.open', found state float32"),
        ({**SEEN, "state": np.zeros(1)}, "y.pos.*entry 1 in 'state', found state float64.1."),
        ({**SEEN, "state": np.zeros((2, 2))}, "x.pos.*found state float64.2, 2."),
        ({**SEEN, "state": {"now": np.zeros(2)}}, "x.pos.*found state.now"),
        ({**SEEN, "state": np.array(["a", "b"])}, "x.pos.*row of numbers"),
        (None, "x.pos.*found one array object"),
    ],
)
def test_observations_that_change_are_told_and_raise_nothing_else(observation, words):
    joints = mapped()
    with pytest.raises(DeviceError, match=words):
        joints.positions(observation)
    assert joints.positions(SEEN) == pytest.approx([100.0, 200.0, 0.0])


def test_names_with_dots_and_what_is_offered():
    tree = {"observation.state": np.zeros(2), "a": {"b": {"c": np.ones(1)}}}
    assert look_up(tree, "observation.state") is tree["observation.state"]
    assert look_up(tree, "a.b.c")[0] == 1.0
    for absent in ("a.b.d", "a.c", "state", "a.b.c.d"):
        with pytest.raises(KeyError):
            look_up(tree, absent)
    assert offers(leaves(tree)) == "observation.state float64[2], a.b.c float64[1]"
    assert "and 8 more" in offers({str(n): n for n in range(20)})
    assert offers({}) == "nothing"


def test_pictures_are_pictures_of_the_configured_size():
    right = np.zeros((48, 64, 3), np.uint8)
    assert picture(right, "it", 64, 48) is right
    for found, words in (
        (np.zeros((64, 48, 3), np.uint8), "expected 64x48, as configured, found 48x64"),
        (np.zeros((48, 64, 3)), "uint8.*float64"),
        (np.zeros((48, 64, 4), np.uint8), "uint8"),
        (None, "NoneType"),
        ([right], "uint8"),
    ):
        with pytest.raises(ConfigError, match=words):
            picture(found, "it", 64, 48)


@pytest.mark.parametrize(
    ("value", "told"), [(True, True), (np.float64(0.0), False), (np.ones(1), True), (0, False)]
)
def test_truth_is_read_from_info(value, told):
    assert truth({"a": {"success": value}}, "a.success") is told


def test_truth_that_is_not_there_is_told_with_what_is():
    with pytest.raises(ConfigError, match=r"no 'success'.*one of is_success, height"):
        truth({"is_success": 1, "height": 2}, "success")
    with pytest.raises(ConfigError, match="no yes or no"):
        truth({"success": [1, 2]}, "success")


@pytest.mark.parametrize(
    ("changes", "rate_hz", "task", "words"),
    [
        ({}, 8.0, "lift-it", "divided by a whole number"),
        ({}, 40.0, "lift-it", "divided by a whole number"),
        ({"rate_hz": 0.0}, 10.0, "lift-it", "rate_hz.*above 0"),
        ({"joints": {}}, 10.0, "lift-it", "one joint or more"),
        ({}, 10.0, "drop-it", "one of .'lift-it'"),
        ({"tasks": {"lift_it": TaskSection()}}, 10.0, "lift-it", "no instruction"),
    ],
)
def test_what_is_wrong_without_any_environment(changes, rate_hz, task, words):
    with pytest.raises(ConfigError, match=words):
        for error in wrong(section(**changes), rate_hz, task, ""):
            raise error


def test_a_right_section_is_right_and_two_joints_need_two_entries():
    assert not list(wrong(section(), 10.0, "lift_it", ""))
    assert not list(wrong(section(tasks={"a": TaskSection()}), 20.0, "a", "do it"))
    twice = dict(section().joints)
    twice["z.pos"] = twice["x.pos"]
    with pytest.raises(ConfigError, match=r"which moves 'x\.pos'"):
        raise next(wrong(section(joints=twice), 10.0, "lift-it", ""))
