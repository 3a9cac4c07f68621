"""Degrees and percent are never taken for one another: where an SO-101 in percent is in space, and what a
LeRobot arm's `use_degrees` says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from contracts.errors import ConfigError
from contracts.specs import SO101_JOINTS
from runtime.arms import degrees_of
from runtime.arms.lerobot_features import require_units, spec_of
from runtime.arms.sim import SO101_ACTION
from runtime.arms.so101 import So101
from runtime.bench.servo_bus import CALIBRATION, write_calibration
from runtime.cautions import Caution, cautions, sentences
from runtime.config import GateSection, load_config
from runtime.gate.kinematics import levers_for, points_for, so101_points
from runtime.gate.limits import inside_box, limits_of

RUN: Any = SimpleNamespace(config=load_config())
PERCENT = msgspec.structs.replace(SO101_ACTION, units=("percent",) * 6)


@pytest.mark.parametrize("inverted", [0, 1])
def test_an_so101_in_percent_of_its_range_is_where_it_is_in_degrees(
    tmp_path: Path, inverted: int
) -> None:
    """The gate's workspace is in metres, and most data sets of SO-100s are in percent."""
    path = tmp_path / "own.json"
    turned = {name: replace(one, drive_mode=inverted) for name, one in CALIBRATION.items()}
    write_calibration(path, turned)
    arms = [So101(RUN, "none", str(path), normalised=normalised) for normalised in (False, True)]
    in_degrees, in_percent = (
        limits_of(arm.spec(), GateSection(), 30.0, degrees_of(arm)) for arm in arms
    )
    assert in_percent.points is not None and in_degrees.points is so101_points
    low, high = arms[0].units.low_steps, arms[0].units.high_steps
    rng, out = np.random.default_rng(3), 0
    for _ in range(300):
        steps = rng.uniform(low, high)
        degrees, percent = (arm.units.of(steps).tolist() for arm in arms)
        expected = np.array(in_degrees.points(degrees))
        assert np.allclose(in_percent.points(percent), expected, atol=1e-9)
        assert inside_box(in_percent, percent) is inside_box(in_degrees, degrees)
        out += not inside_box(in_percent, percent)
        # A step of one unit moves no point by more than its lever.
        for joint, lever in enumerate(in_percent.levers):
            moved = list(percent)
            moved[joint] += 1.0
            off_m = np.linalg.norm(np.array(in_percent.points(moved)) - expected, axis=1).max()
            assert off_m <= lever + 1e-9
    assert 0 < out < 300


def test_joints_in_percent_of_which_nobody_says_more_are_nowhere() -> None:
    assert points_for(SO101_ACTION) is so101_points
    assert points_for(PERCENT) is None and levers_for(PERCENT) == ()
    assert points_for(SO101_ACTION, None) is None, "another arm with these joints' names"
    assert limits_of(PERCENT, GateSection(), 30.0).points is None


def test_a_lerobot_arm_has_the_units_and_limits_that_it_says_it_has() -> None:
    none: Any = ((),) * 5
    said = spec_of(SO101_JOINTS, none, 30.0, True, True)
    assert said.units == SO101_ACTION.units and said.low == SO101_ACTION.low
    said = spec_of(SO101_JOINTS, none, 30.0, False, True)
    assert said.units == ("percent",) * 6
    assert (said.low[0], said.high[0], said.low[5]) == (-100.0, 100.0, 0.0)
    # Koch and OMX: the same joints' names, other arms, in percent unless told otherwise.
    limits: Any = ((), (-90.0,) * 6, (90.0,) * 6, (90.0,) * 6, (900.0,) * 6)
    assert spec_of(SO101_JOINTS, limits, 30.0, False, False).units == ("percent",) * 6
    with pytest.raises(ConfigError, match=r"arm\.options\.low: expected 6 values"):
        spec_of(SO101_JOINTS, none, 30.0, True, False)


@pytest.mark.parametrize(("in_degrees", "units"), [(True, "percent"), (False, "deg")])
def test_units_that_a_lerobot_device_does_not_give_are_refused(
    in_degrees: bool, units: str
) -> None:
    names, given = ("pan.pos", "gripper.pos"), (units, "percent")
    with pytest.raises(ConfigError, match=r"robot is in other units .*pan\.pos") as caught:
        require_units(names, given, in_degrees, "arm.options.robot")
    assert f"use_degrees: {str(in_degrees).lower()}" in str(caught.value)
    require_units(names, given, None, "arm.options.robot")


def test_what_a_configuration_asks_for_in_vain_is_said_at_the_start() -> None:
    explores = load_config(None, ["policy.explore_deg=3"])
    in_degrees, in_percent = (
        limits_of(action, GateSection(), 30.0) for action in (SO101_ACTION, PERCENT)
    )
    assert cautions(explores, "refine", SO101_ACTION, in_degrees) == Caution(0)
    both = Caution.NO_WORKSPACE | Caution.NO_EXPLORATION
    assert cautions(explores, "refine", PERCENT, in_percent) == both
    assert cautions(explores, "evaluate", PERCENT, in_percent) == Caution.NO_WORKSPACE
    assert cautions(RUN.config, "refine", PERCENT, in_percent) & Caution.NO_WORKSPACE
    board: Any = SimpleNamespace(cautions=int(both))
    workspace, exploration = sentences(board)
    assert "gate.workspace_*" in workspace and "policy.explore_deg" in exploration
    board.cautions = 0
    assert sentences(board) == []
