"""Boards in pictures, lenses, and captures on disk: also a real one, where the shared data is at hand."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks.franka import RIGS, capture_of, solved
from calibration import rigid, shots
from calibration.app import app
from calibration.boards import Board, Finder, legacy_of
from calibration.handeye.samples import HandEyeError
from calibration.lenses import Lens
from calibration.shots import Shot, ShotCamera, Shots, ShotsError
from contracts.errors import ConfigError
from tests.calibration.rigs import Rig

FRANKA = Path(__file__).resolve().parents[3] / "shared" / "data" / "handeye_franka_realsense"
LENS = Lens(width=640, height=480, fx=600.0, fy=600.0, cx=320.0, cy=240.0)
BOARD = Board(columns=7, rows=5, square_m=0.03, marker_m=0.022)


def picture_of(board: Board, lens: Lens, camera_T_board: rigid.Array) -> np.ndarray:
    """uint8[H,W]: what the pinhole sees of the flat print, drawn four times as large and averaged."""
    per_m, more = 10_000, 4
    width, height = (round(side * per_m) for side in board.size_m)
    print_ = board.opencv().generateImage((width, height))
    # From pixels of the print to pixels of the picture: a plane is a homography.
    plane = camera_T_board[:3, [0, 1, 3]] @ np.diag([1 / per_m, 1 / per_m, 1.0])
    large = np.array([[more, 0, (more - 1) / 2], [0, more, (more - 1) / 2], [0, 0, 1.0]])
    size = (lens.width * more, lens.height * more)
    drawn = cv2.warpPerspective(
        print_, large @ lens.matrix @ plane, size, flags=cv2.INTER_LINEAR, borderValue=128.0
    )
    return np.asarray(cv2.resize(drawn, (lens.width, lens.height), interpolation=cv2.INTER_AREA))


def seen_from(tilt: tuple[float, float, float], place: tuple[float, float, float]) -> rigid.Array:
    middle = np.array([*BOARD.size_m, 0.0]) / 2
    pose = rigid.transform(rigid.rotation_of(np.radians(tilt)), place)
    return pose @ rigid.transform(np.eye(3), -middle)


def test_corners_of_a_drawn_board_are_where_they_must_be() -> None:
    finder = Finder(BOARD)
    for tilt in ((0, 0, 0), (30, 0, 20), (0, -35, 160)):
        pose = seen_from(tilt, (0.01, -0.02, 0.35))
        found = finder.find(picture_of(BOARD, LENS, pose).astype(np.uint8))
        assert found is not None and len(found.numbers) == 24
        points = BOARD.points()[found.numbers] @ pose[:3, :3].T + pose[:3, 3]
        expected = 600 * points[:, :2] / points[:, 2:] + [320, 240]
        assert np.abs(found.pixels - expected).max() < 0.3
        assert np.abs(found.pixels - expected).mean() < 0.1


def test_an_old_pattern_is_recognised() -> None:
    """With an even number of rows OpenCV changed which squares hold markers."""
    for legacy in (False, True):
        board = Board(rows=6, legacy=legacy)
        print_ = np.asarray(board.opencv().generateImage((700, 600)), np.uint8)
        framed = cv2.copyMakeBorder(print_, 20, 20, 20, 20, cv2.BORDER_CONSTANT, value=255.0)
        assert (
            legacy_of(msgspec.structs.replace(board, legacy=not legacy), np.asarray(framed))
            is legacy
        )
    odd = np.asarray(BOARD.opencv().generateImage((700, 500)), np.uint8)
    assert legacy_of(BOARD, odd) is None


def test_a_marker_that_is_there_twice_is_not_believed() -> None:
    board = Board(kind="marker", marker_id=3, marker_m=0.05)
    side = cv2.aruco.generateImageMarker(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), 3, 100
    )
    once = np.full((200, 400), 255, np.uint8)
    once[50:150, 40:140] = side
    found = Finder(board).find(once)
    assert found is not None
    assert np.abs(found.pixels - [[40, 50], [139, 50], [139, 149], [40, 149]]).max() < 1.5
    once[50:150, 240:340] = side
    assert Finder(board).find(once) is None


@pytest.mark.parametrize("model", ["brown_conrady", "inverse_brown_conrady"])
def test_straightened_pixels_are_those_of_the_pinhole(model: str) -> None:
    lens = msgspec.structs.replace(LENS, model=model, distortion=(0.12, -0.2, 0.001, -0.002, 0.05))
    random = np.random.default_rng(0)
    x, y = random.uniform(-0.4, 0.4, (2, 30))
    k1, k2, p1, p2, k3 = lens.distortion
    r2 = x * x + y * y
    f = 1 + k1 * r2 + k2 * r2**2 + k3 * r2**3
    # The tangential part: OpenCV's of the true ray, librealsense's of what the radial part made of it.
    a, b = (x, y) if model == "brown_conrady" else (x * f, y * f)
    seen = np.stack(
        [
            x * f + 2 * p1 * a * b + p2 * (r2 + 2 * a * a),
            y * f + 2 * p2 * a * b + p1 * (r2 + 2 * b * b),
        ],
        axis=1,
    )
    straight = lens.straighten(seen * 600 + [320, 240])
    assert np.abs(straight - (np.stack([x, y], axis=1) * 600 + [320, 240])).max() < 1e-3


WIDE = Lens(
    width=640, height=480, fx=400.0, fy=400.0, cx=319.5, cy=239.5,
    model="brown_conrady", distortion=(-0.35, 0.13, 0.0, 0.0, -0.02),
)  # fmt: skip


@pytest.mark.parametrize("model", ["brown_conrady", "inverse_brown_conrady"])
def test_a_wide_lens_is_straightened_to_the_picture_s_corners(model: str) -> None:
    """94 degrees across: OpenCV's five rounds end three pixels away."""
    lens = msgspec.structs.replace(WIDE, model=model)
    pixels = np.array([[x, y] for x in (0.0, 160.0, 319.5, 639.0) for y in (0.0, 240.0, 479.0)])
    straight = lens.straighten(pixels)
    x, y = ((straight - [319.5, 239.5]) / 400).T
    r2 = x * x + y * y
    f = 1 - 0.35 * r2 + 0.13 * r2**2 - 0.02 * r2**3
    again = np.stack([x * f, y * f], axis=1) * 400 + [319.5, 239.5]
    assert np.abs(again - pixels).max() < 0.02
    assert lens.covers(pixels).all()
    # 1.4 times as far from the middle the model has turned back: no ray is seen there.
    assert not lens.covers(np.array([[-128.0, -96.0], [767.0, 575.0]])).any()


