"""What a capture takes and what it rejects, each with its reason: pictures, stands, folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import rigid, shots
from calibration.app import app
from calibration.boards import Board, Finder
from calibration.capture.looking import Rejected, Seen, look, shifted_px
from calibration.capture.progress import (
    CameraProgress,
    Progress,
    empty_part,
    hint,
    lacks,
    progress,
    text_of,
)
from calibration.capture.stillness import Stillness, Stood
from calibration.capture.taking import Capture, Picture, again, encoded
from calibration.lenses import Lens
from calibration.shots import ShotCamera
from contracts.errors import ConfigError
from runtime.arms import ArmState
from runtime.arms.sim import SO101_ACTION
from runtime.cameras import Frame
from tests.calibration.test_boards_and_shots import (
    BOARD,
    LENS,
    capture,
    picture_of,
    seen_from,
)

CAMERA = ShotCamera(mount="hand", lens=LENS, board=BOARD)
NAMES = SO101_ACTION.names
WEBCAM = Lens(
    width=1280, height=720, fx=800.0, fy=800.0, cx=639.5, cy=359.5,
    model="brown_conrady", distortion=(-0.35, 0.13, 0.0, 0.0, -0.02),
)  # fmt: skip


def seen(tilt: tuple[float, float, float], place: tuple[float, float, float]) -> Seen | Rejected:
    picture = picture_of(BOARD, LENS, seen_from(tilt, place)).astype(np.uint8)
    return look(CAMERA, Finder(BOARD), picture)


def test_a_good_picture_says_how_the_board_stands() -> None:
    found = seen((30, 0, 10), (0.01, 0.0, 0.35))
    assert isinstance(found, Seen)
    assert found.tilt_deg == pytest.approx(30, abs=2) and found.pixels < 0.3
    assert found.distance_m == pytest.approx(0.35, abs=0.01)
    assert rigid.angle_deg(found.pose, seen_from((30, 0, 10), (0.01, 0.0, 0.35))) < 0.5


def test_pictures_that_would_mislead_are_rejected_with_the_reason() -> None:
    finder = Finder(BOARD)
    sharp = picture_of(BOARD, LENS, seen_from((20, 0, 0), (0, 0, 0.3))).astype(np.uint8)
    soft = np.asarray(cv2.GaussianBlur(sharp, (0, 0), 4.0), np.uint8)
    blurred = look(CAMERA, finder, soft)
    assert isinstance(blurred, Rejected) and blurred.kind in ("blurred", "unseen")
    dull = np.asarray(120 + 0.06 * (sharp.astype(float) - 120), np.uint8)
    flat = look(CAMERA, finder, dull)
    assert isinstance(flat, Rejected) and flat.kind in ("blurred", "unseen")
    nothing = look(CAMERA, finder, np.full((480, 640), 128, np.uint8))
    assert isinstance(nothing, Rejected) and nothing.kind == "unseen"
    # Of another board than the one that was named: the same markers, a grid of other proportions.
    other = msgspec.structs.replace(CAMERA, board=Board(columns=6, rows=7))
    wrong = look(other, Finder(other.board), sharp)
    assert isinstance(wrong, Rejected)


def bent(lens: Lens, camera_T_board: rigid.Array) -> np.ndarray:
    """uint8[H,W]: what a camera with that lens sees of the flat print."""
    rows, columns = np.mgrid[: lens.height, : lens.width]
    pixels = np.stack([columns, rows], axis=-1).reshape(-1, 2).astype(np.float64)
    plane = lens.matrix @ camera_T_board[:3, [0, 1, 3]]
    on = np.c_[lens.straighten(pixels), np.ones(len(pixels))] @ np.linalg.inv(plane).T
    at = (4000 * on[:, :2] / on[:, 2:] - 0.5).astype(np.float32)
    print_ = BOARD.opencv().generateImage((840, 600))
    x, y = (each.reshape(lens.height, lens.width) for each in at.T)
    drawn = cv2.remap(cv2.GaussianBlur(print_, (0, 0), 1.0), x, y, cv2.INTER_LINEAR, None, 0, 128.0)
    return np.asarray(drawn, np.uint8)


@pytest.mark.parametrize(
    ("known", "kind"),
    [
        # Of a webcam that tells no focal length, and one that was fitted to the picture's middle.
        (Lens(width=1280, height=720, fx=1280.0, fy=1280.0, cx=639.5, cy=359.5), "board"),
        (msgspec.structs.replace(WEBCAM, distortion=(-0.4, 0.0, 0.0, 0.0, 0.0)), "lens"),
    ],
)
def test_a_capture_for_the_lens_asks_nothing_of_the_lens_before(known: Lens, kind: str) -> None:
    """94 degrees across, the board near and aside: where such a capture wants it."""
    camera, finder = msgspec.structs.replace(CAMERA, lens=known), Finder(BOARD)
    picture = bent(WEBCAM, seen_from((-20, 15, 5), (0.04, 0.02, 0.16)))
    corners = finder.find(picture)
    assert corners is not None and WEBCAM.covers(corners.pixels).all()
    through_it = look(camera, finder, picture)
    assert isinstance(through_it, Rejected) and through_it.kind == kind, through_it
    found = look(camera, finder, picture, lens_only=True)
    assert isinstance(found, Seen), found
    # The right lens takes the very same for a place's sake, too, and another board is none for either.
    right = msgspec.structs.replace(CAMERA, lens=WEBCAM)
    assert isinstance(look(right, finder, picture), Seen)
    other = msgspec.structs.replace(camera, board=Board(columns=5, rows=7))
    wrong = look(other, finder, picture, lens_only=True)
    assert isinstance(wrong, Rejected) and wrong.kind == "board"


def test_a_small_marker_far_away_has_two_poses_and_is_rejected() -> None:
    board = Board(kind="marker", marker_m=0.03)
    camera = msgspec.structs.replace(CAMERA, board=board)
    cell = cv2.aruco.generateImageMarker(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), 0, 240
    )
    print_ = cv2.copyMakeBorder(cell, 60, 60, 60, 60, cv2.BORDER_CONSTANT, value=255.0)
    kinds = set()
    for distance, tilt in ((0.9, 12.0), (0.12, 40.0)):
        pose = rigid.transform(rigid.rotation_of([np.radians(tilt), 0.0, 0.0]), [0, 0, distance])
        middle = rigid.transform(np.eye(3), [-0.0225, -0.0225, 0])
        plane = (pose @ middle)[:3, [0, 1, 3]] @ np.diag([0.03 / 240, 0.03 / 240, 1.0])
        drawn = cv2.warpPerspective(
            print_, LENS.matrix @ plane, (640, 480), flags=cv2.INTER_AREA, borderValue=128.0
        )
        found = look(camera, Finder(board), np.asarray(drawn, np.uint8))
        kinds.add((distance, found.kind if isinstance(found, Rejected) else "seen"))
    assert kinds == {(0.9, "ambiguous"), (0.12, "seen")}


def test_corners_that_moved_are_noticed() -> None:
    one, other = seen((20, 0, 0), (0, 0, 0.3)), seen((20, 0, 0), (0.002, 0, 0.3))
    assert isinstance(one, Seen) and isinstance(other, Seen)
    assert shifted_px(one.corners, one.corners) == 0.0
    assert shifted_px(one.corners, other.corners) == pytest.approx(4.0, abs=0.5)


# Stands.


def reading(at_s: float, value: float, gripper: float = 50.0) -> ArmState:
    return ArmState(np.array([value, 0, 0, 0, 0, gripper], np.float32), at_s)


def frame(at_s: float, number: int) -> Frame:
    return Frame(np.zeros((2, 2, 3), np.uint8), None, at_s, at_s, number)


def stood(watch: Stillness, ticks: Iterator[tuple[ArmState, Frame | None]]) -> list[Stood]:
    found = [watch.add(joints, {"wrist": picture}) for joints, picture in ticks]
    return [one for one in found if one is not None]


def test_a_stand_is_taken_only_once_the_arm_has_stood() -> None:
    """It moves for a second, then stands; a gripper may do what it likes."""
    watch = Stillness(["wrist"], NAMES)
    ticks = ((reading(t / 20, min(t, 20) * 1.0, gripper=t), frame(t / 20, t)) for t in range(40))
    (*_, last) = stood(watch, ticks)
    first = stood(
        Stillness(["wrist"], NAMES),
        ((reading(t / 20, min(t, 20) * 1.0), frame(t / 20, t)) for t in range(40)),
    )[0]
    earlier, later = first.pictures["wrist"]
    assert earlier.captured_s >= 1.0 + 0.5 and later.captured_s > earlier.captured_s
    assert first.readings[0] == pytest.approx(20.0) and not first.late
    assert last.for_s > first.for_s - 1e-9
    moving = ((reading(t / 20, 0.5 * t), frame(t / 20, t)) for t in range(200))
    assert not stood(Stillness(["wrist"], NAMES), moving)


def test_pictures_that_do_not_agree_in_time_are_named() -> None:
    late = ((reading(t / 20, 0.0), frame(t / 20 - 0.4, t)) for t in range(100))
    (found, *_) = stood(Stillness(["wrist"], NAMES), late)
    # So late a picture still agrees with an older reading: it counts, from when the arm had stood for long.
    assert found.pictures["wrist"][0].captured_s >= 0.5
    ahead = ((reading(t / 20, 0.0), frame(t / 20 + 3.0, t)) for t in range(100))
    (found, *_) = stood(Stillness(["wrist"], NAMES), ahead)
    assert not found.pictures and found.late["wrist"].kind == "times"
    assert "ms apart" in found.late["wrist"].why
    frozen = ((reading(t / 20, 0.0), frame(0.0, 1)) for t in range(100))
    (found, *_) = stood(Stillness(["wrist"], NAMES), frozen)
    assert "still delivering" in found.late["wrist"].why
    none = ((reading(t / 20, 0.0), None) for t in range(100))
    (found, *_) = stood(Stillness(["wrist"], NAMES), none)
    assert found.late["wrist"].why == "no picture came"


# Guidance.


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return capture(tmp_path_factory.mktemp("c") / "capture", count=14)


def judged(folder: Path, output: Path) -> Capture:
    taken = shots.read(folder)
    found = Capture(output, taken.cameras, taken.arm)
    again(folder, taken, found)
    return found


def test_guidance_is_that_of_the_estimate(folder: Path, tmp_path: Path) -> None:
    found = judged(folder, tmp_path / "again")
    state = progress(found)
    assert state.solved is not None and not state.why
    one = state.cameras["wrist"]
    assert one.stands == len(found.samples) >= 12
    assert one.interval_mm is not None and 0.1 < one.interval_mm < 10
    assert one.turns_deg[0] >= one.turns_deg[1] >= one.turns_deg[2] > 3
    assert one.tilts_deg[1] > 20 and 0.2 < one.covered <= 1
    text = text_of(state, {"wrist: blurred": 2})
    assert "smallest" in text and "2 x wrist: blurred" in text and "result so far ±" in text
    few = Capture(tmp_path / "few", dict(found.cameras))
    for sample, sight in list(zip(found.samples, found.seen("wrist"), strict=True))[:3]:
        few.take(sample.base_T_hand, {"wrist": sight}, {"wrist": Picture(b"")})
    state = progress(few)
    assert state.solved is None and "none before" in state.why
    assert any("fewer than" in one for one in lacks(state))
    assert not shots.read(tmp_path / "few").shots[0].depths


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"stands": 9}, "9 stands, fewer than 10"),
        ({"turns_deg": np.array([30.0, 9.0, 1.0])}, "the hand turned by 9.0 deg about its second"),
        ({"interval_mm": 5.1}, "± 5.1 mm, more than 5"),
        ({"interval_deg": 0.75}, "± 0.75 deg, more than 0.7"),
    ],
)
def test_each_thing_that_is_missing_is_said(change: dict[str, Any], words: str | None) -> None:
    good = CameraProgress(12, 0.5, (5.0, 35.0), np.array([30.0, 20.0, 1.0]), 4.9, 0.69)
    state = Progress({"wrist": replace(good, **change)}, None, None, "")
    assert [one.startswith(f"wrist: {words}") for one in lacks(state)] == [True] * bool(words)
    assert lacks(replace(state, why="the poses disagree"))[-1] == "no result: the poses disagree"


def test_a_pose_that_is_no_number_is_not_taken(folder: Path, tmp_path: Path) -> None:
    """As JSON it would be null, and the whole capture unreadable."""
    found = judged(folder, tmp_path / "again")
    before = (tmp_path / "again" / "shots.json").read_bytes()
    pose = found.samples[0].base_T_hand.copy()
    pose[0, 3] = np.nan
    with pytest.raises(shots.ShotsError, match="no number"):
        found.take(pose, {"wrist": found.seen("wrist")[0]}, {"wrist": Picture(b"")})
    assert (tmp_path / "again" / "shots.json").read_bytes() == before
    shots.read(tmp_path / "again")


def test_hints_name_what_is_missing() -> None:
    assert "into the middle" in hint([])
    one = [seen((tilt, 0, 0), (0, 0, 0.35)) for tilt in (30, 20)]
    ways = [s for s in one if isinstance(s, Seen)]
    assert len(ways) == 2 and "deg" in hint(ways)
    # Turned about the picture's x by a positive angle the upper edge comes nearer: seen from above.
    assert "upper edge" not in hint(ways)
    corner = seen((0, 0, 0), (-0.06, -0.05, 0.4))
    assert isinstance(corner, Seen)
    assert empty_part([corner], LENS) not in ("upper left", "middle")


# From a folder.


def test_a_capture_is_judged_anew_and_solved(folder: Path, tmp_path: Path) -> None:
    """Two stands are spoiled, one is there twice: all three are left out, by name and counted."""
    spoiled = tmp_path / "spoiled"
    spoiled.mkdir()
    taken = shots.read(folder)
    for path in folder.iterdir():
        (spoiled / path.name).write_bytes(path.read_bytes())
    blank = encoded(np.full((480, 640, 3), 128, np.uint8), None).colour
    (spoiled / taken.shots[2].pictures["wrist"]).write_bytes(blank)
    grey = shots.read_picture(folder / taken.shots[5].pictures["wrist"])
    soft = cv2.GaussianBlur(grey, (0, 0), 5.0)
    cv2.imwrite(str(spoiled / taken.shots[5].pictures["wrist"]), soft)
    twice = msgspec.structs.replace(taken.shots[0], name="twice")
    shots.write(spoiled, msgspec.structs.replace(taken, shots=(*taken.shots, twice)))
    output = tmp_path / "good"
    options = ["capture", "--again", str(spoiled), "--output", str(output)]
    said = CliRunner().invoke(app, [*options, "--json"])
    assert said.exit_code == 0, said.output
    left = json.loads(said.stdout)
    assert left["stands"] == len(taken.shots) - 2
    assert left["rejected"]["alike"] == 1 and sum(left["rejected"].values()) == 3
    text = CliRunner().invoke(app, [*options[:-1], str(tmp_path / "in words")])
    assert "2/wrist: the board is not seen" in text.output
    assert "twice: it shows what 000 does" in text.output
    solved = CliRunner().invoke(app, ["handeye", str(output), "--bootstrap", "0"])
    assert solved.exit_code == 0, solved.output


def test_a_folder_that_holds_anything_is_left_alone(folder: Path, tmp_path: Path) -> None:
    """An earlier capture, a person's own pictures, and the capture that is judged."""
    pictures = tmp_path / "holiday"
    pictures.mkdir()
    (pictures / "beach.png").write_bytes(b"mine")
    robot = ["--camera", "wrist", "--mount", "hand", "--board", "nothere.json"]
    for output in (pictures, folder):
        before = {path.name: path.read_bytes() for path in output.iterdir()}
        for source in (["--again", str(folder)], robot):
            said = CliRunner().invoke(app, ["capture", *source, "--output", str(output)])
            assert isinstance(said.exception, ConfigError), said.output
            assert "expected a new or an empty folder for a capture" in str(said.exception)
        assert {path.name: path.read_bytes() for path in output.iterdir()} == before


