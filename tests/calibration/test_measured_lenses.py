"""A lens that was measured is the one that a place is found through, whatever a capture came with."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from calibration import measured, rigid, shots
from calibration.app import app
from calibration.depth import DepthError
from calibration.lenses import Lens
from calibration.record import Record, with_camera
from calibration.shots import ShotCamera, ShotsError
from calibration.verify import verify
from contracts.calibration import DepthCheck, Intrinsics
from tests.calibration.rigs import Rig
from tests.calibration.test_boards_and_shots import BOARD, LENS, capture

TWICE = Intrinsics(width=1280, height=960, fx=1200.0, fy=1200.0, cx=640.5, cy=480.5)
"""The drawn pictures' own lens, measured at twice their size."""
WIDE = msgspec.structs.replace(TWICE, height=720, cy=360.5)
CHECKED = DepthCheck(scale=1.0, plane_mm=0.4, distance_m=0.4)
ASSUMED = Lens(width=640, height=480, fx=640.0, fy=640.0, cx=319.5, cy=239.5)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "robot.yaml"
    path.write_text("cameras: {wrist: {kind: sim, width: 640, height: 480}}\n")
    return path


def unmeasured(folder: Path, count: int = 12, seed: int = 5) -> Path:
    """A capture of a camera whose driver tells no focal length."""
    taken = shots.read(capture(folder, count=count, seed=seed))
    doubt = "a focal length of its width is assumed"
    wrist = msgspec.structs.replace(taken.cameras["wrist"], lens=ASSUMED, lens_doubt=doubt)
    shots.write(folder, msgspec.structs.replace(taken, cameras={"wrist": wrist}))
    return folder


def known(config: Path, lens: Intrinsics) -> None:
    Record(config).put(lambda now: with_camera(now, "wrist", lens=lens, lens_px=0.4))


def test_a_lens_that_was_measured_at_another_size_is_made_to_fit_and_stays(
    config: Path, tmp_path: Path
) -> None:
    known(config, TWICE)
    Record(config).put(lambda now: with_camera(now, "wrist", depth=CHECKED))
    folder = unmeasured(tmp_path / "capture")
    options = ["--config", str(config), "--bootstrap", "0"]
    said = CliRunner().invoke(app, ["handeye", str(folder), *options])
    assert said.exit_code == 0, said.output
    now = Record(config).now
    wrist = now.cameras["wrist"]
    assert wrist.lens == msgspec.convert(LENS, Intrinsics, from_attributes=True)
    assert wrist.lens_px == pytest.approx(0.2)  # still one that was measured
    assert wrist.depth == CHECKED and "again" not in said.output
    assert wrist.hand_eye is not None
    pose = np.reshape(wrist.hand_eye.pose, (4, 4))
    assert rigid.distance_mm(pose, Rig(3).carrier_T_camera) < 4.0
    # Looked at through it as well, at any size.
    assert verify(now, folder, drift=True).level != "fail"
    back = with_camera(now, "wrist", lens=TWICE, lens_px=0.4)
    assert verify(back, folder, drift=True) == verify(now, folder, drift=True)
    # A factory's that reads otherwise now is another lens: depths were not checked through it.
    other = msgspec.structs.replace(TWICE, fx=1230.0)
    Record(config).put(lambda now: with_camera(now, "wrist", lens=other, lens_px=None))
    taken = shots.read(folder)
    own = msgspec.structs.replace(taken.cameras["wrist"], lens=LENS, lens_doubt="")
    shots.write(folder, msgspec.structs.replace(taken, cameras={"wrist": own}))
    said = CliRunner().invoke(app, ["handeye", str(folder), *options])
    assert said.exit_code == 0 and "run depth again" in said.output, said.output
    assert Record(config).now.cameras["wrist"].depth is None


def test_one_of_another_aspect_ratio_is_refused_and_both_sizes_are_named(
    config: Path, tmp_path: Path
) -> None:
    known(config, WIDE)
    folder = unmeasured(tmp_path / "capture", count=3)
    said = CliRunner().invoke(app, ["handeye", str(folder), "--config", str(config)])
    assert isinstance(said.exception, ShotsError)
    assert "1280 x 720" in str(said.exception) and "640 x 480" in str(said.exception)
    # But a capture that is to measure it anew begins with what the camera says of itself.
    taken = shots.read(folder)
    assert measured.with_lenses(taken, Record(config).now, anew=True) == taken


def test_a_depth_check_asks_for_its_own_cameras_lens_alone(config: Path, tmp_path: Path) -> None:
    """Whatever was measured of another camera of the capture; and it says what is doubtful of its own."""
    config.write_text("cameras: {wrist: {kind: sim}, front: {kind: sim}}\n")
    Record(config).put(lambda now: with_camera(now, "front", lens=WIDE, lens_px=0.4))
    taken = shots.read(folder := unmeasured(tmp_path / "capture", count=1))
    wrist = taken.cameras["wrist"]
    both = {"wrist": wrist, "front": msgspec.structs.replace(wrist, lens=LENS, lens_doubt="")}
    shots.write(folder, msgspec.structs.replace(taken, cameras=both))
    said = CliRunner().invoke(app, ["depth", str(folder), "--camera", "wrist"])
    assert isinstance(said.exception, DepthError) and wrist.lens_doubt in said.output
    said = CliRunner().invoke(
        app, ["depth", str(folder), "--camera", "wrist", "--config", str(config)]
    )
    assert "nobody measured the lens of camera 'wrist'" in str(said.exception)


@pytest.mark.parametrize("verb", ["handeye", "depth"])
def test_nothing_is_recorded_that_was_found_through_an_assumed_lens(
    config: Path, tmp_path: Path, verb: str
) -> None:
    taken = shots.read(folder := unmeasured(tmp_path / "capture", count=3))
    which = ["--camera", "wrist"] if verb == "depth" else []
    said = CliRunner().invoke(app, [verb, str(folder), *which, "--config", str(config)])
    assert isinstance(said.exception, ShotsError)
    assert "nobody measured the lens of camera 'wrist'" in str(said.exception)
    assert not Record(config).path.exists()
    # A factory's whose distortion only can't be read is doubted, and taken.
    doubted = msgspec.structs.replace(taken.cameras["wrist"], lens=LENS)
    measured.require_lenses({"wrist": doubted})


def test_another_device_of_that_name_keeps_its_own_lens(config: Path) -> None:
    camera = ShotCamera(mount="hand", lens=ASSUMED, board=BOARD, serial="2")
    Record(config).put(lambda now: with_camera(now, "wrist", lens=TWICE, lens_px=0.4, serial="1"))
    now = Record(config).now
    assert measured.with_lens(now, "wrist", camera) == camera
    same = msgspec.structs.replace(camera, serial="1")
    assert measured.with_lens(now, "wrist", same).lens.fx == 600.0
