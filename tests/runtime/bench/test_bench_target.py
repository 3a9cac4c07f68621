"""The printed board on the bench: OpenCV finds its corners where they are, on the table and at the hand."""

from __future__ import annotations

import numpy as np
import pytest

from calibration.boards import Board, Finder
from runtime.bench import World, WorldConfig
from runtime.bench.backend import load_mujoco
from runtime.bench.target import parse

BOARD = {"columns": 7, "rows": 5, "square_m": 0.024, "marker_m": 0.018}


def carrier_pose(world: World, at: str) -> np.ndarray:
    """world_T_what carries the board, by MuJoCo."""
    if at == "table":
        return np.eye(4)
    mj = load_mujoco()
    model = mj.MjModel.from_xml_string(world.model_xml())
    data = mj.MjData(model)
    data.qpos[:] = world.sight().qpos
    mj.mj_kinematics(model, data)
    pose = np.eye(4)
    pose[:3, :3] = data.body("gripper").xmat.reshape(3, 3)
    pose[:3, 3] = data.body("gripper").xpos
    return pose


@pytest.mark.parametrize(
    ("at", "camera", "more"),
    [
        ("table", "wrist", {}),
        ("hand", "front", {}),
        ("table", "wrist", {"rows": 6, "legacy": True, "square_m": 0.02, "marker_m": 0.015}),
        ("table", "wrist", {"dictionary": "DICT_5X5_100"}),
    ],
)
def test_its_corners_are_where_they_are(at: str, camera: str, more: dict) -> None:
    options = {**BOARD, **more, "at": at}
    world = World(WorldConfig(width=640, height=480, board=options))
    try:
        scene = world.reset("open_drawer", 3)
        assert not scene.objects and scene.fixture is None
        picture, depth = world.render(camera)
        target = parse(options)
        assert target is not None
        board_pose = carrier_pose(world, at) @ target.parent_T_board
        pose = np.linalg.inv(world.extrinsics(camera)) @ board_pose
        view = world.intrinsics(camera)
    finally:
        world.close()
    board = Board(**{**BOARD, **more})
    found = Finder(board).find(picture)
    assert found is not None and len(found.numbers) >= 12
    points = board.points()[found.numbers] @ pose[:3, :3].T + pose[:3, 3]
    expected = view.fx * points[:, :2] / points[:, 2:] + [view.cx, view.cy]
    apart = found.pixels - expected
    # Its edges are stairs (nothing is sampled twice), which has no direction; half a pixel of the principal
    # point would have one.
    assert np.median(np.linalg.norm(apart, axis=1)) < 0.7
    assert np.abs(np.median(apart, axis=0)).max() < 0.3
    rows, columns = np.rint(found.pixels).astype(int).T[::-1]
    there = depth[rows, columns] > 0
    assert there.mean() > 0.8
    off = depth[rows, columns][there] / 1e3 - points[there, 2]
    assert abs(np.median(off)) < 0.003


def test_what_is_no_board_is_refused() -> None:
    assert parse(None) is None
    for options in (
        {"columns": 2},
        {"marker_m": 0.03},
        {"dictionary": "DICT_9"},
        {"at": "wall"},
        {"sides": 3},
    ):
        with pytest.raises(ValueError, match=r"bench\.options\.board"):
            World(WorldConfig(board=options))
