"""Rendered captures with their truth: `robot-calibrate handeye` finds it, or refuses what determines none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from benchmarks import board_captures
from benchmarks.board_scene import BoardScene, Spoils
from benchmarks.handeye import BOARD, LENS, SPREADS, view_of
from calibration import rigid, shots
from calibration.app import app
from calibration.boards import Finder
from calibration.handeye.result import solve
from calibration.handeye.samples import HandEyeError
from calibration.shots import Shots


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered") / "captures"
    assert board_captures.main(["--output", str(folder), "--stands", "12", "--first", "3"]) == 0
    return folder / "003"


def test_the_truth_is_found_and_lies_in_the_intervals(rendered: Path) -> None:
    options = ["handeye", str(rendered), "--bootstrap", "0", "--json"]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 0, said.output
    found = json.loads(said.stdout)["cameras"]["camera"]
    truth = json.loads((rendered / board_captures.TRUTH).read_text())
    pose, true = np.array(found["pose"]), np.array(truth["carrier_T_camera"])
    off = np.r_[
        rigid.turn_of(pose[:3, :3].T @ true[:3, :3]), pose[:3, :3].T @ (true[:3, 3] - pose[:3, 3])
    ]
    deviations = np.sqrt(np.diag(found["covariance"]))
    assert (np.abs(off) < 4 * deviations).all(), (off, deviations)
    assert deviations[3:].max() < 0.003
    # The arm says other poses than it has, by what it was told.
    taken = shots.read(rendered)
    apart = [
        rigid.distance_mm(
            rigid.from_quaternion(one.quaternion_xyzw, one.position_m),
            np.array(truth["base_T_hand"][one.name]),
        )
        for one in taken.shots
    ]
    assert len(apart) == 12 and 0.5 < np.median(apart) < 3.5


def test_a_folder_in_use_and_a_shutter_that_shows_nothing_are_refused(
    rendered: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["--output", str(rendered.parent), "--first", "3"]
    assert board_captures.main(again) == 2
    assert "a new or an empty folder" in capsys.readouterr().err
    assert board_captures.main([*again, "--shutter-ms", "20"]) == 2
    assert "only in a camera that moves" in capsys.readouterr().err


def _same(taken: Shots, **change: Any) -> Shots:
    return msgspec.structs.replace(
        taken, shots=tuple(msgspec.structs.replace(one, **change) for one in taken.shots)
    )


def test_what_determines_nothing_is_refused_with_the_reason(rendered: Path, tmp_path: Path) -> None:
    taken = shots.read(rendered)
    camera = taken.cameras["camera"]
    large = msgspec.structs.replace(
        camera.board, square_m=1.1 * camera.board.square_m, marker_m=1.1 * camera.board.marker_m
    )
    larger = {"camera": msgspec.structs.replace(camera, board=large)}
    changes = {
        "the hand did not turn": _same(taken, quaternion_xyzw=(0.0, 0.0, 0.0, 1.0)),
        "in too few poses": msgspec.structs.replace(taken, shots=taken.shots[:1]),
        "another size than was said": msgspec.structs.replace(taken, cameras=larger),
    }
    for words, changed in changes.items():
        folder = tmp_path / words.replace(" ", "-")
        shutil.copytree(rendered, folder)
        shots.write(folder, changed)
        with pytest.raises(HandEyeError, match=words):
            solve(folder, bootstrap=0)


def test_pictures_that_a_driver_mirrored_are_called_so(rendered: Path, tmp_path: Path) -> None:
    """No marker of a mirrored board is in its dictionary: it would pass for one that is not in sight."""
    folder = tmp_path / "mirrored"
    shutil.copytree(rendered, folder)
    for path in sorted(folder.glob("*.png")):
        cv2.imwrite(str(path), np.ascontiguousarray(shots.read_picture(path)[:, ::-1]))
    with pytest.raises(HandEyeError, match="sees the board mirrored"):
        solve(folder, bootstrap=0)
    options = ["capture", "--again", str(folder), "--output", str(tmp_path / "again")]
    said = CliRunner().invoke(app, options)
    assert said.exit_code == 1 and "12 x camera: mirrored" in said.output, said.output


def _misses(spoils: Spoils, pictures: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Of corners: how far each [K,2] lies from its truth, and in which row it is."""
    scene, finder, random = BoardScene(BOARD, LENS, spoils), Finder(BOARD), np.random.default_rng(2)
    off, rows = [], []
    try:
        for _ in range(pictures):
            seen = view_of(random, SPREADS["wide"])
            found = finder.find(scene.picture(seen, np.random.default_rng(5)))
            assert found is not None
            at = BOARD.points()[found.numbers] @ seen[:3, :3].T + seen[:3, 3]
            true = at[:, :2] / at[:, 2:] * [LENS.fx, LENS.fy] + [LENS.cx, LENS.cy]
            off.append(found.pixels - true)
            rows.append(true[:, 1])
    finally:
        scene.close()
    return np.concatenate(off), np.concatenate(rows)


def test_corners_are_rendered_where_the_truth_has_them_and_spoiled_as_asked_for() -> None:
    """Half a pixel of the lens, or of the supersampling, would show as a shift of all."""
    exact, _ = _misses(Spoils(noise=0.0))
    assert np.abs(exact.mean(axis=0)).max() < 0.05
    assert np.median(np.linalg.norm(exact, axis=1)) < 0.15
    bowed, _ = _misses(Spoils(noise=0.0, bow_m=0.004))
    assert np.median(np.linalg.norm(bowed, axis=1)) > 0.5
    rolled, rows = _misses(Spoils(noise=0.0, shutter_s=0.03, speed_m_s=0.2), 1)
    length = np.linalg.norm(rolled, axis=1)
    far = np.abs(rows - LENS.height / 2) > 100
    assert np.median(length[far]) > 1.0 > np.median(length[np.abs(rows - LENS.height / 2) < 30])
