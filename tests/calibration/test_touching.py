"""A tip that is brought onto corners by hand: the bench's arm stands still, and misses by what it must."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import rigid, shots
from calibration.app import app
from calibration.chain import chain_of
from calibration.record import Record, with_camera
from calibration.verify import Check, VerifyError, read_touches
from contracts.calibration import HandEye
from contracts.errors import ConfigError
from runtime.arms.sim import SO101_ACTION
from runtime.bench import World, WorldConfig
from runtime.bench.target import parse
from runtime.config import load_config
from tests.calibration.test_capture_run import BENCH, BOARD, run, truth

TIP_MM = ("98", "0", "0")


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Its configuration, with a wrist camera that is where the calibration says, and one stand."""
    folder = tmp_path_factory.mktemp("robot")
    config, board = folder / "robot.yaml", folder / "board"
    shutil.copy(BENCH, config)
    assert run("board", "--output", board, *BOARD).exit_code == 0
    run(
        *("capture", "--config", config, "--output", folder / "one", "--camera", "wrist"),
        *("--mount", "hand", "--board", board / "board.json", "--stands", "1"),
    )
    camera = shots.read(folder / "one").cameras["wrist"]
    target = parse(load_config(config).bench.options["board"])
    assert target is not None
    place = HandEye(
        mount="hand", pose=tuple(truth("wrist").reshape(-1).tolist()),
        covariance=tuple((0.0,) * 6 for _ in range(6)), stands=10, corner_px=0.3, held_out_px=0.5,
        held_out_mm=1.0, interval_mm=1.0, interval_deg=0.1, verdict="pass",
        board=msgspec.to_builtins(camera.board),
        board_pose=tuple(target.parent_T_board.reshape(-1).tolist()),
    )  # fmt: skip
    Record(config).put(lambda now: with_camera(now, "wrist", lens=camera.lens, hand_eye=place))
    return config, folder / "one"


def hand() -> np.ndarray:
    """base_T_hand of the bench's arm at its start."""
    config = load_config(BENCH)
    world = World(WorldConfig(width=64, height=48, board=config.bench.options["board"]))
    try:
        world.reset(config.episode.task.replace("-", "_"), config.episode.seed_base)
        joints = world.positions().tolist()
    finally:
        world.close()
    return chain_of(SO101_ACTION, None).base_T_hand(SO101_ACTION.names, joints)


def by_hand(words: Sequence[str], *presses: int, ahead: int = 0) -> tuple[int, str, str]:
    """Exit code, output and what was told, of the command in a process of its own, with Enter pressed so
    often at each corner once that is asked for, and `ahead` of all; where no more are said the input ends."""
    command = [sys.executable, "-m", "calibration.app", *words]
    with subprocess.Popen(command, text=True, stdin=PIPE, stdout=PIPE, stderr=PIPE) as asks:
        assert asks.stdin is not None and asks.stdout is not None and asks.stderr is not None
        asks.stdin.write("\n" * ahead)
        asks.stdin.flush()
        told, left = "", list(presses)
        for line in asks.stderr:
            told += line
            if "press Enter" in line and left:
                asks.stdin.write("\n" * left.pop(0))
                asks.stdin.flush()
            elif "press Enter" in line:
                asks.stdin.close()
        return asks.wait(), asks.stdout.read(), told


def test_where_the_hand_is_is_noted_and_the_miss_is_measured(
    robot: tuple[Path, Path], tmp_path: Path
) -> None:
    config, capture = robot
    kept = tmp_path / "touches.json"
    words = ["verify", str(capture), "--config", str(config), "--json", "--tip-mm", *TIP_MM]
    corners = ["--touch", "0", "--touch", "23", "--touches", str(kept)]
    code, said, told = by_hand([*words, *corners], 1, 1)
    assert code == 1, told  # a tip in the air is on no corner
    assert "onto corner 23 of the board" in told
    found = msgspec.json.decode(said, type=Check).cameras["wrist"]
    true, target = hand(), parse(load_config(config).bench.options["board"])
    assert target is not None
    tip = true[:3, :3] @ [0.098, 0, 0] + true[:3, 3]
    points = shots.read(capture).cameras["wrist"].board.points()
    for miss, corner in zip(found.touch_mm, (0, 23), strict=True):
        at = target.parent_T_board @ [*points[corner], 1.0]
        assert miss == pytest.approx(1e3 * np.linalg.norm(tip - at[:3]), abs=3.0)
    noted = read_touches(kept)
    assert [one.corner for one in noted.touches] == [0, 23]
    for one in noted.touches:
        pose = rigid.from_quaternion(one.quaternion_xyzw, one.position_m)
        assert rigid.distance_mm(pose, true) < 2.0 and rigid.angle_deg(pose, true) < 1.0
    # What was kept says the same without the arm.
    again = CliRunner().invoke(app, [*words[:5], "--touches", str(kept)])
    assert again.exit_code == 1, again.output
    other = msgspec.json.decode(again.stdout, type=Check).cameras["wrist"]
    assert other.touch_mm == pytest.approx(found.touch_mm)


def test_nobody_at_the_keyboard_and_no_tip_are_refused(robot: tuple[Path, Path]) -> None:
    config, capture = robot
    words = ["verify", str(capture), "--config", str(config), "--touch", "0"]
    # Enter that was typed before a corner was asked for is none for it.
    code, _, told = by_hand([*words, "--touch", "23", "--tip-mm", *TIP_MM], ahead=2)
    assert code == 2 and "onto corner 23" not in told and "nobody says when" in told
    code, _, told = by_hand([*words, "--touch", "23", "--tip-mm", *TIP_MM], 3)
    assert code == 2 and "onto corner 23" in told and "nobody says when" in told
    nowhere = CliRunner().invoke(app, [*words, "--touch", "24", "--tip-mm", *TIP_MM], input="\n\n")
    assert isinstance(nowhere.exception, ConfigError), nowhere.output
    assert "expected 0 to 23, found [24]" in str(nowhere.exception)
    bare = CliRunner().invoke(app, ["verify", "--drift", *words[2:], "--tip-mm", *TIP_MM])
    assert "touches without a capture" in str(bare.exception)
    tipless = CliRunner().invoke(app, words)
    assert isinstance(tipless.exception, ConfigError) and "--tip-mm X Y Z" in str(tipless.exception)


def test_a_board_on_the_hand_is_refused_before_anything_is_connected(
    robot: tuple[Path, Path], tmp_path: Path
) -> None:
    config, capture = tmp_path / "robot.yaml", tmp_path / "one"
    shutil.copy(robot[0], config)
    shutil.copytree(robot[1], capture)
    taken = shots.read(capture)
    beside = msgspec.structs.replace(taken.cameras["wrist"], mount="world")
    shots.write(capture, msgspec.structs.replace(taken, cameras={"wrist": beside}))
    words = ["verify", str(capture), "--config", str(config), "--touch", "0", "--tip-mm", *TIP_MM]
    # Opening this arm fails: who is refused for the mount was not connected.
    words += ["--set", "arm.kind=nosuch"]
    said = CliRunner().invoke(app, words)
    assert isinstance(said.exception, VerifyError), (said.output, said.exception)
    assert "not as it was calibrated: mount" in str(said.exception)
