"""A chain of joints in YAML is where MuJoCo says that the bench's arm is; what is no chain is refused."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest

from calibration import chain, rigid
from contracts.errors import ConfigError
from contracts.specs import SO101_JOINTS
from runtime.arms.sim import SO101_ACTION
from runtime.bench import World, arm
from runtime.bench.backend import load_mujoco


def test_the_so101_is_where_mujoco_says_it_is() -> None:
    world = World()
    try:
        world.reset("open_drawer", 0)
        mj = load_mujoco()
        model = mj.MjModel.from_xml_string(world.model_xml())
    finally:
        world.close()
    data, random = mj.MjData(model), np.random.default_rng(0)
    known = chain.chain_of(SO101_ACTION, None)
    for _ in range(200):
        joints = random.uniform(arm.LOWER, arm.UPPER)
        for name, value in zip(arm.JOINT_NAMES[:5], arm.to_sim(joints), strict=False):
            data.qpos[model.joint(name).qposadr[0]] = value
        mj.mj_kinematics(model, data)
        gripper = data.body("gripper")
        truth = rigid.transform(gripper.xmat.reshape(3, 3), gripper.xpos)
        found = known.base_T_hand(SO101_JOINTS, joints.tolist())
        assert rigid.distance_mm(found, truth) < 1e-6
        assert rigid.angle_deg(found, truth) < 1e-6


def test_fixed_turns_zeros_and_sliding_joints_are_as_urdf_has_them(tmp_path: Path) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(
        "joints:\n"
        "  - {joint: lift, axis: [0, 0, 2], slides: true, zero: 5, place_mm: [10, 0, 0]}\n"
        "  - {joint: turn, axis: [1, 0, 0], turn_deg: [90, 0, 90], zero: 10}\n"
        "hand: {place_mm: [0, 100, 0]}\n"
    )
    spec = msgspec.structs.replace(
        SO101_ACTION,
        **{"names": ("turn", "lift"), "units": ("deg", "mm")},
        **{name: (0.0, 0.0) for name in ("low", "high", "max_velocity", "max_acceleration")},
    )
    found = chain.chain_of(spec, path).base_T_hand(("turn", "lift"), (10.0, 25.0))
    # rpy (90, 0, 90): first about x, then about the fixed z.
    turned = rigid.rotation_of([0, 0, np.pi / 2]) @ rigid.rotation_of([np.pi / 2, 0, 0])
    assert found[:3, :3] == pytest.approx(turned, abs=1e-12)
    assert found[:3, 3] == pytest.approx([0.01, 0, 0.02] + turned @ [0, 0.1, 0], abs=1e-12)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("joints: []\n", "one or more"),
        ("joints: [{joint: elbow, axis: [0, 0, 1]}]\n", "names a joint that the arm lacks"),
        ("joints: [{joint: gripper.pos, axis: [0, 0, 1]}]\n", "unit of gripper.pos"),
        ("joints: [{joint: wrist_roll.pos, axis: [0, 0, 0]}]\n", "with an axis"),
        ("joints: [{joint: wrist_roll.pos, axis: [0, 0, .nan]}]\n", "finite"),
        ("joints: [{joint: wrist_roll.pos, axis: [0, 0, 1], mm: 3}]\n", "no chain of joints"),
        ("joints: {", "not YAML"),
    ],
)
def test_what_is_no_chain_of_this_arm_is_refused(text: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / "arm.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        chain.chain_of(SO101_ACTION, path)


def test_an_unknown_arm_needs_one(tmp_path: Path) -> None:
    spec = msgspec.structs.replace(SO101_ACTION, names=("a", "b", "c", "d", "e", "f"))
    with pytest.raises(ConfigError, match="give --chain"):
        chain.chain_of(spec, None)
    with pytest.raises(ConfigError, match="is no chain of joints"):
        chain.chain_of(spec, tmp_path / "nothere.yaml")
