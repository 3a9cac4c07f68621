"""Intrinsics from corners of a known lens: found again, with honest uncertainty, and lenses compared."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import intrinsics, shots
from calibration.app import app
from calibration.boards import Board
from calibration.intrinsics import Fit, IntrinsicsError, Views
from calibration.lenses import Lens
from calibration.shots import Shot, ShotCamera, Shots, ShotsError
from tests.calibration.test_boards_and_shots import capture

TRUE = Lens(
    width=640, height=480, fx=611.0, fy=609.5, cx=325.0, cy=236.0,
    model="brown_conrady", distortion=(0.11, -0.22, 0.0008, -0.0005, 0.05),
)  # fmt: skip
NOMINAL = Lens(width=640, height=480, fx=600.0, fy=600.0, cx=319.5, cy=239.5)
CAMERA = ShotCamera(mount="hand", lens=NOMINAL, board=Board(square_m=0.025, marker_m=0.018))


def views(
    seed: int, count: int = 30, noise: float = 0.15, aside: float = 1.0, tilt: float = 0.6
) -> Views:
    random, points = np.random.default_rng(seed), CAMERA.board.points()
    middle = points.mean(axis=0)
    names, found, pixels = [], [], []
    while len(names) < count:
        depth = random.uniform(0.2, 0.4)
        turn = np.array([*random.uniform(-tilt, tilt, 2), random.uniform(-0.5, 0.5)])
        place = np.array([*(random.uniform(-1, 1, 2) * [0.5, 0.37] * depth * aside), depth])
        shift = place - cv2.Rodrigues(turn)[0] @ middle
        seen, _ = cv2.projectPoints(points, turn, shift, TRUE.matrix, np.array(TRUE.distortion))
        seen = seen.reshape(-1, 2)
        inside = ((seen > 3) & (seen < [636, 476])).all(axis=1)
        if inside.sum() < 10:
            continue
        names.append(f"{len(names):02d}")
        found.append(points[inside])
        pixels.append(seen[inside] + random.normal(size=(inside.sum(), 2)) * noise)
    return Views(tuple(names), tuple(found), tuple(pixels))


@pytest.fixture(scope="module")
def found() -> Fit:
    return intrinsics.fit(views(0), CAMERA)


def test_a_known_lens_is_found_again_as_surely_as_it_says(found: Fit) -> None:
    assert found.noise == pytest.approx(0.15, rel=0.1)
    off = intrinsics.difference(TRUE, found.lens)
    sure = intrinsics.uncertainty(found)
    assert off.max() < 1.5 and np.median(off) < 0.8
    assert np.median(off / sure) < 2.5
    assert sure[0, 0] > 1.2 * sure[6, 8], "corners of the picture are less sure than its middle"
    off_fx = []
    for seed in range(8):
        one = intrinsics.fit(views(seed, count=15), CAMERA)
        off_fx.append((one.lens.fx - TRUE.fx) / np.sqrt(one.covariance[0, 0]))
    assert 0.4 < np.sqrt(np.mean(np.square(off_fx))) < 1.9, "its deviations are those of sessions"


def test_the_factorys_lens_is_judged_by_what_it_says_of_pixels(found: Fit) -> None:
    """A focal length that is 2 % off shows at the picture's edge, not in the middle."""
    wrong = msgspec.structs.replace(found.lens, fx=found.lens.fx * 1.02, fy=found.lens.fy * 1.02)
    off = intrinsics.difference(wrong, found.lens)
    assert off.max() > 2.5 and off.min() < 1.0
    assert intrinsics.difference(found.lens, found.lens).max() < 1e-6
    turned = msgspec.structs.replace(found.lens, cx=found.lens.cx + 1.0)
    assert intrinsics.difference(turned, found.lens).max() < 1.0, "most of it is a rotation"


def test_two_halves_of_the_pictures_agree(found: Fit) -> None:
    off = intrinsics.halves(found, CAMERA)
    assert np.median(off) < 1.0
    assert off.shape == (intrinsics.GRID[1], intrinsics.GRID[0])


def test_a_picture_of_something_else_is_left_out_and_named() -> None:
    good = views(1)
    pixels = list(good.pixels)
    pixels[7] = pixels[7] + np.random.default_rng(0).normal(size=pixels[7].shape) * 8
    found = intrinsics.fit(Views(good.names, good.points, tuple(pixels)), CAMERA)
    assert found.views.left_out == ("07: far from all others",)
    assert np.median(intrinsics.difference(TRUE, found.lens)) < 0.8


def test_a_lens_that_stays_unsure_is_told_what_it_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = capture(tmp_path / "hand-eye", count=14)
    command = ["intrinsics", str(folder), "--camera", "wrist"]
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, IntrinsicsError)
    assert "robot-calibrate capture --lens" in str(refused.exception)
    monkeypatch.setattr(intrinsics, "MIN_COVERED", 0.2)
    said = CliRunner().invoke(app, command)
    assert "every part of the picture" in said.output.splitlines()[1], said.output


def test_pictures_of_another_size_than_their_camera_are_refused(tmp_path: Path) -> None:
    """A lens of them would be signed for a size that they don't have."""
    taken = shots.read(folder := capture(tmp_path / "c", count=1))
    wrist = taken.cameras["wrist"]
    half = msgspec.structs.replace(
        wrist, lens=msgspec.structs.replace(wrist.lens, width=320, height=240)
    )
    wrong = msgspec.structs.replace(taken, cameras={"wrist": half})
    with pytest.raises(ShotsError, match="another size than its camera"):
        intrinsics.views_of(folder, wrong, "wrist")


def test_a_marker_is_seen_and_too_little_for_a_lens(tmp_path: Path) -> None:
    board = Board(kind="marker", marker_id=3, marker_m=0.05)
    side = cv2.aruco.generateImageMarker(
        cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_4X4_50), 3, 200
    )
    picture = np.full((480, 640), 255, np.uint8)
    picture[100:300, 200:400] = side
    cv2.imwrite(str(tmp_path / "0.png"), picture)
    camera = ShotCamera(mount="hand", lens=NOMINAL, board=board)
    shot = Shot(
        name="0", position_m=(0, 0, 0), quaternion_xyzw=(0, 0, 0, 1), pictures={"wrist": "0.png"}
    )
    taken = Shots(version=shots.VERSION, cameras={"wrist": camera}, shots=(shot,))
    found = intrinsics.views_of(tmp_path, taken, "wrist")
    assert found.left_out == ("0: 4 corners, fewer than 6",)


def test_pictures_that_determine_no_lens_are_refused() -> None:
    with pytest.raises(IntrinsicsError, match="too few pictures"):
        intrinsics.fit(views(2, count=5), CAMERA)
    flat = views(4, tilt=0.0)
    with pytest.raises(IntrinsicsError, match=r"focal length open.*tilt the board"):
        intrinsics.fit(flat, CAMERA)
    with pytest.raises(IntrinsicsError, match="too small a part"):
        intrinsics.fit(views(3, count=12, aside=0.1), CAMERA)
    other = msgspec.structs.replace(NOMINAL, width=320, height=240)
    with pytest.raises(IntrinsicsError, match="other resolutions"):
        intrinsics.difference(NOMINAL, other)