def test_corners_that_the_lens_has_no_ray_for_are_left_out_and_named(tmp_path: Path) -> None:
    taken = shots.read(folder := capture(tmp_path / "c", count=3))

    def through(k1: float) -> Shots:
        """With a model that folds back 400 / sqrt(-3 k1) pixels from the middle."""
        bent = msgspec.structs.replace(
            LENS, model="brown_conrady", distortion=(k1, 0.0, 0.0, 0.0, 0.0)
        )
        wrist = msgspec.structs.replace(taken.cameras["wrist"], lens=bent)
        return msgspec.structs.replace(taken, cameras={"wrist": wrist})

    # At 218 pixels: the third picture's farthest corner is at 240, those of the others within 200.
    found = shots.to_setup(folder, through(-1.12), fewest=1)
    assert [sample.name for sample in found.samples] == ["0", "1"]
    assert found.left_out[0].startswith("2/wrist: corners outside what the lens's model covers")
    with pytest.raises(HandEyeError, match=r"model does not cover.*in 3 of 3 pictures"):
        shots.to_setup(folder, through(-4.0))


def test_what_makes_no_board_or_lens_is_refused() -> None:
    for change in (
        {"dictionary": "DICT_9"},
        {"marker_m": 0.04},
        {"columns": 2},
        {"square_m": float("nan")},
    ):
        with pytest.raises(ConfigError, match="board"):
            msgspec.structs.replace(BOARD, **change).__post_init__()
    with pytest.raises(ConfigError, match="intrinsics"):
        Lens(width=640, height=480, fx=0.0, fy=600, cx=320, cy=240)


def capture(
    folder: Path,
    count: int = 12,
    wrong: float = 1.0,
    aside: float = 0.03,
    seed: int = 5,
    elsewhere_m: float = 0.0,
) -> Path:
    """A capture of drawn pictures from an arm that is 1 mm and 0.1 degrees inexact, the board by so much
    beside its usual place."""
    rig, random = Rig(3), np.random.default_rng(seed)
    rig.far_T_board[:3, 3] += elsewhere_m
    found = []
    for number in range(count):
        tilt = (*random.uniform(-35, 35, 2), random.uniform(-60, 60))
        place = random.uniform(-aside, aside, 2)
        pose = seen_from(tilt, (*place, random.uniform(0.3, 0.4)))
        hand = rig.far_T_board @ rigid.invert(rig.carrier_T_camera @ pose)
        error = random.normal(size=6) * np.repeat([np.radians(0.1), 0.001], 3)
        hand = rigid.moved(hand, error)
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{number}.png"), picture_of(BOARD, LENS, pose))
        turn = rigid.turn_of(hand[:3, :3])
        angle = np.linalg.norm(turn)
        quaternion = [*(np.sin(angle / 2) * turn / angle).tolist(), float(np.cos(angle / 2))]
        found.append(
            Shot(
                name=f"{number}",
                position_m=tuple(hand[:3, 3].tolist()),
                quaternion_xyzw=tuple(quaternion),
                pictures={"wrist": f"{number}.png"},
            )
        )
    board = msgspec.structs.replace(
        BOARD, square_m=BOARD.square_m * wrong, marker_m=BOARD.marker_m * wrong
    )
    camera = ShotCamera(mount="hand", lens=LENS, board=board)
    shots.write(folder, Shots(version=1, cameras={"wrist": camera}, shots=tuple(found)))
    return folder


