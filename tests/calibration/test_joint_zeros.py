"""Zeros of an arm's joints that are off are found with the camera's place; what tells none is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import chain, noted_joints, rigid, shots
from calibration.app import app
from calibration.boards import Board
from calibration.chain import Chain
from calibration.handeye.closed_form import project
from calibration.handeye.estimate import Estimate, estimate
from calibration.handeye.joints import UnknownZeros
from calibration.handeye.result import solve_setup, text_of
from calibration.handeye.samples import Camera, Sample, Setup, View, make_setup
from calibration.lenses import Lens
from calibration.shots import Shot, ShotCamera, Shots, ShotsError
from contracts.errors import ConfigError, EntracteError
from contracts.specs import SO101_JOINTS
from tests.calibration.rigs import BOARD, FOCAL_PX

CHAIN = chain.read(chain.SO101)
OFF_DEG = {"shoulder_lift.pos": -1.5, "elbow_flex.pos": 1.0, "wrist_flex.pos": -1.2}
CAMERA = Camera("wrist", "hand", FOCAL_PX, FOCAL_PX, 320, 240)
HAND_T_CAMERA = rigid.transform(rigid.rotation_of([0.2, 1.3, -0.1]), [0.02, -0.01, 0.06])
START = np.array([5.0, -20.0, 25.0, 40.0, 10.0, 30.0])
ARM = UnknownZeros(CHAIN, SO101_JOINTS, float(np.radians(2.0)))


def hand(readings: np.ndarray, off_deg: dict[str, float]) -> rigid.Array:
    """Where it is, of an arm whose joints turn by so much more than they read."""
    more = np.array([off_deg.get(name, 0.0) for name in SO101_JOINTS])
    return CHAIN.base_T_hand(SO101_JOINTS, (readings + more).tolist())


def stands(count: int, off_deg: dict[str, float], seed: int = 0) -> list[Sample]:
    """Of an arm that is 0.3 mm and 0.03 degrees inexact beside that."""
    random = np.random.default_rng(seed)
    ahead = rigid.transform(np.eye(3), [-0.01, 0.01, 0.33])
    base_T_board = hand(START, off_deg) @ HAND_T_CAMERA @ ahead
    found: list[Sample] = []
    while len(found) < count:
        readings = START + random.uniform(-1, 1, 6) * [20, 15, 20, 25, 40, 0]
        true = hand(readings, off_deg)
        seen = rigid.invert(true @ HAND_T_CAMERA) @ base_T_board
        depths = BOARD @ seen[2, :3] + seen[2, 3]
        if depths.min() < 0.12 or abs(seen[2, 2]) < 0.5:
            continue
        pixels = project(CAMERA, seen, BOARD)
        if (pixels < 5).any() or (pixels > [635, 475]).any():
            continue
        pixels = pixels + random.normal(size=pixels.shape) * 0.2
        error = random.normal(size=6) * np.repeat([np.radians(0.03), 0.0003], 3)
        said = rigid.moved(CHAIN.base_T_hand(SO101_JOINTS, readings.tolist()), -error)
        view = {"wrist": View(BOARD, pixels)}
        found.append(Sample(f"{len(found):02d}", said, view, tuple(readings.tolist())))
    return found


def setup(count: int = 25, off_deg: dict[str, float] | None = None) -> Setup:
    return make_setup([CAMERA], stands(count, OFF_DEG if off_deg is None else off_deg))


def off_mm(found: Estimate) -> float:
    return rigid.distance_mm(found.poses.cameras["wrist"], HAND_T_CAMERA)


def test_slopes_are_how_the_hand_moves() -> None:
    zeros = np.radians([0.5, -1.0, 2.0])
    slopes = ARM.slopes(START.tolist(), zeros)
    here = ARM.base_T_hand(START.tolist(), zeros)
    assert slopes.shape == (6, 3) and ARM.joints == tuple(OFF_DEG)
    for index in range(3):
        step = np.zeros(3)
        step[index] = 1e-6
        moved = rigid.invert(here) @ ARM.base_T_hand(START.tolist(), zeros + step)
        change = np.r_[rigid.turn_of(moved[:3, :3]), moved[:3, 3]] / 1e-6
        assert change == pytest.approx(slopes[:, index], abs=1e-5)


def test_zeros_that_are_off_are_found_with_the_camera() -> None:
    known = setup()
    plain, found = estimate(known), estimate(replace(known, arm=ARM))
    assert off_mm(found) < 0.5 * off_mm(plain)
    assert found.noise.shift_m < plain.noise.shift_m
    zeros, half = np.degrees(found.poses.zeros), np.degrees(found.zeros_interval())
    off = np.abs(zeros - np.array([*OFF_DEG.values()]))
    assert (off < 1.5 * half).all(), (zeros, half)
    assert half.max() < 0.7 * 1.96 * 2.0
    pose = found.poses.cameras["wrist"]
    apart = np.r_[
        rigid.turn_of(pose[:3, :3].T @ HAND_T_CAMERA[:3, :3]),
        pose[:3, :3].T @ (HAND_T_CAMERA[:3, 3] - pose[:3, 3]),
    ]
    assert (np.abs(apart) < 1.5 * found.interval("camera", "wrist")).all()
    # The board's size is a further unknown beside them.
    free = estimate(replace(known, arm=ARM), size_known=False)
    assert free.with_scale and not found.with_scale
    assert abs(np.log(free.poses.scale)) < 4 * free.scale_deviation < 0.05


def test_they_are_said_with_how_sure_they_are() -> None:
    result = solve_setup(replace(setup(), arm=ARM), bootstrap=0)
    assert {*result.zeros_deg} == {*OFF_DEG} and result.zeros_prior_deg == pytest.approx(3.92)
    text = text_of(result)
    for name, (off, half) in result.zeros_deg.items():
        told = half <= 0.5 * result.zeros_prior_deg
        way = "little" if off > 0 else "much"
        words = f"too {way} ± {half:.2f}" if told else "not told by these stands"
        assert f"joint {name}: " in text and words in text
    quality = result.cameras["wrist"].quality
    assert quality.held_out.pixels.median < 3.0
    # Nothing was asked, nothing is said; and exact zeros are found to be so.
    assert not solve_setup(setup(), bootstrap=0).zeros_deg
    exact = solve_setup(replace(setup(off_deg={}), arm=ARM), bootstrap=0)
    assert all(abs(off) < 1.5 * half for off, half in exact.zeros_deg.values())


def capture(folder: Path, *, joints: bool = True) -> Shots:
    """Without pictures: what a command reads before it looks at any."""
    lens = Lens(width=640, height=480, fx=FOCAL_PX, fy=FOCAL_PX, cx=320, cy=240)
    taken = []
    for number in range(4):
        readings = START + number
        pose = CHAIN.base_T_hand(SO101_JOINTS, readings.tolist())
        taken.append(
            Shot(
                name=f"{number}",
                position_m=tuple(pose[:3, 3].tolist()),
                quaternion_xyzw=rigid.to_quaternion(pose[:3, :3]),
                pictures={},
                joints=tuple(readings.tolist()) if joints else (),
            )
        )
    found = Shots(
        version=shots.VERSION,
        cameras={"wrist": ShotCamera(mount="hand", lens=lens, board=Board())},
        shots=tuple(taken),
        joints=SO101_JOINTS if joints else (),
        chain=CHAIN if joints else None,
    )
    shots.write(folder, found)
    return shots.read(folder)


def test_a_chain_with_the_zeros_that_were_found_places_the_hand_anew(tmp_path: Path) -> None:
    taken = capture(tmp_path)
    arm = noted_joints.unknown_zeros(taken, 2.0)
    assert arm.joints == tuple(OFF_DEG) and arm.spread_rad == pytest.approx(np.radians(2))
    zeros = np.radians([*OFF_DEG.values()])
    path = tmp_path / "arm.yaml"
    noted_joints.write_chain(path, arm.corrected(zeros))
    moved = noted_joints.placed_by(taken, chain.read(path), str(path))
    for shot in moved.shots:
        pose = rigid.from_quaternion(shot.quaternion_xyzw, shot.position_m)
        true = arm.base_T_hand(shot.joints, zeros)
        assert rigid.distance_mm(pose, true) < 1e-6 and rigid.angle_deg(pose, true) < 1e-6
    assert noted_joints.unknown_zeros(moved, 2.0).chain == chain.read(path)


def test_what_tells_no_zeros_is_refused(tmp_path: Path) -> None:
    bare = capture(tmp_path / "bare", joints=False)
    with pytest.raises(ShotsError, match="does not note what the joints read"):
        noted_joints.unknown_zeros(bare, 1.0)
    taken = capture(tmp_path / "taken")
    with pytest.raises(ShotsError, match="notes no chain"):
        noted_joints.unknown_zeros(msgspec.structs.replace(taken, chain=None), 1.0)
    first = msgspec.structs.replace(taken.shots[0], position_m=(0.1, 0.2, 0.3))
    moved = msgspec.structs.replace(taken, shots=(first, *taken.shots[1:]))
    with pytest.raises(ShotsError, match="pose of shot 0 is not what the chain makes"):
        noted_joints.unknown_zeros(moved, 1.0)
    short = noted_joints.placed_by(taken, Chain(joints=CHAIN.joints[:2]), "short.yaml")
    with pytest.raises(ShotsError, match="no joint's zero can be told"):
        noted_joints.unknown_zeros(short, 1.0)
    other = Chain(joints=(msgspec.structs.replace(CHAIN.joints[0], joint="elbow"),))
    with pytest.raises(ShotsError, match="names a joint that the capture lacks"):
        noted_joints.placed_by(taken, other, "arm.yaml")
    for change, words in (
        ({"joints": SO101_JOINTS[:3]}, "those of its chain"),
        ({"joints": SO101_JOINTS[:5] * 2}, "each once"),
        ({"shots": (msgspec.structs.replace(taken.shots[0], joints=(1.0,)),)}, "joints of shot 0"),
    ):
        shots.write(tmp_path / "wrong", msgspec.structs.replace(taken, **change))
        with pytest.raises(ShotsError, match=words):
            shots.read(tmp_path / "wrong")
    for options, words in (
        (["--joint-zeros", "1", "--config", str(tmp_path / "robot.yaml")], "by their old zeros"),
        (["--chain-output", str(tmp_path / "arm.yaml")], "--joint-zeros with it"),
    ):
        said = CliRunner().invoke(app, ["handeye", str(tmp_path / "taken"), *options])
        assert isinstance(said.exception, ConfigError), said.output
        assert words in str(said.exception)


def test_a_capture_of_another_chain_than_the_robots_is_refused(tmp_path: Path) -> None:
    """Its place would be judged by a chain that it was not found under."""
    folder, config, path = tmp_path / "taken", tmp_path / "robot.yaml", tmp_path / "arm.yaml"
    taken = capture(folder)
    noted_joints.write_chain(path, ARM.corrected(np.radians([*OFF_DEG.values()])))
    camera = "cameras: {wrist: {kind: sim, width: 640, height: 480}}\n"

    def said(configured: str, *more: str) -> str:
        config.write_text(camera + configured)
        found = CliRunner().invoke(app, ["handeye", str(folder), "--config", str(config), *more])
        assert isinstance(found.exception, EntracteError), found.output
        return str(found.exception)

    words, names_it = (
        "another chain of joints than the robot's",
        f"calibration: {{chain: {path}}}\n",
    )
    assert words in said(names_it)
    # No picture shows a board: that is what is said of those that match.
    assert words not in said("")
    assert words not in said(names_it, "--chain", str(chain.SO101))
    shots.write(folder, noted_joints.placed_by(taken, chain.read(path), str(path)))
    assert words in said("") and words not in said(names_it)
    shots.write(folder, msgspec.structs.replace(taken, chain=None))
    assert words not in said(names_it)