def test_too_little_is_said_and_exits_with_1(tmp_path: Path) -> None:
    few = capture(tmp_path / "few", count=4)
    options = ["capture", "--again", str(few), "--output", str(tmp_path / "out"), "--json"]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 1
    assert any("fewer than 10" in one for one in json.loads(said.stdout)["missing"])


def test_what_is_no_board_or_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "board.json").write_text('{"kind": "chessboard"}')
    (tmp_path / "marker.json").write_text('{"kind": "marker"}')
    marker = msgspec.structs.replace(CAMERA, board=Board(kind="marker"))
    stand = shots.Shot(
        name="0",
        position_m=(0.0, 0.0, 0.0),
        quaternion_xyzw=(0.0, 0.0, 0.0, 1.0),
        pictures={},
    )
    found = shots.Shots(version=shots.VERSION, cameras={"wrist": marker}, shots=(stand,))
    shots.write(tmp_path, found)
    common = ["capture", "--output", str(tmp_path / "out"), "--camera", "wrist", "--mount", "hand"]
    for options, words in (
        ([*common, "--board", str(tmp_path / "board.json")], "describes no board"),
        ([*common, "--board", str(tmp_path / "nothere.json")], "describes no board"),
        ([*common, "--board", str(tmp_path / "marker.json"), "--lens"], "with a single marker"),
        ([*common[:3], "--again", str(tmp_path), "--lens"], "with a single marker"),
        (common, "--camera, --mount and --board"),
        ([*common, "--again", str(tmp_path)], "leave out --camera, --mount"),
        *(
            ([*common[:3], "--again", str(tmp_path), option, value], f"leave out {option}")
            for option, value in (
                ("--config", "robot.yaml"),
                ("--set", "pace=asap"),
                ("--chain", "arm.yaml"),
                ("--reach", "30"),
                ("--speed", "15"),
            )
        ),
    ):
        said = CliRunner().invoke(app, options)
        assert isinstance(said.exception, ConfigError) and words in str(said.exception), words