def test_a_capture_is_solved_from_the_command_line(tmp_path: Path) -> None:
    folder = capture(tmp_path / "capture")
    output = tmp_path / "result.json"
    options = ["handeye", str(folder), "--output", str(output), "--bootstrap", "0"]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0, said.output
    result = json.loads(output.read_text())
    pose = np.array(result["cameras"]["wrist"]["pose"])
    assert rigid.distance_mm(pose, Rig(3).carrier_T_camera) < 4.0
    assert "held out" in said.output and "park" in said.output
    assert 0.3 < result["arm_mm"] < 2.5


def test_reports_are_one_page_with_what_was_found(tmp_path: Path) -> None:
    folder = capture(tmp_path / "capture", count=14, aside=0.09)
    taken = shots.read(folder)
    shots.write(folder, msgspec.structs.replace(taken, arm="<arm & co>"))
    page = tmp_path / "handeye.html"
    options = ["handeye", str(folder), "--bootstrap", "60", "--json", "--report", str(page)]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0, said.output
    result, text = json.loads(said.stdout), page.read_text()
    quality = result["cameras"]["wrist"]["quality"]
    assert f"{quality['held_out']['mm']['median']:.2f} mm" in text
    assert "&lt;arm &amp; co&gt;" in text and "<arm" not in text
    assert all(method in text for method in quality["solvers"])
    assert result["verdict"]["level"] in ("pass", "warn")
    assert text.count("<svg") == 4 and "<script" not in text and " src=" not in text
    assert {*quality["each"]} == {shot.name for shot in taken.shots}
    again = CliRunner().invoke(app, options)
    assert again.exit_code == 0 and page.read_text() == text, "the same numbers, the same page"

    page.write_text("my notes")
    said = CliRunner().invoke(app, options)
    assert said.exit_code != 0 and "holds" not in said.output and page.read_text() == "my notes"
    page = tmp_path / "lens.html"
    options = ["intrinsics", str(folder), "--camera", "wrist", "--report", str(page)]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0, said.output
    assert page.read_text().count("<svg") == 5 and "The lens of wrist" in page.read_text()


def test_a_capture_with_another_board_or_damage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(HandEyeError, match="another size than was said"):
        from calibration.handeye.result import solve

        solve(capture(tmp_path / "large", wrong=1.08))
    folder = capture(tmp_path / "c", count=3)
    text = (folder / shots.FILE).read_text()
    for change, words in (
        (text.replace('"version": 1', '"version": 9'), "another version"),
        (text.replace('"1.png"', '"../1.png"'), "file name"),
        (text[:-40], "no capture of this layout"),
        (text.replace('"width": 640', '"width": 320'), "another size than its camera"),
        (text.replace('"1.png"', '"nine.png"'), "can't read"),
    ):
        (folder / shots.FILE).write_text(change)
        with pytest.raises(ShotsError, match=words):
            shots.to_setup(folder, shots.read(folder))
    with pytest.raises(ShotsError, match="no capture at"):
        shots.read(tmp_path)


@pytest.mark.skipif(
    not FRANKA.is_dir(), reason="../shared/data/handeye_franka_realsense is not here"
)
@pytest.mark.parametrize(("which", "limit_px"), [("wrist", 1.0), ("world", 1.5)])
def test_a_real_arm_with_realsense_cameras_is_solved(
    which: str, limit_px: float, tmp_path: Path
) -> None:
    """One marker of 5 cm, seen from a wrist, and on the hand by three cameras in the world."""
    capture_of(FRANKA / which, tmp_path / which, *RIGS[which])
    result = solved(tmp_path / which)
    for name, camera in result["cameras"].items():
        quality = camera["quality"]
        assert quality["corner_px"]["median"] <= limit_px, name
        best = min(s["pixels"] for s in quality["solvers"].values() if s["pixels"] is not None)
        assert quality["held_out"]["pixels"]["median"] < best
        assert max(quality["interval_mm"]) < 15.0
    assert abs(result["size"][0] - 1.0) < 0.02


def test_intrinsics_are_calibrated_from_the_command_line(tmp_path: Path) -> None:
    """The capture's pictures are of a pinhole with just the declared lens: it holds."""
    folder, output = capture(tmp_path / "capture", count=14, aside=0.09), tmp_path / "lens.json"
    options = ["intrinsics", str(folder), "--camera", "wrist", "--output", str(output)]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0, said.output
    assert "it holds" in said.output
    lens = msgspec.json.decode(output.read_bytes(), type=Lens)
    assert lens.fx == pytest.approx(600, abs=4)
    nobody = CliRunner().invoke(app, [*options[:3], "side"])
    assert nobody.exit_code != 0 and "no camera 'side'" in str(nobody.exception)
